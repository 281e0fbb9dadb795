"""Matplotlib figures as files, and as SVG inside the page: colors follow light and dark mode, marks have tooltips."""

from __future__ import annotations

import io
import re
from html import escape
from typing import Any

from matplotlib.artist import Artist
from matplotlib.figure import Figure

from studies.views.palette import VARIABLES

FORMATS = ("png", "svg", "pdf")
_METADATA: dict[str, dict[str, Any]] = {
    "png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None, "Producer": None},
}  # fmt: skip


def add_tooltip(artist: Artist, text: str) -> None:
    """Let ``artist`` show ``text`` in the page when it is pointed at."""
    artist.set_gid(f"tip:{text}")


def as_bytes(figure: Figure, kind: str) -> bytes:
    """The figure in one of ``FORMATS``, at its own size."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, metadata=_METADATA[kind], facecolor="white")
    content = buffer.getvalue()
    return re.sub(rb' id="tip:[^"]*"', b"", content) if kind == "svg" else content


def as_inline(figure: Figure, label: str, name: str) -> str:
    """The figure as an ``<svg>`` element.

    Args:
        figure: What to draw.
        label: Its description for screen readers.
        name: Prefix of its ids, unique in the page.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata=_METADATA["svg"], transparent=True)
    text = buffer.getvalue().decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r'<g id="tip:([^"]*)">', lambda m: f'<g class="tip"><title>{m[1]}</title>', text)
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(xlink:)?href="#', f'href="#{name}-', text).replace("url(#", f"url(#{name}-")
    text = re.sub(r"(\bfont: [^;\"]*?px)[^;\"]*", r"\1 var(--font)", text)
    text = re.sub(r"font-family: [^;\"]*", "font-family: var(--font)", text)
    for color, variable in VARIABLES.items():
        text = text.replace(color, f"var({variable})")
    box = re.search(r'viewBox="([^"]*)"', text)
    start = f'<svg role="img" aria-label="{escape(label)}" viewBox="{box[1] if box else ""}" class="chart">'
    return start + re.sub(r"\n\s*", "\n", text[text.index(">") + 1 :]).strip()

"""How every figure looks (column widths, type, axes in percent), and figures as files and as SVG inside the page."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from html import escape
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from studies.figures.palette import GRID, INK, MUTED, VARIABLES

COLUMN, PAGE = 89 / 25.4, 183 / 25.4  # inches: one and two columns of a journal
SMALL = 6.5  # points
FORMATS = ("png", "svg", "pdf")
_METADATA: dict[str, dict[str, Any]] = {
    "png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None, "Producer": None},
}  # fmt: skip


def paper_style() -> AbstractContextManager[None]:
    """Matplotlib settings of all figures; the user's own are back afterwards."""
    return mpl.rc_context(
        {
            "text.color": INK,
            "axes.labelcolor": MUTED,
            "axes.edgecolor": MUTED,
            "grid.color": GRID,
            "xtick.color": MUTED,
            "ytick.color": MUTED,
        },
        fname=Path(__file__).with_name("paper.mplstyle"),
    )


def percent_ticks(axis: Any) -> None:
    """Show fractions on ``axis`` (an x or y axis) as percent."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g} %"))


def place_inches(figure: Any, left: float, bottom: float, width: float, height: float) -> Axes:
    """Axes at a place given in inches: panels of all figures line up, and nothing depends on text widths."""
    size = figure.get_size_inches()
    axes: Axes = figure.add_axes((left / size[0], bottom / size[1], width / size[0], height / size[1]))
    return axes


def subtitle(axes: Axes, text: str, y: float = 1.02) -> None:
    """Small text above ``axes``, to the left: what its vertical axis shows."""
    axes.text(0, y, text, transform=axes.transAxes, fontsize=SMALL, color=MUTED, va="bottom")


def spread(places: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """``places`` moved apart to at least ``gap``, as little as possible, inside ``low`` to ``high`` where they fit."""
    order = np.argsort(places, kind="stable")
    moved = np.array(places, dtype=float)[order]
    for _ in range(200):
        close = np.flatnonzero(np.diff(moved) < gap - 1e-9)
        if not len(close):
            break
        for i in close:
            push = (gap - (moved[i + 1] - moved[i])) / 2
            moved[i] -= push
            moved[i + 1] += push
        moved += max(0.0, low - moved[0]) - max(0.0, moved[-1] - high)
    out = np.empty(len(moved))
    out[order] = moved
    return [float(value) for value in out]


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
    """The figure as an ``<svg>`` element: ``label`` is for screen readers, ``name`` the prefix of its ids."""
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

"""What the report's plots share: axes, margins, reference lines.

Colours that follow the page's light or dark scheme are written as ``@ink``, ``@muted`` and ``@grid``; the page's script
fills them in.
"""

from __future__ import annotations

from typing import Any

Plot = dict[str, Any]


def plot_layout(x_title: str, y_title: str | None, height: int = 380) -> Plot:
    """A transparent plot with quiet axes and the legend below; ``height`` in pixels."""
    axis = {"gridcolor": "@grid", "zeroline": False, "linecolor": "@muted", "ticks": "outside",
            "tickcolor": "@muted", "ticklabeloverflow": "allow", "automargin": True}  # fmt: skip
    return {
        "height": height,
        "margin": {"l": 52, "r": 14, "t": 26, "b": 46},
        "font": {"color": "@ink", "size": 13, "family": "system-ui, sans-serif"},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "hovermode": "closest",
        "hoverlabel": {"align": "left"},
        "xaxis": axis | {"title": {"text": x_title}},
        "yaxis": axis | ({"title": {"text": y_title, "standoff": 12}} if y_title else {}),
        "legend": {"orientation": "h", "y": -0.22, "yanchor": "top", "x": 0.5, "xanchor": "center"},
    }


def vertical_line(x: float, dash: str) -> Plot:
    """A reference line over the whole height."""
    return {"type": "line", "xref": "x", "yref": "paper", "x0": x, "x1": x, "y0": 0, "y1": 1,
            "line": {"color": "@ink", "width": 1.2, "dash": dash}}  # fmt: skip


def note_on_top(x: float, text: str) -> Plot:
    """A short text above the plot, at ``x``."""
    return {"x": x, "y": 1, "yref": "paper", "yanchor": "bottom", "text": text, "showarrow": False,
            "font": {"color": "@ink", "size": 12}}  # fmt: skip

"""How every figure looks: column widths, type, lines, axes in per cent, labels that keep apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from studies.views.palette import GRID, INK, MUTED

COLUMN, PAGE = 89 / 25.4, 183 / 25.4  # inches: one and two columns of a journal
SMALL = 6.5  # points


@contextmanager
def paper_style() -> Iterator[None]:
    """Matplotlib settings of all figures; the user's own are back afterwards."""
    with mpl.rc_context(
        {
            "font.family": "sans-serif",
            "font.sans-serif": ["Arial", "Helvetica", "Liberation Sans", "DejaVu Sans"],
            "font.size": 7,
            "text.color": INK,
            "axes.titlesize": 8,
            "axes.titleweight": "bold",
            "axes.titlelocation": "left",
            "axes.labelcolor": MUTED,
            "axes.labelsize": 7,
            "axes.edgecolor": MUTED,
            "axes.linewidth": 0.6,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.axisbelow": True,
            "grid.color": GRID,
            "grid.linewidth": 0.6,
            "xtick.color": MUTED,
            "ytick.color": MUTED,
            "xtick.major.width": 0.6,
            "ytick.major.width": 0.6,
            "xtick.major.size": 2.5,
            "ytick.major.size": 0,
            "lines.linewidth": 1.4,
            "svg.fonttype": "none",
            "svg.hashsalt": "pmae",
            "pdf.fonttype": 42,
            "savefig.dpi": 300,
        }
    ):
        yield


def percent_ticks(axis: Any, step: float | None = None) -> None:
    """Show fractions on ``axis`` (an x or y axis) as per cent."""
    if step is not None:
        axis.set_major_locator(mpl.ticker.MultipleLocator(step))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g} %"))


def place_inches(figure: Any, left: float, bottom: float, width: float, height: float) -> Axes:
    """Axes at a place given in inches: panels of all figures line up, and nothing depends on text widths."""
    size = figure.get_size_inches()
    axes: Axes = figure.add_axes((left / size[0], bottom / size[1], width / size[0], height / size[1]))
    return axes


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

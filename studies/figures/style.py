"""How every figure looks on paper: type, lines, grid, axes in per cent. Colours come from ``studies.palette``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from studies.palette import INK


@contextmanager
def paper_style() -> Iterator[None]:
    """Matplotlib settings of all figures; the user's own are back afterwards."""
    with mpl.rc_context(
        {
            "font.family": "sans-serif",
            "font.size": 10,
            "axes.titlesize": 10.5,
            "axes.titleweight": "bold",
            "axes.titlelocation": "left",
            "axes.labelcolor": INK,
            "axes.edgecolor": "#555555",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.axisbelow": True,
            "grid.color": "#e4e4e4",
            "grid.linewidth": 0.7,
            "xtick.color": "#444444",
            "ytick.color": "#444444",
            "legend.frameon": False,
            "legend.fontsize": 9,
            "figure.constrained_layout.use": True,
            "figure.dpi": 100,
            "savefig.dpi": 200,
            "savefig.facecolor": "white",
        }
    ):
        yield


def percent_axis(axis: Any, decimals: int | None = None) -> None:
    """Show fractions on ``axis`` (an x or y axis) as per cent."""
    axis.set_major_formatter(PercentFormatter(1.0, decimals=decimals, symbol=" %"))


def note(axes: Axes, text: str) -> None:
    """A quiet line under the axes' title, for what the reader must know about the panel."""
    axes.text(1.0, 1.015, text, transform=axes.transAxes, ha="right", va="bottom", fontsize=8.5, color="#666666")

"""Training curves: the loss over the epochs, a panel per method, coloured by the masking ratio."""

from __future__ import annotations

from matplotlib import cm, colormaps, colors
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from studies.curves import METHOD_NAMES
from studies.figures.style import percent_axis
from studies.histories import LossCurve


def training_figure(curves: list[LossCurve]) -> Figure:
    """Training loss (log) over the epoch; thin lines are means over the seeds of one ratio and setting.

    The two methods' losses have different targets, so each has its own axis.
    """
    methods = list(dict.fromkeys(c.method for c in curves))
    figure = Figure(figsize=(4.4 * len(methods) + 0.4, 3.4))
    grid = figure.subplots(1, len(methods), squeeze=False)
    palette = colormaps["viridis"]
    scale = colors.Normalize(0, 1)
    for axes, method in zip(grid[0], methods, strict=True):
        for curve in (c for c in curves if c.method == method):
            axes.plot(curve.epochs, curve.losses, color=palette(scale(curve.ratio)), lw=1.3, alpha=0.85)
        axes.set_title(METHOD_NAMES.get(method, method))
        axes.set_xlabel("epoch")
        _plain_log_scale(axes)
        axes.set_ylabel("training loss (mean squared error)")
    bar = figure.colorbar(cm.ScalarMappable(scale, palette), ax=list(grid[0]), pad=0.02)
    bar.set_label("masked share")
    bar.outline.set_visible(False)  # type: ignore[operator]
    percent_axis(bar.ax.yaxis, 0)
    return figure


def _plain_log_scale(axes: Axes) -> None:
    """A logarithmic y axis with readable numbers, however little of a decade it spans."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_locator(NullLocator())

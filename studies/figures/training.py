"""Training curves: the loss over the epochs, a panel per method, every curve labeled at its end."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from studies.figures.style import COLUMN, PAGE, SMALL, place_inches, spread
from studies.figures.svg import add_tooltip
from studies.formatting import count, percent
from studies.statistics.ratio_curves import METHOD_NAMES
from studies.views.loss_curves import LossCurve
from studies.views.palette import BLUE, METHOD_COLORS, MUTED

LEFT, RIGHT, TOP, BOTTOM, HEIGHT = 0.42, 0.42, 0.4, 0.38, 1.75  # inches
LIMIT = 2.5  # losses above it are cut off: predicting the mean costs 1


def training_figure(curves: Sequence[LossCurve]) -> Figure:
    """Share of the masked variance that is left unexplained over the epoch; 1 is predicting the mean.

    Lines are means over the seeds of one ratio. The methods have different targets, so each has its own panel.
    """
    groups = list(dict.fromkeys((c.method, c.label) for c in curves))
    columns = min(len(groups), 2)
    rows = -(-len(groups) // 2)
    height = TOP + HEIGHT + BOTTOM
    figure = Figure(figsize=(PAGE if columns == 2 else COLUMN, rows * height))
    width = figure.get_size_inches()[0] / columns
    for place, (method, label) in enumerate(groups):
        x, y = (place % 2) * width, (rows - 1 - place // 2) * height
        axes = place_inches(figure, x + LEFT, y + BOTTOM, width - LEFT - RIGHT, HEIGHT)
        own = [c for c in curves if (c.method, c.label) == (method, label)]
        _draw(axes, own, METHOD_COLORS.get(method, BLUE))
        axes.set_title(label or METHOD_NAMES.get(method, method), pad=13)
    return figure


def _draw(axes: Axes, curves: Sequence[LossCurve], color: str) -> None:
    curves = sorted(curves, key=lambda curve: curve.ratio)
    last = max(curve.epochs[-1] for curve in curves)
    first = min(curve.epochs[0] for curve in curves)
    ceiling = min(max(1.08, *(max(c.losses[len(c.losses) // 10 :]) for c in curves)), LIMIT) * 1.04
    axes.set_xlim(first, max(last, first + 1))
    axes.set_ylim(0, ceiling)
    axes.grid(axis="x", visible=False)
    axes.axhline(1, color=MUTED, lw=0.9, ls=(0, (4, 2)))
    axes.text(0.99, 1, "predicting the mean", transform=axes.get_yaxis_transform(), ha="right", va="bottom",
              fontsize=SMALL, color=MUTED)  # fmt: skip
    labels = spread([min(c.losses[-1], ceiling) for c in curves], ceiling * 0.062, 0, ceiling)
    for rank, (curve, place) in enumerate(zip(curves, labels, strict=True)):
        strength = 0.4 + 0.6 * rank / max(len(curves) - 1, 1)
        (line,) = axes.plot(curve.epochs, np.minimum(curve.losses, 10 * LIMIT), color=color, alpha=strength, lw=1.2)
        text = f"{percent(curve.ratio)} masked, {count(curve.trials, 'trial')}: final loss {curve.losses[-1]:.3f}"
        add_tooltip(line, text)
        axes.annotate(percent(curve.ratio), (1, place), xycoords=("axes fraction", "data"), xytext=(3, 0),
                      textcoords="offset points", va="center", fontsize=SMALL, color=color)  # fmt: skip
    axes.set_xlabel("epoch")
    axes.text(0, 1.02, "masked variance left unexplained", transform=axes.transAxes, fontsize=SMALL, color=MUTED,
              va="bottom")  # fmt: skip

"""Forest plots: every rung's difference to the default with its bounds, and the regret over data sets."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from studies.figures.palette import GREEN, INK, MUTED, PAPER, VERDICT_COLORS, VERMILLION
from studies.figures.style import COLUMN, SMALL, add_tooltip, place_inches
from studies.formatting import in_points, interval, is_number, percent, points, share_of
from studies.views.wording import confidence, row_label

LEFT, RIGHT, TOP, BOTTOM, LINE, GAP = 0.46, 1.12, 0.56, 0.5, 0.19, 0.14  # inches
MARKERS = {"holds": "o", "fails": "X"}
Numbers = tuple[float | None, float | None, float | None]  # lower bound, upper bound, value


def can_draw(row: Mapping[str, Any]) -> bool:
    """Whether the row has differences to draw."""
    return any(is_number(rung["difference"]) for rung in row["rungs"])


def forest_figure(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Per row of a verdict a block: rung minus default in points, from the lower to the upper one-sided bound."""
    rows = [row for row in rows if can_draw(row)]
    heights = [TOP + LINE * len(row["rungs"]) + BOTTOM for row in rows]
    figure = Figure(figsize=(COLUMN, sum(heights) + GAP * (len(rows) - 1)))
    top = figure.get_size_inches()[1]
    for row, height in zip(rows, heights, strict=True):
        axes = place_inches(figure, LEFT, top - height + BOTTOM, COLUMN - LEFT - RIGHT, height - TOP - BOTTOM)
        _draw_block(axes, row, row_label(row, rows))
        top -= height + GAP
    return figure


def _draw_block(axes: Axes, row: Mapping[str, Any], title: str) -> None:
    rungs = row["rungs"]
    found = [(rung["low"], rung["high"], rung["difference"]) for rung in rungs]
    _frame(axes, [percent(rung["ratio"]) for rung in rungs], found, row["margin"])
    for index, (rung, numbers) in enumerate(zip(rungs, found, strict=True)):
        if rung["is_default"]:
            axes.plot([0], [index], "|", color=INK, ms=7, mew=1.2)
            _number(axes, index, "default")
        elif not is_number(rung["difference"]):
            _number(axes, index, "not compared")
        else:
            text = f"{in_points(rung['difference'], True)}  ({interval(rung['low'], rung['high'], True)})"
            tooltip = f"{percent(rung['ratio'])} minus default: {text} points"
            _mark(axes, index, numbers, "o", _color(rung, row["margin"]), tooltip)
            _number(axes, index, text)
    _head(axes, title, f"masked share {share_of(row['method'])}".rstrip(), f"({confidence(row)} bounds)")
    axes.set_xlabel("difference to the default (points)", labelpad=11)
    for x, text, side in ((0, "← default better", "left"), (1, "default worse →", "right")):
        axes.annotate(text, (x, 0), xycoords="axes fraction", xytext=(0, -13.5), textcoords="offset points", ha=side,
                      va="top", fontsize=SMALL, color=MUTED)  # fmt: skip


def regret_figure(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """The regret of every row's default with its bounds, a line per row."""
    rows = [row for row in rows if is_number(row["regret"])]
    labels = [row_label(row, rows) for row in rows]
    left = 0.2 + 0.056 * max(map(len, labels))
    height = TOP + LINE * len(rows) + BOTTOM
    width = left + RIGHT + 2.2
    figure = Figure(figsize=(width, height))
    axes = place_inches(figure, left, BOTTOM, width - left - RIGHT, height - TOP - BOTTOM)
    margins = {row["margin"] for row in rows if is_number(row["margin"])}
    found = [(row["ci_low"], row["ci_high"], row["regret"]) for row in rows]
    _frame(axes, labels, found, margins.pop() if len(margins) == 1 else None)
    for index, (row, numbers) in enumerate(zip(rows, found, strict=True)):
        word = row["verdict"]
        tooltip = f"{labels[index]}: regret {points(row['regret'])}, {word}"
        _mark(axes, index, numbers, MARKERS.get(word, "D"), VERDICT_COLORS.get(word, MUTED), tooltip)
        _number(axes, index, f"{in_points(row['regret'])}  ({interval(row['ci_low'], row['ci_high'])})  {word}")
    _head(axes, "Regret of the default", "", "points, bounds, verdict")
    axes.set_xlabel("regret: best rung minus default (points of accuracy)")
    return figure


def _frame(axes: Axes, labels: Sequence[str], found: Sequence[Numbers], margin: float | None) -> None:
    """A line per label, room for all of ``found``, and up to the margin where the default is good enough."""
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.45, -0.55)
    axes.grid(visible=False)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", labelcolor=INK)
    axes.axvline(0, color=MUTED, lw=0.7, zorder=1)
    ends = [0.0, *(100 * value for numbers in found for value in numbers if value is not None and is_number(value))]
    low, high = min(ends), max(*ends, 100 * (margin or 0))
    edge = 0.06 * max(high - low, 0.5)
    axes.set_xlim(low - edge, high + edge)
    axes.locator_params(axis="x", nbins=5)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value + 0.0:g}")
    if not is_number(margin) or margin is None:
        return
    axes.axvspan(axes.get_xlim()[0], 100 * margin, color=GREEN, alpha=0.11, lw=0, zorder=0)
    axes.axvline(100 * margin, color=GREEN, lw=0.9, ls=(0, (3, 2)), zorder=1)
    axes.annotate(f"margin {points(margin)}", (100 * margin, 1), xycoords=("data", "axes fraction"), xytext=(1, 2),
                  textcoords="offset points", ha="right", va="bottom", fontsize=SMALL, color=GREEN)  # fmt: skip


def _mark(axes: Axes, index: int, numbers: Numbers, marker: str, color: str, tooltip: str) -> None:
    """A line from the lower to the upper bound, if there are any, and a marker at the value."""
    *bounds, value = (math.nan if number is None else 100 * number for number in numbers)
    if np.isfinite(bounds).all():
        axes.plot(bounds, [index] * 2, color=color, lw=1.8)
    (dot,) = axes.plot([value], [index], marker, color=color, ms=4.5, mec=PAPER, mew=0.7)
    add_tooltip(dot, tooltip)


def _color(rung: Mapping[str, Any], margin: float | None) -> str:
    if margin is None:
        return MUTED
    if is_number(rung["high"]) and rung["high"] < margin:
        return GREEN
    return VERMILLION if is_number(rung["low"]) and rung["low"] > margin else MUTED


def _number(axes: Axes, index: int, text: str) -> None:
    axes.text(1.03, index, text, transform=axes.get_yaxis_transform(), va="center", fontsize=SMALL)


def _head(axes: Axes, title: str, left: str, right: str) -> None:
    figure = axes.get_figure(root=True)
    assert figure is not None
    start = (0.04 - axes.get_position().x0 * figure.get_size_inches()[0]) * 72
    for y, text, weight in ((0.4, title, "bold"), (0.24, left, "normal")):
        axes.annotate(text, (0, 1), xycoords="axes fraction", xytext=(start, y * 72 - 2), textcoords="offset points",
                      fontsize=8 if weight == "bold" else SMALL, fontweight=weight,
                      color=INK if weight == "bold" else MUTED)  # fmt: skip
    axes.annotate(right, (1.03, 1), xycoords="axes fraction", xytext=(0, 2), textcoords="offset points",
                  fontsize=SMALL, color=MUTED)  # fmt: skip

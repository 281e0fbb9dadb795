"""Forest plots: every rung's difference to the default with its bounds, and the regret over data sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from studies.figures.palette import GREEN, INK, MUTED, PAPER, VERDICT_COLORS, VERMILLION
from studies.figures.style import COLUMN, SMALL, add_tooltip, place_inches
from studies.formatting import in_points, interval, is_number, percent, points, share_of
from studies.views.wording import confidence, row_label, verdict_word

LEFT, RIGHT, TOP, BOTTOM, LINE, GAP = 0.46, 1.12, 0.56, 0.5, 0.19, 0.14  # inches
MARKERS = {"holds": "o", "fails": "X"}


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
    _frame(axes, [percent(rung["ratio"]) for rung in rungs])
    drawn = [rung for rung in rungs if is_number(rung["difference"])]
    ends = [100 * v for rung in drawn for v in (rung["low"], rung["high"], rung["difference"]) if is_number(v)]
    _limits(axes, ends, row["margin"])
    _shade_margin(axes, row["margin"])
    for place, rung in enumerate(rungs):
        if rung["is_default"] or not is_number(rung["difference"]):
            text = "default" if rung["is_default"] else "not compared"
            axes.plot([0], [place], "|", color=INK, ms=7, mew=1.2) if rung["is_default"] else None
            _number(axes, place, text)
            continue
        color = _color(rung, row["margin"])
        numbers = f"{in_points(rung['difference'], True)}  ({interval(rung['low'], rung['high'], True)})"
        if is_number(rung["low"]) and is_number(rung["high"]):
            axes.plot([100 * rung["low"], 100 * rung["high"]], [place] * 2, color=color, lw=1.8)
        (dot,) = axes.plot([100 * rung["difference"]], [place], "o", color=color, ms=4.5, mec=PAPER, mew=0.7)
        add_tooltip(dot, f"{percent(rung['ratio'])} minus default: {numbers} points")
        _number(axes, place, numbers)
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
    _frame(axes, labels)
    margins = {row["margin"] for row in rows if is_number(row["margin"])}
    ends = [100 * v for row in rows for v in (row["ci_low"], row["ci_high"], row["regret"]) if is_number(v)]
    shared = margins.pop() if len(margins) == 1 else None
    _limits(axes, ends, shared)
    _shade_margin(axes, shared)
    for place, row in enumerate(rows):
        word = verdict_word(row)
        color = VERDICT_COLORS.get(word, MUTED)
        if is_number(row["ci_low"]) and is_number(row["ci_high"]):
            axes.plot([100 * row["ci_low"], 100 * row["ci_high"]], [place] * 2, color=color, lw=1.8)
        (dot,) = axes.plot(
            [100 * row["regret"]], [place], MARKERS.get(word, "D"), color=color, ms=4.5, mec=PAPER, mew=0.7
        )
        add_tooltip(dot, f"{labels[place]}: regret {points(row['regret'])}, {word}")
        _number(axes, place, f"{in_points(row['regret'])}  ({interval(row['ci_low'], row['ci_high'])})  {word}")
    _head(axes, "Regret of the default", "", "points, bounds, verdict")
    axes.set_xlabel("regret: best rung minus default (points of accuracy)")
    return figure


def _frame(axes: Axes, labels: Sequence[str]) -> None:
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.45, -0.55)
    axes.grid(visible=False)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", labelcolor=INK)
    axes.axvline(0, color=MUTED, lw=0.7, zorder=1)


def _limits(axes: Axes, ends: Sequence[float], margin: float | None) -> None:
    low, high = min([*ends, 0.0]), max([*ends, 0.0, 100 * (margin or 0)])
    edge = 0.06 * max(high - low, 0.5)
    axes.set_xlim(low - edge, high + edge)
    axes.locator_params(axis="x", nbins=5)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value + 0.0:g}")


def _shade_margin(axes: Axes, margin: float | None) -> None:
    """Where the default is good enough: up to the margin."""
    if not is_number(margin) or margin is None:
        return
    axes.axvspan(axes.get_xlim()[0], 100 * margin, color=GREEN, alpha=0.11, lw=0, zorder=0)
    axes.axvline(100 * margin, color=GREEN, lw=0.9, ls=(0, (3, 2)), zorder=1)
    axes.annotate(f"margin {points(margin)}", (100 * margin, 1), xycoords=("data", "axes fraction"), xytext=(1, 2),
                  textcoords="offset points", ha="right", va="bottom", fontsize=SMALL, color=GREEN)  # fmt: skip


def _color(rung: Mapping[str, Any], margin: float | None) -> str:
    if margin is None:
        return MUTED
    if is_number(rung["high"]) and rung["high"] < margin:
        return GREEN
    return VERMILLION if is_number(rung["low"]) and rung["low"] > margin else MUTED


def _number(axes: Axes, place: int, text: str) -> None:
    axes.text(1.03, place, text, transform=axes.get_yaxis_transform(), va="center", fontsize=SMALL)


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

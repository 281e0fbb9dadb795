"""The figure that carries the answer: test accuracy over the achieved ratio, a panel per data set and method."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from studies.figures.palette import BLUE, GREEN, INK, METHOD_COLORS, MUTED, PAPER
from studies.figures.style import COLUMN, PAGE, SMALL, add_tooltip, percent_ticks, place_inches, spread, subtitle
from studies.formatting import accuracy, count, method_name, percent, points, share_of
from studies.literature.published import published_curve
from studies.statistics.ratio_curves import Panel, RungPoint

LEFT, RIGHT, TOP, MAIN, BELOW, STRIP, BOTTOM = 0.46, 0.18, 0.38, 2.0, 0.62, 0.42, 0.1  # inches
MAX_DOTS = 400
FAR = 0.6  # a reference further from the data than this share of their range is a mark at the edge


def answer_figure(panels: Sequence[Panel]) -> Figure:
    """Panels two in a row at the width of a page, one alone at that of a column; one data set has one accuracy axis.

    Dots are single seeds, hairlines join a seed over the ratios, large marks are means with their 95 % intervals. The
    shaded band is what is within the margin of the best mean. Explored trials, scored on validation, have a strip of
    their own below.
    """
    alone, rows, height = len(panels) == 1, -(-len(panels) // 2), _height(panels)
    width = COLUMN if alone else PAGE / 2
    figure = Figure(figsize=(width if alone else PAGE, rows * height))
    for index, panel in enumerate(panels):
        limits = _limits([p for p in panels if p.curve.setting.dataset == panel.curve.setting.dataset])
        corner = (index % 2) * width, (rows - 1 - index // 2) * height
        _draw(figure, panel, corner, width, limits, _have_strips(panels))
    return figure


def answer_description(panel: Panel) -> str:
    """The panel in a sentence, for readers who cannot see it."""
    rungs = panel.curve.confirmed
    if not rungs:
        return f"{panel.title}: validation accuracy of explored ratios; nothing was confirmed"
    best = max(rungs, key=lambda rung: rung.mean)
    return (
        f"{panel.title}: test accuracy at {count(len(rungs), 'ratio')}; the highest mean is {accuracy(best.mean)} at "
        f"{percent(best.ratio)} masked. The table below holds the numbers"
    )


def _have_strips(panels: Sequence[Panel]) -> bool:
    return any(panel.curve.explored and panel.curve.confirmed for panel in panels)


def _height(panels: Sequence[Panel]) -> float:
    return TOP + MAIN + BELOW + (STRIP + BOTTOM if _have_strips(panels) else 0.0)


def _limits(panels: Sequence[Panel]) -> tuple[float, float]:
    """Limits of the accuracy axis: seeds and intervals, and references and published points that are near."""
    values: list[float] = []
    for panel in panels:
        for rung in panel.curve.confirmed:
            values += [*rung.scores.values(), *(rung.interval if rung.seeds > 2 and rung.interval else ())]
        if not panel.curve.confirmed:
            values += [score for _, score in panel.curve.explored]
    low, high = min(values), max(values)
    reach = FAR * max(high - low, 0.01)
    near = [v for panel in panels for v in panel.references.values() if low - reach <= v <= high + reach]
    low, high = min([low, *near]), max([high, *near])
    edge = max(0.08 * (high - low), 0.004)
    return max(low - 1.6 * edge, 0.0), min(high + 1.3 * edge, 1.02)


def _draw(
    figure: Figure, panel: Panel, corner: tuple[float, float], width: float, limits: tuple[float, float], strips: bool
) -> None:
    (x, y), inner = corner, width - LEFT - RIGHT
    axes = place_inches(figure, x + LEFT, y + BELOW + (STRIP + BOTTOM if strips else 0.0), inner, MAIN)
    setting, rungs = panel.curve.setting, panel.curve.confirmed
    color = METHOD_COLORS.get(setting.method, BLUE)
    axes.set_xlim(0, 1)
    axes.set_ylim(*limits)
    axes.grid(axis="x", visible=False)
    axes.set_xticks([0, 0.2, 0.4, 0.6, 0.8, 1])
    percent_ticks(axes.xaxis)
    percent_ticks(axes.yaxis)
    axes.set_title(panel.title, pad=13)
    kind = "accuracy of confirmed trials" if rungs else "validation accuracy (nothing is confirmed yet)"
    subtitle(axes, f"linear-probe {kind}")
    axes.set_xlabel(f"achieved masked share {share_of(setting.method)}".rstrip(), labelpad=9)
    _draw_published(axes, panel, limits)
    if rungs:
        _draw_margin(axes, panel)
        _draw_seeds(axes, rungs, color)
        _draw_means(axes, rungs, color)
        if panel.curve.explored:
            _draw_strip(place_inches(figure, x + LEFT, y + BOTTOM, inner, STRIP), panel, color)
    else:
        _scatter(axes, panel.curve.explored, color)
    _draw_references(axes, panel, limits)
    _mark_default(axes, panel)


def _draw_margin(axes: Axes, panel: Panel) -> None:
    if not panel.margin:
        return
    best = max(rung.mean for rung in panel.curve.confirmed)
    axes.axhspan(best - panel.margin, best, color=GREEN, alpha=0.13, lw=0, zorder=0)
    low, high = axes.get_ylim()
    near = [rung.ratio for rung in panel.curve.confirmed if abs(rung.mean - best) < 0.15 * (high - low)]
    right = 1 - max(near) > min(near)  # where the band is free
    room = 1 - max(near) if right else min(near)
    text = f"within {points(panel.margin)} of the best mean" if room > 0.53 else f"margin {points(panel.margin)}"
    axes.annotate(
        text, (0.995 if right else 0.01, best - panel.margin / 2),
        xycoords=("axes fraction", "data"), ha="right" if right else "left", va="center", fontsize=SMALL, color=GREEN,
    )  # fmt: skip


def _draw_seeds(axes: Axes, rungs: Sequence[RungPoint], color: str) -> None:
    seeds = sorted({seed for rung in rungs for seed in rung.scores})
    for seed in seeds[:: -(-len(seeds) * len(rungs) // MAX_DOTS)]:
        xy = [(rung.ratio, rung.scores[seed]) for rung in rungs if seed in rung.scores]
        (line,) = axes.plot(*zip(*xy, strict=True), color=color, lw=0.4, alpha=0.45, zorder=2)
        add_tooltip(line, f"seed {seed}")
        for ratio, score in xy:
            (dot,) = axes.plot([ratio], [score], "o", color=color, ms=2.2, mew=0, alpha=0.5, zorder=2)
            add_tooltip(dot, f"seed {seed}: {accuracy(score)} at {percent(ratio)} masked")


def _draw_means(axes: Axes, rungs: Sequence[RungPoint], color: str) -> None:
    axes.plot([r.ratio for r in rungs], [r.mean for r in rungs], color=color, lw=1.5, zorder=3)
    for rung in rungs:
        text = f"mean {accuracy(rung.mean)} at {percent(rung.ratio)} masked, {count(rung.seeds, 'seed')}"
        if rung.interval is not None:
            axes.plot([rung.ratio] * 2, rung.interval, color=color, lw=1.1, zorder=3)
            text += f"; 95 % interval {accuracy(rung.interval[0])} to {accuracy(rung.interval[1])}"
        (dot,) = axes.plot([rung.ratio], [rung.mean], "o", color=color, ms=5, mec=PAPER, mew=0.8, zorder=4)
        add_tooltip(dot, text)


def _draw_references(axes: Axes, panel: Panel, limits: tuple[float, float]) -> None:
    low, high = limits
    inside = {name: v for name, v in panel.references.items() if low < v < high}
    gap = (high - low) * 0.06
    labels = spread([v + 0.4 * gap for v in inside.values()], gap, low + gap / 2, high - gap / 2) if inside else []
    for (name, value), place in zip(inside.items(), labels, strict=True):
        axes.axhline(value, color=MUTED, lw=0.8, ls=(0, (4, 2)), zorder=1)
        text = f"{method_name(name)} {accuracy(value)}"
        near = {rung.ratio > 0.5 for rung in panel.curve.confirmed if abs(rung.mean - place) < 1.5 * gap}
        x, side = (0.01, "left") if near == {True} else (0.995, "right")  # where the curve is not
        axes.text(x, place, text, transform=axes.get_yaxis_transform(), ha=side, va="center",
                  fontsize=SMALL, color=MUTED)  # fmt: skip
    outside = [(name, v) for name, v in panel.references.items() if name not in inside]
    for side, marker, at, nudge in (("below", "v", 0.035, 1), ("above", "^", 0.965, -1)):
        here = [(name, v) for name, v in outside if (v <= low) == (side == "below")]
        for index, (name, value) in enumerate(here):
            y = at + nudge * 0.06 * index
            axes.plot([0.985], [y], marker, transform=axes.transAxes, color=MUTED, ms=3.2, mew=0)
            text = f"{method_name(name)} {accuracy(value)} ({side})"
            axes.text(0.965, y, text, transform=axes.transAxes, ha="right", va="center", fontsize=SMALL, color=MUTED)


def _draw_published(axes: Axes, panel: Panel, limits: tuple[float, float]) -> None:
    setting = panel.curve.setting
    published = published_curve(setting.dataset, setting.method)
    if not published or not all(limits[0] < p.accuracy < limits[1] for p in published):
        return
    axes.plot([p.ratio for p in published], [p.accuracy for p in published], color=MUTED, lw=0.9, ls=(0, (1, 1.5)))
    end = published[-1]
    axes.annotate(f"paper, patch {end.patch_size}", (end.ratio, end.accuracy), xytext=(4, 0),
                  textcoords="offset points", va="center", fontsize=SMALL, color=MUTED)  # fmt: skip


def _mark_default(axes: Axes, panel: Panel) -> None:
    if panel.default is None:
        return
    axes.plot([panel.default], [0], "^", transform=axes.get_xaxis_transform(), color=INK, ms=5, mew=0, clip_on=False,
              zorder=6)  # fmt: skip
    axes.annotate(
        f"default {percent(panel.default)}", (panel.default, 0), xycoords=("data", "axes fraction"),
        xytext=(0, -12.5), textcoords="offset points", ha="center", va="top", fontsize=SMALL, fontweight="bold",
    )  # fmt: skip


def _draw_strip(axes: Axes, panel: Panel, color: str) -> None:
    """Explored trials: validation accuracy, which is never on one axis with test accuracy."""
    axes.set_xlim(0, 1)
    axes.set_xticks([0, 0.2, 0.4, 0.6, 0.8, 1], labels=[])
    axes.grid(axis="x", visible=False)
    _scatter(axes, panel.other_patches, MUTED)
    _scatter(axes, panel.curve.explored, color)
    values = [score for _, score in (*panel.curve.explored, *panel.other_patches)]
    low, high = min(values), max(values)
    edge = 0.15 * max(high - low, 0.01)
    axes.set_ylim(low - edge, high + edge)
    axes.set_yticks([low, high] if high - low > 0.01 else [high])
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    other = ", gray: other patch sizes" if panel.other_patches else ""
    subtitle(axes, f"search, validation accuracy (a dot per trial{other})", 1.04)


def _scatter(axes: Axes, found: Sequence[tuple[float, float]], color: str) -> None:
    if found:
        kept = np.array(found)[:: -(-len(found) // MAX_DOTS)]
        axes.plot(kept[:, 0], kept[:, 1], "o", color=color, ms=2.6, mew=0, alpha=0.55, clip_on=False)

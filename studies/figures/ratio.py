"""The figure that the study is about: accuracy over the masking ratio, a panel per data set and method."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from studies.curves import DEFAULT_RATIOS, METHOD_NAMES, RATIO_MEANING, RatioCurve, Setting
from studies.figures.style import note, percent_axis
from studies.palette import GREY, INK, SeriesStyle, series_styles
from studies.published import published_curve
from studies.ratio_fit import RatioFit


def ratio_figure(
    curves: list[RatioCurve], defaults: dict[str, float] | None = None, fits: dict[Setting, RatioFit] | None = None
) -> Figure:
    """Accuracy (per cent) over the masked share (per cent).

    Lines with bars are mean test accuracies of the confirmed ratios with their 95 % intervals over seeds, pale dots
    single explored trials on the validation split, the grey dashed line the papers' curve where there is one.

    Args:
        curves: What ``ratio_curves`` gave; at least one.
        defaults: The ratio to mark per method; the papers' where left out.
        fits: Smooth curves with bands, through all trials' validation accuracies.
    """
    defaults = DEFAULT_RATIOS | (defaults or {})
    datasets = list(dict.fromkeys(c.setting.dataset for c in curves))
    methods = list(dict.fromkeys(c.setting.method for c in curves))
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1)  # tick labels of neighbours would meet
    figure = Figure(figsize=(4.4 * len(methods) + 0.4, 3.7 * len(datasets)), layout=layout)
    grid = figure.subplots(len(datasets), len(methods), sharey="row", squeeze=False)
    styles = series_styles(c.setting for c in curves)
    for row, dataset in enumerate(datasets):
        for column, method in enumerate(methods):
            axes = grid[row, column]
            here = [c for c in curves if (c.setting.dataset, c.setting.method) == (dataset, method)]
            _draw_published(axes, dataset, method)
            for curve in here:
                _draw_curve(axes, curve, styles[curve.setting], (fits or {}).get(curve.setting))
            _mark_default(axes, defaults.get(method))
            _name_axes(axes, dataset, method, first=column == 0)
        for axes in grid[row]:
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=3, columnspacing=1.2, handletextpad=0.5)
    return figure


def _draw_curve(axes: Axes, curve: RatioCurve, style: SeriesStyle, fit: RatioFit | None) -> None:
    name = curve.label.partition(", ")[2] or curve.label  # the panel names the method
    if curve.explored:
        ratios, values = zip(*curve.explored, strict=True)
        label = None if curve.confirmed else f"{name}, explored"
        axes.scatter(ratios, values, s=16, marker=style.marker, color=style.colour, alpha=0.3, lw=0, label=label)
    if fit is not None:
        axes.fill_between(fit.grid, fit.low, fit.high, color=style.colour, alpha=0.1, lw=0, zorder=0)
        axes.plot(fit.grid, fit.mean, color=style.colour, lw=1, alpha=0.55, zorder=1)
    if curve.confirmed:
        points = curve.confirmed
        middle = [p.mean for p in points]
        ends = [p.interval or (p.mean, p.mean) for p in points]
        arms = [[p.mean - low for p, (low, _) in zip(points, ends, strict=True)]]
        arms.append([high - p.mean for p, (_, high) in zip(points, ends, strict=True)])
        axes.errorbar(
            [p.ratio for p in points], middle, yerr=arms, color=style.colour, marker=style.marker, ms=6,
            mec="white", mew=0.8, lw=1.8, elinewidth=1.4, capsize=3, label=name, zorder=3,
        )  # fmt: skip


def _draw_published(axes: Axes, dataset: str, method: str) -> None:
    points = published_curve(dataset, method)
    if points:
        axes.plot(
            [p.ratio for p in points], [p.accuracy for p in points], ls=(0, (4, 3)), lw=1.3, color=GREY, alpha=0.7,
            label=f"published, patch {points[0].patch_size}", zorder=1,
        )  # fmt: skip


def _mark_default(axes: Axes, ratio: float | None) -> None:
    if ratio is None:
        return
    axes.axvline(ratio, color=INK, lw=1, ls=(0, (1, 2)), zorder=2)
    axes.annotate(
        f"{100 * ratio:g} %", (ratio, 1), xycoords=("data", "axes fraction"), xytext=(4, -2),
        textcoords="offset points", ha="left", va="top", fontsize=9, color=INK,
    )  # fmt: skip


def _name_axes(axes: Axes, dataset: str, method: str, *, first: bool) -> None:
    axes.set_title(METHOD_NAMES.get(method, method))
    note(axes, dataset)
    axes.set_xlabel(RATIO_MEANING.get(method, "masked share"))
    if first:
        axes.set_ylabel("linear-probe accuracy")
    axes.set_xlim(0, 1)
    axes.set_xticks([0, 0.2, 0.4, 0.6, 0.8, 1])
    percent_axis(axes.xaxis, 0)
    percent_axis(axes.yaxis)

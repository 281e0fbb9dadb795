"""Several studies in one picture: what each ratio gains or loses against the default, a line per data set."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from studies.figures.style import PAGE, SMALL, paper_style, percent_ticks, place_inches, spread
from studies.statistics.ratio_curves import METHOD_NAMES, SHARE_OF
from studies.statistics.rows import VerdictRow
from studies.views.palette import GREEN, INK, MUTED, PAPER
from studies.views.wording import row_label

COLORS = ("#0072b2", "#d55e00", "#007a5a", "#b07800", "#8a4f9e", "#5d6570")  # Okabe & Ito (2008), darkened
LEFT, GAP, RIGHT, TOP, BOTTOM, HEIGHT = 0.42, 0.5, 1.05, 0.34, 0.44, 2.1  # inches


def overview_figure(rows: Sequence[VerdictRow]) -> Figure:
    """Differences to the default in points over the achieved ratio, a panel per method.

    Args:
        rows: Rows of verdicts with differences; those of uninformative studies are drawn dashed.
    """
    methods = [method for method in METHOD_NAMES if any(row["method"] == method for row in rows)]
    labels = list(dict.fromkeys(_label(row, rows) for row in rows))
    with paper_style():
        width = (PAGE - LEFT - RIGHT - GAP * (len(methods) - 1)) / len(methods)
        figure = Figure(figsize=(PAGE, TOP + HEIGHT + BOTTOM))
        values = [100 * (rung["difference"] or 0.0) for row in rows for rung in row["rungs"]]
        low, high = min(values), max(values)
        edge = 0.08 * max(high - low, 1.0)
        for place, method in enumerate(methods):
            axes = place_inches(figure, LEFT + place * (width + GAP), BOTTOM, width, HEIGHT)
            axes.set_ylim(low - edge, high + edge)
            shown = [row for row in rows if row["method"] == method]
            _draw_method(axes, shown, [labels.index(_label(row, rows)) for row in shown])
            if place == len(methods) - 1:
                _draw_legend(axes, labels)
    return figure


def _draw_method(axes: Axes, rows: Sequence[VerdictRow], places: Sequence[int]) -> None:
    method = rows[0]["method"]
    axes.set_title(METHOD_NAMES[method], pad=13)
    axes.text(0, 1.02, "accuracy minus that of the default, points", transform=axes.transAxes, fontsize=SMALL,
              color=MUTED, va="bottom")  # fmt: skip
    axes.set_xlim(0, 1)
    percent_ticks(axes.xaxis)
    axes.set_xlabel(f"achieved masked share {SHARE_OF.get(method, '')}".rstrip())
    axes.axhline(0, color=INK, lw=0.7, zorder=1)
    margins = {row["margin"] for row in rows}
    if len(margins) == 1 and (margin := margins.pop()) is not None:
        axes.axhspan(0, 100 * margin, color=GREEN, alpha=0.13, lw=0, zorder=0)
    for row, place in zip(rows, places, strict=True):
        rungs = [rung for rung in row["rungs"] if rung["difference"] is not None or rung["is_default"]]
        x, y = [rung["ratio"] for rung in rungs], [100 * (rung["difference"] or 0.0) for rung in rungs]
        style = (0, (3, 2)) if row["verdict"] == "uninformative" else "-"
        axes.plot(x, y, color=COLORS[place % len(COLORS)], ls=style, marker="o", ms=3.6, mec=PAPER, mew=0.5)


def _draw_legend(axes: Axes, labels: Sequence[str]) -> None:
    places = spread([1 - 0.1 * k for k in range(len(labels))], 0.08, 0.05, 0.98)
    for place, label in enumerate(labels):
        axes.text(1.03, places[place], label, transform=axes.transAxes, fontsize=SMALL, va="center",
                  color=COLORS[place % len(COLORS)])  # fmt: skip


def _label(row: VerdictRow, rows: Sequence[VerdictRow]) -> str:
    """The data set, with the patch size where one data set has several."""
    sizes = {other["patch_size"] for other in rows if other["dataset"] == row["dataset"]}
    return row_label(row, rows).partition(" on ")[2] if len(sizes) > 1 else str(row["dataset"])

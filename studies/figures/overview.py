"""Several studies in one picture: what each ratio gains or loses against the default, a line per data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from studies.figures.palette import GREEN, INK, MUTED, PAPER
from studies.figures.style import PAGE, SMALL, percent_ticks, place_inches, spread, subtitle
from studies.formatting import METHOD_NAMES, share_of
from studies.storage.rows import VerdictRow
from studies.views.wording import row_label

STYLES = ("-", ":", "-.", "--")  # of the studies of one data set
COLORS = ("#0072b2", "#d55e00", "#007a5a", "#b07800", "#8a4f9e", "#5d6570")  # Okabe & Ito (2008), darkened
Line = tuple[str, str]  # color and style
LEFT, GAP, TOP, BOTTOM, HEIGHT = 0.42, 0.5, 0.34, 0.44, 2.1  # inches


def overview_figure(rows: Sequence[VerdictRow]) -> Figure:
    """Differences to the default in points over the achieved ratio, a panel per method; call it in ``paper_style``.

    Args:
        rows: Rows of verdicts with differences. A data set has a color, each of its studies a style of line; the dots
            of uninformative studies are hollow.
    """
    methods = [method for method in METHOD_NAMES if any(row["method"] == method for row in rows)]
    lines = _lines(rows)
    right = 0.4 + 0.052 * max(map(len, lines))
    width = (PAGE - LEFT - right - GAP * (len(methods) - 1)) / len(methods)
    figure = Figure(figsize=(PAGE, TOP + HEIGHT + BOTTOM))
    values = [100 * (rung["difference"] or 0.0) for row in rows for rung in row["rungs"]]
    low, high = min(values), max(values)
    edge = 0.08 * max(high - low, 1.0)
    for place, method in enumerate(methods):
        axes = place_inches(figure, LEFT + place * (width + GAP), BOTTOM, width, HEIGHT)
        axes.set_ylim(low - edge, high + edge)
        shown = [row for row in rows if row["method"] == method]
        _draw_method(axes, shown, [lines[_label(row, rows)] for row in shown])
        if place == len(methods) - 1:
            _draw_legend(axes, lines, any(row["verdict"] == "uninformative" for row in rows))
    return figure


def _draw_method(axes: Axes, rows: Sequence[VerdictRow], lines: Sequence[Line]) -> None:
    method = rows[0]["method"]
    axes.set_title(METHOD_NAMES[method], pad=13)
    subtitle(axes, "accuracy minus that of the default, points")
    axes.set_xlim(0, 1)
    percent_ticks(axes.xaxis)
    axes.set_xlabel(f"achieved masked share {share_of(method)}".rstrip())
    axes.axhline(0, color=INK, lw=0.7, zorder=1)
    margins = {row["margin"] for row in rows}
    if len(margins) == 1 and (margin := margins.pop()) is not None:
        axes.axhspan(0, 100 * margin, color=GREEN, alpha=0.13, lw=0, zorder=0)
    for row, (color, style) in zip(rows, lines, strict=True):
        rungs = [rung for rung in row["rungs"] if rung["difference"] is not None or rung["is_default"]]
        x, y = [rung["ratio"] for rung in rungs], [100 * (rung["difference"] or 0.0) for rung in rungs]
        face, edge = (PAPER, color) if row["verdict"] == "uninformative" else (color, PAPER)
        axes.plot(x, y, color=color, ls=style, marker="o", ms=3.6, mfc=face, mec=edge, mew=0.5)


def _draw_legend(axes: Axes, lines: Mapping[str, Line], hollow: bool) -> None:
    places = spread([1 - 0.1 * k for k in range(len(lines) + 1)], 0.08, 0.0, 0.98)
    for place, (label, (color, style)) in zip(places, lines.items(), strict=False):
        axes.plot([1.03, 1.13], [place] * 2, color=color, ls=style, transform=axes.transAxes, clip_on=False)
        axes.text(1.16, place, label, transform=axes.transAxes, fontsize=SMALL, va="center", color=color)
    if hollow:
        axes.text(1.03, places[-1], "hollow: uninformative", transform=axes.transAxes, fontsize=SMALL, va="center",
                  color=MUTED)  # fmt: skip


def _lines(rows: Sequence[VerdictRow]) -> dict[str, Line]:
    """Color and style of every label."""
    by_set: dict[str | None, list[str]] = {}
    for row in rows:
        labels, label = by_set.setdefault(row["dataset"], []), _label(row, rows)
        if label not in labels:
            labels.append(label)
    return {
        label: (COLORS[place % len(COLORS)], STYLES[number % len(STYLES)])
        for place, labels in enumerate(by_set.values())
        for number, label in enumerate(labels)
    }


def _label(row: VerdictRow, rows: Sequence[VerdictRow]) -> str:
    """The study, with what tells its comparisons of one method apart where it has several."""
    others = [other for other in rows if other["study"] == row["study"]]
    alike = sum(other["method"] == row["method"] for other in others)
    setting = row_label(row, others).partition(", ")[2] if alike > 1 else ""
    return ", ".join(filter(None, (row["study"] or str(row["dataset"]), setting)))

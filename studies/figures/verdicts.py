"""What the statistics say, drawn: regret of every default with its bounds, and the width of the plateaus."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from studies.palette import GREY, INK, VERDICT_COLOURS

VERDICT_MARKERS = {"holds": "o", "fails": "X", "inconclusive": "D"}


def forest_figure(rows: Sequence[dict[str, Any]], labels: Sequence[str]) -> Figure:
    """Regret of each default (points of accuracy) with its one-sided 95 % bounds, and the margin.

    Args:
        rows: A verdict's rows; those without a regret are left out.
        labels: The name of each row.
    """
    pairs = [(row, label) for row, label in zip(rows, labels, strict=True) if row.get("regret") is not None]
    figure = Figure(figsize=(7.6, 1.5 + 0.34 * len(pairs)))
    axes = figure.subplots()
    for place, (row, _) in enumerate(pairs):
        _draw_row(axes, place, row)
    axes.set_yticks(range(len(pairs)), [label for _, label in pairs])
    axes.set_ylim(len(pairs) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    axes.axvline(0, color=INK, lw=0.9)
    margin = next((row["margin"] for row, _ in pairs if row.get("margin") is not None), None)
    if margin is not None:
        axes.axvline(100 * margin, color=INK, lw=0.9, ls=(0, (3, 2)))
        axes.annotate(
            f"margin {100 * margin:g}", (100 * margin, 1), xycoords=("data", "axes fraction"), xytext=(0, 3),
            textcoords="offset points", ha="center", va="bottom", fontsize=8.5,
        )  # fmt: skip
    axes.set_xlabel("regret: what the default costs against the best ratio (points of accuracy)")
    _verdict_legend(axes, [row.get("verdict") for row, _ in pairs])
    return figure


def _draw_row(axes: Axes, place: int, row: dict[str, Any]) -> None:
    verdict = row.get("verdict") or "inconclusive"
    colour = VERDICT_COLOURS.get(verdict, GREY)
    if row.get("ci_low") is not None and row.get("ci_high") is not None:
        axes.plot(
            [100 * row["ci_low"], 100 * row["ci_high"]], [place, place], color=colour, lw=2.2, solid_capstyle="butt"
        )
    axes.plot(100 * row["regret"], place, VERDICT_MARKERS.get(verdict, "D"), color=colour, ms=8, mec="white", mew=0.8)


def _verdict_legend(axes: Axes, verdicts: Sequence[str | None]) -> None:
    present = [name for name in VERDICT_MARKERS if name in verdicts]
    handles = [
        Line2D([], [], marker=VERDICT_MARKERS[name], color=VERDICT_COLOURS[name], ms=7, lw=2.2, mec="white", label=name)
        for name in present
    ]
    if handles:
        axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.0, 1.0))

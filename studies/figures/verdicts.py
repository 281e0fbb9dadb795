"""What the statistics say, drawn: regret of every default with its bounds, and the width of the plateaus."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from studies.figures.style import percent_axis
from studies.palette import GREY, INK, VERDICT_COLOURS, series_styles
from studies.plateaus import Plateau
from studies.ratio_fit import RatioFit
from studies.sentences import points

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


def plateau_figure(found: Sequence[Plateau], defaults: dict[str, float]) -> Figure:
    """The ratios within the margin of each setting's best, on the range that was tried, default and optimum marked.

    Args:
        found: At least one fitted setting.
        defaults: The ratio to mark per method.
    """
    figure = Figure(figsize=(7.6, 1.5 + 0.38 * len(found)))
    axes = figure.subplots()
    styles = series_styles(p.setting for p in found)
    for place, plateau in enumerate(found):
        fit, colour = plateau.fit, styles[plateau.setting].colour
        axes.plot([fit.grid[0], fit.grid[-1]], [place, place], color=GREY, lw=1, alpha=0.6)
        axes.plot(
            [fit.plateau_low, fit.plateau_high], [place, place], color=colour, lw=9, solid_capstyle="butt", alpha=0.55
        )
        axes.plot(fit.optimum, place, "o", color=colour, ms=7, mec="white", mew=0.9)
        default = defaults.get(plateau.setting.method)
        if default is not None:
            axes.plot([default, default], [place - 0.3, place + 0.3], color=INK, lw=1.6)
        axes.text(1.01, place, _width_text(fit), transform=axes.get_yaxis_transform(), va="center", fontsize=9)
    axes.set_yticks(range(len(found)), [f"{p.setting.dataset}: {p.label}" for p in found])
    axes.set_ylim(len(found) - 0.4, -0.6)
    axes.set_xlim(0, 1)
    percent_axis(axes.xaxis, 0)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("masked share (of the variance for PMAE, of the patches for MAE)")
    axes.set_title(f"Ratios within {points(found[0].fit.margin)} of the best")
    axes.text(1.01, 1.02, "width (90 % interval)", transform=axes.transAxes, va="bottom", fontsize=8.5, color="#666666")
    handles = [
        Line2D([], [], color=GREY, lw=9, alpha=0.55, label="plateau"),
        Line2D([], [], color=GREY, marker="o", ls="", mec="white", ms=7, label="best"),
        Line2D([], [], color=INK, marker="|", ls="", ms=11, mew=1.6, label="default"),
        Line2D([], [], color=GREY, lw=1, alpha=0.6, label="tried"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4)
    return figure


def _width_text(fit: RatioFit) -> str:
    return f"{100 * fit.share:.0f} % of the range ({100 * fit.share_low:.0f} to {100 * fit.share_high:.0f})"

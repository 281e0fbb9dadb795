"""The report's interactive plots, as plain Plotly figures (``data`` and ``layout``), ready for JSON.

Every plot is one panel, so that the page can stack them on a phone. Every text that comes from the data is
HTML-escaped, since Plotly reads labels as markup. Regret and plateaus are drawn by ``verdict_plots``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from studies.curves import DEFAULT_RATIOS, RATIO_MEANING, RatioCurve, Setting
from studies.histories import LossCurve
from studies.palette import BLUE, SeriesStyle
from studies.published import published_curve
from studies.ratio_fit import RatioFit
from studies.report.plot_layout import Plot, note_on_top, plot_layout, vertical_line
from studies.sentences import method_name

MOST_DOTS = 1000


def ratio_plot(
    curves: Sequence[RatioCurve],
    styles: dict[Any, SeriesStyle],
    default: float | None = None,
    accuracy_range: tuple[float, float] | None = None,
    fits: dict[Setting, RatioFit] | None = None,
) -> Plot:
    """Accuracy over the masked share for one data set and method; ``curves`` are its settings (at least one)."""
    dataset, method = curves[0].setting.dataset, curves[0].setting.method
    traces: list[Plot | None] = [_published_trace(dataset, method)]
    for curve in curves:
        if fits and curve.setting in fits:
            traces += _fit_traces(fits[curve.setting], styles[curve.setting])
        traces += [_explored_trace(curve, styles[curve.setting]), _confirmed_trace(curve, styles[curve.setting])]
    default = DEFAULT_RATIOS.get(method) if default is None else default
    layout = plot_layout(RATIO_MEANING.get(method, "masked share"), "linear-probe accuracy")
    layout["xaxis"] |= {"range": [0, 1], "tickformat": ".0%", "tickvals": [0, 0.2, 0.4, 0.6, 0.8, 1]}
    layout["yaxis"] |= {"tickformat": ".0%" if _is_wide(accuracy_range) else ".1%", "range": accuracy_range}
    if default is not None:
        layout["shapes"] = [vertical_line(default, "dot")]
        layout["annotations"] = [note_on_top(default, f"{100 * default:g} %")]
    return {"data": [t for t in traces if t], "layout": layout}


def accuracy_range(curves: Sequence[RatioCurve]) -> tuple[float, float]:
    """Limits of the accuracy axis that hold everything drawn of ``curves``, intervals and published points too."""
    values = [v for c in curves for _, v in c.explored]
    values += [v for c in curves for p in c.confirmed for v in (p.mean, *(p.interval or ()))]
    drawn = {(c.setting.dataset, c.setting.method) for c in curves}
    values += [p.accuracy for dataset, method in drawn for p in published_curve(dataset, method)]
    low, high = min(values), max(values)
    edge = max(0.06 * (high - low), 0.005)
    return low - edge, high + 2 * edge


def training_plot(curves: Sequence[LossCurve]) -> Plot:
    """Training loss over the epoch for one method, coloured by the masked share."""
    layout = plot_layout("epoch", "training loss (mean squared error)")
    layout["yaxis"] |= {"type": "log", "tickvals": _round_values([loss for curve in curves for loss in curve.losses])}
    layout["showlegend"] = False
    layout["coloraxis"] = {
        "colorscale": "Cividis", "cmin": 0, "cmax": 1,
        "colorbar": {"tickformat": ".0%", "thickness": 10, "outlinewidth": 0, "title": {"text": "masked"}},
    }  # fmt: skip
    traces: list[Plot] = [
        {"type": "scatter", "mode": "lines", "x": curve.epochs, "y": curve.losses,
         "line": {"color": _cividis(curve.ratio), "width": 1.6},
         "name": escape(f"{curve.label}, {100 * curve.ratio:.3g} %", quote=False),
         "hovertemplate": "%{y:.4g} in epoch %{x}<extra>%{fullData.name}</extra>"}
        for curve in curves
    ]  # fmt: skip
    scale = {"type": "scatter", "mode": "markers", "x": [None], "y": [None], "hoverinfo": "skip",
             "marker": {"color": [0], "coloraxis": "coloraxis"}}  # fmt: skip
    return {"data": [*traces, scale], "layout": layout}


def spectrum_plot(spectrum: np.ndarray) -> Plot:
    """Running sum of the explained variance over the number of leading components (log axis)."""
    running = np.cumsum(spectrum)
    kept = np.unique(np.geomspace(1, len(spectrum), 400).round().astype(int))
    layout = plot_layout("leading components", "share of the variance")
    layout["xaxis"] |= {"type": "log", "dtick": 1}
    layout["yaxis"] |= {"tickformat": ".0%", "range": [0, 1.04]}
    trace = {
        "type": "scatter", "mode": "lines", "x": kept.tolist(), "y": running[kept - 1].round(5).tolist(),
        "line": {"color": BLUE, "width": 2}, "hovertemplate": "%{x} components hold %{y:.1%}<extra></extra>",
    }  # fmt: skip
    return {"data": [trace], "layout": layout | {"showlegend": False}}


def _confirmed_trace(curve: RatioCurve, style: SeriesStyle) -> Plot | None:
    points = curve.confirmed
    if not points:
        return None
    return {
        "type": "scatter", "mode": "lines+markers", "name": _series_name(curve),
        "x": [p.ratio for p in points], "y": [p.mean for p in points],
        "error_y": {
            "type": "data", "symmetric": False, "thickness": 1.3, "width": 4,
            "array": [p.interval[1] - p.mean if p.interval else 0 for p in points],
            "arrayminus": [p.mean - p.interval[0] if p.interval else 0 for p in points],
        },
        "customdata": [[p.seeds, _interval_text(p.interval)] for p in points],
        "line": {"color": style.colour, "width": 2}, "marker": {"symbol": style.plotly_marker, "size": 9},
        "hovertemplate": "%{y:.2%} at %{x:.3~%} masked<br>%{customdata[1]}<br>"
        "test split, seeds: %{customdata[0]}<extra>%{fullData.name}</extra>",
    }  # fmt: skip


def _explored_trace(curve: RatioCurve, style: SeriesStyle) -> Plot | None:
    if not curve.explored:
        return None
    every = -(-len(curve.explored) // MOST_DOTS)  # a browser draws thousands of dots slowly, and nobody sees them
    ratios, values = zip(*curve.explored[::every], strict=True)
    return {
        "type": "scatter", "mode": "markers", "name": f"{_series_name(curve)}, explored",
        "showlegend": not curve.confirmed, "x": ratios, "y": values, "opacity": 0.4,
        "marker": {"symbol": style.plotly_marker, "size": 6, "color": style.colour},
        "hovertemplate": "%{y:.2%} at %{x:.3~%} masked<br>one trial, validation split<extra>%{fullData.name}</extra>",
    }  # fmt: skip


def _fit_traces(fit: RatioFit, style: SeriesStyle) -> list[Plot | None]:
    """The fitted curve through all trials' validation accuracies, in its 90 % band."""
    every = slice(None, None, 2)
    grid = [round(x, 4) for x in fit.grid[every]]
    quiet = {"type": "scatter", "mode": "lines", "hoverinfo": "skip", "showlegend": False}
    red, green, blue = (int(style.colour[i : i + 2], 16) for i in (1, 3, 5))
    band = quiet | {
        "x": [*grid, *reversed(grid)],
        "y": [round(y, 5) for y in (*fit.low[every], *reversed(fit.high[every]))],
        "fill": "toself", "fillcolor": f"rgba({red},{green},{blue},0.1)", "line": {"width": 0},
    }  # fmt: skip
    middle = quiet | {"x": grid, "y": [round(y, 5) for y in fit.mean[every]], "opacity": 0.6,
                      "line": {"color": style.colour, "width": 1.2}}  # fmt: skip
    return [band, middle]


def _published_trace(dataset: str, method: str) -> Plot | None:
    points = published_curve(dataset, method)
    if not points:
        return None
    return {
        "type": "scatter", "mode": "lines", "name": f"published, patch {points[0].patch_size}",
        "x": [p.ratio for p in points], "y": [p.accuracy for p in points],
        "line": {"color": "@muted", "dash": "dash", "width": 1.5}, "opacity": 0.7,
        "hovertemplate": f"%{{y:.1%}} at %{{x:.0%}} masked<br>{escape(points[0].source)}<extra></extra>",
    }  # fmt: skip


def _series_name(curve: RatioCurve) -> str:
    name = curve.label.partition(", ")[2] or method_name(curve.setting.method)
    return escape(name, quote=False)


def _interval_text(interval: tuple[float, float] | None) -> str:
    return "one seed: no interval" if interval is None else f"95 % interval {interval[0]:.2%} to {interval[1]:.2%}"


def _round_values(values: Sequence[float]) -> list[float]:
    """1, 2, 3 and 5 times every power of ten among positive ``values``: ticks of a log axis of any span."""
    positive = [value for value in values if value > 0] or [1.0]
    low, high = math.floor(math.log10(min(positive))), math.ceil(math.log10(max(positive)))
    return [float(f"{digit}e{power}") for power in range(low, high + 1) for digit in (1, 2, 3, 5)]


def _is_wide(limits: tuple[float, float] | None) -> bool:
    return limits is not None and limits[1] - limits[0] > 0.12


def _cividis(share: float) -> str:
    from plotly.colors import sample_colorscale

    return str(sample_colorscale("Cividis", [min(max(share, 0.0), 1.0)])[0])

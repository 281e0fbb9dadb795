"""The report's interactive plots, as plain Plotly figures (``data`` and ``layout``), ready for JSON.

Every plot is one panel, so that the page can stack them on a phone. Colours that follow the page's light or dark
scheme are written as ``@ink``, ``@muted`` and ``@grid``; the page's script fills them in. Every text that comes from
the data is HTML-escaped, since Plotly reads labels as markup.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from studies.curves import DEFAULT_RATIOS, RATIO_MEANING, RatioCurve
from studies.histories import LossCurve
from studies.palette import BLUE, VERDICT_COLOURS, SeriesStyle
from studies.published import published_curve
from studies.sentences import method_name

Plot = dict[str, Any]
MOST_DOTS = 1000


def ratio_plot(
    curves: Sequence[RatioCurve],
    styles: dict[Any, SeriesStyle],
    default: float | None = None,
    accuracy_range: tuple[float, float] | None = None,
) -> Plot:
    """Accuracy over the masked share for one data set and method; ``curves`` are its settings (at least one)."""
    dataset, method = curves[0].setting.dataset, curves[0].setting.method
    traces = [_published_trace(dataset, method)]
    for curve in curves:
        traces += [_explored_trace(curve, styles[curve.setting]), _confirmed_trace(curve, styles[curve.setting])]
    default = DEFAULT_RATIOS.get(method) if default is None else default
    layout = _layout(RATIO_MEANING.get(method, "masked share"), "linear-probe accuracy")
    layout["xaxis"] |= {"range": [0, 1], "tickformat": ".0%", "tickvals": [0, 0.2, 0.4, 0.6, 0.8, 1]}
    layout["yaxis"] |= {"tickformat": ".0%" if _is_wide(accuracy_range) else ".1%", "range": accuracy_range}
    if default is not None:
        layout["shapes"] = [_vertical(default, "dot")]
        layout["annotations"] = [_note_on_top(default, f"{100 * default:g} %")]
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


def forest_plot(rows: Sequence[dict[str, Any]], labels: Sequence[str]) -> Plot | None:
    """Regret of each default with its bounds, in points; None when no row has a regret."""
    pairs = [(row, label) for row, label in zip(rows, labels, strict=True) if row.get("regret") is not None]
    if not pairs:
        return None
    layout = _layout("regret (points of accuracy)", None, height=110 + 46 * len(pairs))
    layout["yaxis"] |= {"range": [len(pairs) - 0.4, -0.7], "showticklabels": False, "showgrid": False, "ticks": ""}
    layout["showlegend"] = False
    layout["shapes"] = [_vertical(0.0, "solid")]
    names = [escape(label, quote=False) for _, label in pairs]
    layout["annotations"] = [
        {"x": 0, "xref": "paper", "y": place, "yshift": 13, "xanchor": "left", "showarrow": False,
         "text": f"{name}: {row.get('verdict') or 'inconclusive'}", "font": {"size": 12, "color": "@ink"}}
        for place, ((row, _), name) in enumerate(zip(pairs, names, strict=True))
    ]  # fmt: skip
    margin = next((row["margin"] for row, _ in pairs if row.get("margin") is not None), None)
    if margin is not None:
        layout["shapes"].append(_vertical(100 * margin, "dash"))
        layout["annotations"].append(_note_on_top(100 * margin, f"margin {100 * margin:g}"))
    traces = [_verdict_trace(name, pairs) for name in VERDICT_COLOURS]
    return {"data": [t for t in traces if t], "layout": layout}


def training_plot(curves: Sequence[LossCurve]) -> Plot:
    """Training loss over the epoch for one method, coloured by the masked share."""
    layout = _layout("epoch", "training loss (mean squared error)")
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
    layout = _layout("principal components taken together", "share of the variance")
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


def _verdict_trace(verdict: str, pairs: Sequence[tuple[dict[str, Any], str]]) -> Plot | None:
    places = [i for i, (row, _) in enumerate(pairs) if (row.get("verdict") or "inconclusive") == verdict]
    if not places:
        return None
    rows = [pairs[i][0] for i in places]
    regrets = [100 * row["regret"] for row in rows]
    lows = [100 * row["ci_low"] if row.get("ci_low") is not None else r for row, r in zip(rows, regrets, strict=True)]
    highs = [
        100 * row["ci_high"] if row.get("ci_high") is not None else r for row, r in zip(rows, regrets, strict=True)
    ]
    symbol = {"holds": "circle", "fails": "x", "inconclusive": "diamond"}[verdict]
    return {
        "type": "scatter", "mode": "markers", "name": verdict, "x": regrets, "y": places,
        "marker": {"color": VERDICT_COLOURS[verdict], "symbol": symbol, "size": 11},
        "error_x": {
            "type": "data", "symmetric": False, "thickness": 2.4, "width": 0, "color": VERDICT_COLOURS[verdict],
            "array": [h - r for h, r in zip(highs, regrets, strict=True)],
            "arrayminus": [r - w for w, r in zip(lows, regrets, strict=True)],
        },
        "customdata": [[escape(pairs[i][1], quote=False), w, h] for i, w, h in zip(places, lows, highs, strict=True)],
        "hovertemplate": "%{customdata[0]}<br>regret %{x:.2f} points<br>"
        "95 % bounds %{customdata[1]:.2f} to %{customdata[2]:.2f}<extra>%{fullData.name}</extra>",
    }  # fmt: skip


def _layout(x_title: str, y_title: str | None, height: int = 380) -> Plot:
    axis = {"gridcolor": "@grid", "zeroline": False, "linecolor": "@muted", "ticks": "outside",
            "tickcolor": "@muted", "ticklabeloverflow": "allow", "automargin": True}  # fmt: skip
    return {
        "height": height,
        "margin": {"l": 52, "r": 14, "t": 26, "b": 46},
        "font": {"color": "@ink", "size": 13, "family": "system-ui, sans-serif"},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "hovermode": "closest",
        "hoverlabel": {"align": "left"},
        "xaxis": axis | {"title": {"text": x_title}},
        "yaxis": axis | ({"title": {"text": y_title, "standoff": 12}} if y_title else {}),
        "legend": {"orientation": "h", "y": -0.22, "yanchor": "top", "x": 0.5, "xanchor": "center"},
    }


def _vertical(x: float, dash: str) -> Plot:
    return {"type": "line", "xref": "x", "yref": "paper", "x0": x, "x1": x, "y0": 0, "y1": 1,
            "line": {"color": "@ink", "width": 1.2, "dash": dash}}  # fmt: skip


def _note_on_top(x: float, text: str) -> Plot:
    return {"x": x, "y": 1, "yref": "paper", "yanchor": "bottom", "text": text, "showarrow": False,
            "font": {"color": "@ink", "size": 12}}  # fmt: skip


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

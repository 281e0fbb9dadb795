"""The report's plots of what the statistics say: regret of every default with its bounds, and the plateaus.

Labels stand above their rows, inside the plot, so that they fit a phone.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from studies.palette import VERDICT_COLOURS, SeriesStyle
from studies.plateaus import Plateau
from studies.report.plot_layout import Plot, note_on_top, plot_layout, vertical_line
from studies.sentences import level, percent

ROW_PIXELS = 46


def forest_plot(rows: Sequence[dict[str, Any]], labels: Sequence[str]) -> Plot | None:
    """Regret of each default with its bounds, in points; None when no row has a regret."""
    pairs = [(row, label) for row, label in zip(rows, labels, strict=True) if row.get("regret") is not None]
    if not pairs:
        return None
    layout = plot_layout("regret (points of accuracy)", None, height=_height(pairs))
    layout["yaxis"] |= _row_axis(len(pairs))
    layout["showlegend"] = False
    layout["shapes"] = [vertical_line(0.0, "solid")]
    layout["annotations"] = [
        _row_label(place, f"{label}: {row.get('verdict') or 'inconclusive'}")
        for place, (row, label) in enumerate(pairs)
    ]
    margin = next((row["margin"] for row, _ in pairs if row.get("margin") is not None), None)
    if margin is not None:
        layout["shapes"].append(vertical_line(100 * margin, "dash"))
        layout["annotations"].append(note_on_top(100 * margin, f"margin {100 * margin:g}"))
    traces = [_verdict_trace(name, pairs) for name in VERDICT_COLOURS]
    return {"data": [t for t in traces if t], "layout": layout}


def plateau_plot(found: Sequence[Plateau], styles: dict[Any, SeriesStyle], defaults: dict[str, float]) -> Plot:
    """The ratios within the margin of each setting's best, on the range that was tried; ``found`` is not empty."""
    layout = plot_layout("masked share", None, height=_height(found))
    layout["xaxis"] |= {"range": [0, 1], "tickformat": ".0%", "tickvals": [0, 0.2, 0.4, 0.6, 0.8, 1]}
    layout["yaxis"] |= _row_axis(len(found))
    layout["annotations"] = [_row_label(place, _plateau_label(p)) for place, p in enumerate(found)]
    layout["showlegend"] = False
    traces = [t for place, p in enumerate(found) for t in _plateau_traces(place, p, styles[p.setting], defaults)]
    return {"data": traces, "layout": layout}


def _plateau_traces(place: int, plateau: Plateau, style: SeriesStyle, defaults: dict[str, float]) -> list[Plot]:
    fit, method = plateau.fit, plateau.setting.method
    quiet: Plot = {"type": "scatter", "mode": "lines", "y": [place, place], "hoverinfo": "skip"}
    tried = quiet | {"x": [fit.grid[0], fit.grid[-1]], "line": {"color": "@muted", "width": 1}}
    wide = quiet | {
        "x": [fit.plateau_low, fit.plateau_high],
        "line": {"color": style.colour, "width": 10},
        "opacity": 0.6,
    }
    share = f"{percent(fit.share)} of the range tried ({percent(fit.share_low)} to {percent(fit.share_high)})"
    best: Plot = {
        "type": "scatter", "mode": "markers", "x": [fit.optimum], "y": [place],
        "marker": {"color": style.colour, "size": 11, "line": {"color": "@paper", "width": 1.5}},
        "hovertemplate": f"best at {percent(fit.optimum)}<br>plateau {percent(fit.plateau_low)} to "
        f"{percent(fit.plateau_high)},<br>{share}<extra></extra>",
    }  # fmt: skip
    traces = [tried, wide, best]
    if method in defaults:
        traces.append({
            "type": "scatter", "mode": "markers", "x": [defaults[method]], "y": [place],
            "marker": {"symbol": "line-ns-open", "color": "@ink", "size": 16, "line": {"width": 2}},
            "hovertemplate": "default %{x:.0%}<extra></extra>",
        })  # fmt: skip
    return traces


def _plateau_label(plateau: Plateau) -> str:
    fit = plateau.fit
    return f"{plateau.setting.dataset}: {plateau.label}, {percent(fit.width)} wide"


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
        "customdata": [
            [escape(pairs[i][1], quote=False), w, h, level(pairs[i][0])]
            for i, w, h in zip(places, lows, highs, strict=True)
        ],
        "hovertemplate": "%{customdata[0]}<br>regret %{x:.2f} points<br>"
        "%{customdata[3]} bounds %{customdata[1]:.2f} to %{customdata[2]:.2f}<extra>%{fullData.name}</extra>",
    }  # fmt: skip


def _height(rows: Sequence[object]) -> int:
    return 110 + ROW_PIXELS * len(rows)


def _row_axis(rows: int) -> Plot:
    return {"range": [rows - 0.4, -0.7], "showticklabels": False, "showgrid": False, "ticks": ""}


def _row_label(place: int, text: str) -> Plot:
    return {"x": 0, "xref": "paper", "y": place, "yshift": 15, "xanchor": "left", "showarrow": False,
            "text": escape(text, quote=False), "font": {"size": 12, "color": "@ink"}}  # fmt: skip

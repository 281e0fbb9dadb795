"""A verdict in words: the question, one sentence per row, one headline, for report, terminal and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from studies.curves import METHOD_NAMES, Setting, setting_labels

SHARE_OF = {"pmae": "of the variance", "mae": "of the patches"}


def question(default_ratio: float) -> str:
    """What the study asks."""
    return f"Is masking {percent(default_ratio)} of the variance good enough?"


def headline(verdict: Mapping[str, Any]) -> str:
    """The answer in one sentence with its bounds; what is lacking where there is none yet."""
    judged = [row for row in verdict["rows"] if row.get("kind") == "default" and row.get("regret") is not None]
    if len(judged) == 1:
        return row_sentence(judged[0])
    overall = verdict.get("overall") or {}
    answer = str(verdict.get("answer") or "No answer yet: the study has no confirmed trials to judge.")
    if overall.get("iqm") is None:
        return answer
    typical = (
        f"{points(overall['iqm'])} (90 % interval {in_points(overall['iqm_low'])} to {in_points(overall['iqm_high'])})"
    )
    return f"{answer.removesuffix('.')}; typically (interquartile mean) it costs {typical}."


def row_sentence(row: Mapping[str, Any]) -> str:
    """What one row of a verdict says, for example:

    On digits (PMAE, patch 2), masking 20 % of the variance costs 0.3 points against the best ratio (95 % bounds -0.4
    to 1.1, margin 1): inconclusive; about 6 more seeds would settle it.
    """
    what = f"masking {percent(row['default_ratio'])} {SHARE_OF.get(str(row['method']), '')}".rstrip()
    where = f"On {row['dataset']} ({setting_labels([Setting.of(dict(row))])[Setting.of(dict(row))]})"
    if row.get("regret") is None:
        reason = row.get("reason") or "confirmed trials with at least two paired seeds are missing"
        return f"{where}, what {what} costs is not known yet: {reason}."
    cost = f"costs {points(row['regret'])} against the best ratio"
    if round(100 * row["regret"], 1) <= 0:
        cost = "costs nothing against the best other ratio"
        if round(100 * row["regret"], 1) < 0:
            cost = f"gains {points(-row['regret'])} over the best other ratio"
    return f"{where}, {what} {cost} ({bounds(row)}): {_outcome(row)}."


def bounds(row: Mapping[str, Any]) -> str:
    """``95 % bounds -0.4 to 1.1, margin 1``, in points of accuracy; a study that was looked at often has wider ones."""
    if row.get("ci_low") is None or row.get("ci_high") is None:
        return "no bounds yet"
    margin = "" if row.get("margin") is None else f", margin {100 * row['margin']:g}"
    return f"{level(row)} bounds {in_points(row['ci_low'])} to {in_points(row['ci_high'])}{margin}"


def level(row: Mapping[str, Any]) -> str:
    """``95 %``: of each bound."""
    return percent(1 - (row.get("alpha") or 0.05))


def row_labels(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A short name per row of a verdict: ``digits: PMAE, patch 2, 20 %``."""
    settings = [Setting.of(dict(row)) for row in rows]
    labels = setting_labels(settings)
    return [f"{s.dataset}: {labels[s]}, {percent(row['default_ratio'])}" for s, row in zip(settings, rows, strict=True)]


def percent(fraction: float) -> str:
    """``20 %``."""
    return f"{100 * fraction:.3g} %"


def in_points(fraction: float) -> str:
    """``0.3``: points of accuracy with one decimal."""
    value = f"{100 * fraction:.1f}"
    return "0.0" if value == "-0.0" else value


def points(fraction: float) -> str:
    """``0.3 points``."""
    value = in_points(fraction)
    return f"{value} point" if value == "1.0" else f"{value} points"


def method_name(method: str) -> str:
    """The method's name as the papers write it."""
    return METHOD_NAMES.get(method, method)


def _outcome(row: Mapping[str, Any]) -> str:
    verdict = row.get("verdict")
    if verdict == "holds":
        return "it holds up"
    if verdict == "fails":
        return "it does not hold up"
    needed = row.get("seeds_needed")
    if needed:
        return f"inconclusive; about {needed} more seed{'s' * (needed != 1)} would settle it"
    return f"inconclusive ({row['reason']})" if row.get("reason") else "inconclusive"

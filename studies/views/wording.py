"""Verdicts in words: *regret* (best rung minus default), *loses at most* (its upper bound), *margin*, *seeds*."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from studies.formatting import accuracy, at_most, count, in_points, interval, is_number, percent, points, ratio_list
from studies.statistics.ratio_curves import Setting, on_dataset, setting_labels
from studies.storage.rows import RungRow, VerdictRow


def judged_rows(verdict: Mapping[str, Any]) -> list[VerdictRow]:
    """The verdict's rows; fields that may be missing from a file are None."""
    rows: list[Any] = []
    for row in verdict["rows"]:
        rungs = [dict.fromkeys(RungRow.__annotations__) | rung for rung in row["rungs"]]
        rows.append(dict.fromkeys(VerdictRow.__annotations__) | row | {"rungs": rungs})
    return rows


def row_label(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]] = ()) -> str:
    """``PMAE on digits, patch 2``; what tells ``row`` apart from the other ``rows`` is named."""
    setting = Setting.of(row)
    return on_dataset(setting_labels([*map(Setting.of, rows), setting])[setting], setting)


def loss_text(row: Mapping[str, Any]) -> str:
    """What the default loses, for example ``loses at most 1.8 points (95 % confidence, margin 1 point)``."""
    if not is_number(row.get("ci_high")):
        return f"cannot be judged yet: {row.get('reason') or 'too few paired seeds'}"
    if row["verdict"] == "uninformative":  # a small loss would say nothing about other recipes
        return "cannot be judged"
    margin = "" if not is_number(row.get("margin")) else f", margin {margin_text(row)}"
    return f"loses at most {at_most(row['ci_high'])} ({confidence(row)} confidence{margin})"


def confidence(row: Mapping[str, Any]) -> str:
    """``95 %``: of all bounds that a study prints, however many rounds it was judged after."""
    return percent(1 - (row.get("alpha") or 0.05))


def margin_text(row: Mapping[str, Any]) -> str:
    """``1 point``, or ``1.6 points, 10 % of the training gain``."""
    share: float | None = row.get("margin_share")
    text = points(row["margin"])
    return text if share is None else f"{text}, {percent(share)} of the training gain"


def best_set_sentence(row: Mapping[str, Any]) -> str:
    """Which rungs may be the best one: ``Each of 5, 10 and 20 % may be the best ratio (95 % confidence)``."""
    if row["verdict"] == "uninformative":
        return "The best ratio cannot be determined: training adds too little to an untrained encoder or did not learn."
    best = [rung["ratio"] for rung in row["rungs"] if rung["may_be_best"]]
    if not best:
        return "Too few paired seeds to tell which ratios may be the best."
    if len(best) == len(row["rungs"]):
        return f"None of the {count(len(best), 'ratio')} can be ruled out as the best ({confidence(row)} confidence)."
    if len(best) == 1:
        return f"Only {ratio_list(best)} can be the best ratio ({confidence(row)} confidence)."
    return f"Each of {ratio_list(best)} may be the best ratio ({confidence(row)} confidence); the others are ruled out."


def check_text(check: Mapping[str, Any]) -> str:
    """A check in words: ``training beats the untrained encoder: by 15.2 points (at least 13.9)``."""
    return ": ".join(filter(None, (check.get("name"), check.get("detail"))))


def rung_cells(rung: Mapping[str, Any]) -> tuple[str, ...]:
    """Masked share, accuracy, difference to the default, its bounds, and whether it may be the best ratio."""
    difference = "default" if rung["is_default"] else in_points(rung["difference"], True)
    best = {True: "yes", False: "no"}.get(rung["may_be_best"], "")
    bounds = interval(rung["low"], rung["high"], True)
    return percent(rung["ratio"]), accuracy(rung["accuracy"]), difference, bounds, best

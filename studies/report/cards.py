"""The answer card: per comparison the verdict, what the default loses, on what evidence, and whether checks passed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from studies.formatting import (
    accuracy,
    at_least,
    at_most,
    count,
    duration,
    in_points,
    interval,
    is_number,
    percent,
    points,
    ratio_list,
)
from studies.records import Study
from studies.views.wording import (
    best_set_sentence,
    check_text,
    confidence,
    margin_text,
    row_label,
    share_of,
    verdict_word,
)

MARKS = {True: ("passed", "✓"), False: ("failed", "✗"), None: ("not known", "?")}
MORE_SEEDS = (0, 3, 5, 10, 20)
RUNG_HEADINGS = (
    "masked",
    "test accuracy",
    "difference (points)",
    "bounds",
    "may be the best",
    "as default loses at most",
)


@dataclass(frozen=True)
class Check:
    """One condition of the verdict: ``state`` is passed, failed or not known."""

    state: str
    mark: str
    text: str


@dataclass(frozen=True)
class Card:
    """One comparison, ready to print."""

    label: str
    asked: str
    verdict: str
    loss: str | None
    loss_note: str
    facts: tuple[tuple[str, str], ...]
    checks: tuple[Check, ...]
    excluded: tuple[str, ...]
    best_sentence: str
    rungs: tuple[tuple[str, ...], ...]
    surety: str
    more_seeds: tuple[tuple[str, ...], ...]


def make_cards(rows: Sequence[Mapping[str, Any]], trials: pa.Table, studies: Sequence[Study]) -> list[Card]:
    """A card per row of the verdict."""
    return [_card(row, rows, trials, studies[0].plan) for row in rows]


def _card(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], trials: pa.Table, plan: Mapping[str, Any]) -> Card:
    judged = is_number(row["ci_high"])
    note = row["reason"] or "too few paired seeds"
    if judged:
        margin = "" if not is_number(row["margin"]) else f"; margin {margin_text(row)}"
        note = f"{confidence(row)} confidence{margin}"
    return Card(
        label=row_label(row, rows),
        asked=f"masking {percent(row['default_ratio'])} {share_of(row['method'])}".rstrip(),
        verdict=verdict_word(row),
        loss=at_most(row["ci_high"]) if judged else None,
        loss_note=note,
        facts=tuple(_facts(row)),
        checks=tuple(Check(*MARKS[check.get("passed")], check_text(check)) for check in row["checks"]),
        excluded=tuple(map(str, row["excluded"])),
        best_sentence=best_set_sentence(row) if row["rungs"] else "",
        rungs=tuple(map(_rung, row["rungs"])),
        surety=_surety(row),
        more_seeds=tuple(_more_seeds(row, trials, plan)),
    )


def _facts(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    facts = []
    if is_number(row["regret"]):
        best = "" if row["best_ratio"] is None else f" (best: {percent(row['best_ratio'])})"
        bounds = interval(row["ci_low"], row["ci_high"])
        facts.append(("regret", f"{points(row['regret'])}{best}" + (f", bounds {bounds}" if bounds else "")))
    if row["ratios"]:
        facts.append(("compared with", ratio_list(row["ratios"])))
    if row["seeds"] is not None:
        facts.append(("evidence", f"{count(row['seeds'], 'paired seed')} per ratio{_evaluation(row)}"))
    if is_number(row["training_gain"]):
        least = "" if not is_number(row["training_gain_low"]) else f" (at least {at_least(row['training_gain_low'])})"
        facts.append(("training adds", f"{points(row['training_gain'])}{least} to an untrained encoder"))
    return facts


def _evaluation(row: Mapping[str, Any]) -> str:
    return {"folds": ", cross-validated over all labeled images", "split": ", scored on the test split"}.get(
        row["evaluation"], ""
    )


def _rung(rung: Mapping[str, Any]) -> tuple[str, ...]:
    best = {True: "yes", False: "no"}.get(rung["may_be_best"], "")
    return (
        percent(rung["ratio"]),
        accuracy(rung["accuracy"]),
        "default" if rung["is_default"] else in_points(rung["difference"], True),
        interval(rung["low"], rung["high"], True),
        best,
        "" if not is_number(rung["regret_high"]) else at_most(max(rung["regret_high"], 0.0)),
    )


def _surety(row: Mapping[str, Any]) -> str:
    parts = []
    if is_number(row["ci_high"]):
        parts.append(f"The smallest margin at which this default would hold is {at_most(row['ci_high'])}.")
    if row["seeds_needed"]:
        more = count(row["seeds_needed"], "more seed")
        parts.append(f"About {more} per ratio would be expected to settle it at the planned margin.")
    if row["reason"]:
        parts.append(str(row["reason"])[:1].upper() + str(row["reason"])[1:].rstrip(".") + ".")
    return " ".join(parts)


def _more_seeds(row: Mapping[str, Any], trials: pa.Table, plan: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """What more seeds would do, if all differences stayed as they are: bounds shrink with the root of their number."""
    pairs = [
        (rung["difference"], rung["high"])
        for rung in row["rungs"]
        if is_number(rung["difference"]) and is_number(rung["high"])
    ]
    seeds = row["seeds"]
    if not pairs or not seeds:
        return []
    each = _seconds_per_trial(trials, row)
    at_once = max(int((plan.get("resources") or {}).get("max_concurrent") or 1), 1)
    table: list[tuple[str, ...]] = []
    for more in MORE_SEEDS:
        shrink = (seeds / (seeds + more)) ** 0.5
        worst = max(0.0, *(middle + (high - middle) * shrink for middle, high in pairs))
        count_more = more * (len(pairs) + 1)
        time = "" if each is None or not more else duration(each * count_more / at_once)
        table.append((str(seeds + more), points(worst), str(count_more) if more else "", time))
    return table


def _seconds_per_trial(trials: pa.Table, row: Mapping[str, Any]) -> float | None:
    own = trials.filter(pc.and_(pc.equal(trials["phase"], "confirm"), pc.equal(trials["method"], row["method"])))
    return None if not own.num_rows else pc.mean(own["seconds"]).as_py()

"""The answer card: per comparison the verdict, what the default loses, on what evidence, and whether checks passed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from studies.formatting import (
    at_least,
    at_most,
    count,
    duration,
    interval,
    is_number,
    percent,
    points,
    ratio_list,
    share_of,
)
from studies.views import wording

MARKS = {True: ("passed", "✓"), False: ("failed", "✗"), None: ("not known", "?")}
EVALUATIONS = {"folds": ", cross-validated over all labeled images", "split": ", scored on the test split"}
MORE_SEEDS = (0, 3, 5, 10, 20)
RUNG_HEADINGS = (
    "masked",
    "test accuracy",
    "difference (points)",
    "bounds",
    "may be the best",
    "as default loses at most",
)


def make_card(
    row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], trials: pa.Table, plan: Mapping[str, Any]
) -> dict[str, Any]:
    """What the page's template shows of one of the verdict's ``rows``; checks are (state, mark, text)."""
    judged = is_number(row["ci_high"])
    note = row["reason"] or "too few paired seeds"
    if judged:
        margin = "" if not is_number(row["margin"]) else f"; margin {wording.margin_text(row)}"
        note = f"{wording.confidence(row)} confidence{margin}"
    return {
        "label": wording.row_label(row, rows),
        "asked": f"masking {percent(row['default_ratio'])} {share_of(row['method'])}".rstrip(),
        "verdict": wording.verdict_word(row),
        "loss": at_most(row["ci_high"]) if judged else None,
        "loss_note": note,
        "facts": _facts(row),
        "checks": [(*MARKS[check.get("passed")], wording.check_text(check)) for check in row["checks"]],
        "excluded": row["excluded"],
        "best_sentence": wording.best_set_sentence(row) if row["rungs"] else "",
        "rungs": [(*wording.rung_cells(rung), _as_default(rung)) for rung in row["rungs"]],
        "surety": _surety(row),
        "more_seeds": _more_seeds(row, trials, plan),
    }


def _facts(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    facts = []
    if is_number(row["regret"]):
        best = "" if row["best_ratio"] is None else f" (best: {percent(row['best_ratio'])})"
        bounds = interval(row["ci_low"], row["ci_high"])
        facts.append(("regret", f"{points(row['regret'])}{best}" + (f", bounds {bounds}" if bounds else "")))
    if row["ratios"]:
        facts.append(("compared with", ratio_list(row["ratios"])))
    if row["seeds"] is not None:
        where = EVALUATIONS.get(row["evaluation"], "")
        facts.append(("evidence", f"{count(row['seeds'], 'paired seed')} per ratio{where}"))
    if is_number(row["training_gain"]):
        least = "" if not is_number(row["training_gain_low"]) else f" (at least {at_least(row['training_gain_low'])})"
        facts.append(("training adds", f"{points(row['training_gain'])}{least} to an untrained encoder"))
    return facts


def _as_default(rung: Mapping[str, Any]) -> str:
    return "" if not is_number(rung["regret_high"]) else at_most(max(rung["regret_high"], 0.0))


def _surety(row: Mapping[str, Any]) -> str:
    parts = []
    if is_number(row["ci_high"]):
        parts.append(f"The smallest margin at which this default would hold is {at_most(row['ci_high'])}.")
    if row["seeds_needed"]:
        more = count(row["seeds_needed"], "more seed")
        parts.append(f"About {more} per ratio would be expected to settle it at the planned margin.")
    if row["reason"]:
        parts.append(row["reason"][:1].upper() + row["reason"][1:].rstrip(".") + ".")
    return " ".join(parts)


def _more_seeds(row: Mapping[str, Any], trials: pa.Table, plan: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """What more seeds would do, if all differences stayed as they are: bounds shrink with the root of their number."""
    rungs = [rung for rung in row["rungs"] if is_number(rung["difference"]) and is_number(rung["high"])]
    seeds = row["seeds"]
    if not rungs or not seeds:
        return []
    own = trials.filter(pc.and_(pc.equal(trials["phase"], "confirm"), pc.equal(trials["method"], row["method"])))
    each = pc.mean(own["seconds"]).as_py()
    at_once = max(int((plan.get("resources") or {}).get("max_concurrent") or 1), 1)
    table: list[tuple[str, ...]] = []
    for more in MORE_SEEDS:
        shrink = (seeds / (seeds + more)) ** 0.5
        worst = max(0.0, *(r["difference"] + (r["high"] - r["difference"]) * shrink for r in rungs))
        trials_more = more * (len(rungs) + 1)
        time = "" if each is None or not more else duration(each * trials_more / at_once)
        table.append((str(seeds + more), points(worst), str(trials_more) if more else "", time))
    return table

"""What the report says in words and small tables: the answer cards, comparisons, measures, the papers' numbers.

Measures are what a study found in addition to accuracies (the JSON in the column ``metrics``), as means per setting and
ratio; numbers inside a mapping get dotted names (``corruptions.jpeg``).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from studies.formatting import (
    at_least,
    at_most,
    count,
    duration,
    in_points,
    interval,
    is_number,
    method_name,
    percent,
    points,
    ratio_list,
    share_of,
)
from studies.literature.published import published_regrets
from studies.statistics.contrasts import SettingComparison, comparison_sentences
from studies.statistics.ratio_curves import Setting, setting_labels, sort_settings
from studies.storage.tables import flatten, read_mapping, rows_of
from studies.views import wording

MARKS = {True: ("passed", "✓"), False: ("failed", "✗"), None: ("not known", "?")}
EVALUATIONS = {"folds": ", cross-validated over all labeled images", "split": ", scored on the test split"}
MORE_SEEDS = (0, 3, 5, 10, 20)
RUNG_HEADINGS = ("masked", "accuracy", "difference (points)", "bounds", "may be the best", "as default loses at most")
ACCURACIES = {"linear": "linear", "knn": "k-NN"}  # as in the columns val_linear, test_linear, ...


def make_card(
    row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], trials: pa.Table, plan: Mapping[str, Any]
) -> dict[str, Any]:
    """What the page's template shows of one of the verdict's ``rows``; checks are (state, mark, text)."""
    judged = is_number(row["ci_high"])
    note = row["reason"] or "too few paired seeds"
    if judged:
        margin = "" if not is_number(row["margin"]) else f"; margin {wording.margin_text(row)}"
        note = f"{wording.confidence(row)} confidence{margin}"
    rungs = []
    for rung in row["rungs"]:
        loss = "" if not is_number(rung["regret_high"]) else at_most(max(rung["regret_high"], 0.0))
        rungs.append((*wording.rung_cells(rung), loss))
    return {
        "label": wording.row_label(row, rows),
        "asked": f"masking {percent(row['default_ratio'])} {share_of(row['method'])}".rstrip(),
        "verdict": row["verdict"],
        "loss": at_most(row["ci_high"]) if judged else None,
        "loss_note": note,
        "facts": _facts(row),
        "checks": [(*MARKS[check.get("passed")], wording.check_text(check)) for check in row["checks"]],
        "excluded": row["excluded"],
        "best_sentence": wording.best_set_sentence(row) if row["rungs"] else "",
        "rungs": rungs,
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


def _surety(row: Mapping[str, Any]) -> str:
    parts = []
    if is_number(row["ci_high"]) and all(check.get("passed") for check in row["checks"]):
        parts.append(f"At a margin above {at_most(row['ci_high'])}, if training adds more, the default would hold.")
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
    at_once = max(int((plan.get("resources") or {}).get("concurrent") or 1), 1)
    table: list[tuple[str, ...]] = []
    for more in MORE_SEEDS:
        shrink = (seeds / (seeds + more)) ** 0.5
        worst = max(0.0, *(r["difference"] + (r["high"] - r["difference"]) * shrink for r in rungs))
        trials_more = more * (len(rungs) + 1)
        time = "" if each is None or not more else duration(each * trials_more / at_once)
        table.append((str(seeds + more), at_most(worst), str(trials_more) if more else "", time))
    return table


@dataclass(frozen=True)
class MeasureRow:
    """Means over the seeds of one setting and ratio."""

    setting: Setting
    label: str
    ratio: float  # masked share
    split: str  # of the accuracies: ``test`` of confirmed trials, ``val`` where a ratio was only explored
    seeds: int
    values: dict[str, float]  # linear and k-NN accuracy (fractions), then every measure


def measures(trials: pa.Table, *, nested: bool = True) -> list[MeasureRow]:
    """One row per setting and ratio with measures (``nested`` ones too), of confirmed trials where there are any."""
    accuracies = [f"{split}_{name}" for split in ("val", "test") for name in ACCURACIES]
    groups: dict[tuple[Setting, float], dict[str, list[dict[str, float]]]] = defaultdict(lambda: defaultdict(list))
    for row in rows_of(trials, (*Setting._fields, "ratio", "phase", "status", "metrics", *accuracies)):
        split = "test" if row["phase"] == "confirm" else "val"
        found = read_mapping(row["metrics"])
        values = (flatten(found) if nested else found).items()
        numbers = {name: float(v) for name, v in values if type(v) in (int, float) and math.isfinite(v)}
        if numbers and row["status"] == "done" and row["ratio"] is not None:
            scores = {title: row[f"{split}_{name}"] for name, title in ACCURACIES.items()}
            known = {title: score for title, score in scores.items() if score is not None}
            groups[Setting.of(row), round(row["ratio"], 6)][split].append(known | numbers)
    order = sort_settings({setting for setting, _ in groups})
    labels = setting_labels(order)
    measured = []
    for setting, ratio in sorted(groups, key=lambda key: (order.index(key[0]), key[1])):
        by_split = groups[setting, ratio]
        split = "test" if "test" in by_split else "val"
        rows = by_split[split]
        names = dict.fromkeys(name for row in rows for name in row)
        means = {name: float(np.mean([row[name] for row in rows if name in row])) for name in names}
        measured.append(MeasureRow(setting, labels[setting], ratio, split, len(rows), means))
    return measured


def measure_names(rows: list[MeasureRow]) -> list[str]:
    """Every name that occurs, accuracies first and what was nested last; a column that repeats another is left out."""
    columns: dict[tuple[float | None, ...], str] = {}
    for name in dict.fromkeys(name for row in rows for name in row.values):
        columns.setdefault(tuple(row.values.get(name) for row in rows), name)
    return sorted(columns.values(), key=lambda name: "." in name)


def is_accuracy(name: str) -> bool:
    """Whether a measure is a share of images classified correctly."""
    return "linear" in name or "k-NN" in name or name.startswith("corruptions.")


def measure_table(rows: list[MeasureRow]) -> tuple[list[str], list[tuple[str, ...]]] | None:
    """Headings and rows of everything measured, means over seeds; None where nothing was."""
    if not rows:
        return None
    names = measure_names(rows)
    titles = [name.replace("_", " ") + (" (%)" if is_accuracy(name) else "") for name in names]
    cells = []
    for row in rows:
        where = row.setting.dataset, row.label.replace(" ", "\u00a0"), percent(row.ratio), row.split, str(row.seeds)
        shown = {n: f"{100 * v:.1f}" if is_accuracy(n) else f"{v:.4g}" for n, v in row.values.items()}
        cells.append((*where, *(shown.get(name, "") for name in names)))
    return ["data set", "setting", "masked", "split", "seeds", *titles], cells


def published_rows() -> list[tuple[str, ...]]:
    """Per published curve: data set, method, default, best, difference, and the noise that would explain it."""
    rows: list[tuple[str, ...]] = []
    for dataset, method, default, best, regret, noise in published_regrets():
        shares = percent(default), percent(best), in_points(regret), in_points(noise)
        rows.append((dataset, method_name(method), *shares))
    return rows


def comparison_rows(found: Sequence[SettingComparison]) -> list[tuple[str, ...]]:
    """Rows of comparison, value, best ratio, accuracy, difference to the reference with its bounds, seeds."""
    rows: list[tuple[str, ...]] = []
    for c in found:
        difference = "reference" if c.difference is None else in_points(c.difference, True)
        measured = percent(c.ratio), f"{100 * c.accuracy:.1f}", difference, interval(c.low, c.high, True)
        rows.append((c.subject, c.value, *measured, str(c.seeds)))
    return rows


def own_answer(found: Sequence[SettingComparison], shapes: Sequence[str]) -> str:
    """What a study of another question than the default found: its comparisons, the curves' shapes."""
    return " ".join([*comparison_sentences(found), *shapes]) or "No answer yet."

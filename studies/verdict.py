"""Does a default ratio hold up? Judges confirmed trials: one row per data set, method, patch setting and default.

*holds*: the upper bound of the regret is below the margin. *fails*: its lower bound is above. Otherwise
*inconclusive*, with the further seeds that would settle it. The rules follow Weerts et al. 2020 (non-inferiority of
defaults). Which rows are compared is decided in ``comparisons.py``, the statistics are in ``regret.py``, what
holds over all data sets in ``aggregate.py``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from studies.aggregate import Judged, overall
from studies.comparisons import PATCH_COLUMNS, Arm, Comparison, collect, confirmed_rows
from studies.errors import StudyError
from studies.records import Study
from studies.regret import Estimate, Paired, estimate, pair
from studies.several import named_apart

VERDICT_VERSION = 1
MARGIN, DEFAULT_RATIO, MAE_DEFAULT_RATIO = 0.01, 0.20, 0.75
RIVALS = (0.10, 0.15, 0.25, 0.30)
KINDS = ("default", "mae_default", "rival")
RATIO_TOLERANCE = 1e-4  # ratios of a search carry rounding

Trials: TypeAlias = pa.Table | Study


@dataclass(frozen=True)
class Verdict:
    """What :func:`judge` found; :meth:`to_dict` is the content of ``verdict.json``."""

    answer: str
    rows: list[dict[str, Any]]
    overall: dict[str, Any]
    across_patches: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    alpha: float = 0.05

    def to_dict(self) -> dict[str, Any]:
        """JSON types only: numbers that do not exist are None."""
        return {
            "schema_version": VERDICT_VERSION,
            "answer": self.answer,
            "alpha": self.alpha,
            "rows": self.rows,
            "across_patches": self.across_patches,
            "overall": self.overall,
            "warnings": self.warnings,
        }


def judge(
    trials: Trials | Sequence[Trials],
    *,
    margin: float = MARGIN,
    default_ratio: float = DEFAULT_RATIO,
    mae_default_ratio: float = MAE_DEFAULT_RATIO,
    rivals: Sequence[float] = RIVALS,
    alpha: float = 0.05,
) -> Verdict:
    """Judge the defaults that were confirmed, against the best ratio of the same patch setting.

    Args:
        trials: A table with the columns of ``TRIAL_SCHEMA`` (those that a verdict does not need may be missing), a
            study, or several of either. Only rows with phase ``confirm`` and status ``done`` judge.
        margin: Largest regret that still counts as holding up, a fraction of accuracy.
        default_ratio: PMAE's default variance ratio.
        mae_default_ratio: MAE's default patch ratio.
        rivals: Other defaults for PMAE, judged where they were confirmed.
        alpha: Level of each one-sided bound; take it from ``studies.sequential`` when looking more than once.

    Raises:
        StudyError: a missing column, accuracies that are no fractions, or settings out of range.
    """
    _check(margin, "margin", 0, 1)
    _check(alpha, "alpha", 0, 0.5)
    for ratio in (default_ratio, mae_default_ratio, *rivals):
        _check(ratio, "a default ratio", 0, 1)
    confirmed, warnings = confirmed_rows(_one_table(trials))
    found = collect(confirmed)
    defaults = {
        "pmae": [(default_ratio, "default"), *((r, "rival") for r in rivals if not _same(r, default_ratio))],
        "mae": [(mae_default_ratio, "mae_default")],
    }
    judged: list[Judged] = []
    for comparison in found.comparisons:
        judged += _judge_comparison(comparison, defaults, margin, alpha, found.warnings)
    wide = collect(confirmed, across_patches=True)
    across = [
        row
        for comparison in wide.comparisons
        if len({_patch(arm) for arm in comparison.arms}) > 1
        for row in _judge_across(comparison, defaults, margin, alpha)
    ]
    judged.sort(key=lambda j: KINDS.index(j.row["kind"]))
    everything = overall(judged, margin, alpha)
    return Verdict(
        answer=_answer(everything, margin, default_ratio),
        rows=[j.row for j in judged],
        overall=everything,
        across_patches=across,
        warnings=[*warnings, *found.warnings],
        alpha=alpha,
    )


def _judge_comparison(
    comparison: Comparison,
    defaults: dict[str, list[tuple[float, str]]],
    margin: float,
    alpha: float,
    warnings: list[str],
) -> list[Judged]:
    paired: Paired | None = None
    judged = []
    for ratio, kind in defaults.get(comparison.group.method, []):
        place = _place(comparison.arms, ratio)
        if place is None and _place(comparison.left_out, ratio) is None:
            if kind != "rival":
                warnings.append(f"{comparison.group.label}: the default {ratio:g} has no confirmed trial")
            continue
        reason = _obstacle(comparison, place)
        if reason is not None or place is None:
            judged.append(Judged(_row(comparison, ratio, kind, margin, None, alpha, reason), None))
            continue
        paired = paired or pair(comparison.val, comparison.test)
        result = estimate(paired, place)
        judged.append(Judged(_row(comparison, ratio, kind, margin, result, alpha, None), result))
    return judged


def _judge_across(
    comparison: Comparison, defaults: dict[str, list[tuple[float, str]]], margin: float, alpha: float
) -> list[dict[str, Any]]:
    """The default at each patch setting against the best ratio at the best patch setting of the method."""
    if len(comparison.seeds) < 2:
        return []
    paired, rows = pair(comparison.val, comparison.test), []
    for ratio, kind in defaults.get(comparison.group.method, []):
        for place, arm in enumerate(comparison.arms):
            if kind != "rival" and _same(arm.ratio, ratio):
                row = _row(comparison, ratio, kind, margin, estimate(paired, place), alpha, None)
                best = comparison.arms[int(comparison.val.mean(axis=0).argmax())]
                patch = dict(zip(PATCH_COLUMNS, _patch(arm), strict=True))
                rows.append({**row, **patch, "best_patch_size": best.patch_size})
    return rows


def _patch(arm: Arm) -> tuple[int | None, int | None, int | None]:
    return arm.patch_size, arm.patch_stride, arm.mask_unit


def _obstacle(comparison: Comparison, place: int | None) -> str | None:
    if place is None:
        return "too few of the default's trials are usable"
    if len(comparison.arms) < 2:
        return "no other ratio was confirmed"
    if len(comparison.seeds) < 2:
        return f"{len(comparison.seeds)} paired seeds; at least 2 are needed"
    return None


def _row(
    comparison: Comparison,
    ratio: float,
    kind: str,
    margin: float,
    result: Estimate | None,
    alpha: float,
    reason: str | None,
) -> dict[str, Any]:
    group, seeds = comparison.group, len(comparison.seeds)
    low = high = needed = regret = p_fails = None
    verdict = "inconclusive"
    if result is not None:
        regret, p_fails = result.regret, result.p_fails(margin)
        low, high = result.lower(alpha), result.upper(alpha)
        verdict = "holds" if high < margin else "fails" if low > margin else "inconclusive"
        if verdict == "inconclusive":
            needed = result.seeds_needed(margin, alpha)
            reason = None if needed else "the estimate lies at the margin: no number of seeds is likely to settle it"
    elif seeds < 2 and len(comparison.arms) > 1:
        needed = 2 - seeds
    best = comparison.arms[int(comparison.val.mean(axis=0).argmax())] if seeds else None
    return {
        "study": group.study,
        "dataset": group.dataset,
        "method": group.method,
        "strategy": group.strategy,
        "basis": group.basis,
        "patch_size": group.patch_size,
        "patch_stride": group.patch_stride,
        "mask_unit": group.mask_unit,
        "kind": kind,
        "default_ratio": ratio,
        "best_ratio": None if best is None else best.ratio,
        "regret": regret,
        "ci_low": low,
        "ci_high": high,
        "margin": margin,
        "alpha": alpha,
        "verdict": verdict,
        "seeds": seeds,
        "seeds_needed": needed,
        "reason": reason,
        "p_fails": p_fails,
        "ratios": [arm.ratio for arm in comparison.arms],
    }


def _answer(everything: dict[str, Any], margin: float, default_ratio: float) -> str:
    name = f"Masking {100 * default_ratio:g} % of the variance"
    count, verdict = everything["comparisons"], everything["verdict"]
    if not count:
        return f"No answer yet: {name.lower()} was not confirmed beside another ratio with at least 2 paired seeds."
    where = f"in {count} comparison{'s' * (count != 1)} on {everything['datasets']} data set" + "s" * (
        everything["datasets"] != 1
    )
    points = f"{100 * margin:g} point{'s' * (margin != 0.01)} of accuracy"
    if verdict == "holds":
        return (
            f"{name} holds up: {where} it costs less than {points} against the best ratio "
            f"(largest upper bound {100 * everything['largest_ci_high']:.2f})."
        )
    if verdict == "fails":
        return f"{name} does not hold up: {where} it costs more than {points} on {', '.join(everything['fails_on'])}."
    return (
        f"It is open whether {name[0].lower()}{name[1:]} holds up within {points}: {where} the largest upper bound is "
        f"{100 * everything['largest_ci_high']:.2f} points."
    )


def _one_table(trials: Trials | Sequence[Trials]) -> pa.Table:
    parts = [trials] if isinstance(trials, (pa.Table, Study)) else list(trials)
    studies = iter(named_apart([part for part in parts if isinstance(part, Study)]))
    tables = []
    for part in (next(studies) if isinstance(part, Study) else part for part in parts):
        table = part.trials if isinstance(part, Study) else part
        if not isinstance(table, pa.Table):
            raise StudyError(f"trials is a {type(table).__name__}; give a pyarrow Table, a Study, or several of them")
        tables.append(table)
    if not tables:
        raise StudyError("there is nothing to judge; give a table or a study")
    return tables[0] if len(tables) == 1 else pa.concat_tables(tables, promote_options="permissive")


def _place(arms: Sequence[Arm], ratio: float) -> int | None:
    return next((i for i, arm in enumerate(arms) if _same(arm.ratio, ratio)), None)


def _same(a: float, b: float) -> bool:
    return abs(a - b) < RATIO_TOLERANCE


def _check(value: Any, name: str, low: float, high: float) -> None:
    if not isinstance(value, (int, float, np.number)) or not low < value < high or math.isnan(value):
        raise StudyError(f"{name} is {value!r}; it must be a fraction strictly between {low:g} and {high:g}")

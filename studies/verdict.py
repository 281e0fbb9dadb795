"""Does a default ratio hold up? Judges the ladder of confirmed ratios: one row per data set, method and patch setting.

- *holds*: against every rung the upper bound of the loss is below the margin. A rung that is missing, or differences
  without any variance, never allow it.
- *fails*: some rung's lower bound, simultaneous over all rungs, is above the margin.
- *uninformative*: training does not beat an untrained encoder by more than the margin, or the training loss is not
  below that of predicting the mean. No ratio could matter then, so neither of the above would mean anything (*assay
  sensitivity* in non-inferiority trials).
- *inconclusive*: anything else; the answer still says what the default loses at most.

Rows are grouped and paired in ``comparisons.py``; the bounds are in ``regret.py``, levels for several looks in
``sequential.py``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from studies.comparisons import SAME_SHARE, Comparison, Rung, collect, confirmed_rows
from studies.errors import StudyError
from studies.margin import Margin
from studies.records import Study
from studies.regret import MIN_SEEDS, Contrast, Noise, contrast, estimate_noise, seeds_needed
from studies.sentences import at_least, at_most, count, percent, points, ratio_list
from studies.sequential import level_for_look
from studies.several import named_apart

VERDICT_VERSION = 2
MARGIN, DEFAULT_RATIO, MAE_DEFAULT_RATIO = 0.01, 0.20, 0.75
ALPHA = 0.05
RATIO_TOLERANCE = 1e-4  # ratios of a search carry rounding
VERDICTS = ("holds", "fails", "inconclusive", "uninformative")

Trials: TypeAlias = pa.Table | Study


@dataclass(frozen=True)
class Looks:
    """Seeds in rounds, the verdict computed after each: ``seeds_per_round`` and how many rounds there are at most."""

    seeds_per_round: int
    rounds: int

    @classmethod
    def of(cls, plan: Mapping[str, Any]) -> Looks | None:
        """The rounds that a study's plan names; None where it judges once."""
        looks = plan.get("looks")
        return cls(int(looks["seeds_per_round"]), int(looks["rounds"])) if looks else None

    def level(self, seeds: int, alpha: float) -> float:
        """Level of a bound on ``seeds`` seeds, so that all rounds together err with at most ``alpha``."""
        look = min(max(-(-seeds // self.seeds_per_round), 1), self.rounds)
        return level_for_look(look, self.rounds, alpha)


@dataclass(frozen=True)
class Verdict:
    """What :func:`judge` found; :meth:`to_dict` is the content of ``verdict.json``."""

    answer: str
    rows: list[dict[str, Any]]
    overall: dict[str, Any]
    warnings: list[str] = field(default_factory=list)
    alpha: float = ALPHA

    def to_dict(self) -> dict[str, Any]:
        """JSON types only: numbers that do not exist are None."""
        return {
            "schema_version": VERDICT_VERSION,
            "answer": self.answer,
            "alpha": self.alpha,
            "rows": self.rows,
            "overall": self.overall,
            "warnings": self.warnings,
        }


def judge(
    trials: Trials | Sequence[Trials],
    *,
    margin: float | str | None = None,
    default_ratio: float | None = None,
    mae_default_ratio: float | None = None,
    alpha: float | None = None,
    looks: Looks | None = None,
    ladder: Mapping[str, Sequence[float]] | None = None,
) -> Verdict:
    """Judge the defaults against every other confirmed ratio of the same data set and patch setting.

    Args:
        trials: A table with the columns of ``TRIAL_SCHEMA`` (those that a verdict does not need may be missing), a
            study, or several of either. Rows with phase ``confirm`` or ``control`` and status ``done`` count.
        margin: Largest loss that still counts as holding up: a fraction of accuracy, or a share of the training gain
            such as ``"10%"`` (the default keeps at least 90 % of the gain over the untrained encoder).
        default_ratio: PMAE's default variance ratio.
        mae_default_ratio: MAE's default patch ratio.
        alpha: One-sided level of the whole verdict.
        looks: The rounds after which the verdict was computed; None means once.
        ladder: Planned nominal ratios by method; one that no trial has counts as missing.

    What is None is taken from the plan of the (first) study, else 0.01, 0.20, 0.75, 0.05, one look and no ladder.

    Raises:
        StudyError: a missing column, accuracies that are not fractions, or settings out of range.
    """
    plan = _plan_of(trials)
    allowed = Margin.parse(_first(margin, plan.get("margin"), MARGIN))
    level = float(_first(alpha, plan.get("alpha"), ALPHA))
    _check(level, "alpha", 0, 0.5)
    defaults = {
        "pmae": float(_first(default_ratio, plan.get("default_ratio"), DEFAULT_RATIO)),
        "mae": float(_first(mae_default_ratio, plan.get("mae_default_ratio"), MAE_DEFAULT_RATIO)),
    }
    for ratio in defaults.values():
        _check(ratio, "a default ratio", 0, 1)
    looks = looks or Looks.of(plan)
    planned = _first(ladder, plan.get("ladder"), {})
    confirmed, controls, warnings = confirmed_rows(_one_table(trials))
    found = collect(confirmed, controls)
    rules = _Rules(allowed, level, looks, {method: tuple(ratios) for method, ratios in planned.items()})
    rows = []
    for comparison in found.comparisons:
        method = comparison.group.method
        if method in defaults:
            rows.append(_judge_comparison(comparison, defaults[method], rules))
    rows.sort(key=lambda row: row["kind"] != "default")
    return Verdict(
        answer=_answer(rows, allowed),
        rows=rows,
        overall=overall(rows, allowed),
        warnings=[*warnings, *found.warnings],
        alpha=level,
    )


@dataclass(frozen=True)
class _Rules:
    margin: Margin
    alpha: float
    looks: Looks | None
    ladder: Mapping[str, tuple[float, ...]]

    def level(self, seeds: int) -> float:
        return self.alpha if self.looks is None else self.looks.level(seeds, self.alpha)


@dataclass(frozen=True)
class _Measured:
    """The contrasts of one comparison; ``others`` are the columns of the rungs that the default is compared with."""

    default: int
    others: tuple[int, ...]
    noise: Noise  # of the default's column and those of the others, in this order
    differences: dict[int, Contrast]  # rung minus default
    excesses: dict[int, Contrast]  # what must be below the margin (points) or below 0 (share)
    gains: dict[int, Contrast]  # rung minus untrained encoder; empty without that control


def _judge_comparison(comparison: Comparison, ratio: float, rules: _Rules) -> dict[str, Any]:
    default, twins = _place(comparison.rungs, ratio), _twins(comparison.rungs, ratio)
    excluded, missing = _excluded(comparison, twins, rules)
    others = tuple(k for k in range(len(comparison.rungs)) if k != default and k not in twins)
    row = _blank_row(comparison, ratio, default, others, rules, excluded)
    if default is None:
        return row | {
            "reason": f"the default {ratio:g} has too few usable trials; at least {MIN_SEEDS} seeds are needed"
        }
    if not others:
        return row | {"reason": "no other ratio was confirmed"}
    measured = _measure(comparison, default, others, rules.margin)
    seeds = int(np.isfinite(comparison.test[:, default]).sum())
    paired = {k: c for k, c in measured.differences.items() if c.usable}
    if not paired:
        fewest = min(c.seeds for c in measured.differences.values())
        return row | {
            "reason": f"{fewest} paired seeds; at least {MIN_SEEDS} are needed",
            "seeds_needed": max(MIN_SEEDS - fewest, 1),
        }
    unpaired = [k for k in others if k not in paired]
    for k in unpaired:
        excluded.append(f"ratio {percent(comparison.rungs[k].achieved)} shares too few seeds with the default")
    row |= _numbers(comparison, measured, rules)
    checks = _checks(comparison, measured, row, not (missing or unpaired))
    verdict, reason = _decide(measured, row, checks, rules)
    needed = None
    if verdict == "inconclusive" and rules.looks is None and not (missing or unpaired):
        limit = row["margin"] if row["margin"] is not None else 0.0
        needed = seeds_needed(list(paired.values()), limit, rules.alpha)
        if needed is None and reason is None:
            reason = "a difference is about as large as the margin: no number of seeds is likely to settle it"
    return row | {
        "verdict": verdict, "reason": reason, "seeds": seeds, "seeds_needed": needed, "checks": checks,
    }  # fmt: skip


def _excluded(comparison: Comparison, twins: set[int], rules: _Rules) -> tuple[list[str], list[float]]:
    """Sentences about what is left out, and the planned ratios without a usable rung."""
    excluded = list(comparison.left_out)
    tried = [arm.ratio for arm in comparison.tried]
    kept = [rung.arm.ratio for rung in comparison.rungs]
    missing = [r for r in tried if not any(_same(r, k) for k in kept)]
    for planned in rules.ladder.get(comparison.group.method, ()):
        if not any(_same(planned, r) for r in tried):
            excluded.append(f"ratio {planned:g} of the ladder has no trial")
            missing.append(planned)
    for k in sorted(twins):
        rung = comparison.rungs[k]
        excluded.append(f"ratio {rung.arm.ratio:g} masks the same {percent(rung.achieved)} as another rung")
    return excluded, missing


def _twins(rungs: Sequence[Rung], ratio: float) -> set[int]:
    """Columns whose nominal ratio differs from another rung's, but which mask the same share."""
    order = sorted(range(len(rungs)), key=lambda k: (not _same(rungs[k].arm.ratio, ratio), k))
    kept: list[int] = []
    twins = set()
    for k in order:
        exact = rungs[k].achieved_sd in (None, 0.0) and not _same(rungs[k].achieved, rungs[k].arm.ratio)
        near = any(abs(rungs[k].achieved - rungs[o].achieved) < SAME_SHARE for o in kept)
        if near and (exact or any(rungs[o].achieved_sd in (None, 0.0) for o in kept)):
            twins.add(k)
        else:
            kept.append(k)
    return twins


def _measure(comparison: Comparison, default: int, others: tuple[int, ...], margin: Margin) -> _Measured:
    table, untrained = comparison.test, comparison.controls.get("untrained")
    place = {k: i for i, k in enumerate((default, *others))}
    chosen = table[:, [default, *others]]
    noise = estimate_noise(chosen)
    differences = {k: contrast(chosen, noise, {place[k]: 1.0, 0: -1.0}) for k in others}
    excesses, gains = differences, {}
    if untrained is not None:
        joined = np.column_stack([chosen, untrained])
        wide, last = estimate_noise(joined), len(place)
        gains = {k: contrast(joined, wide, {place[k]: 1.0, last: -1.0}) for k in (default, *others)}
        if margin.share is not None:
            kept = 1 - margin.share
            excesses = {
                k: contrast(joined, wide, {place[k]: kept, last: margin.share, 0: -1.0}) for k in others
            }  # fmt: skip
    return _Measured(default, others, noise, differences, excesses, gains)


def _numbers(comparison: Comparison, measured: _Measured, rules: _Rules) -> dict[str, Any]:
    """Regret, bounds, gain and rungs of a row."""
    rungs, family = comparison.rungs, len(measured.others)
    usable = {k: c for k, c in measured.differences.items() if c.usable}
    advantage = {measured.default: 0.0, **{k: c.estimate for k, c in usable.items()}}
    best = max(advantage, key=lambda k: advantage[k])
    low = max([0.0, *(c.lower(rules.level(c.seeds), family) for c in usable.values())])
    high = max([0.0, *(c.upper(rules.level(c.seeds)) for c in usable.values())])
    gain = gain_low = None
    gains = {k: c for k, c in measured.gains.items() if c.usable}
    if gains:
        gain = max(c.estimate for c in gains.values())
        gain_low = max(c.lower(rules.level(c.seeds), len(gains)) for c in gains.values())
    limit = rules.margin.points
    if rules.margin.share is not None:
        limit = None if gain is None else rules.margin.share * max(gain, 0.0)
    return {
        "ratios": [rungs[k].achieved for k in measured.others],
        "best_ratio": rungs[best].achieved,
        "regret": advantage[best],
        "ci_low": low,
        "ci_high": high,
        "margin": limit,
        "training_gain": gain,
        "training_gain_low": gain_low,
        "alpha": max(rules.level(c.seeds) for c in usable.values()),
        "rungs": _rung_rows(comparison, measured, rules),
    }


def _rung_rows(comparison: Comparison, measured: _Measured, rules: _Rules) -> list[dict[str, Any]]:
    table, columns = comparison.test, (measured.default, *measured.others)
    chosen, noise = table[:, columns], measured.noise
    rows = []
    for place, k in enumerate(columns):
        rung, difference = comparison.rungs[k], measured.differences.get(k)
        # The same bounds with this rung in the default's place: may it be the best, and what would it lose?
        rivals = [contrast(chosen, noise, {other: 1.0, place: -1.0}) for other in range(len(columns)) if other != place]
        rivals = [c for c in rivals if c.usable]
        rows.append(
            {
                "ratio": rung.achieved,
                "achieved_sd": rung.achieved_sd,
                "nominal_ratio": rung.arm.ratio,
                "seeds": int(np.isfinite(table[:, k]).sum()),
                "accuracy": float(np.nanmean(table[:, k])),
                "difference": difference.estimate if difference is not None and difference.seeds else None,
                "low": _bound(difference, lambda c: c.lower(rules.level(c.seeds))),
                "high": _bound(difference, lambda c: c.upper(rules.level(c.seeds))),
                "may_be_best": all(c.lower(rules.level(c.seeds), len(rivals)) <= 0 for c in rivals),
                "regret_high": max([0.0, *(c.upper(rules.level(c.seeds)) for c in rivals)]) if rivals else None,
                "train_loss": rung.train_loss,
                "is_default": k == measured.default,
            }
        )
    return sorted(rows, key=lambda row: row["ratio"])


def _bound(difference: Contrast | None, of: Any) -> float | None:
    return float(of(difference)) if difference is not None and difference.usable else None


def _checks(
    comparison: Comparison, measured: _Measured, row: Mapping[str, Any], complete: bool
) -> list[dict[str, Any]]:
    """What must be true for a verdict to mean anything; ``passed`` is None where the table does not say."""
    gain, low, limit = row["training_gain"], row["training_gain_low"], row["margin"]
    if gain is None or low is None or limit is None:
        trained: dict[str, Any] = {"passed": None, "detail": "no untrained encoder was measured with the same seeds"}
    elif not math.isfinite(low):
        trained = {"passed": False, "detail": f"it adds {points(gain)}, without a bound: too few seeds"}
    else:
        trained = {"passed": low > limit, "detail": f"it adds {points(gain)}, at least {at_least(low)}"}
    problems = [rung for rung in comparison.rungs if rung.problems]
    losses = [comparison.rungs[k].train_loss for k in (measured.default, *measured.others)]
    known = [loss for loss in losses if loss is not None]
    # Whether a loss is relative to predicting the mean is known only where our own trainer left its note.
    relative = bool(problems) or comparison.evaluation is not None
    if not known or not relative:
        learned: dict[str, Any] = {"passed": None, "detail": "the table does not say"}
    else:
        learned = {
            "passed": min(known) < 1,
            "detail": f"final losses are {min(known):.2g} to {max(known):.2g} of that of predicting the mean"
            + (f"; trouble at {ratio_list([r.achieved for r in problems])}" if problems else ""),
        }
    constant = [k for k, c in measured.differences.items() if c.constant]
    varied = {
        "passed": not constant,
        "detail": f"{ratio_list([comparison.rungs[k].achieved for k in constant])} differ from the default by the same "
        "amount for every seed: copied rows?"
        if constant
        else "differences vary over seeds",
    }
    rungs = {
        "passed": complete,
        "detail": f"{count(len(measured.others), 'ratio')} next to the default"
        if complete
        else "; ".join(row["excluded"]) or "some seeds are missing",
    }
    return [
        {"name": "training beats the untrained encoder", **trained},
        {"name": "loss below predicting the mean", **learned},
        {"name": "all rungs complete", **rungs},
        {"name": "seeds vary", **varied},
    ]


def _decide(
    measured: _Measured, row: Mapping[str, Any], checks: Sequence[Mapping[str, Any]], rules: _Rules
) -> tuple[str, str | None]:
    trained, learned, complete, varied = (check["passed"] for check in checks)
    if trained is False:
        detail = checks[0]["detail"]
        return "uninformative", (
            f"training does not clearly beat an untrained encoder: {detail}, which is not above the margin, so that no "
            "ratio can be told from another; train longer (--steps), use smaller patches (--patch-sizes) or more images"
        )
    if learned is False:
        return "uninformative", (
            f"the training loss is not below that of predicting the mean ({checks[1]['detail']}); lower the learning "
            "rate (--learning-rate) or train longer (--steps)"
        )
    limit = 0.0 if rules.margin.share is not None else (rules.margin.points or 0.0)
    if rules.margin.share is not None and not measured.gains:
        return "inconclusive", "a margin that is a share of the training gain needs the untrained control"
    bounded = {k: c for k, c in measured.excesses.items() if c.usable}
    worst = [
        c for c in bounded.values() if c.lower(rules.level(c.seeds), len(measured.others)) > limit and not c.constant
    ]
    if worst:
        return "fails", None
    if len(bounded) == len(measured.others) and all(c.upper(rules.level(c.seeds)) < limit for c in bounded.values()):
        if not complete:
            return "inconclusive", f"rungs are missing: {checks[2]['detail']}"
        if not varied:
            return "inconclusive", checks[3]["detail"]
        if trained is None:
            return "inconclusive", "no untrained encoder was measured: whether any ratio could matter is not known"
        return "holds", None
    return "inconclusive", None


def _blank_row(
    comparison: Comparison,
    ratio: float,
    default: int | None,
    others: tuple[int, ...],
    rules: _Rules,
    excluded: list[str],
) -> dict[str, Any]:
    group = comparison.group
    seeds = 0 if default is None else int(np.isfinite(comparison.test[:, default]).sum())
    controls = {name: float(np.nanmean(v)) for name, v in comparison.controls.items() if np.isfinite(v).any()}
    return {
        "study": group.study,
        "dataset": group.dataset,
        "method": group.method,
        "strategy": group.strategy,
        "basis": group.basis,
        "patch_size": group.patch_size,
        "patch_stride": group.patch_stride,
        "mask_unit": group.mask_unit,
        "kind": "default" if group.method == "pmae" else "mae_default",
        "default_ratio": ratio,
        "default_achieved": None if default is None else comparison.rungs[default].achieved,
        "ratios": [comparison.rungs[k].achieved for k in others],
        "best_ratio": None,
        "regret": None,
        "ci_low": None,
        "ci_high": None,
        "margin": rules.margin.points,
        "margin_share": rules.margin.share,
        "alpha": rules.alpha,
        "verdict": "inconclusive",
        "seeds": seeds,
        "seeds_needed": None,
        "reason": None,
        "training_gain": None,
        "training_gain_low": None,
        "untrained": controls.get("untrained"),
        "pixels": controls.get("pixels"),
        "evaluation": comparison.evaluation,
        "excluded": excluded,
        "checks": [],
        "rungs": [],
    }


def overall(rows: Sequence[Mapping[str, Any]], margin: Margin) -> dict[str, Any]:
    """The joint verdict on PMAE's default over all comparisons, and on MAE's, as JSON types."""
    main = _joint(_claimed([row for row in rows if row["kind"] == "default"]), margin)
    return main | {"mae_default": _joint(_claimed([row for row in rows if row["kind"] == "mae_default"]), margin)}


def _claimed(rows: list[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Rows on plain ratios of principal components or patches, which the papers' claims are about, if there are any."""
    plain = [
        row
        for row in rows
        if row["strategy"] in (None, "expected", "fixed", "random") and row["basis"] in (None, "pca")
    ]
    return plain or rows


def _joint(rows: Sequence[Mapping[str, Any]], margin: Margin) -> dict[str, Any]:
    """*holds* needs every comparison to hold (intersection-union); one that fails is named, whatever the others do."""
    found = [row["verdict"] for row in rows]
    if "fails" in found:
        verdict = "fails"
    elif found and all(v == "holds" for v in found):
        verdict = "holds"
    elif found and all(v == "uninformative" for v in found):
        verdict = "uninformative"
    else:
        verdict = "inconclusive"
    return {
        "verdict": verdict,
        "margin": margin.points,
        "margin_share": margin.share,
        "comparisons": len(rows),
        "datasets": len({row["dataset"] for row in rows}),
        "fails_on": sorted({row["dataset"] for row in rows if row["verdict"] == "fails"}),
        "largest_ci_high": max((row["ci_high"] for row in rows if row["ci_high"] is not None), default=None),
    }


def _answer(rows: Sequence[Mapping[str, Any]], margin: Margin) -> str:
    main = _claimed([row for row in rows if row["kind"] == "default"]) or _claimed(list(rows))
    if not main:
        return "No answer yet: no ratio was confirmed with at least 2 paired seeds."
    return " ".join(row_answer(row, margin.text) for row in main)


def row_answer(row: Mapping[str, Any], margin: str) -> str:
    """The verdict of one row as a sentence that names the ratios compared, the loss at most, and the seeds."""
    share = "of the variance" if row["method"] == "pmae" else "of the patches"
    name = f"masking {100 * row['default_ratio']:g} % {share}"
    patch = "" if row["patch_size"] is None else f" (patch {row['patch_size']})"
    where = f"on {row['dataset']}{patch}"
    if row["ci_high"] is None:
        return f"No answer yet for {name} {where}: {row['reason']}."
    against = f"against {ratio_list(row['ratios'])} it loses at most {at_most(row['ci_high'])}"
    basis = f"({100 * (1 - row['alpha']):.3g} % confidence, {row['seeds']} paired seeds)"
    gain = ""
    if row["training_gain"] is not None:
        gain = f" Training adds {points(row['training_gain'])} to an untrained encoder."
    if row["verdict"] == "holds":
        return f"{name[0].upper()}{name[1:]} holds up {where}: {against} {basis}.{gain}"
    if row["verdict"] == "fails":
        return (
            f"{name[0].upper()}{name[1:]} does not hold up {where}: masking {percent(row['best_ratio'])} is better by "
            f"{points(row['regret'])}, and the best ratio by at least {at_least(row['ci_low'])} {basis}.{gain}"
        )
    if row["verdict"] == "uninformative":
        return f"The study {where} cannot judge {name}: {row['reason']}."
    reason = f"; {row['reason']}" if row["reason"] else ""
    return f"It is open whether {name} holds up within {margin} {where}: {against} {basis}{reason}.{gain}"


def _plan_of(trials: Any) -> Mapping[str, Any]:
    parts = [trials] if isinstance(trials, (pa.Table, Study)) else list(trials)
    return parts[0].plan if len(parts) == 1 and isinstance(parts[0], Study) else {}


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


def _place(rungs: Sequence[Rung], ratio: float) -> int | None:
    exact = next((k for k, rung in enumerate(rungs) if _same(rung.arm.ratio, ratio)), None)
    if exact is not None:
        return exact
    return next((k for k, rung in enumerate(rungs) if _same(rung.achieved, ratio)), None)


def _same(a: float, b: float) -> bool:
    return abs(a - b) < RATIO_TOLERANCE


def _first(*values: Any) -> Any:
    return next(value for value in values if value is not None)


def _check(value: Any, name: str, low: float, high: float) -> None:
    if not isinstance(value, (int, float, np.number)) or not low < value < high or math.isnan(value):
        raise StudyError(f"{name} is {value!r}; it must be a fraction strictly between {low:g} and {high:g}")

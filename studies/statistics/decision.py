"""The decision about one comparison: holds, fails, inconclusive or uninformative, with its numbers and checks.

- *holds*: against every rung the upper bound of the loss is below the margin. A rung that is missing, or differences
  without any variance, never allow it.
- *fails*: some rung's lower bound, simultaneous over all rungs, is above the margin.
- *uninformative*: training does not beat an untrained encoder by more than the margin, or the training loss is not
  below that of predicting the mean. No ratio could matter then, so neither of the above would mean anything (*assay
  sensitivity* in non-inferiority trials).
- *inconclusive*: anything else; the answer still says what the default loses at most.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from studies.formatting import at_least, count, percent, points, ratio_list
from studies.statistics.margin import Margin
from studies.statistics.pairing import SAME_SHARE, Comparison, Rung
from studies.statistics.regret import MIN_SEEDS, Contrast, Noise, contrast, estimate_noise, seeds_needed
from studies.statistics.rows import Check, RungRow, VerdictRow
from studies.statistics.sequential import Looks

RATIO_TOLERANCE = 1e-4  # ratios of a search carry rounding
FAILED_LOSS = 1.05  # of predicting the mean: training at 90 % masked may end at 1.0 without having diverged


@dataclass(frozen=True)
class Rules:
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


def judge_comparison(comparison: Comparison, ratio: float, rules: Rules) -> VerdictRow:
    """Judge the default ``ratio`` against every other rung of ``comparison``."""
    default, twins = _place(comparison.rungs, ratio), _twins(comparison.rungs, ratio)
    excluded, missing = _excluded(comparison, twins, rules)
    others = tuple(k for k in range(len(comparison.rungs)) if k != default and k not in twins)
    row = _blank_row(comparison, ratio, default, others, rules, excluded)
    if default is None:
        row["reason"] = f"the default {ratio:g} has too few usable trials; at least {MIN_SEEDS} seeds are needed"
        return row
    if not others:
        row["reason"] = "no other ratio was confirmed"
        return row
    measured = _measure(comparison, default, others, rules.margin)
    paired = {k: c for k, c in measured.differences.items() if c.usable}
    if not paired:
        fewest = min(c.seeds for c in measured.differences.values())
        row["reason"] = f"{fewest} paired seeds; at least {MIN_SEEDS} are needed"
        row["seeds_needed"] = max(MIN_SEEDS - fewest, 1)
        return row
    unpaired = [k for k in others if k not in paired]
    for k in unpaired:
        excluded.append(f"ratio {percent(comparison.rungs[k].achieved)} shares too few seeds with the default")
    _fill_numbers(row, comparison, measured, rules)
    complete = not (missing or unpaired)
    row["checks"] = _checks(comparison, measured, row, complete)
    row["seeds"] = int(np.isfinite(comparison.test[:, default]).sum())
    row["verdict"], row["reason"] = _decide(measured, comparison.rungs[default].train_loss, row["checks"], rules)
    if row["verdict"] == "inconclusive" and rules.looks is None and complete:
        row["seeds_needed"] = seeds_needed(list(paired.values()), row["margin"] or 0.0, rules.alpha)
        if row["seeds_needed"] is None and row["reason"] is None:
            row["reason"] = "a difference is about as large as the margin: no number of seeds is likely to settle it"
    return row


def _excluded(comparison: Comparison, twins: set[int], rules: Rules) -> tuple[list[str], list[float]]:
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


def _fill_numbers(row: VerdictRow, comparison: Comparison, measured: _Measured, rules: Rules) -> None:
    """Regret, bounds, gain and rungs of ``row``."""
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
    row["ratios"] = [rungs[k].achieved for k in measured.others]
    row["best_ratio"] = rungs[best].achieved
    row["regret"] = advantage[best]
    row["ci_low"] = low
    row["ci_high"] = high
    row["margin"] = limit
    row["training_gain"] = gain
    row["training_gain_low"] = gain_low
    row["alpha"] = max(rules.level(c.seeds) for c in usable.values())
    row["rungs"] = _rung_rows(comparison, measured, rules)


def _rung_rows(comparison: Comparison, measured: _Measured, rules: Rules) -> list[RungRow]:
    table, columns = comparison.test, (measured.default, *measured.others)
    chosen, noise = table[:, columns], measured.noise
    rows: list[RungRow] = []
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


def _bound(difference: Contrast | None, of: Callable[[Contrast], float]) -> float | None:
    return float(of(difference)) if difference is not None and difference.usable else None


def _checks(comparison: Comparison, measured: _Measured, row: VerdictRow, complete: bool) -> list[Check]:
    """The conditions of a verdict, in the order that :func:`_decide` reads them."""
    return [
        Check(name=name, passed=passed, detail=detail)
        for name, (passed, detail) in {
            "training beats the untrained encoder": _check_gain(row),
            "loss below predicting the mean": _check_losses(comparison, measured),
            "all rungs complete": (
                complete,
                f"{count(len(measured.others), 'ratio')} next to the default"
                if complete
                else "; ".join(row["excluded"]) or "some seeds are missing",
            ),
            "seeds vary": _check_variation(comparison, measured),
        }.items()
    ]


def _check_gain(row: VerdictRow) -> tuple[bool | None, str]:
    gain, low, limit = row["training_gain"], row["training_gain_low"], row["margin"]
    if gain is None or low is None or limit is None:
        return None, "no untrained encoder was measured with the same seeds"
    if not math.isfinite(low):
        return False, f"it adds {points(gain)}, without a bound: too few seeds"
    return low > limit, f"it adds {points(gain)}, at least {at_least(low)}"


def _check_losses(comparison: Comparison, measured: _Measured) -> tuple[bool | None, str]:
    """Whether the default's final loss is below that of predicting the mean, and no other rung's is clearly above."""
    rungs = [comparison.rungs[k] for k in (measured.default, *measured.others)]
    losses = [rung.train_loss for rung in rungs if rung.train_loss is not None]
    # Whether a loss is relative to predicting the mean is known only where our own trainer left its note.
    relative = comparison.evaluation is not None or any(rung.problems for rung in rungs)
    if not losses or not relative:
        return None, "the table does not say"
    detail = f"final losses are {min(losses):.2g} to {max(losses):.2g} of that of predicting the mean"
    trouble = [r.achieved for r in rungs if r.problems or (r.train_loss is not None and r.train_loss >= 1)]
    if trouble:
        detail += f"; trouble at {ratio_list(sorted(trouble))}"
    default_loss = rungs[0].train_loss
    return (default_loss is None or default_loss < 1) and max(losses) < FAILED_LOSS, detail


def _check_variation(comparison: Comparison, measured: _Measured) -> tuple[bool, str]:
    """Whether accuracies vary as those of separately trained models do."""
    rungs = comparison.rungs
    constant = [rungs[k].achieved for k, c in measured.differences.items() if c.constant]
    if constant:
        return False, f"{ratio_list(constant)} differ from the default by the same amount for every seed: copied rows?"
    copies = [rungs[k].achieved for k in _identical_rungs(comparison.test, (measured.default, *measured.others))]
    if copies:
        return False, f"{ratio_list(copies)} have the same accuracies for every seed: copied rows?"
    return True, "differences vary over seeds"


def _identical_rungs(table: np.ndarray, columns: Sequence[int]) -> list[int]:
    """The first two rungs whose accuracies are the same for at least three seeds and differ for none."""
    for place, a in enumerate(columns):
        for b in columns[place + 1 :]:
            both = np.isfinite(table[:, a]) & np.isfinite(table[:, b])
            if both.sum() >= 3 and (table[both, a] == table[both, b]).all():
                return [a, b]
    return []


def _decide(
    measured: _Measured, default_loss: float | None, checks: Sequence[Check], rules: Rules
) -> tuple[str, str | None]:
    trained, losses_below, complete, varied = (check["passed"] for check in checks)
    if trained is False:
        detail = checks[0]["detail"]
        return "uninformative", (
            f"training does not clearly beat an untrained encoder: {detail}, which is not above the margin, so that no "
            "ratio can be told from another; train longer (--steps), use smaller patches (--patch-sizes) or more images"
        )
    if losses_below is False and (default_loss is None or default_loss >= 1):
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
        if losses_below is False:
            return "inconclusive", f"a rung did not learn: {checks[1]['detail']}"
        if trained is None:
            return "inconclusive", "no untrained encoder was measured: whether any ratio could matter is not known"
        return "holds", None
    return "inconclusive", None


def _blank_row(
    comparison: Comparison,
    ratio: float,
    default: int | None,
    others: tuple[int, ...],
    rules: Rules,
    excluded: list[str],
) -> VerdictRow:
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


def _place(rungs: Sequence[Rung], ratio: float) -> int | None:
    exact = next((k for k, rung in enumerate(rungs) if _same(rung.arm.ratio, ratio)), None)
    if exact is not None:
        return exact
    return next((k for k, rung in enumerate(rungs) if _same(rung.achieved, ratio)), None)


def _same(a: float, b: float) -> bool:
    return abs(a - b) < RATIO_TOLERANCE

"""The decision about one comparison: holds, fails, inconclusive or uninformative, with its numbers and its sentence.

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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from studies.errors import StudyError
from studies.formatting import at_least, at_most, count, percent, points, ratio_list, share_of
from studies.statistics.pairing import PLAIN, SAME_SHARE, Comparison, Rung
from studies.statistics.regret import MIN_SEEDS, Contrast, Noise, estimate_contrast, estimate_noise, seeds_needed
from studies.statistics.sequential import Looks
from studies.storage.rows import Check, RungRow, VerdictRow

RATIO_TOLERANCE = 1e-4  # ratios of a search carry rounding
FAILED_LOSS = 1.05  # of predicting the mean: training at 90 % masked may end at 1.0 without having diverged


@dataclass(frozen=True)
class Margin:
    """Largest loss that still counts as holding up: points of accuracy, or a share of the training gain."""

    points: float | None
    share: float | None = None

    @classmethod
    def parse(cls, value: float | str) -> Margin:
        """A fraction of accuracy such as 0.01, or a share of the training gain such as ``"10%"``; else a StudyError."""
        text = str(value).strip()
        share = text.endswith("%")
        try:
            number = float(text.removesuffix("%")) / (100 if share else 1)
        except ValueError:
            number = math.nan
        if not 0 < number < 1:
            raise StudyError(
                f"margin is {value!r}; give a fraction of accuracy in (0, 1) such as 0.01 (one point), or a share of "
                "the training gain such as 10%"
            )
        return cls(None, number) if share else cls(number)

    @property
    def value(self) -> float | str:
        """What :meth:`parse` reads: a fraction of accuracy, or a share such as ``10%``."""
        return f"{100 * self.share:g}%" if self.share is not None else self.points or 0.0

    @property
    def text(self) -> str:
        """``1 point`` or ``10 % of the training gain``."""
        if self.share is not None:
            return f"{100 * self.share:g} % of the training gain"
        return points(self.points or 0.0)


@dataclass(frozen=True)
class Rules:
    """What is fixed before a study: margin, one-sided level, rounds, and the planned nominal ratios by method."""

    margin: Margin
    alpha: float
    looks: Looks | None
    ladder: Mapping[str, Sequence[float]]

    def level(self, seeds: int) -> float:
        """Level of a bound on ``seeds`` seeds."""
        return self.alpha if self.looks is None else self.looks.level(seeds, self.alpha)


@dataclass(frozen=True)
class _Contrasts:
    """The contrasts of one comparison; ``others`` are the columns of the rungs that the default is compared with."""

    default: int
    others: tuple[int, ...]
    noise: Noise  # of the default's column and those of the others, in this order
    differences: dict[int, Contrast]  # rung minus default
    excesses: dict[int, Contrast]  # what must be below the margin (points) or below 0 (share)
    gains: dict[int, Contrast]  # rung minus untrained encoder; empty without that control


def judge_comparison(comparison: Comparison, ratio: float, rules: Rules) -> VerdictRow:
    """Judge the default ``ratio`` against every other rung of ``comparison``."""
    rungs = comparison.rungs
    same = (rung.ratio for rung in rungs), (rung.achieved for rung in rungs)
    default = next((k for shares in same for k, share in enumerate(shares) if _same(share, ratio)), None)
    twins = _twins(rungs, ratio)
    excluded, missing = _excluded(comparison, twins, rules)
    others = tuple(k for k in range(len(rungs)) if k != default and k not in twins)
    row = _blank_row(comparison, ratio, default, others, rules)
    row["excluded"] = excluded
    if default is None:
        row["reason"] = f"the default {ratio:g} has too few usable trials; at least {MIN_SEEDS} seeds are needed"
        return row
    row["seeds"] = int(np.isfinite(comparison.test[:, default]).sum())
    row["default_achieved"] = rungs[default].achieved
    if not others:
        row["reason"] = "no other ratio was confirmed"
        return row
    contrasts = _measure(comparison, default, others, rules.margin)
    paired = {k: c for k, c in contrasts.differences.items() if c.usable}
    if not paired:
        fewest = min(c.seeds for c in contrasts.differences.values())
        row["reason"] = f"{count(fewest, 'paired seed')}; at least {MIN_SEEDS} are needed"
        row["seeds_needed"] = max(MIN_SEEDS - fewest, 1)
        return row
    unpaired = [k for k in others if k not in paired]
    for k in unpaired:
        excluded.append(f"ratio {percent(rungs[k].achieved)} shares too few seeds with the default")
    _fill_numbers(row, comparison, contrasts, rules)
    if rungs[default].diverged:  # its accuracy is that of the runs that did not
        excluded.append(f"the default diverged in {count(rungs[default].diverged, 'further run')}")
    complete = not (missing or unpaired or rungs[default].diverged)
    row["checks"] = _checks(comparison, contrasts, row, complete)
    row["verdict"], row["reason"] = _decide(contrasts, rungs[default].train_loss, row["checks"], rules)
    if row["verdict"] == "inconclusive" and rules.looks is None and complete:
        # Of another study of the same images, which is judged at a second look's level, alpha / 4.
        row["seeds_needed"] = seeds_needed(list(paired.values()), row["margin"] or 0.0, rules.alpha / 4)
        if row["seeds_needed"] is None and row["reason"] is None:
            row["reason"] = "a difference is about as large as the margin: no number of seeds is likely to settle it"
    return row


def _twins(rungs: Sequence[Rung], ratio: float) -> set[int]:
    """Columns whose nominal ratio differs from another rung's, but which mask the same share."""
    order = sorted(range(len(rungs)), key=lambda k: (not _same(rungs[k].ratio, ratio), k))
    kept: list[int] = []
    twins = set()
    for k in order:
        exact = rungs[k].achieved_sd in (None, 0.0) and not _same(rungs[k].achieved, rungs[k].ratio)
        near = any(abs(rungs[k].achieved - rungs[o].achieved) < SAME_SHARE for o in kept)
        if near and (exact or any(rungs[o].achieved_sd in (None, 0.0) for o in kept)):
            twins.add(k)
        else:
            kept.append(k)
    return twins


def _excluded(comparison: Comparison, twins: set[int], rules: Rules) -> tuple[list[str], list[float]]:
    """Sentences about what is left out, and the planned ratios without a usable rung."""
    excluded = list(comparison.left_out)
    kept = [rung.ratio for rung in comparison.rungs]
    missing = [r for r in comparison.tried if not any(_same(r, k) for k in kept)]
    for planned in rules.ladder.get(comparison.setting.method, ()):
        if not any(_same(planned, r) for r in comparison.tried):
            excluded.append(f"ratio {planned:g} of the ladder has no trial")
            missing.append(planned)
    for k in sorted(twins):
        rung = comparison.rungs[k]
        excluded.append(f"ratio {rung.ratio:g} masks the same {percent(rung.achieved)} as another rung")
    return excluded, missing


def _blank_row(
    comparison: Comparison, ratio: float, default: int | None, others: tuple[int, ...], rules: Rules
) -> VerdictRow:
    """The row before anything is decided; what is not known is None."""
    controls = {name: float(np.nanmean(v)) for name, v in comparison.controls.items() if np.isfinite(v).any()}
    known: dict[str, Any] = {
        "study": comparison.study,
        **comparison.setting._asdict(),
        "kind": "default" if comparison.setting.method == "pmae" else "mae_default",
        "default_ratio": ratio,
        "ratios": [comparison.rungs[k].achieved for k in others],
        "margin": rules.margin.points,
        "margin_share": rules.margin.share,
        "alpha": rules.alpha,
        "verdict": "inconclusive",
        "seeds": 0,
        **controls,
        "evaluation": comparison.evaluation,
        "checks": [],
        "rungs": [],
    }
    return cast(VerdictRow, dict.fromkeys(VerdictRow.__annotations__) | known)


def _measure(comparison: Comparison, default: int, others: tuple[int, ...], margin: Margin) -> _Contrasts:
    table, untrained = comparison.test, comparison.controls.get("untrained")
    position = {k: i for i, k in enumerate((default, *others))}
    chosen = table[:, [default, *others]]
    noise = estimate_noise(chosen)
    differences = {k: estimate_contrast(chosen, noise, {position[k]: 1.0, 0: -1.0}) for k in others}
    excesses, gains = differences, {}
    if untrained is not None:
        joined = np.column_stack([chosen, untrained])
        wide, last = estimate_noise(joined), len(position)
        gains = {k: estimate_contrast(joined, wide, {position[k]: 1.0, last: -1.0}) for k in (default, *others)}
        if margin.share is not None:
            weights = {k: {position[k]: 1 - margin.share, last: margin.share, 0: -1.0} for k in others}
            excesses = {k: estimate_contrast(joined, wide, weights[k]) for k in others}
    return _Contrasts(default, others, noise, differences, excesses, gains)


def _fill_numbers(row: VerdictRow, comparison: Comparison, contrasts: _Contrasts, rules: Rules) -> None:
    """Regret, bounds, gain and rungs of ``row``."""
    rungs, family = comparison.rungs, len(contrasts.others)
    usable = {k: c for k, c in contrasts.differences.items() if c.usable}
    advantage = {contrasts.default: 0.0, **{k: c.estimate for k, c in usable.items()}}
    best = max(advantage, key=lambda k: advantage[k])
    row["best_ratio"], row["regret"] = rungs[best].achieved, advantage[best]
    row["ci_low"] = max([0.0, *(c.lower(rules.level(c.seeds), family) for c in usable.values())])
    row["ci_high"] = max([0.0, *(c.upper(rules.level(c.seeds)) for c in usable.values())])
    gains = [c for c in contrasts.gains.values() if c.usable]
    if gains:
        row["training_gain"] = gain = max(c.estimate for c in gains)
        row["training_gain_low"] = max(c.lower(rules.level(c.seeds), len(gains)) for c in gains)
        if rules.margin.share is not None:
            row["margin"] = rules.margin.share * max(gain, 0.0)
    row["rungs"] = _rung_rows(comparison, contrasts, rules)


def _rung_rows(comparison: Comparison, contrasts: _Contrasts, rules: Rules) -> list[RungRow]:
    table, columns = comparison.test, (contrasts.default, *contrasts.others)
    chosen, noise = table[:, columns], contrasts.noise
    rows: list[RungRow] = []
    for index, k in enumerate(columns):
        rung, difference = comparison.rungs[k], contrasts.differences.get(k)
        bounded = difference if difference is not None and difference.usable else None
        # The same bounds with this rung in the default's place: may it be the best, and what would it lose?
        weights = ({other: 1.0, index: -1.0} for other in range(len(columns)) if other != index)
        rivals = [c for c in (estimate_contrast(chosen, noise, w) for w in weights) if c.usable]
        rows.append(
            {
                "ratio": rung.achieved,
                "achieved_sd": rung.achieved_sd,
                "nominal_ratio": rung.ratio,
                "seeds": int(np.isfinite(table[:, k]).sum()),
                "accuracy": float(np.nanmean(table[:, k])),
                "difference": difference.estimate if difference is not None and difference.seeds else None,
                "low": None if bounded is None else bounded.lower(rules.level(bounded.seeds)),
                "high": None if bounded is None else bounded.upper(rules.level(bounded.seeds)),
                "may_be_best": all(c.lower(rules.level(c.seeds), len(rivals)) <= 0 for c in rivals),
                "regret_high": max([0.0, *(c.upper(rules.level(c.seeds)) for c in rivals)]) if rivals else None,
                "train_loss": rung.train_loss,
                "is_default": k == contrasts.default,
            }
        )
    return sorted(rows, key=lambda row: row["ratio"])


def _checks(comparison: Comparison, contrasts: _Contrasts, row: VerdictRow, complete: bool) -> list[Check]:
    """The conditions of a verdict, in the order that :func:`_decide` reads them."""
    compared = f"{count(len(contrasts.others), 'ratio')} and the default"
    lacking = "; ".join(row["excluded"]) or "some seeds are missing"
    found: dict[str, tuple[bool | None, str]] = {
        "training beats the untrained encoder": _check_gain(row),
        "loss below predicting the mean": _check_losses(comparison, contrasts),
        "all rungs complete": (complete, compared if complete else lacking),
        "seeds vary": _check_variation(comparison, contrasts),
    }
    return [Check(name=name, passed=passed, detail=detail) for name, (passed, detail) in found.items()]


def _check_gain(row: VerdictRow) -> tuple[bool | None, str]:
    gain, low, limit = row["training_gain"], row["training_gain_low"], row["margin"]
    if gain is None or low is None or limit is None:
        return None, "no untrained encoder was measured with the same seeds"
    return low > limit, f"it adds {points(gain)}, at least {at_least(low)}"


def _check_losses(comparison: Comparison, contrasts: _Contrasts) -> tuple[bool | None, str]:
    """Whether the default's final loss is below that of predicting the mean, and no other rung's is clearly above."""
    rungs = [comparison.rungs[k] for k in (contrasts.default, *contrasts.others)]
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


def _check_variation(comparison: Comparison, contrasts: _Contrasts) -> tuple[bool, str]:
    """Whether accuracies vary as those of separately trained models do."""
    rungs, table = comparison.rungs, comparison.test
    constant = [rungs[k].achieved for k, c in contrasts.differences.items() if c.constant]
    if constant:
        return False, f"{ratio_list(constant)} differ from the default by the same amount for every seed: copied rows?"
    columns = (contrasts.default, *contrasts.others)
    for a, b in ((a, b) for index, a in enumerate(columns) for b in columns[index + 1 :]):
        both = np.isfinite(table[:, a]) & np.isfinite(table[:, b])
        if both.sum() >= 3 and (table[both, a] == table[both, b]).all():
            copies = ratio_list([rungs[a].achieved, rungs[b].achieved])
            return False, f"{copies} have the same accuracies for every seed: copied rows?"
    return True, "differences vary over seeds"


def _decide(
    contrasts: _Contrasts, default_loss: float | None, checks: Sequence[Check], rules: Rules
) -> tuple[str, str | None]:
    trained, losses_below, complete, varied = (check["passed"] for check in checks)
    if trained is False:
        detail = checks[0]["detail"]
        return "uninformative", (
            f"training does not clearly beat an untrained encoder: {detail}, which is not above the margin, so "
            "ratios cannot be compared; train longer (--steps), use smaller patches (--patch-sizes) or more images"
        )
    if losses_below is False and (default_loss is None or default_loss >= 1):
        return "uninformative", (
            f"the training loss is not below that of predicting the mean ({checks[1]['detail']}); lower the learning "
            "rate (--learning-rate) or train longer (--steps)"
        )
    limit = 0.0 if rules.margin.share is not None else (rules.margin.points or 0.0)
    if rules.margin.share is not None and not contrasts.gains:
        return "inconclusive", "a margin that is a share of the training gain needs the untrained control"
    bounded, family = [c for c in contrasts.excesses.values() if c.usable], len(contrasts.others)
    if any(c.lower(rules.level(c.seeds), family) > limit and not c.constant for c in bounded):
        return "fails", None
    if len(bounded) == family and all(c.upper(rules.level(c.seeds)) < limit for c in bounded):
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


def row_answer(row: VerdictRow, margin: str) -> str:
    """The verdict of one row as a sentence that names the ratios compared, the loss at most, and the seeds."""
    strategy = "" if row["strategy"] in PLAIN else f" (strategy {row['strategy']})"
    name = f"masking {100 * row['default_ratio']:g} % {share_of(row['method'])}{strategy}"
    patch = "" if row["patch_size"] is None else f" (patch {row['patch_size']})"
    where = f"on {row['dataset']}{patch}"
    regret, best, low = row["regret"], row["best_ratio"], row["ci_low"]
    if row["ci_high"] is None or regret is None or best is None or low is None:
        return f"No answer yet for {name} {where}: {row['reason']}."
    against = f"against {ratio_list(row['ratios'])} it loses at most {at_most(row['ci_high'])}"
    seeds = sorted({min(rung["seeds"], row["seeds"]) for rung in row["rungs"]})
    paired = f"{seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else f"{row['seeds']}"
    basis = f"({100 * (1 - row['alpha']):.3g} % confidence, {paired} paired seeds)"
    gain = ""
    if row["training_gain"] is not None:
        gain = f" Training adds {points(row['training_gain'])} to an untrained encoder."
    if row["verdict"] == "holds":
        return f"{name[0].upper()}{name[1:]} holds up {where}: {against} {basis}.{gain}"
    if row["verdict"] == "fails":
        return (
            f"{name[0].upper()}{name[1:]} does not hold up {where}: the best ratio is better by at least "
            f"{at_least(low)} {basis}; {percent(best)} has the highest mean, {points(regret)} above it.{gain}"
        )
    if row["verdict"] == "uninformative":
        return f"The study {where} cannot judge {name}: {row['reason']}."
    reason = f"; {row['reason']}" if row["reason"] else ""
    return f"It is open whether {name} holds up within {margin} {where}: {against} {basis}{reason}.{gain}"


def _same(a: float, b: float) -> bool:
    return abs(a - b) < RATIO_TOLERANCE

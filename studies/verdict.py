"""Does a default ratio hold up? :func:`judge` gives one row per data set, method and patch setting, and the answer.

Rows are grouped and paired in ``statistics.pairing``, decided in ``statistics.decision``, bounded in
``statistics.regret``. :func:`current_verdict` takes ``verdict.json`` where that is up to date.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from studies.errors import StudyError
from studies.records import Study, disambiguate_names, is_stale
from studies.statistics.decision import Margin, Rules, judge_comparison, row_answer
from studies.statistics.pairing import PLAIN, pair_trials
from studies.statistics.ratio_curves import DEFAULT_RATIOS
from studies.statistics.sequential import Looks
from studies.storage.rows import SCHEMA_VERSION, VerdictRow

MARGIN, ALPHA = 0.01, 0.05
PLANNED = ("margin", "default_ratio", "mae_default_ratio", "alpha", "looks", "ladder")  # of a plan, for the judge

Trials: TypeAlias = pa.Table | Study


@dataclass(frozen=True, repr=False)
class Verdict:
    """What :func:`judge` found; :meth:`to_dict` is the content of ``verdict.json``.

    Attributes:
        answer: The verdict in words.
        rows: One row per data set, method and patch setting.
        overall: The joint verdict over all of them.
        warnings: What was left out and why.
        alpha: One-sided level.
    """

    answer: str
    rows: list[VerdictRow]
    overall: dict[str, Any]
    warnings: list[str] = field(default_factory=list)
    alpha: float = ALPHA

    def __repr__(self) -> str:
        return f"Verdict({self.overall['verdict']}: {self.answer})"

    def __str__(self) -> str:
        return self.answer

    def to_dict(self) -> dict[str, Any]:
        """JSON types only: numbers that do not exist are None."""
        names = ("answer", "alpha", "rows", "overall", "warnings")
        return {"schema_version": SCHEMA_VERSION, **{name: getattr(self, name) for name in names}}


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
        alpha: One-sided level of the verdict.
        looks: The rounds after which the verdict was computed; None means once.
        ladder: Planned nominal ratios by method; one that no trial has counts as missing.

    What is None is taken from the plan of a single study, else 0.01, 0.20, 0.75, 0.05, one look and no ladder.

    Raises:
        StudyError: a missing column, accuracies that are not fractions, or settings out of range.
    """
    parts = [trials] if isinstance(trials, (pa.Table, Study)) else list(trials)
    plan = parts[0].plan if len(parts) == 1 and isinstance(parts[0], Study) else {}
    allowed = Margin.parse(_first(margin, plan.get("margin"), MARGIN))
    level = float(_first(alpha, plan.get("alpha"), ALPHA))
    _check(level, "alpha", 0, 0.5)
    defaults = {
        "pmae": float(_first(default_ratio, plan.get("default_ratio"), DEFAULT_RATIOS["pmae"])),
        "mae": float(_first(mae_default_ratio, plan.get("mae_default_ratio"), DEFAULT_RATIOS["mae"])),
    }
    for ratio in defaults.values():
        _check(ratio, "a default ratio", 0, 1)
    rules = Rules(allowed, level, looks or _planned_looks(plan), _first(ladder, plan.get("ladder"), {}))
    comparisons, warnings = pair_trials(_one_table(parts))
    asked = [(c, defaults[c.setting.method]) for c in comparisons if c.setting.method in defaults]
    rows = [judge_comparison(comparison, ratio, rules) for comparison, ratio in asked]
    rows.sort(key=lambda row: row["kind"] != "default")
    main, other = (_claimed([row for row in rows if row["kind"] == kind]) for kind in ("default", "mae_default"))
    return Verdict(
        answer=" ".join(row_answer(row, allowed.text) for row in main or other)
        or "No answer yet: no ratio was confirmed with at least 2 paired seeds.",
        rows=rows,
        overall=_joint(main, allowed) | {"mae_default": _joint(other, allowed)},
        warnings=warnings,
        alpha=level,
    )


def current_verdict(
    studies: Sequence[Study], *, margin: float | str | None = None, default_ratio: float | None = None
) -> dict[str, Any]:
    """The verdict over ``studies`` together, as ``verdict.json`` holds it.

    One study's ``verdict.json`` is taken as it is unless its table was written to since, or another margin or default
    is asked for; several are always judged together, by the plan of the first.
    """
    asked = {"margin": margin, "default_ratio": default_ratio}
    given = {name: value for name, value in asked.items() if value is not None}
    stored = studies[0].stored_verdict
    if len(studies) == 1 and not given and stored is not None and not is_stale(studies[0]):
        return stored
    plan = studies[0].plan
    planned: dict[str, Any] = {name: plan[name] for name in PLANNED if plan.get(name) is not None}
    rules = planned | given | {"looks": _planned_looks(plan)}
    verdict = judge(list(studies) if len(studies) > 1 else studies[0], **rules).to_dict()
    otherwise = [
        f"{study.name} was planned with {name.replace('_', ' ')} {study.plan[name]} and is judged with "
        f"{planned[name]}, as {studies[0].name} was"
        for study in studies[1:]
        for name in planned
        if name not in given and study.plan.get(name) not in (None, planned[name])
    ]
    return verdict | {"warnings": [*otherwise, *verdict["warnings"]]}


def _claimed(rows: list[VerdictRow]) -> list[VerdictRow]:
    """Rows on plain ratios of principal components or patches, which the papers' claims are about, if there are any."""
    return [row for row in rows if row["strategy"] in PLAIN and row["basis"] in (None, "pca")] or rows


def _joint(rows: Sequence[VerdictRow], margin: Margin) -> dict[str, Any]:
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


def _planned_looks(plan: Mapping[str, Any]) -> Looks | None:
    looks = plan.get("looks")
    return Looks(int(looks["seeds_per_round"]), int(looks["rounds"])) if looks else None


def _one_table(parts: Sequence[Trials]) -> pa.Table:
    studies = iter(disambiguate_names([part for part in parts if isinstance(part, Study)]))
    tables = [next(studies).trials if isinstance(part, Study) else part for part in parts]
    for table in tables:
        if not isinstance(table, pa.Table):
            raise StudyError(f"trials is a {type(table).__name__}; give a pyarrow Table, a Study, or several of them")
    if not tables:
        raise StudyError("there is nothing to judge; give a table or a study")
    return tables[0] if len(tables) == 1 else pa.concat_tables(tables, promote_options="permissive")


def _first(*values: Any) -> Any:
    return next(value for value in values if value is not None)


def _check(value: Any, name: str, low: float, high: float) -> None:
    if not isinstance(value, (int, float, np.number)) or not low < value < high or math.isnan(value):
        raise StudyError(f"{name} is {value!r}; it must be a fraction strictly between {low:g} and {high:g}")

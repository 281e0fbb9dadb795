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
from studies.formatting import at_least, at_most, percent, points, ratio_list
from studies.records import Study, disambiguate_names
from studies.statistics.decision import Rules, judge_comparison
from studies.statistics.margin import Margin
from studies.statistics.pairing import collect, confirmed_rows
from studies.statistics.rows import VerdictRow
from studies.statistics.sequential import Looks

VERDICT_VERSION = 2
MARGIN, DEFAULT_RATIO, MAE_DEFAULT_RATIO = 0.01, 0.20, 0.75
ALPHA = 0.05
PLANNED = ("margin", "default_ratio", "mae_default_ratio", "alpha", "looks", "ladder")  # of a plan, for the judge
PLAIN = (None, "expected", "fixed", "random")  # strategies that the claims of the papers are about
VERDICTS = ("holds", "fails", "inconclusive", "uninformative")

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
        alpha: One-sided level of the verdict.
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
    rules = Rules(allowed, level, looks, {method: tuple(ratios) for method, ratios in planned.items()})
    rows = []
    for comparison in found.comparisons:
        method = comparison.group.method
        if method in defaults:
            rows.append(judge_comparison(comparison, defaults[method], rules))
    rows.sort(key=lambda row: row["kind"] != "default")
    return Verdict(
        answer=_answer(rows, allowed),
        rows=rows,
        overall=overall(rows, allowed),
        warnings=[*warnings, *found.warnings],
        alpha=level,
    )


def current_verdict(
    studies: Sequence[Study], *, margin: float | str | None = None, default_ratio: float | None = None
) -> dict[str, Any]:
    """The verdict over ``studies`` together, as ``verdict.json`` holds it.

    One study's ``verdict.json`` is taken as it is unless its table was written to since, or other settings are asked
    for; several studies are always judged together. Margin and ratios are those that the first study was planned with.

    Args:
        studies: At least one.
        margin, default_ratio: Judge with these instead; fractions.

    Raises:
        StudyError: the records cannot be judged, or a setting is out of range.
    """
    asked = {"margin": margin, "default_ratio": default_ratio}
    given = {name: value for name, value in asked.items() if value is not None}
    if len(studies) == 1 and not given and _is_current(studies[0]):
        return studies[0].stored_verdict or {}
    plan = studies[0].plan
    planned: dict[str, Any] = {name: plan[name] for name in PLANNED if plan.get(name) is not None}
    rules = planned | given | {"looks": Looks.of(plan)}
    verdict = judge(list(studies) if len(studies) > 1 else studies[0], **rules).to_dict()
    verdict["warnings"] = [*_planned_otherwise(studies, planned, given), *verdict["warnings"]]
    return verdict


def _planned_otherwise(studies: Sequence[Study], used: dict[str, Any], given: dict[str, Any]) -> list[str]:
    """A sentence for every study whose plan names another margin or default than it is judged with."""
    sentences = []
    for study in studies[1:]:
        for name in PLANNED:
            theirs = study.plan.get(name)
            if name in used and name not in given and theirs not in (None, used[name]):
                sentences.append(
                    f"{study.name} was planned with {name.replace('_', ' ')} {theirs} and is judged with "
                    f"{used[name]}, as {studies[0].name} was"
                )
    return sentences


def _is_current(study: Study) -> bool:
    """Whether ``verdict.json`` is there, has this version's fields and is newer than the table."""
    return (
        study.stored_verdict is not None
        and study.stored_verdict.get("schema_version") == VERDICT_VERSION
        and not is_stale(study)
    )


def is_stale(study: Study) -> bool:
    """Whether the study's table was written to since its ``verdict.json``, which must be there."""
    judged = (study.folder / "verdict.json").stat().st_mtime
    tables = (study.folder / name for name in ("trials.arrow", "trials.journal"))
    return any(table.stat().st_mtime > judged for table in tables if table.exists())


def overall(rows: Sequence[VerdictRow], margin: Margin) -> dict[str, Any]:
    """The joint verdict on PMAE's default over all comparisons, and on MAE's, as JSON types."""
    main = _joint(_claimed([row for row in rows if row["kind"] == "default"]), margin)
    return main | {"mae_default": _joint(_claimed([row for row in rows if row["kind"] == "mae_default"]), margin)}


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


def _answer(rows: Sequence[VerdictRow], margin: Margin) -> str:
    main = _claimed([row for row in rows if row["kind"] == "default"]) or _claimed(list(rows))
    if not main:
        return "No answer yet: no ratio was confirmed with at least 2 paired seeds."
    return " ".join(row_answer(row, margin.text) for row in main)


def row_answer(row: VerdictRow, margin: str) -> str:
    """The verdict of one row as a sentence that names the ratios compared, the loss at most, and the seeds."""
    share = "of the variance" if row["method"] == "pmae" else "of the patches"
    strategy = "" if row["strategy"] in PLAIN else f" (strategy {row['strategy']})"
    name = f"masking {100 * row['default_ratio']:g} % {share}{strategy}"
    patch = "" if row["patch_size"] is None else f" (patch {row['patch_size']})"
    where = f"on {row['dataset']}{patch}"
    regret, best, low = row["regret"], row["best_ratio"], row["ci_low"]
    if row["ci_high"] is None or regret is None or best is None or low is None:
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
            f"{name[0].upper()}{name[1:]} does not hold up {where}: masking {percent(best)} is better by "
            f"{points(regret)}, and the best ratio by at least {at_least(low)} {basis}.{gain}"
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
    studies = iter(disambiguate_names([part for part in parts if isinstance(part, Study)]))
    tables = []
    for part in (next(studies) if isinstance(part, Study) else part for part in parts):
        table = part.trials if isinstance(part, Study) else part
        if not isinstance(table, pa.Table):
            raise StudyError(f"trials is a {type(table).__name__}; give a pyarrow Table, a Study, or several of them")
        tables.append(table)
    if not tables:
        raise StudyError("there is nothing to judge; give a table or a study")
    return tables[0] if len(tables) == 1 else pa.concat_tables(tables, promote_options="permissive")


def _first(*values: Any) -> Any:
    return next(value for value in values if value is not None)


def _check(value: Any, name: str, low: float, high: float) -> None:
    if not isinstance(value, (int, float, np.number)) or not low < value < high or math.isnan(value):
        raise StudyError(f"{name} is {value!r}; it must be a fraction strictly between {low:g} and {high:g}")

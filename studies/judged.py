"""Return ``verdict.json`` if it is newer than the trial table and complete, otherwise judge the table again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from studies.records import Study

PLANNED = ("margin", "default_ratio", "mae_default_ratio", "alpha", "looks", "ladder")  # of a plan, for the judge


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
        return studies[0].verdict or {}
    from studies.verdict import Looks, judge  # scipy takes a second to import

    plan = studies[0].plan
    planned: dict[str, Any] = {name: plan[name] for name in PLANNED if plan.get(name) is not None}
    rules = planned | given | {"looks": Looks.of(plan)}
    verdict = judge(list(studies) if len(studies) > 1 else studies[0], **rules).to_dict()
    verdict["warnings"] = [*_planned_otherwise(studies, planned, given), *verdict["warnings"]]
    return verdict


def _planned_otherwise(studies: Sequence[Study], used: dict[str, Any], given: dict[str, Any]) -> list[str]:
    """A sentence for every study whose plan names another margin or default than it is judged with."""
    said = []
    for study in studies[1:]:
        for name in PLANNED:
            theirs = study.plan.get(name)
            if name in used and name not in given and theirs not in (None, used[name]):
                said.append(
                    f"{study.name} was planned with {name.replace('_', ' ')} {theirs} and is judged with "
                    f"{used[name]}, as {studies[0].name} was"
                )
    return said


def _is_current(study: Study) -> bool:
    """Whether ``verdict.json`` is there, has this version's fields and is newer than the table."""
    from studies.verdict import VERDICT_VERSION

    return study.verdict is not None and study.verdict.get("schema_version") == VERDICT_VERSION and not is_stale(study)


def is_stale(study: Study) -> bool:
    """Whether the study's table was written to since its ``verdict.json``, which must be there."""
    judged = (study.folder / "verdict.json").stat().st_mtime
    tables = (study.folder / name for name in ("trials.arrow", "trials.journal"))
    return any(table.stat().st_mtime > judged for table in tables if table.exists())

"""The verdict that belongs to a study's present table: the one on disk while it is fresh, else judged anew."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from studies.records import Study


def current_verdict(
    studies: Sequence[Study], *, margin: float | None = None, default_ratio: float | None = None
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
    if len(studies) == 1 and not given and studies[0].verdict is not None and not is_stale(studies[0]):
        return studies[0].verdict
    from studies.verdict import judge  # scipy and scikit-learn take a second to import

    plan = studies[0].plan
    planned = {
        name: plan[name] for name in ("margin", "default_ratio", "mae_default_ratio") if plan.get(name) is not None
    }
    looked = _levels(studies)
    if looked:
        planned["alpha"] = min(looked)
    verdict = judge(list(studies) if len(studies) > 1 else studies[0], **(planned | given)).to_dict()
    verdict["warnings"] = [*_planned_otherwise(studies, planned, given), *verdict["warnings"]]
    return verdict


def _planned_otherwise(studies: Sequence[Study], used: dict[str, Any], given: dict[str, float]) -> list[str]:
    """A sentence for every study whose plan names another margin or default than it is judged with."""
    said = []
    for study in studies[1:]:
        for name in ("margin", "default_ratio", "mae_default_ratio"):
            theirs = study.plan.get(name)
            if name in used and name not in given and theirs not in (None, used[name]):
                said.append(
                    f"{study.name} was planned with {name.replace('_', ' ')} {theirs:g} and is judged with "
                    f"{used[name]:g}, as {studies[0].name} was"
                )
    return said


def _levels(studies: Sequence[Study]) -> list[float]:
    """Levels at which the studies were judged before: one that was looked at after every round stays corrected."""
    known = [(study.verdict or {}).get("alpha") for study in studies]
    return [alpha for alpha in known if isinstance(alpha, float) and 0 < alpha < 0.05]


def is_stale(study: Study) -> bool:
    """Whether the study's table was written to since its ``verdict.json``, which must be there."""
    judged = (study.folder / "verdict.json").stat().st_mtime
    tables = (study.folder / name for name in ("trials.arrow", "trials.journal"))
    return any(table.stat().st_mtime > judged for table in tables if table.exists())

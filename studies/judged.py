"""The verdict that belongs to a study's present table: the one on disk while it is fresh, else judged anew."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from studies.records import Study


def current_verdict(studies: Sequence[Study]) -> dict[str, Any]:
    """The verdict over ``studies`` together, as ``verdict.json`` holds it.

    One study's ``verdict.json`` is taken as it is unless its table was written to since; several studies are always
    judged together. Margin and default ratio are those that the first study was planned with.
    """
    if len(studies) == 1 and studies[0].verdict is not None and not _is_stale(studies[0]):
        return studies[0].verdict
    from studies.verdict import judge  # scipy and scikit-learn take a second to import

    plan = studies[0].plan
    settings = {
        name: plan[name] for name in ("margin", "default_ratio", "mae_default_ratio") if plan.get(name) is not None
    }
    return judge(list(studies) if len(studies) > 1 else studies[0], **settings).to_dict()


def _is_stale(study: Study) -> bool:
    judged = (study.folder / "verdict.json").stat().st_mtime
    tables = (study.folder / name for name in ("trials.arrow", "trials.journal"))
    return any(table.stat().st_mtime > judged for table in tables if table.exists())

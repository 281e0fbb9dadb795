"""Studies in a few rows: what ``list`` and ``show`` print, as plain dictionaries that JSON and CSV can take too."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from studies.records import Study
from studies.statistics.ratio_curves import SHARE_OF, RatioCurve, ratio_curves, rows_of

LOST = ("failed", "diverged", "pruned", "interrupted")


def study_row(study: Study) -> dict[str, Any]:
    """One study in a line: how far it is, its best validation accuracy, its verdict (the one on disk, if any)."""
    counts = Counter(study.trials["status"].to_pylist())
    overall = (study.stored_verdict or {}).get("overall") or {}
    return {
        "study": study.name,
        "dataset": ", ".join(_distinct(study, "dataset")) or (study.plan.get("dataset") or {}).get("name"),
        "methods": ", ".join(m for m in _distinct(study, "method") if m in SHARE_OF)
        or ", ".join(study.plan.get("methods") or []),
        "ended": study.trials.num_rows,
        "planned": planned_trials(study),
        "done": counts["done"],
        "lost": sum(counts[status] for status in LOST),
        "best_val_linear": pc.max(study.trials.filter(pc.is_valid(study.trials["ratio"]))["val_linear"]).as_py(),
        "verdict": overall.get("verdict"),
        "updated": last_change(study),
        "folder": str(study.folder),
    }


def study_summary(study: Study, top: int = 10) -> dict[str, Any]:
    """One study in a page: its line, confirmed ratios, ``top`` explored trials and the trials that were lost."""
    return {
        **study_row(study),
        "answer": (study.stored_verdict or {}).get("answer"),
        "confirmed": confirmed_rows(ratio_curves(study.trials)),
        "best_explored": _best_explored(study, top),
        "lost_trials": _lost_trials(study),
        "command": study.plan.get("command"),
    }


def confirmed_rows(curves: Sequence[RatioCurve]) -> list[dict[str, Any]]:
    """A row per confirmed setting and ratio: mean test accuracy over its seeds and their standard deviation."""
    return [
        {
            **curve.setting._asdict(),
            "ratio": point.nominal,
            "achieved_ratio": point.ratio,
            "seeds": point.seeds,
            "test_linear": point.mean,
            "deviation": point.deviation,
        }
        for curve in curves
        for point in curve.confirmed
    ]


def planned_trials(study: Study) -> int | None:
    """Trials of all phases; None without a plan, or while a phase's number depends on what an earlier one finds."""
    planned = [phase.get("planned") for phase in (study.plan.get("phases") or {}).values()]
    return None if not planned or None in planned else sum(map(int, planned))


def last_change(study: Study) -> str | None:
    """When the tables were last written to, as local time."""
    tables = [study.folder / name for name in ("trials.arrow", "trials.journal", "study.json")]
    times = [table.stat().st_mtime for table in tables if table.exists()]
    return datetime.datetime.fromtimestamp(max(times)).isoformat(" ", "seconds") if times else None


def _best_explored(study: Study, top: int) -> list[dict[str, Any]]:
    columns = ("method", "patch_size", "patch_stride", "mask_unit", "basis", "ratio", "seed", "val_linear", "val_knn")
    trials = study.trials
    wanted = pc.and_(pc.equal(trials["phase"], "explore"), pc.equal(trials["status"], "done"))
    rows = rows_of(trials.filter(wanted).sort_by([("val_linear", "descending")]).slice(0, top), columns)
    return [row for row in rows if row["val_linear"] is not None]


def _lost_trials(study: Study) -> list[dict[str, Any]]:
    lost = study.trials.filter(pc.is_in(study.trials["status"], pa.array(LOST)))
    return rows_of(lost, ("trial_id", "status", "method", "ratio", "patch_size", "seed", "error"))


def _distinct(study: Study, column: str) -> list[str]:
    return sorted(map(str, study.trials[column].unique().drop_null().to_pylist()))

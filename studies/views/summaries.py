"""Studies in a few rows: what ``list`` and ``show`` print, as plain dictionaries that JSON and CSV can take too."""

from __future__ import annotations

import datetime
from collections import Counter
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from studies.formatting import SHARE_OF
from studies.records import Study, is_finished, last_change
from studies.statistics.ratio_curves import ratio_curves
from studies.storage.tables import rows_of

LOST = ("failed", "diverged", "pruned", "interrupted")


def study_row(study: Study) -> dict[str, Any]:
    """One study in a line: how far it is, its best validation accuracy, its verdict (the one on disk, if any)."""
    counts = Counter(study.trials["status"].to_pylist())
    overall = (study.stored_verdict or {}).get("overall") or {}
    changed = last_change(study, "trials.arrow", "trials.journal", "study.json")
    return {
        "study": study.name,
        "dataset": ", ".join(list_values(study, "dataset")) or (study.plan.get("dataset") or {}).get("name"),
        "methods": ", ".join(m for m in list_values(study, "method") if m in SHARE_OF)
        or ", ".join(study.plan.get("methods") or []),
        "ended": study.trials.num_rows,
        "planned": planned_trials(study),
        "done": counts["done"],
        "lost": sum(counts[status] for status in LOST),
        "best_val_linear": pc.max(study.trials.filter(pc.is_valid(study.trials["ratio"]))["val_linear"]).as_py(),
        "verdict": overall.get("verdict"),
        "updated": changed and datetime.datetime.fromtimestamp(changed).isoformat(" ", "seconds"),
        "folder": str(study.folder),
    }


def study_summary(study: Study, top: int = 10) -> dict[str, Any]:
    """One study in a page: its line, confirmed ratios, ``top`` explored trials and the trials that were lost."""
    trials = study.trials
    confirmed = []
    for curve in ratio_curves(trials):
        for point in curve.confirmed:
            scores = {"seeds": point.seeds, "test_linear": point.mean, "deviation": point.deviation}
            ratios = {"ratio": point.nominal, "achieved_ratio": point.ratio}
            confirmed.append({**curve.setting._asdict(), **ratios, **scores})
    done = trials.filter(pc.and_(pc.equal(trials["phase"], "explore"), pc.equal(trials["status"], "done")))
    columns = ("method", "patch_size", "patch_stride", "mask_unit", "basis", "ratio", "seed", "val_linear", "val_knn")
    best = rows_of(done.sort_by([("val_linear", "descending")]).slice(0, top), columns)
    lost = trials.filter(pc.is_in(trials["status"], pa.array(LOST)))
    return {
        **study_row(study),
        "answer": (study.stored_verdict or {}).get("answer"),
        "confirmed": confirmed,
        "best_explored": [row for row in best if row["val_linear"] is not None],
        "lost_trials": rows_of(lost, ("trial_id", "status", "method", "ratio", "patch_size", "seed", "error")),
        "command": study.plan.get("command"),
    }


def planned_trials(study: Study) -> int | None:
    """Most trials of all phases; None without a plan, with --until-settled, and for a study that has ended."""
    if is_finished(study):
        return None
    phases = (study.plan.get("phases") or {}).values()
    planned = [phase.get("at_most") if phase.get("planned") is None else phase["planned"] for phase in phases]
    return None if not planned or None in planned else sum(map(int, planned))


def list_values(study: Study, column: str) -> list[str]:
    """The values of a column of the trials, sorted."""
    return sorted(map(str, study.trials[column].unique().drop_null().to_pylist()))

"""The report's table of trials as compact JSON: columns, rows, and every distinct configuration once.

The script of the page sorts, filters and shows the configuration of a row. Configurations are stored as
differences from the most common one, so that 10,000 trials stay a few megabytes.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pyarrow as pa

from studies.formatting import METHOD_NAMES
from studies.storage.tables import flatten, read_mapping, rows_of

# key: (heading, kind). Kinds tell the script how to show and sort a value.
COLUMNS: dict[str, tuple[str, str]] = {
    "study": ("study", "text"),
    "dataset": ("data set", "text"),
    "method": ("method", "text"),
    "ratio": ("masked", "percent"),
    "achieved_ratio": ("achieved", "percent"),
    "patch_size": ("patch (px)", "number"),
    "patch_stride": ("stride (px)", "number"),
    "mask_unit": ("mask unit (px)", "number"),
    "basis": ("basis", "text"),
    "strategy": ("strategy", "text"),
    "phase": ("phase", "text"),
    "seed": ("seed", "number"),
    "status": ("status", "text"),
    "val_linear": ("linear (val.)", "percent"),
    "test_linear": ("linear (test)", "percent"),
    "val_knn": ("k-NN (val.)", "percent"),
    "test_knn": ("k-NN (test)", "percent"),
    "train_loss": ("loss", "number"),
    "evaluation": ("evaluation", "text"),
    "precision": ("precision", "text"),
    "seconds": ("time (s)", "number"),
    "images_per_second": ("images/s", "number"),
}
FILTERS = ("study", "dataset", "method", "phase", "status")
# Shown only where it differs between trials, or from the column that it usually repeats.
RARE_COLUMNS = ("study", "dataset", "basis", "strategy", "patch_stride", "mask_unit", "evaluation", "precision")


def trial_table(trials: pa.Table) -> dict[str, Any]:
    """``trials`` for the page's script.

    Returns:
        ``columns`` (key, heading, kind, choices), ``rows`` (one value per column, then the number of the row's
        configuration and its remaining details), ``base`` (dotted settings) and ``configs`` (what each
        configuration has different from ``base``; None marks a setting it lacks).
    """
    extra = ("trial_id", "error", "config", "config_hash", "started_at", "device", "metrics", "training_problem")
    rows = rows_of(trials, (*COLUMNS, *extra))
    keys = [key for key in COLUMNS if _is_shown(key, rows)]
    counts = Counter(row["config"] or "" for row in rows)
    number = {text: i for i, text in enumerate(counts)}
    settings = [flatten(read_mapping(text) or ({"config": text} if text else {})) for text in counts]
    base = settings[number[max(counts, key=lambda text: counts[text])]] if counts else {}
    differences = []
    for own in settings:
        changed = {name: value for name, value in own.items() if name not in base or base[name] != value}
        differences.append(changed | {name: None for name in base if name not in own})
    cells = [[_plain(row[key], key) for key in keys] for row in rows]
    columns = []
    for place, key in enumerate(keys):
        found = sorted({str(line[place]) for line, row in zip(cells, rows, strict=True) if row[key] is not None})
        choices = found if key in FILTERS and len(found) > 1 else []
        columns.append({"key": key, "heading": COLUMNS[key][0], "kind": COLUMNS[key][1], "choices": choices})
    lines = [[*line, number[row["config"] or ""], _details(row)] for line, row in zip(cells, rows, strict=True)]
    return {"columns": columns, "rows": lines, "base": base, "configs": differences}


def _is_shown(key: str, rows: list[dict[str, Any]]) -> bool:
    values = {row[key] for row in rows} - {None}
    if key not in RARE_COLUMNS:
        return bool(values) or key in ("method", "status")
    if key in ("patch_stride", "mask_unit"):
        return any(row[key] not in (None, row["patch_size"]) for row in rows)
    if key in ("basis", "strategy"):
        return any(len({r[key] for r in rows if r["method"] == m}) > 1 for m in {r["method"] for r in rows})
    return len(values) > 1


def _plain(value: Any, key: str) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return METHOD_NAMES.get(value, value) if key == "method" else value


def _details(row: dict[str, Any]) -> dict[str, Any]:
    details = {
        "trial": row["trial_id"],
        "error": row["error"],
        "started": row["started_at"] and row["started_at"].isoformat(timespec="seconds"),
        "device": row["device"],
        "configuration hash": row["config_hash"],
        "training problem": row["training_problem"],
    }
    measured = {name: _plain(value, name) for name, value in flatten(read_mapping(row["metrics"])).items()}
    return {name: value for name, value in details.items() if value} | measured

"""What a record is: the Arrow schemas of trials and histories, and the check of a row before it is written.

One row of the trials is one trial with one seed, whatever its end; one row of the history is one epoch of one
trial. Ratios and accuracies are fractions. For files see ``journal.py``.
"""

from __future__ import annotations

import datetime
import difflib
import json
import math
import operator
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from studies.errors import StudyError

SCHEMA_VERSION = 2
VERSION_KEY = b"pmae_schema_version"

PHASES = ("explore", "confirm", "control")
STATUSES = ("done", "pruned", "diverged", "failed", "interrupted")
METHODS = ("pmae", "mae", "untrained", "pixels")
CONTROLS = METHODS[2:]  # what is scored without training; their ratio is null

_TEXT, _NUMBER, _COUNT = pa.string(), pa.float64(), pa.int64()
_METADATA = {VERSION_KEY: str(SCHEMA_VERSION).encode()}

TRIAL_SCHEMA: pa.Schema = pa.schema(
    [
        ("study", _TEXT),
        ("trial_id", _TEXT),
        ("phase", _TEXT),
        ("dataset", _TEXT),
        ("method", _TEXT),
        ("strategy", _TEXT),
        ("ratio", _NUMBER),  # nominal masked share, in (0, 1); null for controls
        ("achieved_ratio", _NUMBER),  # mean share that the masks really hid
        ("achieved_sd", _NUMBER),  # standard deviation of that share over the masks
        ("patch_size", _COUNT),  # pixels, as are patch_stride and mask_unit
        ("patch_stride", _COUNT),
        ("mask_unit", _COUNT),  # null unless mae
        ("seed", _COUNT),
        ("status", _TEXT),
        ("error", _TEXT),
        ("epochs", _COUNT),  # epochs trained, not planned
        ("val_linear", _NUMBER),  # accuracies are fractions in [0, 1]
        ("test_linear", _NUMBER),
        ("val_knn", _NUMBER),
        ("test_knn", _NUMBER),
        ("evaluation", _TEXT),  # split (a held-out test split) or folds (cross-validated over all labeled images)
        ("train_loss", _NUMBER),  # share of the masked variance left unexplained; 1 is predicting the mean
        ("objective", _NUMBER),  # the loss that was minimized
        ("training_problem", _TEXT),  # soft divergence, in words; empty where training went well, null where unknown
        ("images_per_second", _NUMBER),
        ("seconds", _NUMBER),
        ("started_at", pa.timestamp("us", tz="UTC")),
        ("config", _TEXT),  # JSON
        ("config_hash", _TEXT),
        ("code_version", _TEXT),
        ("device", _TEXT),  # model of the GPU, or of the CPU with its number of threads
        ("precision", _TEXT),  # fp32 or bf16, as resolved on the device
        ("versions", _TEXT),  # JSON
        ("basis", _TEXT),  # null for mae
        ("pool", _TEXT),
        ("peak_memory_bytes", _COUNT),
        ("train_images", _COUNT),
        ("metrics", _TEXT),  # JSON of whatever else a study measures
    ],
    metadata=_METADATA,
)

HISTORY_SCHEMA: pa.Schema = pa.schema(
    [
        ("study", _TEXT),
        ("trial_id", _TEXT),
        ("seed", _COUNT),
        ("epoch", _COUNT),
        ("train_loss", _NUMBER),
        ("objective", _NUMBER),
        ("learning_rate", _NUMBER),
        ("images_per_second", _NUMBER),
    ],
    metadata=_METADATA,
)

_REQUIRED = {
    "trials": ("study", "trial_id", "phase", "dataset", "method", "seed", "status"),
    "history": ("study", "trial_id", "epoch"),
}
_CHOICES = {"phase": PHASES, "status": STATUSES, "method": METHODS}


def complete_trial(row: Mapping[str, Any], study: str) -> dict[str, Any]:
    """``row`` with every column of ``TRIAL_SCHEMA``, checked and in native types; missing ones are None.

    Mappings and lists in JSON columns are written as JSON; a time without zone is taken as UTC.

    Raises:
        StudyError: an unknown or missing column, or a value that the column cannot hold.
    """
    full = _complete(row, TRIAL_SCHEMA, "trials", study)
    for name, allowed in _CHOICES.items():
        if full[name] not in allowed:
            raise StudyError(f"{name} is {full[name]!r}; allowed are {', '.join(allowed)}")
    if (full["phase"] == "control") != (full["method"] in CONTROLS):
        raise StudyError(
            f"phase is {full['phase']!r} and method is {full['method']!r}; controls have the phase 'control' and "
            f"the method {' or '.join(CONTROLS)}"
        )
    if full["method"] in CONTROLS:
        if full["ratio"] is not None:
            raise StudyError(f"ratio is {full['ratio']!r} for the control {full['method']!r}; leave it out")
    elif full["ratio"] is None or not 0 < full["ratio"] < 1:
        raise StudyError(f"ratio is {full['ratio']!r}; ratios are fractions strictly between 0 and 1, for example 0.2")
    for name in TRIAL_SCHEMA.names:
        if name.startswith(("val_", "test_")) and full[name] is not None:
            value = full[name]
            if not math.isnan(value) and not 0 <= value <= 1:
                raise StudyError(f"{name} is {value!r}; accuracies are fractions between 0 and 1, not per cent")
    return full


def complete_epoch(row: Mapping[str, Any], study: str) -> dict[str, Any]:
    """``row`` with every column of ``HISTORY_SCHEMA``, checked and in native types; missing ones are None.

    Raises:
        StudyError: an unknown or missing column, or a value that the column cannot hold.
    """
    return _complete(row, HISTORY_SCHEMA, "history", study)


def _complete(row: Mapping[str, Any], schema: pa.Schema, kind: str, study: str) -> dict[str, Any]:
    for name in row:
        if name not in schema.names:
            close = difflib.get_close_matches(str(name), schema.names, n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise StudyError(
                f"{name!r} is not a column of the {kind}{hint}; columns are {', '.join(schema.names)}"
                + ("; put other measures into metrics" if kind == "trials" else "")
            )
    full = {field.name: _native(row.get(field.name), field) for field in schema}
    full["study"] = full["study"] or study
    missing = [name for name in _REQUIRED[kind] if full[name] is None]
    if missing:
        raise StudyError(f"a row of the {kind} lacks {', '.join(missing)}; give a value for each")
    return full


def _native(value: Any, field: pa.Field) -> Any:
    if value is None:
        return None
    try:
        if field.type == _NUMBER:
            return float(value)
        if field.type == _COUNT:
            return operator.index(value.item() if hasattr(value, "item") else value)
        if field.type == _TEXT:
            return value if isinstance(value, str) else _as_text(value)
        return _as_utc(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise StudyError(f"{field.name} is {value!r}; the column holds {field.type} ({error})") from error


def _as_text(value: Any) -> str:
    if isinstance(value, (Mapping, list, tuple)):
        return json.dumps(value, sort_keys=True, default=str)
    return str(value)


def _as_utc(value: Any) -> datetime.datetime:
    if isinstance(value, (int, float)):
        return datetime.datetime.fromtimestamp(value, datetime.timezone.utc)
    time = datetime.datetime.fromisoformat(value.replace("Z", "+00:00")) if isinstance(value, str) else value
    if not isinstance(time, datetime.datetime):
        raise TypeError("give a datetime, an ISO 8601 text or seconds since 1970")
    if time.tzinfo is None:
        return time.replace(tzinfo=datetime.timezone.utc)
    return time.astimezone(datetime.timezone.utc)

"""What a study stores: rows of its two tables, ``study.json`` and ``verdict.json``, as types, and the checks of both.

The Arrow schemas are derived from the types of the rows; documents are checked against theirs when they are read. Of a
type with ``total=False`` any key may be missing or null. Ratios and accuracies are fractions.
"""

from __future__ import annotations

import datetime
import difflib
import functools
import json
import math
import operator
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypedDict, get_args, get_origin, get_type_hints

import pyarrow as pa

from studies.errors import StudyError

SCHEMA_VERSION = 2
VERSION_KEY = b"pmae_schema_version"

Phase = Literal["explore", "confirm", "control"]
Status = Literal["done", "pruned", "diverged", "failed", "interrupted"]
METHODS = ("pmae", "mae", "untrained", "pixels")
CONTROLS = METHODS[2:]  # what is scored without training; their ratio is null


class TrialRow(TypedDict, total=False):
    """One trial with one seed, whatever its end. ``config``, ``versions`` and ``metrics`` are stored as JSON."""

    study: str
    trial_id: str
    phase: Phase
    dataset: str
    method: str
    strategy: str | None
    ratio: float | None  # nominal masked share, in (0, 1); null for controls
    achieved_ratio: float | None  # mean share that the masks really hid
    achieved_sd: float | None  # standard deviation of that share over the masks
    patch_size: int | None  # pixels, as are patch_stride and mask_unit
    patch_stride: int | None
    mask_unit: int | None  # null unless mae
    seed: int
    status: Status
    error: str | None
    epochs: int | None  # epochs trained, not planned
    val_linear: float | None  # accuracies are fractions in [0, 1]
    test_linear: float | None
    val_knn: float | None
    test_knn: float | None
    evaluation: str | None  # split (a held-out test split) or folds (cross-validated over all labeled images)
    train_loss: float | None  # share of the masked variance left unexplained; 1 is predicting the mean
    objective: float | None  # the loss that was minimized
    training_problem: str | None  # soft divergence, in words; empty where training went well, null where unknown
    images_per_second: float | None
    seconds: float | None
    started_at: datetime.datetime | str | None
    config: Any
    config_hash: str | None
    code_version: str | None
    device: str | None  # model of the GPU, or of the CPU with its number of threads
    precision: str | None  # fp32 or bf16, as resolved on the device
    versions: Any
    basis: str | None  # null for mae
    pool: str | None
    peak_memory_bytes: int | None
    train_images: int | None
    metrics: Any  # whatever else a study measures


class EpochRow(TypedDict, total=False):
    """One epoch of one trial."""

    study: str
    trial_id: str
    seed: int
    epoch: int
    train_loss: float
    objective: float
    learning_rate: float
    images_per_second: float


class DatasetRecord(TypedDict, total=False):
    """The images in ``study.json``; ``train``, ``val`` and ``test`` count them."""

    source: str
    name: str
    fingerprint: str
    train: int
    val: int
    test: int
    image_size: int
    channels: int
    classes: int


class PhaseRecord(TypedDict, total=False):
    """Trials planned in a phase (None where the exploration decides, ``at_most`` so many) and the seeds it uses."""

    planned: int | None
    at_most: int | None
    seeds: list[int]


class LooksRecord(TypedDict):
    """Rounds of seeds after which a study is judged."""

    seeds_per_round: int
    rounds: int


class Resources(TypedDict, total=False):
    """What is read of a plan's ``resources``; the rest is only shown."""

    concurrent: int
    workers: int
    least_workers: int | None
    gpus: float
    trial_timeout: float | None


class StudyRecord(TypedDict, total=False):
    """``study.json``: the plan, and how the study was started."""

    schema_version: int
    name: str
    created_at: str
    question: str | None
    dataset: DatasetRecord
    methods: list[str]
    space: dict[str, Any]
    search: str
    phases: dict[str, PhaseRecord]
    margin: float | str
    alpha: float
    looks: LooksRecord | None
    ladder: dict[str, list[float]]
    default_ratio: float
    mae_default_ratio: float
    epochs: int | None
    config: dict[str, Any]
    options: dict[str, Any]
    command: str
    versions: dict[str, str]
    code_version: str
    resources: dict[str, Any]
    warnings: list[str]


class Check(TypedDict):
    """A condition for a verdict to mean anything; ``passed`` is None where the table does not say."""

    name: str
    passed: bool | None
    detail: str


class RungRow(TypedDict):
    """One rung of a judged comparison; accuracies and differences (rung minus default) are fractions.

    ``low`` and ``high`` are one-sided bounds of the difference; ``may_be_best`` and ``regret_high`` are the same bounds
    with this rung in the default's place.
    """

    ratio: float
    achieved_sd: float | None
    nominal_ratio: float
    seeds: int
    accuracy: float
    difference: float | None
    low: float | None
    high: float | None
    may_be_best: bool
    regret_high: float | None
    train_loss: float | None
    is_default: bool


class VerdictRow(TypedDict):
    """The verdict on one comparison; ratios, accuracies and regrets are fractions.

    ``ratios`` are the achieved ones that the default was compared with, ``ci_low`` and ``ci_high`` one-sided bounds of
    the regret at ``alpha``, ``training_gain`` is what the best rung adds to the untrained encoder.
    """

    study: str | None
    dataset: str | None
    method: str
    strategy: str | None
    basis: str | None
    patch_size: int | None
    patch_stride: int | None
    mask_unit: int | None
    kind: str
    default_ratio: float
    default_achieved: float | None
    ratios: list[float]
    best_ratio: float | None
    regret: float | None
    ci_low: float | None
    ci_high: float | None
    margin: float | None
    margin_share: float | None
    alpha: float
    verdict: str
    seeds: int
    seeds_needed: int | None
    reason: str | None
    training_gain: float | None
    training_gain_low: float | None
    untrained: float | None
    pixels: float | None
    evaluation: str | None
    excluded: list[str]
    checks: list[Check]
    rungs: list[RungRow]


class JointRecord(TypedDict, total=False):
    """The joint verdict on one method's default over all comparisons."""

    verdict: str
    margin: float
    margin_share: float
    comparisons: int
    datasets: int
    fails_on: list[str]
    largest_ci_high: float


class OverallRecord(JointRecord, total=False):
    """The joint verdict on PMAE's default, and MAE's."""

    mae_default: JointRecord


class VerdictRecord(TypedDict):
    """``verdict.json``."""

    schema_version: int
    answer: str
    alpha: float | None
    rows: list[VerdictRow]
    overall: OverallRecord
    warnings: list[str] | None


_TEXT, _NUMBER, _COUNT = pa.string(), pa.float64(), pa.int64()


def _schema(row: type) -> pa.Schema:
    columns = {float: _NUMBER, int: _COUNT, datetime.datetime: pa.timestamp("us", tz="UTC")}
    first = {name: (get_args(hint) or (hint,))[0] for name, hint in get_type_hints(row).items()}
    fields = [(name, columns.get(kind, _TEXT)) for name, kind in first.items()]
    return pa.schema(fields, metadata={VERSION_KEY: str(SCHEMA_VERSION).encode()})


TRIAL_SCHEMA: pa.Schema = _schema(TrialRow)
HISTORY_SCHEMA: pa.Schema = _schema(EpochRow)
_REQUIRED = {
    "trials": ("study", "trial_id", "phase", "dataset", "method", "seed", "status"),
    "history": ("study", "trial_id", "epoch"),
}
_CHOICES = {"phase": get_args(Phase), "status": get_args(Status), "method": METHODS}


def complete_trial(row: Mapping[str, Any], study: str) -> dict[str, Any]:
    """``row`` with every column of ``TRIAL_SCHEMA``; see :func:`complete_row`."""
    full = complete_row(row, TRIAL_SCHEMA, "trials", study)
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
    for name, value in full.items():
        if name.startswith(("val_", "test_")) and value is not None and not math.isnan(value) and not 0 <= value <= 1:
            raise StudyError(f"{name} is {value!r}; accuracies are fractions between 0 and 1, not percentages")
    return full


def complete_row(row: Mapping[str, Any], schema: pa.Schema, kind: str, study: str) -> dict[str, Any]:
    """``row`` with every column of ``schema``, checked and in native types; missing ones are None.

    Mappings and lists in JSON columns are written as JSON; a time without zone is taken as UTC.

    Raises:
        StudyError: an unknown or missing column, or a value that the column cannot hold.
    """
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
        if field.type != _TEXT:
            return _as_utc(value)
        if isinstance(value, (Mapping, list, tuple)):
            return json.dumps(value, sort_keys=True, default=str)
        return str(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise StudyError(f"{field.name} is {value!r}; the column holds {field.type} ({error})") from error


def _as_utc(value: Any) -> datetime.datetime:
    if isinstance(value, (int, float)):
        return datetime.datetime.fromtimestamp(value, datetime.timezone.utc)
    time = datetime.datetime.fromisoformat(value.replace("Z", "+00:00")) if isinstance(value, str) else value
    if not isinstance(time, datetime.datetime):
        raise TypeError("give a datetime, an ISO 8601 text or seconds since 1970")
    if time.tzinfo is None:
        return time.replace(tzinfo=datetime.timezone.utc)
    return time.astimezone(datetime.timezone.utc)


MAX_COUNT = 10**12
_SCALARS = {float: "a number", str: "text", int: "a whole number", bool: "true or false"}
_KINDS = {type(None): "null", bool: "a flag", str: "text", list: "a list", dict: "a mapping"}
_hints = functools.cache(get_type_hints)


def check_document(path: Path, document: Mapping[str, Any], kind: type, way_out: str, within: str = "") -> None:
    """Refuse a JSON document that is not of the ``TypedDict`` ``kind``; unknown keys are allowed.

    Such files can be edited by hand, truncated by a disk or written by another program. ``within`` is the key in the
    file under which the document stands.
    """
    problem = _problem(document, kind, within)
    if problem is not None:
        raise StudyError(f"{path}: {problem}; {way_out}")


def _problem(value: Any, hint: Any, where: str) -> str | None:
    """The first thing that is wrong with ``value``; None where it is of the type ``hint``."""
    options = get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if hint is Any or (value is None and types.NoneType in options):
        return None
    if len(options) > 1:
        found = [_problem(value, option, where) for option in options if option is not types.NoneType]
        return None if None in found else found[0]
    kind = _KINDS.get(type(value), "another number")
    if hint in _SCALARS:
        return None if _is_scalar(value, hint) else f"{where} is {kind}, it must be {_SCALARS[hint]}"
    container, parts = get_origin(hint), get_args(hint)
    if container is list:
        if not isinstance(value, list):
            return f"{where} is {kind}, it must be a list"
        inside = [(each, parts[0], f"{where}[{i}]") for i, each in enumerate(value)]
    elif not isinstance(value, dict):
        return f"{where or 'the document'} is {kind}, it must be a mapping"
    elif container is dict:
        inside = [(each, parts[1], f"{where}.{key}") for key, each in value.items()]
    else:
        hints, partial = _hints(hint), not hint.__total__
        for name, of in hints.items():
            if name not in value and not partial and types.NoneType not in get_args(of):
                return f"{f'{where}.{name}'.lstrip('.')} is missing"
        given = [name for name in hints if name in value and not (partial and value[name] is None)]
        inside = [(value[name], hints[name], f"{where}.{name}".lstrip(".")) for name in given]
    problems = (_problem(each, of, place) for each, of, place in inside)
    return next((problem for problem in problems if problem is not None), None)


def _is_scalar(value: Any, kind: type) -> bool:
    if kind in (str, bool):
        return isinstance(value, kind)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= MAX_COUNT:
        return False  # NaN is not below the limit
    return kind is float or (value >= 0 and float(value).is_integer())

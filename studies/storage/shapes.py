"""The types of what ``study.json`` and ``verdict.json`` hold, checked when they are read.

Both files can be edited by hand, truncated by a disk or written by another program. Keys that are not listed are free.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studies.errors import StudyError


@dataclass(frozen=True)
class Maybe:
    """May be missing or null."""

    of: Any


@dataclass(frozen=True)
class Each:
    """A mapping of any keys to values of one shape."""

    of: Any


NUMBER, TEXT, COUNT, FLAG = "a number", "text", "a whole number", "true or false"
MAX_COUNT = 10**12
PLAN = {
    "schema_version": Maybe(COUNT),
    "name": Maybe(TEXT),
    "created_at": Maybe(TEXT),
    "question": Maybe(TEXT),
    "dataset": Maybe(
        {key: Maybe(TEXT) for key in ("source", "name", "fingerprint")}
        | {key: Maybe(COUNT) for key in ("train", "val", "test", "image_size", "channels", "classes")}
    ),
    "methods": Maybe([TEXT]),
    "space": Maybe({}),
    "search": Maybe(TEXT),
    "phases": Maybe(Each({"planned": Maybe(COUNT), "seeds": Maybe([COUNT])})),
    "margin": Maybe((NUMBER, TEXT)),
    "alpha": Maybe(NUMBER),
    "looks": Maybe({"seeds_per_round": COUNT, "rounds": COUNT}),
    "ladder": Maybe(Each([NUMBER])),
    "default_ratio": Maybe(NUMBER),
    "mae_default_ratio": Maybe(NUMBER),
    "epochs": Maybe(COUNT),
    "config": Maybe({}),
    "options": Maybe({}),
    "command": Maybe(TEXT),
    "versions": Maybe(Each(TEXT)),
    "code_version": Maybe(TEXT),
    "device": Maybe(TEXT),
    "resources": Maybe({"max_concurrent": Maybe(COUNT)}),
    "warnings": Maybe([TEXT]),
}
_OVERALL = {
    "verdict": Maybe(TEXT),
    "margin": Maybe(NUMBER),
    "margin_share": Maybe(NUMBER),
    "comparisons": Maybe(COUNT),
    "datasets": Maybe(COUNT),
    "fails_on": Maybe([TEXT]),
    "largest_ci_high": Maybe(NUMBER),
}
_RUNG = {
    "ratio": NUMBER,
    "seeds": COUNT,
    "accuracy": NUMBER,
    "may_be_best": FLAG,
    "is_default": FLAG,
} | {
    key: Maybe(NUMBER)
    for key in ("achieved_sd", "nominal_ratio", "difference", "low", "high", "regret_high", "train_loss")
}
_ROW = (
    {key: Maybe(TEXT) for key in ("study", "dataset", "strategy", "basis", "reason", "evaluation")}
    | {key: TEXT for key in ("method", "kind", "verdict")}
    | {key: Maybe(COUNT) for key in ("patch_size", "patch_stride", "mask_unit", "seeds", "seeds_needed")}
    | {key: NUMBER for key in ("default_ratio", "alpha")}
    | {
        key: Maybe(NUMBER)
        for key in (
            "default_achieved", "best_ratio", "regret", "ci_low", "ci_high", "margin", "margin_share",
            "training_gain", "training_gain_low", "untrained", "pixels",
        )
    }
    | {
        "ratios": [NUMBER],
        "excluded": [TEXT],
        "checks": [{"name": TEXT, "passed": Maybe(FLAG), "detail": Maybe(TEXT)}],
        "rungs": [_RUNG],
    }
)  # fmt: skip
VERDICT = {
    "schema_version": COUNT,
    "answer": Maybe(TEXT),
    "alpha": Maybe(NUMBER),
    "rows": [_ROW],
    "overall": _OVERALL | {"mae_default": Maybe(_OVERALL)},
    "warnings": Maybe([TEXT]),
}
# Of a verdict of another version, which is judged again: what is shown without doing so.
OTHER_VERDICT = {"answer": Maybe(TEXT), "overall": Maybe({"verdict": Maybe(TEXT)}), "warnings": Maybe([TEXT])}


def check_shape(path: Path, document: Mapping[str, Any], shape: Any, way_out: str) -> None:
    """Refuse a document that is not of ``shape``.

    Raises:
        StudyError: With the file, the key, what it holds and what it should hold.
    """
    problem = _problem(document, shape, "")
    if problem is not None:
        raise StudyError(f"{path}: {problem}; {way_out}")


def _problem(value: Any, shape: Any, where: str) -> str | None:
    if isinstance(shape, Maybe):
        return None if value is None else _problem(value, shape.of, where)
    if isinstance(shape, tuple):
        problems = [_problem(value, each, where) for each in shape]
        return None if None in problems else problems[0]
    if isinstance(shape, str):
        return None if _is_scalar(value, shape) else f"{where} is {_kind(value)}, it must be {shape}"
    if isinstance(shape, list):
        if not isinstance(value, list):
            return f"{where} is {_kind(value)}, it must be a list"
        return _first(_problem(each, shape[0], f"{where}[{i}]") for i, each in enumerate(value))
    if not isinstance(value, dict):
        return f"{where or 'the document'} is {_kind(value)}, it must be a mapping"
    if isinstance(shape, Each):
        return _first(_problem(each, shape.of, f"{where}.{key}") for key, each in value.items())
    found = (
        _problem(value[key], each, f"{where}.{key}".lstrip("."))
        if key in value
        else None
        if isinstance(each, Maybe)
        else f"{f'{where}.{key}'.lstrip('.')} is missing"
        for key, each in shape.items()
    )
    return _first(found)


def _first(problems: Any) -> str | None:
    return next((problem for problem in problems if problem is not None), None)


def _is_scalar(value: Any, kind: str) -> bool:
    if kind == TEXT:
        return isinstance(value, str)
    if kind == FLAG:
        return isinstance(value, bool)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    if isinstance(value, float) and not math.isfinite(value):
        return False
    whole = isinstance(value, int) or value.is_integer()
    return abs(value) <= MAX_COUNT and (kind == NUMBER or (whole and value >= 0))


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    names = {bool: "a flag", str: "text", list: "a list", dict: "a mapping"}
    return names.get(type(value), "another number")

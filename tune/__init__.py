"""Running a study: search, trials, Ray session, command line. Not to be confused with ``ray.tune``, which it uses.

``run_study(options)`` runs what the command line does; ``simulate(options, objective, seed=0)`` runs the same plan in
memory with a function in place of training. Nothing heavy is imported until one of the names is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tune.api import run_study as run_study
    from tune.options import StudyOptions as StudyOptions
    from tune.simulation import simulate as simulate

_HOMES = {
    "run_study": "tune.api",
    "simulate": "tune.simulation",
    "StudyOptions": "tune.options",
    "DataOptions": "tune.options",
    "SearchOptions": "tune.options",
    "ConfirmOptions": "tune.options",
    "TrainingOptions": "tune.options",
    "StorageOptions": "tune.options",
    "MachineOptions": "tune.options",
    "OutputOptions": "tune.options",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)

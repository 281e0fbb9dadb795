"""Running a study: search, trials, Ray session, command line. Not to be confused with ``ray.tune``, which it uses.

``run_study(options)`` runs what the command line does; ``simulate(options, objective, seed=0)`` runs the same plan in
memory with a function in place of training. Nothing heavy is imported until one of the names is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tune.api import run_study as run_study
    from tune.options import ConfirmOptions as ConfirmOptions
    from tune.options import DataOptions as DataOptions
    from tune.options import MachineOptions as MachineOptions
    from tune.options import OutputOptions as OutputOptions
    from tune.options import SearchOptions as SearchOptions
    from tune.options import StorageOptions as StorageOptions
    from tune.options import StudyOptions as StudyOptions
    from tune.options import TrainingOptions as TrainingOptions
    from tune.simulation import simulate as simulate

_NAMES = {
    "tune.api": ("run_study",),
    "tune.options": (
        "ConfirmOptions", "DataOptions", "MachineOptions", "OutputOptions", "SearchOptions", "StorageOptions",
        "StudyOptions", "TrainingOptions",
    ),
    "tune.simulation": ("simulate",),
}  # fmt: skip
_MODULES = {name: module for module, names in _NAMES.items() for name in names}
__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

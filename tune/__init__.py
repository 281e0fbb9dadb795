"""Running a study: search, trials, Ray session, command line. Not to be confused with ``ray.tune``, which it uses.

``run_study(options)`` runs what the command line does; ``simulate(options, objective, seed=0)`` runs the same plan in
memory with a function in place of training. Nothing heavy is imported until one of the names is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tune.options import (
        ConfirmOptions,
        DataOptions,
        MachineOptions,
        OutputOptions,
        SearchOptions,
        StorageOptions,
        StudyOptions,
        TrainingOptions,
    )
    from tune.run.runner import run_study
    from tune.simulation import simulate

__all__ = [
    "ConfirmOptions", "DataOptions", "MachineOptions", "OutputOptions", "SearchOptions", "StorageOptions",
    "StudyOptions", "TrainingOptions", "run_study", "simulate",
]  # fmt: skip
_OTHERS = {"run_study": "tune.run.runner", "simulate": "tune.simulation"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_OTHERS.get(name, "tune.options")), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

"""What a study found: its records, statistics, figures and report; without torch and Ray, imported on first use."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from studies.figures import draw_figures as draw_figures
    from studies.records import Study as Study
    from studies.records import read_studies as read_studies
    from studies.records import read_study as read_study
    from studies.report import write_report as write_report
    from studies.verdict import Verdict as Verdict
    from studies.verdict import judge as judge

_NAMES = {
    "studies.figures": ("draw_figures",),
    "studies.records": ("Study", "read_studies", "read_study"),
    "studies.report": ("write_report",),
    "studies.verdict": ("Verdict", "judge"),
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names}
__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

"""What a reader must know besides the results: how each study was run, and what of it is missing."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from studies.formatting import duration
from studies.records import Study
from studies.report.pictures import Gallery
from studies.statistics.margin import Margin

RESOURCES = {
    "concurrent": "trials at once", "max_concurrent": "trials at once", "threads": "threads per worker",
    "workers": "workers per trial", "gpus": "GPUs", "cpus": "CPUs", "limited_by": "limited by",
}  # fmt: skip


@dataclass(frozen=True)
class Run:
    """How one study was run: facts in order, and the command that reproduces it."""

    name: str
    facts: tuple[tuple[str, str], ...]
    command: str | None
    config: str | None
    space: str | None


def what_is_missing(studies: Sequence[Study], trials: pa.Table, galleries: Sequence[Gallery]) -> list[str]:
    """Everything that a reader of an unfinished or corrupted study must know before believing the page."""
    notes = []
    for study in studies:
        ended = Counter(study.trials["phase"].to_pylist())
        for name, phase in (study.plan.get("phases") or {}).items():
            planned = int(phase.get("planned") or 0)
            if planned > ended[name]:
                notes.append(f"{study.name}: {ended[name]} of {planned} trials planned to {name} have ended so far.")
        notes += [f"{study.name}: {warning}" for warning in study.plan.get("warnings") or []]
        if not study.plan:
            notes.append(f"{study.name}: study.json is missing, so how it was run is not known.")
    counts = Counter(trials["status"].to_pylist())
    lost = {status: counts[status] for status in ("failed", "diverged", "pruned", "interrupted") if counts[status]}
    if lost:
        listed = ", ".join(f"{count} {status}" for status, count in lost.items())
        notes.append(f"{listed}: these trials are in the table and in no average.")
    if not counts["done"]:
        notes.append("No trial has finished yet, so there is nothing to plot and nothing to judge.")
    elif not pc.any(pc.equal(trials["phase"], "confirm")).as_py():
        notes.append("No confirmed trials yet: only explored ones, each a single seed on the validation split.")
    notes += [f"{found.study}: {found.problem}." for found in galleries if found.problem]
    return notes


def how_it_was_run(study: Study) -> Run:
    """The plan of a study as facts; what ``study.json`` lacks is left out."""
    plan = study.plan
    seconds = pc.sum(study.trials["seconds"]).as_py()
    margin = plan.get("margin")
    facts = {
        "data": _dataset_text(plan.get("dataset") or {}),
        "methods": ", ".join(map(str, plan.get("methods") or [])),
        "search": plan.get("search"),
        **{f"phase {name}": _phase_text(phase) for name, phase in (plan.get("phases") or {}).items()},
        "epochs per trial": plan.get("epochs"),
        "margin": None if margin is None else f"{Margin.parse(margin).text}, fixed beforehand",
        "trial time in all": None if seconds is None else duration(seconds),
        "device": plan.get("device") or _distinct(study, "device"),
        "resources": _compact(_named(plan.get("resources"))),
        "code version": plan.get("code_version") or _distinct(study, "code_version"),
        "versions": _compact(plan.get("versions")),
        "started": plan.get("created_at"),
    }
    command = plan.get("command")
    return Run(
        name=study.name,
        facts=tuple((name, str(value)) for name, value in facts.items() if value not in (None, "")),
        command=shlex.join(map(str, command)) if isinstance(command, list) else command,
        config=_pretty(plan.get("config")),
        space=_pretty(plan.get("space")),
    )


def _dataset_text(data: dict[str, Any]) -> str:
    splits = ", ".join(f"{data[split]:,} {split}" for split in ("train", "val", "test") if data.get(split) is not None)
    channels = {1: "gray", 3: "color"}.get(data.get("channels", 0), "")
    size = "" if data.get("image_size") is None else f"{data['image_size']} px {channels}".strip()
    classes = "" if data.get("classes") is None else f"{data['classes']} classes"
    return "; ".join(part for part in (str(data.get("source") or ""), splits, size, classes) if part)


def _phase_text(phase: dict[str, Any]) -> str | None:
    planned, seeds = phase.get("planned"), phase.get("seeds") or []
    listed = ", ".join(map(str, seeds[:12])) + (" …" if len(seeds) > 12 else "")
    parts = [
        "" if planned is None else f"{planned} trials",
        f"seed{'s' * (len(seeds) != 1)} {listed}" if seeds else "",
    ]
    return ", ".join(filter(None, parts)) or None


def _distinct(study: Study, column: str) -> str:
    return ", ".join(sorted(study.trials[column].unique().drop_null().to_pylist()))


def _compact(values: Any) -> str | None:
    if not isinstance(values, dict):
        return str(values) if values else None
    return "; ".join(f"{name} {_short(name, value)}" for name, value in values.items() if value is not None)


def _named(resources: Any) -> Any:
    """Resources under readable names; what only the scheduler needs is left out."""
    if not isinstance(resources, dict):
        return resources
    return {RESOURCES.get(name, name.replace("_", " ")): v for name, v in resources.items() if name != "lag"}


def _short(name: str, value: Any) -> str:
    if name == "memory" and isinstance(value, (int, float)):
        return f"{value / 2**30:.1f} GiB"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _pretty(values: Any) -> str | None:
    return json.dumps(values, indent=2, ensure_ascii=False, default=str) if values else None

"""What the report says in words and small tables: the verdict's rows, what is missing, how the study was run."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from studies.curves import RatioCurve, Setting, setting_labels
from studies.records import Study
from studies.report.pictures import Gallery
from studies.sentences import percent, points, row_sentence

KINDS = {"default": "the question", "rival": "a rival default", "mae_default": "MAE's default"}


@dataclass(frozen=True)
class Panel:
    """A plot's place in the page: its element, heading, description, and the numbers behind it as table rows."""

    id: str
    heading: str
    description: str
    numbers: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True)
class VerdictRow:
    """One row of the verdict, ready to print."""

    dataset: str
    setting: str
    kind: str
    default: str
    best: str
    regret: str
    low: str
    high: str
    verdict: str
    seeds: str
    needed: str
    sentence: str


@dataclass(frozen=True)
class Run:
    """How one study was run: facts in order, and the command that reproduces it."""

    name: str
    facts: tuple[tuple[str, str], ...]
    command: str | None
    config: str | None
    folder: str = field(default="")


def numbers_of(curves: Sequence[RatioCurve]) -> tuple[tuple[str, ...], ...]:
    """Rows of setting, ratio, mean, interval and seeds for every confirmed point of ``curves``."""
    return tuple(
        (
            curve.label,
            percent(point.ratio),
            f"{100 * point.mean:.2f}",
            "" if point.interval is None else f"{100 * point.interval[0]:.2f} to {100 * point.interval[1]:.2f}",
            str(point.seeds),
        )
        for curve in curves
        for point in curve.confirmed
    )


def verdict_rows(verdict: dict[str, Any]) -> list[VerdictRow]:
    """The verdict's rows in its order, numbers in points of accuracy."""
    rows = verdict["rows"]
    settings = [Setting.of(row) for row in rows]
    labels = setting_labels(settings)
    return [
        VerdictRow(
            dataset=setting.dataset,
            setting=labels[setting],
            kind=KINDS.get(str(row.get("kind")), str(row.get("kind") or "")),
            default=percent(row["default_ratio"]),
            best="" if row.get("best_ratio") is None else percent(row["best_ratio"]),
            regret=_in_points(row.get("regret")),
            low=_in_points(row.get("ci_low")),
            high=_in_points(row.get("ci_high")),
            verdict=str(row.get("verdict") or "not known"),
            seeds=_count(row.get("seeds")),
            needed=_count(row.get("seeds_needed")),
            sentence=row_sentence(row),
        )
        for row, setting in zip(rows, settings, strict=True)
    ]


def what_is_missing(studies: Sequence[Study], trials: pa.Table, galleries: Sequence[Gallery]) -> list[str]:
    """Everything that a reader of an unfinished or damaged study must know before believing the page."""
    notes = []
    for study in studies:
        phases = study.plan.get("phases") or {}
        planned = sum(int(phase.get("planned") or 0) for phase in phases.values())
        if planned > study.trials.num_rows:
            notes.append(f"{study.name}: {study.trials.num_rows} of {planned} planned trials have ended so far.")
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
    plan, data = study.plan, study.plan.get("dataset") or {}
    seconds = pc.sum(study.trials["seconds"]).as_py()
    facts = {
        "data": _dataset_text(data),
        "methods": ", ".join(map(str, plan.get("methods") or [])),
        "search": plan.get("search"),
        "search space": _compact(plan.get("space")),
        **{f"phase {name}": _phase_text(phase) for name, phase in (plan.get("phases") or {}).items()},
        "epochs per trial": plan.get("epochs"),
        "margin": None if plan.get("margin") is None else f"{points(plan['margin'])} of accuracy, fixed beforehand",
        "trial time in all": None if seconds is None else _duration(seconds),
        "device": plan.get("device"),
        "resources": _compact(plan.get("resources")),
        "code version": plan.get("code_version"),
        "versions": _compact(plan.get("versions")),
        "started": plan.get("created_at"),
    }
    command = plan.get("command")
    if isinstance(command, list):
        command = shlex.join(map(str, command))
    config = plan.get("config")
    return Run(
        name=study.name,
        facts=tuple((name, str(value)) for name, value in facts.items() if value not in (None, "")),
        command=command,
        config=None if config is None else json.dumps(config, indent=2, ensure_ascii=False, default=str),
        folder=study.folder.name,
    )


def _dataset_text(data: dict[str, Any]) -> str:
    splits = ", ".join(f"{data[split]:,} {split}" for split in ("train", "val", "test") if data.get(split) is not None)
    channels = {1: "grey", 3: "colour"}.get(data.get("channels", 0), "")
    size = "" if data.get("image_size") is None else f"{data['image_size']} px {channels}".strip()
    classes = "" if data.get("classes") is None else f"{data['classes']} classes"
    return "; ".join(part for part in (str(data.get("source") or ""), splits, size, classes) if part)


def _phase_text(phase: dict[str, Any]) -> str:
    seeds = phase.get("seeds") or []
    listed = ", ".join(map(str, seeds[:12])) + (" …" if len(seeds) > 12 else "")
    return f"{phase.get('planned', '?')} trials" + (f", seed{'s' * (len(seeds) != 1)} {listed}" if seeds else "")


def _compact(values: Any) -> str | None:
    if not values:
        return None
    if not isinstance(values, dict):
        return str(values)
    return "; ".join(f"{name} {json.dumps(v) if isinstance(v, (dict, list)) else v}" for name, v in values.items())


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _in_points(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.2f}"


def _count(value: Any) -> str:
    return "" if value is None else str(value)

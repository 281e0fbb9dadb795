"""Accuracy over the masking ratio, read from a table of trials: the points that figures, report and terminal show.

A *setting* is everything but the ratio and the seed that is compared. :func:`select_confirmed` defines which rows
count, for curves, verdicts and comparisons alike. Differences, bounds and verdicts come from ``verdict.json``; drawing
is done by ``figures``.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from studies.formatting import count, is_number, method_name
from studies.storage.rows import CONTROLS
from studies.storage.tables import rows_of

MAX_PANELS = 12
DEFAULT_RATIOS = {"pmae": 0.20, "mae": 0.75}  # Bizeul et al. 2025; He et al. 2022
Row = dict[str, Any]


class Setting(NamedTuple):
    """What one curve holds fixed. Sides are in pixels; None where a method has no such setting."""

    dataset: str
    method: str
    strategy: str | None
    basis: str | None
    patch_size: int | None
    patch_stride: int | None
    mask_unit: int | None

    def sides(self) -> list[str]:
        """For names: ``patch 2``, and ``stride 1`` and ``mask unit 4`` where they differ from the patch."""
        parts = [] if self.patch_size is None else [f"patch {self.patch_size}"]
        if self.patch_stride not in (None, self.patch_size):
            parts.append(f"stride {self.patch_stride}")
        if self.mask_unit not in (None, self.patch_size):
            parts.append(f"mask unit {self.mask_unit}")
        return parts

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Setting:
        """The setting of a row of trials or of a verdict; a missing stride counts as the patch size."""
        values = {name: row.get(name) for name in cls._fields[2:]}
        values["patch_stride"] = values["patch_stride"] or values["patch_size"]
        return cls(str(row.get("dataset")), str(row.get("method")).lower(), **values)


def student_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Two-sided 95 % Student interval of the mean of ``values``; None with fewer than 2."""
    if len(values) < 2:
        return None
    from scipy.special import stdtrit  # here, since tables in the terminal do without scipy

    mean = float(np.mean(values))
    half = float(stdtrit(len(values) - 1, 0.975)) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return mean - half, mean + half


@dataclass(frozen=True)
class RungPoint:
    """The confirmed trials at one ratio."""

    ratio: float  # mean achieved ratio (the nominal one where none was recorded)
    nominal: float
    scores: dict[int, float]  # test accuracy (fraction) by seed

    @property
    def seeds(self) -> int:
        return len(self.scores)

    @cached_property
    def mean(self) -> float:
        return float(np.mean(list(self.scores.values())))

    @cached_property
    def deviation(self) -> float | None:
        """Standard deviation over the seeds; None with one seed."""
        return float(np.std(list(self.scores.values()), ddof=1)) if self.seeds > 1 else None

    @cached_property
    def interval(self) -> tuple[float, float] | None:
        """Two-sided 95 % Student interval of the mean; None with one seed."""
        return student_interval(list(self.scores.values()))


@dataclass(frozen=True)
class RatioCurve:
    """One setting's curve: what was confirmed on the test split, and what exploration saw on validation."""

    setting: Setting
    label: str
    confirmed: tuple[RungPoint, ...]
    explored: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Panel:
    """A curve with what its figure marks."""

    curve: RatioCurve
    default: float | None  # achieved ratio of the method's default; None where the method has none
    margin: float | None  # largest regret that still holds, a fraction; None where it is not known
    references: dict[str, float]  # mean test accuracy of controls by name, for example ``untrained``
    other_patches: tuple[tuple[float, float], ...]  # ratio and validation accuracy, explored with other patch settings

    @property
    def title(self) -> str:
        """``PMAE on digits, patch 2``."""
        return on_dataset(self.curve.label, self.curve.setting)


def make_panels(trials: pa.Table, rows: Sequence[Mapping[str, Any]], plan: Mapping[str, Any]) -> list[Panel]:
    """A panel per setting with confirmed trials (of all settings where there is none); of too many those judged.

    ``rows`` are those of ``wording.judged_rows``.
    """
    curves = ratio_curves(trials)
    judged = {Setting.of(row): row for row in rows}
    shown = [curve for curve in curves if curve.confirmed] or curves
    kept = sorted(shown, key=lambda curve: curve.setting not in judged)[:MAX_PANELS]
    panels = []
    for curve in (curve for curve in shown if curve in kept):
        setting, planned, references = curve.setting, plan.get("margin"), {}
        prefix = "" if setting.method == "pmae" else f"{setting.method}_"
        default = plan.get(f"{prefix}default_ratio") or DEFAULT_RATIOS.get(setting.method)
        margin = planned if isinstance(planned, float) else None  # a share becomes points with the training gain
        if setting in judged:
            row = judged[setting]
            default, margin = row["default_achieved"] or row["default_ratio"] or default, row["margin"]
            references = {name: row[name] for name in ("untrained", "pixels") if is_number(row[name])}
        others = (c for c in curves if c.setting != setting and c.setting[:4] == setting[:4])
        explored = tuple(sorted(point for other in others for point in other.explored))
        panels.append(Panel(curve, default, margin if is_number(margin) else None, references, explored))
    return panels


def ratio_curves(trials: pa.Table) -> list[RatioCurve]:
    """Every setting's curve, in the order of :func:`sort_settings`; only finished trials have a place on a curve."""
    explored: dict[Setting, list[tuple[float, float]]] = defaultdict(list)
    for row in rows_of(trials, (*Setting._fields, "ratio", "achieved_ratio", "phase", "status", "val_linear")):
        done = (row["phase"], row["status"]) == ("explore", "done")
        if done and is_number(row["ratio"]) and is_number(row["val_linear"]):
            explored[Setting.of(row)].append((achieved(row), row["val_linear"]))
    confirmed: dict[Setting, list[Row]] = defaultdict(list)
    for row in select_confirmed(trials, ("achieved_ratio", "test_linear"), [])[0]:
        if row["status"] == "done" and is_number(row["ratio"]) and is_number(row["test_linear"]):
            confirmed[Setting.of(row)].append(row)
    settings = sort_settings({*explored, *confirmed})
    labels = setting_labels(settings)
    return [RatioCurve(s, labels[s], _rung_points(confirmed[s]), tuple(sorted(explored[s]))) for s in settings]


def select_confirmed(trials: pa.Table, columns: Iterable[str], warnings: list[str]) -> tuple[list[Row], list[Row]]:
    """The confirmed trials that count, whatever their status, and the controls; what is unusual goes to ``warnings``.

    Rows are dictionaries of ``columns`` and of what identifies a trial. All rows of a table without phases count.
    """
    if "phase" in trials.column_names and trials["phase"].null_count < trials.num_rows:
        phase = pc.utf8_lower(trials["phase"])
        trials = trials.filter(pc.is_in(phase, pa.array(["confirm", "control"])))
    elif trials.num_rows:
        warnings.append("no trial says its phase; all are taken as confirmed")
    rows = rows_of(trials, ("study", "trial_id", *Setting._fields, "ratio", "seed", "status", *columns))
    for row in rows:
        row["method"], row["status"] = row["method"] and row["method"].lower(), (row["status"] or "unknown").lower()
        if row["ratio"] is not None and row["method"] not in CONTROLS:
            row["ratio"] = round(row["ratio"], 6)
        if row["patch_stride"] is None:
            row["patch_stride"] = row["patch_size"]
    rows = _without_repeats(rows, warnings)
    trained = [row for row in rows if row["method"] not in CONTROLS]
    return trained, [row for row in rows if row["method"] in CONTROLS]


def _without_repeats(rows: list[Row], warnings: list[str]) -> list[Row]:
    """Drop repeated rows, which occur when a table is given twice; the last one counts.

    Rows with one id but another setting are not repeats: the ids of a table from another program may restart.
    """
    latest: dict[Any, Row] = {}
    settings: dict[Any, set[Any]] = defaultdict(set)
    for number, row in enumerate(rows):
        setting = tuple(row[name] for name in (*Setting._fields[1:], "ratio"))
        key = (row["study"], row["dataset"], row["trial_id"], row["seed"]) if row["trial_id"] is not None else number
        settings[key].add(setting)
        latest[key, setting] = row
    repeated = len(rows) - len(latest)
    if repeated:
        warnings.append(f"{count(repeated, 'repeated row')}: the last row of each trial was used")
    restarted = sum(len(found) > 1 for found in settings.values())
    if restarted:
        warnings.append(f"{count(restarted, 'trial id')} with different settings: such rows count as different trials")
    return list(latest.values())


def sort_settings(settings: Iterable[Setting]) -> list[Setting]:
    """By data set, method (``pmae`` first), patch size and the rest."""

    def key(setting: Setting) -> tuple[Any, ...]:
        numbers = tuple(value or 0 for value in setting[4:])
        return (setting.dataset, setting.method != "pmae", setting.method, *numbers, *map(str, setting[2:4]))

    return sorted(settings, key=key)


def setting_labels(settings: Iterable[Setting]) -> dict[Setting, str]:
    """Short names that tell the settings of one picture apart: ``PMAE, patch 2``; what never differs is left out."""
    listed, labels = list(settings), {}
    for setting in listed:
        parts = [method_name(setting.method), *setting.sides()]
        peers = [other for other in listed if other.method == setting.method]
        if setting.basis not in (None, "pca") or len({peer.basis for peer in peers}) > 1:
            parts.append(f"basis {setting.basis}")
        if len({peer.strategy for peer in peers}) > 1:
            parts.append(f"strategy {setting.strategy}")
        labels[setting] = ", ".join(parts)
    return labels


def on_dataset(label: str, setting: Setting) -> str:
    """``PMAE on digits, patch 2`` for the label ``PMAE, patch 2``."""
    name, _, rest = label.partition(", ")
    return f"{name} on {setting.dataset}" + (f", {rest}" if rest else "")


def achieved(row: Mapping[str, Any]) -> float:
    """A trial's achieved ratio; the nominal one where none was recorded."""
    return float(row["achieved_ratio"] if is_number(row["achieved_ratio"]) else row["ratio"])


def _rung_points(rows: Iterable[Row]) -> tuple[RungPoint, ...]:
    rungs: dict[float, list[Row]] = defaultdict(list)
    for row in rows:
        # Nominal ratios of MAE that mask the same number of patches are one rung.
        rungs[round(achieved(row) if row["method"] == "mae" else row["ratio"], 6)].append(row)
    points = (
        RungPoint(
            float(np.mean([achieved(row) for row in members])),
            members[0]["ratio"],
            {-1 - i if row["seed"] is None else row["seed"]: row["test_linear"] for i, row in enumerate(members)},
        )
        for members in rungs.values()
    )
    return tuple(sorted(points, key=lambda point: point.ratio))

"""Group confirmed trials by configuration and pair them by seed; report every excluded row.

A row that cannot be compared with the others (not finished, not finite, another budget, another configuration, a
second row of the same seed) is left out and named. The statistics of what remains are in ``regret.py``.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from studies.errors import StudyError
from studies.statistics.budget import FREE_ENTRIES, Row, names, same_budget
from studies.storage.arrow_file import cast_columns
from studies.storage.schema import TRIAL_SCHEMA

COLUMNS = (
    "study", "trial_id", "phase", "dataset", "method", "strategy", "basis", "ratio", "achieved_ratio", "achieved_sd",
    "patch_size", "patch_stride", "mask_unit", "seed", "status", "epochs", "val_linear", "test_linear", "evaluation",
    "train_loss", "training_problem", "config", "pool", "code_version", "device", "versions",
    "precision",
)  # fmt: skip
CONTROL_METHODS = ("untrained", "pixels")
SAME_SHARE = 1e-4  # achieved ratios of MAE closer than this mask the same number of patches
REQUIRED = ("dataset", "method", "ratio", "seed", "status")
PATCH_COLUMNS = ("patch_size", "patch_stride", "mask_unit")
LEAST_SEEDS = 2


@dataclass(frozen=True)
class Arm:
    """One of the settings that a comparison is between; sizes in pixels, None where the table has none."""

    ratio: float
    patch_size: int | None = None
    patch_stride: int | None = None
    mask_unit: int | None = None


@dataclass(frozen=True)
class Group:
    """What the arms of a comparison have in common; patch columns are None when the arms differ in them."""

    study: str
    dataset: str
    method: str
    strategy: str | None
    basis: str | None
    patch_size: int | None = None
    patch_stride: int | None = None
    mask_unit: int | None = None

    @property
    def label(self) -> str:
        """For messages, such as ``digits, pmae, patch 2``."""
        parts = [self.dataset, self.method]
        if self.strategy not in (None, "expected", "fixed", "random"):
            parts.append(str(self.strategy))
        if self.basis not in (None, "pca"):
            parts.append(str(self.basis))
        if self.patch_size is not None:
            parts.append(f"patch {self.patch_size}")
        if self.patch_stride not in (None, self.patch_size):
            parts.append(f"stride {self.patch_stride}")
        if self.mask_unit not in (None, self.patch_size):
            parts.append(f"mask unit {self.mask_unit}")
        return ", ".join(parts)


@dataclass(frozen=True)
class Rung:
    """One ratio of a comparison, with its means over seeds; None where the table does not say.

    Attributes:
        arm: Its nominal ratio and patch setting.
        achieved, achieved_sd: Mean share that was masked, and its standard deviation over the masks.
        train_loss: Mean final loss as a share of that of predicting the mean.
        problems: How many of its trials have a training problem on record.
    """

    arm: Arm
    achieved: float
    achieved_sd: float | None = None
    train_loss: float | None = None
    problems: int = 0


@dataclass(frozen=True)
class Comparison:
    """Paired accuracies of several rungs and of the controls.

    Attributes:
        group: What the rungs share.
        rungs: K rungs that can be compared, by ratio.
        seeds: n seeds that any rung finished.
        test: (n, K) test accuracies, fractions; NaN where a rung lacks a seed.
        controls: Control method -> (n,) test accuracies for the same seeds; NaN where one is missing.
        left_out: Sentences that name the rungs that were tried but cannot be compared.
        evaluation: How accuracies were measured: ``split``, ``folds`` or None.
    """

    group: Group
    rungs: tuple[Rung, ...]
    seeds: tuple[int, ...]
    test: np.ndarray
    controls: dict[str, np.ndarray] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    tried: tuple[Arm, ...] = ()
    evaluation: str | None = None


@dataclass
class Collected:
    """Comparisons and what was found odd on the way."""

    comparisons: list[Comparison] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def confirmed_rows(trials: pa.Table) -> tuple[list[Row], list[Row], list[str]]:
    """Confirmed trials and controls as dictionaries of ``COLUMNS`` (None without such a column), and warnings.

    Raises:
        StudyError: a required column is missing, or accuracies or ratios are not fractions.
    """
    missing = [name for name in REQUIRED if name not in trials.column_names]
    if missing:
        raise StudyError(
            f"the table lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)}; "
            "a verdict needs " + ", ".join(REQUIRED) + ", phase, val_linear and test_linear"
        )
    trials = pa.table(cast_columns(trials, pa.schema([TRIAL_SCHEMA.field(name) for name in COLUMNS]), "the table"))
    warnings = []
    if "phase" in trials.column_names and trials["phase"].null_count < trials.num_rows:
        phase = pc.utf8_lower(trials["phase"])
        trials = trials.filter(pc.is_in(phase, pa.array(["confirm", "control"])))
    elif trials.num_rows:
        warnings.append("no trial says its phase; all are taken as confirmed")
    columns = {name: trials[name].to_pylist() for name in trials.column_names}
    empty = [None] * trials.num_rows
    rows = [
        dict(zip(COLUMNS, values, strict=True))
        for values in zip(*(columns.get(name, empty) for name in COLUMNS), strict=True)
    ]
    _check_values(rows)
    for row in rows:
        row["method"], row["status"] = row["method"].lower(), (row["status"] or "unknown").lower()
        if row["method"] not in CONTROL_METHODS:
            row["ratio"] = round(float(row["ratio"]), 6)
        if row["patch_stride"] is None:
            row["patch_stride"] = row["patch_size"]
    latest, repeats = _without_repeats(rows)
    controls = [row for row in latest if row["method"] in CONTROL_METHODS]
    return [row for row in latest if row["method"] not in CONTROL_METHODS], controls, warnings + repeats


def collect(rows: Sequence[Row], controls: Sequence[Row] = ()) -> Collected:
    """Group ``rows`` (of :func:`confirmed_rows`) by data set, method and patch setting, and pair them by seed.

    Args:
        rows: Confirmed trials.
        controls: Control trials; those of the same data set, study and patch setting join a comparison.
    """
    found = Collected()
    groups: dict[Group, list[Row]] = defaultdict(list)
    for row in rows:
        common = {name: row[name] for name in ("dataset", "method", "strategy", "basis", *PATCH_COLUMNS)}
        groups[Group(study=row["study"] or "", **common)].append(row)
    for group in sorted(groups, key=lambda g: tuple(str(v) for v in vars(g).values())):
        members = same_budget(groups[group], group.label, FREE_ENTRIES, found.warnings)
        matching = [row for row in controls if _belongs(row, group)]
        found.comparisons.append(_pair(group, groups[group], members, matching, found.warnings))
    return found


def _belongs(row: Row, group: Group) -> bool:
    """Whether a control was measured on the comparison's data with an encoder of the same shape."""
    if (row["study"] or "") != group.study or row["dataset"] != group.dataset or row["status"] != "done":
        return False
    if row["method"] == "pixels" or row["patch_size"] is None:
        return True
    return (row["patch_size"], row["patch_stride"]) == (group.patch_size, group.patch_stride)


def _check_values(rows: Iterable[Row]) -> None:
    for row in rows:
        for name in ("dataset", "method", "seed"):
            if row[name] is None:
                raise StudyError(
                    f"{name} is empty in trial {row['trial_id']}; fill it in, or leave the row out: without it nothing "
                    "says what the trial may be compared with"
                )
        for name in ("val_linear", "test_linear"):
            if row[name] is not None and (row[name] > 1 or row[name] < 0):
                raise StudyError(
                    f"{name} is {row[name]:g} in trial {row['trial_id']}; accuracies are fractions between 0 and 1"
                    + (": divide the column by 100" if 1 < row[name] <= 100 else "")
                )
        if row["method"].lower() in CONTROL_METHODS:
            continue
        if row["ratio"] is None or not 0 < row["ratio"] < 1:
            raise StudyError(
                f"ratio is {row['ratio']} in trial {row['trial_id']}; ratios are fractions strictly between 0 and 1"
            )


def _without_repeats(rows: list[Row]) -> tuple[list[Row], list[str]]:
    """Drop repeated rows, which occur when a table is given twice; the last one counts.

    Rows with one id but another setting are not repeats: the ids of a table from another program may restart.
    """
    latest: dict[Any, Row] = {}
    settings: dict[Any, set[Any]] = defaultdict(set)
    for number, row in enumerate(rows):
        setting = tuple(row[name] for name in ("method", "strategy", "basis", "ratio", *PATCH_COLUMNS))
        key = (row["study"], row["dataset"], row["trial_id"], row["seed"]) if row["trial_id"] is not None else number
        settings[key].add(setting)
        latest[key, setting] = row
    warnings = []
    repeated = len(rows) - len(latest)
    if repeated:
        warnings.append(f"{repeated} rows repeat a trial; the last row of each trial was used")
    restarted = sum(len(found) > 1 for found in settings.values())
    if restarted:
        warnings.append(f"{restarted} trial ids occur with different settings; such rows count as different trials")
    return list(latest.values()), warnings


def _pair(
    group: Group, rows: list[Row], members: list[Row], controls: Sequence[Row], warnings: list[str]
) -> Comparison:
    label = group.label
    tried = sorted({_arm(row) for row in rows}, key=_order)
    unfinished = [row for row in rows if row["status"] != "done"]
    if unfinished:
        kinds = ", ".join(f"{n} {kind}" for kind, n in sorted(Counter(r["status"] for r in unfinished).items()))
        warnings.append(f"{label}: {len(unfinished)} trials did not finish ({kinds}): {names(unfinished)}")
    members, stand_in = _with_accuracies(label, members, warnings)
    cells: dict[Arm, dict[int, Row]] = defaultdict(dict)
    for row in members:
        before = cells[_arm(row)].get(row["seed"])
        if before is not None:
            warnings.append(
                f"{label}: ratio {row['ratio']:g} has seed {row['seed']} twice (trials {names([before, row])}); "
                "the later row was used"
            )
        cells[_arm(row)][row["seed"]] = row
    attempted: dict[Arm, set[int]] = defaultdict(set)
    for row in rows:
        attempted[_arm(row)].add(row["seed"])
    left_out, rungs = [], []
    for arm in tried:
        count, asked = len(cells.get(arm, ())), len(attempted[arm])
        if count < LEAST_SEEDS or count < asked / 2:
            left_out.append(f"ratio {arm.ratio:g} has {count} usable seeds of {asked} and is left out")
        else:
            rungs.append(_rung(arm, list(cells[arm].values())))
    warnings += [f"{label}: {reason}" for reason in left_out]
    seeds = tuple(sorted({seed for rung in rungs for seed in cells[rung.arm]}))
    empty: dict[str, float] = {"test_linear": np.nan}
    test = np.array(
        [[cells[r.arm].get(seed, empty)["test_linear"] for r in rungs] for seed in seeds], dtype=float
    ).reshape(len(seeds), len(rungs))  # fmt: skip
    kinds_of = sorted({row["evaluation"] for row in members if row["evaluation"] is not None})
    evaluation = kinds_of[0] if len(kinds_of) == 1 else None
    odd = [row for row in controls if evaluation and row["evaluation"] not in (None, evaluation)]
    if odd:
        warnings.append(
            f"{label}: {len(odd)} controls have another evaluation than the trials ({evaluation}) and are left out"
        )
    controls = [row for row in controls if row not in odd]
    return Comparison(
        group, tuple(rungs), seeds, test,
        controls=_controls(controls, seeds, "val_linear" if stand_in else "test_linear"),
        left_out=tuple(left_out), tried=tuple(tried), evaluation=evaluation,
    )  # fmt: skip


def _rung(arm: Arm, rows: Sequence[Row]) -> Rung:
    def mean(name: str) -> float | None:
        values = [row[name] for row in rows if _finite(row[name])]
        return float(np.mean(values)) if values else None

    achieved = mean("achieved_ratio")
    return Rung(
        arm,
        arm.ratio if achieved is None else achieved,
        mean("achieved_sd"),
        mean("train_loss"),
        sum(bool(row["training_problem"]) for row in rows),
    )


def _controls(rows: Sequence[Row], seeds: Sequence[int], column: str) -> dict[str, np.ndarray]:
    found = {}
    for method in CONTROL_METHODS:
        values = {row["seed"]: row[column] for row in rows if row["method"] == method and _finite(row[column])}
        if values:
            found[method] = np.array([values.get(seed, np.nan) for seed in seeds], dtype=float)
    return found


def _with_accuracies(label: str, rows: list[Row], warnings: list[str]) -> tuple[list[Row], bool]:
    """Rows with a finite test accuracy; validation stands in where no row has one, which is reported."""
    stand_in = bool(rows) and all(row["test_linear"] is None for row in rows)
    if stand_in and any(row["val_linear"] is not None for row in rows):
        rows = [{**row, "test_linear": row["val_linear"]} for row in rows]
        warnings.append(f"{label}: no trial has test_linear; val_linear stands in for it")
    odd = [row for row in rows if not _finite(row["test_linear"])]
    if odd:
        warnings.append(f"{label}: {len(odd)} finished trials lack a finite accuracy and are left out: {names(odd)}")
    return [row for row in rows if _finite(row["test_linear"])], stand_in


def _finite(value: float | None) -> bool:
    return value is not None and bool(np.isfinite(value))


def _arm(row: Row) -> Arm:
    return Arm(row["ratio"], row["patch_size"], row["patch_stride"], row["mask_unit"])


def _order(arm: Arm) -> tuple[float, ...]:
    return (arm.ratio, *(-1.0 if v is None else v for v in (arm.patch_size, arm.patch_stride, arm.mask_unit)))

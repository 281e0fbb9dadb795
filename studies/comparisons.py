"""Which records may be compared: confirmed trials grouped by setting, paired by seed, everything odd named.

Nothing is averaged away here: a row that cannot stand beside the others (not finished, not finite, another
budget, another configuration, a second row of the same seed) is left out and named in a warning. The statistics
of what remains are in ``regret.py``.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from studies.arrow_file import cast_columns
from studies.budget import FREE_ENTRIES, Row, names, same_budget
from studies.errors import StudyError
from studies.schema import TRIAL_SCHEMA

COLUMNS = (
    "study", "trial_id", "phase", "dataset", "method", "strategy", "basis", "ratio", "patch_size", "patch_stride",
    "mask_unit", "seed", "status", "epochs", "val_linear", "test_linear", "config", "pool", "code_version", "device",
)  # fmt: skip
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
        if self.strategy not in (None, "fixed", "random"):
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
class Comparison:
    """Paired accuracies of several arms.

    Attributes:
        group: What the arms share.
        arms: K arms that can be compared, by ratio.
        seeds: n seeds that every arm finished.
        val: (n, K) validation accuracies, fractions.
        test: (n, K) test accuracies, fractions.
        left_out: Arms that were tried but cannot be compared.
    """

    group: Group
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    val: np.ndarray
    test: np.ndarray
    left_out: tuple[Arm, ...] = ()


@dataclass
class Collected:
    """Comparisons and what was found odd on the way."""

    comparisons: list[Comparison] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def confirmed_rows(trials: pa.Table) -> tuple[list[Row], list[str]]:
    """The confirmed trials as dictionaries of ``COLUMNS`` (None where the table has no such column), and warnings.

    Raises:
        StudyError: a required column is missing, or accuracies or ratios are no fractions.
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
        trials = trials.filter(pc.equal(pc.utf8_lower(trials["phase"]), "confirm"))
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
        row["ratio"] = round(float(row["ratio"]), 6)
        if row["patch_stride"] is None:
            row["patch_stride"] = row["patch_size"]
    latest, repeats = _without_repeats(rows)
    return latest, warnings + repeats


def collect(rows: Sequence[Row], *, across_patches: bool = False) -> Collected:
    """Group ``rows`` (of :func:`confirmed_rows`) by data set, method and patch setting, and pair them by seed.

    Args:
        rows: Confirmed trials.
        across_patches: Compare ratios of all patch settings of a method with each other instead.
    """
    found = Collected()
    free = FREE_ENTRIES | frozenset(PATCH_COLUMNS) if across_patches else FREE_ENTRIES
    groups: dict[Group, list[Row]] = defaultdict(list)
    for row in rows:
        patch = {} if across_patches else {name: row[name] for name in PATCH_COLUMNS}
        common = {name: row[name] for name in ("dataset", "method", "strategy", "basis")}
        groups[Group(study=row["study"] or "", **common, **patch)].append(row)
    for group in sorted(groups, key=lambda g: tuple(str(v) for v in vars(g).values())):
        members = same_budget(groups[group], group.label, free, found.warnings)
        found.comparisons.append(_pair(group, groups[group], members, found.warnings))
    return found


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
        if row["ratio"] is None or not 0 < row["ratio"] < 1:
            raise StudyError(
                f"ratio is {row['ratio']} in trial {row['trial_id']}; ratios are fractions strictly between 0 and 1"
            )


def _without_repeats(rows: list[Row]) -> tuple[list[Row], list[str]]:
    """Several rows of one trial happen when a table is given twice; the last one counts."""
    latest: dict[Any, Row] = {}
    for number, row in enumerate(rows):
        key = (row["study"], row["trial_id"]) if row["trial_id"] is not None else number
        latest[key] = row
    repeated = len(rows) - len(latest)
    warnings = [f"{repeated} rows repeat a trial_id; the last row of each trial was used"] if repeated else []
    return list(latest.values()), warnings


def _pair(group: Group, rows: list[Row], members: list[Row], warnings: list[str]) -> Comparison:
    label = group.label
    tried = sorted({_arm(row) for row in rows}, key=_order)
    unfinished = [row for row in rows if row["status"] != "done"]
    if unfinished:
        kinds = ", ".join(f"{n} {kind}" for kind, n in sorted(Counter(r["status"] for r in unfinished).items()))
        warnings.append(f"{label}: {len(unfinished)} trials did not finish ({kinds}): {names(unfinished)}")
    members = _with_accuracies(label, members, warnings)
    cells: dict[Arm, dict[int, Row]] = defaultdict(dict)
    for row in members:
        before = cells[_arm(row)].get(row["seed"])
        if before is not None:
            warnings.append(
                f"{label}: ratio {row['ratio']:g} has seed {row['seed']} twice (trials {names([before, row])}); "
                "the later row was used"
            )
        cells[_arm(row)][row["seed"]] = row
    most = max((len(seeds) for seeds in cells.values()), default=0)
    arms = [arm for arm in tried if len(cells.get(arm, ())) >= max(most / 2, 1)]
    left_out = [arm for arm in tried if arm not in arms]
    for arm in left_out:
        count = len(cells.get(arm, ()))
        warnings.append(f"{label}: ratio {arm.ratio:g} has {count} usable seeds of {most} and is left out")
    common = _common(cells, arms)
    while len(common) < LEAST_SEEDS < len(arms):
        # Without the arm that shares fewest seeds with the others the rest may still be comparable.
        worst = max(arms, key=lambda arm: len(_common(cells, [a for a in arms if a != arm])))
        rest = [arm for arm in arms if arm != worst]
        if len(_common(cells, rest)) <= len(common):
            break
        arms, common = rest, _common(cells, rest)
        left_out.append(worst)
        warnings.append(f"{label}: ratio {worst.ratio:g} shares too few seeds with the other ratios and is left out")
    unpaired = sorted({seed for arm in arms for seed in cells[arm]} - common)
    if unpaired:
        lacking = [f"{arm.ratio:g}" for arm in arms if set(unpaired) - set(cells[arm])]
        warnings.append(
            f"{label}: seeds {', '.join(map(str, unpaired))} are missing for ratio {', '.join(lacking)}; "
            f"the {len(common)} seeds that every ratio has are compared"
        )
    seeds = tuple(sorted(common))
    shape = (len(seeds), len(arms))
    val, test = (
        np.array([[cells[arm][seed][name] for arm in arms] for seed in seeds], dtype=float).reshape(shape)
        for name in ("val_linear", "test_linear")
    )
    return Comparison(group, tuple(arms), seeds, val, test, left_out=tuple(left_out))


def _common(cells: dict[Arm, dict[int, Row]], arms: Sequence[Arm]) -> set[int]:
    return set.intersection(*(set(cells[arm]) for arm in arms)) if arms else set()


def _with_accuracies(label: str, rows: list[Row], warnings: list[str]) -> list[Row]:
    """Rows whose two accuracies are finite; a split that no row has is replaced by the other, and said so."""
    for name, other in (("val_linear", "test_linear"), ("test_linear", "val_linear")):
        if rows and all(row[name] is None for row in rows) and any(row[other] is not None for row in rows):
            rows = [{**row, name: row[other]} for row in rows]
            warnings.append(f"{label}: no trial has {name}; {other} of the other half of the seeds stands in for it")
    whole = [row for row in rows if _finite(row["val_linear"]) and _finite(row["test_linear"])]
    odd = [row for row in rows if not (_finite(row["val_linear"]) and _finite(row["test_linear"]))]
    if odd:
        warnings.append(f"{label}: {len(odd)} finished trials lack a finite accuracy and are left out: {names(odd)}")
    return whole


def _finite(value: float | None) -> bool:
    return value is not None and bool(np.isfinite(value))


def _arm(row: Row) -> Arm:
    return Arm(row["ratio"], row["patch_size"], row["patch_stride"], row["mask_unit"])


def _order(arm: Arm) -> tuple[float, ...]:
    return (arm.ratio, *(-1.0 if v is None else v for v in (arm.patch_size, arm.patch_stride, arm.mask_unit)))

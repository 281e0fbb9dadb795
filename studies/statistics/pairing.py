"""Group confirmed trials by configuration and pair them by seed; report every excluded row.

A row that cannot be compared with the others (not finished, not finite, another budget, another configuration, a
second row of the same seed) is left out and named. The statistics of what remains are in ``regret.py``.
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import pyarrow as pa

from studies.errors import StudyError
from studies.formatting import count, is_number
from studies.statistics.ratio_curves import Row, Setting, select_confirmed
from studies.statistics.regret import MIN_SEEDS
from studies.storage.rows import CONTROLS, TRIAL_SCHEMA
from studies.storage.tables import cast_columns, flatten, read_mapping

COLUMNS = (
    "study", "trial_id", "phase", *Setting._fields, "ratio", "achieved_ratio", "achieved_sd", "seed", "status",
    "epochs", "val_linear", "test_linear", "evaluation", "train_loss", "training_problem", "config", "pool",
    "code_version", "device", "versions", "precision",
)  # fmt: skip
BUDGET = {  # what compared trials have in common, in words
    "epochs": "number of epochs", "precision": "precision", "evaluation": "evaluation", "config": "configuration",
}  # fmt: skip
REQUIRED = ("dataset", "method", "ratio", "seed", "status")
# Entries of a configuration that differ between trials which are meant to be compared.
FREE_ENTRIES = {"ratio", "ratio_range", "seed", "root", "data_seed", "data_root", "trial_id"}
# Settings that later versions added, as in pmae.config: a trial from before compares with one that has this value.
LATER_SETTINGS = {"accumulation_steps": 1, "group_size": None, "schedule": "cosine", "weight_decay_on": "matrices"}
PLAIN = (None, "expected", "fixed", "random")  # strategies that the claims of the papers are about
SAME_SHARE = 1e-4  # achieved ratios of MAE closer than this mask the same number of patches


@dataclass(frozen=True)
class Rung:
    """One ratio of a comparison, with its means over seeds; None where the table does not say."""

    ratio: float  # nominal
    achieved: float  # share that was masked
    achieved_sd: float | None  # standard deviation of that share over the masks
    train_loss: float | None  # final loss as a share of that of predicting the mean
    problems: int  # trials with a training problem on record
    diverged: int = 0  # further trials that diverged and therefore have no accuracy

    @classmethod
    def of(cls, ratio: float, rows: Sequence[Row]) -> Rung:
        """The rung of finished trials at one ratio."""
        means = {}
        for name in ("achieved_ratio", "achieved_sd", "train_loss"):
            values = [row[name] for row in rows if is_number(row[name])]
            means[name] = math.fsum(values) / len(values) if values else None  # in any order of the rows
        share = means["achieved_ratio"]
        problems = sum(bool(row["training_problem"]) for row in rows)
        return cls(ratio, ratio if share is None else share, means["achieved_sd"], means["train_loss"], problems)


@dataclass(frozen=True)
class Comparison:
    """Paired accuracies of several rungs and of the controls."""

    study: str
    setting: Setting
    rungs: tuple[Rung, ...]  # K rungs that can be compared, by ratio
    test: np.ndarray  # (n, K) test accuracies, a row per seed that any rung finished; NaN where a rung lacks a seed
    controls: dict[str, np.ndarray]  # control method -> (n,) test accuracies for the same seeds
    tried: tuple[float, ...]  # all nominal ratios that have trials
    left_out: tuple[str, ...]  # sentences that name the rungs that were tried but cannot be compared
    evaluation: str | None  # how accuracies were measured: ``split``, ``folds`` or None


def setting_name(setting: Setting) -> str:
    """For messages, such as ``digits, pmae, patch 2``."""
    parts = [setting.dataset, setting.method]
    if setting.strategy not in PLAIN:
        parts.append(str(setting.strategy))
    if setting.basis not in (None, "pca"):
        parts.append(str(setting.basis))
    return ", ".join([*parts, *setting.sides()])


def pair_trials(trials: pa.Table) -> tuple[list[Comparison], list[str]]:
    """Comparisons of confirmed trials by study and setting, paired by seed, with their controls; and warnings.

    StudyError if a required column is missing, or accuracies or ratios are not fractions.
    """
    warnings: list[str] = []
    rows, controls = _read_trials(trials, warnings)
    groups: dict[tuple[str, Setting], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row["study"] or "", Setting(*(row[name] for name in Setting._fields))].append(row)
    comparisons = []
    for study, setting in sorted(groups, key=lambda group: (group[0], *map(str, group[1]))):
        matching = [row for row in controls if _belongs(row, study, setting)]
        comparisons.append(_pair(study, setting, groups[study, setting], matching, warnings))
    return comparisons, warnings


def _read_trials(trials: pa.Table, warnings: list[str]) -> tuple[list[Row], list[Row]]:
    """Confirmed trials and controls as dictionaries of ``COLUMNS``; None where the table has no such column."""
    missing = [name for name in REQUIRED if name not in trials.column_names]
    if missing:
        raise StudyError(
            f"the table lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)}; "
            "a verdict needs " + ", ".join(REQUIRED) + ", phase, val_linear and test_linear"
        )
    trials = pa.table(cast_columns(trials, pa.schema([TRIAL_SCHEMA.field(name) for name in COLUMNS]), "the table"))
    rows, controls = select_confirmed(trials, COLUMNS, warnings)
    for row in (*rows, *controls):
        _check_values(row)
    return rows, controls


def _check_values(row: Row) -> None:
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
    if row["method"] not in CONTROLS and (row["ratio"] is None or not 0 < row["ratio"] < 1):
        raise StudyError(
            f"ratio is {row['ratio']} in trial {row['trial_id']}; ratios are fractions strictly between 0 and 1"
        )


def _belongs(row: Row, study: str, setting: Setting) -> bool:
    """Whether a control was measured on the comparison's data with an encoder of the same shape."""
    if (row["study"] or "") != study or row["dataset"] != setting.dataset or row["status"] != "done":
        return False
    if row["method"] == "pixels" or row["patch_size"] is None:
        return True
    return (row["patch_size"], row["patch_stride"]) == (setting.patch_size, setting.patch_stride)


def _pair(study: str, setting: Setting, rows: list[Row], controls: list[Row], warnings: list[str]) -> Comparison:
    label = setting_name(setting)
    members = _same_budget(rows, label, warnings)
    unfinished = [row for row in rows if row["status"] != "done"]
    if unfinished:
        kinds = ", ".join(f"{n} {kind}" for kind, n in sorted(Counter(r["status"] for r in unfinished).items()))
        warnings.append(f"{label}: {count(len(unfinished), 'unfinished trial')} ({kinds}): {_names(unfinished)}")
    members, stand_in = _with_accuracies(label, members, warnings)
    cells = _arrange_cells(members, label, warnings)
    rungs, left_out = _select_rungs(rows, cells)
    warnings += [f"{label}: {reason}" for reason in left_out]
    seeds = sorted({seed for rung in rungs for seed in cells[rung.ratio]})
    empty: Row = {"test_linear": np.nan}
    test = [[cells[rung.ratio].get(seed, empty)["test_linear"] for rung in rungs] for seed in seeds]
    evaluations = {row["evaluation"] for row in members if row["evaluation"] is not None}
    evaluation = evaluations.pop() if len(evaluations) == 1 else None
    odd = [row for row in controls if evaluation and row["evaluation"] not in (None, evaluation)]
    if odd:
        listed = count(len(odd), "control")
        warnings.append(f"{label}: left out {listed} with another evaluation than the trials ({evaluation})")
    column = "val_linear" if stand_in else "test_linear"
    return Comparison(
        study=study,
        setting=setting,
        rungs=tuple(rungs),
        test=np.array(test, dtype=float).reshape(len(seeds), len(rungs)),
        controls=_score_controls([row for row in controls if row not in odd], column, seeds),
        tried=tuple(sorted({row["ratio"] for row in rows})),
        left_out=tuple(left_out),
        evaluation=evaluation,
    )


def _arrange_cells(members: Sequence[Row], label: str, warnings: list[str]) -> dict[float, dict[int, Row]]:
    """The rows by ratio and seed; of two in one cell the later one."""
    cells: dict[float, dict[int, Row]] = defaultdict(dict)
    for row in members:
        before = cells[row["ratio"]].get(row["seed"])
        if before is not None:
            warnings.append(
                f"{label}: ratio {row['ratio']:g} has seed {row['seed']} twice (trials {_names([before, row])}); "
                "the later row was used"
            )
        cells[row["ratio"]][row["seed"]] = row
    return cells


def _select_rungs(rows: Sequence[Row], cells: Mapping[float, dict[int, Row]]) -> tuple[list[Rung], list[str]]:
    """Rungs with enough seeds, and sentences about the ratios without."""
    rungs, left_out = [], []
    for ratio in sorted({row["ratio"] for row in rows}):
        found, own = cells.get(ratio, {}), [row for row in rows if row["ratio"] == ratio]
        asked = len({row["seed"] for row in own})
        if len(found) < MIN_SEEDS or len(found) < asked / 2:
            left_out.append(f"ratio {ratio:g} has {count(len(found), 'usable seed')} of {asked} and is left out")
        else:
            diverged = len({row["seed"] for row in own if row["status"] == "diverged"} - {*found})
            rungs.append(replace(Rung.of(ratio, list(found.values())), diverged=diverged))
    return rungs, left_out


def _score_controls(controls: Sequence[Row], column: str, seeds: Sequence[int]) -> dict[str, np.ndarray]:
    """Accuracies (n,) in ``column`` of each control that has any, by seed; NaN where a seed is missing."""
    scores = {}
    for method in CONTROLS:
        values = {r["seed"]: r[column] for r in controls if r["method"] == method and is_number(r[column])}
        if values:
            scores[method] = np.array([values.get(seed, np.nan) for seed in seeds], dtype=float)
    return scores


def _same_budget(rows: Sequence[Row], label: str, warnings: list[str]) -> list[Row]:
    """The finished rows with the most common epochs, precision, evaluation and configuration."""
    done = [row for row in rows if row["status"] == "done"]
    for column, title in BUDGET.items():
        values = [_fingerprint(row["config"], row["pool"]) if column == "config" else row[column] for row in done]
        counts = Counter(values)
        if len(counts) < 2:
            continue
        usual = max(counts, key=lambda value: (counts[value], str(value)))
        others = [(row, value) for row, value in zip(done, values, strict=True) if value != usual]
        done = [row for row, value in zip(done, values, strict=True) if value == usual]
        how = _difference(usual, others[0][1]) if column == "config" else f"{usual}"
        warnings.append(
            f"{label}: left out {count(len(others), 'trial')} with another {title} than the {len(done)} that are "
            f"compared ({how}): {_names([row for row, _ in others])}"
        )
    for name in ("code_version", "device", "versions"):
        values = sorted({str(row[name]) for row in done if row[name] is not None})
        if len(values) > 1:
            how = _difference(values[0], values[1]) if name == "versions" else ", ".join(values)
            warnings.append(f"{label}: compared trials differ in {name}: {how}")
    return done


@lru_cache(maxsize=4096)
def _fingerprint(text: str | None, pool: str | None) -> str:
    """The configuration as canonical JSON without what may differ; the text itself where it is not JSON."""
    try:
        values = json.loads(text) if text else {}
    except ValueError:
        return str(text)
    flat = flatten(values if isinstance(values, dict) else {"": values})
    kept = {}
    for dotted, value in flat.items():
        name = dotted.rpartition(".")[2]
        if name not in FREE_ENTRIES and not (name in LATER_SETTINGS and value == LATER_SETTINGS[name]):
            kept[dotted] = value
    return json.dumps({**kept, "pool": pool}, sort_keys=True)


def _difference(usual: str, other: str) -> str:
    ours, theirs = read_mapping(usual), read_mapping(other)
    if not (ours and theirs):
        return "not readable as JSON"
    names = sorted(name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name))
    return ", ".join(f"{name} {theirs.get(name)!r} instead of {ours.get(name)!r}" for name in names[:4])


def _names(rows: Sequence[Row], most: int = 5) -> str:
    """The first few ``rows`` by trial, ratio and seed, for messages."""
    named = [f"{row['trial_id'] or 'unnamed'} (ratio {row['ratio']:g}, seed {row['seed']})" for row in rows[:most]]
    return ", ".join(named) + (f" and {len(rows) - most} more" if len(rows) > most else "")


def _with_accuracies(label: str, rows: list[Row], warnings: list[str]) -> tuple[list[Row], bool]:
    """Rows with a finite test accuracy; validation stands in where no row has one, which is reported."""
    stand_in = bool(rows) and all(row["test_linear"] is None for row in rows)
    if stand_in and any(row["val_linear"] is not None for row in rows):
        rows = [{**row, "test_linear": row["val_linear"]} for row in rows]
        warnings.append(f"{label}: no trial has test_linear; val_linear stands in for it")
    odd = [row for row in rows if not is_number(row["test_linear"])]
    if odd:
        trials = count(len(odd), "finished trial")
        warnings.append(f"{label}: left out {trials} without a finite accuracy: {_names(odd)}")
    return [row for row in rows if is_number(row["test_linear"])], stand_in

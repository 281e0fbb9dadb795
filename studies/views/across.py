"""What several studies say together: mean differences over data sets, PMAE against MAE, and the noise of single runs.

All intervals are two-sided 95 % Student intervals, each by itself. Over data sets the data set is the unit (random
effects), over seeds the seed is. Nothing here decides a verdict.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import stdtrit

from studies.records import Study
from studies.statistics.pairing import collect, confirmed_rows
from studies.statistics.ratio_curves import DEFAULT_RATIOS, RungPoint, Setting, ratio_curves
from studies.statistics.regret import estimate_noise
from studies.statistics.rows import VerdictRow


@dataclass(frozen=True)
class Mean:
    """A mean of ``count`` values with its interval; the bounds are None with fewer than 2 values."""

    value: float
    low: float | None
    high: float | None
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Mean:
        """Of at least one value."""
        array = np.asarray(values, dtype=float)
        mean, count = float(array.mean()), len(array)
        if count < 2:
            return cls(mean, None, None, count)
        reach = float(stdtrit(count - 1, 0.975)) * float(array.std(ddof=1)) / math.sqrt(count)
        return cls(mean, mean - reach, mean + reach, count)


@dataclass(frozen=True)
class MethodRow:
    """MAE against PMAE on one data set, each at its default ratio, paired by seed; accuracies are fractions.

    Attributes:
        dataset: Where.
        epochs: Of PMAE and of MAE.
        seconds: Median trial of PMAE and of MAE.
        accuracies: Means of PMAE and of MAE.
        difference: MAE minus PMAE over the seeds.
    """

    dataset: str
    epochs: tuple[int, int]
    seconds: tuple[float, float]
    accuracies: tuple[float, float]
    difference: Mean


@dataclass(frozen=True)
class NoiseRow:
    """Noise of one method's confirmed trials in one study, as standard deviations (fractions of accuracy).

    Attributes:
        dataset, method, probe: Of what.
        trials: How many it was measured on.
        run: Of single runs at one ratio.
        difference: Of the difference of two ratios with the same seed.
    """

    dataset: str
    method: str
    probe: str
    trials: int
    run: float
    difference: float


def mean_differences(rows: Sequence[VerdictRow]) -> dict[float, Mean]:
    """Nominal ratio -> mean over data sets of "this ratio minus the default"; ratios with one data set are left out.

    Several comparisons of one data set are averaged first, so that it counts once.
    """
    found: dict[float, dict[str | None, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        for rung in row["rungs"]:
            if rung["difference"] is not None and not rung["is_default"]:
                found[round(rung["nominal_ratio"], 4)][row["dataset"]].append(rung["difference"])
    means = {ratio: [float(np.mean(v)) for v in by_set.values()] for ratio, by_set in found.items()}
    return {ratio: Mean.of(values) for ratio, values in sorted(means.items()) if len(values) > 1}


def compare_methods(studies: Sequence[Study]) -> list[MethodRow]:
    """Every MAE study of a data set against every PMAE study of the same images that shares at least 2 seeds."""
    arms: dict[str, list[tuple[Study, Setting, RungPoint]]] = defaultdict(list)
    for study in studies:
        for curve in ratio_curves(study.trials):
            default = DEFAULT_RATIOS.get(curve.setting.method)
            rung = next((r for r in curve.confirmed if default is not None and abs(r.nominal - default) < 1e-4), None)
            if rung is not None:
                arms[curve.setting.method].append((study, curve.setting, rung))
    rows = []
    for study, setting, rung in arms["pmae"]:
        for other, theirs, rival in arms["mae"]:
            seeds = sorted(set(rung.scores) & set(rival.scores))
            if len(seeds) < 2 or _images_of(study, setting) != _images_of(other, theirs):
                continue
            pairs = np.array([(rung.scores[seed], rival.scores[seed]) for seed in seeds])
            rows.append(
                MethodRow(
                    setting.dataset,
                    (_median(study, setting, "epochs"), _median(other, theirs, "epochs")),
                    (_median(study, setting, "seconds"), _median(other, theirs, "seconds")),
                    (float(pairs[:, 0].mean()), float(pairs[:, 1].mean())),
                    Mean.of(pairs[:, 1] - pairs[:, 0]),
                )
            )
    return sorted(rows, key=lambda row: (row.dataset, row.epochs))


def measure_noise(study: Study) -> list[NoiseRow]:
    """Noise by data set, method and probe; a method without two seeds at two ratios has no row."""
    rows = []
    confirmed, _, _ = confirmed_rows(study.trials)
    knn = {row["trial_id"]: row["test_knn"] for row in study.trials.select(["trial_id", "test_knn"]).to_pylist()}
    by_probe = {"linear": confirmed, "k-NN": [{**row, "test_linear": knn[row["trial_id"]]} for row in confirmed]}
    for probe, members in by_probe.items():
        for comparison in collect([row for row in members if row["test_linear"] is not None]).comparisons:
            table = comparison.test
            if table.shape[0] < 2 or table.shape[1] < 2:
                continue
            pooled = estimate_noise(table).pooled
            if math.isfinite(pooled):
                run = math.sqrt(float(np.nanmean(np.nanvar(table, axis=0, ddof=1))))
                trials = int(np.isfinite(table).sum())
                group = comparison.group
                rows.append(NoiseRow(group.dataset, group.method, probe, trials, run, math.sqrt(2 * pooled)))
    return rows


def _images_of(study: Study, setting: Setting) -> tuple[Any, ...]:
    data = study.plan.get("dataset") or {}
    return setting.dataset, setting.patch_size, data.get("fingerprint"), data.get("train"), data.get("test")


def _median(study: Study, setting: Setting, column: str) -> Any:
    rows = study.trials.select(["phase", "status", "method", "patch_size", column]).to_pylist()
    wanted = ("confirm", "done", setting.method, setting.patch_size)
    values = [row[column] for row in rows if tuple(row.values())[:4] == wanted and row[column] is not None]
    return type(values[0])(np.median(values)) if values else 0

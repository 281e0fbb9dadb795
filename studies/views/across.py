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
import pyarrow.compute as pc

from studies.records import Study
from studies.statistics.pairing import collect, confirmed_rows
from studies.statistics.ratio_curves import (
    DEFAULT_RATIOS,
    RungPoint,
    Setting,
    ratio_curves,
    rows_of,
    student_interval,
)
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
        low, high = student_interval(values) or (None, None)
        return cls(float(np.mean(values)), low, high, len(values))


@dataclass(frozen=True)
class MethodRow:
    """MAE against PMAE on one data set, each at the ratio its paper recommends, paired by seed.

    Attributes:
        dataset, patch_size: Where; the patch size in pixels.
        epochs: Of PMAE and of MAE.
        seconds: Median trial of PMAE and of MAE.
        accuracies: Means of PMAE and of MAE, fractions.
        difference: MAE minus PMAE over the seeds.
    """

    dataset: str
    patch_size: int | None
    epochs: tuple[int, int]
    seconds: tuple[float, float]
    accuracies: tuple[float, float]
    difference: Mean


@dataclass(frozen=True)
class NoiseRow:
    """Noise of one method's confirmed trials in one study, as standard deviations (fractions of accuracy).

    Attributes:
        setting: Data set, method and patch setting, such as ``digits, pmae, patch 2``.
        method, probe: Of what.
        trials: How many it was measured on.
        run: Of single runs at one ratio.
        difference: Of the difference of two ratios with the same seed.
    """

    setting: str
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
    arms: dict[str, list[_Arm]] = defaultdict(list)
    for study in studies:
        for curve in ratio_curves(study.trials):
            default = DEFAULT_RATIOS.get(curve.setting.method)
            rung = next((r for r in curve.confirmed if default is not None and abs(r.nominal - default) < 1e-4), None)
            if rung is not None:
                arms[curve.setting.method].append(_Arm.of(study, curve.setting, rung))
    rows = []
    for ours in arms["pmae"]:
        for rival in arms["mae"]:
            seeds = sorted(set(ours.scores) & set(rival.scores))
            if len(seeds) < 2 or ours.images != rival.images:
                continue
            pairs = np.array([(ours.scores[seed], rival.scores[seed]) for seed in seeds])
            rows.append(
                MethodRow(
                    ours.setting.dataset,
                    ours.setting.patch_size,
                    (ours.epochs, rival.epochs),
                    (ours.seconds, rival.seconds),
                    (float(pairs[:, 0].mean()), float(pairs[:, 1].mean())),
                    Mean.of(pairs[:, 1] - pairs[:, 0]),
                )
            )
    return sorted(rows, key=lambda row: (row.dataset, row.patch_size or 0, row.epochs))


@dataclass(frozen=True)
class _Arm:
    """One method at its ratio: its images, accuracies by seed, and the median cost of its confirmed trials."""

    setting: Setting
    images: tuple[Any, ...]
    scores: dict[int, float]
    epochs: int
    seconds: float

    @classmethod
    def of(cls, study: Study, setting: Setting, rung: RungPoint) -> _Arm:
        rows = rows_of(study.trials, (*Setting._fields, "phase", "status", "epochs", "seconds"))
        mine = [r for r in rows if (r["phase"], r["status"]) == ("confirm", "done") and Setting.of(r) == setting]
        epochs, seconds = ([r[name] for r in mine if r[name] is not None] or [0] for name in ("epochs", "seconds"))
        data = study.plan.get("dataset") or {}
        images = (setting.dataset, setting.patch_size, *(data.get(name) for name in ("fingerprint", "train", "test")))
        return cls(setting, images, rung.scores, int(np.median(epochs)), float(np.median(seconds)))


def measure_noise(study: Study) -> list[NoiseRow]:
    """Noise by setting and probe; a setting without two seeds at two ratios has no row."""
    rows = []
    for probe, column in (("linear", "test_linear"), ("k-NN", "test_knn")):
        scored = study.trials.filter(pc.is_valid(study.trials[column]))
        place = scored.schema.get_field_index("test_linear")
        confirmed, _, _ = confirmed_rows(scored.set_column(place, "test_linear", scored[column]))
        for comparison in collect(confirmed).comparisons:
            table = comparison.test
            if table.shape[0] < 2 or table.shape[1] < 2:
                continue
            pooled = estimate_noise(table).pooled
            if math.isfinite(pooled):
                run = math.sqrt(float(np.nanmean(np.nanvar(table, axis=0, ddof=1))))
                trials, label = int(np.isfinite(table).sum()), comparison.group.label
                rows.append(NoiseRow(label, comparison.group.method, probe, trials, run, math.sqrt(2 * pooled)))
    return rows

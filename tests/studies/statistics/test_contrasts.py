"""Comparisons of bases and mask units: against scipy on one ratio, unbiased by the choice of ratio, paired by seed."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import ttest_rel

from studies.statistics.contrasts import compare_settings, comparison_sentences


def table(rows: list[dict]) -> pa.Table:
    common = {"study": "s", "dataset": "digits", "method": "pmae", "strategy": "fixed", "phase": "confirm",
              "status": "done", "patch_size": 2, "patch_stride": 2, "mask_unit": None}  # fmt: skip
    return pa.Table.from_pylist([{"trial_id": str(i), **common, **row} for i, row in enumerate(rows)])


def rows_of(basis: str, ratio: float, test: np.ndarray, val: np.ndarray | None = None) -> list[dict]:
    val = test if val is None else val
    return [
        {"basis": basis, "ratio": ratio, "seed": i + 1, "val_linear": float(v), "test_linear": float(t)}
        for i, (v, t) in enumerate(zip(val, test, strict=True))
    ]


def test_with_one_ratio_it_is_the_paired_t_test():
    rng = np.random.default_rng(0)
    pca, dct = rng.uniform(0.5, 0.9, 7), rng.uniform(0.5, 0.9, 7)
    first, second = compare_settings(table(rows_of("dct", 0.2, dct) + rows_of("pca", 0.2, pca)))
    assert (first.value, first.reference, first.difference) == ("pca", "pca", None)
    assert first.accuracy == pytest.approx(pca.mean()) and second.accuracy == pytest.approx(dct.mean())
    interval = ttest_rel(dct, pca).confidence_interval(0.95)
    assert second.difference == pytest.approx((dct - pca).mean())
    assert (second.low, second.high) == (pytest.approx(interval.low), pytest.approx(interval.high))
    assert second.seeds == 7


def test_bounds_widen_with_the_number_of_comparisons():
    rng = np.random.default_rng(1)
    values = {name: rng.uniform(0.5, 0.9, 6) for name in ("pca", "dct", "pixel", "rotation")}
    rows = [row for name, test in values.items() for row in rows_of(name, 0.2, test)]
    dct = next(c for c in compare_settings(table(rows)) if c.value == "dct")
    interval = ttest_rel(values["dct"], values["pca"]).confidence_interval(1 - 0.05 / 3)
    assert (dct.low, dct.high) == (pytest.approx(interval.low), pytest.approx(interval.high))


def test_more_ratios_to_choose_from_are_no_advantage():
    """All accuracies are noise: the mean over repetitions of the difference is 0, not the gain of the best of five."""
    differences, naive = [], []
    for repetition in range(60):
        rng = np.random.default_rng(repetition)
        noise = 0.5 + 0.02 * rng.standard_normal((6, 6))
        rows = rows_of("pca", 0.2, noise[0])
        rows += [r for i in range(5) for r in rows_of("dct", 0.1 * (i + 1), noise[i + 1])]
        differences.append(compare_settings(table(rows))[1].difference)
        naive.append(noise[1:].mean(axis=1).max() - noise[0].mean())
    error = np.std(differences, ddof=1) / np.sqrt(len(differences))
    assert abs(np.mean(differences)) < 3 * error < np.mean(naive)


def test_only_what_is_equal_otherwise_is_compared_by_common_seeds():
    rng = np.random.default_rng(2)
    rows = rows_of("pca", 0.2, rng.uniform(0.5, 0.9, 5)) + rows_of("dct", 0.2, rng.uniform(0.5, 0.9, 5))
    rows[7]["status"] = "failed"
    assert {c.seeds for c in compare_settings(table(rows))} == {4}
    other = [{**row, "patch_size": 4, "basis": "pixel"} for row in rows[:5]]
    assert {c.value for c in compare_settings(table(rows + other))} == {"pca", "dct"}
    assert compare_settings(table(rows[:5])) == [] and compare_settings(table(rows).slice(0, 0)) == []


def test_mask_units_are_compared_with_the_smallest_and_the_outcome_is_reported():
    rng = np.random.default_rng(3)
    base = 0.6 + 0.01 * rng.standard_normal(5)
    rows = []
    for unit, gain in ((8, 0.1), (2, 0.0), (16, 0.0)):
        test = base + gain + 0.001 * rng.standard_normal(5)
        rows += [{**r, "method": "mae", "basis": None, "mask_unit": unit} for r in rows_of("", 0.75, test)]
    found = compare_settings(table(rows))
    assert [c.value for c in found] == ["2", "8", "16"] and {c.reference for c in found} == {"2"}
    (sentence,) = comparison_sentences(found)
    assert sentence.startswith("MAE on digits, each mask unit at its best ratio (5 seeds")
    assert "8 is 10.0 better than 2" in sentence and "no difference to 2 is shown for 16" in sentence

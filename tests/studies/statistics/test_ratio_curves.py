"""Curves, comparisons of settings and verdicts count the same rows of a table."""

from __future__ import annotations

import numpy as np
import pytest

from studies.statistics.contrasts import compare_settings
from studies.statistics.pairing import pair_trials
from studies.statistics.ratio_curves import ratio_curves
from tests.studies.tables import Rows, as_table, study_rows

ROWS = study_rows()


@pytest.mark.parametrize(
    "rows",
    [
        [*ROWS, ROWS[3] | {"test_linear": 0.1}],
        [*ROWS, ROWS[3] | {"status": "failed", "test_linear": None}],
        [row | {"phase": None} for row in ROWS],
        [row | {"phase": row["phase"].title(), "method": row["method"].upper()} for row in ROWS],
    ],
    ids=["again", "again and failed", "no phases", "upper case"],
)
def test_a_curve_has_the_accuracies_that_are_judged(rows: Rows) -> None:
    (comparison,), _ = pair_trials(as_table(rows))
    (curve,) = ratio_curves(as_table(rows))
    assert curve.setting == comparison.setting
    judged = [sorted(column[np.isfinite(column)]) for column in comparison.test.T]
    assert [sorted(point.scores.values()) for point in curve.confirmed] == judged


def test_ids_that_restart_with_another_basis_are_other_trials() -> None:
    both = [*ROWS, *(row | {"basis": "dct"} for row in ROWS if row["phase"] == "confirm")]
    assert [(found.value, found.seeds) for found in compare_settings(as_table(both))] == [("pca", 5), ("dct", 5)]

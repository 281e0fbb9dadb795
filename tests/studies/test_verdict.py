"""Judging tables, those that nobody here wrote included: outcomes, joint verdicts, and oddities named."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from studies.errors import StudyError
from studies.records import TRIAL_SCHEMA
from studies.verdict import judge

RATIOS = (0.1, 0.2, 0.3, 0.5)


def rows(
    seeds: int = 5,
    best: float = 0.3,
    gain: float = 0.0,
    sd: float = 0.002,
    ratios: Sequence[float] = RATIOS,
    **more: Any,
) -> list[dict[str, Any]]:
    """Confirmed trials of one patch setting; ``best`` is better than the other ratios by ``gain``."""
    rng = np.random.default_rng(7)
    return [
        {
            "study": "s", "trial_id": f"{more}{ratio}-{seed}", "phase": "confirm", "dataset": "digits",
            "method": "pmae", "strategy": "fixed", "basis": "pca", "ratio": ratio, "patch_size": 2, "patch_stride": 2,
            "seed": seed, "status": "done", "epochs": 9,
            "val_linear": 0.8 + gain * (ratio == best) + sd * rng.standard_normal(),
            "test_linear": 0.8 + gain * (ratio == best) + sd * rng.standard_normal(),
            "config": json.dumps({"masking": {"ratio": ratio}, "optim": {"epochs": 9}}),
        } | more
        for seed in range(seeds)
        for ratio in ratios
    ]  # fmt: skip


def table(records: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(records, schema=TRIAL_SCHEMA)


def default_row(verdict: dict[str, Any]) -> dict[str, Any]:
    (row,) = [r for r in verdict["rows"] if r["kind"] == "default"]
    return row


@pytest.mark.parametrize(("gain", "outcome"), [(0.0, "holds"), (0.05, "fails"), (0.0101, "inconclusive")])
def test_outcomes(gain: float, outcome: str) -> None:
    verdict = judge(table(rows(gain=gain))).to_dict()
    row = default_row(verdict)
    assert (row["verdict"], verdict["overall"]["verdict"]) == (outcome, outcome)
    assert row["ci_low"] <= row["regret"] <= row["ci_high"] and row["seeds"] == 5
    assert (row["default_ratio"], row["margin"]) == (0.2, 0.01)
    assert row["seeds_needed"] is None or outcome == "inconclusive"
    json.dumps(verdict, allow_nan=False)
    if gain == 0.05:
        assert row["best_ratio"] == 0.3


def test_rivals_and_mae_are_judged_where_they_were_confirmed() -> None:
    mae = rows(method="mae", strategy="random", basis=None, ratios=(0.5, 0.75, 0.9), best=0.9, gain=0.05)
    found = [(r["kind"], r["default_ratio"], r["verdict"]) for r in judge(table(rows() + mae)).rows]
    assert found == [
        ("default", 0.2, "holds"), ("mae_default", 0.75, "fails"), ("rival", 0.1, "holds"), ("rival", 0.3, "holds")
    ]  # fmt: skip


def test_every_data_set_must_hold_and_one_failure_decides() -> None:
    good, bad = rows(), rows(dataset="blood", gain=0.05)
    assert judge([table(good), table(rows(dataset="path"))]).overall["verdict"] == "holds"
    joint = judge(table(good + bad)).overall
    assert (joint["verdict"], joint["fails_on"], joint["datasets"]) == ("fails", ["blood"], 2)
    unclear = judge(table(good + rows(dataset="derma", seeds=1))).overall
    assert (unclear["verdict"], unclear["not_judged"]) == ("inconclusive", 1)


def test_columns_that_a_verdict_does_not_need_may_be_missing() -> None:
    needed = ["dataset", "method", "ratio", "seed", "status", "val_linear", "test_linear"]
    small = table(rows()).select(needed)
    assert default_row(judge(small).to_dict())["verdict"] == "holds"
    with pytest.raises(StudyError, match="lacks the column ratio"):
        judge(small.drop_columns(["ratio"]))


def test_only_confirmed_trials_judge() -> None:
    tempting = rows(gain=0.3, phase="explore")
    assert default_row(judge(table(rows() + tempting)).to_dict())["verdict"] == "holds"
    nothing = judge(table(tempting)).to_dict()
    assert nothing["rows"] == [] and nothing["answer"].startswith("No answer yet")


def test_patch_settings_are_judged_apart_and_against_each_other() -> None:
    records = rows() + [
        {**r, "test_linear": r["test_linear"] + 0.04, "val_linear": r["val_linear"] + 0.04}
        for r in rows(patch_size=4, patch_stride=4)
    ]
    verdict = judge(table(records))
    assert [r["verdict"] for r in verdict.rows if r["kind"] == "default"] == ["holds", "holds"]
    across = {r["patch_size"]: (r["verdict"], r["best_patch_size"]) for r in verdict.across_patches}
    assert across == {2: ("fails", 4), 4: ("holds", 4)}


def change(records: list[dict[str, Any]], ratio: float, seeds: Sequence[int], **values: Any) -> list[dict[str, Any]]:
    return [r | values if r["ratio"] == ratio and r["seed"] in seeds else r for r in records]


LOST = {"val_linear": None, "test_linear": None}


@pytest.mark.parametrize(
    ("records", "warning", "seeds"),
    [
        (change(rows(), 0.3, [1], status="diverged", **LOST), "1 diverged.*ratio 0.3, seed 1", 4),
        (change(rows(), 0.3, [0, 1, 2, 3], status="failed", **LOST), "ratio 0.3 has 1 usable seeds of 5", 5),
        ([r for r in rows() if (r["ratio"], r["seed"]) != (0.5, 4)], "seeds 4 are missing for ratio 0.5", 4),
        (change(rows(), 0.1, [2], test_linear=float("nan")), "lack a finite accuracy.*ratio 0.1, seed 2", 4),
        (change(rows(), 0.5, range(5), epochs=90), "another epochs than", 5),
        (change(rows(), 0.5, [0], config='{"optim": {"epochs": 3}}'), r"optim\.epochs 3 instead of 9", 4),
        ([*rows(), *change(rows(), 0.3, [0], trial_id="again")[:3]], "rows repeat a trial_id", 5),
        ([*rows(), rows()[2] | {"trial_id": "twin"}], "ratio 0.3 has seed 0 twice", 5),
        (change(rows(), 0.3, [0], code_version="abc"), None, 5),
        (change(change(rows(), 0.3, [0], code_version="b"), 0.2, [0], code_version="a"), "differ in code_version", 5),
    ],
    ids=[
        "diverged", "mostly failed", "missing seed", "NaN", "epochs", "config", "repeat", "twin",
        "one known version", "versions",
    ],
)  # fmt: skip
def test_oddities_are_named_and_never_averaged_away(
    records: list[dict[str, Any]], warning: str | None, seeds: int
) -> None:
    import re

    verdict = judge(table(records)).to_dict()
    text = "\n".join(verdict["warnings"])
    assert re.search(warning, text) if warning else not text, text
    row = default_row(verdict)
    assert row["seeds"] == seeds and row["verdict"] == "holds"


def test_the_later_of_two_rows_of_a_seed_counts() -> None:
    early, late = rows(), [rows()[2] | {"trial_id": "twin", "test_linear": 0.99}]
    assert default_row(judge(table([*early, *late])).to_dict())["ci_high"] > 0.05
    assert default_row(judge(table([*late, *early])).to_dict())["verdict"] == "holds"


def test_a_default_that_mostly_fails_is_not_judged() -> None:
    records = change(rows(), 0.2, [0, 1, 2, 3], status="diverged", **LOST)
    row = default_row(judge(table(records)).to_dict())
    assert (row["verdict"], row["regret"]) == ("inconclusive", None)
    assert "too few of the default's trials" in row["reason"]


def test_one_arm_without_common_seeds_does_not_spoil_the_rest() -> None:
    records = [r | {"seed": r["seed"] + 100} if r["ratio"] == 0.5 else r for r in rows()]
    verdict = judge(table(records)).to_dict()
    assert default_row(verdict)["seeds"] == 5
    assert any("ratio 0.5 shares too few seeds" in w for w in verdict["warnings"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"margin": 1.5}, "margin is 1.5"),
        ({"default_ratio": 20}, "default ratio is 20"),
        ({"alpha": 0.7}, "alpha is 0.7"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(StudyError, match=message):
        judge(table(rows()), **settings)


def test_per_cent_is_refused() -> None:
    with pytest.raises(StudyError, match="divide the column by 100"):
        judge(table([r | {"test_linear": 59.0} for r in rows()]))

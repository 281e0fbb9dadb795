"""Means of a study's further measures: which trials count, which split, what they are called."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from studies.formatting import duration
from studies.records import read_study
from studies.report.sections import is_accuracy, make_card, measure_names, measure_table, measures, own_answer
from studies.statistics.contrasts import compare_settings
from studies.verdict import judge

ROOT = Path(__file__).resolve().parents[3]


def row(phase: str, ratio: float, seed: int, metrics: object, **more: object) -> dict:
    text = metrics if isinstance(metrics, str) or metrics is None else json.dumps(metrics)
    split = "test" if phase == "confirm" else "val"
    return {"trial_id": f"{phase}{ratio}{seed}", "study": "s", "dataset": "digits", "method": "mae", "phase": phase,
            "ratio": ratio, "seed": seed, "status": "done", "strategy": "random", "basis": None, "patch_size": 2,
            "patch_stride": 2, "mask_unit": 2, "metrics": text, "val_linear": 0.1, "val_knn": 0.2, "test_linear": None,
            "test_knn": None, f"{split}_linear": 0.5 + seed / 100, **more}  # fmt: skip


def scores(value: float) -> dict:
    return {
        "ssim": value,
        "note": "text",
        "exact": True,
        "corruptions": {"jpeg": value / 2},
    }


def test_confirmed_trials_stand_for_a_ratio_and_are_averaged():
    trials = pa.Table.from_pylist(
        [
            row("explore", 0.5, 9, scores(0.1)),
            row("confirm", 0.5, 1, scores(0.6)),
            row("confirm", 0.5, 2, scores(0.8)),
            row("confirm", 0.5, 3, scores(0.0), status="failed"),
            row("explore", 0.9, 9, scores(0.4)),
            row("confirm", 0.7, 1, None),
            row("confirm", 0.7, 2, "no JSON"),
            row("confirm", 0.7, 3, {"ssim": float("nan")}),
        ]
    )
    half, most = measures(trials)
    assert (half.ratio, half.split, half.seeds) == (0.5, "test", 2)
    wanted = {"linear": 0.515, "ssim": 0.7, "corruptions.jpeg": 0.35}
    assert half.values == pytest.approx(wanted)
    assert (most.ratio, most.split, most.seeds) == (0.9, "val", 1)
    assert set(measures(trials, nested=False)[0].values) == {"linear", "ssim"}
    assert measure_names([half, most])[:2] == ["linear", "ssim"]


def test_the_table_shows_accuracies_in_per_cent_and_others_as_they_are():
    trials = pa.Table.from_pylist([row("confirm", 0.5, 1, scores(0.6))])
    headings, (cells,) = measure_table(measures(trials))
    shown = dict(zip(headings, cells, strict=True))
    assert (shown["linear (%)"], shown["ssim"], shown["corruptions.jpeg (%)"]) == ("51.0", "0.6", "30.0")
    assert is_accuracy("corrupted_linear") and not is_accuracy("psnr")
    assert measure_table([]) is None and measures(trials.slice(0, 0)) == []


def test_a_study_without_an_answer_reports_that():
    assert own_answer(compare_settings(pa.Table.from_pylist([])), []) == "No answer yet."


def test_the_time_of_more_seeds_counts_the_trials_at_once():
    study = read_study(ROOT / "docs" / "evidence" / "digits")
    rows = judge(study).rows
    cards = {n: make_card(rows[0], rows, study.trials, {"resources": {"concurrent": n}}) for n in (1, 2)}
    own = study.trials.filter((pc.field("phase") == "confirm") & (pc.field("method") == "pmae"))
    seconds = pc.mean(own["seconds"]).as_py()
    for at_once, card in cards.items():
        seeds, _, more_trials, time = card["more_seeds"][-1]
        assert (seeds, more_trials) == ("25", str(20 * 7))
        assert time == duration(seconds * 140 / at_once)
    assert "concurrent" in study.plan["resources"]

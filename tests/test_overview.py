"""Several studies together: means over data sets, MAE against PMAE, noise; against SciPy and a known truth."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import t as student
from scipy.stats import ttest_1samp, ttest_rel

from docs.evidence.overview import Mean, compare_methods, main, mean_differences, measure_noise, write_overview
from studies.records import Study, StudyWriter, read_studies, read_study
from studies.verdict import judge
from tests.studies.make_study import LUCK, make_study

SETS = ("digits", "cifar10", "mnist")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    storage = tmp_path_factory.mktemp("sets")
    options = {"patch_sizes": (2,), "explored": 2, "samples": False, "losses": False}
    return [make_study(storage, name, dataset=name, seeds=4 + place, **options) for place, name in enumerate(SETS)]


def test_mean_over_data_sets_is_student_s_with_the_data_set_as_unit(folders: list[Path]) -> None:
    rows = [row for folder in folders for row in judge(read_study(folder)).rows if row["method"] == "pmae"]
    means = mean_differences(rows)
    assert list(means) == [0.05, 0.1, 0.35, 0.55, 0.75, 0.9]
    values = [next(r["difference"] for r in row["rungs"] if r["nominal_ratio"] == 0.55) for row in rows]
    expected = ttest_1samp(values, 0).confidence_interval(0.95)
    assert means[0.55].count == 3
    assert (means[0.55].low, means[0.55].high) == pytest.approx((expected.low, expected.high))
    assert means[0.55].value == pytest.approx(np.mean(values))
    assert not mean_differences(rows[:1])
    twice = mean_differences([*rows, rows[0]])[0.55]  # a data set counts once, however many studies it has
    assert twice.count == 3 and twice.value == pytest.approx(means[0.55].value)


def test_a_single_value_has_no_interval() -> None:
    assert Mean.of([0.5]) == Mean(0.5, None, None, 1)


def _scores(study: Study, method: str, ratio: float) -> dict[int, float]:
    rows = study.trials.to_pylist()
    wanted = ("confirm", method, ratio)
    return {r["seed"]: r["test_linear"] for r in rows if (r["phase"], r["method"], r["ratio"]) == wanted}


def test_methods_are_compared_at_their_defaults_and_paired_by_seed(folders: list[Path]) -> None:
    rows = compare_methods([read_study(folder) for folder in folders])
    assert [row.dataset for row in rows] == sorted(SETS)
    study, row = read_study(folders[0]), next(row for row in rows if row.dataset == "digits")
    ours, theirs = _scores(study, "pmae", 0.2), _scores(study, "mae", 0.75)
    pairs = np.array([(theirs[seed], ours[seed]) for seed in ours])
    expected = ttest_rel(pairs[:, 0], pairs[:, 1]).confidence_interval(0.95)
    assert row.difference.count == len(ours)
    assert (row.difference.low, row.difference.high) == pytest.approx((expected.low, expected.high))
    assert row.accuracies == pytest.approx((pairs[:, 1].mean(), pairs[:, 0].mean()))


def test_methods_on_other_images_of_the_same_name_are_not_compared(folders: list[Path], tmp_path: Path) -> None:
    other = make_study(tmp_path, "digits-more", dataset="digits", patch_sizes=(2,), samples=False, losses=False)
    plan = json.loads((other / "study.json").read_text())
    plan["dataset"] = {**(plan.get("dataset") or {}), "fingerprint": "of other images"}
    (other / "study.json").write_text(json.dumps(plan))
    rows = compare_methods([read_study(folders[0]), read_study(other)])
    assert len(rows) == 2  # each study's own methods, no mixture
    plan["dataset"] = json.loads((folders[0] / "study.json").read_text()).get("dataset")
    (other / "study.json").write_text(json.dumps(plan))
    assert len(compare_methods([read_study(folders[0]), read_study(other)])) == 4


def test_noise_is_what_was_drawn(tmp_path: Path) -> None:
    drawn = 0.02
    folder = make_study(tmp_path, seeds=60, patch_sizes=(2,), explored=2, samples=False, losses=False, noise=drawn)
    rows = {(row.setting, row.probe): row for row in measure_noise(read_study(folder))}
    settings = ("digits, pmae, patch 2", "digits, mae, patch 2")
    assert set(rows) == {(setting, probe) for setting in settings for probe in ("linear", "k-NN")}
    row = rows[settings[0], "linear"]
    # A run has the noise of its trial and the luck of its seed, which pairing takes away.
    assert row.difference == pytest.approx(2**0.5 * drawn, rel=0.12)
    assert row.run == pytest.approx((drawn**2 + LUCK**2) ** 0.5, rel=0.15)
    assert row.trials == 7 * 60


def test_interval_over_seeds_covers_the_truth() -> None:
    """95 % of the intervals hold the true mean; with the normal quantile instead of Student's 88 % would."""
    rng = np.random.default_rng(0)
    means = [Mean.of(rng.normal(0.01, 0.02, 5).tolist()) for _ in range(2000)]
    covered = np.mean([m.low <= 0.01 <= m.high for m in means if m.low is not None and m.high is not None])
    assert 0.935 < covered < 0.965
    assert student.ppf(0.975, 4) > 2.7


def test_page_names_every_study_verdict_and_cost(folders: list[Path], tmp_path: Path) -> None:
    files = write_overview(folders, tmp_path / "page.md")
    assert {file.name for file in files} == {"page.md", "page.png", "page.svg"}
    page = (tmp_path / "page.md").read_text()
    for name in SETS:
        row = next(r for r in judge(read_study(folders[SETS.index(name)])).rows if r["method"] == "pmae")
        assert re.search(rf"\| {name} \| 2 \|[^\n]*\| {row['verdict']} \|", page)
    for heading in ("PMAE: is 20 %", "MAE: is 75 %", "What the papers", "PMAE against MAE", "Noise", "Costs"):
        assert f"## {heading}" in page
    assert "](page.svg)" in page and "<svg" in (tmp_path / "page.svg").read_text()
    drawn = {kind: (tmp_path / f"page.{kind}").read_bytes() for kind in ("png", "svg")}
    assert b"<text" in drawn["svg"] and int.from_bytes(drawn["png"][16:20], "big") == 2161  # 183 mm at 300 dpi
    write_overview(folders, tmp_path / "page.md")
    assert drawn == {kind: (tmp_path / f"page.{kind}").read_bytes() for kind in ("png", "svg")}


def test_command_writes_the_page_and_refuses_studies_without_rungs(
    folders: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(folders[0].parent), "--out", str(tmp_path / "all.md")]) == 0
    assert "all.md" in capsys.readouterr().out and (tmp_path / "all.png").stat().st_size > 10_000
    bare = make_study(tmp_path, "bare", seeds=0, samples=False, losses=False)
    assert main([str(bare), "--out", str(tmp_path / "bare.md")]) == 2
    assert "confirmed trials" in capsys.readouterr().err
    assert len(read_studies(folders[0].parent)) == 3


def test_studies_of_another_default_are_judged_under_a_heading_of_their_own(
    folders: list[Path], tmp_path: Path
) -> None:
    other = make_study(tmp_path, "a|b", dataset="mnist", patch_sizes=(2,), samples=False, losses=False)
    plan = json.loads((other / "study.json").read_text())
    (other / "study.json").write_text(json.dumps({**plan, "default_ratio": 0.35}))
    write_overview([*folders, other], tmp_path / "page.md")
    page = (tmp_path / "page.md").read_text()
    by_heading = dict(section.split("\n", 1) for section in page.split("\n## ")[1:])
    usual, higher = by_heading["PMAE: is 20 % good enough?"], by_heading["PMAE: is 35 % good enough?"]
    assert usual.count("| 2 |") == 3 and "a\\|b" not in usual
    assert higher.count("| 2 |") == 1 and "| a\\|b | 2 |" in higher  # a name cannot break the table


def test_strategies_of_one_study_are_told_apart(tmp_path: Path) -> None:
    folder = make_study(tmp_path, patch_sizes=(2,), explored=2, samples=False, losses=False)
    writer = StudyWriter(folder)
    rows = [row for row in writer.trials.to_pylist() if row["method"] == "pmae"]
    writer.add_trials({**row, "strategy": "released", "trial_id": row["trial_id"] + "-released"} for row in rows)
    writer.close()
    write_overview([folder], tmp_path / "page.md")
    page = (tmp_path / "page.md").read_text()
    assert "| 2, strategy fixed |" in page and "| 2, strategy released |" in page
    assert "digits, pmae, released, patch 2" in page

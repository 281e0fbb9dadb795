"""Several studies at once: same names, same data sets, and levels of a study that was looked at often."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest

from studies.records import StudyWriter, read_studies, read_study
from studies.report import write_report
from studies.report.page import disambiguate_datasets
from studies.statistics.sequential import level_for_look
from studies.verdict import current_verdict, judge
from studies.views.summaries import planned_trials
from tests.studies.make_study import make_study, trial


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two different studies of one name, data set and trial ids, in two storage folders."""
    here, there = (tmp_path_factory.mktemp(name) for name in ("here", "there"))
    options = {"patch_sizes": (2,), "explored": 4, "samples": False, "losses": False}
    return [make_study(here, "digits", seeds=3, **options), make_study(there, "digits", seeds=5, **options)]


def test_studies_of_one_name_are_distinguished_and_none_is_lost(twins: list[Path]) -> None:
    studies = read_studies(twins)
    assert len({study.name for study in studies}) == 2
    assert all(study.name.startswith("digits (") and "/digits)" in study.name for study in studies)
    for given in (studies, [read_study(folder) for folder in twins]):
        rows = [row for row in judge(given).rows if row["kind"] == "default"]
        assert sorted(row["seeds"] for row in rows) == [3, 5]
        assert len({row["study"] for row in rows}) == 2


def test_trials_of_two_studies_are_never_averaged_on_a_page(twins: list[Path], tmp_path: Path) -> None:
    studies = read_studies(twins)
    import pyarrow as pa

    trials = pa.concat_tables([study.trials for study in studies])
    shown, rows = disambiguate_datasets(trials, judge(studies).rows)
    assert set(shown["dataset"].to_pylist()) == {f"digits, {study.name}" for study in studies}
    assert {row["dataset"] for row in rows} == set(shown["dataset"].to_pylist())
    alone, same = disambiguate_datasets(studies[0].trials, [{"dataset": "digits", "study": "x"}])
    assert alone.equals(studies[0].trials) and same[0]["dataset"] == "digits"
    page = write_report(twins, tmp_path / "page.html").read_text()
    assert all(f"PMAE on digits, {study.name}" in page for study in studies)


def test_bare_tables_without_a_study_column_take_the_folders_name(twins: list[Path], tmp_path: Path) -> None:
    import pyarrow.feather as feather

    folders = []
    for number, twin in enumerate(twins):
        folders.append(tmp_path / f"bare{number}")
        folders[-1].mkdir()
        bare = read_study(twin).trials.drop_columns(["study"]).replace_schema_metadata(None)
        feather.write_feather(bare, folders[-1] / "trials.arrow", compression="uncompressed")
    assert {row["study"] for row in judge(read_studies(folders)).rows} == {"bare0", "bare1"}


def test_a_study_planned_in_rounds_keeps_its_corrected_level(twins: list[Path], tmp_path: Path) -> None:
    own = shutil.copytree(twins[1], tmp_path / "digits")
    plan = json.loads((own / "study.json").read_text()) | {"looks": {"seeds_per_round": 5, "rounds": 5}}
    (own / "study.json").write_text(json.dumps(plan))
    bounds = [row["ci_high"] for row in judge(read_study(twins[1]), alpha=level_for_look(1, 5)).rows]
    for verdict in (judge(read_study(own)).to_dict(), current_verdict([read_study(own)], margin=0.02)):
        assert [row["ci_high"] for row in verdict["rows"]] == pytest.approx(bounds)
        assert {row["alpha"] for row in verdict["rows"]} == {0.05}  # that of all looks together
    assert judge(read_study(own)).rows[0]["ci_high"] > judge(read_study(twins[1])).rows[0]["ci_high"]
    found = [row["ci_high"] for row in current_verdict(read_studies([own, twins[0]]))["rows"]]
    assert all(any(high == pytest.approx(bound) for high in found) for bound in bounds)
    alike = shutil.copytree(own, tmp_path / "again")
    assert not any("planned with" in text for text in current_verdict(read_studies([own, alike]))["warnings"])
    page = write_report(own, tmp_path / "page.html").read_text()
    assert "95 % confidence" in page and "at most 5 rounds of 5 seeds with Pocock-type" in page


def test_a_study_planned_with_another_alpha_keeps_it(twins: list[Path], tmp_path: Path) -> None:
    own = shutil.copytree(twins[1], tmp_path / "digits")
    plan = json.loads((own / "study.json").read_text()) | {"alpha": 0.015}
    (own / "study.json").write_text(json.dumps(plan))
    for verdict in (judge(read_study(own)).to_dict(), current_verdict([read_study(own)], margin=0.02)):
        assert verdict["alpha"] == 0.015 and {row["alpha"] for row in verdict["rows"]} == {0.015}
    assert "98.5 % confidence" in write_report(own, tmp_path / "page.html").read_text()


def test_studies_planned_with_other_margins_are_named(tmp_path: Path) -> None:
    folders = [make_study(tmp_path, name, dataset=name, samples=False) for name in ("one", "two")]
    plan = json.loads((folders[1] / "study.json").read_text()) | {"margin": 0.03}
    (folders[1] / "study.json").write_text(json.dumps(plan))
    studies = read_studies(folders)
    said = "two was planned with margin 0.03 and is judged with 0.01, as one was"
    assert said in current_verdict(studies)["warnings"]
    assert not any("planned with margin" in w for w in current_verdict(studies, margin=0.02)["warnings"])


def test_a_study_can_be_judged_again_with_a_margin_in_per_cent(twins: list[Path]) -> None:
    (main, *_) = current_verdict([read_study(twins[1])], margin="10%")["rows"]
    assert main["margin_share"] == 0.1 and main["margin"] == pytest.approx(0.1 * main["training_gain"])


def test_measures_that_are_no_numbers_do_not_lose_the_page(tmp_path: Path) -> None:
    folder = make_study(tmp_path, seeds=2, explored=1, samples=False, losses=False)
    with StudyWriter(folder, "digits-quick") as writer:
        row = trial("digits", "explore", "pmae", 0.3, 2, 77)
        writer.add_trial({**row, "metrics": json.dumps({"ssim": math.nan, "psnr": -math.inf})})
    assert "psnr" in write_report(folder).read_text()


def test_a_limit_of_confirm_trials_is_no_plan_that_was_not_carried_out(tmp_path: Path) -> None:
    folder = make_study(tmp_path, seeds=2, explored=1, samples=False, losses=False)
    plan = json.loads((folder / "study.json").read_text())
    explored = read_study(folder).trials["phase"].to_pylist().count("explore")
    plan["phases"] = {"explore": {"planned": explored, "seeds": []}, "confirm": {"planned": None, "at_most": 500}}
    (folder / "study.json").write_text(json.dumps(plan))
    assert planned_trials(read_study(folder)) == explored + 500
    assert "planned to" not in write_report(folder).read_text()

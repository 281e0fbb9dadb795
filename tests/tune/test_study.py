"""Whole studies with real processes: to the verdict, refused where settings or drivers differ, secrets kept."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections import Counter
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest

from pmae.errors import ConfigError
from studies.records import TRIAL_SCHEMA, read_study
from studies.storage.lock import StudyLock
from tests.tune.conftest import SECRET, optuna_states
from tune import (
    ConfirmOptions,
    DataOptions,
    SearchOptions,
    StorageOptions,
    StudyOptions,
    TrainingOptions,
    run_study,
)
from tune.masking_ratio_study import main
from tune.run.runner import _stored_options

pytestmark = pytest.mark.timeout(900)


def test_a_study_ends_with_tables_verdict_and_report(undisturbed):
    folder = undisturbed.folder
    study = read_study(folder)
    assert study.trials.schema.names == TRIAL_SCHEMA.names
    with pa.OSFile(str(folder / "trials.arrow")) as file:
        assert pa.ipc.open_file(file).read_all().num_rows == study.trials.num_rows
    rows = study.trials.to_pylist()
    explored = [r for r in rows if r["phase"] == "explore"]
    confirmed = [r for r in rows if r["phase"] == "confirm"]
    controls = [r for r in rows if r["phase"] == "control"]
    assert {(r["method"], r["seed"]) for r in controls} == {(m, s) for m in ("untrained", "pixels") for s in (1, 2)}
    assert all(r["test_linear"] is not None and r["ratio"] is None for r in controls)
    assert len(explored) == 4 and all(r["status"] == "done" for r in rows)
    assert all(r["test_linear"] is None and r["test_knn"] is None for r in explored)
    assert all(r["test_linear"] is not None for r in confirmed)
    assert {r["seed"] for r in confirmed} == {1, 2} and not {r["seed"] for r in explored} & {1, 2}
    per_setting = Counter((r["method"], r["ratio"]) for r in confirmed)
    assert set(per_setting.values()) == {2} and {("pmae", 0.2), ("mae", 0.75)} <= set(per_setting)
    assert study.history.num_rows == 2 * (len(explored) + len(confirmed))
    assert {r["evaluation"] for r in rows} == {"folds"} and {r["precision"] for r in confirmed} == {"fp32"}
    assert json.loads(rows[0]["config"])["optim"]["epochs"] == 2
    wanted = {"study.json", "verdict.json", "report.html", "samples.npz", "figures"}
    assert wanted <= {p.name for p in folder.iterdir()}
    assert optuna_states(folder) == {"COMPLETE": 4}
    assert not any((folder / "checkpoints").glob("*"))


def test_trials_run_beside_each_other_in_both_phases(undisturbed):
    if read_study(undisturbed.folder).plan["resources"]["concurrent"] < 2:
        pytest.skip("this machine runs one trial at a time")
    rows = read_study(undisturbed.folder).trials.to_pylist()
    for phase in ("explore", "confirm"):
        spans = sorted((r["started_at"], r["seconds"]) for r in rows if r["phase"] == phase)
        overlaps = [
            (later - start).total_seconds() < lasted for (start, lasted), (later, _) in itertools.pairwise(spans)
        ]
        assert sum(overlaps) >= len(overlaps) // 2, spans


def test_only_the_studys_own_lines_are_printed(undisturbed):
    said = undisturbed.log.read_text()
    for noise in ("Traceback", "Trial ", "ray::", "WARNING", "(raylet)"):
        assert noise not in said


def test_secrets_reach_neither_tables_nor_logs_nor_the_report(undisturbed):
    files = [p for p in (*undisturbed.storage.rglob("*"), undisturbed.log) if p.is_file()]
    assert len(files) > 5
    assert not [p for p in files if SECRET.encode() in p.read_bytes()]


@pytest.mark.parametrize(
    ("had", "argv", "expected"),
    [
        ({"workers": 1, "gpus": 0.0, "trial_timeout": 60.0, "least_workers": None}, [], ("1", 0.0, 60.0)),
        ({"workers": 4, "gpus": 4.0, "trial_timeout": None, "least_workers": 2}, [], ("2-4", None, None)),
        ({"workers": 1, "gpus": 0.5}, ["--gpus-per-trial", "0", "--trial-timeout", "9"], ("1", 0.0, 9.0)),
        ({"workers": 2, "gpus": 0.0}, ["--workers-per-trial", "1"], ("1", None, None)),
    ],
)
def test_a_study_that_resumes_keeps_workers_gpus_and_time_limit_unless_told(had, argv, expected):
    options = StudyOptions()
    record: Any = {"question": None, "name": "digits", "options": options.to_dict(), "resources": had}
    machine = _stored_options(["--resume", *argv], options, record).machine
    assert (machine.workers_per_trial, machine.gpus_per_trial, machine.trial_timeout) == expected


def test_a_dry_run_of_a_resumed_study_prints_its_own_seeds(undisturbed, tmp_path, capsys):
    folder = tmp_path / "digits"
    shutil.copytree(undisturbed.folder, folder)
    record = json.loads((folder / "study.json").read_text())
    record["options"]["confirm"] |= {"confirm_seeds": None, "time_budget": "1h"}
    (folder / "study.json").write_text(json.dumps(record))
    assert main(["--resume", "--storage", str(tmp_path), "--dry-run"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"with {len(record['phases']['confirm']['seeds'])} paired seeds" in said


def test_resume_refuses_another_question_of_the_same_settings(undisturbed, capsys):
    assert main(["theory", "--resume", "--storage", str(undisturbed.storage), "--name", undisturbed.folder.name]) == 2
    said = capsys.readouterr().err
    assert "asks another question (which share should be masked" in said and "masking_ratio_study.py" in said


def test_resume_refuses_other_settings_and_a_second_driver_is_refused(undisturbed, start_study):
    other = start_study(undisturbed.storage, "--resume", "--epochs", "3")
    assert other.end() == 2
    assert "--epochs 3 (the study has 2)" in other.log.read_text()
    with StudyLock(undisturbed.folder):
        second = start_study(undisturbed.storage, "--resume")
        assert second.end() == 2
    assert f"process {os.getpid()}" in second.log.read_text()


def test_a_study_from_python_returns_its_verdict_and_reports_its_lines(tmp_path):
    lines: list[str] = []
    options = StudyOptions(
        data=DataOptions(limit=100),
        search=SearchOptions(methods=("pmae",), search="none", patch_sizes=(4,)),
        confirm=ConfirmOptions(ladder=(0.2, 0.5), confirm_seeds=2, margin="10%"),
        training=TrainingOptions(epochs=1),
        storage=StorageOptions(storage=str(tmp_path), name="api"),
    )
    study = run_study(options, on_event=lines.append)
    assert study.stored_verdict is not None and study.stored_verdict["rows"][0]["margin_share"] == 0.1
    assert study.name == "api" and study.plan["margin"] == "10%"
    assert any("confirming" in line for line in lines) and any("report" in line for line in lines)
    with pytest.raises(ConfigError, match="--name"):
        run_study(replace(options, storage=StorageOptions(storage=str(tmp_path), name="../x")))

"""Whole studies with real processes: to the verdict, killed and gone on with, interrupted, refused."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from pathlib import Path

import optuna
import psutil
import pyarrow as pa
import pytest

from studies.records import TRIAL_SCHEMA, read_study
from tests.tune.conftest import SMALL, StudyProcess

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    """A study that ran to its end."""
    storage = tmp_path_factory.mktemp("undisturbed")
    study = StudyProcess(storage, *SMALL)
    assert study.end(400) == 0, study.log.read_text()
    return storage / "digits"


def facts(folder: Path) -> dict[str, tuple]:
    """What a study found, without what differs between runs."""
    columns = ("phase", "method", "ratio", "patch_size", "seed", "status", "val_linear", "test_linear", "train_loss")
    return {r["trial_id"]: tuple(r[c] for c in columns) for r in read_study(folder).trials.to_pylist()}


def optuna_states(folder: Path) -> Counter:
    study = optuna.load_study(study_name=None, storage=f"sqlite:///{folder / 'optuna.db'}")
    return Counter(t.state.name for t in study.trials)


def test_a_study_ends_with_tables_verdict_and_report(undisturbed):
    study = read_study(undisturbed)
    assert study.trials.schema.names == TRIAL_SCHEMA.names
    with pa.OSFile(str(undisturbed / "trials.arrow")) as file:
        assert pa.ipc.open_file(file).read_all().num_rows == study.trials.num_rows
    rows = study.trials.to_pylist()
    explored = [r for r in rows if r["phase"] == "explore"]
    confirmed = [r for r in rows if r["phase"] == "confirm"]
    assert len(explored) == 4 and all(r["status"] == "done" for r in rows)
    assert all(r["test_linear"] is None and r["test_knn"] is None for r in explored)
    assert all(r["test_linear"] is not None for r in confirmed)
    assert {r["seed"] for r in confirmed} == {1, 2} and not {r["seed"] for r in explored} & {1, 2}
    per_setting = Counter((r["method"], r["ratio"]) for r in confirmed)
    assert set(per_setting.values()) == {2} and {("pmae", 0.2), ("mae", 0.75)} <= set(per_setting)
    assert study.history.num_rows == 2 * len(rows)
    assert json.loads(rows[0]["config"])["optim"]["epochs"] == 2
    assert {"study.json", "verdict.json", "report.html", "samples.npz", "figures"} <= {
        p.name for p in undisturbed.iterdir()
    }
    assert optuna_states(undisturbed) == {"COMPLETE": 4}
    assert not (undisturbed / "checkpoints").exists() or not any((undisturbed / "checkpoints").iterdir())


def test_a_driver_killed_twice_goes_on_to_the_same_result(undisturbed, tmp_path, start_study):
    def rows() -> int:
        try:
            return read_study(tmp_path / "digits").trials.num_rows
        except ValueError:
            return 0

    for options, enough in (((), 2), (("--resume",), 6)):  # in the exploration, in the confirm phase
        study = start_study(tmp_path, *SMALL, *options)
        study.wait_for(lambda least=enough: rows() >= least)
        study.send(signal.SIGKILL)
        study.process.wait(30)
        kept = rows()
        assert kept >= enough
    study = start_study(tmp_path, "--resume")  # the study's own settings need not be said again
    assert study.end() == 0, study.log.read_text()
    assert facts(tmp_path / "digits") == facts(undisturbed)
    assert optuna_states(tmp_path / "digits") == {"COMPLETE": 4}
    answers = [json.loads((f / "verdict.json").read_text())["rows"] for f in (tmp_path / "digits", undisturbed)]
    assert answers[0] == answers[1]


def test_ctrl_c_leaves_a_table_and_the_command_to_go_on(undisturbed, tmp_path, start_study):
    study = start_study(tmp_path, *SMALL, "--epochs", "2000")
    study.wait_for(lambda: any((tmp_path / "digits" / "checkpoints").glob("*/epoch-*.ckpt")))
    study.send(signal.SIGINT)
    assert study.end() == 130, study.log.read_text()
    said = study.log.read_text()
    assert "resume with: python tune/masking_ratio_study.py" in said and "--resume" in said
    assert "Traceback" not in said
    rows = read_study(tmp_path / "digits").trials.to_pylist()
    assert rows and all(r["status"] == "interrupted" for r in rows)
    assert not (tmp_path / "digits" / ".stop").exists()


def test_resume_refuses_other_settings_and_a_second_driver_is_refused(undisturbed, start_study):
    other = start_study(undisturbed.parent, "--resume", "--epochs", "3")
    assert other.end() == 2
    assert "--epochs 3 (the study has 2)" in other.log.read_text()
    from studies.lock import StudyLock

    with StudyLock(undisturbed):
        second = start_study(undisturbed.parent, "--resume")
        assert second.end() == 2
    assert f"process {os.getpid()}" in second.log.read_text()


def test_a_trial_whose_process_is_killed_is_tried_again(tmp_path, start_study):
    study = start_study(tmp_path, *SMALL, "--epochs", "100", "--methods", "pmae", "--trials", "2")
    study.wait_for(lambda: any((tmp_path / "digits" / "checkpoints").glob("*/epoch-*.ckpt")))
    workers = [
        p for p in psutil.Process(study.process.pid).children(recursive=True) if "seed=" in " ".join(p.cmdline())
    ]
    assert workers
    workers[0].send_signal(signal.SIGKILL)
    assert study.end(400) == 0, study.log.read_text()
    assert all(r["status"] == "done" for r in read_study(tmp_path / "digits").trials.to_pylist())


def test_a_trial_that_diverges_or_takes_too_long_is_recorded(tmp_path, start_study):
    slow = ("--methods", "pmae", "--trials", "1", "--confirm-seeds", "1", "--epochs", "100000", "--trial-timeout", "4")
    late = start_study(tmp_path / "late", *SMALL, *slow)
    assert late.end(400) == 0, late.log.read_text()
    (row,) = read_study(tmp_path / "late").trials.to_pylist()
    assert row["status"] == "failed" and "--trial-timeout 4" in row["error"]
    wild = ("--methods", "pmae", "--trials", "1", "--confirm-seeds", "1", "--learning-rate", "1e30")
    study = start_study(tmp_path / "wild", *SMALL, *wild)
    assert study.end(400) == 0, study.log.read_text()
    (row,) = read_study(tmp_path / "wild").trials.to_pylist()
    assert row["status"] == "diverged" and "step" in row["error"]
    assert optuna_states(tmp_path / "wild" / "digits") == {"FAIL": 1}

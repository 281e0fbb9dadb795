"""Studies that are killed, interrupted, starved or fed damaged files: nothing finished is lost, nothing is wrong.

After every fault ``--resume`` ends with exactly the planned trials, the numbers and the verdict of an undisturbed run.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from pmae.config import PretrainConfig
from pmae.data import load_images
from pmae.trainer import pretrain
from studies.records import read_study
from tests.tune.conftest import LONG, ONE, SMALL, StudyProcess, curves, facts, optuna_states, recorded
from tune.run.driver import RETRIES

pytestmark = pytest.mark.timeout(1500)


def assert_same(study: StudyProcess, undisturbed: StudyProcess) -> None:
    """As if nothing had happened: trials, curves, verdict, every Optuna trial final."""
    assert facts(study.folder) == facts(undisturbed.folder)
    assert curves(study.folder) == curves(undisturbed.folder)
    assert optuna_states(study.folder) == optuna_states(undisturbed.folder)
    rows = [json.loads((s.folder / "verdict.json").read_text())["rows"] for s in (study, undisturbed)]
    assert rows[0] == rows[1]


def explored(study: StudyProcess) -> dict:
    """The row of the only explored trial; the confirm phase follows whatever its end."""
    (row,) = [r for r in read_study(study.folder).trials.to_pylist() if r["phase"] == "explore"]
    return row


def started_trials(study: StudyProcess) -> set[str]:
    return {path.parent.name for path in study.checkpoints()}


def test_a_driver_killed_while_writing_and_while_confirming(undisturbed, tmp_path, start_study):
    storage = tmp_path / "runs"
    study = start_study(storage, *SMALL)
    study.wait_for(lambda: recorded(study.folder) >= 1)
    study.wait_for(lambda: any(study.folder.glob(".trials.arrow.*")), every=0.0005)
    study.send(signal.SIGKILL)
    study.process.wait(30)
    kept = recorded(study.folder)
    assert kept >= 1
    # As when it was killed between a record and the end of its checkpoints.
    orphan = study.folder / "checkpoints" / read_study(study.folder).trials["trial_id"][0].as_py()
    orphan.mkdir(parents=True, exist_ok=True)
    (orphan / "epoch-000001.ckpt").write_bytes(b"x")
    study = start_study(storage, *SMALL, "--resume")  # the lock of the killed driver is gone with it
    study.wait_for(lambda: recorded(study.folder) >= 6)
    study.send(signal.SIGKILL)
    study.process.wait(30)
    assert recorded(study.folder) >= max(kept, 6)
    study = start_study(storage, "--resume")  # the study's own settings need not be said again
    study.ends_well()
    assert_same(study, undisturbed)
    assert not list(study.folder.glob(".*.part")) and not list((study.folder / "checkpoints").glob("*"))


def test_ctrl_c_leaves_a_table_and_the_command_to_resume(tmp_path, start_study):
    study = start_study(tmp_path / "runs", *SMALL, "--epochs", "4000")
    study.wait_for(study.checkpoints)
    study.send(signal.SIGINT)
    assert study.end() == 130, study.log.read_text()
    said = study.log.read_text()
    assert "resume with: python tune/masking_ratio_study.py" in said and "--resume" in said
    assert "Traceback" not in said
    rows = read_study(study.folder).trials.to_pylist()
    assert rows and all(r["status"] == "interrupted" for r in rows)
    assert not (study.folder / ".stop").exists()


@pytest.mark.slow
def test_an_interrupted_study_resumes_from_its_checkpoints(undisturbed_long, tmp_path, start_study):
    study = start_study(tmp_path / "runs", *LONG)
    study.wait_for(study.checkpoints)
    study.send(signal.SIGINT)
    assert study.end() == 130, study.log.read_text()
    left = study.checkpoints()
    assert left
    study = start_study(tmp_path / "runs", "--resume", "--quiet")
    study.ends_well()
    assert_same(study, undisturbed_long)


@pytest.mark.slow
def test_a_second_ctrl_c_stops_at_once(undisturbed_long, tmp_path, start_study):
    study = start_study(tmp_path / "runs", *LONG)
    study.wait_for(study.checkpoints)
    study.send(signal.SIGINT)
    study.wait_for(lambda: "stopping" in study.log.read_text())
    study.send(signal.SIGINT)
    assert study.end(60) == 130, study.log.read_text()
    assert "Traceback" not in study.log.read_text()
    study = start_study(tmp_path / "runs", "--resume", "--quiet")
    study.ends_well()
    assert_same(study, undisturbed_long)


@pytest.mark.slow
def test_a_trial_whose_process_is_killed_resumes_from_its_checkpoint(undisturbed_long, tmp_path, start_study):
    study = start_study(tmp_path / "runs", *LONG)
    study.wait_for(study.checkpoints)
    study.wait_for(lambda: study.workers("seed="), every=0.01)
    study.workers("seed=")[0].send_signal(signal.SIGKILL)
    said = study.ends_well()
    assert re.search(r"pmae r=0.20 p=4 seed=\d+: its process was lost", said.replace("\n", ""))
    assert "Traceback" not in said and "(raylet)" not in said
    assert_same(study, undisturbed_long)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["raylet", "gcs_server"])
def test_a_ray_that_is_lost_ends_the_study_with_one_message(name, undisturbed_long, tmp_path, start_study):
    study = start_study(tmp_path / "runs", *LONG)
    study.wait_for(study.checkpoints)
    study.wait_for(lambda: study.workers("seed="), every=0.01)
    started = psutil.Process(study.process.pid).children(recursive=True)
    (victim,) = study.workers(f"/{name} --")
    victim.send_signal(signal.SIGKILL)
    assert study.end(30) == 1, study.log.read_text()
    said = study.log.read_text()
    assert said.count("error:") == 1 and f"{name} was lost" in said and "Traceback" not in said
    assert "resume with: python tune/masking_ratio_study.py" in said and said.strip().endswith("--resume")
    assert not running_after(10, started)
    study = start_study(tmp_path / "runs", "--resume", "--quiet")
    study.ends_well()
    assert_same(study, undisturbed_long)


def running_after(seconds: float, processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those of ``processes`` that still run after ``seconds``; zombies that nobody reaps do not."""
    end = time.monotonic() + seconds
    while (alive := [p for p in processes if not is_dead(p)]) and time.monotonic() < end:
        time.sleep(0.2)
    return alive


def is_dead(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.slow
def test_a_driver_killed_before_the_components_are_fitted(undisturbed_long, tmp_path, start_study):
    cache = tmp_path / "cache"
    study = start_study(tmp_path / "runs", *LONG, PMAE_CACHE=str(cache))
    study.wait_for((study.folder / "study.json").exists, every=0.0005)
    study.send(signal.SIGKILL)
    study.process.wait(30)
    assert not [p for p in (cache / "components").rglob("*") if p.is_file()] and not recorded(study.folder)
    study = start_study(tmp_path / "runs", "--resume", "--quiet", PMAE_CACHE=str(cache))
    study.ends_well()
    assert_same(study, undisturbed_long)


@pytest.mark.slow
def test_a_trial_that_the_kernel_kills_again_and_again_is_recorded(tmp_path, start_study):
    study = start_study(tmp_path / "runs", *LONG)
    for attempt in range(RETRIES + 1):
        study.wait_for(lambda: study.workers("seed="), every=0.01)
        victim = study.workers("seed=")[0]
        victim.send_signal(signal.SIGKILL)
        victim.wait(30)
        assert attempt == RETRIES or study.process.poll() is None
    study.ends_well()
    row = explored(study)
    assert row["status"] == "failed" and "out of memory" in row["error"] and "--max-concurrent" in row["error"]
    assert optuna_states(study.folder) == {"FAIL": 1}


@pytest.mark.slow
def test_an_idle_process_that_is_killed_costs_no_trial(tmp_path, start_study):
    study = start_study(tmp_path / "runs", *ONE, "--trials", "2", "--max-concurrent", "2")
    study.wait_for(lambda: len(study.workers("seed=")) == 2, every=0.01)
    slow, idle = study.workers("seed=")
    slow.suspend()
    study.wait_for(lambda: recorded(study.folder) == 1)
    idle.kill()
    idle.wait(30)
    slow.resume()
    said = study.ends_well()
    rows = read_study(study.folder).trials.to_pylist()
    assert {r["status"] for r in rows} == {"done"}, said
    assert said.count("its process was lost") == 1


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["truncated", "flipped"])
def test_a_corrupted_checkpoint_falls_back_to_the_previous_one(damage, undisturbed_long, tmp_path, start_study):
    study = start_study(tmp_path / "runs", *LONG)
    study.wait_for(lambda: len(study.checkpoints()) >= 2)
    study.wait_for(lambda: study.workers("seed="), every=0.01)
    left = study.workers("seed=")
    study.send(signal.SIGKILL)
    study.process.wait(30)
    psutil.wait_procs(left, timeout=60)  # they may write another checkpoint before they notice
    newest = study.checkpoints()[-1]
    content = bytearray(newest.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 1
    newest.write_bytes(content if damage == "flipped" else content[: len(content) // 2])
    study = start_study(tmp_path / "runs", "--resume")
    assert f"checkpoint {newest} is corrupted" in study.ends_well().replace("\n", "")
    assert_same(study, undisturbed_long)


@pytest.mark.slow
def test_corrupted_components_are_fitted_again(undisturbed_long, tmp_path, start_study):
    cache = Path(os.environ["PMAE_CACHE"]) / "components"
    stored = [p for p in cache.rglob("*") if p.is_file() and p.stat().st_size > 1000]
    assert stored
    for path in stored:
        content = bytearray(path.read_bytes())
        content[-100] ^= 1
        path.write_bytes(content)
    options = [o for o in LONG if o != "--quiet"]
    study = start_study(tmp_path / "runs", *options)
    assert "refitted" in study.ends_well()
    assert_same(study, undisturbed_long)


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Callable[[str], Path]]:
    """A file system of a given size; called again with another size it is resized."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = False

    def mount(size: str) -> Path:
        nonlocal mounted
        options = f"remount,size={size}" if mounted else f"size={size}"
        run = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, check=False)
        if run.returncode:
            pytest.skip(f"tmpfs cannot be mounted here: {run.stderr.decode().strip()}")
        mounted = True
        return folder

    yield mount
    if mounted:
        subprocess.run(["umount", "-l", folder], check=False)


@pytest.mark.slow
def test_a_full_disk_stops_the_study_and_loses_nothing(undisturbed_long, small_disk, start_study):
    storage = small_disk("1m")  # one checkpoint of these models is about 1 MB
    study = start_study(storage, *LONG)
    assert study.end() == 1, study.log.read_text()
    said = study.log.read_text()
    assert "full" in said and "resume with: python tune/masking_ratio_study.py" in said and "Traceback" not in said
    small_disk("64m")
    study = start_study(storage, "--resume", "--quiet")
    study.ends_well()
    assert_same(study, undisturbed_long)


@pytest.mark.slow
def test_a_trial_that_takes_too_long_is_recorded(tmp_path, start_study):
    study = start_study(tmp_path / "runs", *ONE, "--epochs", "100000", "--trial-timeout", "4")
    study.ends_well()
    row = explored(study)
    assert row["status"] == "failed" and "--trial-timeout 4" in row["error"]


@pytest.mark.slow
def test_a_trial_that_diverges_is_recorded(tmp_path, start_study):
    study = start_study(tmp_path / "runs", *ONE, "--epochs", "20", "--learning-rate", "100", "--weight-decay", "1e6")
    study.ends_well()
    row = explored(study)
    assert row["status"] == "diverged" and "step" in row["error"]
    assert optuna_states(study.folder) == {"FAIL": 1}


@pytest.mark.slow
def test_one_of_two_train_workers_killed(tmp_path, start_study):
    if (os.cpu_count() or 1) < 2:
        pytest.skip("two workers need two cores")
    # At the quick preset's rate, with a step per epoch, rounding grows from 1e-7 to percents within 20 epochs.
    stable = ["--epochs", "60", "--precision", "fp32", "--learning-rate", "0.001"]
    options = [*LONG, *stable, "--workers-per-trial", "2"]
    study = start_study(tmp_path / "runs", *options)
    study.wait_for(lambda: any((study.folder / "checkpoints").glob("*/checkpoint_*")))
    study.wait_for(lambda: study.workers("RayTrainWorker"))
    study.workers("RayTrainWorker")[-1].send_signal(signal.SIGKILL)
    study.ends_well()
    rows = [r for r in read_study(study.folder).trials.to_pylist() if r["phase"] != "control"]
    assert {r["status"] for r in rows} == {"done"}
    found, images = curves(study.folder), load_images("digits", limit=100)
    for row in rows:
        alone = pretrain(PretrainConfig.from_dict(json.loads(row["config"])), images, seed=row["seed"])
        for record in alone.history:
            assert found[row["trial_id"], record["epoch"]] == pytest.approx(record["train_loss"], rel=1e-3)


@pytest.mark.slow
def test_a_node_that_dies_takes_no_trial_with_it(undisturbed_long, tmp_path, start_study):
    from tests.tune.cluster import two_nodes

    with two_nodes() as cluster:
        study = start_study(tmp_path / "runs", *LONG, "--trials", "2", "--address", cluster.address)
        study.wait_for(lambda: len(started_trials(study)) >= 2)
        cluster.remove_second()
        study.ends_well()
    rows = {r["trial_id"]: r for r in read_study(study.folder).trials.to_pylist()}
    assert all(r["status"] == "done" for r in rows.values())
    same = [k for k in facts(undisturbed_long.folder) if k in rows]
    assert same
    assert {k: facts(study.folder)[k] for k in same} == {k: facts(undisturbed_long.folder)[k] for k in same}


@pytest.mark.slow
def test_nothing_outlives_a_killed_driver(tmp_path, start_study):
    study = start_study(tmp_path / "runs", *SMALL)
    study.wait_for(lambda: study.workers("ray::"))
    left = psutil.Process(study.process.pid).children(recursive=True)
    study.send(signal.SIGKILL)
    study.process.wait(30)
    _, alive = psutil.wait_procs(left, timeout=180)  # Ray's agents look for their parent now and then
    assert not alive

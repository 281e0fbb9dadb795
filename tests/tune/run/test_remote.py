"""Studies in an object store, over HTTP: killed, brought back, owned by one, refused with a way out, no secret told."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pmae.config import PretrainConfig
from pmae.data import load_images
from pmae.trainer import pretrain
from studies.errors import StudyLockedError
from studies.records import read_study
from tests.tune.conftest import LONG, ONE, SECRET, SMALL, StudyProcess, curves, facts
from tests.tune.object_store import SECRET_KEY, Bucket, bucket
from tune.masking_ratio_study import main
from tune.storage.lease import StudyLease
from tune.storage.location import Storage, is_study

pytestmark = pytest.mark.timeout(1500)


@pytest.fixture(scope="module")
def runs() -> Iterator[Bucket]:
    with bucket() as made:
        yield made


@pytest.fixture
def start_remote(runs, tmp_path, start_study):
    """Starts studies that are kept in the bucket; their working copies lie in the test's own cache."""

    def start(path: str, *options: str) -> StudyProcess:
        return start_study(tmp_path / "log", "--storage", runs.uri(path), *options, PMAE_CACHE=str(tmp_path / "cache"))

    return start


def kill_and_forget(study: StudyProcess, tmp_path: Path) -> None:
    """As if the machine were gone."""
    study.send(signal.SIGKILL)
    study.process.wait(30)
    assert list((tmp_path / "cache" / "studies").rglob("study.json"))
    shutil.rmtree(tmp_path / "cache" / "studies")


def stored_trials(runs: Bucket, path: str, tmp_path: Path) -> int:
    copy = runs.copy(path, tmp_path / "look")
    return read_study(copy).trials.num_rows if is_study(copy) else 0


def test_a_killed_study_whose_folder_is_lost_resumes_from_the_store(runs, start_remote, undisturbed, tmp_path):
    study = start_remote("killed", *SMALL)
    study.wait_for(lambda: stored_trials(runs, "killed/digits", tmp_path) >= 3, every=0.5)
    kill_and_forget(study, tmp_path)
    kept = stored_trials(runs, "killed/digits", tmp_path)
    assert 3 <= kept < len(facts(undisturbed.folder))
    said = start_remote("killed", "--resume").ends_well()
    assert f"stored:  {runs.uri('killed/digits')}" in said and str(tmp_path / "cache" / "studies") in said
    copy = runs.copy("killed/digits", tmp_path / "end")
    assert facts(copy) == facts(undisturbed.folder) and curves(copy) == curves(undisturbed.folder)
    verdicts = [json.loads((f / "verdict.json").read_text())["rows"] for f in (copy, undisturbed.folder)]
    assert verdicts[0] == verdicts[1]
    files = {p.relative_to(undisturbed.folder).as_posix() for p in undisturbed.folder.rglob("*") if p.is_file()}
    assert set(runs.store("killed/digits").files()) == files - {".lock"} | {".owner.json"}
    for path in [study.log, *(p for p in copy.rglob("*") if p.is_file())]:
        assert SECRET_KEY.encode() not in path.read_bytes() and SECRET.encode() not in path.read_bytes()
    command = [sys.executable, "-m", "studies", "verdict", runs.uri("killed"), "--json"]
    shown = subprocess.run(command, capture_output=True, timeout=120, check=True).stdout
    assert json.loads(shown)["rows"] == verdicts[0]


@pytest.mark.slow
def test_trials_resume_from_checkpoints_in_the_store(runs, start_remote, undisturbed_long, tmp_path):
    study = start_remote("long", *LONG)
    study.wait_for(lambda: any(n.startswith("checkpoints/") for n in runs.store("long/digits").files()), every=0.5)
    kill_and_forget(study, tmp_path)
    study = start_remote("long", "--resume", "--quiet")
    study.wait_for(lambda: list((tmp_path / "cache").rglob("epoch-*.ckpt")), every=0.01)
    study.ends_well()
    copy = runs.copy("long/digits", tmp_path / "end")
    assert facts(copy) == facts(undisturbed_long.folder) and curves(copy) == curves(undisturbed_long.folder)
    assert not list(copy.rglob("epoch-*.ckpt"))


def can_mount() -> bool:
    return subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(not can_mount(), reason="a node that sees another disk needs the right to mount")
def test_nodes_that_share_no_folder_send_their_checkpoints(runs, start_remote, undisturbed_long, tmp_path):
    from tests.tune.cluster import two_nodes

    studies = tmp_path / "cache" / "studies"
    studies.mkdir(parents=True)
    with two_nodes(hidden=studies) as cluster:
        study = start_remote("apart", *LONG, "--trials", "2", "--address", cluster.address)
        study.wait_for(lambda: len({p.parent.name for p in studies.rglob("epoch-*.ckpt")}) >= 2)
        cluster.remove_second()
        said = study.ends_well()
    assert "its process was lost" in said
    copy = runs.copy("apart/digits", tmp_path / "end")
    found, alone = facts(copy), facts(undisturbed_long.folder)
    assert {row[5] for row in found.values()} == {"done"} and (copy / "samples.npz").exists()
    same = found.keys() & alone.keys()
    assert same and {k: found[k] for k in same} == {k: alone[k] for k in same}


def test_a_study_that_runs_elsewhere_or_is_there_already_is_refused(runs, tmp_path, monkeypatch, capsys):
    for machine in ("one", "two"):
        (tmp_path / machine).mkdir()
    store = runs.store("owned/digits")
    store.write("study.json", b"{}")
    first = StudyLease(store, tmp_path / "one")
    first.acquire()
    try:
        with pytest.raises(StudyLockedError, match=r"in use by process \d+ on .*, last heartbeat \d+ s.*expires at"):
            StudyLease(store, tmp_path / "two").acquire()
        monkeypatch.setenv("PMAE_CACHE", str(tmp_path / "cache"))
        assert main(["--storage", runs.uri("owned"), *SMALL]) == 2
        assert f"{runs.uri('owned/digits')} holds a study already" in capsys.readouterr().err
        assert main(["--storage", runs.uri("owned"), "--resume"]) == 2
        assert "in use by process" in capsys.readouterr().err
    finally:
        first.release()
    second = StudyLease(store, tmp_path / "two")
    assert second.fetch_is_due()
    second.acquire()
    second.release()
    assert not second.fetch_is_due() and StudyLease(store, tmp_path / "one").fetch_is_due()


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("s3://nowhere/x", "make the bucket first"),
        ("s3://user:Kq7-secret-key@nowhere/x", "make the bucket first"),
        ("s3://runs/x", "check AWS_ACCESS_KEY_ID"),
    ],
)
def test_a_store_that_cannot_be_used_is_refused_at_once(address, said, runs, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PMAE_CACHE", str(tmp_path / "cache"))
    runs.check_logins("AWS" in said)
    try:
        for more in ([], ["--resume"]):
            assert main(["--storage", address + runs.options, *more]) == 2
            told = capsys.readouterr().err
            assert said in told and address.rpartition("@")[2].removeprefix("s3://") in told
            assert SECRET_KEY not in told and "Traceback" not in told
    finally:
        runs.check_logins(False)


def test_a_login_in_the_uri_is_used_and_never_shown(runs, tmp_path, monkeypatch):
    monkeypatch.setenv("PMAE_CACHE", str(tmp_path / "cache"))
    with_login, without = (Storage.open(runs.uri().replace("//", f"//{login}", 1)) for login in ("me:Kq7%2F@", ""))
    assert with_login.store.filesystem.__reduce__()[1][0]["secret_key"] == "Kq7/"
    assert with_login.store.uri == without.store.uri == runs.uri() and with_login.root == without.root
    assert os.environ["AWS_SECRET_ACCESS_KEY"] == SECRET_KEY


@pytest.mark.slow
def test_a_store_that_fails_at_the_end_is_an_error_that_names_the_folder(start_study, tmp_path):
    with bucket() as made:
        cache = tmp_path / "cache"
        study = start_study(tmp_path / "log", "--storage", made.uri(), *ONE, PMAE_CACHE=str(cache))
        study.wait_for(lambda: "study.json" in made.store("digits").files())
    assert study.end() == 1
    said = study.log.read_text()
    (folder,) = (cache / "studies").glob("*/digits")
    assert f"the complete study is in {folder}" in said and "resume with: " in said and "Traceback" not in said
    assert said.count("the study continues in") <= 1
    assert {r["status"] for r in read_study(folder).trials.to_pylist()} == {"done"}
    assert (folder / "verdict.json").exists()


@pytest.mark.slow
def test_trials_of_several_workers_resume_with_fewer_from_the_store(runs, start_remote, tmp_path):
    from tests.tune.cluster import two_nodes

    options = [*LONG, "--epochs", "60", "--precision", "fp32", "--workers-per-trial", "1-2"]
    with two_nodes() as cluster:
        study = start_remote("elastic", *options, "--address", cluster.address)
        study.wait_for(lambda: any("/checkpoint_" in name for name in runs.store("elastic/digits").files()), every=0.5)
        cluster.remove_second()
        study.ends_well()
    copy = runs.copy("elastic/digits", tmp_path / "end")
    rows = [r for r in read_study(copy).trials.to_pylist() if r["phase"] != "control"]
    assert {r["status"] for r in rows} == {"done"} and not list(copy.rglob("checkpoint_*"))
    found, images = curves(copy), load_images("digits", limit=100)
    for row in rows:
        alone = pretrain(PretrainConfig.from_dict(json.loads(row["config"])), images, seed=row["seed"])
        for record in alone.history:
            assert found[row["trial_id"], record["epoch"]] == pytest.approx(record["train_loss"], rel=1e-3)

"""A study's folder and its copy: what is copied, in which order, what is brought back, and who owns it when."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from pyarrow import fs

from studies.errors import StudyError, StudyLockedError, StudyWriteError
from studies.storage.object_store import Store
from tune.storage import lease
from tune.storage.lease import OWNER, StudyLease
from tune.storage.mirror import Mirror, download_study
from tune.trial.remote_folder import StudyFolder
from tune.trial.spec import TrialJob


class Told(Store):
    """A store that remembers what it was sent and can refuse it."""

    sent: list[str]
    refuses = False
    refused = 0

    def write(self, name: str, source: Path | bytes) -> None:
        if self.refuses:
            self.refused += 1
            raise StudyWriteError(f"cannot write to {self.uri}: no answer")
        self.sent.append(name)
        super().write(name, source)


@pytest.fixture
def store(tmp_path) -> Told:
    (tmp_path / "bucket").mkdir()
    made = Told(
        fs.SubTreeFileSystem(str(tmp_path / "bucket"), fs.LocalFileSystem()), "runs/digits", "sub://runs/digits"
    )
    made.sent = []
    return made


@pytest.fixture
def folder(tmp_path) -> Path:
    made = tmp_path / "digits"
    for name in ("study.json", "trials.arrow", "trials.journal", "report.html", "checkpoints/a/epoch-000001.ckpt"):
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_text(name)
    for name in (".lock", ".stop", ".trials.arrow.x.part", "ray/tune/state.json", "checkpoints/a/.epoch.tmp"):
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_text("not for others")
    return made


def test_a_row_never_reaches_the_store_before_its_history(folder, store, monkeypatch):
    for name in ("history.arrow", "trials.arrow"):
        (folder / name).write_text("one trial")
    write = store.write

    def write_while_a_trial_ends(name: str, source: Path | bytes) -> None:
        write(name, source)
        for table in ("history.arrow", "trials.arrow"):
            (folder / table).write_text("two trials")

    monkeypatch.setattr(store, "write", write_while_a_trial_ends)
    mirror = Mirror(folder, store, print)
    mirror.copy()
    assert store.sent.index("history.arrow") < store.sent.index("trials.arrow")
    assert store.read("trials.arrow") == b"one trial"  # as read before the first file was sent
    monkeypatch.undo()
    mirror.copy()
    assert store.read("trials.arrow") == store.read("history.arrow") == b"two trials"


def test_what_has_changed_is_copied_in_an_order_that_can_be_read(folder, store):
    mirror = Mirror(folder, store, print)
    mirror.copy()
    order = ["study.json", "trials.arrow", "trials.journal", "checkpoints/a/epoch-000001.ckpt", "report.html"]
    assert store.sent == order and set(store.files()) == set(order)
    (folder / "trials.arrow").write_text("two rows")
    (folder / "trials.journal").unlink()
    (folder / "checkpoints/a/epoch-000001.ckpt").rename(folder / "checkpoints/a/epoch-000002.ckpt")
    mirror.copy()
    assert store.sent[5:] == ["trials.arrow", "checkpoints/a/epoch-000002.ckpt"]
    assert store.read("trials.arrow") == b"two rows" and store.read("trials.journal") is None
    for path in (folder / "checkpoints/a").iterdir():
        path.unlink()
    (folder / "checkpoints/a").rmdir()
    mirror.copy()
    mirror.copy()
    assert set(store.files()) == {"study.json", "trials.arrow", "report.html"} and len(store.sent) == 7


def test_what_others_left_is_removed_and_what_workers_write_is_not(folder, store):
    for name in ("old.txt", "checkpoints/b/checkpoint_0/epoch-000003.ckpt", OWNER):
        store.write(name, b"before")
    shared = Mirror(folder, store, print, shared=True)
    shared.start()
    shared.finish()
    assert "old.txt" not in store.files() and store.read(OWNER) and len(store.files()) == 7
    shared.delete_remote("checkpoints/b")
    assert "checkpoints/b/checkpoint_0/epoch-000003.ckpt" not in store.files()
    alone = Mirror(folder, store, print)
    store.write("checkpoints/c/epoch-000001.ckpt", b"of a trial that has ended")
    alone.start()
    alone.finish()
    assert "checkpoints/c/epoch-000001.ckpt" not in store.files()


def test_a_store_that_does_not_answer_is_reported_once_and_at_the_end(folder, store, monkeypatch):
    monkeypatch.setattr("tune.storage.mirror.COPY_EVERY", 0.01)
    monkeypatch.setattr("tune.storage.mirror.LONGEST_WAIT", 0.01)
    monkeypatch.setattr("tune.storage.mirror.ATTEMPTS", 1)
    said: list[str] = []
    heard = threading.Event()

    def say(text: str) -> None:
        said.append(text)
        heard.set()

    mirror = Mirror(folder, store, say)
    mirror.start()
    store.refuses = True
    (folder / "trials.arrow").write_text("more")
    assert heard.wait(30) and f"the study continues in {folder}" in said[0]
    while store.refused < 5:
        time.sleep(0.01)
    assert len(said) == 1
    heard.clear()
    store.refuses = False
    assert heard.wait(30) and "can be written to again" in said[1]
    store.refuses = True
    (folder / "trials.arrow").write_text("even more")
    with pytest.raises(StudyWriteError, match="no answer"):
        mirror.finish()
    assert sum("the study continues" in text for text in said) <= 2


def test_nothing_is_copied_once_the_study_is_somebody_elses(folder, store):
    def taken_over() -> None:
        raise StudyLockedError("taken over")

    with pytest.raises(StudyLockedError):
        Mirror(folder, store, print, confirm=taken_over).copy()
    assert not store.files()


def test_a_folder_is_restored_completely_and_nothing_outside_it(folder, store, tmp_path, monkeypatch):
    Mirror(folder, store, print).copy()
    back = tmp_path / "back"
    (back / "checkpoints/old").mkdir(parents=True)
    (back / "history.journal").write_text("of another life")
    (back / ".owners").write_text("a b")
    download_study(store, back)
    files = {p.relative_to(back).as_posix(): p.read_bytes() for p in back.rglob("*") if p.is_file()}
    assert files.pop(".owners") == b"a b"
    assert files == {name: store.read(name) for name in store.files()}
    assert not store.fetch("gone", back / "gone") and not (back / "gone").exists()
    escaping = ["../escape", "figures/../../escape", "..", ".lock"]
    monkeypatch.setattr(store, "files", lambda: dict.fromkeys(escaping, 1))
    monkeypatch.setattr(store, "fetch", lambda name, path: path.write_text("escaped"))
    download_study(store, back)
    assert [p.name for p in back.iterdir()] == [".owners"] and not (tmp_path / "escape").exists()


@pytest.fixture
def folders(tmp_path) -> tuple[Path, Path]:
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    return tmp_path / "here", tmp_path / "there"


def test_an_owner_whose_process_is_gone_is_no_owner(store, folders):
    code = (
        "import os, sys; from pathlib import Path; from pyarrow import fs\n"
        "from studies.storage.object_store import Store\n"
        "from tune.storage.lease import StudyLease\n"
        "tree = fs.SubTreeFileSystem(sys.argv[1], fs.LocalFileSystem())\n"
        "StudyLease(Store(tree, 'runs/digits', 'sub://'), Path(sys.argv[2])).acquire(); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code, store.filesystem.base_path, str(folders[1])], check=False, timeout=60)
    owner = json.loads(store.read(OWNER) or b"")
    assert not owner["released"] and f"process {owner['pid']} on {socket.gethostname()}" == owner["holder"]
    second = StudyLease(store, folders[0])
    second.check()
    store.write(OWNER, json.dumps({**owner, "place": "another machine"}).encode())
    with pytest.raises(StudyLockedError, match="is in use by"):
        second.check()


def test_an_owner_that_was_not_heard_of_for_long_is_no_owner(store, folders, tmp_path):
    store.write(OWNER, json.dumps({"id": "x", "holder": "process 1 on far", "released": False}).encode())
    path = tmp_path / "bucket" / "runs/digits" / OWNER
    written = path.stat().st_mtime
    os.utime(path, (written - lease.STALE + 20,) * 2)
    with pytest.raises(StudyLockedError, match="process 1 on far, last heartbeat 7"):
        StudyLease(store, folders[0]).check()
    os.utime(path, (written - lease.STALE - 1,) * 2)
    StudyLease(store, folders[0]).check()


def test_what_an_owner_wrote_during_the_download_is_downloaded_too(store, folders, tmp_path):
    first, downloads = StudyLease(store, folders[1]), []
    first.acquire()
    path = tmp_path / "bucket" / "runs/digits" / OWNER

    def expire() -> None:
        os.utime(path, (path.stat().st_mtime - lease.STALE - 1,) * 2)

    def download() -> None:
        downloads.append(store.read(OWNER))
        if len(downloads) == 1:  # the owner was suspended, wakes, and is lost
            first._heartbeat()
            expire()

    expire()
    second = StudyLease(store, folders[0])
    second.acquire(download)
    assert len(downloads) == 2 and downloads[0] != downloads[1]
    second.release()
    first.release()


def test_an_owner_that_was_replaced_is_notified(store, folders, monkeypatch):
    monkeypatch.setattr(lease, "RENEW", 0.02)
    problems: list[StudyError] = []
    told = threading.Event()

    def lost(problem: StudyError) -> None:
        problems.append(problem)
        told.set()

    first = StudyLease(store, folders[0], lost)
    first.acquire()
    store.write(OWNER, json.dumps({"id": "y", "holder": "process 2 on far", "released": False}).encode())
    assert told.wait(30) and "taken over by process 2 on far" in str(problems[0])
    with pytest.raises(StudyLockedError, match="taken over"):
        first.confirm()
    first.release()
    assert json.loads(store.read(OWNER) or b"")["id"] == "y"


def test_trials_write_their_own_files_only(folder):
    study = StudyFolder(TrialJob(str(folder), "digits"))
    assert study.stopping() and list(study.checkpoints("a")) == ["epoch-000001.ckpt"]
    new = {"checkpoints/a/epoch-000002.ckpt": b"2", "samples/a.npz": b"s"}
    study.put("a", new, list(new))
    assert study.checkpoints("a") == {"epoch-000002.ckpt": b"2"} and (folder / "samples/a.npz").read_bytes() == b"s"
    for name in ("study.json", "checkpoints/b/epoch-000001.ckpt", "../x", "samples/../study.json", "/etc/x"):
        with pytest.raises(ValueError, match="is not a file of trial a"):
            study.put("a", {name: b""}, [])


def test_credentials_are_kept_by_the_actor_and_by_a_pickled_file_system(folder, monkeypatch):
    from studies.storage.object_store import _s3_login

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "Kq7")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "session")
    assert _s3_login(None, None) == {"access_key": "id", "secret_key": "Kq7", "session_token": "session"}
    assert _s3_login("a%2Fb", "c") == {"access_key": "a/b", "secret_key": "c"}
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert _s3_login(None, None) == {}
    job = TrialJob(str(folder), "digits")
    assert StudyFolder(job, {"AWS_ACCESS_KEY_ID": "id"}).credentials() == {"AWS_ACCESS_KEY_ID": "id"}
    assert StudyFolder(job).credentials() == {}

"""What a study's private Ray shows to others: no secret, no open port, no cluster to join; and what a kill leaves."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from pmae.errors import ConfigError
from tests.tune.conftest import LONG, StudyProcess
from tune.masking_ratio_study import main
from tune.run.ray_folder import (
    LOCK,
    MARK,
    PREFIX,
    delete_abandoned,
    marked_processes,
    private_folder,
    temporary_folder,
)
from tune.run.ray_session import SETTINGS, cluster_address

ROOT = Path(__file__).resolve().parents[3]
CANARY = "Kq7-canary"
SECRETS = {"AWS_SECRET_ACCESS_KEY": f"{CANARY}-aws", "AWS_ACCESS_KEY_ID": f"{CANARY}-id", "MY_TOKEN": f"{CANARY}-mine"}


def leaks(*folders: Path) -> list[Path]:
    """Files below ``folders`` that hold a canary."""
    found = []
    for path in (p for folder in folders for p in folder.rglob("*")):
        try:
            if path.is_file() and not path.is_symlink() and CANARY.encode() in path.read_bytes():
                found.append(path)
        except OSError:  # deleted or rotated meanwhile
            continue
    return found


def open_to_others(folder: Path) -> list[Path]:
    """Files that another user could reach: every folder on the way to them lets others in."""
    if folder.stat().st_mode & 0o077 == 0:
        return []
    return [p for p in folder.rglob("*") if p.is_file() and p.stat().st_mode & 0o044]


def listening(process: psutil.Process) -> set[str]:
    """Addresses that the process listens on."""
    try:
        return {c.laddr.ip for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN}
    except psutil.Error:
        return set()


def ray_folder(study: StudyProcess, base: Path) -> Path:
    """The folder of the study's Ray."""
    study.wait_for(lambda: list(base.glob(f"{PREFIX}*/r/session_2*")))
    return next(base.glob(f"{PREFIX}*"))


@pytest.fixture
def base() -> Iterator[Path]:
    """A short folder for Ray's files: sockets have paths of at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="b", dir="/tmp") as folder:
        yield Path(folder)


@pytest.mark.timeout(600)
def test_a_study_shows_nothing_to_others_and_a_killed_one_leaves_nothing(base, tmp_path, start_study, capsys):
    study = start_study(tmp_path / "runs", *LONG, RAY_TMPDIR=str(base), **SECRETS)
    folder = ray_folder(study, base)
    study.wait_for(study.checkpoints)
    assert not open_to_others(folder)
    assert list(folder.rglob("runtime_env_agent.log"))
    assert leaks(folder, study.storage) == []
    processes = psutil.Process(study.process.pid).children(recursive=True)
    titles = [" ".join(p.cmdline()) for p in processes if p.is_running()]
    assert any("gcs_server" in t for t in titles) and any("raylet" in t for t in titles)
    addresses = {ip.removeprefix("::ffff:") for p in processes for ip in listening(p)}
    assert addresses == {"127.0.0.1"}
    # Other studies must not join the private Ray of this one.
    code = main(["--address", "auto", "--storage", str(tmp_path / "other"), "--limit", "100"])
    assert code == 2 and "--address auto" in capsys.readouterr().err

    mark = f"{MARK}={folder}"
    assert marked_processes(mark)
    study.send(signal.SIGKILL)
    study.process.wait(30)
    end = time.monotonic() + 20
    while time.monotonic() < end and (marked_processes(mark) or folder.exists()):
        time.sleep(0.2)
    assert marked_processes(mark) == [] and not folder.exists()
    assert leaks(study.storage) == []


def test_the_folder_of_a_session_is_private_and_deleted(base, monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", str(base))
    with private_folder() as ray:
        assert ray.parent.parent == base and ray.parent.stat().st_mode & 0o777 == 0o700
        assert os.environ[MARK] == str(ray.parent)
        delete_abandoned(base)
        assert ray.exists()  # it is in use
    assert not list(base.glob("*")) and not list(base.glob(".*")) and MARK not in os.environ


def test_an_abandoned_folder_is_deleted_by_the_next_session(base, monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", str(base))
    left = base / f"{PREFIX}abandoned"
    (left / "r").mkdir(parents=True)
    (left / LOCK).touch()
    with private_folder():
        assert not left.exists()


def test_sockets_fit_into_the_temporary_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    long = tmp_path / ("x" * 60)
    long.mkdir()
    monkeypatch.setenv("TMPDIR", str(long))
    assert temporary_folder() == Path("/tmp")
    monkeypatch.setenv("RAY_TMPDIR", str(long))
    assert temporary_folder() == long  # what the user asks for is not overridden


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:9", "no Ray cluster answers there"),
        ("127.0.0.1", "no valid port"),
        ("127.0.0.1:99999", "no valid host and port"),
        ("[::1:80", "no valid host and port"),
        ("local", "no cluster was started"),
        ("", "no cluster was started"),
        ("a" * 300 + ":80", "no Ray cluster answers there"),
        ("ray://user:Kq7@127.0.0.1:9", "no Ray cluster answers there"),
    ],
)
def test_an_address_that_does_not_answer_is_refused_within_seconds(address, message, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    started = time.monotonic()
    with pytest.raises(ValueError, match=message) as refusal:
        cluster_address(address)
    assert time.monotonic() - started < 10 and "Kq7" not in str(refusal.value)


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_a_study_with_such_an_address_ends_before_anything_is_done(more, tmp_path, monkeypatch, capsys):
    import tune.planning.plan as planning

    monkeypatch.setattr(planning, "load_images", lambda *_, **__: pytest.fail("images were loaded"))
    started = time.monotonic()
    assert main(["--address", "127.0.0.1:9", "--storage", str(tmp_path / "runs"), *more]) == 2
    error = capsys.readouterr().err
    assert time.monotonic() - started < 10 and error.count("\n") == 1 and "127.0.0.1:9" in error
    assert not (tmp_path / "runs").exists()


@contextmanager
def server(answer: bytes | None) -> Iterator[str]:
    """The address of a server that sends ``answer`` to everybody, or never a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        connections: list[socket.socket] = []

        def serve() -> None:
            with suppress(OSError):
                while True:
                    connections.append(listener.accept()[0])
                    if answer is not None:
                        connections[-1].sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)  # or the thread would keep it open
        for connection in connections:
            connection.close()


@pytest.mark.parametrize(
    ("answer", "message"), [(b"HTTP/1.1 400 Bad Request\r\n", "is not Ray's"), (b"", "timed out"), (None, "timed out")]
)
def test_a_server_that_is_not_rays_is_refused(answer, message, monkeypatch):
    monkeypatch.setattr("tune.run.ray_session.CONNECT_SECONDS", 0.5)
    with server(answer) as address, pytest.raises(ConfigError, match=message):
        cluster_address(address)


def test_auto_is_the_environments_address_or_the_one_that_ray_start_left(tmp_path, monkeypatch):

    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(ConfigError, match="no cluster was started for sharing"):
        cluster_address("auto")
    with server(SETTINGS) as address:
        (tmp_path / "ray").mkdir()
        (tmp_path / "ray" / "ray_current_cluster").write_text(address)
        assert cluster_address("auto") == address
        (tmp_path / "ray" / "ray_current_cluster").unlink()
        monkeypatch.setenv("RAY_ADDRESS", address)
        assert cluster_address("auto") == address
    with pytest.raises(ConfigError, match="no Ray cluster answers there"):
        cluster_address("auto")


def test_credentials_do_not_reach_runtime_environments(monkeypatch):
    from ray.tune.execution.class_cache import _ActorClassCache

    from tune.run.ray_session import keep_credentials_out_of_logs

    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    keep_credentials_out_of_logs()
    actor = _ActorClassCache().get(type("Trainable", (), {}))
    assert CANARY not in str(actor._default_options)


TRAINER = """
import numpy, psutil
from pmae.config import preset
from pmae.training import distributed

distributed.PMAETrainer(preset("quick"), numpy.zeros((20, 8, 8, 1), numpy.uint8), use_gpu=False)
assert not psutil.Process().children(recursive=True), "the constructor starts nothing"
distributed._start_ray()
processes = psutil.Process().children(recursive=True)
print(*{c.laddr.ip for p in processes for c in p.net_connections("inet") if c.status == psutil.CONN_LISTEN})
"""


def test_the_trainers_own_ray_listens_on_loopback(base):
    environment = {**os.environ, "RAY_TMPDIR": str(base)}
    environment.pop("RAY_ADDRESS", None)
    command = [sys.executable, "-W", "ignore", "-c", TRAINER]
    run = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stderr
    assert {ip.removeprefix("::ffff:") for ip in run.stdout.split()} == {"127.0.0.1"}

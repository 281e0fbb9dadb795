"""The folder of a private Ray: readable by its owner only, deleted when the study ends, however it ends.

Ray's own default, ``/tmp/ray``, is open to every user of the machine and is never cleaned. A private Ray gets a folder
``pmae-ray-*`` of mode 0700 instead. It is deleted at the end of the session, by a watchdog process when the driver is
killed, and at the latest by the next session, which deletes every folder without a locked lock file.

The watchdog is this module run as a script, with the standard library only.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIX = "pmae-ray-"
LOCK = "lock"
MARK = "PMAE_RAY_FOLDER"  # environment variable of every process of the session
# Unix sockets have paths of at most 107 bytes; Ray needs 66 below its folder.
MAX_CHARACTERS = 107 - 66 - len(f"/{PREFIX}12345678/r")
ROUNDS = 5  # of the watchdog: processes may start others while they are being killed


@contextmanager
def private_folder() -> Iterator[Path]:
    """A new folder for one Ray session; OSError if it cannot be created."""
    base = temporary_folder()
    base.mkdir(parents=True, exist_ok=True)
    delete_abandoned(base)
    # Locked before it gets its name: another session that starts now must not take it for an abandoned one.
    hidden = Path(tempfile.mkdtemp(prefix=f".{PREFIX}", dir=base))
    with open(hidden / LOCK, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        folder = hidden.rename(base / hidden.name[1:])
        command = [sys.executable, "-I", "-S", __file__, str(folder)]
        watchdog = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={},
            start_new_session=True,
        )  # fmt: skip
        try:
            ray = folder / "r"
            ray.mkdir()
            with environment(MARK, str(folder)):
                yield ray
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            with watchdog:  # closes its standard input and waits
                watchdog.kill()


@contextmanager
def environment(name: str, value: str) -> Iterator[None]:
    """Set an environment variable while the block runs."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name, None)
        if before is not None:
            os.environ[name] = before


def temporary_folder() -> Path:
    """``$RAY_TMPDIR``, as for Ray itself; else ``$TMPDIR`` if Ray's sockets fit there; else ``/tmp``."""
    chosen = os.environ.get("RAY_TMPDIR")
    if chosen:
        return Path(chosen)
    usual = os.environ.get("TMPDIR", "")
    fits = usual and len(os.fsencode(usual)) <= MAX_CHARACTERS and os.access(usual, os.W_OK)
    return Path(usual if fits else "/tmp")


def delete_abandoned(base: Path) -> None:
    """Delete the folders of this user's sessions that were killed together with their watchdog."""
    for folder in base.glob(f"{PREFIX}*"):
        with suppress(OSError):
            if folder.is_symlink() or folder.stat().st_uid != os.getuid():
                continue
            with open(folder / LOCK, "a") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)


def marked_processes(mark: str) -> list[int]:
    """Processes of this user with ``mark`` (``NAME=value``) in their environment; empty without a /proc."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc") if os.path.isdir("/proc") else ()):
        with suppress(OSError):  # it ended, or belongs to somebody else
            environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            if mark.encode() in environment and int(pid) != os.getpid():
                found.append(int(pid))
    return found


def _watch(folder: str) -> None:
    """Wait for the end of the driver, however it dies: it holds the other end of standard input. End its session."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while os.read(0, 4096):
        pass
    for _ in range(ROUNDS):
        left = marked_processes(f"{MARK}={folder}")
        if not left:
            break
        for pid in left:
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.2)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    _watch(sys.argv[1])

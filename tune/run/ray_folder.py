"""The folder of a private Ray: readable by its owner only, deleted when the study ends, however it ends.

Ray's own default, ``/tmp/ray``, is open to every user of the machine and is never cleaned. A private Ray gets a folder
``pmae-ray-*`` of mode 0700 instead. It is deleted at the end of the session, by a watchdog process when the driver is
killed, and at the latest by the next session, which deletes every folder without a locked lock file.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

PREFIX = "pmae-ray-"
LOCK = "lock"
MARK = "PMAE_RAY_FOLDER"  # environment variable of every process of the session
# Unix sockets have paths of at most 107 bytes; Ray needs 66 below its folder.
MAX_CHARACTERS = 107 - 66 - len(f"/{PREFIX}12345678/r")


@contextmanager
def private_folder() -> Iterator[Path]:
    """A new folder for one Ray session.

    Raises:
        OSError: The folder cannot be created.
    """
    base = temporary_folder()
    base.mkdir(parents=True, exist_ok=True)
    delete_abandoned(base)
    # Locked before it gets its name: another session that starts now must not take it for an abandoned one.
    hidden = Path(tempfile.mkdtemp(prefix=f".{PREFIX}", dir=base))
    lock = FileLock(hidden / LOCK)
    lock.acquire()
    folder = hidden.rename(base / hidden.name[1:])
    watchdog = _watchdog(folder)
    outer = os.environ.get(MARK)
    os.environ[MARK] = str(folder)
    try:
        ray = folder / "r"
        ray.mkdir()
        yield ray
    finally:
        if outer is None:
            del os.environ[MARK]
        else:
            os.environ[MARK] = outer
        shutil.rmtree(folder, ignore_errors=True)
        lock.release()
        watchdog.kill()
        watchdog.wait()
        if watchdog.stdin is not None:
            watchdog.stdin.close()


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
        with suppress(OSError, Timeout):
            if folder.is_symlink() or folder.stat().st_uid != os.getuid():
                continue
            lock = FileLock(folder / LOCK)
            lock.acquire(timeout=0)
            shutil.rmtree(folder, ignore_errors=True)
            lock.release()


def _watchdog(folder: Path) -> subprocess.Popen[bytes]:
    script = Path(__file__).with_name("watchdog.py")
    return subprocess.Popen(
        [sys.executable, "-I", "-S", str(script), f"{MARK}={folder}", str(folder)],
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={}, start_new_session=True,
    )  # fmt: skip

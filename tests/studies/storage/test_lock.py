"""One running study per folder, and a lock that a crash gives back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from studies.errors import StudyLockedError
from studies.storage.lock import StudyLock

HOLD = """
import sys, time
from studies.storage.lock import StudyLock
lock = StudyLock(sys.argv[1])
lock.acquire()
print("held", flush=True)
time.sleep(60)
"""


def test_a_second_process_is_refused_until_the_first_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path / "a")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(StudyLockedError, match=f"in use by process {holder.pid} .*--name"):
            StudyLock(tmp_path / "a").acquire()
        os.kill(holder.pid, signal.SIGKILL)
    with StudyLock(tmp_path / "a"):
        pass


def test_the_same_process_cannot_hold_it_twice_but_again(tmp_path: Path) -> None:
    with StudyLock(tmp_path), pytest.raises(StudyLockedError):
        StudyLock(tmp_path).acquire()
    with StudyLock(tmp_path):
        pass

"""Studies of the tests: small, private, each Ray's leftovers removed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "tune" / "masking_ratio_study.py"
SMALL = ("--limit", "100", "--trials", "4", "--epochs", "2", "--confirm-seeds", "2", "--patch-sizes", "4")


class StudyProcess:
    """A study in a process group of its own."""

    def __init__(self, storage: Path, *options: str) -> None:
        self.storage = storage
        self.log = storage / "log.txt"
        storage.mkdir(parents=True, exist_ok=True)
        with open(self.log, "a") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(SCRIPT), "--storage", str(storage), *options],
                stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def wait_for(self, reached: Callable[[], bool], seconds: float = 200) -> None:
        """Return when ``reached()``; fail when the study ends or the time is over before."""
        end = time.monotonic() + seconds
        while not reached():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.1)

    def send(self, number: signal.Signals) -> None:
        """Signal the driver alone, as ``kill`` does."""
        os.kill(self.process.pid, number)

    def end(self, seconds: float = 250) -> int:
        """Exit code."""
        return self.process.wait(seconds)


@pytest.fixture
def start_study() -> Iterator[Callable[..., StudyProcess]]:
    started: list[StudyProcess] = []

    def start(storage: Path, *options: str) -> StudyProcess:
        started.append(StudyProcess(storage, *options))
        return started[-1]

    yield start
    for study in started:
        if study.process.poll() is None:
            study.send(signal.SIGKILL)
            study.process.wait(30)

"""Studies of the tests: real processes, small and private, and what they found."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import optuna
import psutil
import pytest

from studies.records import read_study

SCRIPT = Path(__file__).resolve().parents[2] / "tune" / "masking_ratio_study.py"
SMALL = (
    *("--limit", "100", "--trials", "4", "--epochs", "2", "--confirm-seeds", "2", "--patch-sizes", "4"),
    *("--ladder", "0.1", "0.2", "0.5", "--mae-ladder", "0.5", "0.75", "--batch-size", "128"),
)
# A few trials that last long enough to be hit in the middle, and write 20 checkpoints each.
LONG = (
    *("--limit", "100", "--methods", "pmae", "--trials", "1", "--confirm-seeds", "2", "--patch-sizes", "4"),
    *("--ladder", "0.1", "0.2", "--batch-size", "128", "--epochs", "200", "--quiet"),
)
# A single explored trial.
ONE = (
    *("--limit", "100", "--methods", "pmae", "--trials", "1", "--epochs", "2", "--confirm-seeds", "2"),
    *("--patch-sizes", "4", "--ladder", "0.1", "0.2", "--batch-size", "128"),
)
SECRET = "Kq7-not-to-be-seen"


class StudyProcess:
    """A study in a process group of its own, with a secret in its environment."""

    def __init__(self, storage: Path, *options: str, **environment: str) -> None:
        self.storage = storage
        self.log = storage.with_name(f"{storage.name}.log")
        storage.mkdir(parents=True, exist_ok=True)
        with open(self.log, "a") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(SCRIPT), "--storage", str(storage), *options],
                stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
                env={**os.environ, "PMAE_TEST_TOKEN": SECRET, **environment},
            )  # fmt: skip

    @property
    def folder(self) -> Path:
        """The study's folder, with the name that it has by itself."""
        return self.storage / "digits"

    def wait_for(self, reached: Callable[[], object], seconds: float = 300, every: float = 0.1) -> None:
        """Return when ``reached()``; fail when the study ends or the time is over before."""
        end = time.monotonic() + seconds
        while not reached():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(every)

    def checkpoints(self) -> list[Path]:
        """Checkpoints of the trials that run."""
        return sorted((self.folder / "checkpoints").glob("*/epoch-*.ckpt"))

    def workers(self, title: str) -> list[psutil.Process]:
        """Processes of this study's Ray whose title holds ``title``."""
        found = psutil.Process(self.process.pid).children(recursive=True)
        return [p for p in found if title in _title(p)]

    def send(self, number: signal.Signals) -> None:
        """Signal the driver alone, as ``kill`` does."""
        os.kill(self.process.pid, number)

    def end(self, seconds: float = 600) -> int:
        """Exit code."""
        return self.process.wait(seconds)

    def ends_well(self) -> str:
        """What it said, once it has ended with 0."""
        assert self.end() == 0, self.log.read_text()
        return self.log.read_text()


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def facts(folder: Path) -> dict[str, tuple]:
    """What a study found, without what differs between runs."""
    columns = ("phase", "method", "ratio", "patch_size", "seed", "status", "val_linear", "test_linear", "train_loss")
    return {r["trial_id"]: tuple(r[c] for c in columns) for r in read_study(folder).trials.to_pylist()}


def curves(folder: Path) -> dict[tuple[str, int], float]:
    """Training loss by trial and epoch."""
    return {(r["trial_id"], r["epoch"]): r["train_loss"] for r in read_study(folder).history.to_pylist()}


def optuna_states(folder: Path) -> Counter:
    """How many of Optuna's trials are in which state."""
    study = optuna.load_study(study_name=None, storage=f"sqlite:///{folder / 'optuna.db'}")
    return Counter(t.state.name for t in study.trials)


def recorded(folder: Path) -> int:
    """Trials on record; 0 before there is a study."""
    try:
        return read_study(folder).trials.num_rows
    except ValueError:
        return 0


@pytest.fixture
def start_study() -> Iterator[Callable[..., StudyProcess]]:
    """Starts studies that do not outlive the test."""
    started: list[StudyProcess] = []

    def start(storage: Path, *options: str, **environment: str) -> StudyProcess:
        started.append(StudyProcess(storage, *options, **environment))
        return started[-1]

    yield start
    for study in started:
        if study.process.poll() is None:
            study.send(signal.SIGKILL)
            study.process.wait(30)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory) -> StudyProcess:
    """A study that ran to its end."""
    study = StudyProcess(tmp_path_factory.mktemp("undisturbed") / "runs", *SMALL)
    study.ends_well()
    return study


@pytest.fixture(scope="session")
def undisturbed_long(tmp_path_factory) -> StudyProcess:
    """A study of ``LONG`` trials that ran to its end."""
    study = StudyProcess(tmp_path_factory.mktemp("undisturbed-long") / "runs", *LONG)
    study.ends_well()
    return study

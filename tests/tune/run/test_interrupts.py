"""Ctrl-C while a study starts is never lost, and a reader that stops reading ends a program quietly."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tune.masking_ratio_study import main
from tune.run import interrupts

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = ROOT / "tune" / "masking_ratio_study.py"


@pytest.fixture
def interruptible():
    """A background job of a shell starts with Ctrl-C ignored, and so would the tests."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Discarding:
    """Python discards what its finalizer raises, as it does in the callbacks that imports run."""

    def __init__(self, number: signal.Signals = signal.SIGINT) -> None:
        self.number = number

    def __del__(self) -> None:
        os.kill(os.getpid(), self.number)
        for _ in range(1000):  # let the handler run here
            pass


@pytest.mark.usefixtures("interruptible")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_that_python_discards_is_raised_at_the_next_check():
    with interrupts.remember_signals():
        Discarding()
        with pytest.raises(KeyboardInterrupt):
            interrupts.check()
        interrupts.check()  # once
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.usefixtures("interruptible")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("number", interrupts.SIGNALS)
def test_a_study_that_starts_does_not_lose_it(number, monkeypatch, tmp_path, capsys):
    from tune.run import runner

    plan_study = runner.plan_study

    def plan(*given: object, **named: object) -> object:
        Discarding(number)
        return plan_study(*given, **named)

    monkeypatch.setattr(runner, "plan_study", plan)
    assert main(["--dry-run", "--storage", str(tmp_path / "runs")]) == 130
    assert "interrupted" in capsys.readouterr().err


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_while_a_study_imports_its_modules(monkeypatch, capsys):
    class Interrupting:
        def find_spec(self, name: str, *_: object) -> None:
            if name == "studies.errors":
                raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "studies.errors")
    monkeypatch.setattr(sys, "meta_path", [Interrupting(), *sys.meta_path])
    assert main(["--dry-run"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_an_interrupt_before_the_program_runs_shows_no_traceback():
    code = "from tune.run import interrupts; interrupts.install(); import os; os.kill(os.getpid(), 15)"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == -signal.SIGINT and run.stderr == "interrupted\n"


@pytest.mark.usefixtures("interruptible")
def test_ray_does_not_keep_sigterm():
    before = signal.getsignal(signal.SIGTERM)  # of a Ray that an earlier test started here
    with interrupts.remember_signals():
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))  # as ray.init does
        interrupts.reinstall()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before
    interrupts.check()  # nothing is left over for the next command


@pytest.mark.parametrize(
    "command",
    [
        [str(SCRIPT), "--help"],
        [str(SCRIPT), "--dry-run", "--limit", "100"],
        ["-m", "pmae", "--help"],
        ["-m", "pmae", "probe", "--help"],
        ["-m", "studies", "--help"],
        ["-m", "studies", "show", "docs/evidence"],
        ["-m", "studies", "export", "docs/evidence/digits", "--csv", "-"],
    ],
)
def test_a_reader_that_stops_reading_ends_a_program_quietly(command):
    read, write = os.pipe()
    os.close(read)  # as `| head -0` does: every write fails
    run = subprocess.run(
        [sys.executable, *command], stdout=write, stderr=subprocess.PIPE, text=True, cwd=ROOT, timeout=120, check=False
    )
    os.close(write)
    assert run.returncode == 0 and run.stderr == ""


def test_an_interrupt_that_python_discards_prints_no_traceback():
    code = (
        "import os, signal\nfrom tune.run import interrupts\ninterrupts.install()\n"
        "class Discarding:\n    def __del__(self):\n        os.kill(os.getpid(), signal.SIGINT)\n"
        "        sum(range(10000))\n"
        "Discarding()\ntry:\n    interrupts.check()\nexcept KeyboardInterrupt:\n    print('noticed')\n"
        "class Broken:\n    def __del__(self):\n        raise ValueError('shown')\n"
        "Broken()"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert run.stdout == "noticed\n", run.stderr
    assert "ValueError: shown" in run.stderr and "KeyboardInterrupt" not in run.stderr

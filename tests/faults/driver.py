"""The real driver of a study on simulated Ray, and the sequence of steps of ``tune.run.runner`` around it."""

from __future__ import annotations

import json
import queue
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pmae.errors import ConfigError
from studies.records import StudyWriter, read_study
from studies.storage.atomic import write_json
from studies.verdict import judge
from tune.run.driver import Problems, StudyDriver
from tune.run.ray_session import RayLostError
from tune.search.sampler import FINAL
from tune.search.searcher import StudySearch
from tune.search.state import StudyState
from tune.storage.location import Storage
from tune.trial.spec import TrialJob, TrialSpec

if TYPE_CHECKING:
    from tests.faults.world import Driver

STEP = 1.0  # seconds of Tune's loop


class Display:
    """Ignores what the user would see."""

    def __init__(self, on_trial: Callable[..., None]) -> None:
        self.print_trial = on_trial  # called directly after a row is on disk and in the state

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *arguments, **options: None


class Search(StudySearch):
    """``StudySearch`` without ``optuna.db``, which is a log that nothing is resumed from."""

    def __init__(self, state: StudyState, on_end: Callable[..., Any]) -> None:
        self._state, self._on_end, self._specs, self._numbers = state, on_end, {}, {}

    def _log(self, *arguments: Any) -> None: ...


class SimulatedDriver(StudyDriver):
    """The real driver; trials run on :class:`SimulatedRay`."""

    process: Driver

    def _search(self) -> StudySearch:
        return Search(self.state, self._end)

    def _tuner(self, search: StudySearch) -> SimulatedRay:
        return SimulatedRay(self, search)

    @contextmanager
    def _on_interrupt(self) -> Iterator[None]:
        self.process.on_interrupt = lambda: None if self.state.interrupted else self._interrupt(2, None)
        yield
        self.process.on_interrupt = None


@dataclass(frozen=True)
class Running:
    """A trial that runs."""

    spec: TrialSpec
    ends: float
    ignores_stop: bool
    is_lost: bool  # its process dies then


class SimulatedRay:
    """Ray Tune: trials take simulated time, lose their processes, and report late or twice."""

    def __init__(self, driver: SimulatedDriver, search: StudySearch) -> None:
        self.driver, self.search, self.process = driver, search, driver.process
        self._numbers = 0
        self._running: dict[str, Running] = {}  # by Ray's trial id
        self._again: list[tuple[float, TrialSpec, str]] = []  # when which result arrives a second time

    def fit(self) -> None:
        """Run trials until the study has ended."""
        driver, world = self.driver, self.process.world
        while True:
            finished = self._start()
            driver._step()
            if self.process.ray_lost:
                raise RuntimeError("Ray does not answer")
            if (finished and not self._running) or driver.state.overdue(driver.clock.monotonic()):
                return
            world.scheduler.pause(STEP)
            self._end_some()

    def _start(self) -> bool:
        while len(self._running) < self.driver.placement.concurrent:
            ray_id = f"{self._numbers:05d}"
            answer = self.search.suggest(ray_id)
            if not isinstance(answer, dict):
                return answer == StudySearch.FINISHED
            self._numbers += 1
            spec = TrialSpec.from_dict(answer["trial"])
            self.process.on_start(spec, self.driver.job.checkpoints(spec.trial_id))
            ends = self.driver.clock.monotonic() + self.process.duration(spec)
            self._running[ray_id] = Running(spec, ends, self.process.ignores_stop(), self.process.loses(spec))
        return False

    def _end_some(self) -> None:
        now, stopping = self.driver.clock.monotonic(), self.driver.job.stop_file.exists()
        for again in [each for each in self._again if each[0] <= now]:
            self._again.remove(again)
            self.driver._end(*again[1:])
        for ray_id, trial in sorted(self._running.items(), key=lambda item: item[1].ends):
            if now < trial.ends and (not stopping or trial.ignores_stop):
                continue
            if trial.is_lost:
                del self._running[ray_id]
                self.search.on_trial_complete(ray_id, error=True)
                continue
            text = self.process.world.expected.result(trial.spec)
            if now < trial.ends:
                text = _interrupted(text)
            del self._running[ray_id]
            self.search.on_trial_complete(ray_id, {"row": text})
            delay = self.process.reports_again()
            if delay is not None:
                self._again.append((now + delay, trial.spec, text))


def _interrupted(text: str) -> str:
    """The result of a trial that ended after its first epoch because it was asked to."""
    result = json.loads(text)
    result |= {"status": "interrupted", "val_linear": None, "test_linear": None, "error_kind": "stop_requested"}
    return json.dumps({**result, "history": result["history"][:1]})


def run_study(process: Driver) -> bool:
    """What ``tune.run.runner`` does, without plan and report; whether the study is complete."""
    world, machine = process.world, process.machine
    storage = Storage(machine.disk.root, process.store, process.clock)
    expected = world.expected
    name = expected.plan.name
    try:
        folder, _ = storage.find_study(name)
    except ConfigError:
        folder = storage.new(name)
    problems: Problems = queue.SimpleQueue()
    process.problems = problems
    with storage.hold(folder, lambda text: None, problems.put, False) as mirror:
        process.on_hold()
        write_json(folder / "study.json", expected.record)
        if mirror is not None:
            mirror.start()
        job = TrialJob(str(folder), expected.plan.images.name)
        with StudyWriter(folder, name) as writer:
            process.on_open(writer)
            driver = SimulatedDriver(
                expected.plan, job, expected.placement, writer,
                Display(lambda row, *rest: process.on_record(row)), problems, mirror, process.clock,  # type: ignore[arg-type]
            )  # fmt: skip
            driver.process = process
            complete = driver.run()
        write_json(folder / "verdict.json", judge(read_study(folder)).to_dict())
        if mirror is not None:
            mirror.finish()
            process.on_mirrored(folder)
    return complete


def final_rows(folder: Path | StudyWriter) -> dict[str, dict[str, Any]]:
    """Rows with a final status, by trial id."""
    trials = (read_study(folder) if isinstance(folder, Path) else folder).trials
    return {row["trial_id"]: row for row in trials.to_pylist() if row["status"] in FINAL}


def lose_ray(process: Driver) -> None:
    """Ray's own processes die."""
    process.ray_lost = True
    process.problems.put(RayLostError("Ray's process raylet was lost"))

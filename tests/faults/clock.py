"""Simulated time: tasks of simulated processes, of which exactly one runs at any moment.

Each task is a thread, but a thread runs only while it has the turn. It passes the turn on in :meth:`Scheduler.pause`,
to a task drawn from the seed among those whose waiting time is over. A history is a pure function of its seed.
"""

from __future__ import annotations

import math
import random
import threading
from collections.abc import Callable

from tune.storage.clock import Clock

EPOCH = 1_700_000_000.0  # the time at which every history begins


class Kill(BaseException):
    """Unwinds the tasks of a process that was killed; no code under test catches it."""


class Process:
    """A simulated operating-system process."""

    def __init__(self, scheduler: Scheduler, name: str, pid: int = 0) -> None:
        self.scheduler, self.name, self.pid = scheduler, name, pid
        self.dead = False
        self.requests = 0  # to the store, whose answers are waited for
        self.tasks: list[Task] = []

    def kill(self) -> None:
        """Every task ends at its current operation."""
        self.dead = True
        for task in self.tasks:
            task.wake = min(task.wake, self.scheduler.now)

    def suspend(self, seconds: float) -> None:
        """As SIGSTOP and, later, SIGCONT."""
        for task in self.tasks:
            task.wake = max(task.wake, self.scheduler.now + seconds)


class Task:
    """A thread of a process."""

    def __init__(self, scheduler: Scheduler, process: Process, name: str, work: Callable[[], None]) -> None:
        self.process, self.name = process, name
        self.wake = scheduler.now
        self.done = False
        self.error: BaseException | None = None
        self.turn = threading.Semaphore(0)
        self._scheduler, self._work = scheduler, work
        self._waiting: list[Task] = []  # tasks that wait for its end
        self.thread = threading.Thread(target=self._run, daemon=True)
        process.tasks.append(self)
        scheduler.tasks.append(self)
        self.thread.start()

    def _run(self) -> None:
        self.turn.acquire()
        try:
            if not self.process.dead:
                self._work()
        except Kill:
            pass
        except BaseException as error:
            self.error = error
        self.done = True
        self.process.tasks.remove(self)
        self._scheduler.tasks.remove(self)
        for task in self._waiting:
            task.wake = self._scheduler.now
        self._scheduler.pass_on()

    def join(self) -> None:
        """Wait until it has ended."""
        while not self.done:
            self._waiting.append(self._scheduler.current)
            self._scheduler.pause(math.inf)


class Scheduler:
    """Simulated time, and whose turn it is."""

    def __init__(self, rng: random.Random) -> None:
        self.rng, self.now = rng, 0.0
        self.tasks: list[Task] = []
        self.current: Task = None  # type: ignore[assignment]
        self.steps = 0
        self._ended = threading.Semaphore(0)

    def run(self, work: Callable[[], None]) -> None:
        """Run ``work`` as the first task, until every task has ended; raises what it raised."""
        main = Task(self, Process(self, "operator"), "main", work)
        self.pass_on()
        self._ended.acquire()
        if main.error is not None:
            raise main.error

    def pass_on(self) -> None:
        """Give the turn to another task; the caller ends or waits."""
        if not self.tasks:
            self._ended.release()
            return
        self.current = self._choose()
        self.current.turn.release()

    def pause(self, seconds: float = 0.0) -> None:
        """Let other tasks run until ``seconds`` have passed.

        Raises:
            Kill: The process was killed in the meantime.
        """
        me = self.current
        if me.process.dead:
            raise Kill
        me.wake = self.now + seconds
        chosen = self._choose()
        if chosen is not me:
            self.current = chosen
            chosen.turn.release()
            me.turn.acquire()
        if me.process.dead:
            raise Kill

    def _choose(self) -> Task:
        self.steps += 1
        first = min(task.wake for task in self.tasks)
        assert math.isfinite(first), "every task waits for another one"
        self.now = max(self.now, first)
        ready = [task for task in self.tasks if task.wake <= self.now]
        return ready[0] if len(ready) == 1 else self.rng.choice(ready)


class SimulatedClock(Clock):
    """What a process sees of the simulated time. ``offset`` is that of its machine's wall clock, which may jump."""

    def __init__(self, scheduler: Scheduler, offset: Callable[[], float]) -> None:
        self._scheduler, self._offset = scheduler, offset

    def time(self) -> float:
        """Wall clock of the machine."""
        return EPOCH + self._scheduler.now + self._offset()

    def monotonic(self) -> float:
        """Simulated seconds since the history began."""
        return self._scheduler.now

    def sleep(self, seconds: float) -> None:
        """Let other tasks run."""
        self._scheduler.pause(seconds)

    def repeat(self, name: str, wait: float, step: Callable[[], float | None]) -> Repeating:
        """As a real clock, with a task in place of a thread."""
        return Repeating(self._scheduler, name, wait, step)


class Repeating:
    """Work that a simulated process repeats in the background."""

    def __init__(self, scheduler: Scheduler, name: str, wait: float, step: Callable[[], float | None]) -> None:
        self._scheduler, self._ended, self._sleeping = scheduler, False, False

        def work() -> None:
            next_wait: float | None = wait
            while next_wait is not None:
                if not self._ended:
                    self._sleeping = True
                    scheduler.pause(next_wait)
                    self._sleeping = False
                if self._ended:
                    return
                next_wait = step()

        self._task = Task(scheduler, scheduler.current.process, name, work)

    def stop(self) -> None:
        """End it after the current step."""
        self._ended = True
        if self._sleeping:
            self._task.wake = self._scheduler.now
        self._task.join()

"""The time and the background work of a study, in one place so that tests can simulate both."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Repeated:
    """A thread that calls ``step`` after ``wait`` seconds, and then after as many as it returns; None ends it."""

    def __init__(self, name: str, wait: float, step: Callable[[], float | None]) -> None:
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(wait, step), name=name, daemon=True)
        self._thread.start()

    def _run(self, wait: float | None, step: Callable[[], float | None]) -> None:
        while wait is not None and not self._ended.wait(wait):
            wait = step()

    def stop(self) -> None:
        """Return once the work has ended; a step that runs is finished first."""
        self._ended.set()
        self._thread.join()


class Clock:
    """The machine's clock."""

    monotonic = staticmethod(time.monotonic)
    sleep = staticmethod(time.sleep)
    time = staticmethod(time.time)  # may jump
    repeat = Repeated  # in the background


CLOCK = Clock()

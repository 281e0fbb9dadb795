"""A bar on a terminal, plain lines elsewhere: how far a download or a decode is. On standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SECONDS_BETWEEN_LINES = 5.0


@contextmanager
def progress_bar(title: str, total: int | None, *, unit: str, shown: bool) -> Iterator[Callable[[int], None]]:
    """Yield ``advance(n)``; ``unit`` is ``images`` or ``bytes``; ``total`` None is unknown."""
    if not shown:
        yield lambda n: None
    elif sys.stderr.isatty():
        with _bar(title, total, unit) as advance:
            yield advance
    else:
        yield _Lines(title, total, unit)


@contextmanager
def _bar(title: str, total: int | None, unit: str) -> Iterator[Callable[[int], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    count = DownloadColumn() if unit == "bytes" else MofNCompleteColumn()
    columns = (TextColumn("{task.description}"), BarColumn(), count, TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=total)
        yield lambda n: bar.advance(task, n)


class _Lines:
    def __init__(self, title: str, total: int | None, unit: str) -> None:
        self.title, self.total, self.unit, self.done = title, total, unit, 0
        self.next_line = time.monotonic() + SECONDS_BETWEEN_LINES

    def __call__(self, n: int) -> None:
        self.done += n
        now = time.monotonic()
        if now >= self.next_line:
            self.next_line = now + SECONDS_BETWEEN_LINES
            of = f" of {self._amount(self.total)} ({self.done / self.total:.0%})" if self.total else ""
            print(f"{self.title}: {self._amount(self.done)}{of}", file=sys.stderr, flush=True)

    def _amount(self, n: int) -> str:
        return f"{n / 1e6:.1f} MB" if self.unit == "bytes" else f"{n:,} {self.unit}"

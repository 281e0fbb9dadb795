"""Progress of downloads, decoding and training on standard error: a bar on a terminal, else a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

SECONDS_BETWEEN_LINES = 5.0


Advance: TypeAlias = Callable[..., None]  # advance(n, note=""): n more units, and a note to show with them


@contextmanager
def progress_bar(title: str, total: int | None, *, unit: str, shown: bool) -> Iterator[Advance]:
    """Yield ``advance``. ``unit`` is ``bytes`` or a plural noun; ``total`` is None if unknown."""
    if not shown:
        yield lambda n, note="": None
    elif sys.stderr.isatty():
        with _bar(title, total, unit) as advance:
            yield advance
    else:
        yield _Lines(title, total, unit)


@contextmanager
def _bar(title: str, total: int | None, unit: str) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    count = DownloadColumn() if unit == "bytes" else MofNCompleteColumn()
    columns = (TextColumn("{task.description}"), BarColumn(), count, TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=total)
        yield lambda n, note="": bar.update(task, advance=n, description=f"{title} {note}".rstrip())


class _Lines:
    def __init__(self, title: str, total: int | None, unit: str) -> None:
        self.title, self.total, self.unit, self.done = title, total, "MB" if unit == "bytes" else unit, 0
        self.next_line = time.monotonic() + SECONDS_BETWEEN_LINES

    def __call__(self, n: int, note: str = "") -> None:
        self.done += n
        now = time.monotonic()
        if now >= self.next_line:
            self.next_line = now + SECONDS_BETWEEN_LINES
            numbers = (self.done, self.total) if self.total else (self.done,)
            amount = " of ".join(f"{n / 1e6:.1f}" if self.unit == "MB" else f"{n:,}" for n in numbers)
            share = f" ({self.done / self.total:.0%})" if self.total else ""
            note = f", {note}" if note else ""
            print(f"{self.title}: {amount} {self.unit}{share}{note}", file=sys.stderr, flush=True)

"""Output while a study runs: the plan, a line per finished trial, a progress bar with the time left."""

from __future__ import annotations

import datetime
import io
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn
from rich.table import Table

from studies.formatting import duration
from studies.storage.rows import TrialRow

PLAIN_WIDTH = 160  # of tables in files and pipes: wide enough for every table


class _Console(Console):
    def on_broken_pipe(self) -> None:
        raise BrokenPipeError  # handled by tune.run.cli; rich would end the program with exit code 1


class Display:
    """Output of one study. On a terminal the bar stays at the bottom; elsewhere there are plain lines only.

    Args:
        quiet: Print only warnings and the lines of :meth:`always`.
        on_event: Called with each line instead of printing it.
    """

    def __init__(self, quiet: bool = False, on_event: Callable[[str], None] | None = None) -> None:
        width = None if on_event is None and sys.stdout.isatty() else PLAIN_WIDTH
        file: Any = None if on_event is None else _Lines(on_event)
        self.console = _Console(highlight=False, soft_wrap=True, width=width, file=file, force_jupyter=False)
        self.quiet = quiet
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._names: list[str] = []
        self._total = self._done = 0  # trials
        self._concurrent = 1
        self._ended, self._seconds = 0, 0.0  # of the trials that ended in this run

    def line(self, text: str = "") -> None:
        """Print a line unless ``--quiet``."""
        if not self.quiet:
            self.console.print(escape(text))

    def always(self, text: str = "") -> None:
        """Print a line even with ``--quiet``."""
        self.console.print(escape(text))

    def warn(self, text: str) -> None:
        """Print a warning."""
        self.console.print(f"[yellow]warning:[/yellow] {escape(text)}")

    def plan(self, title: str, rows: Iterable[tuple[str, str]], warnings: Sequence[str]) -> None:
        """Print the plan as aligned pairs of name and text."""
        if not self.quiet:
            self.console.print(f"[bold]{escape(title)}[/bold]")
            table = Table.grid(padding=(0, 2))
            table.add_column(style="cyan", no_wrap=True)
            table.add_column()
            for name, text in rows:
                table.add_row(f"  {name}", escape(text))
            self.console.print(table)
        for warning in warnings:
            self.warn(warning)

    def start(self, total: int, done: int, concurrent: int) -> None:
        """Start counting ``total`` trials of which ``done`` are on record."""
        self._done, self._total, self._concurrent = done, total, concurrent
        if self.quiet or not self.console.is_terminal:
            return
        self._bar = Progress(
            SpinnerColumn(), BarColumn(bar_width=30), TextColumn("{task.description}"), console=self.console,
            transient=True,
        )  # fmt: skip
        self._task = self._bar.add_task("starting Ray", total=total, completed=done)
        self._bar.start()

    def expect(self, total: int) -> None:
        """Correct the total number of trials."""
        self._total = total
        self._update()

    def trial(self, row: TrialRow, name: str, notices: Sequence[str] = ()) -> None:
        """Print one line for a trial that ended, and its warnings."""
        if row["status"] == "interrupted":
            self.line(f"  [stopped] {name}: {row['error']}")
            return
        self._done += 1
        self._ended += 1
        self._seconds += row.get("seconds") or 0.0
        counted = f"[{self._done:>{len(str(self._total))}}/{self._total}]"
        self.line(f"  {counted} {row['phase']:<7}  {name:<34} {_outcome(row)}")
        for notice in notices:
            self.warn(f"{name}: {notice}")
        self._update()

    def running(self, names: Sequence[str]) -> None:
        """Show what runs next to the bar."""
        self._names = list(names)
        self._update()

    def stop(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def time_left(self) -> float | None:
        """Seconds that the remaining trials will take; None before the first has ended."""
        if not self._ended:
            return None
        return (self._total - self._done) * self._seconds / self._ended / self._concurrent

    def _update(self) -> None:
        if self._bar is None or self._task is None:
            return
        left = self.time_left()
        text = f"{self._done}/{self._total} trials"
        if left is not None:
            text += f", about {duration(left)} left"
        if self._names:
            text += f"  ({', '.join(self._names[:2])}{', ...' if len(self._names) > 2 else ''})"
        self._bar.update(self._task, total=self._total, completed=self._done, description=escape(text))


class _Lines(io.TextIOBase):
    """A text stream that passes on complete lines."""

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self.on_line, self.rest = on_line, ""

    def write(self, text: str) -> int:
        *lines, self.rest = (self.rest + text).split("\n")
        for line in lines:
            self.on_line(line)
        return len(text)


def _outcome(row: TrialRow) -> str:
    if row["status"] != "done":
        return f"{row['status']}: {row['error']}"
    linear, knn = (
        (row["val_linear"], row["val_knn"]) if row["phase"] == "explore" else (row["test_linear"], row["test_knn"])
    )
    split = "val" if row["phase"] == "explore" else "test"
    return f"{split}: linear {_percent(linear)} %  k-NN {_percent(knn)} %   {row['seconds'] or 0.0:5.1f} s"


def _percent(accuracy: float | None) -> str:
    return "    -" if accuracy is None else f"{100 * accuracy:5.1f}"


def now() -> str:
    """The time in UTC, ISO 8601."""
    return datetime.datetime.fromtimestamp(time.time(), datetime.timezone.utc).isoformat(timespec="seconds")

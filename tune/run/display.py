"""Output while a study runs: the plan, a progress bar with the time left, details where they are asked for."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn
from rich.table import Table

from studies.cli.terminal import WIDTH_WITHOUT_TERMINAL, PipedConsole
from studies.formatting import accuracy, duration
from studies.storage.rows import TrialRow


class Display:
    """Output of one study. On a terminal the bar stays at the bottom; elsewhere a line is printed per finished trial.

    ``quiet`` prints only warnings and what :meth:`print_always` prints; ``on_event`` gets the lines instead.
    """

    def __init__(
        self, quiet: bool = False, verbose: bool = False, on_event: Callable[[str], None] | None = None
    ) -> None:
        terminal = on_event is None and sys.stdout.isatty()
        file: Any = None if on_event is None else _Lines(on_event)
        width = None if terminal else WIDTH_WITHOUT_TERMINAL
        self.console = PipedConsole(
            highlight=False, soft_wrap=not terminal, width=width, file=file, force_jupyter=False
        )
        self.quiet, self.verbose = quiet, verbose and not quiet
        columns = SpinnerColumn(), BarColumn(bar_width=30), TextColumn("{task.description}")
        self._bar = Progress(*columns, console=self.console, transient=True)
        self._running = self._total = self._done = 0  # trials
        self._concurrent = 1
        self._seconds: list[float] = []  # of the trials that ended in this run

    @property
    def detailed(self) -> bool:
        """Whether details are printed: with ``--verbose``, and where no bar shows the progress."""
        return not self.quiet and (self.verbose or not self.console.is_terminal)

    def print_detail(self, text: str) -> None:
        """Print a line where details are printed, see :attr:`detailed`."""
        if self.detailed:
            self.console.print(escape(text))

    def print_always(self, text: str, unbroken: bool = False) -> None:
        """Print a line even with ``--quiet``; ``unbroken`` where a path or command is to be copied from it."""
        self.console.print(escape(text), soft_wrap=unbroken or None)

    def warn(self, text: str) -> None:
        self.console.print(f"[yellow]warning:[/yellow] {escape(text)}")

    def print_plan(self, summary: str, rows: Iterable[tuple[str, str]], warnings: Sequence[str]) -> None:
        """Print the plan in a line, and with ``--verbose`` as aligned pairs of name and text."""
        if not self.quiet:
            self.console.print(f"[bold]{escape(summary)}[/bold]")
        if self.verbose:
            table = Table.grid(padding=(0, 2))
            table.add_column(style="cyan", no_wrap=True)
            for name, text in rows:
                table.add_row(f"  {name}", escape(text))
            self.console.print(table)
        for warning in warnings:
            self.warn(warning)

    def start(self, total: int, done: int, concurrent: int) -> None:
        """Start counting ``total`` trials of which ``done`` are on record."""
        self._done, self._total, self._concurrent = done, total, concurrent
        if not self.quiet and self.console.is_terminal:
            self._bar.add_task("starting", total=total, completed=done)
            self._bar.start()

    def expect(self, total: int) -> None:
        self._total = total
        self._update()

    def print_trial(self, row: TrialRow, name: str, notices: Sequence[str] = ()) -> None:
        """Print one line for a trial that ended, and its warnings."""
        if row["status"] == "interrupted":
            self.print_detail(f"[stopped] {name}: {row['error']}")
            return
        self._done += 1
        self._seconds.append(row.get("seconds") or 0.0)
        if row["status"] == "done" or self.detailed:
            counted = f"[{self._done:>{len(str(self._total))}}/{self._total}]"
            self.print_detail(f"{counted} {row['phase']:<7} {name:<30} {_outcome(row)}")
        else:
            self.warn(f"{name} {_outcome(row)}")
        for notice in notices:
            self.warn(f"{name}: {notice}")
        self._update()

    def show_running(self, number: int) -> None:
        """Show how many trials run next to the bar."""
        self._running = number
        self._update()

    def stop(self) -> None:
        if self._bar.task_ids:
            self._bar.stop()

    def _update(self) -> None:
        text = f"{self._done}/{self._total} trials, {self._running} running"
        if self._seconds:
            left = (self._total - self._done) * sum(self._seconds) / len(self._seconds) / self._concurrent
            text += f", about {duration(left)} left"
        for task in self._bar.task_ids:
            self._bar.update(task, total=self._total, completed=self._done, description=text)


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
    exploring = row["phase"] == "explore"
    linear, knn = (row["val_linear"], row["val_knn"]) if exploring else (row["test_linear"], row["test_knn"])
    split = "val " if exploring else "test"
    return f"{split} {accuracy(linear):>7}  k-NN {accuracy(knn):>7} {duration(row['seconds'] or 0.0):>6}"

"""Watch a study that is running: its progress, its best trials and its losses, from the tables on disk."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from studies.cli.terminal import plain
from studies.errors import StudyError
from studies.formatting import accuracy, duration, method_name, percent
from studies.records import Study, read_study
from studies.verdict import is_stale
from studies.views.summaries import LOST, last_change, planned_trials

NEWEST = 8


def watch(path: Path, console: Console, *, every: float, once: bool = False) -> None:
    """Show the study at ``path`` until its planned trials have ended or it is judged; ``once`` shows it a single time.

    In a terminal the picture is redrawn; elsewhere a line is printed whenever a trial has ended.

    Raises:
        StudyError: there is no study to begin with.
    """
    study = read_study(path)
    if once:
        console.print(picture(study))
    elif console.is_terminal:
        with Live(console=console, refresh_per_second=4) as live:
            for state in _states(path, study, every):
                live.update(picture(state))
    else:
        seen = -1
        for state in _states(path, study, every):
            if state.trials.num_rows != seen:
                seen = state.trials.num_rows
                console.print(plain(progress_line(state)))


def _states(path: Path, study: Study, every: float) -> Iterator[Study]:
    """The study now and every few seconds until it is finished."""
    yield study
    while not _is_finished(study):
        time.sleep(every)
        with suppress(StudyError):  # being moved or rewritten this very moment
            study = read_study(path)
        yield study


def progress_line(study: Study) -> str:
    """``digits-quick: 20 of 104 trials ended (1 failed), best so far 90.3 % (PMAE, 20 %, patch 2, seed 1)``."""
    counts = Counter(study.trials["status"].to_pylist())
    lost = ", ".join(f"{counts[status]} {status}" for status in LOST if counts[status])
    planned = planned_trials(study)
    line = f"{study.name}: {study.trials.num_rows}{'' if planned is None else f' of {planned}'} trials ended"
    best = _best(study)
    if lost:
        line += f" ({lost})"
    if best:
        line += f", best so far {accuracy(best['val_linear'])} ({_setting_of(best)})"
    return line


def picture(study: Study) -> Group:
    """Everything that a glance should tell, as something that rich can print."""
    parts: list[Any] = [Text(plain(progress_line(study)), style="bold")]
    planned = planned_trials(study)
    if planned:
        bar = Table.grid()  # a bar by itself ends no line
        bar.add_row(ProgressBar(total=planned, completed=min(study.trials.num_rows, planned), width=60))
        parts.append(bar)
        left = _time_left(study, planned)
        if left is not None:
            parts.append(Text(f"about {left} left at this pace", style="dim"))
    table = Table("ended last", "phase", "status", "linear (val.)", "time", box=None, pad_edge=False)
    rows = study.trials.slice(max(study.trials.num_rows - NEWEST, 0)).to_pylist()
    for row in reversed(rows):
        took = "" if row["seconds"] is None else f"{row['seconds']:.1f} s"
        table.add_row(_setting_of(row), plain(row["phase"]), plain(row["status"]), accuracy(row["val_linear"]), took)
    return Group(*parts, table)


def _setting_of(row: dict[str, Any]) -> str:
    parts = [method_name(row["method"])]
    if row["ratio"] is not None:
        parts.append(percent(row["ratio"]))
    if row["patch_size"] is not None:
        parts.append(f"patch {row['patch_size']}")
    return plain(", ".join([*parts, f"seed {row['seed']}"]))


def _best(study: Study) -> dict[str, Any] | None:
    trained = study.trials.filter(pc.is_valid(study.trials["ratio"]))  # a control is not the best trial
    ordered = trained.sort_by([("val_linear", "descending")]).slice(0, 1).to_pylist()
    return ordered[0] if ordered and ordered[0]["val_linear"] is not None else None


def _time_left(study: Study, planned: int) -> str | None:
    """Time for the rest at the pace so far, from the first trial's start to the last table write."""
    starts = study.trials["started_at"].drop_null().to_pylist()
    ended, changed = study.trials.num_rows, last_change(study, "trials.journal", "trials.arrow")
    if not starts or changed is None or ended >= planned:
        return None
    spent = changed - min(starts).timestamp()
    return duration(spent / ended * (planned - ended)) if 0 < spent < 1e8 else None


def _is_finished(study: Study) -> bool:
    planned = planned_trials(study)
    if planned is not None:
        return study.trials.num_rows >= planned
    return study.stored_verdict is not None and not is_stale(study)  # a study is judged when its last trial has ended

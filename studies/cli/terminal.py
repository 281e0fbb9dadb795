"""Studies in a terminal: tidy tables, and a look at a study that is running, from the tables on disk.

Names from the data are shown as text: no markup, no control characters.
"""

from __future__ import annotations

import re
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from studies.errors import StudyError
from studies.formatting import accuracy, count, in_points, method_name, percent
from studies.records import Study, is_finished, read_study
from studies.statistics.ratio_curves import Setting, setting_labels
from studies.views import wording
from studies.views.summaries import LOST, planned_trials

NEWEST = 8
WIDTH_WITHOUT_TERMINAL = 160  # wide enough for every table
MAX_LOST = 10
LABEL_WIDTH = 14  # of a table of 80 columns; the rest of a longer label is printed next to the following rungs
VERDICT_STYLES = {"holds": "green", "fails": "red", "inconclusive": "yellow", "uninformative": "yellow"}
CHECK_MARKS = {True: "passed", False: "FAILED", None: "not known"}


class PipedConsole(Console):
    """A console whose closed pipe is handled by ``main``; rich would end the program with exit code 1."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def make_console() -> Console:
    """A console that prints what it is given; piped output is not cut at 80 columns."""
    width = None if sys.stdout.isatty() else WIDTH_WITHOUT_TERMINAL
    return PipedConsole(markup=False, emoji=False, highlight=False, width=width)


def plain(value: Any) -> str:
    """``value`` as text without control characters, which could rewrite the screen."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", "�", "" if value is None else str(value))


def print_list(console: Console, rows: Sequence[Mapping[str, Any]]) -> None:
    """One line per study."""
    cells = []
    for row in rows:
        ended = str(row["ended"]) if row["planned"] is None else f"{row['ended']} of {row['planned']}"
        names = map(plain, (row["study"], row["dataset"], row["methods"], ended, row["lost"]))
        verdict = Text(plain(row["verdict"]), style=VERDICT_STYLES.get(row["verdict"] or "", ""))
        cells.append((*names, accuracy(row["best_val_linear"]), verdict))
    headings = ("study", "data set", "methods", ">trials", ">lost", ">best (val.)", "verdict")
    console.print(make_table(headings, cells))


def print_summary(console: Console, summary: Mapping[str, Any]) -> None:
    """One study: where it stands, the confirmed ratios, the best explored trials, what was lost, the answer."""
    ended = f"{_trials_ended(summary['ended'], summary['planned'])}, {summary['lost']} lost"
    console.print(Text(plain(summary["study"]), style="bold"))
    console.print(plain(f"{summary['dataset']}; {summary['methods']}; {ended}"))
    cells: list[tuple[str, ...]] = []
    if summary["confirmed"]:
        labels = setting_labels(map(Setting.of, summary["confirmed"]))
        for row in summary["confirmed"]:
            numbers = accuracy(row["test_linear"]), in_points(row["deviation"]), str(row["seeds"])
            cells.append((plain(labels[Setting.of(row)]), percent(row["achieved_ratio"]), *numbers))
        headings: Sequence[str] = ("setting", ">masked", ">accuracy", ">s.d. (points)", ">seeds")
        console.print(make_table(headings, cells, "Confirmed: test accuracy"))
    else:
        console.print("No confirmed trials yet.")
    if summary["best_explored"]:
        cells = []
        for row in summary["best_explored"]:
            scores = accuracy(row["val_linear"]), accuracy(row["val_knn"])
            setting = plain(method_name(row["method"])), percent(row["ratio"]), plain(row["patch_size"])
            cells.append((*setting, plain(row["seed"]), *scores))
        headings = ("method", ">masked", ">patch", ">seed", ">linear", ">k-NN")
        console.print(make_table(headings, cells, "Best explored: validation accuracy"))
    lost = summary["lost_trials"]
    if lost:
        more = f" (the first {MAX_LOST} of {len(lost)})" if len(lost) > MAX_LOST else ""
        cells = []
        for row in lost[:MAX_LOST]:
            error = (row["error"] or "").strip().split("\n")[-1]
            cells.append((plain(row["trial_id"]), plain(row["status"]), plain(error)))
        console.print(make_table(("trial", "status", "error"), cells, f"Lost{more}"))
    if summary["answer"]:
        console.print(Text(plain(summary["answer"]), style="bold"))


def print_verdict(console: Console, verdict: Mapping[str, Any], all_checks: bool = True) -> None:
    """One table of all comparisons (at most 80 columns), each one's outcome and (failed) checks, then the answer."""
    rows, answer = wording.judged_rows(verdict), verdict["answer"]
    if any(row["rungs"] for row in rows):
        console.print(_rung_table(rows))
    for row in rows:
        word = row["verdict"]
        text = Text(plain(f"{wording.row_label(row, rows)}: "), style="bold")
        text.append(plain(word), style=VERDICT_STYLES.get(word, ""))
        rest = f". The default {percent(row['default_ratio'])} {wording.loss_text(row)}."
        text.append(
            plain(f"{rest} {wording.best_set_sentence(row) if row['rungs'] else ''}".rstrip()), style="not bold"
        )
        console.print(text)
        checks = [check for check in row["checks"] if all_checks or not check.get("passed")]
        lines = [f"{CHECK_MARKS[check.get('passed')]}: {wording.check_text(check)}" for check in checks]
        lines += [f"left out: {sentence}" for sentence in row["excluded"]]
        if row["reason"] and row["ci_high"] is not None and row["reason"] not in answer:
            lines.append(row["reason"])
        for line in lines:
            console.print(Padding(plain(line), (0, 0, 0, 2), expand=False))
        console.print()
    for warning in verdict.get("warnings") or []:
        console.print(plain(f"warning: {warning}"), style="yellow")
    console.print(Text(plain(answer), style="bold"))


def make_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], title: str | None = None) -> Table:
    """A table of cells; a heading that starts with ``>`` is aligned to the right, an empty row is a line."""
    table = Table(
        box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="bold", pad_edge=False, padding=(0, 1, 0, 0)
    )
    for heading in columns:
        number = heading.startswith(">")
        table.add_column(heading.removeprefix(">"), justify="right" if number else "left", no_wrap=number)
    for row in rows:
        table.add_row(*row) if row else table.add_section()
    return table


def _rung_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    level = " or ".join(dict.fromkeys(wording.confidence(row) for row in rows))
    scored = "Out-of-fold" if any(row["evaluation"] == "folds" for row in rows) else "Test"
    title = f"{scored} accuracy; difference from default in points, one-sided {level} bounds"
    several = len({row["dataset"] for row in rows}) > 1
    cells: list[Sequence[str]] = []
    for row in rows:
        label = plain(wording.row_label(row, rows))
        lines = textwrap.wrap(label if several else label.replace(f" on {row['dataset']}", ""), LABEL_WIDTH)
        for number, rung in enumerate(row["rungs"], 1):
            line = " ".join(lines[number - 1 : number if number < len(row["rungs"]) else None])
            cells.append((line, *wording.rung_cells(rung), plain(rung["seeds"])))
        cells.append(())
    headings = ("setting", ">masked", ">accuracy", ">difference", ">bounds", "may be best", ">seeds")
    return make_table(headings, cells, title)


def watch_study(path: Path, console: Console, *, every: float, once: bool = False) -> None:
    """Show the study at ``path``, ``once`` or until it has ended: in a terminal redrawn, elsewhere a line per trial."""
    study = read_study(path)
    if once:
        console.print(render_status(study))
    elif console.is_terminal:
        with Live(console=console, refresh_per_second=4) as live:
            for state in _states(path, study, every):
                live.update(render_status(state))
    else:
        seen = -1
        for state in _states(path, study, every):
            if state.trials.num_rows != seen:
                seen = state.trials.num_rows
                console.print(plain(progress_line(state)))


def _states(path: Path, study: Study, every: float) -> Iterator[Study]:
    """The study now and every few seconds until it is finished."""
    yield study
    while not is_finished(study):
        time.sleep(every)
        with suppress(StudyError):  # being moved or rewritten this very moment
            study = read_study(path)
        yield study


def progress_line(study: Study) -> str:
    """``digits-quick: 20 of 104 trials ended (1 failed), best so far 90.3 % (PMAE, 20 %, patch 2, seed 1)``."""
    counts = Counter(study.trials["status"].to_pylist())
    lost = ", ".join(f"{counts[status]} {status}" for status in LOST if counts[status])
    line = f"{study.name}: {_trials_ended(study.trials.num_rows, planned_trials(study))}"
    if lost:
        line += f" ({lost})"
    trained = study.trials.filter(pc.is_valid(study.trials["ratio"]))  # a control is not the best trial
    for best in trained.sort_by([("val_linear", "descending")]).slice(0, 1).to_pylist():
        if best["val_linear"] is not None:
            line += f", best so far {accuracy(best['val_linear'])} ({_trial_label(best)})"
    return line


def render_status(study: Study) -> Group:
    """What ``watch`` shows, as a rich renderable."""
    parts: list[Any] = [Text(plain(progress_line(study)), style="bold")]
    planned = planned_trials(study)
    if planned:
        bar = Table.grid()  # a bar by itself ends no line
        bar.add_row(ProgressBar(total=planned, completed=min(study.trials.num_rows, planned), width=60))
        parts.append(bar)
    table = Table("ended last", "phase", "status", "linear (val.)", "time", box=None, pad_edge=False)
    rows = study.trials.slice(max(study.trials.num_rows - NEWEST, 0)).to_pylist()
    for row in reversed(rows):
        took = "" if row["seconds"] is None else f"{row['seconds']:.1f} s"
        table.add_row(_trial_label(row), plain(row["phase"]), plain(row["status"]), accuracy(row["val_linear"]), took)
    return Group(*parts, table)


def _trial_label(row: dict[str, Any]) -> str:
    ratio = [] if row["ratio"] is None else [percent(row["ratio"])]
    return plain(", ".join([method_name(row["method"]), *ratio, *Setting.of(row).sides(), f"seed {row['seed']}"]))


def _trials_ended(ended: int, planned: int | None) -> str:
    trials = count(ended, "trial") if planned is None else f"{ended:,} of at most {count(planned, 'trial')}"
    return f"{trials} ended"

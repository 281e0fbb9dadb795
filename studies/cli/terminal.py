"""Studies as tidy tables in a terminal. Names from the data are shown as text: no markup, no control characters."""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from studies.formatting import accuracy, in_points, method_name, percent
from studies.statistics.ratio_curves import Setting, setting_labels
from studies.views import wording

WIDTH_WITHOUT_TERMINAL = 160  # wide enough for every table
LABEL_WIDTH = 14  # of a table of 80 columns; the rest of a longer label is printed next to the following rungs
VERDICT_STYLES = {
    "holds": "green", "fails": "red", "inconclusive": "yellow", "uninformative": "yellow", "withheld": "red",
}  # fmt: skip
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
    planned = "" if summary["planned"] is None else f" of {summary['planned']} planned"
    ended = f"{summary['ended']}{planned} trials ended, {summary['lost']} lost"
    console.print(Text(plain(summary["study"]), style="bold"))
    console.print(plain(f"{summary['dataset']}; {summary['methods']}; {ended}"))
    if summary["confirmed"]:
        console.print(_confirmed_table(summary["confirmed"]))
    else:
        console.print("No confirmed trials yet.")
    if summary["best_explored"]:
        console.print(_explored_table(summary["best_explored"]))
    if summary["lost_trials"]:
        console.print(_lost_table(summary["lost_trials"]))
    if summary["answer"]:
        console.print(Text(plain(summary["answer"]), style="bold"))


def print_verdict(console: Console, verdict: Mapping[str, Any], all_checks: bool = True) -> None:
    """One table of all comparisons (at most 80 columns), each one's outcome and checks, and at last the answer.

    Args:
        console: Where to print.
        verdict: The content of ``verdict.json``.
        all_checks: Print the checks that passed, too.
    """
    rows, answer = wording.judged_rows(verdict), wording.headline(verdict)
    if any(row["rungs"] for row in rows):
        console.print(_rung_table(rows))
    for row in rows:
        word = wording.verdict_word(row)
        text = Text(plain(f"{wording.row_label(row, rows)}: "), style="bold")
        text.append(plain(word), style=VERDICT_STYLES.get(word, ""))
        rest = f". The default {percent(row['default_ratio'])} {wording.loses(row)}."
        text.append(
            plain(f"{rest} {wording.best_set_sentence(row) if row['rungs'] else ''}".rstrip()), style="not bold"
        )
        console.print(text)
        lines = [
            f"{CHECK_MARKS[check.get('passed')]}: {wording.check_text(check)}"
            for check in row["checks"]
            if all_checks or not check.get("passed")
        ]
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


def _confirmed_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    labels, cells = setting_labels(map(Setting.of, rows)), []
    for row in rows:
        numbers = accuracy(row["test_linear"]), in_points(row["deviation"]), str(row["seeds"])
        cells.append((plain(labels[Setting.of(row)]), percent(row["achieved_ratio"]), *numbers))
    headings = ("setting", ">masked", ">accuracy", ">s.d. (points)", ">seeds")
    return make_table(headings, cells, "Confirmed: test accuracy")


def _explored_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    cells = []
    for row in rows:
        method = plain(method_name(row["method"]))
        scores = accuracy(row["val_linear"]), accuracy(row["val_knn"])
        cells.append((method, percent(row["ratio"]), plain(row["patch_size"]), plain(row["seed"]), *scores))
    headings = ("method", ">masked", ">patch", ">seed", ">linear", ">k-NN")
    return make_table(headings, cells, "Best explored: validation accuracy")


def _lost_table(rows: Sequence[Mapping[str, Any]], most: int = 10) -> Table:
    more = f" (the first {most} of {len(rows)})" if len(rows) > most else ""
    last = [(row["trial_id"], row["status"], (row["error"] or "").strip().split("\n")[-1]) for row in rows[:most]]
    return make_table(("trial", "status", "error"), [[*map(plain, cells)] for cells in last], f"Lost{more}")


def _rung_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    level = " or ".join(dict.fromkeys(wording.confidence(row) for row in rows))
    title = f"Test accuracy; difference from the default in points with {level} bounds"
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

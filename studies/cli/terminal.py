"""Studies as tidy tables in a terminal. Names from the data are shown as text: no markup, no control characters."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from studies.formatting import accuracy, in_points, interval, percent
from studies.statistics.ratio_curves import METHOD_NAMES, Setting, setting_labels
from studies.views.wording import (
    best_set_sentence,
    check_text,
    confidence,
    headline,
    judged_rows,
    loses,
    row_label,
    verdict_word,
)

WIDTH_WITHOUT_TERMINAL = 160
VERDICT_STYLES = {
    "holds": "green", "fails": "red", "inconclusive": "yellow", "uninformative": "yellow", "withheld": "red",
}  # fmt: skip
CHECK_MARKS = {True: "passed", False: "FAILED", None: "not known"}


class _Console(Console):
    def on_broken_pipe(self) -> None:
        raise BrokenPipeError  # handled by main; rich would end the program with exit code 1


def make_console() -> Console:
    """A console that prints what it is given; piped output is not cut at 80 columns."""
    width = None if sys.stdout.isatty() else WIDTH_WITHOUT_TERMINAL
    return _Console(markup=False, emoji=False, highlight=False, width=width)


def plain(value: Any) -> str:
    """``value`` as text without control characters, which could rewrite the screen."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", "�", "" if value is None else str(value))


def print_list(console: Console, rows: Sequence[Mapping[str, Any]]) -> None:
    """One line per study."""
    table = _table(("study", "data set", "methods", ">trials", ">done", ">lost", ">best (val.)", "verdict", "updated"))
    for row in rows:
        ended = str(row["ended"]) if row["planned"] is None else f"{row['ended']} of {row['planned']}"
        table.add_row(
            *map(plain, (row["study"], row["dataset"], row["methods"], ended, row["done"], row["lost"])),
            accuracy(row["best_val_linear"]),
            verdict_text(row["verdict"]),
            plain(row["updated"]),
        )
    console.print(table)


def print_summary(console: Console, summary: Mapping[str, Any]) -> None:
    """One study: where it stands, the confirmed ratios, the best explored trials, what was lost."""
    planned = "" if summary["planned"] is None else f" of {summary['planned']} planned"
    ended = f"{summary['ended']}{planned} trials ended, {summary['lost']} lost"
    console.print(Text(plain(summary["study"]), style="bold"))
    console.print(plain(f"{summary['dataset']}; {summary['methods']}; {ended}"))
    if summary["answer"]:
        console.print(plain(summary["answer"]))
    if summary["confirmed"]:
        console.print(_confirmed_table(summary["confirmed"]))
    else:
        console.print("No confirmed trials yet.")
    if summary["best_explored"]:
        console.print(_explored_table(summary["best_explored"]))
    if summary["lost_trials"]:
        console.print(_lost_table(summary["lost_trials"]))


def print_verdict(console: Console, verdict: Mapping[str, Any]) -> None:
    """The answer, then per comparison its outcome, a table of its ratios (at most 80 columns) and its checks.

    Args:
        console: Where to print.
        verdict: The content of ``verdict.json``.
    """
    rows = judged_rows(verdict)
    console.print(Text(plain(headline(verdict)), style="bold"))
    for row in rows:
        console.print()
        word = verdict_word(row)
        heading = Text(plain(f"{row_label(row, rows)}: "), style="bold")
        heading.append(plain(word), style=VERDICT_STYLES.get(word, ""))
        console.print(heading)
        console.print(plain(f"The default {percent(row['default_ratio'])} {loses(row)}."))
        if row["rungs"]:
            console.print(_rung_table(row))
            console.print(plain(best_set_sentence(row)))
        for check in row["checks"]:
            console.print(plain(f"{CHECK_MARKS[check.get('passed')]}: {check_text(check)}"))
        for sentence in row["excluded"]:
            console.print(plain(f"left out: {sentence}"))
        if row["reason"] and row["ci_high"] is not None:
            console.print(plain(row["reason"]))
    for warning in verdict.get("warnings") or []:
        console.print(plain(f"warning: {warning}"), style="yellow")


def verdict_text(verdict: str | None) -> Text:
    """The verdict in its color."""
    return Text(plain(verdict), style=VERDICT_STYLES.get(verdict or "", ""))


def _confirmed_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = _table(("setting", ">masked", ">seeds", ">test accuracy", ">s.d. (points)"), "Confirmed (test split)")
    labels = setting_labels(Setting.of(dict(row)) for row in rows)
    for row in rows:
        spread = in_points(row["deviation"])
        setting = plain(labels[Setting.of(dict(row))])
        table.add_row(setting, percent(row["achieved_ratio"]), str(row["seeds"]), accuracy(row["test_linear"]), spread)
    return table


def _explored_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = _table(("method", ">masked", ">patch", ">seed", ">linear", ">k-NN"), "Best explored (validation split)")
    for row in rows:
        method = METHOD_NAMES.get(row["method"], plain(row["method"]))
        scores = accuracy(row["val_linear"]), accuracy(row["val_knn"])
        table.add_row(method, percent(row["ratio"]), plain(row["patch_size"]), plain(row["seed"]), *scores)
    return table


def _lost_table(rows: Sequence[Mapping[str, Any]], most: int = 10) -> Table:
    more = f" (the first {most} of {len(rows)})" if len(rows) > most else ""
    table = _table(("trial", "status", "error"), f"Lost{more}")
    for row in rows[:most]:
        table.add_row(plain(row["trial_id"]), plain(row["status"]), plain((row["error"] or "").strip().split("\n")[-1]))
    return table


def _rung_table(row: Mapping[str, Any]) -> Table:
    table = _table((">masked", ">accuracy", ">difference", f">{confidence(row)} bounds", "may be best", ">seeds"))
    for rung in row["rungs"]:
        table.add_row(
            percent(rung["ratio"]),
            accuracy(rung["accuracy"]),
            "default" if rung["is_default"] else in_points(rung["difference"], True),
            interval(rung["low"], rung["high"], True),
            {True: "yes", False: "no"}.get(rung["may_be_best"], ""),
            plain(rung["seeds"]),
        )
    return table


def _table(columns: Sequence[str], title: str | None = None) -> Table:
    """An empty table; a heading that starts with ``>`` is aligned to the right."""
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="bold", pad_edge=False)
    for heading in columns:
        table.add_column(heading.removeprefix(">"), justify="right" if heading.startswith(">") else "left")
    return table

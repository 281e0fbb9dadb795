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

from studies.curves import METHOD_NAMES, Setting, setting_labels
from studies.sentences import headline, percent, row_sentence

WIDTH_WITHOUT_TERMINAL = 160
VERDICT_STYLES = {"holds": "green", "fails": "red", "inconclusive": "yellow"}


def make_console() -> Console:
    """A console that prints what it is given; piped output is not cut at 80 columns."""
    width = None if sys.stdout.isatty() else WIDTH_WITHOUT_TERMINAL
    return Console(markup=False, emoji=False, highlight=False, width=width)


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
    """The answer, a line per default and comparison, and what to know about it."""
    console.print(Text(plain(headline(verdict)), style="bold"))
    if verdict["rows"]:
        console.print(_verdict_table(verdict["rows"]))
    for row in verdict["rows"]:
        if row.get("kind") == "default":
            console.print(plain(f"- {row_sentence(row)}"))
    for warning in verdict.get("warnings", []):
        console.print(plain(f"! {warning}"), style="yellow")


def accuracy(value: float | None) -> str:
    """``90.31 %``; empty where there is none."""
    return "" if value is None else f"{100 * value:.2f} %"


def verdict_text(verdict: str | None) -> Text:
    """The verdict in its colour."""
    return Text(plain(verdict), style=VERDICT_STYLES.get(verdict or "", ""))


def _confirmed_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = _table(("setting", ">masked", ">seeds", ">test accuracy", ">s.d. (points)"), "Confirmed (test split)")
    labels = setting_labels(Setting.of(dict(row)) for row in rows)
    for row in rows:
        spread = "" if row["deviation"] is None else f"{100 * row['deviation']:.2f}"
        setting = plain(labels[Setting.of(dict(row))])
        table.add_row(setting, percent(row["ratio"]), str(row["seeds"]), accuracy(row["test_linear"]), spread)
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


def _verdict_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    columns = (
        "data set",
        "setting",
        ">default",
        ">best",
        ">regret",
        ">bounds",
        ">margin",
        "verdict",
        ">seeds",
        ">more",
    )
    table = _table(columns, "Regret in points of accuracy")
    labels = setting_labels(Setting.of(dict(row)) for row in rows)
    for row in rows:
        known = row.get("regret") is not None
        bounds = f"{100 * row['ci_low']:.2f} to {100 * row['ci_high']:.2f}" if known else ""
        table.add_row(
            plain(row["dataset"]),
            plain(labels[Setting.of(dict(row))]),
            percent(row["default_ratio"]),
            "" if row.get("best_ratio") is None else percent(row["best_ratio"]),
            f"{100 * row['regret']:.2f}" if known else "",
            bounds,
            f"{100 * row['margin']:g}",
            verdict_text(row["verdict"]),
            plain(row.get("seeds")),
            plain(row.get("seeds_needed")),
        )
    return table


def _table(columns: Sequence[str], title: str | None = None) -> Table:
    """An empty table; a heading that starts with ``>`` is aligned to the right."""
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="bold", pad_edge=False)
    for heading in columns:
        table.add_column(heading.removeprefix(">"), justify="right" if heading.startswith(">") else "left")
    return table

"""python -m studies: list, show, verdict, report, export, watch. Never changes a study's records.

Exit codes: 0 done, 1 a file could not be written, 2 bad usage or no such study, 130 interrupted.
"""

# What a command needs is imported inside it: `list` and `show` answer at once, without scipy, matplotlib or Plotly.

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from tyro.conf import FlagCreatePairsOff, Positional, arg

from studies.errors import StudyError, StudyWriteError
from studies.storage.object_store import is_uri, without_secrets

if TYPE_CHECKING:
    import pyarrow as pa

    from studies.records import Study

app = tyro.extras.SubcommandApp()
PATHS = "Study folders, or storage folders with several studies; also in an object store (s3://BUCKET/PATH)."
Paths = Annotated[Positional[tuple[str, ...]], arg(metavar="PATH...", help=PATHS)]
Output = Annotated[Path | None, arg(metavar="FILE")]


@app.command(name="list")
def list_studies(paths: Paths = ("runs",), *, json: bool = False, csv: bool = False) -> None:
    """List studies: how far each is, its best accuracy, its verdict.

    Args:
        json: Print JSON.
        csv: Print CSV.
    """
    from studies.views.summaries import study_row

    rows = [study_row(study) for study in _read(paths)]
    if json or csv:
        _print_rows(rows, csv)
        return
    from studies.cli.terminal import make_console, print_list

    print_list(make_console(), rows)


@app.command
def show(paths: Paths, *, top: int = 10, json: bool = False, csv: bool = False) -> None:
    """Show studies: confirmed ratios with intervals, the best explored trials, what was lost.

    Args:
        top: How many explored trials to show.
        json: Print everything as JSON.
        csv: Print the confirmed ratios as CSV.
    """
    from studies.views.summaries import study_summary

    summaries = [study_summary(study, top) for study in _read(paths)]
    if csv:
        _print_rows([{"study": s["study"], **row} for s in summaries for row in s["confirmed"]], csv)
        return
    if json:
        _print_rows(summaries)
        return
    from studies.cli.terminal import make_console, print_summary

    for summary in summaries:
        print_summary(make_console(), summary)


@app.command
def verdict(
    paths: Paths,
    *,
    margin: str | None = None,
    default_ratio: float | None = None,
    json: bool = False,
    csv: bool = False,
) -> None:
    """Judge: does the default ratio hold up? Several studies are judged together.

    Args:
        margin: Largest regret that still holds up: a fraction of accuracy, or a share of the training gain such as
            10%; the plan's if left out.
        default_ratio: Variance ratio to judge; the plan's if left out.
        json: Print exactly what verdict.json holds.
        csv: Print the rows as CSV.
    """
    from studies.verdict import current_verdict

    judged = current_verdict(_read(paths), margin=margin, default_ratio=default_ratio)
    if json:
        _print_rows(judged)
    elif csv:
        _print_rows([{k: v for k, v in row.items() if not isinstance(v, (list, dict))} for row in judged["rows"]], csv)
    else:
        from studies.cli.terminal import make_console, print_verdict

        print_verdict(make_console(), judged)


@app.command
def report(paths: Paths, *, out: Output = None, refresh: float | None = None, figures: bool = False) -> None:
    """Write one self-contained HTML page about one study or several.

    Args:
        out: HTML file to write (default: report.html in the study's folder, or next to the studies).
        refresh: Reload the page every REFRESH seconds, for a study that is running.
        figures: Draw the PNG figures into each study's folder too.
    """
    from studies.report import write_report

    remote = [path for path in paths if is_uri(path)]
    if remote and (out is None or figures):
        raise StudyError(f"{without_secrets(remote[0])}: nothing is written there; give --out FILE, without --figures")
    folders = [study.folder for study in _read(paths)]
    print(write_report(folders, out, refresh))
    if figures:
        from studies.figures import draw_figures

        for folder in folders:
            print(*draw_figures(folder), sep="\n")


@app.command
def export(
    paths: Paths,
    *,
    table: Literal["trials", "history"] = "trials",
    csv: Output = None,
    parquet: Output = None,
    json: Output = None,
) -> None:
    """Write a table of studies for other programs; rows of several studies come one below the other.

    Args:
        table: Which table: a row per trial, or a row per trial and epoch.
        csv: CSV file to write; - prints it.
        parquet: Parquet file to write.
        json: JSON file to write; - prints it.
    """
    import pyarrow as pa

    from studies.formatting import count
    from studies.storage.atomic import as_json, write_file
    from studies.storage.tables import csv_bytes

    wanted = {csv_bytes: csv, _as_parquet: parquet, lambda rows: as_json(rows.to_pylist()).encode(): json}
    if not any(wanted.values()):
        raise StudyError("export needs a file to write; give --csv, --parquet or --json FILE")
    rows = pa.concat_tables([getattr(study, table) for study in _read(paths)])
    for convert, target in wanted.items():
        if target == Path("-"):
            _print_bytes(convert(rows))
        elif target is not None:
            write_file(target, convert(rows))
            print(f"{count(rows.num_rows, 'row')} written to {target}", file=sys.stderr)


@app.command
def watch(path: Annotated[Positional[str], arg(metavar="PATH")], *, every: float = 2.0, once: bool = False) -> None:
    """Watch a running study until all planned trials have ended; Ctrl-C stops watching, not the study.

    Args:
        path: The study's folder.
        every: Seconds between updates.
        once: Print the state once and end.
    """
    from studies.cli.terminal import make_console, watch_study

    if every <= 0:
        raise StudyError(f"--every is {every}; give a number of seconds above 0, for example 2")
    if is_uri(path):
        raise StudyError(
            f"watch {without_secrets(path)}: give the study's working copy on the machine that runs it (printed by "
            "--verbose), or look from time to time with: python -m studies show URI"
        )
    watch_study(Path(path), make_console(), every=every, once=once)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    try:
        app.cli(prog="python -m studies", description=__doc__, args=arguments, config=(FlagCreatePairsOff,))
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has closed the pipe (`| head`): end quietly, also when Python flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except StudyWriteError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except StudyError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def _read(paths: Sequence[str]) -> list[Study]:
    from studies.records import read_studies

    if not paths:
        raise StudyError("no PATH given; name a study's folder, or a storage folder with several studies")
    if any(map(is_uri, paths)):
        from studies.storage.object_store import download_studies

        return read_studies([download_studies(path) if is_uri(path) else path for path in paths])
    return read_studies(paths)


def _print_rows(rows: Any, csv: bool = False) -> None:
    from studies.storage.atomic import as_json
    from studies.storage.tables import csv_bytes

    _print_bytes(csv_bytes(rows) if csv else as_json(rows).encode())


def _as_parquet(table: pa.Table) -> bytes:
    import pyarrow.parquet

    buffer = io.BytesIO()
    pyarrow.parquet.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def _print_bytes(content: bytes) -> None:
    sys.stdout.flush()
    sys.stdout.buffer.write(content)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    raise SystemExit(main())

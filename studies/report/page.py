"""Put a report together: one HTML file with its styles, script, plots, tables and pictures inside.

Charts are inline SVG that follows light and dark mode through CSS variables; the only script is the table of trials.
A content-security policy in the page forbids every network request.
"""

from __future__ import annotations

import base64
import datetime
import gzip
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.feather
from markupsafe import Markup

from studies.formatting import percent
from studies.records import Study, read_studies
from studies.report import sections
from studies.report.charts import gallery, make_charts
from studies.report.methods import how_it_was_run, methods_paragraph, what_is_missing
from studies.report.table import trial_table
from studies.statistics.contrasts import compare_settings
from studies.statistics.inverted_u import shape_sentences
from studies.statistics.ratio_curves import DEFAULT_RATIOS, make_panels
from studies.storage.atomic import write_file
from studies.storage.tables import csv_bytes, with_column
from studies.verdict import current_verdict
from studies.views.wording import judged_rows

TEMPLATES = Path(__file__).parent / "templates"
# Larger files would make the page too large to forward; they are in the study's folder.
MAX_BYTES = 4_000_000
PLAIN_CSV_BYTES = 150_000


def write_report(
    paths: Path | str | Sequence[Path | str], out: Path | str | None = None, refresh_seconds: float | None = None
) -> Path:
    """Write one self-contained page about one study or several, finished or not.

    Args:
        paths: Study folders, or storage folders with several studies.
        out: The HTML file; None is ``report.html`` in the study's folder, or next to the first of several studies.
        refresh_seconds: Let the page reload itself this often, for a study that is still running.

    Returns:
        The file written.

    Raises:
        StudyError: no study is there, or its files are corrupted.
        StudyWriteError: the page cannot be written.
    """
    studies = read_studies(paths)
    folder = studies[0].folder if len(studies) == 1 else studies[0].folder.parent
    target = folder / "report.html" if out is None else Path(out).absolute()
    write_file(target, render_report(studies, refresh_seconds))
    return target


def render_report(studies: Sequence[Study], refresh_seconds: float | None = None) -> str:
    """The page as text."""
    trials = pa.concat_tables([study.trials for study in studies])
    history = pa.concat_tables([study.history for study in studies])
    verdict = current_verdict(studies)
    shown, rows = disambiguate_datasets(trials, judged_rows(verdict))
    galleries = [gallery(study) for study in studies]
    charts = make_charts(make_panels(shown, rows, studies[0].plan), rows, shown, history, galleries)
    own, compared = studies[0].plan.get("question"), compare_settings(shown)
    default = studies[0].plan.get("default_ratio") or DEFAULT_RATIOS["pmae"]
    cards = [sections.make_card(row, rows, trials, studies[0].plan) for row in rows]
    table = json.dumps(trial_table(trials), ensure_ascii=False, separators=(",", ":"), default=str, allow_nan=False)
    for character in ("<", "\u2028", "\u2029"):  # the text must not end the script element that holds it
        table = table.replace(character, f"\\u{ord(character):04x}")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    return environment.get_template("report.html").render(
        title=", ".join(study.name for study in studies),
        question=own or f"Is masking {percent(default)} of the variance good enough?",
        headline=sections.own_answer(compared, shape_sentences(shown)) if own else verdict["answer"],
        verdict=None if own or not cards else verdict["overall"].get("verdict", "inconclusive"),
        cards=[] if own else cards,
        rung_headings=sections.RUNG_HEADINGS,
        missing=what_is_missing(studies, trials, galleries),
        warnings=verdict.get("warnings", []),
        charts=charts,
        published=sections.published_rows(),
        contrasts=sections.comparison_rows(compared),
        measures=sections.measure_table(sections.measures(shown)),
        methods=[
            methods_paragraph(study, [r for r in rows if r["study"] in (study.name, None, "")]) for study in studies
        ],
        bibtex=(TEMPLATES / "papers.bib").read_text(encoding="utf-8").rstrip(),
        galleries=galleries,
        runs=[how_it_was_run(study) for study in studies],
        downloads=_downloads(trials, history, verdict, [study.plan for study in studies]),
        trial_count=trials.num_rows,
        refresh=refresh_seconds,
        written=datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        style=Markup((TEMPLATES / "report.css").read_text(encoding="utf-8")),
        script=Markup((TEMPLATES / "report.js").read_text(encoding="utf-8")),
        table_json=Markup(table),
    )


def disambiguate_datasets(trials: pa.Table, rows: Sequence[Mapping[str, Any]]) -> tuple[pa.Table, list[dict[str, Any]]]:
    """``trials`` and a verdict's ``rows`` with the study after data sets that several used, which are not averaged."""
    pairs = trials.group_by(["dataset", "study"]).aggregate([]).to_pylist()
    shared = {name for name, count in Counter(p["dataset"] for p in pairs).items() if count > 1}
    longer = pc.binary_join_element_wise(trials["dataset"], trials["study"], ", ", null_handling="skip")
    is_shared = pc.is_in(trials["dataset"], pa.array(sorted(shared), pa.string()))
    return with_column(trials, "dataset", pc.if_else(is_shared, longer, trials["dataset"])), [
        {**row, "dataset": f"{row['dataset']}, {row['study']}"} if row.get("dataset") in shared else dict(row)
        for row in rows
    ]


def _downloads(
    trials: pa.Table, history: pa.Table, verdict: dict[str, Any], plans: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """The study's tables and JSON files as data URIs, without empty tables; a file that is too large has no URI."""
    shown: list[dict[str, Any]] = []

    def add(name: str, title: str, kind: str, content: bytes) -> None:
        size = len(content)
        readable = f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{max(size / 1e3, 0.1):.3g} kB"
        uri = f"data:{kind};base64,{base64.b64encode(content).decode()}" if size <= MAX_BYTES else None
        shown.append({"name": name, "title": title, "readable_size": readable, "uri": uri})

    for name, table in (("trials", trials), ("history", history)):
        if table.num_rows == 0:
            continue
        if len(content := csv_bytes(table)) > PLAIN_CSV_BYTES:
            add(f"{name}.csv.gz", f"{name} as CSV, gzip", "application/gzip", gzip.compress(content, 6, mtime=0))
        else:
            add(f"{name}.csv", f"{name} as CSV", "text/csv;charset=utf-8", content)
        arrow = io.BytesIO()
        pa.feather.write_feather(table, arrow, compression="zstd")
        add(f"{name}.arrow", f"{name} as Arrow", "application/vnd.apache.arrow.file", arrow.getvalue())
    plan = ("the plan", plans[0]) if len(plans) == 1 else ("the plans", plans)
    for name, title, values in (("verdict.json", "the verdict", verdict), ("study.json", *plan)):
        content = json.dumps(values, indent=2, ensure_ascii=False, default=str).encode()
        add(name, title, "application/json", content)
    return shown

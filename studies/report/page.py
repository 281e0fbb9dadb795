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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.feather
from markupsafe import Markup

from studies.records import Study, read_studies
from studies.report.cards import RUNG_HEADINGS, make_card
from studies.report.charts import gallery, make_charts
from studies.report.methods import how_it_was_run, methods_paragraph, what_is_missing
from studies.report.sections import contrast_rows, measure_table, measures, own_answer, published_rows
from studies.report.table import trial_table
from studies.statistics.contrasts import contrasts
from studies.statistics.inverted_u import shape_sentences
from studies.statistics.ratio_curves import DEFAULT_RATIOS, make_panels
from studies.storage.atomic import write_file
from studies.storage.tables import csv_bytes
from studies.verdict import current_verdict
from studies.views.wording import headline, judged_rows, question, verdict_word

TEMPLATES = Path(__file__).parent / "templates"
# Beyond this a file inside the page is no longer something to pass on; the tables are in the study's folder.
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
    own, compared = studies[0].plan.get("question"), contrasts(shown)
    cards = [make_card(row, rows, trials, studies[0].plan) for row in rows]
    overall = (verdict.get("overall") or {}).get("verdict") or "inconclusive"
    withheld = any(row["kind"] == "default" and verdict_word(row) == "withheld" for row in rows)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    return environment.get_template("report.html").render(
        title=", ".join(study.name for study in studies),
        question=own or question(studies[0].plan.get("default_ratio") or DEFAULT_RATIOS["pmae"]),
        headline=own_answer(compared, shape_sentences(shown)) if own else headline(verdict),
        verdict=None if own or not cards else "withheld" if withheld else overall,
        cards=[] if own else cards,
        rung_headings=RUNG_HEADINGS,
        missing=what_is_missing(studies, trials, galleries),
        warnings=verdict.get("warnings", []),
        charts=charts,
        published=published_rows(),
        contrasts=contrast_rows(compared),
        measures=measure_table(measures(shown)),
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
        table_json=_as_json(trial_table(trials)),
    )


def _as_json(values: Any) -> Markup:
    """JSON that cannot end the script element that holds it."""
    text = json.dumps(values, ensure_ascii=False, separators=(",", ":"), default=str, allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))


def disambiguate_datasets(trials: pa.Table, rows: Sequence[Mapping[str, Any]]) -> tuple[pa.Table, list[dict[str, Any]]]:
    """``trials`` and a verdict's ``rows`` with the study after every data set that several studies used.

    Curves and tables hold a data set's trials together; those of different studies must not be averaged.
    """
    pairs = trials.group_by(["dataset", "study"]).aggregate([]).to_pylist()
    shared = {name for name, count in Counter(p["dataset"] for p in pairs).items() if count > 1}
    if not shared:
        return trials, [dict(row) for row in rows]
    longer = pc.binary_join_element_wise(trials["dataset"], trials["study"], ", ", null_handling="skip")
    is_shared = pc.is_in(trials["dataset"], pa.array(sorted(shared), pa.string()))
    place = trials.schema.get_field_index("dataset")
    named = trials.set_column(place, "dataset", pc.if_else(is_shared, longer, trials["dataset"]))
    return named, [
        {**row, "dataset": f"{row['dataset']}, {row['study']}"} if row.get("dataset") in shared else dict(row)
        for row in rows
    ]


@dataclass(frozen=True)
class Download:
    """A file inside the page. ``uri`` is None where it was too large to embed."""

    name: str
    title: str
    size: int
    uri: str | None

    @property
    def readable_size(self) -> str:
        """``12 kB``, ``3.4 MB``."""
        return f"{self.size / 1e6:.1f} MB" if self.size >= 1e6 else f"{max(self.size / 1e3, 0.1):.3g} kB"


def _downloads(
    trials: pa.Table, history: pa.Table, verdict: dict[str, Any], plans: list[dict[str, Any]]
) -> list[Download]:
    """The study's tables as CSV and Arrow files, and its JSON files, as data URIs; an empty table is left out."""
    files = []
    for name, table in (("trials", trials), ("history", history)):
        if table.num_rows:
            files += [_csv(name, table), _arrow(name, table)]
    title, plan = ("the plan", plans[0]) if len(plans) == 1 else ("the plans", plans)
    return [*files, _json("verdict.json", "the verdict", verdict), _json("study.json", title, plan)]


def _csv(name: str, table: pa.Table) -> Download:
    if table.nbytes > 30 * MAX_BYTES:  # not worth the minutes of finding out how large
        return Download(f"{name}.csv", f"{name} as CSV", table.nbytes, None)
    content = csv_bytes(table)
    if len(content) > PLAIN_CSV_BYTES:
        packed = gzip.compress(content, 6, mtime=0)
        return _download(f"{name}.csv.gz", f"{name} as CSV, gzip", packed, "application/gzip")
    return _download(f"{name}.csv", f"{name} as CSV", content, "text/csv;charset=utf-8")


def _arrow(name: str, table: pa.Table) -> Download:
    buffer = io.BytesIO()
    pa.feather.write_feather(table, buffer, compression="zstd")
    return _download(f"{name}.arrow", f"{name} as Arrow", buffer.getvalue(), "application/vnd.apache.arrow.file")


def _json(name: str, title: str, values: Any) -> Download:
    content = json.dumps(values, indent=2, ensure_ascii=False, default=str).encode()
    return _download(name, title, content, "application/json")


def _download(name: str, title: str, content: bytes, kind: str) -> Download:
    if len(content) > MAX_BYTES:
        return Download(name, title, len(content), None)
    return Download(name, title, len(content), f"data:{kind};base64,{base64.b64encode(content).decode()}")

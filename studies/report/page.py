"""Put a report together: one HTML file with its styles, script, plots, tables and pictures inside.

Charts are inline SVG that follows light and dark mode through CSS variables; the only script is the table of trials.
A content-security policy in the page forbids every network request.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import pyarrow as pa
from markupsafe import Markup

from studies.records import Study, read_studies
from studies.report.cards import RUNG_HEADINGS, make_cards
from studies.report.charts import make_charts
from studies.report.downloads import downloads
from studies.report.methods import BIBTEX, methods_paragraph
from studies.report.pictures import gallery
from studies.report.run_facts import how_it_was_run, what_is_missing
from studies.report.sections import contrast_rows, measure_table, own_answer, published_rows
from studies.report.table import trial_table
from studies.statistics.contrasts import contrasts
from studies.statistics.inverted_u import shape_sentences
from studies.statistics.ratio_curves import DEFAULT_RATIOS, make_panels
from studies.storage.atomic import write_file
from studies.verdict import current_verdict
from studies.views.extra_metrics import measures
from studies.views.merge import disambiguate_datasets
from studies.views.wording import headline, judged_rows, question, verdict_word

TEMPLATES = Path(__file__).parent / "templates"


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
    cards = make_cards(rows, trials, studies)
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
        bibtex=BIBTEX,
        galleries=galleries,
        runs=[how_it_was_run(study) for study in studies],
        downloads=downloads(trials, history, verdict, [study.plan for study in studies]),
        trial_count=trials.num_rows,
        refresh=refresh_seconds,
        written=datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        style=_asset("report.css"),
        script=_asset("report.js"),
        table_json=_as_json(trial_table(trials)),
    )


def _asset(name: str) -> Markup:
    return Markup((TEMPLATES / name).read_text(encoding="utf-8"))


def _as_json(values: Any) -> Markup:
    """JSON that cannot end the script element that holds it."""
    text = json.dumps(values, ensure_ascii=False, separators=(",", ":"), default=str, allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))

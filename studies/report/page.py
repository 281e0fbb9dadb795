"""Put a report together: one HTML file with its styles, script, plots, tables and pictures inside.

Plots go through Plotly: it is a dependency of Optuna's plots anyway, its Python package carries the script that a
page without network needs (Altair's does not: it needs a compiled converter on top), and hover, zoom and picture
export come with it. That costs 4.8 MB a page. A content-security policy in the page forbids every network request.
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
from plotly.offline import get_plotlyjs

from studies.contrasts import contrasts
from studies.curves import DEFAULT_RATIOS
from studies.files import write_file
from studies.judged import current_verdict
from studies.measures import measures
from studies.records import Study, read_studies
from studies.report.downloads import downloads
from studies.report.panels import make_panels
from studies.report.pictures import gallery
from studies.report.run_facts import how_it_was_run, what_is_missing
from studies.report.sections import (
    aggregate_rows,
    contrast_rows,
    measure_table,
    own_answer,
    published_rows,
    verdict_rows,
)
from studies.report.table import trial_table
from studies.sentences import headline, question
from studies.several import datasets_apart

TEMPLATES = Path(__file__).parent.parent / "templates"


def write_report(
    paths: Path | str | Sequence[Path | str], out: Path | str | None = None, refresh_seconds: float | None = None
) -> Path:
    """Write one self-contained page about one study or several, finished or not.

    Args:
        paths: Study folders, or storage folders with several studies.
        out: The HTML file; None is ``report.html`` in the study's folder, or beside the first of several studies.
        refresh_seconds: Let the page reload itself this often, for a study that is still running.

    Returns:
        The file written.

    Raises:
        StudyError: no study is there, or its files are damaged.
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
    shown, rows = datasets_apart(trials, verdict["rows"])
    verdict_shown = {**verdict, "rows": rows}
    galleries = [gallery(study) for study in studies]
    panels = make_panels(studies, shown, history, verdict_shown, galleries)
    own, compared = studies[0].plan.get("question"), contrasts(shown)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    return environment.get_template("report.html").render(
        title=", ".join(study.name for study in studies),
        question=own or question(studies[0].plan.get("default_ratio") or DEFAULT_RATIOS["pmae"]),
        headline=own_answer(compared, panels.fitted) if own else headline(verdict_shown),
        missing=what_is_missing(studies, trials, galleries),
        warnings=verdict.get("warnings", []),
        panels=panels,
        verdict_rows=verdict_rows(verdict_shown),
        aggregates=aggregate_rows(verdict),
        published=published_rows(),
        contrasts=contrast_rows(compared),
        measures=measure_table(measures(shown)),
        galleries=galleries,
        runs=[how_it_was_run(study) for study in studies],
        downloads=downloads(trials, history, verdict, [study.plan for study in studies]),
        trial_count=trials.num_rows,
        refresh=refresh_seconds,
        written=datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        style=_asset("report.css"),
        script=_asset("report.js"),
        plotly=Markup(get_plotlyjs()) if panels.plots else "",
        plots_json=_as_json(panels.plots),
        table_json=_as_json(trial_table(trials)),
    )


def _asset(name: str) -> Markup:
    return Markup((TEMPLATES / name).read_text(encoding="utf-8"))


def _as_json(values: Any) -> Markup:
    """JSON that cannot end the script element that holds it."""
    text = json.dumps(values, ensure_ascii=False, separators=(",", ":"), default=str, allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))

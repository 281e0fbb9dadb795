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

from studies.curves import METHOD_NAMES, RatioCurve, ratio_curves
from studies.files import write_file
from studies.histories import loss_curves
from studies.judged import current_verdict
from studies.palette import series_styles
from studies.records import Study, read_studies
from studies.report.downloads import downloads
from studies.report.pictures import Gallery, gallery
from studies.report.plots import accuracy_range, forest_plot, ratio_plot, spectrum_plot, training_plot
from studies.report.sections import Panel, how_it_was_run, numbers_of, verdict_rows, what_is_missing
from studies.report.table import trial_table
from studies.sentences import headline, question, row_labels

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
    galleries = [gallery(study) for study in studies]
    plots: dict[str, Any] = {}
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    plans = {study.name: study.plan for study in studies}
    return environment.get_template("report.html").render(
        title=", ".join(study.name for study in studies),
        question=question(studies[0].plan.get("default_ratio") or 0.2),
        headline=headline(verdict),
        missing=what_is_missing(studies, trials, galleries),
        warnings=verdict.get("warnings", []),
        ratio_panels=_ratio_panels(studies, trials, plots),
        forest=_forest(verdict, plots),
        verdict_rows=verdict_rows(verdict),
        training_panels=_training_panels(trials, history, plots),
        plateaus=[],
        galleries=galleries,
        spectra=_spectra(galleries, plots),
        runs=[how_it_was_run(study) for study in studies],
        downloads=downloads(trials, history, verdict, plans if len(plans) > 1 else next(iter(plans.values()))),
        trial_count=trials.num_rows,
        refresh=refresh_seconds,
        written=datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        style=_asset("report.css"),
        script=_asset("report.js"),
        plotly=Markup(get_plotlyjs()) if plots else "",
        plots=_as_json(plots),
        table=_as_json(trial_table(trials)),
    )


def _ratio_panels(studies: Sequence[Study], trials: pa.Table, plots: dict[str, Any]) -> list[list[Panel]]:
    """A list of panels (one per method) for each data set; their plots go into ``plots``."""
    curves = ratio_curves(trials)
    styles = series_styles(curve.setting for curve in curves)
    plan = studies[0].plan
    defaults = {"pmae": plan.get("default_ratio"), "mae": plan.get("mae_default_ratio")}
    rows: dict[str, dict[str, list[RatioCurve]]] = {}
    for curve in curves:
        rows.setdefault(curve.setting.dataset, {}).setdefault(curve.setting.method, []).append(curve)
    panels: list[list[Panel]] = []
    for dataset, methods in rows.items():
        limits = accuracy_range([curve for group in methods.values() for curve in group])
        panels.append([])
        for method, group in methods.items():
            panel = Panel(
                f"ratio-{len(plots)}",
                f"{METHOD_NAMES.get(method, method)} on {dataset}",
                "Linear-probe accuracy over the masking ratio",
                numbers_of(group),
            )
            plots[panel.id] = ratio_plot(group, styles, defaults.get(method), limits)
            panels[-1].append(panel)
    return panels


def _forest(verdict: dict[str, Any], plots: dict[str, Any]) -> Panel | None:
    plot = forest_plot(verdict["rows"], row_labels(verdict["rows"]))
    if plot is None:
        return None
    plots["forest"] = plot
    return Panel("forest", "", "Regret of each default with its 95 % bounds; the table below holds the numbers")


def _training_panels(trials: pa.Table, history: pa.Table, plots: dict[str, Any]) -> list[Panel]:
    panels = []
    curves = loss_curves(trials, history)
    for method in dict.fromkeys(curve.method for curve in curves):
        panel = Panel(f"training-{method}", METHOD_NAMES.get(method, method), "Training loss over the epochs")
        plots[panel.id] = training_plot([curve for curve in curves if curve.method == method])
        panels.append(panel)
    return panels


def _spectra(galleries: Sequence[Gallery], plots: dict[str, Any]) -> list[Panel]:
    panels = []
    for found in galleries:
        if found.spectrum is not None:
            panel = Panel(f"spectrum-{len(plots)}", found.study, "Explained variance over the number of components")
            plots[panel.id] = spectrum_plot(found.spectrum)
            panels.append(panel)
    return panels


def _asset(name: str) -> Markup:
    return Markup((TEMPLATES / name).read_text(encoding="utf-8"))


def _as_json(values: Any) -> Markup:
    """JSON that cannot end the script element that holds it."""
    text = json.dumps(values, ensure_ascii=False, separators=(",", ":"), default=str, allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))

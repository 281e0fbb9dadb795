"""The page's charts, each inline SVG with its numbers, so that nothing depends on seeing it, and pictures as PNG."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from markupsafe import Markup
from matplotlib.figure import Figure
from PIL import Image

from studies.errors import StudyError
from studies.figures.answer import answer_description, answer_figure
from studies.figures.forest import can_draw, forest_figure, regret_figure
from studies.figures.pictures import error_legend, error_scale, read_samples, spectrum_figure
from studies.figures.style import as_inline, paper_style
from studies.figures.training import loss_curves, training_figure
from studies.formatting import accuracy, in_points, interval, method_name, percent
from studies.records import Study
from studies.statistics.ratio_curves import Panel
from studies.views.wording import confidence, row_label, rung_cells

MAX_IMAGES, MAX_STRIPS = 8, 12
Cells = tuple[str, ...]


@dataclass(frozen=True)
class Gallery:
    """A study's pictures as data URIs, with captions; ``problem`` tells why there are none."""

    study: str
    strips: tuple[tuple[str, list[tuple[str, list[str]]]], ...] = ()
    legend: str = ""
    eigenimages: tuple[tuple[str, str], ...] = ()
    spectrum: np.ndarray | None = None
    problem: str | None = None


def make_charts(
    panels: Sequence[Panel],
    rows: Sequence[Mapping[str, Any]],
    trials: pa.Table,
    history: pa.Table,
    galleries: Sequence[Gallery],
) -> dict[str, list[dict[str, Any]]]:
    """Every chart that there is data for, by section of the page."""
    charts: dict[str, list[dict[str, Any]]]
    charts = {section: [] for section in ("answer", "differences", "regret", "training", "spectra")}

    def add(section: str, title: str, figure: Figure, alt: str, headings: Cells, cells: Sequence[Cells]) -> None:
        wide = figure.get_size_inches()[0] > 4
        svg = Markup(as_inline(figure, alt, f"c{sum(map(len, charts.values()))}"))
        charts[section].append({"title": title, "svg": svg, "headings": headings, "numbers": cells, "wide": wide})

    headings: Cells
    with paper_style():
        for panel in panels:
            headings = ("masked", "test accuracy", "95 % interval", "seeds")
            figure, description = answer_figure([panel]), answer_description(panel)
            add("answer", panel.title, figure, description, headings, _panel_numbers(panel))
        for row in filter(can_draw, rows):
            title = row_label(row, rows)
            headings = ("masked", "difference (points)", f"{confidence(row)} bounds")
            numbers = [(cells[0], *cells[2:4]) for cells in map(rung_cells, row["rungs"])]
            description = f"{title}: difference of every ratio to the default"
            add("differences", title, forest_figure([row]), description, headings, numbers)
        judged = [row for row in rows if row["regret"] is not None]
        if len({row["dataset"] for row in judged}) > 1:
            headings, cells = ("comparison", "regret (points)", "bounds", "verdict"), []
            for row in judged:
                bounds = interval(row["ci_low"], row["ci_high"])
                cells.append((row_label(row, rows), in_points(row["regret"]), bounds, row["verdict"]))
            add("regret", "Regret", regret_figure(judged), "Regret of the default by data set", headings, cells)
        losses = loss_curves(trials, history)
        for method, label in dict.fromkeys((curve.method, curve.label) for curve in losses):
            own = [curve for curve in losses if (curve.method, curve.label) == (method, label)]
            ends = [(percent(c.ratio), f"{c.losses[0]:.3g}", f"{c.losses[-1]:.3g}", str(c.trials)) for c in own]
            headings = ("masked", "first epoch", "last epoch", "trials")
            description = f"Training loss of {method_name(method)} over the epochs, a curve per ratio"
            add("training", label, training_figure(own), description, headings, ends)
        for found in galleries:
            if found.spectrum is not None:
                running = np.cumsum(found.spectrum)
                counts = [n for n in (1, 2, 5, 10, 20, 50, 100, 1000) if n <= len(running)]
                shares = [(str(n), accuracy(float(running[n - 1]))) for n in counts]
                figure, description = spectrum_figure(found.spectrum), "Variance held by the leading components"
                add("spectra", found.study, figure, description, ("components", "variance held"), shares)
    return charts


def _panel_numbers(panel: Panel) -> list[Cells]:
    if not panel.curve.confirmed:
        return [(percent(ratio), f"{accuracy(score)} (validation)", "", "1") for ratio, score in panel.curve.explored]
    numbers = []
    for rung in panel.curve.confirmed:
        bounds = "" if rung.interval is None else f"{accuracy(rung.interval[0])} to {accuracy(rung.interval[1])}"
        numbers.append((percent(rung.ratio), accuracy(rung.mean), bounds, str(rung.seeds)))
    return [*numbers, *((method_name(name), accuracy(value), "", "") for name, value in panel.references.items())]


def gallery(study: Study) -> Gallery:
    """The pictures in a study's ``samples.npz``; a corrupted file becomes the gallery's ``problem``."""
    try:
        samples = read_samples(study.folder)
    except StudyError as error:
        return Gallery(study.name, problem=str(error))
    if not samples.strips and samples.eigenimages is None:
        return Gallery(study.name, spectrum=samples.spectrum, problem="no samples.npz yet: no pictures to show")
    scale = error_scale(samples.strips)
    strips = []
    for strip in samples.strips[:MAX_STRIPS]:
        rows = [(caption, list(map(_png_uri, images[:MAX_IMAGES]))) for caption, images in strip.panels(scale)]
        strips.append((strip.title, rows))
    eigenimages = tuple((caption, _png_uri(image)) for caption, image in samples.captioned_eigenimages())
    return Gallery(study.name, tuple(strips), error_legend(scale), eigenimages, samples.spectrum)


def _png_uri(image: np.ndarray) -> str:
    """``image`` (H, W, 3), uint8, as a PNG data URI."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"

"""The page's charts, each inline SVG with its numbers, so that nothing depends on seeing it, and pictures as PNG."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
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
from studies.views.wording import confidence, row_label, rung_cells, verdict_word

MAX_IMAGES, MAX_STRIPS = 8, 12
Cells = tuple[str, ...]
Chart = dict[str, Any]


@dataclass
class Charts:
    """All charts of a page; empty sections have no data."""

    answer: list[Chart] = field(default_factory=list)
    differences: list[Chart] = field(default_factory=list)
    regret: Chart | None = None
    training: list[Chart] = field(default_factory=list)
    spectra: list[Chart] = field(default_factory=list)
    count: int = 0

    def make(self, title: str, figure: Figure, description: str, headings: Cells, numbers: Iterable[Cells]) -> Chart:
        """The next chart; ``description`` is for readers who cannot see it."""
        wide = figure.get_size_inches()[0] > 4
        svg = Markup(as_inline(figure, description, f"c{self.count}"))
        self.count += 1
        return {"title": title, "svg": svg, "headings": headings, "numbers": list(numbers), "wide": wide}


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
) -> Charts:
    """Every chart that there is data for."""
    charts = Charts()
    headings: Cells
    with paper_style():
        for panel in panels:
            headings, numbers = ("masked", "test accuracy", "95 % interval", "seeds"), _panel_numbers(panel)
            figure, description = answer_figure([panel]), answer_description(panel)
            charts.answer.append(charts.make(panel.title, figure, description, headings, numbers))
        for row in filter(can_draw, rows):
            title = row_label(row, rows)
            headings = ("masked", "difference (points)", f"{confidence(row)} bounds")
            cells = map(rung_cells, row["rungs"])
            numbers = [(masked, difference, bounds) for masked, _, difference, bounds, _ in cells]
            description = f"{title}: difference of every ratio to the default"
            charts.differences.append(charts.make(title, forest_figure([row]), description, headings, numbers))
        judged = [row for row in rows if row["regret"] is not None]
        if len({row["dataset"] for row in judged}) > 1:
            headings, numbers = ("comparison", "regret (points)", "bounds", "verdict"), []
            for row in judged:
                bounds = interval(row["ci_low"], row["ci_high"])
                numbers.append((row_label(row, rows), in_points(row["regret"]), bounds, verdict_word(row)))
            description = "Regret of the default by data set"
            charts.regret = charts.make("Regret", regret_figure(judged), description, headings, numbers)
        losses = loss_curves(trials, history)
        for method, label in dict.fromkeys((curve.method, curve.label) for curve in losses):
            own = [curve for curve in losses if (curve.method, curve.label) == (method, label)]
            numbers = [(percent(c.ratio), f"{c.losses[0]:.3g}", f"{c.losses[-1]:.3g}", str(c.trials)) for c in own]
            headings = ("masked", "first epoch", "last epoch", "trials")
            description = f"Training loss of {method_name(method)} over the epochs, a curve per ratio"
            charts.training.append(charts.make(label, training_figure(own), description, headings, numbers))
        for found in galleries:
            if found.spectrum is not None:
                running = np.cumsum(found.spectrum)
                counts = [n for n in (1, 2, 5, 10, 20, 50, 100, 1000) if n <= len(running)]
                numbers = [(str(n), accuracy(float(running[n - 1]))) for n in counts]
                figure, description = spectrum_figure(found.spectrum), "Variance held by the leading components"
                headings = ("components", "variance held")
                charts.spectra.append(charts.make(found.study, figure, description, headings, numbers))
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

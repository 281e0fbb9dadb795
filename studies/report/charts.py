"""The page's charts: each is inline SVG with the table of its numbers, so that nothing depends on seeing it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from markupsafe import Markup
from matplotlib.figure import Figure

from studies.figures.answer import answer_description, answer_panel
from studies.figures.forest import can_draw, forest_figure, regret_figure
from studies.figures.pictures import spectrum_figure
from studies.figures.style import paper_style
from studies.figures.svg import as_inline
from studies.figures.training import training_figure
from studies.formatting import accuracy, in_points, interval, percent
from studies.report.pictures import Gallery
from studies.statistics.ratio_curves import Panel
from studies.views.loss_curves import loss_curves
from studies.views.wording import confidence, method_name, row_label, verdict_word


@dataclass(frozen=True)
class Chart:
    """A chart, its description and its numbers as a table."""

    title: str
    svg: Markup
    headings: tuple[str, ...] = ()
    numbers: tuple[tuple[str, ...], ...] = ()
    wide: bool = False


@dataclass
class Charts:
    """All charts of a page; empty sections have no data."""

    answer: list[Chart] = field(default_factory=list)
    differences: list[Chart] = field(default_factory=list)
    regret: Chart | None = None
    training: list[Chart] = field(default_factory=list)
    spectra: list[Chart] = field(default_factory=list)

    def all(self) -> Iterator[Chart]:
        """Every chart."""
        yield from (*self.answer, *self.differences, *self.training, *self.spectra)
        if self.regret is not None:
            yield self.regret


def make_charts(
    panels: Sequence[Panel],
    rows: Sequence[Mapping[str, Any]],
    trials: pa.Table,
    history: pa.Table,
    galleries: Sequence[Gallery],
) -> Charts:
    """Every chart that there is data for."""
    charts, number = Charts(), iter(range(10_000))
    headings: tuple[str, ...]
    numbers: list[tuple[str, ...]]

    def chart(title: str, figure: Figure, description: str, headings: Sequence[str], numbers: Any) -> Chart:
        wide = figure.get_size_inches()[0] > 4
        svg = Markup(as_inline(figure, description, f"c{next(number)}"))
        return Chart(title, svg, tuple(headings), tuple(numbers), wide)

    with paper_style():
        for panel in panels:
            headings = ("masked", "test accuracy", "95 % interval", "seeds")
            numbers = _panel_numbers(panel)
            charts.answer.append(chart(panel.title, answer_panel(panel), answer_description(panel), headings, numbers))
        for row in filter(can_draw, rows):
            title = row_label(row, rows)
            headings = ("masked", "difference (points)", f"{confidence(row)} bounds")
            figure = forest_figure([row])
            charts.differences.append(
                chart(title, figure, f"{title}: difference of every ratio to the default", headings, _differences(row))
            )
        judged = [row for row in rows if row["regret"] is not None]
        if len({row["dataset"] for row in judged}) > 1:
            headings = ("comparison", "regret (points)", "bounds", "verdict")
            numbers = [
                (
                    row_label(row, rows),
                    in_points(row["regret"]),
                    interval(row["ci_low"], row["ci_high"]),
                    verdict_word(row),
                )
                for row in judged
            ]
            charts.regret = chart(
                "Regret", regret_figure(judged), "Regret of the default by data set", headings, numbers
            )
        losses = loss_curves(trials, history)
        for method, label in dict.fromkeys((curve.method, curve.label) for curve in losses):
            own = [curve for curve in losses if (curve.method, curve.label) == (method, label)]
            numbers = [(percent(c.ratio), f"{c.losses[0]:.3g}", f"{c.losses[-1]:.3g}", str(c.trials)) for c in own]
            headings = ("masked", "first epoch", "last epoch", "trials")
            title = f"Training loss of {method_name(method)} over the epochs, a curve per ratio"
            charts.training.append(chart(label, training_figure(own), title, headings, numbers))
        for found in galleries:
            if found.spectrum is not None:
                running = np.cumsum(found.spectrum)
                counts = [n for n in (1, 2, 5, 10, 20, 50, 100, 1000) if n <= len(running)]
                numbers = [(str(n), accuracy(float(running[n - 1]))) for n in counts]
                title = "Variance held by the leading components"
                headings = ("components", "variance held")
                charts.spectra.append(chart(found.study, spectrum_figure(found.spectrum), title, headings, numbers))
    return charts


def _panel_numbers(panel: Panel) -> list[tuple[str, ...]]:
    if not panel.curve.confirmed:
        return [(percent(ratio), f"{accuracy(score)} (validation)", "", "1") for ratio, score in panel.curve.explored]
    numbers = [
        (
            percent(rung.ratio),
            accuracy(rung.mean),
            "" if rung.interval is None else f"{accuracy(rung.interval[0])} to {accuracy(rung.interval[1])}",
            str(rung.seeds),
        )
        for rung in panel.curve.confirmed
    ]
    return [*numbers, *((method_name(name), accuracy(value), "", "") for name, value in panel.references.items())]


def _differences(row: Mapping[str, Any]) -> list[tuple[str, ...]]:
    return [
        (
            percent(rung["ratio"]),
            "default" if rung["is_default"] else in_points(rung["difference"], True),
            interval(rung["low"], rung["high"], True),
        )
        for rung in row["rungs"]
    ]

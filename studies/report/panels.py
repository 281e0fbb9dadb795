"""Where each plot goes: the report's panels, section by section, with headings and the numbers behind them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from studies.curves import DEFAULT_MARGIN, DEFAULT_RATIOS, RatioCurve, ratio_curves
from studies.histories import loss_curves
from studies.palette import series_styles
from studies.plateaus import Plateau, plateaus
from studies.records import Study
from studies.report.pictures import Gallery
from studies.report.plot_layout import Plot
from studies.report.plots import accuracy_range, ratio_plot, spectrum_plot, training_plot
from studies.report.sections import numbers_of, shape_sentence
from studies.report.verdict_plots import forest_plot, plateau_plot
from studies.sentences import method_name, row_labels


@dataclass(frozen=True)
class Panel:
    """A plot's place in the page: its element, heading, description, and the numbers behind it as table rows."""

    id: str
    heading: str
    description: str
    numbers: tuple[tuple[str, ...], ...] = ()


@dataclass
class Panels:
    """All panels of a page; ``plots`` maps a panel's id to its Plotly figure. Empty sections have no data."""

    ratios: list[list[Panel]] = field(default_factory=list)
    forest: Panel | None = None
    plateau: Panel | None = None
    fitted: list[Plateau] = field(default_factory=list)
    shapes: list[str] = field(default_factory=list)
    training: list[Panel] = field(default_factory=list)
    spectra: list[Panel] = field(default_factory=list)
    plots: dict[str, Plot] = field(default_factory=dict)

    def add(self, heading: str, description: str, plot: Plot, numbers: tuple[tuple[str, ...], ...] = ()) -> Panel:
        """Give ``plot`` an element of its own."""
        panel = Panel(f"plot-{len(self.plots)}", heading, description, numbers)
        self.plots[panel.id] = plot
        return panel


def make_panels(
    studies: Sequence[Study],
    trials: pa.Table,
    history: pa.Table,
    verdict: dict[str, Any],
    galleries: Sequence[Gallery],
) -> Panels:
    """Every panel that the tables have the data for."""
    plan = studies[0].plan
    given = {"pmae": plan.get("default_ratio"), "mae": plan.get("mae_default_ratio")}
    defaults = DEFAULT_RATIOS | {method: ratio for method, ratio in given.items() if ratio is not None}
    panels = Panels()
    fitted = plateaus(trials, plan.get("margin") or DEFAULT_MARGIN)
    _add_ratios(panels, ratio_curves(trials), fitted, defaults)
    forest = forest_plot(verdict["rows"], row_labels(verdict["rows"]))
    if forest is not None:
        panels.forest = panels.add(
            "", "Regret of each default with its bounds; the table below holds the numbers", forest
        )
    if fitted:
        plot = plateau_plot(fitted, series_styles(p.setting for p in fitted), defaults)
        panels.plateau = panels.add("", "Ratios that do as well as the best, within the margin", plot)
        panels.fitted = fitted
        panels.shapes = [shape_sentence(p) for p in fitted]
    losses = loss_curves(trials, history)
    for method in dict.fromkeys(curve.method for curve in losses):
        plot = training_plot([curve for curve in losses if curve.method == method])
        panels.training.append(panels.add(method_name(method), "Training loss over the epochs", plot))
    for found in galleries:
        if found.spectrum is not None:
            plot = spectrum_plot(found.spectrum)
            panels.spectra.append(panels.add(found.study, "Explained variance over the number of components", plot))
    return panels


def _add_ratios(
    panels: Panels, curves: Sequence[RatioCurve], fitted: Sequence[Plateau], defaults: dict[str, float]
) -> None:
    """A row of panels (one per method) for each data set."""
    styles = series_styles(curve.setting for curve in curves)
    fits = {p.setting: p.fit for p in fitted}
    rows: dict[str, dict[str, list[RatioCurve]]] = {}
    for curve in curves:
        rows.setdefault(curve.setting.dataset, {}).setdefault(curve.setting.method, []).append(curve)
    for dataset, methods in rows.items():
        limits = accuracy_range([curve for group in methods.values() for curve in group])
        panels.ratios.append(
            [
                panels.add(
                    f"{method_name(method)} on {dataset}",
                    "Linear-probe accuracy over the masking ratio",
                    ratio_plot(group, styles, defaults.get(method), limits, fits),
                    numbers_of(group),
                )
                for method, group in methods.items()
            ]
        )

"""Draw whatever figures a study folder has the data for, as PNG, SVG and PDF at column widths (89 and 183 mm)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from matplotlib.figure import Figure

from studies.errors import StudyError
from studies.figures.answer import answer_figure
from studies.figures.forest import can_draw, forest_figure, regret_figure
from studies.figures.pictures import eigenimage_figure, error_scale, read_samples, spectrum_figure, strip_figure
from studies.figures.style import FORMATS, as_bytes, paper_style
from studies.figures.training import loss_curves, training_figure
from studies.records import Study, read_study
from studies.statistics.ratio_curves import make_panels
from studies.storage.atomic import write_file
from studies.verdict import current_verdict
from studies.views.wording import judged_rows


def draw_figures(study_folder: Path | str) -> list[Path]:
    """Draw a study's figures into its ``figures`` folder; what it has no data for is left out.

    Returns:
        The files written, each as PNG, SVG and PDF: ``answer`` (accuracy over the ratio, all panels) and
        one ``answer_<data set>_<method>`` per panel, ``differences``, ``regret`` (of several comparisons),
        ``training_curves``, ``spectrum``, ``eigenimages`` and a ``reconstruction`` per encoder sampled.

    Raises:
        StudyError: the folder holds no study, or a file of it is corrupted.
    """
    study = read_study(study_folder)
    folder = study.folder / "figures"
    folder.mkdir(exist_ok=True)
    written = []
    with paper_style():
        for name, figure in _figures(study):
            for kind in FORMATS:
                written.append(folder / f"{name}.{kind}")
                write_file(written[-1], as_bytes(figure, kind))
    return written


def ratio_figure(study: Study) -> Figure:
    """Accuracy over the achieved masking ratio, a panel per data set and method; see :meth:`Study.curve`."""
    panels = make_panels(study.trials, judged_rows(current_verdict([study])), study.plan)
    if not panels:
        raise StudyError(f"{study.name} has no finished trial yet; there is nothing to draw")
    with paper_style():
        figure = answer_figure(panels)
        picture = as_bytes(figure, "png")
    # IPython shows what has this method; a figure alone is shown only after %matplotlib inline.
    figure._repr_png_ = lambda: picture  # type: ignore[attr-defined]
    return figure


def _figures(study: Study) -> Iterator[tuple[str, Figure]]:
    rows = judged_rows(current_verdict([study]))
    panels = make_panels(study.trials, rows, study.plan)
    if panels:
        yield "answer", answer_figure(panels)
    if len(panels) > 1:
        for panel in panels:
            name = _file_name(f"{panel.curve.setting.dataset} {panel.curve.label}")
            yield f"answer_{name}", answer_figure([panel])
    if any(map(can_draw, rows)):
        yield "differences", forest_figure(rows)
    if sum(row["regret"] is not None for row in rows) > 1:
        yield "regret", regret_figure(rows)
    losses = loss_curves(study.trials, study.history)
    if losses:
        yield "training_curves", training_figure(losses)
    samples = read_samples(study.folder)
    if samples.spectrum is not None:
        yield "spectrum", spectrum_figure(samples.spectrum)
    if samples.eigenimages is not None:
        yield "eigenimages", eigenimage_figure(samples)
    scale = error_scale(samples.strips)
    for strip in samples.strips:
        yield _file_name(f"reconstruction {strip.candidate['label']}"), strip_figure(strip, scale)


def _file_name(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "_", text.lower()).strip("_.")

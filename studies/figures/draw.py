"""Draw whatever figures a study folder has the data for; each figure's making is in a module beside this one."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure

from studies.curves import DEFAULT_MARGIN, DEFAULT_RATIOS, ratio_curves
from studies.figures.pictures import eigenimage_figure, spectrum_figure, strip_figure
from studies.figures.ratio import ratio_figure
from studies.figures.style import paper_style
from studies.figures.training import training_figure
from studies.figures.verdicts import forest_figure, plateau_figure
from studies.files import write_file
from studies.histories import loss_curves
from studies.judged import current_verdict
from studies.plateaus import plateaus
from studies.records import Study, read_study
from studies.samples import Samples, read_samples
from studies.sentences import row_labels


def draw_figures(study_folder: Path | str) -> list[Path]:
    """Draw a study's figures into its ``figures`` folder; what it has no data for is left out.

    Returns:
        The PNG files written: ``ratio_curve``, ``regret``, ``plateau``, ``training_curves``, ``spectrum``,
        ``eigenimages`` and a ``reconstruction`` per encoder sampled.

    Raises:
        StudyError: the folder holds no study, or a file of it is damaged.
    """
    study = read_study(study_folder)
    folder = study.folder / "figures"
    folder.mkdir(exist_ok=True)
    written = []
    with paper_style():
        for name, draw in _wanted(study):
            path = folder / f"{name}.png"
            write_file(path, _as_png(draw()))
            written.append(path)
    return written


def _wanted(study: Study) -> Iterator[tuple[str, Callable[[], Figure]]]:
    given = {"pmae": study.plan.get("default_ratio"), "mae": study.plan.get("mae_default_ratio")}
    defaults = DEFAULT_RATIOS | {method: ratio for method, ratio in given.items() if ratio is not None}
    curves = ratio_curves(study.trials)
    fitted = plateaus(study.trials, study.plan.get("margin") or DEFAULT_MARGIN)
    if curves:
        yield "ratio_curve", lambda: ratio_figure(curves, defaults, {p.setting: p.fit for p in fitted})
    verdict = current_verdict([study])
    if any(row.get("regret") is not None for row in verdict["rows"]):
        yield "regret", lambda: forest_figure(verdict["rows"], row_labels(verdict["rows"]))
    if fitted:
        yield "plateau", lambda: plateau_figure(fitted, defaults)
    losses = loss_curves(study.trials, study.history)
    if losses:
        yield "training_curves", lambda: training_figure(losses)
    yield from _of_samples(read_samples(study.folder))


def _of_samples(samples: Samples) -> Iterator[tuple[str, Callable[[], Figure]]]:
    spectrum, eigenimages = samples.spectrum, samples.eigenimages
    if spectrum is not None:
        yield "spectrum", lambda: spectrum_figure(spectrum)
    if eigenimages is not None:
        yield "eigenimages", lambda: eigenimage_figure(eigenimages, spectrum)
    for strip in samples.strips:
        suffix = re.sub(r"[^a-z0-9.]+", "_", strip.label.lower()).strip("_.")
        yield "_".join(filter(None, ("reconstruction", suffix))), partial(strip_figure, strip)


def _as_png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", bbox_inches="tight", metadata={"Software": None})
    return buffer.getvalue()

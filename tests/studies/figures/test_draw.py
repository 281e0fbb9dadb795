"""Figures come out for complete and partial studies, in three formats, and show what the table says."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from studies.figures import draw_figures
from studies.figures.answer import answer_figure
from studies.figures.forest import forest_figure
from studies.figures.style import COLUMN, as_inline, spread
from studies.records import StudyWriter, read_study
from studies.statistics.ratio_curves import make_panels
from studies.views.wording import judged_rows
from tests.studies.make_study import make_study, trial


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study with a verdict of the present schema."""
    return make_study(tmp_path_factory.mktemp("runs"), judged=True)


def panels_of(folder: Path) -> list[Any]:
    study = read_study(folder)
    return make_panels(study.trials, judged_rows(study.stored_verdict or {"rows": []}), study.plan)


def test_a_complete_study_has_every_figure_in_three_formats(judged: Path, tmp_path: Path) -> None:
    own = shutil.copytree(judged, tmp_path / "digits-quick")
    written = draw_figures(own)
    names = {path.stem for path in written}
    assert names >= {
        "answer", "answer_digits_pmae_patch_2", "differences", "regret", "training_curves", "spectrum", "eigenimages",
        "reconstruction_pmae_r_0.20_p_2",
    }  # fmt: skip
    assert {path.suffix for path in written} == {".png", ".svg", ".pdf"} and len(written) == 3 * len(names)
    for name in names:
        with Image.open(own / "figures" / f"{name}.png") as picture:
            gray = np.asarray(picture.convert("L"))
            assert min(picture.size) > 200 and gray.std() > 5, f"{name} is empty"
    with Image.open(own / "figures" / "answer.png") as wide, Image.open(own / "figures" / "differences.png") as narrow:
        assert (round(wide.size[0] / 300 * 25.4), round(narrow.size[0] / 300 * 25.4)) == (183, 89)


def test_two_rows_are_enough_and_failures_alone_draw_nothing(tmp_path: Path) -> None:
    for name, status, expected in (("few", "done", 3), ("lost", "failed", 0)):
        with StudyWriter(tmp_path / name, name) as writer:
            writer.add_trials([trial("digits", "explore", m, 0.2, 2, 1, status=status) for m in ("pmae", "mae")])
        assert len({path.stem for path in draw_figures(tmp_path / name)}) == expected


def test_panel_has_achieved_ratios_seeds_controls_and_the_default_on_the_axis(judged: Path) -> None:
    panel = panels_of(judged)[0]
    axes, strip = answer_figure([panel]).axes
    texts = [text.get_text() for text in axes.texts]
    assert "default 20 %" in texts and "raw pixels 95.9 % (above)" in texts
    assert any(text.startswith("untrained encoder 59.6 %") for text in texts)
    means = next(line for line in axes.get_lines() if len(line.get_xdata()) == 7 and line.get_linewidth() > 1)
    assert np.allclose(means.get_ydata(), [rung.mean for rung in panel.curve.confirmed])
    assert any(abs(r - rung.nominal) > 1e-6 for r, rung in zip(means.get_xdata(), panel.curve.confirmed, strict=True))
    hairlines = [line for line in axes.get_lines() if len(line.get_xdata()) == 7 and line.get_linewidth() < 1]
    assert len(hairlines) == 5
    assert not axes.get_shared_y_axes().joined(axes, strip)  # validation and test are never on one axis


def test_published_curve_is_drawn_only_where_the_data_set_is_the_papers_and_it_fits(tmp_path: Path) -> None:
    for dataset in ("cifar10", "digits"):
        folder = make_study(tmp_path, dataset, dataset=dataset, samples=False, seeds=2, explored=2)
        texts = [text.get_text() for text in answer_figure([panels_of(folder)[0]]).axes[0].texts]
        assert not any("paper" in text for text in texts)  # CIFAR-10's lies at 53 to 59 %, off this axis


def test_forest_names_the_default_and_leaves_out_rows_without_differences(judged: Path) -> None:
    rows = judged_rows(read_study(judged).stored_verdict or {"rows": []})
    empty = {**rows[0], "rungs": []}
    axes = forest_figure([*rows, empty]).axes
    assert len(axes) == 2
    assert [label.get_text() for label in axes[1].get_yticklabels()] == ["25 %", "50 %", "75 %", "87.5 %"]
    assert "default" in [text.get_text() for text in axes[0].texts]


def test_svg_follows_the_pages_colors_and_tooltips_cannot_inject_markup(judged: Path) -> None:
    panel = panels_of(judged)[0]
    svg = as_inline(answer_figure([panel]), '"><script>', "c1")
    assert "<script" not in svg and "var(--pmae)" in svg and "#0072b2" not in svg
    assert svg.count("<title>") > 40 and 'viewBox="' in svg
    assert abs(float(svg.split('viewBox="')[1].split()[2]) / 72 - COLUMN) < 0.01


def test_labels_are_spread_without_changing_their_order() -> None:
    places = spread([0.5, 0.51, 0.1, 0.98, 0.99], 0.1, 0.0, 1.0)
    ordered = [places[i] for i in (2, 0, 1, 3, 4)]
    assert all(b - a > 0.099 for a, b in itertools.pairwise(ordered)) and max(places) <= 1.0 + 1e-9

"""Figures come out for whole and partial studies, show what the table says, and use colours that can be told apart."""

from __future__ import annotations

import colorsys
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from studies.curves import ratio_curves
from studies.figures import draw_figures
from studies.figures.ratio import ratio_figure
from studies.figures.verdicts import forest_figure
from studies.palette import METHOD_COLOURS, series_styles
from studies.records import StudyWriter, read_study
from tests.studies.make_study import make_study, trial


@pytest.fixture
def own(digits: Path, tmp_path: Path) -> Path:
    return shutil.copytree(digits, tmp_path / "digits-quick")


def test_a_whole_study_has_every_figure(own: Path) -> None:
    written = {path.stem for path in draw_figures(own)}
    assert written >= {
        "ratio_curve", "regret", "training_curves", "spectrum", "eigenimages", "reconstruction",
    }  # fmt: skip
    for name in written:
        with Image.open(own / "figures" / f"{name}.png") as picture:
            grey = np.asarray(picture.convert("L"))
            assert min(picture.size) > 200 and grey.std() > 5, f"{name} is empty"


def test_two_rows_are_enough_and_failures_alone_draw_nothing(tmp_path: Path) -> None:
    for name, status, expected in (("few", "done", {"ratio_curve"}), ("lost", "failed", set())):
        with StudyWriter(tmp_path / name, name) as writer:
            writer.add_trials([trial("digits", "explore", m, 0.2, 2, 1, status=status) for m in ("pmae", "mae")])
        assert {path.stem for path in draw_figures(tmp_path / name)} == expected


def test_curve_shows_the_means_and_the_default(own: Path) -> None:
    curves = ratio_curves(read_study(own).trials)
    figure = ratio_figure(curves)
    left = figure.axes[0]
    assert left.get_title() == "PMAE"
    drawn = {tuple(line.get_xdata()) for line in left.get_lines()}
    assert (0.1, 0.2, 0.3, 0.5) in drawn
    assert any(np.allclose(line.get_xdata(), 0.2) for line in left.get_lines())
    best = next(line for line in left.get_lines() if len(line.get_xdata()) == 4)
    assert np.allclose(best.get_ydata(), [p.mean for p in curves[0].confirmed])


def test_published_curve_is_behind_only_where_the_data_set_is_the_papers(tmp_path: Path) -> None:
    for dataset, expected in (("cifar10", True), ("digits", False)):
        folder = make_study(tmp_path, dataset, dataset=dataset, samples=False, seeds=2, explored=2)
        labels = ratio_figure(ratio_curves(read_study(folder).trials)).axes[0].get_legend_handles_labels()[1]
        assert any("published" in label for label in labels) == expected


def test_forest_leaves_out_rows_without_a_regret() -> None:
    rows = [
        {"regret": 0.01, "ci_low": 0.0, "ci_high": 0.02, "margin": 0.01, "verdict": "inconclusive"},
        {"regret": None},
    ]
    axes = forest_figure(rows, ["judged", "not judged"]).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["judged"]


def test_colours_of_one_method_differ_in_lightness(digits: Path) -> None:
    curves = ratio_curves(read_study(digits).trials)
    styles = series_styles(c.setting for c in curves)
    assert len({(s.colour, s.marker) for s in styles.values()}) == len(curves) == 4
    for colours in METHOD_COLOURS.values():
        red, green, blue = ([int(c[i : i + 2], 16) / 255 for c in colours[:2]] for i in (1, 3, 5))
        light = [colorsys.rgb_to_hls(r, g, b)[1] for r, g, b in zip(red, green, blue, strict=True)]
        assert abs(light[0] - light[1]) > 0.02

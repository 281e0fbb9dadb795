"""Strips of reconstructed images: titles, one error scale, files of earlier versions, signed pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from studies.figures.pictures import Strip, component_picture, error_scale, parse_label, read_samples, signed_picture


@pytest.mark.parametrize(
    ("label", "title", "visible"),
    [
        ("pmae r=0.20 p=4", "PMAE, 20 % masked, patch 4", "visible components"),
        ("mae r=0.75 p=4 stride 2", "MAE, 75 % masked, patch 4 stride 2", "visible patches"),
        ("pmae p=2 sampled", "PMAE, patch 2 sampled", "visible components"),
        ("my own", "my own", "visible components"),
    ],
)
def test_titles_are_words(label: str, title: str, visible: str) -> None:
    strip = Strip(label, *np.zeros((4, 1, 2, 2, 1)), parse_label(label))
    assert strip.title == title
    assert strip.panels(1.0)[1][0] == visible


def test_files_of_earlier_versions_are_completed(tmp_path: Path) -> None:
    original = np.full((2, 4, 4, 1), 100, np.uint8)
    visible = np.full((2, 4, 4, 1), 60, np.uint8)
    deviation = np.full((2, 4, 4, 1), 50 / 255, np.float32)
    arrays = {"original": original, "visible": visible, "prediction": deviation, "target": deviation}
    stored = {f"pmae r=0.20 p=2/{name}": array for name, array in arrays.items()}
    stored |= {f"mae r=0.75 p=2/{name}": array for name, array in (arrays | {"prediction": visible}).items()}
    np.savez(tmp_path / "samples.npz", **stored)
    pmae, mae = read_samples(tmp_path).strips
    assert (pmae.completed == 110).all() and np.allclose(pmae.error, 10 / 255)
    assert (mae.completed == 60).all() and np.allclose(mae.error, -40 / 255)
    assert error_scale([pmae, mae]) == pytest.approx(40 / 255)


def test_signed_pictures_are_white_at_zero_and_components_have_no_black_square() -> None:
    values = np.array([[-1.0, 0.0, 1.0]])[..., None]
    blue, white, red = signed_picture(values, 1.0)[0]
    assert (white == 255).all() and blue[2] > blue[0] and red[0] > red[2]
    assert component_picture(np.full((2, 2, 3), -0.1)).min() > 200  # the sign of a component is arbitrary

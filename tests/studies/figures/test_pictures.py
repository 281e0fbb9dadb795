"""Strips of reconstructed images: titles, one error scale, signed pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from studies.errors import StudyError
from studies.figures.pictures import Strip, component_picture, error_scale, read_samples, signed_picture


@pytest.mark.parametrize(
    ("candidate", "title", "visible"),
    [
        ({"method": "pmae", "ratio": 0.2, "patch_size": 4}, "PMAE, 20 % masked, patch 4", "visible components"),
        (
            {"method": "mae", "ratio": 0.75, "patch_size": 4, "patch_stride": 2},
            "MAE, 75 % masked, patch 4, stride 2",
            "visible patches",
        ),
        ({"method": "pmae", "patch_size": 2, "strategy": "sampled"}, "PMAE, patch 2, sampled", "visible components"),
    ],
)
def test_titles_are_words(candidate: dict[str, Any], title: str, visible: str) -> None:
    strip = Strip(candidate, *np.zeros((4, 1, 2, 2, 1)))
    assert strip.title == title
    assert strip.panels(1.0)[1][0] == visible


def test_strips_share_one_error_scale_and_a_file_without_a_part_is_refused(tmp_path: Path) -> None:
    images = np.full((2, 4, 4, 1), 100, np.uint8)
    arrays: dict[str, np.ndarray] = {}
    for label, error in (("a", 10 / 255), ("b", -40 / 255)):
        parts = {"original": images, "visible": images, "completed": images, "error": np.full(images.shape, error)}
        arrays |= {f"{label}/{name}": array for name, array in parts.items()}
        arrays[f"{label}/candidate"] = np.array(json.dumps({"label": label, "method": "pmae", "patch_size": 2}))
    np.savez(tmp_path / "samples.npz", **arrays)  # type: ignore[arg-type]
    strips = read_samples(tmp_path).strips
    assert [strip.candidate["label"] for strip in strips] == ["a", "b"]
    assert error_scale(strips) == pytest.approx(40 / 255)
    del arrays["b/error"]
    np.savez(tmp_path / "samples.npz", **arrays)  # type: ignore[arg-type]
    with pytest.raises(StudyError, match=r"samples\.npz cannot be read .*b/error.*delete it"):
        read_samples(tmp_path)


def test_signed_pictures_are_white_at_zero_and_components_have_no_black_square() -> None:
    values = np.array([[-1.0, 0.0, 1.0]])[..., None]
    blue, white, red = signed_picture(values, 1.0)[0]
    assert (white == 255).all() and blue[2] > blue[0] and red[0] > red[2]
    assert component_picture(np.full((2, 2, 3), -0.1)).min() > 200  # the sign of a component is arbitrary

"""Strips are made by ``reconstruct()``: constant pixels of visible patches stay as they are, classes differ."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pmae.config import preset
from pmae.data import load_images
from pmae.reconstruction import reconstruct
from pmae.trainer import pretrain
from studies.figures.pictures import read_samples
from tune.trial.image_strips import merge_samples, strip, write_strip
from tune.trial.spec import TrialSpec


@pytest.mark.parametrize("method", ["pmae", "mae"])
def test_strip_is_what_reconstruct_gives(method: str) -> None:
    images = load_images("digits")
    config = preset("quick").with_values({"masking.method": method, "optim.epochs": 1})
    result = pretrain(config, images, seed=3, device="cpu")
    found = strip(result, images, 6)
    rows = [int(np.flatnonzero((images.images == image).all(axis=(1, 2, 3)))[0]) for image in found["original"]]
    assert len({int(images.labels[row]) for row in rows}) == 6
    rebuilt = reconstruct(result.model, torch.from_numpy(found["original"]), result.statistics, result.config, 3)
    completed = rebuilt.completed.permute(0, 2, 3, 1).numpy()
    assert np.abs(found["completed"] - completed).max() <= 0.5 + 1e-3
    assert np.allclose(found["error"], (completed - found["original"]) / 255, atol=1e-5)
    if method == "mae":  # what is visible is not painted over, however constant it is
        shown = rebuilt.target.permute(0, 2, 3, 1).numpy() == 0
        border = (found["original"] == 0) & shown & (rebuilt.prediction.permute(0, 2, 3, 1).numpy() == 0)
        assert border.any() and (found["completed"][border] == 0).all()


def test_the_candidate_is_stored_with_its_strip(tmp_path) -> None:
    images = load_images("digits")
    config = preset("quick").with_values({"masking.method": "mae", "masking.ratio": 0.75, "optim.epochs": 1})
    result = pretrain(config, images, seed=3, device="cpu")
    write_strip(tmp_path, TrialSpec("confirm-x-3", "confirm", 3, "any label", result.config), result, images)
    merge_samples(tmp_path, None)
    (found,) = read_samples(tmp_path).strips
    assert found.candidate["ratio"] == 0.75
    assert found.title.startswith("MAE, 75 % masked, patch ") and found.panels(1.0)[1][0] == "visible patches"

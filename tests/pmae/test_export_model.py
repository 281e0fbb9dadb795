"""Whole models on disk: the same losses after a round trip, for both methods, and damage that is noticed."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from pmae.errors import DataError
from pmae.export import load_encoder, load_model, save_model
from pmae.reconstruction import reconstruct
from pmae.trainer import PretrainResult, pretrain


@pytest.fixture(scope="module", params=["pmae", "mae"])
def result(request, digits) -> PretrainResult:
    from pmae.config import PretrainConfig

    config = PretrainConfig.from_dict(
        {
            "masking": {"method": request.param},
            "model": {"patch_size": 4, "width": 16, "depth": 1, "heads": 2,
                      "decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2},
            "optim": {"epochs": 1, "batch_size": 100},
        }
    )  # fmt: skip
    return pretrain(config, digits, seed=0)


def test_a_loaded_model_reconstructs_and_encodes_as_before(result, digits, tmp_path):
    loaded = load_model(save_model(result, tmp_path / "model"))
    images = torch.from_numpy(digits[:5])
    before = reconstruct(result.model, images, result.statistics, result.config)
    after = reconstruct(loaded.model, images, loaded.statistics, loaded.config)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert (loaded.config, loaded.history, loaded.seed) == (result.config, result.history, result.seed)
    assert torch.equal(load_encoder(tmp_path / "model").encode(images), result.encoder.encode(images))
    if result.components is not None:
        assert np.array_equal(loaded.components.components, result.components.components)


def test_a_pmae_folder_that_becomes_a_mae_one_keeps_no_components(result, tmp_path):
    (tmp_path / "components.safetensors").write_bytes(b"old")
    save_model(result, tmp_path)
    assert (tmp_path / "components.safetensors").exists() == (result.components is not None)


@pytest.mark.parametrize("name", ["model.safetensors", "standardisation.safetensors", "components.safetensors"])
def test_damage_is_noticed(result, tmp_path, name):
    save_model(result, tmp_path)
    if not (tmp_path / name).exists():
        pytest.skip("MAE has no components")
    content = bytearray((tmp_path / name).read_bytes())
    content[-3] ^= 4
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=name):
        load_model(tmp_path)


def test_settings_that_do_not_fit_the_weights_are_refused(result, tmp_path):
    save_model(result, tmp_path)
    description = json.loads((tmp_path / "model.json").read_text())
    description["model"]["model"]["decoder_depth"] = 2
    (tmp_path / "model.json").write_text(json.dumps(description))
    with pytest.raises(DataError, match="does not describe"):
        load_model(tmp_path)
    with pytest.raises(DataError, match=r"no model\.json"):
        load_model(tmp_path / "nowhere")

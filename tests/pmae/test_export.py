"""Saved encoders: the same features after a round trip, strict in timm, and damage that is noticed."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from timm.models.vision_transformer import VisionTransformer

from pmae.config import ModelConfig, PretrainConfig
from pmae.data import load_images
from pmae.errors import ConfigError, DataError
from pmae.export import load_encoder, save_encoder
from pmae.model.encoder import Encoder, build_vit, pool_tokens

SHAPE = {"image_size": 16, "channels": 3, "width": 24, "depth": 2, "heads": 3, "mlp_ratio": 2.0}


def make_encoder(pool: str = "cls", **settings) -> Encoder:
    torch.manual_seed(0)
    mean, std = torch.rand(3, 16, 16) * 255, torch.rand(3, 16, 16) * 50 + 1
    return Encoder(build_vit(ModelConfig(**{**SHAPE, **settings})), mean, std, pool).eval()


@pytest.fixture
def images() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8))


def pooled(vit, x, pool):
    """Features of a timm model; for ``concat``, which timm does not have, it returns all tokens."""
    return pool_tokens(vit(x), pool) if pool == "concat" else vit(x)


@pytest.mark.parametrize("pool", ["cls", "mean", "concat"])
@pytest.mark.parametrize(
    "settings", [{}, {"patch_size": 8, "patch_stride": 4}, {"position": "sincos"}], ids=["plain", "overlap", "sincos"]
)
def test_a_loaded_encoder_gives_the_same_features(tmp_path, images, pool, settings):
    encoder = make_encoder(pool, **settings)
    loaded = load_encoder(save_encoder(encoder, tmp_path / "new" / "encoder"))
    assert torch.equal(loaded.encode(images), encoder.encode(images))
    assert not loaded.training and loaded.pool == pool


def test_the_weights_load_strictly_into_a_plain_timm_model(tmp_path, images):
    encoder = make_encoder(patch_size=4)
    save_encoder(encoder, tmp_path)
    plain = VisionTransformer(
        img_size=16, patch_size=4, in_chans=3, num_classes=0, embed_dim=24, depth=2, num_heads=3, mlp_ratio=2.0
    ).eval()
    plain.load_state_dict(safetensors.torch.load_file(tmp_path / "encoder.safetensors"), strict=True)
    assert torch.allclose(plain(encoder.standardize(images)), encoder.encode(images), atol=1e-6)


@pytest.mark.parametrize("pool", ["cls", "mean", "concat"])
@pytest.mark.parametrize("settings", [{}, {"position": "sincos"}, {"encoder": "vit_small_patch14_dinov2"}])
def test_the_files_alone_rebuild_the_encoder_in_timm(tmp_path, images, pool, settings):
    if "encoder" in settings:
        config = ModelConfig(image_size=16, channels=3, patch_size=4, **settings)
    else:
        config = ModelConfig(**{**SHAPE, "patch_size": 4, **settings})
    encoder = Encoder(build_vit(config), torch.zeros(3, 16, 16), torch.full((3, 16, 16), 255.0), pool).eval()
    save_encoder(encoder, tmp_path, config=config)
    model = timm.create_model(**json.loads((tmp_path / "encoder.json").read_text())["timm"]).eval()
    model.load_state_dict(safetensors.torch.load_file(tmp_path / "encoder.safetensors"), strict=True)
    assert torch.allclose(pooled(model, encoder.standardize(images), pool), encoder.encode(images), atol=1e-5)


def test_timm_has_no_overlapping_patches(tmp_path):
    save_encoder(make_encoder(patch_size=8, patch_stride=4), tmp_path)
    assert json.loads((tmp_path / "encoder.json").read_text())["timm"] is None


def test_a_timm_encoder_whose_shape_is_not_all_needs_its_config(tmp_path, images):
    config = ModelConfig(image_size=16, channels=3, patch_size=4, encoder="vit_small_patch14_dinov2")  # has LayerScale
    encoder = Encoder(build_vit(config), torch.zeros(3, 16, 16), torch.full((3, 16, 16), 255.0)).eval()
    with pytest.raises(ConfigError, match="does not describe this encoder"):
        save_encoder(encoder, tmp_path)
    assert torch.equal(
        load_encoder(save_encoder(encoder, tmp_path, config=config)).encode(images), encoder.encode(images)
    )


def test_settings_and_data_are_recorded(tmp_path):
    digits = load_images("digits")
    config = PretrainConfig(model=ModelConfig(image_size=8, channels=1, patch_size=4, width=16, depth=1, heads=2))
    encoder = Encoder(build_vit(config.model), torch.zeros(1, 8, 8), torch.ones(1, 8, 8))
    save_encoder(encoder, tmp_path, config=config, images=digits)
    description = json.loads((tmp_path / "encoder.json").read_text())
    assert PretrainConfig.from_dict(description["config"]) == config
    assert description["data"]["fingerprint"] == digits.fingerprint
    assert description["data"]["class_names"][3] == "3" and description["versions"]["timm"]


def test_another_process_reads_the_same_encoder(tmp_path, images):
    encoder = make_encoder()
    save_encoder(encoder, tmp_path)
    np.save(tmp_path / "images.npy", images.numpy())
    code = (
        "import sys, numpy, torch; from pmae.export import load_encoder; f = sys.argv[1];"
        "x = torch.from_numpy(numpy.load(f + '/images.npy'));"
        "numpy.save(f + '/features.npy', load_encoder(f).encode(x).numpy())"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    assert np.array_equal(np.load(tmp_path / "features.npy"), encoder.encode(images).numpy())


@pytest.mark.parametrize("name", ["encoder.safetensors", "standardisation.safetensors"])
@pytest.mark.parametrize("harm", ["flip", "cut", "remove"])
def test_damage_is_noticed(tmp_path, name, harm):
    save_encoder(make_encoder(), tmp_path)
    file = tmp_path / name
    content = bytearray(file.read_bytes())
    if harm == "flip":
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    elif harm == "cut":
        file.write_bytes(content[:-7])
    else:
        file.unlink()
    with pytest.raises(DataError, match=name):
        load_encoder(tmp_path)


def test_descriptions_that_do_not_fit_are_refused(tmp_path):
    save_encoder(make_encoder(), tmp_path)
    file = tmp_path / "encoder.json"
    good = json.loads(file.read_text())
    for change, message in [
        ({"format": "other"}, "not of the format"),
        ({"format_version": 99}, "format version 99"),
        ({"model": {**good["model"], "depth": 3}}, "does not describe"),
        ({"model": {**good["model"], "color": 3}}, "does not describe"),
        ({"model": 3}, "lacks"),
    ]:
        file.write_text(json.dumps({**good, **change}))
        with pytest.raises(DataError, match=message):
            load_encoder(tmp_path)
    file.write_text("{")
    with pytest.raises(DataError, match="is not JSON"):
        load_encoder(tmp_path)
    with pytest.raises(DataError, match=r"there is no encoder\.json in"):
        load_encoder(tmp_path / "elsewhere")


def test_nothing_is_ever_unpickled(tmp_path):
    save_encoder(make_encoder(), tmp_path)
    torch.save({"a": torch.ones(1)}, tmp_path / "encoder.safetensors")
    description = json.loads((tmp_path / "encoder.json").read_text())
    description["sha256"]["encoder.safetensors"] = hashlib.sha256(
        (tmp_path / "encoder.safetensors").read_bytes()
    ).hexdigest()
    (tmp_path / "encoder.json").write_text(json.dumps(description))
    with pytest.raises(DataError, match="not a safetensors file"):
        load_encoder(tmp_path)


def test_a_config_of_another_encoder_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="does not describe this encoder"):
        save_encoder(make_encoder(), tmp_path, config=ModelConfig(**{**SHAPE, "depth": 1}))
    # The same weights fit, but they mean something else with one head.
    with pytest.raises(ConfigError, match="does not describe this encoder"):
        save_encoder(make_encoder(), tmp_path, config=ModelConfig(**{**SHAPE, "heads": 1}))
    with pytest.raises(ConfigError, match=r"config \(32 px, 3 channels\) does not describe this encoder \(16 px"):
        save_encoder(make_encoder(), tmp_path, config=ModelConfig(**{**SHAPE, "image_size": 32}))
    assert not (tmp_path / "encoder.json").exists()

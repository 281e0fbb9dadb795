"""``preset("paper")`` against the recipe of Bizeul et al. 2025 (arXiv 2502.06314), line by line.

The settings are read off the resolved configuration; where a line is carried out by code, the code is asked too.
"""

from __future__ import annotations

import inspect
import math

import pytest
import torch

from pmae.components.bases import fit_basis
from pmae.config import ModelConfig, preset
from pmae.model.autoencoder import MaskedAutoencoder
from pmae.probes import finetune, linear, mlp
from pmae.training.loop import build_optimizer, learning_rate

PAPER = {
    "data": {"crop_scale": [0.2, 1.0], "flip": True, "image_size": None, "limit": None, "data_root": None,
             "data_seed": 0, "dataset": "cifar10"},
    "masking": {"method": "pmae", "ratio": 0.2, "ratio_range": None, "strategy": "fixed", "per": "image",
                "group_size": None,
                "loss": "components", "reduction": "image", "basis": "pca", "mask_unit": None,
                "normalize_target": False},
    "model": {"image_size": 32, "channels": 3, "patch_size": 8, "patch_stride": 8, "encoder": "vit_tiny", "width": 192,
              "depth": 12, "heads": 3, "mlp_ratio": 4.0, "decoder_width": 512, "decoder_depth": 8, "decoder_heads": 16,
              "position": "learned", "pool": "cls"},
    "optim": {"epochs": 800, "steps": None, "min_epochs": 1, "batch_size": 512, "accumulation_steps": 1,
              "learning_rate": 1.5e-4,
              "warmup_epochs": 40, "schedule": "cosine", "weight_decay": 0.05, "weight_decay_on": "matrices",
              "betas": [0.9, 0.95], "clip_grad_norm": None, "precision": "auto", "compile": "auto"},
    "probe": {"protocol": "paper", "knn_k": 20},
}  # fmt: skip


@pytest.fixture(scope="module")
def paper():
    return preset("paper", "cifar10").resolve(32, 3)


def test_every_setting_is_the_papers(paper):
    assert paper.to_dict() == PAPER


def test_the_baselines_recipe_differs_in_masking_alone(paper):
    baseline = preset("paper", "cifar10", "mae").resolve(32, 3).to_dict()
    assert {k: v for k, v in baseline.items() if k != "masking"} == {k: v for k, v in PAPER.items() if k != "masking"}
    assert baseline["masking"]["ratio"] == 0.75 and baseline["masking"]["strategy"] == "random"


def test_at_64_pixels_the_patch_stays_8(paper):
    assert preset("paper", "tinyimagenet").resolve(64, 3).model.tokens == 64
    assert paper.model.tokens == 16


def test_warm_up_to_the_scaled_rate_then_a_cosine_to_zero(paper):
    peak = 1.5e-4 * 512 / 256
    step = 1 / 98  # 50,000 images in batches of 512
    assert learning_rate(paper.optim, 0, step) == pytest.approx(peak * step / 40)
    assert learning_rate(paper.optim, 20 - step, step) == pytest.approx(peak / 2)
    assert learning_rate(paper.optim, 40, step) == pytest.approx(peak)
    for epoch in (100, 420, 799):
        wanted = peak * (1 + math.cos(math.pi * (epoch - 40) / 760)) / 2
        assert learning_rate(paper.optim, epoch, step) == pytest.approx(wanted)


def test_the_model_that_is_built_has_the_papers_shapes(paper):
    gray = ModelConfig(**{**PAPER["model"], "image_size": 16, "channels": 1})  # small pixels: the shapes stay
    model = MaskedAutoencoder(gray, fit_basis("pixel", torch.rand(8, 16, 16, 1).mul(255).byte().numpy()))
    encoder = model.encoder
    assert (encoder.embed_dim, len(encoder.blocks), encoder.blocks[0].attn.num_heads) == (192, 12, 3)
    assert encoder.blocks[0].mlp.fc1.out_features == 4 * 192 and encoder.patch_embed.patch_size == (8, 8)
    assert encoder.cls_token is not None and model.mask_token is None  # PMAE: all patches are seen
    assert (model.decoder_embed.out_features, len(model.decoder_blocks)) == (512, 8)
    assert model.decoder_blocks[0].attn.num_heads == 16
    optimizer = build_optimizer(model, paper.optim)
    assert isinstance(optimizer, torch.optim.AdamW)
    assert {g["betas"] for g in optimizer.param_groups} == {(0.9, 0.95)}
    assert sorted(g["weight_decay"] for g in optimizer.param_groups) == [0.0, 0.05]


def test_the_probes_protocols():
    assert (linear.EPOCHS, linear.WARMUP_EPOCHS, linear.BASE_LR, linear.MOMENTUM) == (100, 10, 0.1, 0.9)
    layers = [m for m in mlp._mlp(192, 10) if isinstance(m, torch.nn.Linear)]
    assert [(m.in_features, m.out_features) for m in layers] == [(192, 192), (192, 192), (192, 10)]
    schedule = inspect.signature(finetune).parameters
    assert (schedule["epochs"].default, schedule["base_learning_rate"].default) == (100, 1e-3)

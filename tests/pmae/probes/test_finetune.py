"""Fine-tuning: it learns, repeats, leaves the encoder given alone, and decays the rate by layer."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from pmae.config import DataConfig
from pmae.data import load_images
from pmae.errors import ConfigError, DataError, DivergedError
from pmae.probes import finetune
from pmae.probes.finetune import build_optimizer

QUICK = {"epochs": 3, "batch_size": 100}


def test_it_learns_and_leaves_the_encoder_alone(digits, encoder):
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    losses = []
    result = finetune(
        encoder, digits, epochs=12, batch_size=100, base_learning_rate=5e-3, on_epoch=lambda e, x: losses.append(x)
    )
    assert result.val_accuracy > 0.7 and result.test_accuracy > 0.7
    assert len(losses) == 12 and losses[-1] < losses[0] / 2 and result.details["train_loss"] == losses[-1]
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


def test_one_seed_fixes_everything(digits, encoder):
    settings = {**QUICK, "augmentation": DataConfig(crop_scale=(0.6, 1.0), flip=False), "score_test": False}
    first, again = (finetune(encoder, digits, 5, **settings) for _ in range(2))
    assert first == again and first.details["augmented"] and first.test_accuracy is None
    assert finetune(encoder, digits, 6, **settings).details["train_loss"] != first.details["train_loss"]


def test_layer_decay_lowers_the_rate_block_by_block(encoder):
    vit, head = encoder.vit, torch.nn.Linear(encoder.feature_width(), 10)
    rates = {id(p): g["lr"] for g in build_optimizer(vit, head, 1.0, 0.5).param_groups for p in g["params"]}
    assert len(rates) == len(list(vit.parameters())) + 2, "every parameter is trained once"
    assert rates[id(head.weight)] == 1.0
    top, bottom = rates[id(vit.blocks[1].attn.qkv.weight)], rates[id(vit.blocks[0].attn.qkv.weight)]
    assert bottom == top / 2 and rates[id(vit.patch_embed.proj.weight)] == bottom / 2
    assert {g["lr"] for g in build_optimizer(vit, head, 1.0, None).param_groups} == {1.0}


def test_a_loss_that_is_no_number_is_named(digits, encoder):
    with pytest.raises(DivergedError, match="epoch 0"):
        finetune(_diverged(encoder), digits, **QUICK)


def _diverged(encoder):
    with torch.no_grad():
        encoder.vit.cls_token.fill_(float("nan"))
    return encoder


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"layer_decay": 1.5}, "layer_decay is 1.5"), ({"epochs": 0}, "epochs 0"), ({"base_learning_rate": -1.0}, "rate")],
)
def test_impossible_settings_are_refused(digits, encoder, settings, message):
    with pytest.raises(ConfigError, match=message):
        finetune(encoder, digits, **settings)


def test_images_that_do_not_fit_are_refused(digits, encoder):
    color = dataclasses.replace(digits, images=np.repeat(digits.images, 3, axis=3), fingerprint="")
    with pytest.raises(DataError, match="3 channel"):
        finetune(encoder, color, **QUICK)
    with pytest.raises(DataError, match="have no labels"):
        finetune(encoder, load_images(digits.images[:100]), **QUICK)

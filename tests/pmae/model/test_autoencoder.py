"""The two forwards against plain formulas (and Hugging Face's ViTMAE where it is installed)."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from pmae.components import PrincipalComponents
from pmae.config import ModelConfig
from pmae.errors import ConfigError
from pmae.masking import draw_component_mask, repeat_masks
from pmae.model import autoencoder
from pmae.model.autoencoder import MaskedAutoencoder
from pmae.model.encoder import patchify, unpatchify

SMALL = {"width": 24, "depth": 2, "heads": 2, "decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2}


def mae(**kwargs: object) -> MaskedAutoencoder:
    extra = {k: kwargs.pop(k) for k in ("normalize_target",) if k in kwargs}
    shape = {"image_size": 8, "channels": 3, "patch_size": 2, **SMALL, **kwargs}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MaskedAutoencoder(ModelConfig(**shape), **extra).double().eval()  # type: ignore[arg-type]


def some_masks(batch: int, tokens: int, masked: int) -> torch.Tensor:
    keys = torch.rand(batch, tokens, generator=torch.Generator().manual_seed(1))
    return keys.argsort(1).argsort(1) < masked


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


@pytest.mark.parametrize(("patch", "stride"), [(2, 2), (4, 2), (4, 4), (4, 1)])
def test_unpatchify_undoes_patchify(images, patch, stride):
    patches = patchify(images, patch, stride)
    side = (8 - patch) // stride + 1
    assert patches.shape == (5, side**2, patch**2 * 3)
    assert torch.equal(patches[0, 1, :3], images[0, :, 0, stride])
    torch.testing.assert_close(unpatchify(patches, 8, patch, stride), images)


def test_overlapping_predictions_are_averaged_where_they_meet():
    patches = torch.zeros(1, 9, 16)  # patch 4, stride 2 on 8 px, gray
    patches[0, 4] = 1.0  # the middle patch, pixels 2..5 of both axes
    image = unpatchify(patches, 8, 4, 2)[0, 0]
    assert image[2, 2] == 1 / 4  # four patches meet there
    assert image[0, 0] == 0


def test_mae_loss_is_the_mean_over_masked_pixels(images):
    model, mask = mae(), some_masks(5, 16, 12)
    out = model(images, mask)
    target, predicted = patchify(images, 2), patchify(out.prediction.double(), 2)
    expected = ((target - predicted) ** 2).mean(-1)[mask].mean()
    torch.testing.assert_close(out.loss.double(), expected, rtol=1e-5, atol=0)


def test_mae_normalized_target(images):
    model, mask = mae(normalize_target=True), some_masks(5, 16, 12)
    out = model(images, mask)
    target = patchify(images, 2)
    target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6) ** 0.5
    expected = ((target - patchify(out.prediction.double(), 2)) ** 2).mean(-1)[mask].mean()
    torch.testing.assert_close(out.loss.double(), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize(("patch", "stride"), [(2, 2), (4, 2)])
def test_nothing_masked_reaches_the_mae_encoder(images, patch, stride):
    model = mae(patch_size=patch, patch_stride=stride)
    mask = some_masks(5, model.config.tokens, model.config.tokens * 3 // 4)
    out = model(images, mask)
    hidden = out.visible == 0
    assert hidden.any()
    torch.testing.assert_close(out.visible[~hidden], images[~hidden])
    changed = torch.where(hidden, images + 100.0, images)
    torch.testing.assert_close(model(changed, mask).prediction, out.prediction)


def test_a_visible_pixel_does_reach_the_encoder(images):
    model, mask = mae(), some_masks(5, 16, 12)
    shown = model(images, mask).visible != 0
    changed = torch.where(shown, images + 1.0, images)
    assert not torch.allclose(model(changed, mask).prediction, model(images, mask).prediction)


def test_encoder_alone_equals_the_full_pass_when_nothing_is_masked(images):
    model = mae()
    everything = torch.arange(16).expand(5, -1)
    full = model.encoder.forward_features(images)
    torch.testing.assert_close(model._encode_visible(images, everything), full)


def test_gradients_reach_every_trained_parameter(images):
    model = mae()
    model(images, some_masks(5, 16, 8)).loss.backward()
    missing = [n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert missing == []


@pytest.mark.parametrize("loss", ["components", "pixels"])
def test_masks_of_groups_give_the_losses_and_gradients_of_the_repeated_masks(images, monkeypatch, loss):
    monkeypatch.setattr(autoencoder, "MIN_BASIS_ENTRIES", 0)
    pixels = (images.permute(0, 2, 3, 1).repeat(60, 1, 1, 1) * 40 + 128).clamp(0, 255).to(torch.uint8)
    noise = torch.randint(0, 30, pixels.shape, generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
    components = PrincipalComponents.fit((pixels // 2 + noise).numpy())
    config = ModelConfig(image_size=8, channels=3, patch_size=2, **SMALL)
    with pytest.raises(ConfigError, match=r"fitted on images of shape \(3, 8, 8\), .* give \(1, 8, 8\)"):
        MaskedAutoencoder(dataclasses.replace(config, channels=1), components)
    model = MaskedAutoencoder(config, components, loss=loss).double()
    model.projection.basis = torch.linalg.qr(model.projection.basis)[0]  # orthonormal in float64 as well
    shared = draw_component_mask(model.projection.spectrum, 0.3, 2, torch.Generator().manual_seed(0))[0]
    assert model.projection.masked_columns(shared, 5) is not None
    found = []
    for mask in (shared, repeat_masks(shared, 5)):
        model.zero_grad()
        out = model(images, mask)
        out.loss.backward()
        values = [out.loss, out.squared_error, out.squared_target, out.masked_values]
        found.append([*(v.detach().clone() for v in values), *(p.grad.clone() for p in model.parameters())])
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-12)


def test_a_size_that_is_not_known_is_asked_for():
    with pytest.raises(ConfigError, match="image_size"):
        MaskedAutoencoder(ModelConfig(**SMALL))


def test_positions_are_timms_or_fixed():
    assert mae(position="learned").encoder.pos_embed.requires_grad
    fixed = mae(position="sincos").encoder.pos_embed
    assert not fixed.requires_grad
    assert fixed[0, 0].abs().sum() == 0


def test_timm_names_make_encoders():
    config = ModelConfig(image_size=16, channels=3, patch_size=4, encoder="vit_tiny_patch16_224", decoder_width=16)
    assert MaskedAutoencoder(config).encoder.embed_dim == 192
    with pytest.raises(ConfigError, match="class token"):
        MaskedAutoencoder(
            ModelConfig(image_size=16, channels=3, patch_size=4, encoder="vit_base_patch16_rope_reg1_gap_256")
        )


def test_forward_equals_hugging_faces_vit_mae(images):
    pytest.importorskip("transformers", reason="transformers is not installed (the test extra)")
    from benchmarks.hugging_face import build_peer, copy_weights

    model = mae(position="sincos")
    peer = build_peer(model.config, 0.75).double().eval()
    copy_weights(model, peer)
    noise = torch.rand(5, 16, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    mask = noise.argsort(1).argsort(1) >= 4  # ViTMAE keeps the smallest
    theirs = peer(images, noise=noise)
    ours = model(images, mask)
    assert torch.equal(theirs.mask.bool(), mask)
    torch.testing.assert_close(ours.loss.double(), theirs.loss, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(patchify(ours.prediction.double(), 2), theirs.logits, rtol=1e-4, atol=1e-5)

"""``preset("released-code")``: each switch against the released code's own formula, in torch, NumPy or transformers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from pmae.config import preset
from pmae.masking import MaskSampler, draw_component_mask
from pmae.model.autoencoder import MaskedAutoencoder
from pmae.training.loop import Training, build_optimizer, learning_rate

SMALL = {"patch_size": 4, "depth": 1, "decoder_width": 32, "decoder_depth": 1, "decoder_heads": 2, "epochs": 2,
         "batch_size": 16, "compile": "off", "precision": "fp32"}  # fmt: skip
IMAGES = np.random.default_rng(0).integers(0, 256, (96, 8, 8, 1), dtype=np.uint8)


@pytest.fixture(scope="module")
def released():
    return preset("released-code", "cifar10").resolve(32, 3)


def small_model(**settings) -> MaskedAutoencoder:
    torch.manual_seed(0)
    config = preset("released-code", method="mae").with_values({**SMALL, **settings}).resolve(8, 1)
    return MaskedAutoencoder(config.model)


def vit_mae(**settings):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed (the test extra)")
    # The released code's model_config, its misspelt number of heads included; transformers ignores that name.
    config = transformers.ViTMAEConfig(
        hidden_size=192, num_attention_head=3, intermediate_size=768, patch_size=8, image_size=32, mask_ratio=0.0,
        **settings,
    )  # fmt: skip
    return transformers.ViTMAEForPreTraining(config)


@pytest.mark.parametrize("method", ["pmae", "mae"])
def test_it_differs_from_the_paper_in_the_switches_alone(method):
    paper, released = (preset(name, "cifar10", method).resolve(32, 3).to_dict() for name in ("paper", "released-code"))
    changed = {(s, n): v for s, values in released.items() for n, v in values.items() if v != paper[s][n]}
    expected = {
        ("model", "encoder"): None, ("model", "heads"): 12, ("model", "position"): "sincos",
        ("optim", "schedule"): "released", ("optim", "weight_decay_on"): "all",
    }  # fmt: skip
    if method == "pmae":
        expected |= {("masking", "strategy"): "released", ("masking", "per"): "batch"}
    assert changed == expected


def test_a_changed_method_has_the_masks_of_its_own_recipe():
    mae = preset("released-code").with_values({"method": "mae"})
    assert mae == preset("released-code", method="mae") and mae.masking.per == "image"
    assert mae.with_values({"method": "pmae"}) == preset("released-code")
    both = preset("released-code").with_values({"per": "image"}).with_values({"method": "mae", "per": "batch"})
    assert (both.masking.per, both.with_values({"method": "pmae"}).masking.per) == ("batch", "batch")


def test_the_masked_prefix_is_that_of_the_released_loader():
    shares = np.sort(np.random.default_rng(1).pareto(1.2, 64))[::-1]
    shares = shares / shares.sum()
    seeded = [torch.Generator().manual_seed(3) for _ in range(2)]
    masks, _ = draw_component_mask(torch.tensor(shares.copy()), 0.2, 200, seeded[0], "released")
    orders = torch.rand(200, 64, generator=seeded[1]).argsort(dim=1, stable=True).numpy()
    empty = 0
    for mask, index in zip(masks.numpy(), orders, strict=True):
        masked = index[: np.argmin(np.abs(np.cumsum(shares[index]) - 0.2))]
        empty += len(masked) == 0
        assert sorted(np.flatnonzero(mask)) == sorted(masked if len(masked) else index[:1])
    assert empty  # where the released code's loss is NaN


def test_all_images_of_a_batch_share_one_mask():
    config = preset("released-code").with_values({"patch_size": 4}).resolve(8, 1)
    spectrum = torch.arange(64, 0, -1, dtype=torch.float64)
    generators = [torch.Generator().manual_seed(i) for i in range(2)]
    draws = [MaskSampler(config, spectrum / spectrum.sum()).draw(32, g, g) for g in generators]
    assert all(len(d.achieved) == 1 and (d.mask == d.mask[0]).all() for d in draws)
    assert not torch.equal(draws[0].mask, draws[1].mask)


def test_the_encoder_has_as_many_heads_as_transformers_gives_it(released):
    peer = vit_mae(num_hidden_layers=1, decoder_num_hidden_layers=1)
    assert (peer.config.num_attention_heads, peer.config.hidden_size) == (released.model.heads, released.model.width)
    encoder = small_model().encoder
    assert [b.attn.head_dim for b in encoder.blocks] == [16] and len(encoder.blocks[0].attn.qkv.weight) == 3 * 192


def test_positions_are_those_of_transformers_and_stay_fixed(released):
    peer = vit_mae(num_hidden_layers=1, decoder_num_hidden_layers=1)
    embeddings = peer.vit.embeddings
    embeddings.patch_embeddings.projection._is_hf_initialized = False  # transformers 5 leaves both tables at 0
    embeddings.initialize_weights()
    peer.decoder.initialize_weights(16)
    shape = {"depth": 1, "decoder_depth": 1}
    model = MaskedAutoencoder(preset("released-code", method="mae").with_values(shape).resolve(32, 3).model)
    for own, theirs in (
        (model.encoder.pos_embed, embeddings.position_embeddings),
        (model.decoder_pos_embed, peer.decoder.decoder_pos_embed),
    ):
        assert not own.requires_grad and not theirs.requires_grad
        torch.testing.assert_close(own.data, theirs.data, rtol=0, atol=1e-6)


def test_the_learning_rate_is_that_of_the_released_codes_schedulers(released):
    peak = 1.5e-4 * 512 / 256
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=peak)
    warmup = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 1 / 10 ** float(40 - epoch))
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=800)
    schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, [warmup, cosine], [40])
    assert (released.optim.epochs, released.optim.warmup_epochs) == (800, 40)
    for epoch in range(800):
        for within in (0.0, 0.5):  # one rate for all steps of an epoch
            rate = learning_rate(released.optim, epoch + within, 1 / 98)
            assert rate == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9), epoch
        optimizer.step()
        schedule.step()
    assert rate > 0.006 * peak  # it does not reach 0


@pytest.mark.parametrize(("decayed", "equal"), [("all", True), ("matrices", False)])
def test_weight_decay_is_that_of_adamw_on_all_parameters(decayed, equal):
    config = preset("released-code", method="mae").with_values({**SMALL, "weight_decay_on": decayed}).optim
    own, plain = small_model(position="learned"), small_model(position="learned")
    optimizers = [
        build_optimizer(own, config),
        torch.optim.AdamW(
            plain.parameters(), lr=config.learning_rate, weight_decay=0.05, betas=(0.9, 0.95), fused=True
        ),
    ]
    for model, optimizer in zip((own, plain), optimizers, strict=True):
        model(torch.ones(2, 1, 8, 8), torch.tensor([[True, False, True, False]] * 2)).loss.backward()
        optimizer.step()
    same = {
        n: torch.equal(p, q) for (n, p), (_, q) in zip(own.named_parameters(), plain.named_parameters(), strict=True)
    }
    assert all(same.values()) is equal
    assert same["decoder_pred.weight"]
    assert same["encoder.cls_token"] is equal and same["encoder.norm.weight"] is equal


def test_an_online_classifier_on_detached_features_leaves_the_encoder_as_it_is():
    """The released code adds its loss. AdamW's state and decay are per parameter, and the code clips no gradients."""
    config = preset("released-code").with_values(SMALL)
    trainings = [Training(config, IMAGES, seed=0, device=torch.device("cpu")) for _ in range(2)]
    with_classifier = trainings[1]
    classifier = nn.Linear(192, 10)
    start = classifier.weight.detach().clone()
    with_classifier.optimizer.add_param_group({"params": classifier.parameters(), "weight_decay": 0.05})
    update = with_classifier._update

    def add_loss(loss: torch.Tensor) -> None:
        cls = with_classifier.model.encoder(torch.ones(4, 1, 8, 8))
        update(loss + nn.functional.cross_entropy(classifier(cls.detach()), torch.arange(4)))

    with_classifier._update = add_loss
    for training in trainings:
        for _ in training.epochs():
            pass
    assert not torch.equal(classifier.weight, start)
    for (name, own), theirs in zip(
        trainings[0].model.named_parameters(), with_classifier.model.parameters(), strict=True
    ):
        assert torch.equal(own, theirs), name

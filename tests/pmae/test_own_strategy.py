"""A basis and a mask strategy of one's own, given to ``pretrain`` as objects."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pmae.components.bases import dct_matrix, fit_basis
from pmae.config import masked_count, preset
from pmae.errors import ConfigError
from pmae.masking import draw_component_mask, draw_patch_mask
from pmae.trainer import pretrain
from pmae.training.distributed import PMAETrainer

IMAGES = np.random.default_rng(0).integers(0, 256, (80, 8, 8, 1), dtype=np.uint8)
SHORT = {"epochs": 2, "depth": 1, "batch_size": 20, "patch_size": 2, "precision": "fp32"}


def train(method: str, images=IMAGES, components=None, draw_mask=None, **values):
    config = preset("quick", method=method).with_values({**SHORT, **values})
    return pretrain(config, images, components, seed=0, device="cpu", draw_mask=draw_mask)


def weights(result) -> list[torch.Tensor]:
    return [p.detach() for p in result.model.parameters()]


def test_a_basis_of_ones_own_trains_as_a_named_one_with_the_same_columns():
    components = fit_basis(dct_matrix, IMAGES)
    assert components.basis == "own:dct_matrix"
    own = train("pmae", components=components, basis="own:dct_matrix")
    named = train("pmae", components=fit_basis("dct", IMAGES), basis="dct")
    assert all(torch.equal(a, b) for a, b in zip(weights(own), weights(named), strict=True))
    assert own.config.hash() != named.config.hash() and own.config.from_dict(own.config.to_dict()) == own.config
    with pytest.raises(ConfigError, match=r"fit_basis\(function, images\)"):
        train("pmae", basis="own:dct_matrix")
    with pytest.raises(ConfigError, match="the settings say 'pca'"):
        train("pmae", components=components)


@pytest.mark.parametrize("matrix", [lambda shape: 2 * np.eye(64), lambda shape: np.eye(64)[:, :9]])
def test_columns_that_are_not_orthonormal_are_refused(matrix):
    with pytest.raises(ConfigError, match=r"own:<lambda>.*not an orthonormal basis of the 64 pixel values"):
        fit_basis(matrix, IMAGES)


def test_a_strategy_of_ones_own_trains_as_a_named_one_with_the_same_masks():
    def components(spectrum, ratio, batch_size, generator):
        return draw_component_mask(spectrum, ratio, batch_size, generator, "bvt")[0]

    for method, function, named in (("pmae", components, "bvt"), ("mae", draw_patch_mask, "random")):
        own = train(method, draw_mask=function, strategy="own:mine", per="batch")
        same = train(method, strategy=named, per="batch")
        assert all(torch.equal(a, b) for a, b in zip(weights(own), weights(same), strict=True))
        ratios = [[record["achieved_ratio"] for record in result.history] for result in (own, same)]
        assert ratios[0] == pytest.approx(ratios[1])


def masks_of(count: int, masked: int):
    return lambda entries, ratio, batch_size, generator: (torch.arange(count) < masked).expand(batch_size, -1)


@pytest.mark.parametrize(
    ("method", "function", "message"),
    [
        ("pmae", masks_of(64, 0), "drew 0 to 0 masked entries in a row; .* with 1 to 63 masked in each row"),
        ("pmae", masks_of(64, 64), "drew 64 to 64 masked"),
        ("pmae", masks_of(63, 5), r"must draw a bool tensor of shape \(20, 64\)"),
        ("mae", masks_of(16, 11), f"drew 11 to 11 masked .* with {masked_count(16, 0.75)} to 12 masked"),
        ("mae", lambda *given: None, "drew None; it must draw a bool tensor"),
        ("pmae", None, r"strategy is 'own:mine' and draw_mask is None; .*pretrain\(..., draw_mask=function\)"),
    ],
)
def test_what_a_strategy_must_not_draw_is_refused(method, function, message):
    with pytest.raises(ConfigError, match=message):
        train(method, draw_mask=function, strategy="own:mine")


def test_a_function_without_its_name_in_the_settings_is_refused():
    with pytest.raises(ConfigError, match="needs a name"):
        train("mae", draw_mask=draw_patch_mask)


def test_workers_do_not_take_a_strategy_of_ones_own():
    with pytest.raises(ConfigError, match=r"strategy 'own:mine' does not reach workers; use pretrain\(\)"):
        PMAETrainer(preset("quick").with_values({"strategy": "own:mine"}), IMAGES)

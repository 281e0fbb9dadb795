"""Settings that depend on each other: presets, values that replace others, steps and epochs."""

from __future__ import annotations

import pytest

from pmae.config import COMPONENT_STRATEGIES, MaskingConfig, OptimConfig, PretrainConfig, preset
from pmae.errors import ConfigError


def test_components_are_masked_as_expected_unless_asked_otherwise():
    assert COMPONENT_STRATEGIES[0] == MaskingConfig().strategy == preset("quick").masking.strategy == "expected"
    assert preset("paper").masking.strategy == "fixed"
    assert (preset("quick").masking.reduction, preset("paper").masking.reduction) == ("batch", "image")
    assert preset("quick").with_values({"masking.method": "mae"}) == preset("quick", method="mae")


@pytest.mark.parametrize("name", ["quick", "paper"])
@pytest.mark.parametrize("method", ["pmae", "mae"])
def test_presets_do_not_depend_on_the_name_of_the_source(name, method):
    configs = [preset(name, source, method).with_values({"data.source": "x"}) for source in ("digits", "npz:/a", "q")]
    assert len({c.hash() for c in configs}) == 1


@pytest.mark.parametrize("name", ["quick", "paper"])
@pytest.mark.parametrize("resolved", [False, True])
def test_restating_what_is_set_changes_nothing(name, resolved):
    config = preset(name)
    if resolved:
        config = config.resolve(32, 3, 4000)
    for section, values in config.to_dict().items():
        for setting, value in values.items():
            assert config.with_values({f"{section}.{setting}": value}) == config
    assert config.with_values({"data.crop_scale": config.data.crop_scale}).hash() == config.hash()


def test_changed_epochs_derive_the_warm_up_again():
    assert preset("paper").with_values({"optim.epochs": 100}).optim.warmup_epochs == 5
    kept = preset("paper").with_values({"optim.epochs": 100, "optim.warmup_epochs": 10})
    assert kept.optim.warmup_epochs == 10


def test_epochs_replace_steps_and_steps_replace_epochs():
    quick = preset("quick")
    few = quick.with_values({"optim.epochs": 3})
    assert (few.optim.epochs, few.optim.steps) == (3, None)
    assert few.resolve(8, 1, 1000).optim.epochs == 3
    paper = preset("paper").with_values({"optim.steps": 60})
    assert (paper.optim.epochs, paper.optim.steps) == (None, 60)
    assert paper.resolve(32, 3, 5120).optim.epochs == 6
    assert quick.resolve(8, 1, 32_000).optim.epochs == quick.optim.min_epochs == 8
    again = quick.resolve(8, 1, 1000).with_values({"optim.steps": 62})
    assert again.optim.epochs is None and again.resolve(8, 1, 1000).optim.epochs == 2
    with pytest.raises(ConfigError, match="leave one of them out"):
        quick.with_values({"optim.epochs": 3, "optim.steps": 60})


@pytest.mark.parametrize(("images", "epochs"), [(1000, 3), (1, 100), (31, 100), (64, 50), (10**6, 1)])
def test_epochs_are_the_nearest_to_the_steps(images, epochs):
    config = PretrainConfig(optim=OptimConfig(steps=100, batch_size=32)).resolve(8, 1, images)
    assert config.optim.epochs == epochs
    assert config.resolve(8, 1, images) == config == config.resolve(8, 1)
    assert config.optim.warmup_epochs == pytest.approx(epochs / 20)
    assert config.resolve(8, 1, 320).optim.epochs == 10  # other images, other epochs
    assert PretrainConfig.from_dict(config.to_dict()).hash() == config.hash()


def test_sampled_ratios_come_and_go():
    config = preset("quick").with_values({"masking.strategy": "sampled"})
    assert (config.masking.ratio_range, config.masking.ratio) == ((0.1, 0.9), 0.5)
    assert config.with_values({"masking.strategy": "fixed"}).masking.ratio == 0.2
    ratio = preset("quick").with_values({"masking.ratio": 0.35})
    assert ratio.with_values({"masking.strategy": "tvb"}).masking.ratio == 0.35

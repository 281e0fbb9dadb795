"""Settings as plain data: what is derived and when, presets, values that replace others, hashes, what is refused."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from pmae.config import (
    COMPONENT_STRATEGIES,
    GROUP_SIZE,
    LATER_SETTINGS,
    SECTIONS,
    SETTINGS,
    DataConfig,
    MaskingConfig,
    ModelConfig,
    OptimConfig,
    PretrainConfig,
    preset,
)
from pmae.errors import ConfigError
from pmae.presets import PRESETS
from studies.statistics import pairing


def test_components_are_masked_as_expected_unless_asked_otherwise():
    assert COMPONENT_STRATEGIES[0] == MaskingConfig().resolve().strategy == "expected"
    assert preset("quick").resolve(8, 1).masking.strategy == "expected"
    assert preset("paper").masking.strategy == "fixed"
    assert (preset("quick").masking.reduction, preset("paper").masking.reduction) == ("batch", "image")


def test_building_a_section_writes_nothing():
    for kind in SECTIONS.values():
        assert {f.name: getattr(kind(), f.name) for f in dataclasses.fields(kind)} == {
            f.name: f.default for f in dataclasses.fields(kind)
        }
    assert dataclasses.replace(ModelConfig(width=96), width=None) == ModelConfig()


def test_what_is_none_is_derived_by_resolve_alone():
    config = PretrainConfig(masking=MaskingConfig(method="mae"), model=ModelConfig(patch_size=2))
    assert (config.masking.ratio, config.model.patch_stride, config.optim.epochs) == (None, None, None)
    found = config.resolve(8, 1, 1000)
    assert (found.masking.ratio, found.masking.strategy, found.masking.mask_unit) == (0.75, "random", 2)
    assert (found.model.patch_stride, found.model.encoder, found.model.width) == (2, "vit_tiny", 192)
    assert (found.optim.epochs, found.optim.warmup_epochs) == (100, 5.0)
    assert found.resolve(8, 1, 1000) == found == found.resolve(8, 1)


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("method", ["pmae", "mae"])
def test_presets_do_not_depend_on_the_name_of_the_source(name, method):
    configs = [preset(name, source, method).with_values({"dataset": "x"}) for source in ("digits", "npz:/a", "q")]
    assert len({c.hash() for c in configs}) == 1


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("resolved", [False, True])
def test_restating_what_is_set_changes_nothing(name, resolved):
    config = preset(name)
    if resolved:
        config = config.resolve(32, 3, 4000)
    for section, values in config.to_dict().items():
        for setting, value in values.items():
            assert config.with_values({f"{section}.{setting}": value}) == config
    assert config.with_values({"data.crop_scale": config.data.crop_scale}).hash() == config.hash()


RESOLVED_DEFAULTS = [
    ("pmae", {"ratio": 0.2, "strategy": "expected"}),
    ("mae", {"ratio": 0.75, "strategy": "random", "mask_unit": 4}),
    ("pmae", {"patch_stride": 4}),
    ("pmae", {"epochs": 100}),
    ("pmae", {"warmup_epochs": 5}),
    ("pmae", {"encoder": "vit_tiny"}),
    ("pmae", {"width": 192, "depth": 12, "heads": 3}),
]


@pytest.mark.parametrize(("method", "values"), RESOLVED_DEFAULTS)
def test_a_restated_default_has_the_same_hash(method, values):
    config = PretrainConfig(masking=MaskingConfig(method=method))
    restated = config.with_values(values)
    assert restated != config and restated.hash() == config.hash()
    assert restated.resolve(8, 1, 100) == config.resolve(8, 1, 100)
    assert restated.resolve(8, 1, 100).hash() == config.resolve(8, 1, 100).hash()


@pytest.mark.parametrize(
    ("name", "method", "size", "channels", "expected"),
    [
        ("quick", "pmae", 8, 1, "a1272273dc4c923b"),
        ("paper", "pmae", 32, 3, "41e93a70b3bdcbb5"),
        ("paper", "mae", 32, 3, "b8018cea99c9f16f"),
    ],
)
def test_settings_that_came_later_leave_the_hashes_of_trainings_before_them(name, method, size, channels, expected):
    config = preset(name, "cifar10" if size == 32 else "digits", method).resolve(size, channels, 1295)
    assert config.hash() == expected
    others = {"accumulation_steps": 2, "group_size": 8, "schedule": "released", "weight_decay_on": "all"}
    assert others.keys() == LATER_SETTINGS.keys() and LATER_SETTINGS == pairing.LATER_SETTINGS
    for later, other in others.items():
        group = {"per": "group"} if later == "group_size" else {}
        assert config.with_values({later: other, **group}).hash() != config.with_values(group).hash()
        assert config.with_values({later: other, **group}).hash() != expected


def test_groups_have_a_size_that_other_masks_do_not_have():
    config = PretrainConfig()
    group = config.with_values({"per": "group"})
    assert (config.resolve(8, 1).masking.group_size, group.resolve(8, 1).masking.group_size) == (None, GROUP_SIZE)
    assert group.with_values({"group_size": GROUP_SIZE}).hash() == group.hash() != config.hash()
    assert group.with_values({"group_size": 8}).hash() != group.hash()
    assert group.with_values({"group_size": 8}).with_values({"method": "mae"}).masking.group_size == 8
    assert group.with_values({"group_size": 8}).with_values({"per": "image"}) == config
    other = group.with_values({"group_size": 8}).with_values({"method": "mae"}).with_values({"per": "image"})
    assert other.with_values({"method": "pmae"}).masking.group_size is None
    with pytest.raises(ConfigError, match="group_size 8 has no effect with per='image'; use per='group'"):
        config.with_values({"group_size": 8})
    with pytest.raises(ConfigError, match="at least 2"):
        group.with_values({"group_size": 1})


def test_hashes_tell_settings_apart_and_not_how_a_number_is_written():
    config = PretrainConfig()
    assert config.with_values({"weight_decay": 1}).hash() == config.with_values({"weight_decay": 1.0}).hash()
    assert config.with_values({"flip": False}).hash() != config.hash()
    steps = preset("quick").resolve(8, 1, 1000)
    assert steps.hash() == preset("quick").with_values({"epochs": steps.optim.epochs}).resolve(8, 1, 1000).hash()


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("values", [{}, {"ratio": 0.35, "basis": "dct"}, {"strategy": "sampled", "loss": "pixels"}])
def test_a_method_that_is_set_and_set_back_leaves_no_trace(name, values):
    config = preset(name).with_values(values)
    mae = config.with_values({"method": "mae"})
    assert mae == preset(name, method="mae")
    assert mae.with_values({"masking.method": "pmae"}) == config
    assert mae.with_values({"mask_unit": 8}).with_values({"method": "pmae"}) == config
    assert preset(name, method="mae").with_values({"method": "pmae"}).masking.method == "pmae"


def test_changed_epochs_derive_the_warm_up_again():
    assert preset("paper").resolve(32, 3).optim.warmup_epochs == 40
    assert preset("paper").with_values({"optim.epochs": 100}).resolve(32, 3).optim.warmup_epochs == 5
    kept = preset("paper").with_values({"optim.epochs": 100, "optim.warmup_epochs": 10})
    assert kept.resolve(32, 3).optim.warmup_epochs == 10


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
    asked = PretrainConfig(optim=OptimConfig(steps=100, batch_size=32))
    config = asked.resolve(8, 1, images)
    assert config.optim.epochs == epochs
    assert config.resolve(8, 1, images) == config == config.resolve(8, 1)
    assert config.optim.warmup_epochs == pytest.approx(epochs / 20)
    assert asked.resolve(8, 1).resolve(8, 1, images) == config  # steps wait for the number of images
    assert PretrainConfig.from_dict(config.to_dict()).hash() == config.hash()


def test_sampled_ratios_come_and_go():
    config = preset("quick").with_values({"masking.strategy": "sampled"})
    found = config.resolve(8, 1).masking
    assert (config.masking.ratio, found.ratio_range, found.ratio) == (None, (0.1, 0.9), 0.5)
    assert config.with_values({"masking.strategy": "fixed"}).resolve(8, 1).masking.ratio == 0.2
    assert config.with_values({"masking.strategy": None}) == preset("quick")
    assert preset("quick").resolve(8, 1).with_values({"strategy": "sampled"}).masking.ratio is None
    ratio = preset("quick").with_values({"masking.ratio": 0.35})
    assert ratio.with_values({"masking.strategy": "tvb"}).masking.ratio == 0.35


def test_an_encoders_name_replaces_its_shape():
    config = preset("quick").with_values({"encoder": "vit_small"})
    assert config.model.shape == (384, 12, 6)
    with pytest.raises(ConfigError, match="contradicts"):
        preset("quick").with_values({"encoder": "vit_small", "depth": 3})


def test_a_part_of_the_shape_replaces_the_encoders_name_and_keeps_the_rest():
    paper = preset("paper")
    assert paper.with_values({"heads": 12}).model.shape == (192, 12, 12)
    assert paper.with_values({"heads": 3}).resolve(32, 3).hash() == paper.resolve(32, 3).hash()
    assert paper.with_values({"heads": 12}).with_values({"encoder": "vit_small"}).model.shape == (384, 12, 6)


def test_every_setting_has_a_name_of_its_own():
    names = [f.name for kind in SECTIONS.values() for f in dataclasses.fields(kind)]
    assert sorted(SETTINGS) == sorted({*names} - {"channels"})
    assert SETTINGS["image_size"] == "data.image_size"


def test_numbers_of_numpy_become_pythons():
    config = PretrainConfig().with_values({"patch_size": np.int64(2), "ratio": np.float32(0.25), "limit": np.uint8(9)})
    config = config.with_values({"betas": (np.float64(0.9), np.float32(0.5))}).resolve(np.int64(8), np.int32(3), 100)
    plain = PretrainConfig().with_values({"patch_size": 2, "ratio": 0.25, "limit": 9, "betas": (0.9, 0.5)})
    assert config.to_dict() == plain.resolve(8, 3, 100).to_dict() and config.hash() == plain.resolve(8, 3, 100).hash()
    assert type(ModelConfig(channels=np.uint8(3)).channels) is int and type(config.masking.ratio) is float
    for wrong in (np.int64(2), np.bool_(True), np.float64(3.0)):
        with pytest.raises(ConfigError, match="channels is"):
            ModelConfig(channels=wrong)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: preset("quick").with_values({"masking.ration": 0.3}), "did you mean 'masking.ratio'"),
        (lambda: PretrainConfig.from_dict({"optim": {"epoch": 3}}), "did you mean 'epochs'"),
        (lambda: PretrainConfig.from_dict({"optimizer": {}}), "config has no setting 'optimizer'"),
        (lambda: PretrainConfig(masking={"method": "mae"}), "from_dict takes mappings"),
        (lambda: MaskingConfig(method="mae", basis="dct"), "basis='dct' has no effect with method 'mae'"),
        (lambda: MaskingConfig(method="mae", strategy="fixed"), "allowed are random, block, grid"),
        (lambda: MaskingConfig(ratio_range=(0.1, 0.5)), "no effect with strategy 'expected'"),
        (lambda: MaskingConfig(strategy="sampled", ratio=0.3), "has no effect when the ratio is drawn"),
        (lambda: MaskingConfig(ratio=20), "did you mean 0.2"),
        (lambda: DataConfig(crop_scale=[0.2, 1.0]), "a tuple of two numbers"),
        (lambda: DataConfig(flip="yes"), "True or False"),
        (lambda: OptimConfig(epochs=3, steps=9), "leave one of them out"),
        (lambda: OptimConfig(warmup_epochs=101), "between 0 and epochs"),
        (lambda: OptimConfig(learning_rate="high"), "learning_rate is 'high'"),
        (lambda: ModelConfig(width=32), "not a multiple of heads 3"),
        (lambda: preset("quik"), "did you mean 'quick'"),
        (lambda: preset("quick", method="mea"), "did you mean 'mae'"),
    ],
)
def test_what_cannot_work_is_refused_with_the_way_out(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_a_derived_crop_depends_on_the_size_of_the_images_and_on_nothing_else():
    quick = preset("quick")
    assert quick.data.crop_scale is None
    for size, scale in ((8, (1.0, 1.0)), (15, (1.0, 1.0)), (16, (0.6, 1.0)), (64, (0.6, 1.0))):
        small = quick.with_values({"model.patch_size": 1})
        assert small.resolve(size, 1).data.crop_scale == scale
    assert quick.with_values({"crop_scale": (0.9, 1.0)}).resolve(8, 1).data.crop_scale == (0.9, 1.0)

"""Every candidate of the space can be built and trained; two values are a range, more are a list."""

from __future__ import annotations

from dataclasses import replace

import optuna
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pmae.config import MIN_TOKENS, masked_count, preset
from pmae.errors import ConfigError
from pmae.masking import draw_patch_mask
from tune.search.space import (
    DEFAULT_RANGE,
    FIRST_EXPLORE_SEED,
    Candidate,
    Patches,
    Ratios,
    Space,
    confirm_seeds,
    default_patch_sizes,
    explore_seed,
    patch_settings,
    strategies_of,
    tokens_of,
)

SIZES = st.sampled_from([8, 12, 28, 32, 48, 64])


def space_for(image_size: int, **changes) -> Space:
    patches = patch_settings(image_size, default_patch_sizes(image_size))
    return Space(**{
        "ratios": {m: Ratios(*DEFAULT_RANGE[m]) for m in ("pmae", "mae")},
        "patches": {"pmae": patches, "mae": patches},
        "strategies": strategies_of(("pmae", "mae"), None),
        "image_size": image_size,
        **changes,
    })  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(SIZES, st.integers(0, 2**31), st.sampled_from(["pmae", "mae"]))
def test_every_draw_is_a_valid_configuration(image_size, seed, method):
    space = space_for(
        image_size,
        strategies=strategies_of(("pmae", "mae"), ("fixed", "sampled", "tvb", "random", "block")),
        bases=("pca", "dct"),
    )
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    candidate = space.suggest(study.ask(), method)
    config = candidate.config(preset("quick")).resolve(image_size, 1)
    assert config.masking.method == method
    assert config.model.tokens == tokens_of(image_size, candidate.patches) >= MIN_TOKENS
    assert Candidate.of(config) == candidate


@settings(max_examples=25, deadline=None)
@given(SIZES, st.integers(0, 2**31))
def test_parameters_give_the_setting_back(image_size, seed):
    space = space_for(image_size)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    candidate = space.suggest(study.ask(), "mae")
    assert space.suggest(optuna.trial.FixedTrial(space.parameters(candidate)), "mae") == candidate


def test_two_values_are_a_range_and_others_a_list():
    assert Ratios.of((0.1, 0.4)).grid() == (0.1, 0.2, 0.3, 0.4)
    assert Ratios.of((0.1, 0.35)).grid() == (0.1, 0.2, 0.3, 0.35)
    assert Ratios.of((0.5, 0.1, 0.3)).listed == (0.1, 0.3, 0.5)
    assert Ratios.of((0.2,)).listed == (0.2,)


@pytest.mark.parametrize("values", [(0.0, 0.5), (0.2, 1.0), (20.0, 30.0), (0.5, 0.2), ()])
def test_impossible_ratios_are_refused(values):
    with pytest.raises(ConfigError, match="--ratios"):
        Ratios.of(values)


def test_the_grid_holds_every_combination_once_and_the_defaults_first():
    space = space_for(32, ratios={m: Ratios.of((0.1, 0.3, 0.5)) for m in ("pmae", "mae")})
    grid = space.grid()
    assert len(grid) == len(set(grid)) == 2 * 2 * 3 + 4  # neither default is among the listed ratios
    assert grid[: len(space.fixed())] == space.fixed()
    assert {(s.method, s.ratio) for s in space.fixed()} == {("pmae", 0.2), ("mae", 0.75)}


def test_ratios_that_mask_the_same_number_of_units_are_tried_once():
    listed = (0.1, 0.25, 0.5, 0.75, 0.9)
    space = space_for(
        8,
        ratios={"mae": Ratios.of(listed)},
        patches={"mae": (Patches(2, 2), Patches(2, 2, 4))},
        strategies=strategies_of(("mae",), None),
    )
    found = {unit: sorted(s.ratio for s in space.grid() if s.patches.mask_unit == unit) for unit in (None, 4)}
    assert found == {None: list(listed), 4: [0.25, 0.5, 0.75]}  # of 4 units
    assert space.grid()[:2] == space.fixed()
    near = replace(space, ratios={"mae": Ratios.of((0.5, 0.74, 0.9))}, patches={"mae": (Patches(2, 2, 4),)})
    assert [s.ratio for s in near.grid()] == [0.75, 0.5]  # the default is never given up for a neighbor
    generator = torch.Generator().manual_seed(0)
    for candidate in space.grid():
        side = 2 if candidate.patches.mask_unit else 4
        drawn = draw_patch_mask((side, side), candidate.ratio, 3, generator)
        assert set(drawn.sum(1).tolist()) == {masked_count(side**2, candidate.ratio)}


def test_strides_and_mask_units_are_combined_where_they_fit():
    assert patch_settings(32, (4, 8), strides=(4,)) == (Patches(4, 4), Patches(8, 4))
    assert patch_settings(32, (4,), mask_units=(4, 8)) == (Patches(4, 4), Patches(4, 4, 8))
    with pytest.raises(ConfigError, match="--mask-units 12"):
        patch_settings(32, (4,), mask_units=(4, 12))
    with pytest.raises(ConfigError, match="--patch-strides 3"):
        patch_settings(32, (4,), strides=(4, 3))
    with pytest.raises(ConfigError, match="does not divide"):
        patch_settings(32, (5,))
    with pytest.raises(ConfigError, match="at least 4"):
        patch_settings(32, (32,))


def test_seeds_follow_from_the_setting_and_never_meet():
    one, other = Candidate("pmae", Patches(4, 4), 0.2, "fixed"), Candidate("pmae", Patches(4, 4), 0.3, "fixed")
    assert explore_seed(one, 0) == explore_seed(one, 0) != explore_seed(other, 0)
    assert explore_seed(one, 0) != explore_seed(one, 1)
    assert explore_seed(one, 0) >= FIRST_EXPLORE_SEED > max(confirm_seeds(500, 998))
    assert confirm_seeds(3, 0) == [1, 2, 3] and confirm_seeds(2, 0, first=3) == [4, 5]

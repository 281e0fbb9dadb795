"""Masks: how much they cover, that they are never empty or full, and that they depend on their generator alone."""

from __future__ import annotations

import hashlib
import itertools
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from pmae import masking as masking_module
from pmae.config import COMPONENT_STRATEGIES, PATCH_STRATEGIES, preset
from pmae.errors import ConfigError
from pmae.masking import (
    MaskSampler,
    draw_component_mask,
    draw_patch_mask,
    expand_mask_units,
    pixel_coverage,
    repeat_masks,
)

RATIO = {s: (0.1, 0.9) if s == "sampled" else 0.2 for s in COMPONENT_STRATEGIES}

spectra = st.lists(st.floats(0, 1), min_size=2, max_size=40).filter(lambda p: sum(p) > 1e-6)
ratios = st.floats(0.01, 0.99)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def digits_spectrum() -> torch.Tensor:
    pixels = load_digits().data
    pixels = pixels[:, pixels.std(0) > 0]
    values = np.linalg.eigvalsh(np.corrcoef(pixels.T))[::-1].clip(0)
    return torch.tensor(values / values.sum())


def nearest_prefix(ordered: list[float], ratio: float) -> int:
    """Length of the prefix whose sum is nearest to the ratio, by trying each."""
    total = sum(ordered)
    return min(range(1, len(ordered)), key=lambda n: abs(sum(ordered[:n]) / total - ratio))


@settings(max_examples=60, deadline=None)
@given(spectra, ratios, st.integers(0, 2**31), st.sampled_from(COMPONENT_STRATEGIES))
def test_component_masks_are_neither_empty_nor_full_and_say_what_they_cover(spectrum, ratio, seed, strategy):
    wanted = (ratio / 2, ratio) if strategy == "sampled" else ratio
    mask, achieved = draw_component_mask(torch.tensor(spectrum), wanted, 5, seeded(seed), strategy)
    assert mask.shape == (5, len(spectrum)) and mask.dtype == torch.bool and achieved.shape == (5,)
    assert (mask.sum(1) >= 1).all() and (mask.sum(1) <= len(spectrum) - 1).all()
    p = torch.tensor(spectrum).double()
    torch.testing.assert_close(achieved, (mask * p).sum(1) / p.sum(), atol=1e-9, rtol=0)


@settings(max_examples=60, deadline=None)
@given(spectra, ratios, st.integers(0, 2**31))
def test_the_masked_share_is_as_near_to_the_ratio_as_the_order_allows(spectrum, ratio, seed):
    p = torch.tensor(spectrum, dtype=torch.float64)
    mask, achieved = draw_component_mask(p, ratio, 3, seeded(seed))
    permutations = torch.rand(3, len(p), generator=seeded(seed)).argsort(dim=1, stable=True).tolist()
    for order, row, share in zip(permutations, mask.tolist(), achieved.tolist(), strict=True):
        best = nearest_prefix([spectrum[i] for i in order], ratio)
        nearest = abs(sum(spectrum[i] for i in order[:best]) / sum(spectrum) - ratio)
        assert abs(share - ratio) == pytest.approx(nearest, abs=1e-9)
        assert all(row[i] for i in order[: sum(row)]), "masked components are a prefix of the permutation"
        first, last = spectrum[order[0]] / sum(spectrum), 1 - spectrum[order[-1]] / sum(spectrum)
        if first <= ratio <= last:
            assert abs(share - ratio) <= max(spectrum) / sum(spectrum) / 2 + 1e-9


@settings(max_examples=40, deadline=None)
@given(spectra, ratios)
def test_tvb_masks_the_lowest_and_bvt_the_highest_variances(spectrum, ratio):
    p = torch.tensor(spectrum, dtype=torch.float64)
    for strategy, reverse in (("tvb", False), ("bvt", True)):
        mask, achieved = draw_component_mask(p, ratio, 2, seeded(), strategy)
        ordered = sorted(spectrum, reverse=reverse)
        expected = sum(ordered[: nearest_prefix(ordered, ratio)]) / sum(spectrum)
        assert abs(achieved[0].item() - ratio) == pytest.approx(abs(expected - ratio), abs=1e-9)
        assert torch.equal(mask[0], mask[1])
        low, high = (p[~mask[0]], p[mask[0]]) if reverse else (p[mask[0]], p[~mask[0]])
        assert low.max() <= high.min()


def test_on_a_real_spectrum_the_mean_share_is_the_ratio():
    # The reference code stops one component early and reaches about 0.16 of 0.20 on such spectra.
    spectrum = digits_spectrum()
    for ratio in (0.1, 0.2, 0.5, 0.8):
        _, achieved = draw_component_mask(spectrum, ratio, 4000, seeded(1))
        assert achieved.mean().item() == pytest.approx(ratio, abs=0.005)


def test_one_dominant_component_is_masked_at_times():
    spectrum = torch.tensor([0.27] + [0.73 / 499] * 499)
    mask, achieved = draw_component_mask(spectrum, 0.2, 2000, seeded())
    assert mask[:, 0].any() and not mask[:, 0].all()
    assert (achieved - 0.2).abs().max() <= 0.27 / 2 + 1e-6


# Drawn before the strategy `expected` was added.
FIXED_MASKS = [[0, 1, 0, 0, 0, 1, 1, 0], [1, 0, 0, 0, 0, 0, 0, 0], [0, 0, 1, 0, 0, 1, 1, 0]]
FIXED_SHARES = [0.297854, 0.367937, 0.236531]
SPECTRA = {
    "digits": None,
    "dominant": [0.46] + [0.54 / 40] * 40,
    "dominant, steep": [0.46, 0.3, *(0.24 * 0.5**k for k in range(1, 15))],
    "two": [0.9, 0.1],
    "two, one empty": [1.0, 0.0],
    "rank-deficient": [0.5, 0.25, 0.25, 0.0, 0.0, 0.0, 1e-12],
    "uniform": [0.1] * 10,
}


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("ratio", [0.05, 0.2, 0.5, 0.9])
def test_the_expected_share_is_the_ratio(name, ratio):
    spectrum = digits_spectrum() if name == "digits" else torch.tensor(SPECTRA[name], dtype=torch.float64)
    p = spectrum / spectrum.sum()
    held = p[p > 1e-6]
    smallest = float(held.min()) if len(held) > 1 else 0.0
    if not smallest <= ratio <= 1 - smallest:
        pytest.skip("no mixture of masks has this mean")
    draws = 20_000
    mask, achieved = draw_component_mask(spectrum, ratio, draws, seeded(3), "expected")
    error = achieved.std().item() / draws**0.5
    assert abs(achieved.mean().item() - ratio) <= 4.5 * error + 1e-9
    torch.testing.assert_close(achieved, (mask * p).sum(1), atol=1e-9, rtol=0)
    if name not in ("two, one empty",):
        # Shares of 0 or 1 would leave nothing to predict or nothing to see.
        assert achieved.min() > 1e-7 and achieved.max() < 1 - 1e-7


@settings(max_examples=60, deadline=None)
@given(spectra, ratios, st.integers(0, 2**31))
def test_the_expected_mask_is_one_of_the_two_prefixes_around_the_ratio(spectrum, ratio, seed):
    p = torch.tensor(spectrum, dtype=torch.float64)
    p = p / p.sum()
    mask, achieved = draw_component_mask(p, ratio, 4, seeded(seed), "expected")
    orders = torch.rand(4, len(p), generator=seeded(seed)).argsort(dim=1, stable=True).tolist()
    for order, row, share in zip(orders, mask.tolist(), achieved.tolist(), strict=True):
        sums = np.cumsum([float(p[i]) for i in order])
        below, above = max([s for s in sums if s <= ratio], default=0.0), min(s for s in sums if s > ratio - 1e-12)
        if below > 1e-6 and above < 1 - 1e-6:
            assert all(row[i] for i in order[: sum(row)]), "masked components are a prefix of the permutation"
            assert share == pytest.approx(below, abs=1e-9) or share == pytest.approx(above, abs=1e-9)


@pytest.mark.parametrize("ratio", [0.05, 0.2, 0.5, 0.9])
def test_a_dominant_component_is_masked_at_times_and_visible_at_times(ratio):
    spectrum = torch.tensor(SPECTRA["dominant"])
    frequency = draw_component_mask(spectrum, ratio, 5000, seeded(), "expected")[0].float().mean(0)
    assert frequency.min() > 0 and frequency.max() < 1
    if ratio == 0.2:  # the nearest prefix masks it only where it comes first
        fixed = draw_component_mask(spectrum, ratio, 5000, seeded(), "fixed")[0][:, 0].float().mean()
        assert fixed < 0.04 and frequency[0] > 2 * fixed


def test_the_released_codes_rule_masks_one_component_less_but_never_none():
    spectrum = digits_spectrum()
    fixed, _ = draw_component_mask(spectrum, 0.2, 2000, seeded(), "fixed")
    released, achieved = draw_component_mask(spectrum, 0.2, 2000, seeded(), "released")
    assert ((released & ~fixed).sum(1) == 0).all()
    assert torch.equal(released.sum(1), (fixed.sum(1) - 1).clamp(min=1))
    assert 0.1 < achieved.mean() < 0.18


def test_the_nearest_prefix_draws_the_masks_that_it_always_drew():
    mask, achieved = draw_component_mask(1 / torch.arange(1, 9.0), 0.3, 3, seeded(5))
    assert mask.int().tolist() == FIXED_MASKS
    assert achieved.tolist() == pytest.approx(FIXED_SHARES)


@pytest.mark.slow
def test_drawing_compiles_without_a_graph_break():
    order = torch.rand(4, 64).argsort(dim=1)
    p = digits_spectrum()
    p = torch.cat([p, torch.zeros(64 - len(p))])
    shares, wanted, uniform = p[order].cumsum(1), torch.full((4, 1), 0.2, dtype=torch.float64), torch.rand(4, 1)
    compiled = torch.compile(masking_module._expected_prefix, fullgraph=True)
    for one, other in zip(
        compiled(p, order, shares, wanted, uniform),
        masking_module._expected_prefix(p, order, shares, wanted, uniform),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


def test_every_component_is_as_likely_as_another():
    mask, _ = draw_component_mask(torch.full((10,), 0.1), 0.3, 5000, seeded())
    assert (mask.sum(1) == 3).all()
    assert (mask.float().mean(0) - 0.3).abs().max() < 0.03  # 4.6 standard deviations


def test_images_get_masks_of_their_own_and_ratios_of_their_own():
    spectrum = digits_spectrum()
    mask, _ = draw_component_mask(spectrum, 0.2, 50, seeded())
    assert len({tuple(row) for row in mask.tolist()}) == 50
    _, achieved = draw_component_mask(spectrum, (0.3, 0.7), 3000, seeded(), "sampled")
    counts, _ = np.histogram(achieved.numpy(), bins=4, range=(0.3, 0.7))
    assert counts.sum() > 2700 and counts.min() > 600 and counts.max() < 850


@pytest.mark.parametrize("strategy", COMPONENT_STRATEGIES)
def test_component_masks_follow_their_generator_alone(strategy):
    def draw(seed: int) -> torch.Tensor:
        return draw_component_mask(digits_spectrum(), RATIO[strategy], 8, seeded(seed), strategy)[0]

    torch.manual_seed(1)
    first = draw(7)
    torch.manual_seed(2)
    assert torch.equal(first, draw(7))
    assert torch.equal(first, draw(8)) == (strategy in ("tvb", "bvt"))


def test_masks_are_the_same_in_another_process():
    code = (
        "import hashlib, torch; from pmae.masking import *;"
        "g = torch.Generator().manual_seed(3); p = torch.arange(1, 200.0) ** -1;"
        "m = [draw_component_mask(p, 0.2, 16, g)[0]] + [draw_patch_mask((8, 8), 0.75, 16, g, s) for s in {strategies}];"
        "print(hashlib.sha256(torch.cat([x.flatten() for x in m]).numpy().tobytes()).hexdigest())"
    ).replace("{strategies}", repr(PATCH_STRATEGIES))
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    g, p = seeded(3), torch.arange(1, 200.0) ** -1
    masks = [draw_component_mask(p, 0.2, 16, g)[0]] + [
        draw_patch_mask((8, 8), 0.75, 16, g, s) for s in PATCH_STRATEGIES
    ]
    here = hashlib.sha256(torch.cat([m.flatten() for m in masks]).numpy().tobytes()).hexdigest()
    assert here == other


@pytest.mark.parametrize(
    ("spectrum", "ratio", "strategy", "message"),
    [
        ([0.5, 0.5], 0.0, "fixed", "ratio is 0.0"),
        ([0.5, 0.5], 1, "fixed", "ratio is 1"),
        ([0.5, 0.5], 20, "fixed", "did you mean 0.2"),
        ([0.5, 0.5], float("nan"), "fixed", "ratio is nan"),
        ([0.5, 0.5], (0.1, 0.9), "fixed", "the others take one fraction"),
        ([0.5, 0.5], 0.2, "sampled", "takes a pair"),
        ([0.5, 0.5], (0.9, 0.1), "sampled", "low end must not be above"),
        ([0.5, 0.5], (0.0, 0.5), "sampled", "low end is 0.0"),
        ([0.5, 0.5], 0.2, "fixd", "did you mean 'fixed'"),
        ([1.0], 0.2, "fixed", "at least 2 components"),
        ([[0.5, 0.5]], 0.2, "fixed", "one row"),
        ([1.5, -0.5], 0.2, "fixed", "negative or non-finite"),
        ([0.5, float("nan")], 0.2, "fixed", "negative or non-finite"),
        ([0.0, 0.0], 0.2, "fixed", "do not vary"),
    ],
)
def test_component_masks_refuse_what_cannot_work(spectrum, ratio, strategy, message):
    with pytest.raises(ConfigError, match=message):
        draw_component_mask(torch.tensor(spectrum), ratio, 4, seeded(), strategy)


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), ratios, st.sampled_from(PATCH_STRATEGIES), st.integers(0, 2**31))
def test_patch_masks_cover_the_same_number_in_every_row(rows, columns, ratio, strategy, seed):
    if rows * columns < 2:
        return
    mask = draw_patch_mask((rows, columns), ratio, 6, seeded(seed), strategy)
    n = rows * columns
    assert mask.shape == (6, n) and mask.dtype == torch.bool
    assert (mask.sum(1) == min(max(n - int(n * (1 - ratio)), 1), n - 1)).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 12), st.integers(2, 12), ratios, st.integers(0, 2**31))
def test_a_block_is_one_rectangle_short_of_part_of_a_row(rows, columns, ratio, seed):
    for row in draw_patch_mask((rows, columns), ratio, 4, seeded(seed), "block").view(-1, rows, columns):
        filled, widths = row.any(1).nonzero().flatten(), row.any(0).nonzero().flatten()
        box = row[filled[0] : filled[-1] + 1, widths[0] : widths[-1] + 1]
        assert box[1:-1].all(), "rows between the first and the last are full"
        assert bool(box[0].all()) or bool(box[-1].all())


def test_blocks_move_over_the_whole_image():
    masks = draw_patch_mask((8, 8), 0.25, 2000, seeded(), "block")
    assert masks.any(0).all() and len({tuple(m) for m in masks.tolist()}) > 20


def test_grid_keeps_every_other_patch_of_every_other_row():
    for mask in draw_patch_mask((8, 8), 0.75, 20, seeded(), "grid").view(-1, 8, 8):
        visible = ~mask
        offset = visible.nonzero()[0].tolist()
        expected = torch.zeros(8, 8, dtype=torch.bool)
        expected[offset[0] :: 2, offset[1] :: 2] = True
        assert torch.equal(visible, expected)


def test_grid_at_a_half_is_a_checkerboard():
    rows, columns = torch.meshgrid(torch.arange(6), torch.arange(6), indexing="ij")
    board = (rows + columns) % 2 == 0
    for mask in draw_patch_mask((6, 6), 0.5, 20, seeded(), "grid").view(-1, 6, 6):
        assert torch.equal(mask, board) or torch.equal(mask, ~board)


@pytest.mark.parametrize(
    ("grid", "ratio", "strategy", "message"),
    [
        ((4, 4), 1.5, "random", "ratio is 1.5"),
        ((4, 4), 0.75, "spiral", "allowed are random, block, grid"),
        ((1, 1), 0.75, "random", "at least 2 patches"),
    ],
)
def test_patch_masks_refuse_what_cannot_work(grid, ratio, strategy, message):
    with pytest.raises(ConfigError, match=message):
        draw_patch_mask(grid, ratio, 4, seeded(), strategy)


def test_mask_units_cover_whole_squares_of_patches():
    units = draw_patch_mask((3, 3), 0.5, 4, seeded())
    expected = [np.kron(u.view(3, 3).numpy(), np.ones((4, 4), bool)).ravel() for u in units]
    assert np.array_equal(expand_mask_units(units, 3, 12).numpy(), np.stack(expected))
    with pytest.raises(ConfigError, match="do not tile 8 patches"):
        expand_mask_units(units, 3, 8)


@pytest.mark.parametrize(("image", "patch", "stride"), [(8, 2, 2), (8, 4, 2), (10, 4, 3), (9, 3, 1)])
def test_a_pixel_is_hidden_only_where_no_visible_patch_shows_it(image, patch, stride):
    side = (image - patch) // stride + 1
    mask = draw_patch_mask((side, side), 0.7, 5, seeded(), "random")
    hidden = pixel_coverage(mask, side, patch, stride, image)
    expected = torch.ones(5, image, image, dtype=torch.bool)
    for b, token in (~mask).nonzero().tolist():
        top, left = token // side * stride, token % side * stride
        expected[b, top : top + patch, left : left + patch] = False
    assert torch.equal(hidden, expected)

    # Whatever is put into the hidden pixels, the patches that the encoder sees stay the same.
    pixels = torch.randn(5, 1, image, image, generator=seeded())
    changed = torch.where(hidden[:, None], pixels + 1, pixels)
    seen, still = (F.unfold(x, patch, stride=stride).transpose(1, 2)[~mask] for x in (pixels, changed))
    assert torch.equal(seen, still)


def test_pixel_coverage_names_grids_that_do_not_fit():
    with pytest.raises(ConfigError, match="do not cover an image of 9 px"):
        pixel_coverage(torch.zeros(1, 9, dtype=torch.bool), 3, 4, 2, 9)


@pytest.mark.gpu
@pytest.mark.parametrize("strategy", COMPONENT_STRATEGIES)
def test_masks_are_drawn_on_the_device(strategy):
    generator = torch.Generator("cuda").manual_seed(0)
    spectrum = digits_spectrum().cuda()
    mask, achieved = draw_component_mask(spectrum, RATIO[strategy], 16, generator, strategy)
    assert mask.is_cuda and achieved.is_cuda
    torch.testing.assert_close(achieved, (mask * spectrum).sum(1))
    assert all(draw_patch_mask((8, 8), 0.75, 4, generator, s).is_cuda for s in PATCH_STRATEGIES)


@pytest.mark.parametrize(("method", "strategy"), [*(("pmae", s) for s in COMPONENT_STRATEGIES), ("mae", "random")])
def test_a_group_shares_a_mask_that_is_drawn_like_any_other_and_not_by_worker(method, strategy):
    values = {"masking.strategy": strategy, "masking.per": "group", "masking.group_size": 12}
    config = preset("quick", method=method).with_values(values).resolve(8, 1)
    spectrum = digits_spectrum() if method == "pmae" else None
    sampler = MaskSampler(config, spectrum)
    whole = sampler.draw(32, seeded(), seeded(1))
    if spectrum is not None:
        ratio = config.masking.ratio_range or config.masking.ratio
        mask, achieved = draw_component_mask(spectrum, ratio, 3, seeded(), strategy)
        assert torch.equal(whole.mask, mask) and torch.equal(whole.achieved, achieved)
    each = repeat_masks(whole.mask, 32)
    sizes = each.unique_consecutive(dim=0, return_counts=True)[1].tolist()
    assert sizes == ([32] if strategy in ("tvb", "bvt") else [11, 11, 10])
    for ends in ([0, 16, 32], [0, 5, 13, 32]):
        shards = [slice(*pair) for pair in itertools.pairwise(ends)]
        drawn = [sampler.draw(32, seeded(), seeded(1), shard) for shard in shards]
        assert torch.equal(torch.cat([draw.mask for draw in drawn]), each)
        assert all(torch.equal(draw.achieved, whole.achieved) for draw in drawn)


def test_a_group_larger_than_the_batch_is_the_batch():
    config = preset("quick").with_values({"masking.per": "group", "masking.group_size": 64}).resolve(8, 1)
    assert len(MaskSampler(config, digits_spectrum()).draw(32, seeded(), seeded()).mask) == 1

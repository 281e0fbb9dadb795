"""Visible part, target and loss of masked components, against plain float64 formulas."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch

from pmae.components import PrincipalComponents
from pmae.errors import ConfigError
from pmae.masking import draw_component_mask, repeat_masks
from pmae.model import autoencoder
from pmae.model.autoencoder import ComponentProjection

SHAPE = (3, 4, 4)
SIZE = 48


@pytest.fixture(params=[None, 10], ids=["full", "low-rank"])
def components(request) -> PrincipalComponents:
    rng = np.random.default_rng(0)
    mixing = rng.standard_normal((SIZE, SIZE)) * np.arange(1, SIZE + 1) ** -0.7
    pixels = (rng.standard_normal((300, SIZE)) @ mixing.T * 12 + 128).clip(0, 255).astype(np.uint8)
    return PrincipalComponents.fit(pixels.reshape(-1, 4, 4, 3), rank=request.param)


def draw(projection: ComponentProjection, batch: int, seed: int = 0) -> torch.Tensor:
    return draw_component_mask(projection.spectrum, 0.3, batch, torch.Generator().manual_seed(seed))[0]


def masked_error(projection: ComponentProjection, difference: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    error, count = projection.masked_squares(difference, mask)
    return error / count


def projector(components: PrincipalComponents, mask: torch.Tensor) -> np.ndarray:
    """(D, D) float64: what keeps the masked part of an image, written out."""
    v, m = components.components.astype(np.float64), mask.numpy().astype(np.float64)
    k = v.shape[1]
    result = v @ np.diag(m[:k]) @ v.T
    return result + m[k] * (np.eye(SIZE) - v @ v.T) if components.has_residual else result


def test_masks_have_one_entry_more_where_the_rank_is_low(components):
    projection = ComponentProjection(components)
    assert projection.spectrum.shape == (11 if components.has_residual else 48,)
    assert projection.spectrum.sum().item() == pytest.approx(1)
    assert not projection.state_dict()


def test_visible_target_and_error_equal_the_formulas(components):
    projection = ComponentProjection(components)
    x = torch.randn(6, *SHAPE, generator=torch.Generator().manual_seed(1))
    difference = torch.randn(6, SIZE, generator=torch.Generator().manual_seed(2))
    mask = draw(projection, 6)
    if components.has_residual:
        mask[0, -1], mask[1, -1] = True, False
    visible, target = projection.visible(x, mask), projection.target(x, mask)
    error = masked_error(projection, difference, mask)
    for i in range(6):
        masked = projector(components, mask[i])
        flat, d = x[i].flatten().double().numpy(), difference[i].double().numpy()
        np.testing.assert_allclose(target[i].flatten(), masked @ flat, atol=2e-6)
        np.testing.assert_allclose(visible[i].flatten(), flat - masked @ flat, atol=4e-6)
        coordinates = round(np.trace(masked))
        assert error[i].item() == pytest.approx(np.sum((masked @ d) ** 2) / coordinates, rel=1e-5)
    assert visible.shape == x.shape


def test_the_gradient_of_the_error_is_the_formulas(components):
    projection = ComponentProjection(components)
    difference = torch.randn(3, SIZE, generator=torch.Generator().manual_seed(2), requires_grad=True)
    mask = draw(projection, 3)
    masked_error(projection, difference, mask).sum().backward()
    for i in range(3):
        masked = projector(components, mask[i])
        d = difference[i].detach().double().numpy()
        np.testing.assert_allclose(difference.grad[i], 2 * masked @ d / round(np.trace(masked)), atol=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_a_shared_mask_gives_what_the_same_mask_for_each_image_gives(components, seed):
    projection = ComponentProjection(components)
    x = torch.randn(5, SIZE, generator=torch.Generator().manual_seed(1))
    one = draw(projection, 1, seed)
    if seed == 3:
        one = ~one  # more masked than visible
    each = one.repeat(5, 1)
    for shared in (one, one.expand(5, -1)):
        for part in (projection.visible, projection.target, functools.partial(masked_error, projection)):
            torch.testing.assert_close(part(x, shared), part(x, each), atol=1e-5, rtol=1e-5)


@pytest.fixture
def always_picked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autoencoder, "MIN_BASIS_ENTRIES", 0)
    monkeypatch.setattr(autoencoder, "MAX_COLUMN_REUSE", 100)


@pytest.mark.usefixtures("always_picked")
@pytest.mark.parametrize("mostly", ["visible", "masked"])
def test_masks_of_groups_give_what_the_repeated_masks_give(components, mostly):
    projection = ComponentProjection(components).double()
    projection.basis = torch.linalg.qr(projection.basis)[0]  # orthonormal to more digits than float32 has
    x, other = torch.randn(2, 10, SIZE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    shared = draw(projection, 3) if mostly == "visible" else ~draw(projection, 3)  # of 4, 4 and 2 images
    if components.has_residual:
        shared[:, -1] = torch.tensor([True, False, True])
    each, columns = repeat_masks(shared, 10), projection.masked_columns(shared, 10)
    assert projection.masked_columns(each, 10) is None
    assert [c.shape[1] for c in columns] == shared[:, : projection.basis.shape[1]].sum(1).tolist()
    same = functools.partial(torch.testing.assert_close, atol=1e-12, rtol=1e-12)
    for given in (None, columns):
        same(projection.visible(x, shared, given), projection.visible(x, each))
        same(projection.target(x, shared, given), projection.target(x, each))
        gradients = []
        for mask, picked in ((shared, given), (each, None)):
            difference = (other - x).requires_grad_()
            error, count = projection.masked_squares(difference, mask, picked)
            (error / count).sum().backward()
            gradients.append(difference.grad)
        same(*gradients)
        same(masked_error(projection, other, shared), masked_error(projection, other, each))


def test_columns_are_picked_only_where_that_takes_less_time(components, monkeypatch):
    projection = ComponentProjection(components)
    assert projection.masked_columns(draw(projection, 3), 9) is None  # V is small
    assert projection.masked_columns(draw(projection, 1), 9) is not None
    monkeypatch.setattr(autoencoder, "MIN_BASIS_ENTRIES", projection.basis.numel())
    assert projection.masked_columns(draw(projection, 3), 9) is not None
    assert projection.masked_columns(draw(projection, 9), 9) is None  # nothing is shared
    most = ~torch.zeros(3, len(projection.spectrum), dtype=torch.bool)
    assert projection.masked_columns(most, 9) is None  # all columns three times
    assert projection.masked_columns(draw(projection, 3).to("meta"), 9) is None  # would wait for the device


def test_autocast_does_not_reach_the_projections(components):
    projection = ComponentProjection(components)
    x = torch.randn(4, SIZE, generator=torch.Generator().manual_seed(1))
    mask = draw(projection, 4)
    plain = projection.visible(x, mask), *projection.masked_squares(x, mask)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = projection.visible(x, mask), *projection.masked_squares(x, mask)
    for a, b in zip(plain, inside, strict=True):
        assert b.dtype == torch.float32 and torch.equal(a, b)


def test_what_does_not_fit_is_named(components):
    projection = ComponentProjection(components)
    with pytest.raises(ConfigError, match=r"\(3, 5, 5\) do not fit"):
        projection.visible(torch.zeros(2, 3, 5, 5), draw(projection, 2))
    with pytest.raises(ConfigError, match="must be bool"):
        projection.visible(torch.zeros(2, SIZE), draw(projection, 2).float())
    with pytest.raises(ConfigError, match="must be bool of shape"):
        projection.masked_squares(torch.zeros(2, SIZE), draw(projection, 2)[:, 1:])
    for groups in (0, 4, 10):
        with pytest.raises(ConfigError, match=rf"of shape \({groups}, \d+\) for 9 images; it must be"):
            projection.visible(torch.zeros(9, SIZE), draw(projection, groups))

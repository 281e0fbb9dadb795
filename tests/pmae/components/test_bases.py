"""Bases other than the principal components: one suite that each of them must pass."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.fft
from sklearn.datasets import load_digits

from pmae.components import PrincipalComponents, bases
from pmae.components.bases import dct_matrix, fit_basis, rotation_matrix, wavelet_matrix
from pmae.config import BASES
from pmae.errors import ConfigError

DIGITS = (load_digits().images * 15.9375).astype(np.uint8)[..., None]
COLOR = np.random.default_rng(0).integers(0, 256, (300, 6, 6, 3), dtype=np.uint8)


@pytest.mark.parametrize("images", [DIGITS, COLOR], ids=["gray", "color"])
@pytest.mark.parametrize("name", BASES)
def test_every_basis_is_orthonormal_and_measures_its_variances(name, images):
    basis = fit_basis(name, images)
    v = basis.components.astype(np.float64)
    size = images[0].size
    assert basis.basis == name and v.shape == (size, size)
    np.testing.assert_allclose(v.T @ v, np.eye(size), atol=1e-6)
    x = basis.standardize(images).reshape(len(images), -1).astype(np.float64)
    ratio = basis.explained_variance_ratio
    np.testing.assert_allclose((x @ v).var(0) / x.var(0).sum(), ratio, atol=1e-7)
    assert (np.diff(ratio) <= 1e-12).all() and ratio.sum() == pytest.approx(1)


def test_principal_components_collect_variance_fastest():
    leading = {name: fit_basis(name, DIGITS).explained_variance_ratio.cumsum() for name in BASES}
    for name in BASES:
        assert (leading["pca"] >= leading[name] - 1e-9).all()


@pytest.mark.parametrize("size", [4, 6, 8, 28, 32])
def test_fixed_bases_are_orthonormal_at_every_size(size):
    for matrix in (dct_matrix((1, size, size)), wavelet_matrix((1, size, size))):
        np.testing.assert_allclose(matrix.T @ matrix, np.eye(size * size), atol=1e-12)


def test_dct_coordinates_are_scipys():
    image = np.random.default_rng(1).standard_normal((3, 6, 6))
    expected = scipy.fft.dctn(image, norm="ortho", axes=(1, 2))
    np.testing.assert_allclose(image.reshape(-1) @ dct_matrix((3, 6, 6)), expected.reshape(-1), atol=1e-12)


def test_the_coarsest_wavelet_coordinate_of_a_flat_image_holds_everything():
    coordinates = np.ones(64) @ wavelet_matrix((1, 8, 8))
    assert np.sort(np.abs(coordinates))[-2:] == pytest.approx([0, 8], abs=1e-12)


def test_the_rotation_is_always_the_same_and_mixes_everything():
    assert np.array_equal(rotation_matrix((1, 8, 8)), rotation_matrix((1, 8, 8)))
    assert not np.array_equal(rotation_matrix((1, 8, 8)), rotation_matrix((1, 8, 8), seed=1))
    assert np.abs(rotation_matrix((1, 8, 8))).max() < 0.7


def test_pixels_keep_their_order_and_the_constant_ones_come_last():
    basis = fit_basis("pixel", COLOR)
    assert np.array_equal(basis.components, np.eye(108))
    flat = COLOR.copy()
    flat[:, 0, 0, 0] = 3
    basis = fit_basis("pixel", flat)
    assert basis.components[0, -1] == 1 and basis.explained_variance_ratio[-1] == 0


def test_what_cannot_work_is_named(monkeypatch):
    with pytest.raises(ConfigError, match="did you mean 'wavelet'"):
        fit_basis("wavelets", DIGITS)
    with pytest.raises(ConfigError, match="7 x 7 px has an odd one"):
        fit_basis("wavelet", DIGITS[:, :7, :7])
    monkeypatch.setattr(bases, "MAX_FULL_SIZE", 60)
    with pytest.raises(ConfigError, match="more than the 60"):
        fit_basis("dct", DIGITS)


def test_pca_is_that_of_the_components():
    assert np.array_equal(fit_basis("pca", DIGITS).components, PrincipalComponents.fit(DIGITS).components)

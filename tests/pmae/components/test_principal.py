"""Components: against scikit-learn's PCA, on disk, in the cache, and on images that are few, constant or large."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA

from pmae.components import PrincipalComponents, cached_components
from pmae.components import moments as moments_module
from pmae.components import principal as components_module
from pmae.components.moments import STD_FLOOR, TrainingImages, symmetric_eigen
from pmae.data.imageset import ImageSet
from pmae.errors import ConfigError, DataError

DIGITS = (load_digits().images * 15.9375).astype(np.uint8)[..., None]


def color_images(count: int = 400, size: int = 6, seed: int = 0) -> np.ndarray:
    """Smooth color images, uint8: neighboring pixels and channels go together, as in photographs."""
    rng = np.random.default_rng(seed)
    decay = 1 / (1 + np.add.outer(np.arange(size), np.arange(size))) ** 1.5
    coarse = rng.standard_normal((count, size, size, 3)) * decay[..., None] @ rng.standard_normal((3, 3))
    turn = np.linalg.qr(rng.standard_normal((size, size)))[0]
    smooth = np.einsum("nijc,iy,jx->nyxc", coarse, turn, turn)
    return (smooth * 40 + 128 + 5 * rng.standard_normal(smooth.shape)).clip(0, 255).astype(np.uint8)


def image_set(images: np.ndarray, train: int | None = None) -> ImageSet:
    train = len(images) if train is None else train
    splits = {"train": np.arange(train), "test": np.arange(train, len(images))}
    return ImageSet(images, np.zeros(len(images), np.int64), ("a",), splits, "made")


def standardized(images: np.ndarray) -> np.ndarray:
    """(N, D) float64 in C, H, W order, the plain way."""
    x = images.transpose(0, 3, 1, 2).reshape(len(images), -1).astype(np.float64)
    return (x - x.mean(0)) / np.maximum(x.std(0), STD_FLOOR * np.sqrt(x.var(0).mean()))


@pytest.mark.parametrize("images", [DIGITS, color_images()], ids=["digits", "color"])
def test_they_are_those_of_sklearn(images):
    ours = PrincipalComponents.fit(images)
    x = standardized(images)
    theirs = PCA(svd_solver="full").fit(x)
    ratio = theirs.explained_variance_ratio_
    np.testing.assert_allclose(ours.explained_variance_ratio, ratio, atol=1e-12)
    assert ours.explained_variance_ratio.sum() == pytest.approx(1, abs=1e-12)
    assert (np.diff(ours.explained_variance_ratio) <= 0).all()
    v, w = ours.components.astype(np.float64), theirs.components_.T
    np.testing.assert_allclose(v.T @ v, np.eye(v.shape[1]), atol=3e-7)
    for k in (1, 3, 10, 30):
        if ratio[k - 1] - ratio[k] > 1e-4:  # the subspace is well separated from the rest
            assert np.abs(v[:, :k] @ v[:, :k].T - w[:, :k] @ w[:, :k].T).max() < 1e-5
    variances = x @ v
    np.testing.assert_allclose(variances.var(0) / x.var(0).sum(), ours.explained_variance_ratio, atol=1e-7)


def test_pixels_are_standardized_by_their_own_mean_and_deviation():
    images = color_images()
    ours = PrincipalComponents.fit(images)
    x = images.transpose(0, 3, 1, 2).reshape(len(images), -1).astype(np.float64)
    np.testing.assert_allclose(ours.mean, x.mean(0), rtol=1e-6)
    np.testing.assert_allclose(ours.std, x.std(0), rtol=1e-6)
    np.testing.assert_allclose(ours.standardize(images).reshape(len(images), -1), standardized(images), atol=1e-5)


def test_projections_go_there_and_back():
    images = color_images()
    ours = PrincipalComponents.fit(images)
    x = ours.standardize(images[:7]).reshape(7, -1)
    z = ours.project(images[:7])
    np.testing.assert_allclose(z, x @ ours.components, atol=1e-4)
    np.testing.assert_allclose(ours.reconstruct(z), x, atol=1e-4)
    as_standardized = ours.standardize(images[:7])
    for same in (as_standardized, as_standardized.reshape(7, -1), torch.from_numpy(as_standardized)):
        projected = ours.project(same)
        assert type(projected) is type(same)
        np.testing.assert_allclose(projected, z, atol=1e-5)
    assert ours.project(x[0]).shape == (108,)


def test_the_sign_of_a_component_is_fixed():
    v = PrincipalComponents.fit(color_images()).components
    assert (v.max(0) >= -v.min(0)).all()


def test_only_the_training_images_count():
    images = color_images()
    whole, part = image_set(images, train=300), PrincipalComponents.fit(images[:300])
    assert np.array_equal(PrincipalComponents.fit(whole).components, part.components)
    with pytest.raises(DataError, match="no split 'train'"):
        PrincipalComponents.fit(whole.split("test"))


def test_float_images_are_fitted_in_their_own_units():
    images = color_images()
    ours, scaled = PrincipalComponents.fit(images), PrincipalComponents.fit(images / 255.0 + 3)
    np.testing.assert_allclose(scaled.mean, ours.mean / 255 + 3, rtol=1e-6)
    np.testing.assert_allclose(scaled.explained_variance_ratio, ours.explained_variance_ratio, atol=1e-12)


def test_a_constant_pixel_gets_the_floor_and_carries_nothing():
    images = color_images()
    images[:, 0, 0, :] = 0
    images[:, 5, 5, 1] = 200
    ours = PrincipalComponents.fit(images)
    pixels = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    constant = np.flatnonzero(pixels.std(0) == 0)
    assert len(constant) == 4
    np.testing.assert_allclose(ours.std[constant], STD_FLOOR * np.sqrt(pixels.var(0).mean()), rtol=1e-6)
    assert (ours.explained_variance_ratio == 0).sum() == 4
    assert np.abs(ours.components[constant, : 108 - 4]).max() < 1e-6
    np.testing.assert_allclose(ours.standardize(images).reshape(400, -1)[:, constant], 0)


def test_fewer_images_than_components_are_fitted_with_a_warning():
    images = color_images(20)
    with pytest.warns(UserWarning, match="20 training images give 19 of 108 components; those that carry no variance"):
        ours = PrincipalComponents.fit(images)
    assert ours.components.shape == (108, 19) and (ours.explained_variance_ratio > 0).all()
    with pytest.warns(UserWarning, match="give 19 of 50 components"):
        assert PrincipalComponents.fit(images, rank=50).rank == 19
    assert PrincipalComponents.fit(images, rank=5).rank == 5
    with pytest.warns(UserWarning, match="108 training images give 107 of 108 components"):
        assert PrincipalComponents.fit(color_images(108)).rank == 107


def test_images_that_cannot_be_used_are_named():
    images = color_images(50)
    with pytest.raises(DataError, match="all equal"):
        PrincipalComponents.fit(np.full((5, 4, 4, 1), 7, np.uint8))
    with pytest.raises(DataError, match="at least 2 training images, there are 1"):
        PrincipalComponents.fit(images[:1])
    with pytest.raises(DataError, match="must be uint8 or float"):
        PrincipalComponents.fit(images.astype(np.int32))
    with pytest.raises(DataError, match="must be uint8 or float"):
        PrincipalComponents.fit(images[0])
    with pytest.raises(ConfigError, match="rank is 109"):
        PrincipalComponents.fit(images, rank=109)
    ours = PrincipalComponents.fit(color_images())
    with pytest.raises(DataError, match="do not fit components"):
        ours.project(np.zeros((2, 8, 8, 3), np.uint8))
    with pytest.raises(DataError, match="end neither in 108"):
        ours.project(np.zeros((2, 100), np.float32))
    with pytest.raises(DataError, match="do not end in the 108"):
        ours.reconstruct(np.zeros((2, 100), np.float32))


def test_a_low_rank_keeps_the_leading_components_and_one_residual():
    images = color_images(800, size=10)
    full, low = PrincipalComponents.fit(images), PrincipalComponents.fit(images, rank=20)
    assert low.has_residual and not full.has_residual
    difference = np.abs(low.explained_variance_ratio - full.explained_variance_ratio[:20]).max()
    assert difference <= low.error_bound + 1e-6 and 0 < low.error_bound < 1e-4
    assert low.spectrum.shape == (21,) and low.spectrum.sum() == pytest.approx(1)
    assert low.spectrum[-1] == pytest.approx(full.explained_variance_ratio[20:].sum(), abs=1e-5)
    lead = full.components[:, :5] @ full.components[:, :5].T
    assert np.abs(low.components[:, :5] @ low.components[:, :5].T - lead).max() < 1e-3


def test_the_share_of_the_residual_is_within_its_stated_bound():
    images, rank = color_images(2000, size=12), 100  # a flat tail: the iteration ends before it has converged
    exact, low = PrincipalComponents.fit(images).explained_variance_ratio, PrincipalComponents.fit(images, rank=rank)
    assert np.abs(low.explained_variance_ratio - exact[:rank]).max() <= low.error_bound
    excess = low.spectrum[-1] - exact[rank:].sum()
    assert low.error_bound < excess <= rank * low.error_bound, "the errors of the entries add up"


def test_images_beyond_the_full_size_get_a_low_rank(monkeypatch):
    monkeypatch.setattr(components_module, "MAX_FULL_SIZE", 100)
    monkeypatch.setattr(components_module, "LOW_RANK", 12)
    assert PrincipalComponents.fit(color_images()).rank == 12


def test_large_matrices_keep_small_variances():
    # float32 with a cut at D * eps * largest dropped 88 % of the components of CIFAR-10 at this size.
    rng = np.random.default_rng(0)
    values = np.geomspace(1, 1e-8, 300)
    turn = np.linalg.qr(rng.standard_normal((300, 300)))[0]
    found = symmetric_eigen((turn * values) @ turn.T)
    assert found.vectors.dtype == np.float64
    np.testing.assert_allclose(found.values, values, atol=1e-13)


def test_few_images_go_through_their_gram_matrix_with_the_same_components():
    images = color_images(60, size=8)
    with pytest.warns(UserWarning, match="give 59 of 192 components"):
        ours = PrincipalComponents.fit(images)
    with pytest.warns(UserWarning, match="fewer than the 192 components"):
        exact = PrincipalComponents.from_moments(TrainingImages.of(images).moments())
    assert ours.components.shape == (192, 59) and ours.error_bound == 0
    np.testing.assert_allclose(ours.explained_variance_ratio, exact.explained_variance_ratio[:59], rtol=1e-9)
    assert exact.explained_variance_ratio[59:].sum() < 1e-12
    np.testing.assert_array_equal(ours.mean, exact.mean)
    np.testing.assert_array_equal(ours.std, exact.std)
    np.testing.assert_allclose(ours.components, exact.components[:, :59], atol=1e-6)
    v = ours.components.astype(np.float64)
    np.testing.assert_allclose(v.T @ v, np.eye(59), atol=5e-7)
    assert ours.has_residual and ours.spectrum.shape == (60,) and ours.spectrum[-1] == 0.0
    np.testing.assert_allclose(ours.reconstruct(ours.project(images)), standardized(images), atol=1e-4)


def test_the_gram_matrix_may_be_summed_in_stripes(monkeypatch):
    images = color_images(40)
    expected = PrincipalComponents.fit(images, rank=12)
    monkeypatch.setattr(components_module, "STRIPE_BYTES", 1)
    striped = PrincipalComponents.fit(images, rank=12)
    np.testing.assert_allclose(striped.components, expected.components, atol=1e-6)
    np.testing.assert_allclose(striped.explained_variance_ratio, expected.explained_variance_ratio, rtol=1e-9)
    assert expected.spectrum[-1] > 0


def test_repeated_images_leave_orthonormal_components():
    images = np.concatenate([color_images(30)] * 2)
    images[0, 0, 0, 0] ^= 1  # one level of difference: a variance just above rounding
    with pytest.warns(UserWarning, match="60 training images give [0-9]+ of 108 components"):
        ours = PrincipalComponents.fit(images)
    v = ours.components.astype(np.float64)
    np.testing.assert_allclose(v.T @ v, np.eye(ours.rank), atol=1e-6)
    assert 29 <= ours.rank <= 31


def test_a_thousand_large_images_take_seconds():
    images = np.random.default_rng(0).integers(0, 256, (1000, 64, 64, 3), dtype=np.uint8)
    started = time.process_time()
    with pytest.warns(UserWarning, match="give 999 of 12288 components"):
        assert PrincipalComponents.fit(images).rank == 999
    assert time.process_time() - started < 30  # 3 s on an idle machine; nine minutes through the covariance


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
def test_an_interrupt_ends_a_long_fit_at_once():
    code = (
        "import sys, numpy as np; from pmae.components.moments import symmetric_eigen;"
        "x = np.random.default_rng(0).standard_normal((5000, 5000)); x = x @ x.T;"
        "print('ready', flush=True); symmetric_eigen(x)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as process:  # fmt: skip
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        time.sleep(1)
        started = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert "KeyboardInterrupt" in errors
    assert time.monotonic() - started < 40  # the eigenproblem itself takes about a minute, longer on a busy machine


def test_a_long_fit_reports_on_standard_error(monkeypatch, capsys):
    monkeypatch.setattr(moments_module, "LONG_EIGEN", 1)
    monkeypatch.setattr(moments_module, "THREAD_FROM", 1)
    monkeypatch.setattr("pmae.data.progress.SECONDS_BETWEEN_LINES", -1.0)
    eigh = np.linalg.eigh
    monkeypatch.setattr(np.linalg, "eigh", lambda matrix: (time.sleep(1.5), eigh(matrix))[1])
    PrincipalComponents.fit(color_images(), progress=True)
    shown = capsys.readouterr().err
    assert "summing products of pixels: 400 of 400 images" in shown
    assert "eigenvectors of a 108 x 108 matrix: 1 seconds" in shown


def test_what_is_saved_is_loaded(tmp_path: Path):
    ours = PrincipalComponents.fit(color_images(), rank=9)
    ours.save(tmp_path / "new" / "c.safetensors")
    back = PrincipalComponents.load(tmp_path / "new" / "c.safetensors")
    for name in ("mean", "std", "components", "explained_variance_ratio"):
        assert getattr(back, name).dtype == getattr(ours, name).dtype
        assert np.array_equal(getattr(back, name), getattr(ours, name))
    for name in ("shape", "basis", "fingerprint", "error_bound"):
        assert getattr(back, name) == getattr(ours, name)
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["c.safetensors"]


def test_corrupted_files_are_refused(tmp_path: Path):
    path = tmp_path / "c.safetensors"
    PrincipalComponents.fit(DIGITS[:200]).save(path)
    whole = path.read_bytes()
    for position in [*range(0, 700, 7), len(whole) // 2, len(whole) - 1]:
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        with pytest.raises(DataError, match=r"c\.safetensors"):
            PrincipalComponents.load(path)
    for length in (0, 4, 100, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"c\.safetensors"):
            PrincipalComponents.load(path)
    with pytest.raises(DataError, match="does not exist"):
        PrincipalComponents.load(tmp_path / "missing.safetensors")


def test_the_second_fit_comes_from_the_cache(tmp_path: Path):
    images = image_set(color_images(), train=300)
    first, how = cached_components(images, folder=tmp_path)
    assert how == "fitted"
    second, how = cached_components(images, folder=tmp_path)
    assert how == "cached" and np.array_equal(first.components, second.components)
    assert cached_components(images, "dct", folder=tmp_path)[1] == "fitted"
    fewer = ImageSet(images.images, images.labels, ("a",), {"train": np.arange(290)}, "made", images.fingerprint)
    assert cached_components(fewer, folder=tmp_path)[1] == "fitted", "other training images, other components"


def test_a_corrupted_or_foreign_cache_is_fitted_again_with_a_warning(tmp_path: Path):
    images, others = image_set(color_images()), image_set(color_images(seed=1))
    first, _ = cached_components(images, folder=tmp_path)
    (path,) = tmp_path.glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.warns(UserWarning, match=r"or not a file of this toolkit; fitting the components again$"):
        again, how = cached_components(images, folder=tmp_path)
    assert how.startswith("refitted: ") and "truncated" in how and "delete" not in how
    assert np.array_equal(first.components, again.components)

    foreign, _ = cached_components(others, folder=tmp_path / "others")
    foreign.save(path)
    with pytest.warns(UserWarning, match="of other images"):
        again, how = cached_components(images, folder=tmp_path)
    assert "other images" in how and np.array_equal(first.components, again.components)
    assert cached_components(images, folder=tmp_path)[1] == "cached"


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match="PMAE_CACHE"):
        cached_components(image_set(color_images()), folder=tmp_path / "file")


def test_processes_that_start_together_fit_once(tmp_path: Path):
    code = (
        "import sys, numpy as np; from pmae.data.imageset import ImageSet; from pmae.components import *;"
        "x = np.random.default_rng(0).integers(0, 256, (600, 16, 16, 3), dtype=np.uint8);"
        "s = ImageSet(x, np.zeros(600, np.int64), ('a',), {'train': np.arange(600)}, 'made');"
        "sys.stdin.readline(); print(cached_components(s, folder=sys.argv[1])[1])"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", code, str(tmp_path)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for _ in range(2)
    ]  # fmt: skip
    for process in started:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    assert sorted(p.communicate()[0].strip() for p in started) == ["cached", "fitted"]


def test_read_only_images_and_components_raise_no_warning():
    images = color_images()
    images.setflags(write=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours = PrincipalComponents.fit(images)
        ours.components.setflags(write=False)
        ours.project(images[:2])


@pytest.mark.gpu
def test_a_gpu_gives_the_same_components():
    images = color_images()
    here, there = PrincipalComponents.fit(images), PrincipalComponents.fit(images, device="cuda")
    np.testing.assert_allclose(there.explained_variance_ratio, here.explained_variance_ratio, atol=1e-12)
    np.testing.assert_allclose(there.components[:, :5], here.components[:, :5], atol=1e-5)

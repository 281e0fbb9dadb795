"""The controls: the untrained encoder is the run's own start, and wide raw pixels stay affordable for the probe."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from pmae.components.bases import fit_basis
from pmae.components.moments import STD_FLOOR
from pmae.probes import _logistic as logistic
from pmae.probes import linear_probe, pixel_features, untrained_encoder
from pmae.probes._logistic import fit_logistic_path, principal_coordinates
from pmae.trainer import pretrain


def weights(encoder):
    return torch.cat([p.detach().flatten() for p in encoder.parameters()])


def test_the_untrained_encoder_is_what_pretraining_starts_from(digits, tiny):
    config = tiny.with_values({"optim.epochs": 1, "optim.learning_rate": 1e-30, "optim.weight_decay": 0.0})
    start = pretrain(config, digits, seed=3, device="cpu").encoder  # steps of this size leave every weight as it was
    untrained = untrained_encoder(config, digits, seed=3, device="cpu")
    assert torch.allclose(weights(untrained), weights(start), rtol=0, atol=1e-20)
    assert torch.equal(untrained.mean, start.mean) and torch.equal(untrained.std, start.std)
    assert untrained.pool == config.model.pool and not untrained.training
    trained = pretrain(tiny.with_values({"optim.epochs": 1}), digits, seed=3, device="cpu").encoder
    assert not torch.allclose(weights(untrained), weights(trained), atol=1e-4)


def test_the_untrained_encoder_depends_on_the_seed_and_not_on_the_masking(digits, tiny):
    first = untrained_encoder(tiny, digits, seed=0)
    assert not torch.equal(weights(first), weights(untrained_encoder(tiny, digits, seed=1)))
    for values in ({"masking.ratio": 0.7}, {"masking.method": "mae", "masking.ratio": 0.5}):
        other = untrained_encoder(tiny.with_values(values), digits, seed=0)
        assert torch.equal(weights(first), weights(other))
        assert torch.allclose(first.mean, other.mean) and torch.allclose(first.std, other.std)


def test_components_that_are_given_are_not_fitted_again(digits, tiny, monkeypatch):
    components = fit_basis("pca", digits.images)
    monkeypatch.setattr("pmae.training.loop.fit_components", None)
    assert untrained_encoder(tiny, digits, components, seed=0).width == 16


def test_pixel_features_are_standardized_by_train(digits, pixels):
    features = pixel_features(digits)
    assert {s: f.shape for s, f in features.items()} == {s: x.shape for s, x in pixels.items()}
    varied = pixels["train"].std(0) > 0
    assert features["train"].dtype == np.float32
    assert np.allclose(features["train"].mean(0), 0, atol=1e-4)
    spread = features["train"].std(0)[varied]  # the floor of the standard deviation keeps that of dark borders below 1
    assert spread.max() < 1.0001 and np.mean(np.isclose(spread, 1, atol=1e-4)) > 0.7
    raw = pixels["train"].std(0)
    floored = np.maximum(raw, STD_FLOOR * np.sqrt((raw**2).mean()))
    test = (pixels["test"] - pixels["train"].mean(0)) / floored
    assert np.allclose(features["test"], test, atol=1e-3)
    assert list(pixel_features(digits, ["val"])) == ["val"]
    assert linear_probe(None, digits, features=features).test_accuracy > 0.9


@pytest.mark.parametrize("images", [60, 400])
def test_features_wider_than_images_have_scikit_learns_optimum(images):
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, images)
    x = rng.standard_normal((images, 500)) * np.geomspace(1, 0.01, 500) + 0.3 * rng.standard_normal((3, 500))[y]
    path = fit_logistic_path(torch.tensor(x), torch.tensor(y), [1e-2, 1.0], tolerance=1e-8)
    z = StandardScaler().fit_transform(x)
    for i, penalty in enumerate(path.penalties):
        theirs = LogisticRegression(C=1 / (penalty * images), tol=1e-9, max_iter=10_000).fit(z, y)
        assert np.abs(path.weights[i].numpy() - theirs.coef_.T).max() < 1e-5
    assert path.converged.all()


def test_no_matrix_larger_than_the_limit_is_decomposed(monkeypatch):
    """12,288 pixels: the eigenvectors of their covariance would take minutes."""
    decomposed = []
    eigh = torch.linalg.eigh
    monkeypatch.setattr(torch.linalg, "eigh", lambda a: decomposed.append(len(a)) or eigh(a))
    rng = np.random.default_rng(0)
    y = torch.tensor(rng.integers(0, 2, 80))
    x = torch.tensor(rng.standard_normal((80, 12_288)), dtype=torch.float32) + 0.05 * y[:, None]
    path = fit_logistic_path(x, y, [1e-1])
    assert decomposed == [80] and path.weights.shape == (1, 12_288, 2) and path.converged.all()
    monkeypatch.setattr(logistic, "MAX_AXES", 50)
    plain = fit_logistic_path(x, y, [1e-1])
    assert decomposed == [80] and torch.allclose(plain.weights, path.weights, atol=1e-4)


def test_fits_on_prepared_coordinates_equal_fits_on_the_features(digits, pixels):
    x, y = torch.tensor(pixels["train"][:300]), torch.tensor(digits.labels[digits.indices("train")][:300])
    wide = torch.cat([x, x.square(), x.roll(1, 1) * x, x.roll(3, 1) * x, x.roll(5, 1) * x], 1)  # 320 features
    for given in (x, wide):
        coordinates = principal_coordinates(given)
        prepared = fit_logistic_path(coordinates, y, [1e-2], prepared=True)
        direct = fit_logistic_path(given, y, [1e-2])
        assert torch.allclose(prepared.logits(coordinates, 0), direct.logits(given, 0), atol=1e-3)
    same = torch.ones(10, 20)
    assert principal_coordinates(same).abs().max() == 0

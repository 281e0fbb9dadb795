"""The MLP probe: what it can learn that a line cannot, its choice of rate, determinism."""

from __future__ import annotations

import numpy as np
import pytest

from pmae.data.imageset import ImageSet
from pmae.errors import ConfigError, DataError
from pmae.probes import linear_probe, mlp_probe


@pytest.fixture(scope="module")
def xor() -> tuple[ImageSet, dict[str, np.ndarray]]:
    """Two features whose product's sign is the class: no line separates it."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1200, 2)).astype(np.float32)
    splits = {"train": np.arange(800), "val": np.arange(800, 1000), "test": np.arange(1000, 1200)}
    labels = (x[:, 0] * x[:, 1] > 0).astype(np.int64)
    images = ImageSet(np.zeros((1200, 4, 4, 1), np.uint8), labels, ("minus", "plus"), splits, "xor")
    wide = np.concatenate([x, rng.normal(size=(1200, 14)).astype(np.float32) * 0.01], 1)
    return images, {split: wide[index] for split, index in splits.items()}


def test_it_learns_what_no_line_can_separate(xor):
    images, features = xor
    assert linear_probe(None, images, features=features).test_accuracy < 0.65
    assert mlp_probe(None, images, features=features, epochs=40, rates=(1e-2,)).test_accuracy > 0.85


def test_the_rate_is_chosen_on_val_and_runs_repeat(digits, pixels):
    first, again = (mlp_probe(None, digits, 1, features=pixels, epochs=3) for _ in range(2))
    assert first == again
    details = first.details
    assert first.val_accuracy == max(details["val_accuracies"]) and len(details["val_accuracies"]) == 3
    assert details["learning_rates"][int(np.argmax(details["val_accuracies"]))] == details["learning_rate"]
    assert mlp_probe(None, digits, 2, features=pixels, epochs=3) != first
    alone = mlp_probe(None, digits, 1, features=pixels, epochs=3, rates=(1e-3,))
    assert alone.val_accuracy == pytest.approx(details["val_accuracies"][1], abs=0.01), (
        "rates do not disturb each other"
    )


def test_the_encoder_is_read_and_test_left_alone(digits, encoder):
    result = mlp_probe(encoder, digits, score_test=False, epochs=10)
    assert result.test_accuracy is None and result.val_accuracy > 0.5 and result.details["pool"] == "cls"


def test_bad_settings_and_features_are_refused(digits, pixels):
    with pytest.raises(ConfigError, match="rates are"):
        mlp_probe(None, digits, features=pixels, rates=(0.0,))
    with pytest.raises(DataError, match="not finite"):
        mlp_probe(None, digits, features={**pixels, "train": np.full((1000, 64), np.inf)})

"""The linear probe against scikit-learn, and what it must refuse or survive."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from pmae.config import DataConfig
from pmae.errors import ConfigError, DataError
from pmae.probes import extract_pools, linear_probe
from pmae.probes._logistic import fit_logistic_path

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)


class Untouchable:
    """An image set whose test split must not be read."""

    def __init__(self, imageset):
        self.images, self.labels, self.imageset = imageset.images, imageset.labels, imageset

    def indices(self, split):
        assert split != "test"
        return self.imageset.indices(split)


def test_every_penalty_of_the_grid_is_scikit_learns_optimum(digits, pixels):
    y = digits.labels[digits.indices("train")]
    path = fit_logistic_path(torch.tensor(pixels["train"]), torch.tensor(y), PENALTIES)
    scaler = StandardScaler().fit(pixels["train"].astype(float))
    train, val = (scaler.transform(pixels[s].astype(float)) for s in ("train", "val"))
    assert path.converged.all()
    for i, penalty in enumerate(PENALTIES):
        theirs = LogisticRegression(C=1 / (penalty * len(y)), tol=1e-8, max_iter=10_000).fit(train, y)
        cross_entropy = -theirs.predict_log_proba(train)[np.arange(len(y)), y].mean()
        loss = cross_entropy + penalty / 2 * np.square(theirs.coef_).sum()
        assert path.loss[i].item() == pytest.approx(loss, rel=1e-4)
        assert np.abs(path.weights[i].numpy() - theirs.coef_.T).max() < 0.02
        ours = path.predict(torch.tensor(pixels["val"]), i).numpy()
        assert (ours != theirs.predict(val)).mean() <= 1 / len(val)


def test_two_classes_are_scikit_learns_with_twice_the_weight_on_the_data(digits, pixels):
    two = digits.labels[digits.indices("train")] < 2
    x, y = pixels["train"][two], digits.labels[digits.indices("train")][two]
    path = fit_logistic_path(torch.tensor(x), torch.tensor(y), [1e-2])
    theirs = LogisticRegression(C=2 / (1e-2 * len(y)), tol=1e-9).fit(StandardScaler().fit_transform(x.astype(float)), y)
    difference = path.weights[0, :, 1] - path.weights[0, :, 0]
    assert np.abs(difference.numpy() - theirs.coef_[0]).max() < 1e-3


def test_fitting_a_penalty_alone_or_in_a_grid_gives_the_same_model(digits, pixels):
    x, y = torch.tensor(pixels["train"]), torch.tensor(digits.labels[digits.indices("train")])
    together, alone = fit_logistic_path(x, y, [1e-3, 1e-1]), fit_logistic_path(x, y, [1e-1])
    assert torch.allclose(together.weights[1], alone.weights[0], atol=1e-3)


def test_the_fast_probe_chooses_on_val_and_scores_test_once(digits, pixels):
    result = linear_probe(None, digits, features=pixels, penalties=PENALTIES)
    details = result.details
    assert result.val_accuracy == max(details["val_accuracies"])
    assert details["penalty"] in PENALTIES and details["protocol"] == "fast" and details["converged"]
    assert details["images"] == {"train": 1000, "val": 300, "test": 497}
    assert result.test_accuracy is not None and 0.9 < result.test_accuracy < 1
    assert linear_probe(None, digits, features=pixels, penalties=PENALTIES) == result


def test_permuting_the_test_labels_changes_the_test_accuracy_only(digits, pixels):
    labels = digits.labels.copy()
    labels[digits.indices("test")] = (labels[digits.indices("test")] + 1) % 10
    other = linear_probe(None, dataclasses.replace(digits, labels=labels), features=pixels, penalties=PENALTIES)
    result = linear_probe(None, digits, features=pixels, penalties=PENALTIES)
    assert other.val_accuracy == result.val_accuracy and other.details["penalty"] == result.details["penalty"]
    assert other.test_accuracy < 0.1


@pytest.mark.parametrize("protocol", ["fast", "paper"])
def test_without_score_test_the_test_split_is_not_read(digits, encoder, protocol):
    result = linear_probe(encoder, Untouchable(digits), protocol, score_test=False)
    assert result.test_accuracy is None and "test" not in result.details["images"]
    assert result.val_accuracy > 0.5


def test_both_poolings_are_recorded_and_the_first_is_the_result(digits, encoder):
    both = linear_probe(encoder, digits, pools=("mean", "cls"), penalties=PENALTIES)
    cls = linear_probe(encoder, digits, penalties=PENALTIES)
    assert set(both.details["pools"]) == {"mean", "cls"} and both.details["pool"] == "mean"
    assert both.val_accuracy == both.details["pools"]["mean"]["val_accuracy"]
    assert both.details["pools"]["cls"]["test_accuracy"] == cls.test_accuracy
    given = extract_pools(encoder, digits)
    assert linear_probe(None, digits, features=given, pools=("mean", "cls"), penalties=PENALTIES) == both


def test_the_paper_protocol_is_deterministic_and_reports_its_details(digits, pixels):
    scaled = {split: x / 255 for split, x in pixels.items()}
    first, again = (linear_probe(None, digits, "paper", seed=3, features=scaled) for _ in range(2))
    assert first == again
    assert (
        linear_probe(None, digits, "paper", seed=4, features=scaled).details["train_loss"]
        != (first.details["train_loss"])
    )
    assert first.details | {"epochs": 100, "warmup_epochs": 10, "batch_size": 512, "augmented": False} == first.details
    assert first.details["learning_rate"] == pytest.approx(0.2)
    assert first.test_accuracy > 0.85


@pytest.mark.slow
def test_the_paper_protocol_with_augmentation(digits, encoder):
    result = linear_probe(encoder, digits, "paper", augmentation=DataConfig(crop_scale=(0.8, 1.0), flip=False))
    assert result.details["augmented"] and result.val_accuracy > 0.3


def test_classes_missing_from_a_split_are_no_problem(digits, pixels):
    splits = dict(digits.splits)
    train_y, val_y = digits.labels[splits["train"]], digits.labels[splits["val"]]
    keep = {"train": train_y < 8, "val": val_y > 2, "test": slice(None)}
    splits = {s: i[keep[s]] for s, i in splits.items()}
    features = {s: x[keep[s]] for s, x in pixels.items()}
    for protocol in ("fast", "paper"):
        result = linear_probe(
            None, dataclasses.replace(digits, splits=splits, fingerprint=""), protocol, features=features
        )
        assert 0.3 < result.test_accuracy < 0.85, "two of ten classes were never seen in training"


def test_collapsed_and_constant_features_give_chance_not_errors(digits, pixels):
    collapsed = {s: np.full_like(x, 0.1) for s, x in pixels.items()}
    result = linear_probe(None, digits, features=collapsed, penalties=PENALTIES)
    assert result.val_accuracy < 0.2
    with_constant = {s: np.concatenate([x, np.full((len(x), 3), 7.3, np.float32)], 1) for s, x in pixels.items()}
    assert linear_probe(None, digits, features=with_constant, penalties=PENALTIES).val_accuracy == pytest.approx(
        linear_probe(None, digits, features=pixels, penalties=PENALTIES).val_accuracy, abs=0.01
    )


def test_huge_and_tiny_scales_of_features_do_not_matter(digits, pixels):
    scales = np.logspace(-12, 12, 64).astype(np.float32)
    scaled = {s: x * scales for s, x in pixels.items()}
    assert linear_probe(None, digits, features=scaled, penalties=PENALTIES).val_accuracy == pytest.approx(
        linear_probe(None, digits, features=pixels, penalties=PENALTIES).val_accuracy, abs=0.01
    )


def test_features_that_cannot_be_probed_are_refused(digits, pixels):
    broken = {**pixels, "val": np.where(np.arange(300)[:, None] == 5, np.nan, pixels["val"])}
    with pytest.raises(DataError, match="features of 1 of 300 val images are not finite"):
        linear_probe(None, digits, features=broken)
    with pytest.raises(DataError, match="not the split 'test'"):
        linear_probe(None, digits, features={s: pixels[s] for s in ("train", "val")})
    with pytest.raises(DataError, match="999 features for the 1000 images"):
        linear_probe(None, digits, features={**pixels, "train": pixels["train"][1:]})
    one = dataclasses.replace(digits, labels=np.zeros_like(digits.labels), fingerprint="")
    with pytest.raises(DataError, match="1 class"):
        linear_probe(None, one, features=pixels)


def test_settings_without_effect_are_refused(digits, pixels, encoder):
    with pytest.raises(ConfigError, match="protocol is 'quick'; allowed are fast, paper"):
        linear_probe(encoder, digits, "quick")
    with pytest.raises(ConfigError, match="augmentation"):
        linear_probe(encoder, digits, augmentation=DataConfig())
    with pytest.raises(ConfigError, match="penalties"):
        linear_probe(None, digits, features=pixels, penalties=[0.0])
    with pytest.raises(ConfigError, match="give an Encoder"):
        linear_probe(encoder.vit, digits)

"""Out-of-fold evaluation: against loops of scikit-learn, on labels with known truth, and what it must not read."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pmae.data.imageset import ImageSet
from pmae.errors import ConfigError, DataError
from pmae.probes import crossval, crossval_knn_probe, crossval_linear_probe
from pmae.probes.crossval import assign_folds, predict_leave_one_out, predict_out_of_fold

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)


class WithoutTest:
    """An image set whose test split must not be read."""

    def __init__(self, imageset):
        self.images, self.labels, self.imageset = imageset.images, imageset.labels, imageset

    def indices(self, split):
        assert split != "test"
        return self.imageset.indices(split)


def small(labels, features, cuts=(0.7, 0.8)):
    """An image set without pixels worth reading, and its features by split."""
    first, second = (round(len(labels) * cut) for cut in cuts)
    order = np.arange(len(labels))
    splits = {"train": order[:first], "val": order[first:second], "test": order[second:]}
    imageset = ImageSet(
        images=np.zeros((len(labels), 4, 4, 1), np.uint8), labels=np.asarray(labels, np.int64),
        class_names=tuple(map(str, range(int(np.max(labels)) + 1))), splits=splits, name="made",
    )  # fmt: skip
    return imageset, {s: features[i].astype(np.float32) for s, i in splits.items()}


def joined(imageset, features, splits=("train", "val", "test")):
    return (
        np.concatenate([features[s] for s in splits]),
        np.concatenate([imageset.labels[imageset.indices(s)] for s in splits]),
    )


@pytest.mark.parametrize("width", [64, 600])
def test_at_a_fixed_penalty_it_is_scikit_learns_loop_over_the_same_folds(digits, pixels, width, monkeypatch):
    x, y = joined(digits, pixels)
    x, y = x[:500], y[:500]
    if width > 64:  # beyond WIDE the features are standardized once for all folds
        x = x @ np.random.default_rng(0).standard_normal((64, width)).astype(np.float32)
        x = ((x - x.mean(0)) / x.std(0)).astype(np.float32)
        scaler = StandardScaler(with_mean=False, with_std=False)
    else:
        scaler = StandardScaler()
    assigned = assign_folds(y, 5, seed=1)
    ours = predict_out_of_fold(torch.tensor(x), torch.tensor(y), assigned, [1e-2])[0].numpy()
    theirs = np.empty_like(y)
    for fold in range(5):
        train = assigned != fold
        model = make_pipeline(scaler, LogisticRegression(C=100 / train.sum(), tol=1e-8, max_iter=10_000))
        theirs[~train] = model.fit(x[train].astype(float), y[train]).predict(x[~train].astype(float))
    assert (ours != theirs).mean() <= 0.004


def test_the_result_is_the_accuracy_of_the_out_of_fold_predictions(digits, pixels):
    result = crossval_linear_probe(pixels, digits, seed=2, folds=4, penalties=PENALTIES)
    for found, splits in ((result.test_accuracy, ("train", "val", "test")), (result.val_accuracy, ("train", "val"))):
        x, y = (torch.tensor(a) for a in joined(digits, pixels, splits))
        predicted = predict_out_of_fold(x, y, assign_folds(y.numpy(), 4, 2), PENALTIES)[0]
        assert found == (predicted == y).double().mean().item()
    assert 0.94 < result.val_accuracy < 1
    expected = {"protocol": "fast", "evaluation": "folds", "folds": 4, "repeats": 1}
    assert result.details | expected == result.details
    assert result.details["images"] == {"train": 1000, "val": 300, "test": 497}
    assert [len(s) for s in result.details["test_penalties"]] == [4]


def test_random_labels_are_predicted_at_chance():
    """Features with as many directions as images fit any labels; whatever leaks, even in the choice, is above 1/4.

    Over 30 data sets of 160 images chance is 0.25 +- 0.0063, and the classes are of equal size.
    """
    rng = np.random.default_rng(0)
    linear, neighbors = [], []
    for seed in range(30):
        labels = rng.permutation(np.arange(160) % 4)
        imageset, features = small(labels, rng.standard_normal((160, 120)))
        result = crossval_linear_probe(features, imageset, seed=seed, penalties=(1e-3, 1e-1, 10.0))
        linear += [result.val_accuracy, result.test_accuracy]
        neighbors.append(crossval_knn_probe(features, imageset, 1).test_accuracy)
    assert np.mean(linear) == pytest.approx(0.25, abs=0.025)
    assert np.mean(neighbors) == pytest.approx(0.25, abs=0.025)


def test_no_label_reaches_the_prediction_of_its_own_fold(digits, pixels):
    """All labels of one fold are replaced: its predictions and its penalty stay, those of the others change."""
    x, y = (torch.tensor(a[:400]) for a in joined(digits, pixels))
    assigned = assign_folds(y.numpy(), 5, seed=0)
    before, chosen = predict_out_of_fold(x, y, assigned, PENALTIES)
    for fold in range(5):
        held = torch.from_numpy(assigned == fold)
        after, chosen_after = predict_out_of_fold(x, torch.where(held, (y + 1) % 10, y), assigned, PENALTIES)
        assert torch.equal(before[held], after[held])
        assert chosen[fold] == chosen_after[fold]
        assert not torch.equal(before[~held], after[~held])


def test_the_penalty_is_chosen_on_images_that_the_fit_has_not_seen():
    """Noise in most of 150 directions: the weak penalty fits the training labels perfectly, the strong one is right."""
    rng = np.random.default_rng(1)
    y = np.arange(200) % 2
    x = rng.standard_normal((200, 150))
    x[:, :10] += 0.4 * (2 * y - 1)[:, None]
    assigned = assign_folds(y, 5, seed=0)
    chosen = predict_out_of_fold(torch.tensor(x), torch.tensor(y), assigned, (1e-6, 1.0))[1]
    assert chosen == [1.0] * 5


def test_folds_depend_on_seed_and_labels_only_and_are_stratified(digits):
    labels = digits.labels
    first = assign_folds(labels, 5, 0)
    assert np.array_equal(first, assign_folds(labels.copy(), 5, 0))
    for other in (assign_folds(labels, 5, 1), assign_folds(labels, 5, 0, repeat=1)):
        assert 0.1 < (other == first).mean() < 0.3
    counts = np.bincount(first, minlength=5)
    assert counts.max() - counts.min() <= 1
    for label in range(10):
        of_class = np.bincount(first[labels == label], minlength=5)
        assert of_class.max() - of_class.min() <= 1


def test_trials_of_one_seed_share_their_folds(digits, pixels, monkeypatch):
    used = []
    monkeypatch.setattr(
        crossval, "predict_out_of_fold",
        lambda x, y, assigned, penalties: used.append(assigned) or (y, [1.0]),
    )  # fmt: skip
    noise = {s: np.random.default_rng(0).standard_normal((len(x), 7)) for s, x in pixels.items()}
    for features in (pixels, noise):
        crossval_linear_probe(features, digits, seed=5, repeats=2)
    crossval_linear_probe(pixels, digits, seed=6, repeats=2)
    assert len(used) == 9  # one of train and val and two of all images, three times
    for mine, same, other in zip(used[:3], used[3:6], used[6:], strict=True):
        assert np.array_equal(mine, same) and not np.array_equal(mine, other)
    assert not np.array_equal(used[0], used[1])


def test_without_include_test_no_test_image_is_read_and_nothing_changes(digits, pixels):
    given = {s: pixels[s] for s in ("train", "val")}
    linear = crossval_linear_probe(given, WithoutTest(digits), seed=0, include_test=False, penalties=PENALTIES)
    knn = crossval_knn_probe(given, WithoutTest(digits), include_test=False)
    for result in (linear, knn):
        assert result.test_accuracy is None and "test" not in result.details["images"]
        assert result.details["evaluation"] == "folds"
    labels = digits.labels.copy()
    labels[digits.indices("test")] = 0
    changed = dataclasses.replace(digits, labels=labels, fingerprint="")
    broken = {**pixels, "test": np.zeros_like(pixels["test"])}
    assert crossval_linear_probe(broken, changed, seed=0, penalties=PENALTIES).val_accuracy == linear.val_accuracy
    assert crossval_knn_probe(broken, changed).val_accuracy == knn.val_accuracy


def test_repeats_are_averaged_and_begin_with_the_single_one(digits, pixels):
    part = {s: x[:200] for s, x in pixels.items()}
    few = dataclasses.replace(digits, splits={s: i[:200] for s, i in digits.splits.items()}, fingerprint="")
    three = crossval_linear_probe(part, few, seed=0, repeats=3, penalties=PENALTIES)
    one = crossval_linear_probe(part, few, seed=0, penalties=PENALTIES)
    by_repeat = three.details["test_accuracy_by_repeat"]
    assert by_repeat[0] == one.test_accuracy and len(set(by_repeat)) > 1
    assert three.test_accuracy == pytest.approx(np.mean(by_repeat)) and three.details["repeats"] == 3


def test_classes_with_fewer_images_than_folds():
    rng = np.random.default_rng(0)
    labels = np.array([0] * 30 + [1] * 30 + [2] * 2 + [3])
    labels = labels[rng.permutation(len(labels))]
    imageset, features = small(labels, 3 * np.eye(4)[labels] + 0.1 * rng.standard_normal((len(labels), 4)))
    result = crossval_linear_probe(features, imageset, seed=0, penalties=(1e-2, 1e-1))
    assert 60 / 63 <= result.test_accuracy < 1, "the only image of class 3 cannot be predicted"
    knn = crossval_knn_probe(features, imageset, 1)
    assert knn.test_accuracy == pytest.approx(62 / 63)


def test_leave_one_out_is_scikit_learns(digits, pixels):
    x, y = (torch.tensor(a[:300]) for a in joined(digits, pixels))
    ours = predict_leave_one_out(x, y, [1, 5])
    theirs = []
    for i in range(300):
        rest = np.arange(300) != i
        model = KNeighborsClassifier(1, algorithm="brute").fit(x[rest].double().numpy(), y[rest].numpy())
        theirs.append(model.predict(x[i : i + 1].double().numpy())[0])
    assert np.array_equal(ours[1].numpy(), theirs)
    assert (ours[5] == y).double().mean() > 0.9


def test_an_image_is_never_its_own_neighbor_even_among_duplicates():
    for x in (torch.zeros(40, 3), torch.arange(40.0)[:, None] ** 2):
        predicted = predict_leave_one_out(x, torch.arange(40), [1, 3])
        assert (predicted[1] != torch.arange(40)).all() and (predicted[3] != torch.arange(40)).all()


def test_what_cannot_be_cross_validated_is_refused(digits, pixels):
    with pytest.raises(ConfigError, match="folds is 2; it must be at least 3"):
        crossval_linear_probe(pixels, digits, seed=0, folds=2)
    with pytest.raises(ConfigError, match="repeats is 0"):
        crossval_linear_probe(pixels, digits, seed=0, repeats=0)
    with pytest.raises(ConfigError, match=r"penalties are \[\]; give at least one, each above 0"):
        crossval_linear_probe(pixels, digits, seed=0, penalties=())
    with pytest.raises(ConfigError, match="k is 1797"):
        crossval_knn_probe(pixels, digits, 1797)
    with pytest.raises(DataError, match="not the split 'test'"):
        crossval_linear_probe({s: pixels[s] for s in ("train", "val")}, digits, seed=0)
    imageset, features = small([0] * 20 + [1, 1], np.zeros((22, 2)))
    with pytest.raises(DataError, match="two classes with 3 or more images"):
        crossval_linear_probe(features, imageset, seed=0)

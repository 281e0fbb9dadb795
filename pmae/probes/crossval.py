"""Out-of-fold accuracy over all labeled images: every image is scored by a probe that was fitted without it.

Which few images are the test images is the largest part of the noise of a test accuracy (``benchmarks/noise.py``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pmae.errors import ConfigError, DataError
from pmae.probes._logistic import fit_logistic_path, principal_coordinates
from pmae.probes.features import (
    SPLITS,
    Labeled,
    LabeledImages,
    ProbeResult,
    accuracy,
    attach_labels,
    describe_input,
    index_of_best,
)
from pmae.probes.knn import nearest, neighbor_counts, vote
from pmae.probes.linear import PENALTIES

FOLDS = 5
# The penalty is chosen among fits that have converged to this; the fits that are scored converge fully.
CHOICE_TOLERANCE = 1e-3
# Features wider than this are rotated once for all folds instead of once per fit.
WIDE = 512


def crossval_linear_probe(
    features: Mapping[str, np.ndarray],
    imageset: LabeledImages,
    *,
    seed: int,
    folds: int = FOLDS,
    repeats: int = 1,
    include_test: bool = True,
    penalties: Sequence[float] = PENALTIES,
    device: str = "auto",
) -> ProbeResult:
    """Out-of-fold accuracy of the fast linear probe, by nested stratified cross-validation.

    Each fold is predicted by a logistic regression fitted on the other folds. Its L2 penalty is chosen on two of those
    folds, each predicted by fits that saw neither it nor the fold being scored. No label of an image affects the
    prediction of that image. Compare these accuracies with each other, not with those of the test split: the probe is
    fitted on more labels, and the encoder was pre-trained on most of the images, without their labels.

    Args:
        features: Split -> (N, W) float arrays in the order of ``imageset.indices(split)``.
        imageset: Image set with labels and the splits train, val and (with ``include_test``) test.
        seed: Random seed for the assignment of images to folds, which otherwise depends on the labels only.
        folds: Number of folds, at least 3.
        repeats: Number of cross-validations, each with folds of its own, whose accuracies are averaged.
        include_test: Score all labeled images. False never reads the test split.
        penalties: L2 penalties to choose from, see :func:`~pmae.probes._logistic.fit_logistic_path`.
        device: ``auto`` is the GPU if there is one.

    Returns:
        ``test_accuracy`` is over train, val and test together (None without ``include_test``), ``val_accuracy`` over
        train and val, from a cross-validation that reads no test image; ``details`` have both and the penalties of
        each repeat.

    Raises:
        ConfigError: Fewer than 3 folds, fewer than 1 repeat, more folds than images, or no valid penalty.
        DataError: Features are not finite or do not match the images, or fewer than two classes have 3 images.
    """
    if repeats < 1:
        raise ConfigError(f"repeats is {repeats}; it must be at least 1")
    data = attach_labels(features, imageset, SPLITS if include_test else SPLITS[:2], device)

    def score(splits: Sequence[str], repeats: int) -> tuple[list[float], list[list[float]]]:
        x, y = _joined(data, splits)
        assigned = [assign_folds(y.cpu().numpy(), folds, seed, repeat) for repeat in range(repeats)]
        runs = [predict_out_of_fold(x, y, each, penalties) for each in assigned]
        return [accuracy(predicted, y) for predicted, _ in runs], [chosen for _, chosen in runs]

    val, val_penalties = score(SPLITS[:2], 1 if include_test else repeats)
    details: dict[str, Any] = {
        "protocol": "fast",
        "evaluation": "folds",
        "folds": folds,
        "repeats": repeats,
        **describe_input(data, "given"),
        "val_accuracy_by_repeat": val,
        "val_penalties": val_penalties,
    }
    test = None
    if include_test:
        scores, test_penalties = score(SPLITS, repeats)
        test = float(np.mean(scores))
        details.update(test_accuracy_by_repeat=scores, test_penalties=test_penalties)
    return ProbeResult(float(np.mean(val)), test, details)


def crossval_knn_probe(
    features: Mapping[str, np.ndarray],
    imageset: LabeledImages,
    k: int = 20,
    *,
    include_test: bool = True,
    device: str = "auto",
) -> ProbeResult:
    """Leave-one-out accuracy of a k-NN vote; nothing is drawn and nothing is chosen.

    See :func:`crossval_linear_probe` for ``features``, ``include_test`` and the two accuracies, and
    :func:`~pmae.probes.knn.knn_probe` for ``k``.

    Raises:
        ConfigError: ``k`` is below 1 or not below the number of images.
        DataError: Features are not finite or do not match the images.
    """
    data = attach_labels(features, imageset, SPLITS if include_test else SPLITS[:2], device)
    scores: dict[str, dict[int, float]] = {}
    for name, splits in (("val", SPLITS[:2]), ("test", SPLITS)):
        if name == "val" or include_test:
            x, y = _joined(data, splits)
            ks = neighbor_counts(k, len(y) - 1)
            scores[name] = {n: accuracy(p, y) for n, p in predict_leave_one_out(x, y, ks).items()}
    details: dict[str, Any] = {
        "protocol": "knn",
        "evaluation": "folds",
        "folds": sum(len(part.y) for part in data.values()),
        "repeats": 1,
        "k": k,
        **describe_input(data, "given"),
        **{f"{name}_by_k": {str(n): value for n, value in by_k.items()} for name, by_k in scores.items()},
    }
    return ProbeResult(scores["val"][k], scores["test"][k] if include_test else None, details)


def _joined(data: Mapping[str, Labeled], splits: Sequence[str]) -> tuple[Tensor, Tensor]:
    return torch.cat([data[split].x for split in splits]), torch.cat([data[split].y for split in splits])


def assign_folds(labels: np.ndarray, folds: int, seed: int, repeat: int = 0) -> np.ndarray:
    """Fold (N,) of each image, from 0: every class, and all images, are spread over the folds as evenly as possible."""
    if not 3 <= folds <= len(labels):
        raise ConfigError(
            f"folds is {folds}; it must be at least 3 (one to score, one to choose the penalty, one to fit) and at "
            f"most the number of images, {len(labels)}"
        )
    if (np.unique(labels, return_counts=True)[1] >= 3).sum() < 2:
        raise DataError("cross-validation needs at least two classes with 3 or more images; use the single split")
    shuffled = np.random.default_rng([seed, repeat]).permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    assigned = np.empty(len(labels), np.int64)
    assigned[by_class] = np.arange(len(labels)) % folds  # dealt out class after class
    return assigned


def predict_out_of_fold(
    x: Tensor, y: Tensor, assigned: np.ndarray, penalties: Sequence[float] = PENALTIES
) -> tuple[Tensor, list[float]]:
    """Labels (N,) predicted for features (N, W) without the image's own fold, and the penalty chosen for each fold."""
    prepared = x.shape[1] > WIDE
    if prepared:
        x = principal_coordinates(x)
    fold = torch.from_numpy(assigned).to(y.device)
    chosen = _choose(x, y, fold, penalties, prepared) if len(penalties) != 1 else [0] * int(fold.max() + 1)
    predicted = torch.empty_like(y)
    for f, best in enumerate(chosen):
        held = fold == f
        path = fit_logistic_path(x[~held], y[~held], [penalties[best]], prepared=prepared)
        predicted[held] = path.predict(x[held], 0)
    return predicted, [penalties[best] for best in chosen]


def predict_leave_one_out(x: Tensor, y: Tensor, ks: Sequence[int]) -> dict[int, Tensor]:
    """Labels (N,) that the k nearest other images vote for, for every k; ties as in :func:`pmae.probes.knn.predict`."""
    classes, target = y.unique(return_inverse=True)
    near = torch.cat(nearest(x, x, max(ks) + 1))
    own = near == torch.arange(len(y), device=y.device)[:, None]
    own[~own.any(1), -1] = True  # among many duplicates the image itself may rank too low to be found
    others = near[~own].view(len(y), -1)
    return {k: classes[vote(target[others[:, :k]], len(classes))] for k in ks}


def _choose(x: Tensor, y: Tensor, fold: Tensor, penalties: Sequence[float], prepared: bool) -> list[int]:
    """Index of the penalty for each fold: the most accurate on its two neighbors (ties: lower cross-entropy)."""
    # The fits without folds f and f + 1 score f + 1 for the choice of f, and f for that of f + 1.
    count = int(fold.max()) + 1
    correct, loss = torch.zeros(2, count, len(penalties), dtype=torch.float64)
    for first in range(count):
        second = (first + 1) % count
        fitted = (fold != first) & (fold != second)
        path = fit_logistic_path(x[fitted], y[fitted], penalties, tolerance=CHOICE_TOLERANCE, prepared=prepared)
        for chooser, scored in ((first, fold == second), (second, fold == first)):
            for i in range(len(penalties)):
                logits = path.logits(x[scored], i)
                correct[chooser, i] += (path.classes[logits.argmax(1)] == y[scored]).sum().item()
                loss[chooser, i] += path.cross_entropy(logits, y[scored], "sum")
    return [index_of_best(right, lost) for right, lost in zip(correct.tolist(), loss.tolist(), strict=True)]

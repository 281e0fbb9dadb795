"""Out-of-fold accuracy over all labeled images: every image is scored by a probe that was fitted without it.

A small data set has few test images, and which images they are is the largest part of the noise of a test accuracy
(``benchmarks/noise.py``). Cross-validation scores all labeled images instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pmae.errors import ConfigError, DataError
from pmae.probes._logistic import fit_logistic_path, principal_coordinates
from pmae.probes.features import SPLITS, LabeledImages, ProbeResult, accuracy, attach_labels, describe_input
from pmae.probes.knn import REPORTED_K, nearest, vote
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
    prediction of that image.

    What the estimate means: the expected accuracy of this encoder's features with ``(folds - 1) / folds`` of the
    labels, over the images of the data set. The encoder is fixed. It was pre-trained on the train images without their
    labels, and most of the images scored here are such train images; accuracy on images that the encoder has never seen
    can differ by the gap that ``benchmarks/noise.py`` reports. Compare these accuracies with each other, not with those
    of the test split: the probe is also fitted on more labels.

    Args:
        features: Split -> (N, W) float arrays in the order of ``imageset.indices(split)``.
        imageset: Image set with labels and the splits train, val and (with ``include_test``) test.
        seed: Random seed for the assignment of images to folds, which depends on nothing else but the labels: trials
            with the same seed share their folds.
        folds: Number of folds, at least 3.
        repeats: Number of cross-validations, each with folds of its own, whose accuracies are averaged. With
            ``include_test`` these are of all images, and one more gives ``val_accuracy``.
        include_test: Score all labeled images. False never reads the test split.
        penalties: L2 penalties to choose from, see :func:`~pmae.probes._logistic.fit_logistic_path`.
        device: ``auto`` is the GPU if there is one.

    Returns:
        ``test_accuracy``: out-of-fold accuracy over train, val and test together; None without ``include_test``.
        ``val_accuracy``: out-of-fold accuracy over train and val, from a separate cross-validation that reads no test
        image. ``details``: ``evaluation`` ("folds"), ``folds``, ``repeats``, ``images``, and per repeat the accuracies
        and chosen penalties.

    Raises:
        ConfigError: Fewer than 3 folds, fewer than 1 repeat, more folds than images, or no valid penalty.
        DataError: Features are not finite or do not match the images, or fewer than two classes have 3 images.
    """
    data = attach_labels(features, imageset, SPLITS if include_test else SPLITS[:2], device)

    def score(splits: Sequence[str], repeats: int) -> tuple[list[float], list[list[float]]]:
        x, y = (torch.cat([getattr(data[split], name) for split in splits]) for name in "xy")
        runs = [
            predict_out_of_fold(x, y, assign_folds(y.cpu().numpy(), folds, seed, repeat), penalties)
            for repeat in range(repeats)
        ]
        return [accuracy(run.predicted, y) for run in runs], [run.penalties for run in runs]

    if repeats < 1:
        raise ConfigError(f"repeats is {repeats}; it must be at least 1")
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
    reported_k: Sequence[int] = REPORTED_K,
    device: str = "auto",
) -> ProbeResult:
    """Leave-one-out accuracy of a k-NN vote: as many folds as images, since k-NN has nothing to fit.

    Nothing is drawn and nothing is chosen. See :func:`crossval_linear_probe` for ``features``, ``include_test`` and the
    meaning of the two accuracies, and :func:`~pmae.probes.knn.knn_probe` for ``k`` and ``reported_k``.

    Raises:
        ConfigError: ``k`` is below 1 or not below the number of images.
        DataError: Features are not finite or do not match the images.
    """
    data = attach_labels(features, imageset, SPLITS if include_test else SPLITS[:2], device)
    scores: dict[str, dict[int, float]] = {}
    for name, splits in (("val", SPLITS[:2]), ("test", SPLITS)):
        if name == "test" and not include_test:
            continue
        x, y = (torch.cat([getattr(data[split], part) for split in splits]) for part in "xy")
        if not 1 <= k < len(y):
            raise ConfigError(f"k is {k}; it must be at least 1 and below the number of images, {len(y)}")
        ks = sorted({k, *(other for other in reported_k if 1 <= other < len(y))})
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


def assign_folds(labels: np.ndarray, folds: int, seed: int, repeat: int = 0) -> np.ndarray:
    """Fold (N,) of each image, from 0; a function of the labels, the seed and the number of the repeat.

    Every class is spread over the folds as evenly as possible, and so are all images: numbers differ by at most one.
    """
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


@dataclass(frozen=True)
class OutOfFold:
    """Predicted labels (N,), and the penalty chosen for each fold."""

    predicted: Tensor
    penalties: list[float]


def predict_out_of_fold(
    x: Tensor, y: Tensor, assigned: np.ndarray, penalties: Sequence[float] = PENALTIES
) -> OutOfFold:
    """Predict every image from the other folds, the penalty chosen by nested cross-validation.

    ``x`` are features (N, W), ``assigned`` the fold (N,) of every image.
    """
    prepared = x.shape[1] > WIDE
    if prepared:
        x = principal_coordinates(x)
    fold = torch.from_numpy(assigned).to(y.device)
    chosen = _choose(x, y, fold, penalties, prepared) if len(penalties) > 1 else [0] * int(fold.max() + 1)
    predicted = torch.empty_like(y)
    for f, best in enumerate(chosen):
        held = fold == f
        path = fit_logistic_path(x[~held], y[~held], [penalties[best]], prepared=prepared)
        predicted[held] = path.predict(x[held], 0)
    return OutOfFold(predicted, [penalties[best] for best in chosen])


def predict_leave_one_out(x: Tensor, y: Tensor, ks: Sequence[int]) -> dict[int, Tensor]:
    """Labels (N,) that the k nearest other images vote for, for every k; ties as in :func:`pmae.probes.knn.predict`."""
    classes, target = y.unique(return_inverse=True)
    near = torch.cat(nearest(x, x, max(ks) + 1))
    own = near == torch.arange(len(y), device=y.device)[:, None]
    own[~own.any(1), -1] = True  # among many duplicates the image itself may rank too low to be found
    others = near[~own].view(len(y), -1)
    return {k: classes[vote(target[others[:, :k]], len(classes))] for k in ks}


def _choose(x: Tensor, y: Tensor, fold: Tensor, penalties: Sequence[float], prepared: bool) -> list[int]:
    """Index of the penalty for each fold: the most accurate on its two neighbors (ties: lower cross-entropy).

    The fits that leave out folds f and f + 1 score f + 1 for the choice of f, and f for the choice of f + 1: with as
    many fits as folds every choice uses two folds.
    """
    count = int(fold.max()) + 1
    correct = torch.zeros(count, len(penalties), dtype=torch.float64)
    loss = torch.zeros(count, len(penalties), dtype=torch.float64)
    for first in range(count):
        second = (first + 1) % count
        fitted = (fold != first) & (fold != second)
        path = fit_logistic_path(x[fitted], y[fitted], penalties, tolerance=CHOICE_TOLERANCE, prepared=prepared)
        for chooser, scored in ((first, fold == second), (second, fold == first)):
            for i in range(len(penalties)):
                logits = path.logits(x[scored], i)
                correct[chooser, i] += (path.classes[logits.argmax(1)] == y[scored]).sum().item()
                loss[chooser, i] += path.cross_entropy(logits, y[scored], "sum")
    return [
        min(range(len(penalties)), key=lambda i: (-right[i].item(), lost[i].item()))
        for right, lost in zip(correct, loss, strict=True)
    ]

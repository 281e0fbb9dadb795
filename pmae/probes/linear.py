"""Linear probes on frozen features: the fast protocol (a grid of L2 penalties) and the paper's (SGD, 100 epochs).

The two are not comparable on weak encoders, so every result names its protocol.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pmae.config import DataConfig, check_choice
from pmae.errors import ConfigError
from pmae.probes._logistic import LogisticPath, fit_logistic_path
from pmae.probes._sgd import AugmentedFeatures, sgd_probe
from pmae.probes.features import (
    SPLITS,
    Labeled,
    LabeledImages,
    ProbeResult,
    accuracy,
    as_encoder,
    attach_labels,
    describe_input,
    extract_pools,
)

PENALTIES = tuple(float(f"{10**e:.3g}") for e in np.arange(-5, 0.25, 0.5))


def linear_probe(
    encoder: Any,
    imageset: LabeledImages,
    protocol: str = "fast",
    seed: int = 0,
    *,
    features: Mapping[str, Any] | None = None,
    pools: Sequence[str] | None = None,
    penalties: Sequence[float] = PENALTIES,
    score_test: bool = True,
    augmentation: DataConfig | None = None,
    device: str = "auto",
    precision: str = "auto",
) -> ProbeResult:
    """Accuracy of a linear classifier on the frozen encoder's features.

    ``fast``: multinomial logistic regression to its optimum at every penalty, trained on train, the penalty chosen
    on val (ties: lower cross-entropy), test scored once. ``paper``: one linear layer on raw features, SGD with
    momentum 0.9, base rate 0.1 x batch / 256, no weight decay, 100 epochs, 10 of them warm-up, then cosine; the last
    epoch counts. Features are extracted once; with ``augmentation`` the training images are cropped and flipped again
    and encoded again in every epoch, as the papers do, at a hundred times the cost.

    Args:
        encoder: An Encoder or a pre-training result; not read when ``features`` are given.
        imageset: Images with labels and the splits train, val and test.
        protocol: ``fast`` or ``paper``.
        seed: Of the paper protocol's initialization and order; the fast one draws nothing.
        features: Split -> (N, W) float arrays extracted before; with ``pools``, pool -> split -> array.
        pools: Poolings to probe, for example ("cls", "mean"); the first is the result, all are in the details. None
            probes the encoder's own.
        penalties: L2 penalties of the fast protocol, see :func:`~pmae.probes._logistic.fit_logistic_path`.
        score_test: Whether the test split is read and scored.
        augmentation: The paper protocol's random crops and flips (``crop_scale``, ``flip``); None: no augmentation.
        device, precision: See :func:`~pmae.probes.features.extract_features`.

    Raises:
        ConfigError: A setting is unknown or has no effect with the others.
        DataError: Features are not finite, a split is empty, or train holds fewer than two classes.
    """
    check_choice("protocol", protocol, ("fast", "paper"))
    if augmentation is not None and (protocol == "fast" or features is not None or pools is not None):
        raise ConfigError("augmentation needs protocol='paper' and has no effect on features or pools; leave it out")
    splits = SPLITS if score_test else SPLITS[:2]
    results = {}
    for pool, given in _features_by_pool(encoder, imageset, features, pools, splits, device, precision).items():
        data = attach_labels(given, imageset, splits, device)
        if protocol == "fast":
            results[pool] = _fast(data, penalties)
        else:
            fresh = None
            if augmentation is not None:
                fresh = AugmentedFeatures(encoder, imageset, augmentation, seed, device, precision)
            results[pool] = sgd_probe(data, seed, fresh)
        results[pool].details.update(protocol=protocol, **describe_input(data, pool))
    return _first_with_all(results)


def _features_by_pool(
    encoder: Any,
    imageset: LabeledImages,
    features: Mapping[str, Any] | None,
    pools: Sequence[str] | None,
    splits: Sequence[str],
    device: str,
    precision: str,
) -> Mapping[str, Mapping[str, np.ndarray]]:
    """Pool -> split -> features (N, W), extracted where they are not given."""
    if features is not None:
        return {"given": features} if pools is None else {pool: features[pool] for pool in pools}
    wanted = [as_encoder(encoder).pool] if pools is None else pools
    return extract_pools(encoder, imageset, splits, wanted, device=device, precision=precision)


def _first_with_all(results: Mapping[str, ProbeResult]) -> ProbeResult:
    """The first pooling's result; the details list every pooling's accuracies."""
    first = next(iter(results.values()))
    scores = {pool: {"val_accuracy": r.val_accuracy, "test_accuracy": r.test_accuracy} for pool, r in results.items()}
    return ProbeResult(first.val_accuracy, first.test_accuracy, {**first.details, "pools": scores})


def _fast(data: Mapping[str, Labeled], penalties: Sequence[float]) -> ProbeResult:
    path, best, details = fit_and_choose(data, penalties)
    test = data.get("test")
    score = None if test is None else accuracy(path.predict(test.x, best), test.y)
    return ProbeResult(details["val_accuracies"][best], score, details)


def fit_and_choose(
    data: Mapping[str, Labeled], penalties: Sequence[float] = PENALTIES
) -> tuple[LogisticPath, int, dict[str, Any]]:
    """Fit the grid on ``data["train"]``; the index of the penalty that is best on ``data["val"]``, and the details."""
    val = data["val"]
    path = fit_logistic_path(data["train"].x, data["train"].y, penalties)
    logits = [path.logits(val.x, i) for i in range(len(penalties))]
    scores = [accuracy(path.classes[z.argmax(1)], val.y) for z in logits]
    losses = [_cross_entropy(z, val.y, path.classes) for z in logits]
    best = min(range(len(penalties)), key=lambda i: (-scores[i], losses[i]))
    details = {
        "penalty": path.penalties[best],
        "penalties": list(path.penalties),
        "val_accuracies": scores,
        "val_losses": losses,
        "penalty_at_edge": len(penalties) > 1 and best in (0, len(penalties) - 1),
        "converged": bool(path.converged.all()),
        "evaluations": path.evaluations,
    }
    return path, best, details


def _cross_entropy(logits: Tensor, labels: Tensor, classes: Tensor) -> float:
    """Mean over the images whose class was seen in training; 0 where there are none."""
    known = torch.isin(labels, classes)
    if not known.any():
        return 0.0
    return nn.functional.cross_entropy(logits[known], torch.searchsorted(classes, labels[known])).item()

"""Accuracy under common corruptions: a linear probe fitted on clean features, scored on corrupted images."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pmae.probes.corruptions import CORRUPTIONS, corrupt
from pmae.probes.features import (
    SPLITS,
    LabeledImages,
    ProbeResult,
    accuracy,
    as_encoder,
    attach_labels,
    describe_input,
    extract_features,
)
from pmae.probes.linear import fit_and_choose


@dataclasses.dataclass(frozen=True)
class _Corrupted:
    """One split of an image set, corrupted."""

    images: np.ndarray
    labels: np.ndarray

    def indices(self, split: str) -> np.ndarray:
        return np.arange(len(self.labels))


def corruption_probe(
    encoder: Any,
    imageset: LabeledImages,
    seed: int = 0,
    *,
    features: Mapping[str, Any] | None = None,
    corruptions: Sequence[str] = tuple(CORRUPTIONS),
    severity: int = 3,
    score_test: bool = True,
    device: str = "auto",
    precision: str = "auto",
) -> ProbeResult:
    """Mean accuracy over corruptions of a linear probe (fast protocol) that has seen clean images only.

    The penalty is chosen on the clean validation split.

    Args:
        encoder: An Encoder or a pre-training result.
        imageset: Images with labels and the splits train, val and test.
        seed: Of the corruptions' noise.
        features: Clean features of the encoder, split -> (N, W), extracted before.
        corruptions: Names out of :data:`~pmae.probes.corruptions.CORRUPTIONS`.
        severity: 1 to 5.
        score_test: Whether the test split is read and scored.
        device, precision: See :func:`~pmae.probes.features.extract_features`.

    Returns:
        Mean accuracies; ``details`` has ``val_by_corruption``, ``test_by_corruption`` and the clean ones.

    Raises:
        ConfigError: Unknown corruption or severity.
        DataError: Features are not finite, or a split is empty.
    """
    encoder = as_encoder(encoder)
    splits = SPLITS if score_test else SPLITS[:2]
    if features is None:
        features = extract_features(encoder, imageset, splits, device=device, precision=precision)
    data = attach_labels(features, imageset, splits, device)
    path, best, _ = fit_and_choose(data)
    by_corruption: dict[str, dict[str, float]] = {split: {} for split in splits[1:]}
    for split, scores in by_corruption.items():
        rows = imageset.indices(split)
        clean, labels = np.array(imageset.images[rows]), np.asarray(imageset.labels)[rows]
        for name in corruptions:
            changed = _Corrupted(corrupt(clean, name, severity, seed), labels)
            x = extract_features(encoder, changed, [split], device=device, precision=precision)
            part = attach_labels(x, changed, [split], device)[split]
            scores[name] = accuracy(path.predict(part.x, best), part.y)
    means = {split: float(np.mean(list(scores.values()))) for split, scores in by_corruption.items()}
    details = {
        "protocol": "corruptions",
        **describe_input(data, encoder.pool),
        "severity": severity,
        "penalty": path.penalties[best],
        **{f"{split}_by_corruption": scores for split, scores in by_corruption.items()},
        **{f"{split}_clean": accuracy(path.predict(data[split].x, best), data[split].y) for split in splits[1:]},
    }
    return ProbeResult(means["val"], means.get("test"), details)

"""k-nearest-neighbor classification of frozen features: Euclidean distance, unweighted vote, exact, in chunks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pmae.errors import ConfigError
from pmae.probes.features import LabeledImages, ProbeResult, accuracy, describe_input, probe_input

REPORTED_K = (2, 5, 10, 15, 20)
# Distances held at once: 64 MiB in float32.
CHUNK_DISTANCES = 1 << 24
# Extra candidates of the float32 search that are measured again in float64, so that rounding cannot swap neighbors.
SPARE = 8


def knn_probe(
    encoder: Any,
    imageset: LabeledImages,
    k: int = 20,
    seed: int = 0,
    *,
    features: Mapping[str, Any] | None = None,
    score_test: bool = True,
    device: str = "auto",
    precision: str = "auto",
) -> ProbeResult:
    """Accuracy of a k-NN vote among the training images, for val and test.

    Nothing is chosen: the result is that of ``k``; ``details`` also hold the accuracies of ``REPORTED_K``.

    Args:
        encoder, imageset, features, score_test, device, precision: As for :func:`~pmae.probes.linear.linear_probe`.
        k: Neighbors that vote.
        seed: Taken so that all probes are called alike; k-NN draws nothing.

    Raises:
        ConfigError: ``k`` is below 1 or above the number of training images.
        DataError: Features are not finite or a split is empty.
    """
    data, pool = probe_input(encoder, imageset, features, score_test, device, precision)
    train = data["train"]
    ks = neighbor_counts(k, len(train.y))
    scores = {}
    for split, part in data.items():
        if split != "train":
            predicted = predict(train.x, train.y, part.x, ks)
            scores[split] = {n: accuracy(votes, part.y) for n, votes in predicted.items()}
    details: dict[str, Any] = {
        "protocol": "knn",
        "k": k,
        **describe_input(data, pool),
        **{f"{split}_by_k": {str(n): value for n, value in by_k.items()} for split, by_k in scores.items()},
    }
    return ProbeResult(scores["val"][k], scores["test"][k] if score_test else None, details)


def neighbor_counts(k: int, most: int) -> list[int]:
    """``k`` and those of ``REPORTED_K`` for which there are enough neighbors."""
    if not 1 <= k <= most:
        raise ConfigError(f"k is {k}; it must be at least 1 and at most {most}, the images that can be neighbors")
    return sorted({k, *(other for other in REPORTED_K if other <= most)})


def predict(train_x: Tensor, train_y: Tensor, queries: Tensor, ks: Sequence[int]) -> dict[int, Tensor]:
    """Labels (Q,) of ``queries`` for every k: the most frequent of the k nearest; ties: the nearest."""
    classes, target = train_y.unique(return_inverse=True)
    neighbors = target[torch.cat(nearest(train_x, queries, max(ks)))]
    return {k: classes[vote(neighbors[:, :k], len(classes))] for k in ks}


def nearest(train_x: Tensor, queries: Tensor, k: int) -> list[Tensor]:
    """Indices of the k nearest training features, nearest first, as chunks (q, k) of the queries in their order.

    Equal distances rank by index. At no time more than ``CHUNK_DISTANCES`` distances are held.
    """
    center = train_x.mean(0)  # distances do not change, but rounding falls with the length of the vectors
    train = train_x - center
    half_squares = train.square().sum(1) / 2
    candidates = min(k + SPARE, len(train))
    chunks = []
    for query in queries.split(max(1, CHUNK_DISTANCES // len(train))):
        # |t - q|² / 2 without the query's own length, which ranks nothing.
        distance = torch.addmm(half_squares, query - center, train.T, alpha=-1)
        found = distance.topk(candidates, dim=1, largest=False, sorted=False).indices.sort(dim=1).values
        exact = _exact_distances(train_x, query, found)
        order = exact.argsort(dim=1, stable=True)[:, :k]
        chunks.append(found.gather(1, order))
    return chunks


def _exact_distances(train: Tensor, query: Tensor, found: Tensor) -> Tensor:
    """Squared distances (q, c) in float64 between queries (q, W) and their candidates (q, c), a few rows at a time."""
    rows = max(1, CHUNK_DISTANCES // (2 * found.shape[1] * train.shape[1]))
    return torch.cat(
        [
            (train[near].double() - part[:, None].double()).square().sum(2)
            for near, part in zip(found.split(rows), query.split(rows), strict=True)
        ]
    )


def vote(neighbors: Tensor, classes: int) -> Tensor:
    """Winning class (q,) of neighbors' classes (q, k), nearest first; ties go to the class that appears first."""
    counts = torch.zeros(len(neighbors), classes, dtype=torch.long, device=neighbors.device)
    counts.scatter_add_(1, neighbors, torch.ones_like(neighbors))
    votes = counts.gather(1, neighbors)
    first_of_most = (votes == votes.amax(1, keepdim=True)).to(torch.uint8).argmax(1, keepdim=True)
    return neighbors.gather(1, first_of_most).squeeze(1)

"""Linear probes on frozen features: the fast protocol (a grid of L2 penalties) and the paper's (SGD, 100 epochs).

The two are not comparable on weak encoders, so every result names its protocol.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pmae.config import DataConfig, check_choice
from pmae.devices import pick_device
from pmae.errors import ConfigError
from pmae.probes._logistic import LogisticPath, fit_logistic_path
from pmae.probes._sgd import Shuffled, augment_for, linear_head, train_epochs
from pmae.probes.features import (
    SPLITS,
    Labeled,
    LabeledImages,
    ProbeResult,
    accuracy,
    as_encoder,
    attach_labels,
    autocast,
    describe_input,
    eval_mode,
    extract_pools,
    index_of_best,
    read_images,
    score,
)

PENALTIES = tuple(float(f"{10**e:.3g}") for e in np.arange(-5, 0.25, 0.5))
EPOCHS, WARMUP_EPOCHS, BATCH, BASE_LR, MOMENTUM = 100, 10, 512, 0.1, 0.9  # of the paper protocol


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
    momentum 0.9, base learning rate 0.1 x batch / 256, no weight decay, 100 epochs, 10 of them warm-up, then cosine;
    the last epoch counts. With ``augmentation`` the training images are cropped, flipped and encoded again every epoch.

    Args:
        encoder: An Encoder or a pre-training result; not read when ``features`` are given.
        imageset: Images with labels and the splits train, val and test.
        protocol: ``fast`` or ``paper``.
        seed: Random seed for the paper protocol's initialization and order; the fast one draws nothing.
        features: Split -> (N, W) float arrays extracted before; with ``pools``, pool -> split -> array.
        pools: Poolings to probe; the first is the result, all are in the details. None probes the encoder's own.
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
    by_pool: Mapping[str, Mapping[str, np.ndarray]]
    if features is not None:
        by_pool = {"given": features} if pools is None else {pool: features[pool] for pool in pools}
    else:
        wanted = [as_encoder(encoder).pool] if pools is None else pools
        by_pool = extract_pools(encoder, imageset, splits, wanted, device=device, precision=precision)
    results = {}
    for pool, given in by_pool.items():
        data = attach_labels(given, imageset, splits, device)
        if protocol == "fast":
            path, best, details = fit_and_choose(data, penalties)
            scores = score(data, partial(path.predict, index=best))
            results[pool] = ProbeResult(scores["val"], scores.get("test"), details)
        else:
            encode = None
            if augmentation is not None:
                encode = _augmented_features(encoder, imageset, augmentation, seed, device, precision)
            results[pool] = _paper(data, seed, encode)
        results[pool].details.update(protocol=protocol, **describe_input(data, pool))
    first = next(iter(results.values()))
    first.details["pools"] = {
        pool: {"val_accuracy": r.val_accuracy, "test_accuracy": r.test_accuracy} for pool, r in results.items()
    }
    return first


def fit_and_choose(
    data: Mapping[str, Labeled], penalties: Sequence[float] = PENALTIES
) -> tuple[LogisticPath, int, dict[str, Any]]:
    """Fit the grid on ``data["train"]``; the index of the penalty that is best on ``data["val"]``, and the details."""
    val = data["val"]
    path = fit_logistic_path(data["train"].x, data["train"].y, penalties)
    logits = [path.logits(val.x, i) for i in range(len(penalties))]
    scores = [accuracy(path.classes[z.argmax(1)], val.y) for z in logits]
    losses = [path.cross_entropy(z, val.y) for z in logits]
    best = index_of_best(scores, losses)
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


def _augmented_features(
    encoder: Any, images: LabeledImages, augmentation: DataConfig, seed: int, device: str, precision: str
) -> Callable[[Tensor], Tensor]:
    """A function from positions (B,) to features (B, W) of these training images, cropped and flipped again."""
    encoder, indices, where = as_encoder(encoder), images.indices("train"), pick_device(device)
    generator = torch.Generator(where).manual_seed(seed)

    def encode(positions: Tensor) -> Tensor:
        pixels = read_images(images.images, indices[positions.cpu().numpy()]).to(where)
        with eval_mode(encoder, where):
            seen = augment_for(encoder, pixels, augmentation, generator)
            with torch.no_grad(), autocast(encoder, where, precision):
                return encoder(seen).float()

    return encode


def _paper(data: Mapping[str, Labeled], seed: int, encode: Callable[[Tensor], Tensor] | None) -> ProbeResult:
    """One linear layer, its last epoch scored; ``encode`` gives the training features instead of those in ``data``."""
    train = data["train"]
    device, classes = train.x.device, int(max(part.y.max() for part in data.values())) + 1
    generator = torch.Generator().manual_seed(seed)
    head = linear_head(train.x.shape[1], classes, generator).to(device)
    order = Shuffled(len(train.y), BATCH, generator, device)
    lr = BASE_LR * order.batch_size / 256

    def loss_of(positions: Tensor) -> Tensor:
        x = train.x[positions] if encode is None else encode(positions)
        return nn.functional.cross_entropy(head(x), train.y[positions])

    optimizer = torch.optim.SGD(head.parameters(), lr=lr, momentum=MOMENTUM)
    *_, (_, last) = train_epochs(loss_of, optimizer, order, EPOCHS, WARMUP_EPOCHS * order.steps)
    with torch.no_grad():
        scores = score(data, lambda x: head(x).argmax(1))
    details = {
        "epochs": EPOCHS,
        "warmup_epochs": WARMUP_EPOCHS,
        "batch_size": order.batch_size,
        "learning_rate": lr,
        "augmented": encode is not None,
        "train_loss": last.item(),
    }
    return ProbeResult(scores["val"], scores.get("test"), details)

"""MLP probe: two hidden layers of the encoder's width on frozen features, the learning rate chosen on val."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pmae.errors import ConfigError
from pmae.probes._logistic import standardization
from pmae.probes._sgd import Shuffled, train_epochs
from pmae.probes.features import (
    Labeled,
    LabeledImages,
    ProbeResult,
    accuracy,
    describe_input,
    index_of_best,
    probe_input,
    score,
)

RATES = (3e-4, 1e-3, 3e-3)
EPOCHS, BATCH, WEIGHT_DECAY = 50, 512, 0.01


def mlp_probe(
    encoder: Any,
    imageset: LabeledImages,
    seed: int = 0,
    *,
    features: Mapping[str, Any] | None = None,
    rates: Sequence[float] = RATES,
    epochs: int = EPOCHS,
    score_test: bool = True,
    device: str = "auto",
    precision: str = "auto",
) -> ProbeResult:
    """Accuracy of a small MLP on the frozen encoder's standardized features.

    Two hidden layers as wide as the features with GELU, AdamW (weight decay 0.01), batch 512 (or an eighth of train
    where that is less), a tenth of the epochs warm-up, then cosine. One MLP per learning rate is trained, all on the
    same batches; it is chosen on val by the last epoch's accuracy (ties: lower cross-entropy), and test is
    scored once.

    Args:
        encoder, imageset, features, score_test, device, precision: As for :func:`~pmae.probes.linear.linear_probe`.
        seed: Random seed for initialization and order.
        rates: Learning rates to choose from.
        epochs: Passes over the training features.

    Raises:
        ConfigError: No learning rate, one of 0 or below, or fewer than one epoch.
        DataError: Features are not finite or a split is empty.
    """
    if not rates or min(rates) <= 0 or epochs < 1:
        raise ConfigError(f"rates are {list(rates)} and epochs {epochs}; give rates above 0 and at least one epoch")
    raw, pool = probe_input(encoder, imageset, features, score_test, device, precision)
    mean, std = standardization(raw["train"].x)
    data = {split: Labeled(((part.x - mean) / std).float(), part.y) for split, part in raw.items()}
    batch_size = min(BATCH, max(1, len(data["train"].y) // 8))  # small training splits still get eight steps an epoch
    heads = _train(data, rates, epochs, batch_size, seed)
    with torch.no_grad():
        logits = [head(data["val"].x) for head in heads]
        accuracies = [accuracy(z.argmax(1), data["val"].y) for z in logits]
        losses = [nn.functional.cross_entropy(z, data["val"].y).item() for z in logits]
        best = index_of_best(accuracies, losses)
        scores = score(data, lambda x: heads[best](x).argmax(1))
    details = {
        "protocol": "mlp",
        **describe_input(data, pool),
        "learning_rate": rates[best],
        "learning_rates": list(rates),
        "val_accuracies": accuracies,
        "epochs": epochs,
        "batch_size": batch_size,
        "weight_decay": WEIGHT_DECAY,
    }
    return ProbeResult(scores["val"], scores.get("test"), details)


def _train(
    data: Mapping[str, Labeled], rates: Sequence[float], epochs: int, batch_size: int, seed: int
) -> list[nn.Module]:
    train = data["train"]
    classes = int(max(part.y.max() for part in data.values())) + 1
    device, width = train.x.device, train.x.shape[1]
    with torch.random.fork_rng(devices=[]):
        heads = []
        for _ in rates:
            torch.manual_seed(seed)  # rates are compared from one and the same start
            heads.append(_mlp(width, classes).to(device))
    order = Shuffled(len(train.y), batch_size, torch.Generator().manual_seed(seed), device)
    groups = [{"params": list(head.parameters()), "lr": lr} for head, lr in zip(heads, rates, strict=True)]
    optimizer = torch.optim.AdamW(groups, weight_decay=WEIGHT_DECAY, fused=True)

    def loss_of(positions: Tensor) -> Tensor:
        x, y = train.x[positions], train.y[positions]
        return torch.stack([nn.functional.cross_entropy(head(x), y) for head in heads]).sum()

    for _ in train_epochs(loss_of, optimizer, order, epochs, math.ceil(epochs * order.steps / 10)):
        pass
    return heads


def _mlp(width: int, classes: int) -> nn.Module:
    hidden = (nn.Linear(width, width), nn.GELU(), nn.Linear(width, width), nn.GELU())
    return nn.Sequential(*hidden, nn.Linear(width, classes))

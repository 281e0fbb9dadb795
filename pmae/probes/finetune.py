"""Fine-tuning: the whole encoder and a linear head trained on the labels, starting from a copy of the encoder."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer
from timm.optim import param_groups_layer_decay
from torch import Tensor, nn

from pmae.config import DataConfig
from pmae.devices import pick_device
from pmae.errors import ConfigError, DataError, DivergedError
from pmae.probes._sgd import Shuffled, augment_for, linear_head, train_epochs
from pmae.probes.features import (
    SPLITS,
    LabeledImages,
    ProbeResult,
    accuracy,
    as_encoder,
    autocast,
    check_images,
    check_labeled,
    read_images,
)

EPOCHS, BATCH, BASE_LR, WEIGHT_DECAY = 100, 512, 1e-3, 0.05
WARMUP_SHARE = 0.05


def finetune(
    encoder: Any,
    imageset: LabeledImages,
    seed: int = 0,
    *,
    epochs: int = EPOCHS,
    batch_size: int = BATCH,
    base_learning_rate: float = BASE_LR,
    layer_decay: float | None = None,
    augmentation: DataConfig | None = None,
    score_test: bool = True,
    device: str = "auto",
    precision: str = "auto",
    on_epoch: Callable[[int, float], None] | None = None,
) -> ProbeResult:
    """Accuracy after training encoder and a linear head on the labels; the encoder given is not changed.

    AdamW (betas 0.9, 0.999, weight decay 0.05), learning rate ``base_learning_rate`` x batch / 256, a twentieth of the
    epochs warm-up, then cosine; the last epoch counts, nothing is chosen.

    Args:
        encoder: An Encoder or a pre-training result.
        imageset: Images of the encoder's size with labels and the splits train, val and test.
        seed: Random seed for the head's initialization, order and augmentation.
        epochs, batch_size, base_learning_rate: The schedule; a smaller dataset is one batch.
        layer_decay: Factor in (0, 1] of the learning rate from each block to the one below (0.65 to 0.75 is usual);
            None trains all blocks with the same.
        augmentation: Random crops and flips (``crop_scale``, ``flip``); None trains on the images as they are.
        score_test: Whether the test split is read and scored.
        device, precision: See :func:`~pmae.probes.features.extract_features`.
        on_epoch: Called as ``on_epoch(epoch, train_loss)`` after every epoch.

    Raises:
        ConfigError: A setting is out of range.
        DataError: The images do not fit the encoder, or a split is empty.
        DivergedError: The loss became infinite or NaN.
    """
    if epochs < 1 or batch_size < 1 or not 0 < base_learning_rate < math.inf:
        raise ConfigError(
            f"epochs {epochs}, batch_size {batch_size}, base_learning_rate {base_learning_rate}: the first two must "
            "be at least 1, the last above 0"
        )
    if layer_decay is not None and not 0 < layer_decay <= 1:
        raise ConfigError(f"layer_decay is {layer_decay}; it must be in (0, 1], for example 0.75, or be left out")
    check_labeled(imageset)
    encoder = as_encoder(encoder)
    check_images(encoder, imageset.images)
    splits = SPLITS if score_test else SPLITS[:2]
    for split in splits:
        if not len(imageset.indices(split)):
            raise DataError(f"the {split} split holds no images; fine-tuning needs some in each split it reads")
    where = pick_device(device)
    tuned = copy.deepcopy(encoder).to(where).train()
    classes = int(imageset.labels.max()) + 1
    head = linear_head(encoder.feature_width(), classes, torch.Generator().manual_seed(seed)).to(where)
    generator = torch.Generator(where).manual_seed(seed)
    train = imageset.indices("train")
    order = Shuffled(len(train), batch_size, torch.Generator().manual_seed(seed), torch.device("cpu"))
    lr = base_learning_rate * order.batch_size / 256
    optimizer = build_optimizer(tuned.vit, head, lr, layer_decay)

    def logits(rows: np.ndarray, augmentation: DataConfig | None = None) -> Tensor:
        pixels = read_images(imageset.images, rows).to(where)
        x = tuned.standardize(pixels) if augmentation is None else augment_for(tuned, pixels, augmentation, generator)
        with autocast(tuned, where, precision):
            return head(tuned(x)).float()

    def loss_of(positions: Tensor) -> Tensor:
        rows = train[positions.numpy()]
        target = torch.tensor(imageset.labels[rows], device=where)
        return nn.functional.cross_entropy(logits(rows, augmentation), target)

    warmup_steps = math.ceil(WARMUP_SHARE * epochs * order.steps)
    loss = math.nan
    for epoch, (total, _) in enumerate(train_epochs(loss_of, optimizer, order, epochs, warmup_steps)):
        loss = total.item() / len(train)
        if not math.isfinite(loss):
            raise DivergedError(epoch, (epoch + 1) * order.steps - 1, loss)
        if on_epoch is not None:
            on_epoch(epoch, loss)
    tuned.eval()
    scores = {}
    for split in splits[1:]:
        indices = imageset.indices(split)
        with torch.no_grad():
            blocks = np.split(indices, range(batch_size, len(indices), batch_size))
            predicted = torch.cat([logits(rows).argmax(1) for rows in blocks]).cpu()
        scores[split] = accuracy(predicted, torch.tensor(imageset.labels[indices]))
    details = {
        "protocol": "finetune",
        "pool": encoder.pool,
        "images": {split: len(imageset.indices(split)) for split in splits},
        "epochs": epochs,
        "batch_size": order.batch_size,
        "learning_rate": lr,
        "layer_decay": layer_decay,
        "augmented": augmentation is not None,
        "train_loss": loss,
    }
    return ProbeResult(scores["val"], scores.get("test"), details)


def build_optimizer(
    vit: VisionTransformer, head: nn.Linear, lr: float, layer_decay: float | None
) -> torch.optim.Optimizer:
    """AdamW without weight decay of biases, norms, tokens and positions; the head learns at the full ``lr``."""
    groups = param_groups_layer_decay(
        vit, WEIGHT_DECAY, no_weight_decay_list=vit.no_weight_decay(), layer_decay=layer_decay or 1.0
    )
    groups = [{**group, "lr": lr * group.pop("lr_scale")} for group in groups]
    groups += [{"params": [head.weight], "weight_decay": WEIGHT_DECAY}, {"params": [head.bias], "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=lr)

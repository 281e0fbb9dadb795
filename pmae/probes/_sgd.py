"""The papers' linear probe: one layer on raw features, SGD with momentum, warm-up and cosine."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from pmae.config import DataConfig
from pmae.devices import pick_device
from pmae.probes._schedule import Shuffled, warmup_cosine
from pmae.probes.features import (
    Labeled,
    LabeledImages,
    ProbeResult,
    accuracy,
    as_encoder,
    autocast,
    eval_mode,
    read_images,
)
from pmae.training.augment import augment

EPOCHS, WARMUP_EPOCHS, BATCH, BASE_RATE, MOMENTUM = 100, 10, 512, 0.1, 0.9


class AugmentedFeatures:
    """Encodes training images again, cropped and flipped, whenever their batch is asked for."""

    def __init__(
        self,
        encoder: object,
        images: LabeledImages,
        augmentation: DataConfig,
        seed: int,
        device: str,
        precision: str = "auto",
    ) -> None:
        self.encoder, self.images, self.augmentation = as_encoder(encoder), images.images, augmentation
        self.indices, self.device, self.precision = images.indices("train"), pick_device(device), precision
        self.generator = torch.Generator(self.device).manual_seed(seed)

    def __call__(self, positions: Tensor) -> Tensor:
        """Features (B, W) of the training images at ``positions`` (B,)."""
        pixels = read_images(self.images, self.indices[positions.cpu().numpy()]).to(self.device)
        seen = augment(pixels, self.generator, self.augmentation.crop_scale, self.augmentation.flip)
        encoder = self.encoder
        with eval_mode(encoder, self.device), torch.no_grad(), autocast(encoder, self.device, self.precision):
            return encoder((seen - encoder.mean) / encoder.std).float()


def sgd_probe(data: Mapping[str, Labeled], seed: int, encoded: AugmentedFeatures | None = None) -> ProbeResult:
    """Train on train, score the last epoch on val and, where it is in ``data``, on test.

    Args:
        data: Features and labels per split.
        seed: Of initialization and order.
        encoded: Source of the training features; None takes those in ``data`` in every epoch.
    """
    train = data["train"]
    device, classes = train.x.device, int(max(part.y.max() for part in data.values())) + 1
    generator = torch.Generator().manual_seed(seed)
    head = nn.Linear(train.x.shape[1], classes)
    nn.init.trunc_normal_(head.weight, std=0.01, generator=generator)
    nn.init.zeros_(head.bias)
    head.to(device)
    order = Shuffled(len(train.y), BATCH, generator, device)
    rate = BASE_RATE * order.batch_size / 256
    optimizer = torch.optim.SGD(head.parameters(), lr=rate, momentum=MOMENTUM)
    schedule = warmup_cosine(optimizer, EPOCHS * order.steps, WARMUP_EPOCHS * order.steps)
    for _ in range(EPOCHS):
        for positions in order.epoch():
            x = train.x[positions] if encoded is None else encoded(positions)
            loss = nn.functional.cross_entropy(head(x), train.y[positions])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
    with torch.no_grad():
        scores = {split: accuracy(head(part.x).argmax(1), part.y) for split, part in data.items() if split != "train"}
    return ProbeResult(
        scores["val"],
        scores.get("test"),
        {
            "epochs": EPOCHS,
            "warmup_epochs": WARMUP_EPOCHS,
            "batch_size": order.batch_size,
            "learning_rate": rate,
            "augmented": encoded is not None,
            "train_loss": loss.item(),
        },
    )

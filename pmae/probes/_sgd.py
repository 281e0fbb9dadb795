"""What the probes that train by gradient steps share: batches, a linear head, and a warm-up followed by a cosine."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from pmae.config import DataConfig
from pmae.model.encoder import Encoder
from pmae.training.loader import augment


class Shuffled:
    """Positions 0..n-1 in a new order every epoch, as ``steps`` batches of at most ``batch_size`` on ``device``."""

    def __init__(self, n: int, batch_size: int, generator: torch.Generator, device: torch.device) -> None:
        self.n, self.batch_size, self.generator, self.device = n, min(batch_size, n), generator, device
        self.steps = math.ceil(n / self.batch_size)

    def epoch(self) -> Iterator[Tensor]:
        """The batches of the next epoch."""
        yield from torch.randperm(self.n, generator=self.generator).to(self.device).split(self.batch_size)


def train_epochs(
    loss_of: Callable[[Tensor], Tensor],
    optimizer: torch.optim.Optimizer,
    order: Shuffled,
    epochs: int,
    warmup_steps: int,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Minimize ``loss_of(positions)``, a mean; yields each epoch's loss summed over positions, and its last batch's.

    The rates grow linearly over ``warmup_steps`` steps, then follow a cosine to 0.
    """
    steps = epochs * order.steps

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        return 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / max(1, steps - warmup_steps)))

    schedule = LambdaLR(optimizer, factor)
    for _ in range(epochs):
        total, last = torch.zeros(()), torch.zeros(())
        for positions in order.epoch():
            loss = loss_of(positions)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            last = loss.detach()
            total = total.to(last) + last * len(positions)
        yield total, last


def linear_head(width: int, classes: int, generator: torch.Generator) -> nn.Linear:
    """A classifier that starts with small random weights and without bias."""
    head = nn.Linear(width, classes)
    nn.init.trunc_normal_(head.weight, std=0.01, generator=generator)
    nn.init.zeros_(head.bias)
    return head


def augment_for(encoder: Encoder, images: Tensor, config: DataConfig, generator: torch.Generator) -> Tensor:
    """uint8 images (B, H, W, C), cropped and flipped, as standardized (B, C, H, W)."""
    return (augment(images, generator, config.crop_scale, config.flip) - encoder.mean) / encoder.std

"""What the probes that train by gradient steps share: shuffled batches and a warm-up followed by a cosine."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def warmup_cosine(optimizer: Optimizer, steps: int, warmup_steps: int) -> LambdaLR:
    """Factor of every group's rate: linear to 1 over ``warmup_steps`` steps, then a cosine to 0 at ``steps``."""

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        return 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / max(1, steps - warmup_steps)))

    return LambdaLR(optimizer, factor)


class Shuffled:
    """Positions 0..n-1 in a new order every epoch, in batches on ``device``.

    Attributes:
        batch_size: Positions in a batch: the one wished for, or all where there are fewer.
        steps: Batches in an epoch; the last may be smaller.
    """

    def __init__(self, n: int, batch_size: int, generator: torch.Generator, device: torch.device) -> None:
        self.n, self.batch_size, self.generator, self.device = n, min(batch_size, n), generator, device
        self.steps = math.ceil(n / self.batch_size)

    def epoch(self) -> Iterator[Tensor]:
        """The batches of the next epoch."""
        yield from torch.randperm(self.n, generator=self.generator).to(self.device).split(self.batch_size)

"""A whole training step as one graph: what ``torch.compile(fullgraph=True)`` accepts without a graph break.

Inside the graph: crops and flips, masks, forward, backward, clipping, learning rate and optimizer. Outside:

* the random numbers, which enter as tensors: Dynamo cannot pass a ``torch.Generator`` into a graph;
* torch's fused AdamW and ``zero_grad``, which torch excludes from tracing: the same update unfused takes their place;
* ``Tensor.backward``: torch 2.14 traces it, but its optimizer then sees no gradients, so ``torch.autograd.grad`` takes
  its place and gradients are copied into tensors that stay;
* a masking ratio that is drawn for each batch (MAE): it fixes the number of visible patches, so each number is a graph
  of its own.
"""

from __future__ import annotations

import functools
import inspect

import numpy as np
import pytest
import torch
import torch._dynamo
from torch import Tensor

from pmae.training.loader import augment
from pmae.training.loop import Training

CPU = torch.device("cpu")
BATCH = 32
SETTINGS = {
    "pmae": {"masking.strategy": "expected", "optim.clip_grad_norm": 1.0},
    "mae": {"masking.method": "mae"},
    "pmae, masks of groups": {"masking.per": "group", "masking.group_size": 12},
    "pmae, ratio range": {"masking.strategy": "sampled", "masking.ratio_range": (0.1, 0.9)},
    "mae, blocks of mask units": {"masking.method": "mae", "masking.strategy": "block", "masking.mask_unit": 4},
    "mae, grid, overlapping patches": {
        "masking.method": "mae", "masking.strategy": "grid", "model.patch_size": 4, "model.patch_stride": 2,
    },
}  # fmt: skip


class Numbers:
    """In place of a generator: where a step's random numbers come from, or the numbers to hand out again in order."""

    device = CPU
    source: torch.Generator

    def __init__(self) -> None:
        self.kept: list[Tensor] = []
        self.position = 0

    def rewind(self, numbers: list[Tensor]) -> None:
        self.kept, self.position = numbers, 0

    def next(self) -> Tensor:
        self.position += 1
        return self.kept[self.position - 1]


def unfused(training: Training) -> None:
    """Replace what torch does not trace by its equivalent, see above."""
    parameters = [p for p in training.model.parameters() if p.requires_grad]
    for p in parameters:
        p.grad = torch.zeros_like(p)
    rate = torch.zeros(())
    optimizer = torch.optim.AdamW(parameters, betas=(0.9, 0.95), foreach=False)
    optimizer.param_groups[0]["lr"] = rate  # as on a GPU, see build_optimizer
    update = inspect.unwrap(torch.optim.AdamW.step)
    clip = training.config.optim.clip_grad_norm

    def step(loss: Tensor) -> None:
        with torch.no_grad():
            for p, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
                p.grad.copy_(gradient)
            if clip is not None:
                torch.nn.utils.clip_grad_norm_(parameters, clip)
            update(optimizer)

    training.optimizer, training._update = optimizer, step


def whole_step(training: Training, images: Tensor, rate: Tensor, numbers: Numbers) -> Tensor:
    """uint8 images (B, H, W, C) to the loss, after one update."""
    b = training.batches
    pixels = (augment(images, numbers, b.config.crop_scale, b.config.flip) - b.mean) / b.std
    return training._step(pixels, training.masks.draw(len(images), numbers, numbers), rate)[0]


# Block shapes and dither orders are kept by lru_cache, which a graph traces through: they become constants of it.
@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a .functools.lru_cache.:UserWarning")
@pytest.mark.skipif(not hasattr(torch._dynamo.config, "trace_autograd_ops"), reason="torch cannot trace a backward yet")
@pytest.mark.parametrize(
    ("name", "backend"),
    [
        ("pmae", "aot_eager"),
        ("mae", "aot_eager"),
        *(pytest.param(name, "eager", marks=pytest.mark.slow) for name in list(SETTINGS)[2:]),
    ],
)
def test_a_whole_step_is_one_graph_with_the_losses_of_the_plain_step(monkeypatch, tiny, digits, name, backend):
    config = tiny.with_values({"data.flip": True, "optim.batch_size": BATCH, "optim.precision": "fp32"})
    config = config.with_values(SETTINGS[name])
    plain, compiled = (Training(config, digits, seed=0, device=CPU) for _ in range(2))
    for training in (plain, compiled):
        unfused(training)
    images, rates = torch.from_numpy(digits[:BATCH]), [torch.tensor(r) for r in (1e-3, 2e-3, 5e-4, 1e-3)]
    generator, drawn, numbers = torch.Generator().manual_seed(0), [], Numbers()
    rand, randint = torch.rand, torch.randint

    def keep(draw, *size, generator, **options):
        drawn[-1].append(draw(*size, generator=generator.source, **options))
        return drawn[-1][-1]

    def hand_out(*size, generator, **options):
        return generator.next()

    numbers.source = generator
    monkeypatch.setattr(torch, "rand", functools.partial(keep, rand))
    monkeypatch.setattr(torch, "randint", functools.partial(keep, randint))
    expected = []
    for rate in rates:
        drawn.append([])
        expected.append(float(whole_step(plain, images, rate, numbers)))
    monkeypatch.setattr(torch, "rand", hand_out)
    monkeypatch.setattr(torch, "randint", hand_out)
    numbers.rewind(drawn[0])
    losses = [float(whole_step(compiled, images, rates[0], numbers))]  # creates the optimizer's state

    def in_graph(images: Tensor, rate: Tensor, kept: list[Tensor]) -> Tensor:
        numbers.rewind(kept)
        return whole_step(compiled, images, rate, numbers)

    torch._dynamo.reset()
    with torch._dynamo.config.patch(trace_autograd_ops=True):
        graph = torch.compile(in_graph, fullgraph=True, backend=backend)
        losses += [float(graph(images, rate, kept)) for rate, kept in zip(rates[1:], drawn[1:], strict=True)]
    torch._dynamo.reset()
    assert losses == pytest.approx(expected, rel=1e-4)
    assert len(set(np.round(expected, 3))) == len(rates)

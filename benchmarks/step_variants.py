"""What each choice in the training step is worth: every variant beside the step as it is, in alternation.

    python benchmarks/step_variants.py                        # PMAE with the paper's model on this CPU
    python benchmarks/step_variants.py --method mae --device cuda --batch 512

One step of the paper's recipe on made images of CIFAR-10's shape. A variant changes one thing: the attention, the
optimizer's loop, the precision, the compiler, the mask, the augmentation, the layout, threads or batch size. The
number is images per second over the plain step's of the same round. ``bf16`` and ``compiled`` take minutes on a CPU
without bf16 products.
"""

from __future__ import annotations

import argparse
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from components import made_images
from measuring import RESULTS, describe_machine, now, spread, write_result

from pmae.components import PrincipalComponents
from pmae.components.bases import fit_basis
from pmae.config import PretrainConfig, preset
from pmae.model.encoder import use_fused_attention
from pmae.training.loop import Training, learning_rate

RATIOS = {"pmae": 0.2, "mae": 0.75}
PLAIN = "as it is"
# Settings that a variant changes.
SETTINGS: dict[str, dict[str, Any]] = {
    PLAIN: {},
    "one mask per batch": {"masking.per": "batch"},
    "no augmentation": {"data.crop_scale": (1.0, 1.0), "data.flip": False},
    "bf16": {"optim.precision": "bf16"},
    "compiled": {"optim.compile": "on"},
}


def other_attention(training: Training) -> None:
    """scaled_dot_product_attention where the step takes plain products, and the other way round."""
    use_fused_attention(training.model, training.device.type != "cuda")


def adamw_loop(training: Training) -> None:
    """One kernel per tensor and operation instead of the fused optimizer."""
    training.optimizer = _adamw(training, fused=False, foreach=False)


def adamw_foreach(training: Training) -> None:
    """One kernel per operation for all tensors."""
    training.optimizer = _adamw(training, fused=False, foreach=True)


def channels_last(training: Training) -> None:
    """The model's convolution (patch embedding) in channels-last layout."""
    training.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def medium_precision(training: Training) -> None:
    """fp32 products that may be computed in bf16 where the hardware can; undone by :func:`measure`."""
    torch.set_float32_matmul_precision("medium")


def one_thread(training: Training) -> None:
    """A single thread; undone by :func:`measure`."""
    torch.set_num_threads(1)


# What a variant does to a run that is ready to start.
CHANGES: dict[str, Callable[[Training], None]] = {
    "the other attention": other_attention,
    "AdamW in a loop": adamw_loop,
    "AdamW foreach": adamw_foreach,
    "channels last": channels_last,
    "matmul precision medium": medium_precision,
    "one thread": one_thread,
}


def _adamw(training: Training, **how: bool) -> torch.optim.AdamW:
    old = training.optimizer
    groups = [{"params": g["params"], "weight_decay": g["weight_decay"]} for g in old.param_groups]
    return torch.optim.AdamW(groups, lr=1e-4, betas=training.config.optim.betas, **how)


def measure(
    name: str,
    config: PretrainConfig,
    images: np.ndarray,
    basis: PrincipalComponents | None,
    options: argparse.Namespace,
) -> float:
    """Images per second of ``options.steps`` steps after one that warms up."""
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    training = Training(
        config.with_values(SETTINGS.get(name, {})), images, basis, seed=0, device=torch.device(options.device)
    )
    try:
        CHANGES.get(name, lambda training: None)(training)
        return _rate(training, options.steps)
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)
        del training
        gc.collect()


def _rate(training: Training, steps: int) -> float:
    masks, ratios = torch.Generator(training.device).manual_seed(0), torch.Generator().manual_seed(0)
    rate = learning_rate(training.config.optim, 0.5, 0.1)
    start = 0.0
    for step, pixels in enumerate(training.batches.epoch(0)):
        if step == 1:
            start = now(training.device)
        draw = training.masks.draw(len(pixels), masks, ratios, training.batches.shard)
        training._step(pixels, draw, rate)
    return steps * training.batches.batch_size / (now(training.device) - start)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """All variants, each beside a plain step, as many rounds as asked for."""
    images = made_images(options.batch * (options.steps + 1), 32)
    # The rate does not depend on what the basis holds.
    basis = fit_basis("dct", images) if options.method == "pmae" else None
    config = preset("paper", "made", options.method).resolve(32, 3)
    values = {"masking.ratio": RATIOS[options.method], "optim.batch_size": options.batch, "optim.precision": "fp32"}
    config = config.with_values({**values, "optim.compile": "off", **({"masking.basis": "dct"} if basis else {})})
    names = [n for n in (*SETTINGS, *CHANGES) if n != PLAIN and n not in options.skip]
    gains: dict[str, list[float]] = {name: [] for name in names}
    plain: list[float] = []
    for turn in range(options.rounds):
        for name in names:
            plain.append(measure(PLAIN, config, images, basis, options))
            gains[name].append(measure(name, config, images, basis, options) / plain[-1])
            print(f"round {turn + 1}: {name:24} {gains[name][-1]:5.2f} x {plain[-1]:.1f} images/s", flush=True)
    return {
        "benchmark": "step_variants",
        **describe_machine(options.device, ("torch", "timm", "numpy"), __file__),
        "method": options.method,
        "batch": options.batch,
        "steps": options.steps,
        "images_per_second": spread(plain),
        "gain": {name: {**spread(values), "runs": values} for name, values in gains.items()},
    }


def main() -> None:
    """Parse the options, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", choices=sorted(RATIOS), default="pmae")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--skip", nargs="*", default=[], help="variants to leave out")
    parser.add_argument("--out", type=Path, help="the JSON file")
    options = parser.parse_args()
    result = run(options)
    print(f"\nthe step as it is: {result['images_per_second']['median']:.1f} images/s")
    for name, gain in result["gain"].items():
        print(f"{name:24} {gain['median']:5.2f} ({gain['lowest']:.2f} to {gain['highest']:.2f})")
    write_result(result, options.out or RESULTS / f"step-variants-{options.method}-{options.device}.json")


if __name__ == "__main__":
    main()

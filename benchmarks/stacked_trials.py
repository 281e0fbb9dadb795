"""Whether several small trials trained as one batched model beat the same trials one after the other.

    python benchmarks/stacked_trials.py                  # the quick preset's models on digits

Stacked: ``torch.func.stack_module_state`` and ``vmap`` over models, batches and masks, one fused AdamW over the stacked
weights. Both are measured in alternation in one process, in CPU seconds of one thread (wall seconds on a GPU).
The stacked path is worth its code from 1.5 times the trials per hour on.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from measuring import RESULTS, describe_machine, paired_ratio, spread, write_result
from torch import Tensor
from torch.func import functional_call, stack_module_state, vmap

from pmae.components import cached_components
from pmae.config import preset
from pmae.data import load_images
from pmae.training.loop import Training


def contenders(method: str, patch_size: int, options: argparse.Namespace) -> dict[str, Callable[[], Any]]:
    """A step of every model, one after the other and stacked."""
    images = load_images("digits")
    components = cached_components(images)[0] if method == "pmae" else None
    config = preset("quick", "digits", method).with_values({"model.patch_size": patch_size})
    device = torch.device(options.device)
    trials = [Training(config, images, components, seed=seed, device=device) for seed in range(options.models)]
    batches, draws = [], []
    for seed, trial in enumerate(trials):
        generators = (torch.Generator(d).manual_seed(seed) for d in (device, "cpu"))
        batches.append(next(iter(trial.batches.epoch(0))))
        draws.append(trial.masks.draw(len(batches[-1]), *generators))
    visible = draws[0].visible_tokens
    model = trials[0].model
    weights, buffers = stack_module_state([trial.model for trial in trials])
    weights = {name: value.detach().requires_grad_() for name, value in weights.items()}
    optimizer = torch.optim.AdamW(weights.values(), lr=1e-3, fused=True)
    pixels, mask = torch.stack(batches), torch.stack([draw.mask for draw in draws])

    def loss(state: dict[str, Tensor], buffer: dict[str, Tensor], x: Tensor, m: Tensor) -> Tensor:
        return functional_call(model, (state, buffer), (x, m, visible)).loss

    def stacked() -> None:
        vmap(loss)(weights, buffers, pixels, mask).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    def one_by_one() -> None:
        for trial, x, draw in zip(trials, batches, draws, strict=True):
            trial._step(x, draw, 1e-3)

    return {"one by one": one_by_one, "stacked": stacked}


def seconds(step: Callable[[], Any], steps: int, device: str) -> float:
    """Of one step of all models."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    start = clock()
    for _ in range(steps):
        step()
    if device != "cpu":
        torch.cuda.synchronize()
    return (clock() - start) / steps


def main() -> None:
    """Parse the options, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=4)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, help="the JSON file")
    options = parser.parse_args()
    if options.device == "cpu":
        torch.set_num_threads(1)
    runs = []
    for method in ("pmae", "mae"):
        for patch_size in (4, 2):
            steps = contenders(method, patch_size, options)
            found: dict[str, list[float]] = {name: [] for name in steps}
            for round_number in range(options.rounds + 1):  # the first warms up
                for name, step in steps.items():
                    value = seconds(step, options.steps, options.device)
                    if round_number:
                        found[name].append(value)
            gain = paired_ratio(found["one by one"], found["stacked"])
            runs.append({"method": method, "patch_size": patch_size, "seconds": found, "gain": gain})
            times = ", ".join(f"{name} {1e3 * spread(v)['median']:.0f} ms" for name, v in found.items())
            print(
                f"{method:5} patch {patch_size}, {options.models} models: {times}; stacked is "
                f"{gain['median']:.2f} times as fast ({gain['lowest']:.2f} to {gain['highest']:.2f})", flush=True,
            )  # fmt: skip
    result = {"benchmark": "stacked_trials", **describe_machine(options.device, ("torch", "timm"), __file__)}
    write_result(
        {**result, "models": options.models, "runs": runs},
        options.out or RESULTS / f"stacked-trials-{options.device}.json",
    )


if __name__ == "__main__":
    main()

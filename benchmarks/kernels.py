"""Operators per training step, and the memory of its tensors, counted on the ``meta`` device: no arithmetic, no GPU.

    python benchmarks/kernels.py                         # seconds

On a GPU every operator that computes launches at least one kernel, and a small model's step takes as long as its
launches. Counted for the quick and the paper's recipe: draws and crops, masks, forward, backward, optimizer. Views are
left out. The fused AdamW, which is not on meta, counts as one operator a parameter group. The attention is the GPU's as
torch decomposes it on meta: a fused kernel is fewer. Not counted: casts of autocast, which meta does not have.
"""

from __future__ import annotations

import argparse
import contextlib
import weakref
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from components import made_images
from measuring import RESULTS, describe_machine, write_result
from torch.utils._python_dispatch import TorchDispatchMode

import pmae.training.loader
import pmae.training.loop
from pmae.components.bases import fit_basis
from pmae.config import PretrainConfig, preset, step_flops
from pmae.model.encoder import use_fused_attention
from pmae.training.loop import Training

META = torch.device("meta")
# Operators that only describe or allocate tensors.
FREE = (
    "view", "_unsafe_view", "expand", "t.", "transpose", "permute", "select", "slice", "unsqueeze", "squeeze", "detach",
    "alias", "unbind", "as_strided", "unfold", "empty", "split", "_reshape_alias", "lift_fresh", "device",
)  # fmt: skip
PARTS = ("images and masks", "forward", "backward", "optimizer")
# Preset, side of the images, channels, images of a batch.
RECIPES = {
    "quick, 8 px": ("quick", 8, 1, {"model.patch_size": 2}),
    "quick, 28 px": ("quick", 28, 1, {}),
    "paper, 32 px": ("paper", 32, 3, {}),
}


class Counting(TorchDispatchMode):
    """Counts operators by part of the step, and the bytes of the tensors that are alive."""

    def __init__(self) -> None:
        super().__init__()
        self.part = PARTS[0]
        self.operators: dict[str, Counter[str]] = {part: Counter() for part in PARTS}
        self.alive = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        name = func.name().removeprefix("aten::") + "."
        if not name.startswith(FREE):
            self.operators[self.part][func.overloadpacket.__name__] += 1
        for tensor in torch.utils._pytree.tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and tensor.device.type == "meta":
                self.add(tensor)
        return out

    def add(self, tensor: torch.Tensor) -> None:
        """Count a tensor's memory until it is freed."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self._known:
            self._known.add(key)
            self.alive += size
            self.peak = max(self.peak, self.alive)
            weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.alive -= size


def _no_autocast(*_: Any, **__: Any) -> contextlib.AbstractContextManager[None]:
    return contextlib.nullcontext()


class _MetaGenerator(torch.Generator):
    device = META  # draws on meta never read it


@contextlib.contextmanager
def meta_device() -> Iterator[None]:
    """Lets a :class:`Training` be built and stepped on meta."""

    def seeded_generator(device: Any, *parts: Any) -> torch.Generator:
        return _MetaGenerator() if torch.device(device).type == "meta" else torch.Generator()

    with (
        mock.patch.object(pmae.training.loader, "seeded_generator", seeded_generator),
        mock.patch.object(pmae.training.loop, "seeded_generator", seeded_generator),
        mock.patch.object(torch, "autocast", _no_autocast),
    ):
        yield


def count(config: PretrainConfig, images: np.ndarray, fused_attention: bool = True) -> Counting:
    """One step after a first one, which creates the optimizer's state; weights and moments count as memory."""
    basis = fit_basis("dct", images) if config.masking.method == "pmae" else None
    with meta_device():
        training = Training(config, images, basis, seed=0, device=META)
        use_fused_attention(training.model, fused_attention)
        groups = [{k: g[k] for k in ("params", "weight_decay")} for g in training.optimizer.param_groups]
        training.optimizer = torch.optim.AdamW(groups, foreach=True)
        counting = Counting()
        forward, update, step = training.forward, training._update, training.optimizer.step

        def counted_forward(*args: Any) -> Any:
            counting.part = "forward"
            return forward(*args)

        def counted_update(loss: torch.Tensor) -> None:
            counting.part = "backward"
            update(loss)
            counting.part = PARTS[0]

        def counted_step() -> None:
            counting.operators["optimizer"]["fused_adamw"] += len(groups)
            with torch.utils._python_dispatch._disable_current_modes():
                step()  # the fused one needs no further memory either

        training._run_steps()
        training.forward, training._update = counted_forward, counted_update
        training.optimizer.step = counted_step  # type: ignore[method-assign]
        for tensor in [*training.model.parameters(), *training.model.buffers()]:
            counting.add(tensor)
        for state in training.optimizer.state.values():
            for name in ("exp_avg", "exp_avg_sq"):
                counting.add(state[name])
        with counting:
            training._run_steps()
    return counting


def measure(recipe: str, method: str) -> dict[str, Any]:
    """Operators of one step, its memory and arithmetic."""
    name, size, channels, values = RECIPES[recipe]
    base = preset(name, "made", method)
    values = {**values, **({"masking.basis": "dct"} if method == "pmae" else {})}
    values |= {"optim.precision": "fp32", "optim.compile": "off"}
    batch = base.optim.batch_size
    images = made_images(batch, size)[..., :channels].copy()
    config = base.with_values(values).resolve(size, channels, batch)
    counting = count(config, images)
    parts = {part: sum(found.values()) for part, found in counting.operators.items()}
    return {
        "recipe": recipe,
        "method": method,
        "batch": batch,
        "operators": parts,
        "operators_per_step": sum(parts.values()),
        "most_frequent": dict(sum(counting.operators.values(), Counter()).most_common(8)),
        "peak_tensor_bytes": counting.peak,
        "gflop_per_step": step_flops(config) / 1e9,
    }


def main() -> None:
    """Parse the options, count, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="+", choices=list(RECIPES), default=list(RECIPES))
    parser.add_argument("--out", type=Path, default=RESULTS / "kernels.json", help="the JSON file")
    options = parser.parse_args()
    print(f"{'':20} {'operators':>9}  " + "  ".join(f"{part:>16}" for part in PARTS) + "   tensors, GiB   GFLOP")
    runs = []
    for recipe in options.recipes:
        for method in ("pmae", "mae"):
            runs.append(one := measure(recipe, method))
            parts = "  ".join(f"{one['operators'][part]:16,}" for part in PARTS)
            print(
                f"{recipe:14} {method:5} {one['operators_per_step']:9,}  {parts}   "
                f"{one['peak_tensor_bytes'] / 2**30:12.2f}  {one['gflop_per_step']:6.1f}", flush=True,
            )  # fmt: skip
    write_result(
        {"benchmark": "kernels", **describe_machine("cpu", ("torch", "timm"), __file__), "runs": runs}, options.out
    )


if __name__ == "__main__":
    main()

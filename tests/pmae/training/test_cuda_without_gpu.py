"""What a training epoch asks of a GPU, checked without one: no wait for the device, no shape that depends on data.

Whole epochs run on fake ``cuda`` tensors (shapes without data), except for the backward, which needs a CUDA context
even for fake tensors; whole steps with backward and optimizer run on the ``meta`` device. Workers that share batches
run in a fake process group. Not covered without a GPU: images that do not fit on the device (pinned copies),
``torch.compile``, CUDA graphs, and DistributedDataParallel, which needs parameters with data.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import pytest
import timm.models.vision_transformer
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode, unset_fake_temporarily
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode

import pmae.training.loader
import pmae.training.loop
from pmae import masking
from pmae.components import PrincipalComponents
from pmae.config import PretrainConfig
from pmae.masking import MaskSampler
from pmae.model import MaskedAutoencoder
from pmae.model.encoder import use_fused_attention
from pmae.training.loop import Training

CUDA, META = torch.device("cuda"), torch.device("meta")
# Operators that wait for the device: they read a value, or their result's shape depends on values.
WAITING = (
    "_local_scalar_dense", "nonzero", "masked_select", "unique", "equal", "is_nonzero", "repeat_interleave.Tensor",
)  # fmt: skip

PMAE = {
    "expected": {},
    **{name: {"masking.strategy": name} for name in ("fixed", "tvb", "bvt", "released")},
    "sampled": {"masking.strategy": "sampled", "masking.ratio_range": (0.1, 0.9)},
    "one mask per batch": {"masking.per": "batch"},
    "masks of groups": {"masking.per": "group"},
    "loss in pixels": {"masking.loss": "pixels"},
    "pooled loss, clipped": {"masking.reduction": "batch", "optim.clip_grad_norm": 1.0},
    "overlapping patches": {"model.patch_size": 4, "model.patch_stride": 2},
    "no augmentation": {"data.crop_scale": (1.0, 1.0)},
    "float32": {"optim.precision": "fp32"},
}
MAE = {
    f"{strategy}, {name}": {"masking.method": "mae", "masking.strategy": strategy, **values}
    for strategy in ("random", "block", "grid")
    for name, values in {
        "fixed ratio": {},
        "ratio range": {"masking.ratio_range": (0.3, 0.9)},
        "mask units": {"masking.mask_unit": 4},
        "mask units, ratio range": {"masking.mask_unit": 4, "masking.ratio_range": (0.3, 0.9)},
        "overlapping patches": {"model.patch_size": 4, "model.patch_stride": 2},
    }.items()
} | {
    "one mask per batch": {"masking.method": "mae", "masking.per": "batch"},
    "masks of groups": {"masking.method": "mae", "masking.per": "group"},
    "normalized target": {"masking.method": "mae", "masking.normalize_target": True},
}
SETTINGS = [pytest.param(v, id=f"{v.get('masking.method', 'pmae')}: {k}") for s in (PMAE, MAE) for k, v in s.items()]


class Wait(AssertionError):
    """An operator made the CPU wait for the device."""


class NoWaits(TorchDispatchMode):
    """Raises :class:`Wait` where an operator on the device makes the CPU wait for it."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device, self.operators = device, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = str(func).removeprefix("aten.")
        tensors = [x for x in torch.utils._pytree.tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        devices = {x.device.type for x in tensors}
        self.operators += self.device.type in devices
        if self.device.type in devices and name.startswith(WAITING):
            raise Wait(name)
        if name.startswith("index") and any(x.dtype in (torch.bool, torch.uint8) for x in tensors[1:]):
            raise Wait(f"{name} by a mask")
        out = func(*args, **(kwargs or {}))
        if name.startswith(("_to_copy", "copy_")):
            source = tensors[-1] if name.startswith("copy_") else tensors[0]
            if source.device.type != out.device.type and source.ndim:
                non_blocking = (kwargs or {}).get("non_blocking") or (name.startswith("copy_") and args[2:] == (True,))
                if out.device.type == "cpu" or not non_blocking:
                    raise Wait(f"{name} from {source.device} to {out.device}")
        return out


def generators_on(device: torch.device):
    """``seeded_generator`` with generators that claim to be on ``device``; fake and meta tensors never read them."""

    class Claimed(torch.Generator):
        pass

    Claimed.device = device

    def seeded_generator(where, *parts):
        return torch.Generator() if str(where) == "cpu" else Claimed()

    return seeded_generator


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch):
    """Replaces what needs a driver or real values; returns a function that prepares a device."""

    def prepare(device: torch.device) -> None:
        for module in (pmae.training.loader, pmae.training.loop):
            monkeypatch.setattr(module, "seeded_generator", generators_on(device))

    def on(self: MaskedAutoencoder, device: torch.device) -> MaskedAutoencoder:
        use_fused_attention(self, True)
        return self  # its parameters were created there: fake parameters cannot be moved

    patch_ratio = MaskSampler._patch_ratio

    def real_ratio(self: MaskSampler, generator: torch.Generator) -> float:
        with unset_fake_temporarily():  # a number drawn on the CPU, which has to be a real one
            return patch_ratio(self, generator)

    monkeypatch.setattr(MaskedAutoencoder, "on", on)
    monkeypatch.setattr(MaskSampler, "_patch_ratio", real_ratio)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *_: (10**11, 10**11))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    # timm reads the rates of stochastic depth from a tensor while the model is built.
    monkeypatch.setattr(
        timm.models.vision_transformer, "calculate_drop_path_rates", lambda rate, depths, *_, **__: [0.0] * depths,
        raising=False,
    )  # fmt: skip
    for table in (masking._block_table, masking._dither_order):
        table.cache_clear()
    yield prepare
    for table in (masking._block_table, masking._dither_order):
        table.cache_clear()  # no later test may meet tensors without data


@pytest.fixture(scope="module")
def components(digits: np.ndarray) -> PrincipalComponents:
    return PrincipalComponents.fit(digits)


def settings(tiny: PretrainConfig, values: dict) -> PretrainConfig:
    return tiny.with_values({"optim.epochs": 1, "optim.precision": "bf16", "data.flip": True, **values})


def training_of(config: PretrainConfig, digits, components, device: torch.device, **workers: int) -> Training:
    with device:
        known = components if config.masking.method == "pmae" else None
        return Training(config, digits, known, seed=0, device=device, **workers)


@contextlib.contextmanager
def fake_epoch(stand_in, config, digits, components, **workers: int) -> Iterator[Training]:
    """A training on fake ``cuda`` tensors, its backward replaced, inside of :class:`NoWaits`."""
    stand_in(CUDA)
    with FakeTensorMode(allow_non_fake_inputs=True):
        training = training_of(config, digits, components, CUDA, **workers)
        training._update = lambda loss: None
        with NoWaits(CUDA):
            yield training


@pytest.mark.parametrize("values", SETTINGS)
def test_the_steps_of_an_epoch_never_wait_for_the_device(stand_in, tiny, digits, components, values):
    with fake_epoch(stand_in, settings(tiny, values), digits, components) as training:
        assert training.batches.resident is not None
        losses, sums, achieved, _ = training._run_steps()
    assert losses.shape == (4,)
    assert {x.device.type for x in (losses, sums, achieved)} == {"cuda"}
    assert training.optimizer.param_groups[0]["lr"].device.type == "cuda"


@pytest.fixture
def second_of_two_workers():
    """A process group whose collectives give back what they are given: NCCL's place is taken, nothing is sent."""
    torch.distributed.init_process_group("fake", rank=1, world_size=2, store=FakeStore())
    yield {"rank": 1, "world_size": 2}
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("method", ["pmae", "mae"])
@pytest.mark.parametrize("reduction", ["image", "batch"])
def test_workers_that_share_batches_never_wait_for_the_device(
    stand_in, second_of_two_workers, monkeypatch, tiny, digits, components, method, reduction
):
    exchanged = []
    all_reduce = torch.distributed.all_reduce
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda x: (exchanged.append(x.device.type), all_reduce(x)))
    config = settings(tiny, {"masking.method": method, "masking.reduction": reduction})
    with fake_epoch(stand_in, config, digits, components, **second_of_two_workers) as training:
        losses, *_ = training._run_steps()
    assert losses.shape == (4,) and losses.device.type == "cuda"
    # The pooled loss needs the number of masked values of the whole batch, from all workers.
    assert exchanged == (["cuda"] * 4 if reduction == "batch" else [])


def test_bf16_autocast_is_on_where_it_is_asked_for(stand_in, tiny, digits, components):
    seen = set()
    with fake_epoch(stand_in, settings(tiny, {}), digits, components) as training:
        training.model.decoder_pred.register_forward_hook(lambda module, inputs, output: seen.add(output.dtype))
        training._run_steps()
    assert seen == {torch.bfloat16}


@pytest.mark.parametrize(
    "wait",
    [
        lambda draw: int((~draw.mask[0]).sum()),
        lambda draw: draw.mask.nonzero(),
        lambda draw: draw.achieved[draw.achieved > 0.5],
        lambda draw: draw.achieved.cpu(),
        lambda draw: torch.zeros(3).to(draw.mask.device),
    ],
    ids=["value", "nonzero", "indexed by a mask", "copied to the CPU", "blocking copy to the device"],
)
def test_a_wait_in_a_step_is_found(stand_in, tiny, digits, components, wait):
    config = settings(tiny, {"masking.method": "mae"})
    with fake_epoch(stand_in, config, digits, components) as training:
        step = training._step
        training._step = lambda pixels, draw, rate: (wait(draw), step(pixels, draw, rate))[1]
        with pytest.raises((Wait, DataDependentOutputException)):
            training._run_steps()


@pytest.mark.parametrize("values", SETTINGS)
def test_whole_steps_with_backward_and_optimizer_have_fixed_shapes(
    stand_in, monkeypatch, tiny, digits, components, values
):
    stand_in(META)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())  # there is none on meta
    training = training_of(settings(tiny, {**values, "optim.precision": "fp32"}), digits, components, META)
    training.optimizer = torch.optim.AdamW(training.model.parameters(), foreach=True)  # the fused one is not on meta
    with NoWaits(META) as watch:
        losses, *_ = training._run_steps()
    assert losses.shape == (4,) and losses.device.type == "meta"
    assert {int(s["step"]) for s in training.optimizer.state.values()} == {4}
    assert watch.operators > 400


@pytest.mark.parametrize("values", [pytest.param(v, id=k) for k, v in MAE.items()])
def test_the_number_of_visible_patches_is_known_from_the_settings(tiny, digits, values):
    training = Training(settings(tiny, values), digits, seed=0, device=torch.device("cpu"))
    masks, ratios = torch.Generator().manual_seed(0), torch.Generator().manual_seed(1)
    for _ in range(8):
        draw = training.masks.draw(16, masks, ratios)
        assert set((~draw.mask).sum(1).tolist()) == {draw.visible_tokens}

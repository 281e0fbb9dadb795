"""Images per second of pre-training end to end, ours beside Hugging Face's ViTMAE, in alternation.

    python benchmarks/training_step.py                                # made images of CIFAR-10's shape
    python benchmarks/training_step.py --dataset parquet:FOLDER       # real images

Both train the paper's model (ViT-Tiny, patch 8, decoder 512 x 8) on the same uint8 images at the same batch size, by
AdamW, with random resized crops and flips. The peer does what its users do: PIL transforms in DataLoader workers, and
either attention that the library offers; in bf16 its model runs under autocast. What the method needs is the same for
both: one mask per image, and for PMAE projections in fp32, by full products with V (bf16 loses the small coefficients).
Each precision is compared with the peer at the same precision and with the attention that is faster there. Every
measurement is a process of its own. Before it all, both are given the same weights, batches and masks, and their losses
over some steps are compared; between the rounds the rates of large matrix products are measured, which no step can
exceed.
Needs the extra: pip install -e '.[test]'.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hugging_face import build_peer, copy_weights
from measuring import (
    RESULTS,
    describe_machine,
    flops_per_image,
    matmul_peak,
    most_allowed,
    now,
    paired_ratio,
    spread,
    write_result,
)

from pmae.components import PrincipalComponents
from pmae.config import PretrainConfig, preset
from pmae.devices import cpu_has_bf16, pick_device
from pmae.training.loop import Training, build_optimizer

RATIOS = {"pmae": 0.2, "mae": 0.75}
WORKERS = 2  # of the peer's DataLoader
PREFETCH = 2  # batches that each of them holds ready, DataLoader's default
MATMUL_SIDE = 2048
ATTENTIONS = ("eager", "sdpa")  # of the peer


def settings(method: str, batch: int, precision: str) -> PretrainConfig:
    """The paper's recipe on 32-px color images."""
    base = preset("paper", "made", method).resolve(32, 3)
    return base.with_values({
        "masking.ratio": RATIOS[method], "optim.batch_size": batch, "optim.precision": precision, "optim.epochs": 2,
        "optim.warmup_epochs": 1.0,
    })  # fmt: skip


def components_of(folder: Path, method: str) -> PrincipalComponents | None:
    """Those of the images, fitted once."""
    return PrincipalComponents.load(folder / "components.safetensors") if method == "pmae" else None


def ours(method: str, folder: Path, options: argparse.Namespace, precision: str) -> float:
    """Images per second of the second epoch of our trainer."""
    images = np.load(folder / "images.npy", mmap_mode="r")[: options.steps * options.batch]
    config = settings(method, options.batch, precision)
    components = components_of(folder, method)
    training = Training(config, images, components, seed=0, device=pick_device(options.device))
    return float([record["images_per_second"] for record in training.epochs()][-1])


class PilImages(torch.utils.data.Dataset):
    """The peer's data set: a random resized crop and a flip of one image at a time, by torchvision on PIL."""

    def __init__(self, images: np.ndarray) -> None:
        from torchvision.transforms import v2

        self.images = images
        self.transform = v2.Compose([
            v2.ToPILImage(),
            v2.RandomResizedCrop(32, scale=(0.2, 1.0), interpolation=v2.InterpolationMode.BICUBIC),
            v2.RandomHorizontalFlip(),
            v2.PILToTensor(),
        ])  # fmt: skip

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> torch.Tensor:
        return self.transform(self.images[i])


class Peer:
    """ViTMAEForPreTraining and the step its users would write."""

    def __init__(self, config: PretrainConfig, folder: Path, device: torch.device, attention: str = "eager") -> None:
        self.config, self.device = config, device
        self.bf16 = config.optim.precision == "bf16"
        self.components = components_of(folder, config.masking.method)
        statistics = PrincipalComponents.load(folder / "components.safetensors")
        self.mean, self.std = (
            torch.tensor(a, dtype=torch.float32, device=device).view(3, 32, 32)
            for a in (statistics.mean, statistics.std)
        )
        ratio = 0.0 if config.masking.method == "pmae" else RATIOS["mae"]
        self.model = build_peer(config.model, ratio, attention).to(device).train()
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(),
            config.optim.learning_rate * config.optim.batch_size / 256,
            betas=config.optim.betas,
            weight_decay=0.05,
        )
        if self.components is not None:
            self.basis = torch.tensor(self.components.components, dtype=torch.float32, device=device)
            self.share = torch.tensor(self.components.explained_variance_ratio, device=device)

    def step(self, images: torch.Tensor) -> torch.Tensor:
        """One step on uint8 images (B, C, H, W); returns the loss."""
        x = (images.to(self.device).float() - self.mean) / self.std
        tokens = self.model.config.image_size**2 // self.model.config.patch_size**2
        noise = torch.rand(len(x), tokens, device=self.device)
        if self.components is None:
            with self.autocast():
                loss = self.model(x, noise=noise).loss
        else:
            loss = self.component_loss(x, noise)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    def autocast(self) -> torch.autocast:
        """Bf16 for the model's products where it was asked for."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def component_loss(self, x: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """PMAE by the formulas: x V (1 - m) V' in, the squared error of m V' out, a mask m for each image."""
        order = torch.rand(len(x), len(self.share), device=self.device).argsort(1)
        taken = (self.share[order].cumsum(1) <= RATIOS["pmae"]).float()
        masked = torch.zeros_like(taken).scatter(1, order, taken)
        shown = (x.flatten(1) @ self.basis * (1 - masked)) @ self.basis.T
        with self.autocast():
            logits = self.model(shown.view_as(x), noise=noise).logits
        prediction = self.model.unpatchify(logits.float()).flatten(1)
        error = ((prediction - x.flatten(1)) @ self.basis).square() * masked
        return (error.sum(1) / masked.sum(1).clamp_min(1)).mean()


def peer(method: str, folder: Path, options: argparse.Namespace, precision: str, attention: str) -> float:
    """Images per second of the peer once its workers run, over the same number of steps."""
    config = settings(method, options.batch, precision)
    one = Peer(config, folder, pick_device(options.device), attention)
    data = PilImages(np.load(folder / "images.npy", mmap_mode="r"))
    loader = torch.utils.data.DataLoader(
        data, options.batch, shuffle=True, num_workers=WORKERS, prefetch_factor=PREFETCH, drop_last=True
    )
    start = 0.0
    for step, pixels in zip(range(2 * options.steps), loader, strict=False):
        if step == options.steps:
            start = now(one.device)
        one.step(pixels)
    return options.steps * options.batch / (now(one.device) - start)


def same_losses(folder: Path, steps: int = 8, batch: int = 32) -> dict[str, Any]:
    """Losses of both over some fp32 steps from the same weights, on the same batches under the same patch masks."""
    # The peer's position embeddings never train.
    config = settings("mae", batch, "fp32").with_values({"model.position": "sincos"})
    training = Training(config, np.load(folder / "images.npy", mmap_mode="r")[:256], seed=0, device=torch.device("cpu"))
    model = build_peer(training.config.model, RATIOS["mae"]).train()
    copy_weights(training.model, model)
    optimizers = [build_optimizer(m, config.optim) for m in (training.model, model)]
    losses: list[list[float]] = [[], []]
    generator = torch.Generator().manual_seed(0)
    for x in _repeat(training, steps):
        noise = torch.rand(len(x), 16, generator=generator)
        mask = noise.argsort(1).argsort(1) >= 4
        for i, loss in enumerate((training.model(x, mask).loss, model(x, noise=noise).loss)):
            loss.backward()
            optimizers[i].step()
            optimizers[i].zero_grad()
            losses[i].append(float(loss.detach()))
    worst = max(abs(a - b) / b for a, b in zip(*losses, strict=True))
    return {"ours": losses[0], "peer": losses[1], "largest_relative_difference": worst}


def _repeat(training: Training, steps: int) -> Iterator[torch.Tensor]:
    done = 0
    while done < steps:
        for x in training.batches.epoch(done):
            yield x
            done += 1


def prepare(options: argparse.Namespace, folder: Path) -> None:
    """Images and components that all processes share."""
    # More than the peer trains on, so that its workers stay as busy as in the middle of an epoch.
    count = max((2 * options.steps + WORKERS * PREFETCH) * options.batch, 4096)
    if options.dataset is None:
        from components import made_images

        images = made_images(count, 32)
    else:
        from pmae.data import load_images

        found = load_images(options.dataset, image_size=32)
        images = np.resize(found.images[found.indices("train")[:count]], (count, 32, 32, 3))
    np.save(folder / "images.npy", images)
    PrincipalComponents.fit(images).save(folder / "components.safetensors")


def run(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All contenders, one after the other, as many rounds as asked for."""
    prepare(options, folder)
    has_bf16 = options.device != "cpu" or cpu_has_bf16()
    precisions = ["fp32", "bf16"] if has_bf16 else ["fp32"]
    kinds = [f"{who} {p}" for p in precisions for who in ("ours", *(f"peer-{a}" for a in ATTENTIONS))]
    speeds: dict[str, dict[str, list[float]]] = {m: {k: [] for k in kinds} for m in options.methods}
    losses = same_losses(folder)
    print(f"same weights, batches and masks: losses differ by {losses['largest_relative_difference']:.1e} at most")
    peaks: dict[str, list[float]] = {p: [] for p in precisions}
    for turn in range(options.rounds):
        for precision in precisions:
            dtype = torch.float32 if precision == "fp32" else torch.bfloat16
            peaks[precision].append(matmul_peak(options.device, MATMUL_SIDE, dtype) / 1e9)
        for method in options.methods:
            for kind in kinds:
                speeds[method][kind].append(_in_a_process(method, kind, folder, options))
                print(f"round {turn + 1}: {method:5} {kind:16} {speeds[method][kind][-1]:8.1f} images/s", flush=True)
    return {
        "benchmark": "training_step",
        **describe_machine(options.device, ("torch", "timm", "transformers", "torchvision", "numpy"), __file__),
        "hardware_bf16": has_bf16,
        "images": options.dataset or "made",
        "batch": options.batch,
        "steps": options.steps,
        "matmul_gflops": peaks["fp32"],
        "matmul_gflops_bf16": peaks.get("bf16"),
        "gflop_per_image": {m: _gflop_per_image(m, folder, options) for m in options.methods},
        "images_per_second": speeds,
        "ratio_to_peer": {
            m: {f"ours {p}": paired_ratio(s[f"ours {p}"], best_peer(s, p)) for p in precisions}
            for m, s in speeds.items()
        },
        "losses": losses,
    }


def best_peer(speeds: dict[str, list[float]], precision: str) -> list[float]:
    """The peer's images per second at a precision, round by round, with the attention whose median is higher."""
    return max((speeds[f"peer-{a} {precision}"] for a in ATTENTIONS), key=statistics.median)


def _gflop_per_image(method: str, folder: Path, options: argparse.Namespace) -> float:
    images = np.load(folder / "images.npy", mmap_mode="r")[: options.batch]
    config, device = settings(method, options.batch, "fp32"), pick_device(options.device)
    training = Training(config, images, components_of(folder, method), seed=0, device=device)
    return flops_per_image(training) / 1e9


def _in_a_process(method: str, kind: str, folder: Path, options: argparse.Namespace) -> float:
    command = [
        sys.executable, __file__, "--measure", kind, "--methods", method, "--folder", str(folder),
        "--batch", str(options.batch), "--steps", str(options.steps), "--device", options.device,
    ]  # fmt: skip
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return float(json.loads(done.stdout.splitlines()[-1]))


def print_table(result: dict[str, Any]) -> None:
    """Medians with the spread of the rounds, and the ratio to the peer."""
    print(f"\nbatch {result['batch']} on {result['gpu'] or result['cpu']}, {result['cores']} cores")
    print(f"{'':23} {'images/s':>9} {'lowest':>9} {'highest':>9}   times the peer at its best")
    for method, kinds in result["images_per_second"].items():
        for kind, values in kinds.items():
            found = spread(values)
            ratio = result["ratio_to_peer"][method].get(kind)
            beside = f"{ratio['median']:.2f} ({ratio['lowest']:.2f} to {ratio['highest']:.2f})" if ratio else ""
            numbers = f"{found['median']:9.1f} {found['lowest']:9.1f} {found['highest']:9.1f}"
            print(f"{method:6} {kind:16} {numbers}   {beside}")
        print(f"{method:6} fp32 matrix products alone would allow {most_allowed(result, method):.1f} images/s")


def main() -> None:
    """Parse the options, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", help="a source such as parquet:FOLDER; made images without it")
    parser.add_argument("--methods", nargs="+", choices=sorted(RATIOS), default=list(RATIOS))
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, help="the JSON file")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        who, precision = options.measure.split()
        asked = options.methods[0], options.folder, options, precision
        print(json.dumps(ours(*asked) if who == "ours" else peer(*asked, who.removeprefix("peer-"))))
        return
    with tempfile.TemporaryDirectory() as folder:
        result = run(options, Path(folder))
    print_table(result)
    write_result(result, options.out or RESULTS / f"training-step-{options.device}.json")


if __name__ == "__main__":
    main()

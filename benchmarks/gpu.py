"""What a GPU reaches in pre-training, and how far that is from its floor; needs torch and timm, no Ray.

    python benchmarks/gpu.py                                      # under 5 minutes on an H100
    python benchmarks/gpu.py --full parquet:FOLDER                # and a whole pair: PMAE 20 %, MAE 75 %, 800 epochs

Measures the rate of large bf16 matrix products, then images per second of the paper's recipe (ViT-Tiny, patch 8,
decoder 512 x 8, batch 512) on 32-px and 64-px color images that stay on the device as uint8: plain fp32, bf16
autocast, and bf16 through torch.compile without and with CUDA graphs, in alternation. Arithmetic is counted by torch's
FLOP counter. The losses of every variant are compared with those of fp32 over the same batches and masks.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from components import made_images
from measuring import RESULTS, describe_machine, flops_per_image, matmul_peak, spread, write_result

from pmae.components import PrincipalComponents
from pmae.components.bases import fit_basis
from pmae.config import PretrainConfig, preset
from pmae.trainer import pretrain
from pmae.training.loop import Training

VARIANTS: dict[str, dict[str, str]] = {
    "fp32": {"optim.precision": "fp32", "optim.compile": "off"},
    "bf16": {"optim.precision": "bf16", "optim.compile": "off"},
    "bf16, compiled": {"optim.precision": "bf16", "optim.compile": "on"},
    "bf16, CUDA graphs": {"optim.precision": "bf16", "optim.compile": "reduce-overhead"},
}
RATIOS = {"pmae": 0.2, "mae": 0.75}


def settings(method: str, size: int, options: argparse.Namespace, epochs: int) -> PretrainConfig:
    """The paper's recipe for images of ``size`` px."""
    values: dict[str, Any] = {
        "masking.ratio": RATIOS[method],
        "optim.batch_size": options.batch,
        "optim.epochs": epochs,
    }
    if method == "pmae":
        values["masking.basis"] = "dct"  # see measure()
    return preset("paper", "made", method).with_values({**values, "optim.warmup_epochs": 1.0}).resolve(size, 3)


class Contender:
    """One variant's training: its first epoch, in which it may compile, then an epoch whenever its turn comes."""

    def __init__(
        self, config: PretrainConfig, images: np.ndarray, basis: PrincipalComponents | None, device: str
    ) -> None:
        before = _reset_memory(device)
        start = time.perf_counter()
        self.epochs = Training(config, images, basis, seed=0, device=torch.device(device)).epochs()
        self.losses = [next(self.epochs)["train_loss"]]
        self.first_epoch_seconds = time.perf_counter() - start
        self.memory_bytes = None if before is None else torch.cuda.max_memory_allocated() - before
        self.rates: list[float] = []

    def turn(self) -> None:
        """Train the next epoch."""
        record = next(self.epochs)
        self.losses.append(record["train_loss"])
        self.rates.append(record["images_per_second"])


def _reset_memory(device: str) -> int | None:
    if device == "cpu":
        return None
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def measure(size: int, method: str, options: argparse.Namespace, peak: float, ends: float) -> dict[str, Any]:
    """All variants of one method on images of one size, in alternation; none is begun after ``ends``."""
    torch.compiler.reset()  # past eight versions of one function it would compile no more
    images = made_images(options.batch * options.steps, size)
    # The rate does not depend on what the basis holds; the DCT's needs no eigendecomposition of 12,288 coordinates.
    basis = fit_basis("dct", images) if method == "pmae" else None
    config = settings(method, size, options, epochs=1 + options.rounds)
    plain = config.with_values(VARIANTS["fp32"])
    flops = flops_per_image(
        Training(plain, images[: options.batch], basis, seed=0, device=torch.device(options.device))
    )
    contenders = {}
    for name, values in VARIANTS.items():
        if time.perf_counter() > ends:
            print(f"{size} px {method:5} {name:17} left out: --seconds {options.seconds:g} are over", flush=True)
        else:
            contenders[name] = Contender(config.with_values(values), images, basis, options.device)
    for _ in range(options.rounds):
        for contender in contenders.values():
            contender.turn()
    found = {}
    for name, contender in contenders.items():
        found[name] = one = _summary(contender, contenders["fp32"], flops, peak)
        print(
            f"{size} px {method:5} {name:17} {one['images_per_second']['median']:10,.0f} images/s "
            f"{one['tflops']:8.1f} TFLOP/s ({one['share_of_matmul_peak']:4.0%} of the peak), "
            f"losses within {one['largest_relative_loss_difference_to_fp32']:.1e} of fp32", flush=True,
        )  # fmt: skip
    return {"size": size, "method": method, "gflop_per_image": flops / 1e9, "variants": found}


def _summary(contender: Contender, plain: Contender, flops: float, peak: float) -> dict[str, Any]:
    rate = spread(contender.rates)
    return {
        "images_per_second": rate,
        "tflops": rate["median"] * flops / 1e12,
        "share_of_matmul_peak": rate["median"] * flops / peak,
        "largest_relative_loss_difference_to_fp32": max(
            abs(a - b) / b for a, b in zip(contender.losses, plain.losses, strict=True)
        ),
        "first_epoch_seconds": contender.first_epoch_seconds,
        "memory_bytes": contender.memory_bytes,
    }


def full_pair(options: argparse.Namespace) -> list[dict[str, Any]]:
    """PMAE 20 % and MAE 75 % for the whole recipe on real images, each with its linear probe on the test split."""
    from pmae.data import load_images
    from pmae.probes import extract_pools, linear_probe

    images = load_images(options.full, image_size=32)
    results = []
    for method in RATIOS:
        values = {"ratio": RATIOS[method], "epochs": options.full_epochs}
        config = preset("paper", options.full, method).with_values(values).resolve(32, 3)
        start = time.perf_counter()
        result = pretrain(config, images, seed=0, device=options.device)
        seconds = time.perf_counter() - start
        features = extract_pools(result.encoder, images, ("train", "val", "test"), ("cls", "mean"))
        scores = {
            pool: linear_probe(None, images, "fast", 0, features=found, score_test=True).test_accuracy
            for pool, found in features.items()
        }
        print(f"{method}: {config.optim.epochs} epochs in {seconds:.0f} s, linear probe {scores}", flush=True)
        results.append({
            "method": method, "config": config.to_dict(), "seconds": seconds, "test_linear": scores,
            "history": result.history,
        })  # fmt: skip
    return results


def main() -> None:
    """Parse the options, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 64])
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--steps", type=int, default=30, help="steps per epoch")
    parser.add_argument("--rounds", type=int, default=4, help="epochs of each variant that are measured")
    parser.add_argument("--seconds", type=float, default=240, help="no variant is begun later")
    parser.add_argument("--matmul", type=int, default=8192, help="side of the matrices that give the peak")
    parser.add_argument("--full", metavar="SOURCE", help="also train a whole pair on these images")
    parser.add_argument("--full-epochs", type=int, default=800)
    parser.add_argument("--out", type=Path, help="the JSON file")
    options = parser.parse_args()
    if options.device != "cpu" and not torch.cuda.is_available():
        parser.exit(2, "no GPU on this machine; --device cpu tries the script itself\n")
    ends = time.perf_counter() + options.seconds
    peak = matmul_peak(options.device, options.matmul, torch.bfloat16)
    print(f"bf16 matrix products: {peak / 1e12:.0f} TFLOP/s")
    result = {
        "benchmark": "gpu",
        **describe_machine(options.device, ("torch", "timm", "numpy"), __file__),
        "matmul_tflops": peak / 1e12,
        "tf32": torch.backends.cuda.matmul.allow_tf32,
        "runs": [measure(size, method, options, peak, ends) for method in RATIOS for size in options.sizes],
        "full": full_pair(options) if options.full else None,
    }
    name = (result["gpu"] or "cpu").lower().replace(" ", "-")
    write_result(result, options.out or RESULTS / f"gpu-{name}.json")


if __name__ == "__main__":
    main()

"""``python -m pmae reconstruct``: pictures of reconstructed images, and SSIM and PSNR over a split."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from pmae.cli.loading import check_output, load_for_encoder, print_result
from pmae.cli.options import ReconstructOptions
from pmae.config import PretrainConfig
from pmae.data import ImageSet
from pmae.devices import pick_device
from pmae.errors import ConfigError, DataError
from pmae.export import load_model
from pmae.files import replace_atomically
from pmae.probes.features import read_images
from pmae.reconstruction import Reconstruction, reconstruct, reconstruction_quality
from pmae.trainer import PretrainResult

BLOCK = 256
TITLES = {
    "original": "original",
    "visible": "visible to\nthe encoder",
    "prediction": "predicted\nmasked part",
    "target": "true\nmasked part",
    "completed": "visible +\nprediction",
}


def run(options: ReconstructOptions) -> None:
    """Reconstruct a split and draw a few of its images."""
    out = check_output(options.out, (".png", ".pdf", ".svg"))
    if options.pictures < 1:
        raise ConfigError(f"--pictures is {options.pictures}; it must be at least 1")
    result = load_model(options.model)
    assert result.config.model.image_size is not None
    images = load_for_encoder(options.data, result.config.data, result.config.model.image_size, options.printing)
    if images.channels != result.config.model.channels:
        raise DataError(
            f"the images have {images.channels} channel(s), the model was trained on {result.config.model.channels}; "
            "choose a dataset with as many"
        )
    result.model.on(pick_device(options.machine.device))
    first, quality = over_split(result, images, options.split, options.seed)
    draw(first, min(options.pictures, len(first.original)), result.config, out)
    count = len(images.indices(options.split))
    report = {"model": str(options.model), "dataset": images.name, "split": options.split, "images": count}
    lines = [
        ("images", f"{count:,} of {images.name} ({options.split})"),
        ("SSIM", f"{quality['ssim']:.4f}   visible part alone {quality['visible_ssim']:.4f}"),
        ("PSNR", f"{quality['psnr']:.2f} dB   visible part alone {quality['visible_psnr']:.2f} dB"),
        ("written to", str(out)),
    ]
    print_result(options.printing, {**report, "out": str(out), **quality}, lines)


def over_split(
    result: PretrainResult, images: ImageSet, split: str, seed: int
) -> tuple[Reconstruction, dict[str, float]]:
    """Return the reconstructions of the first block, and the mean quality over the split."""
    indices = images.indices(split)
    if not len(indices):
        raise DataError(f"the {split} split holds no images; choose another --split")
    first, totals = None, dict.fromkeys(("ssim", "psnr", "visible_ssim", "visible_psnr"), 0.0)
    for number, start in enumerate(range(0, len(indices), BLOCK)):
        rows = indices[start : start + BLOCK]
        pixels = read_images(images.images, rows)
        made = reconstruct(result.model, pixels, result.statistics, result.config, seed + number)
        first = made if first is None else first
        for name, value in reconstruction_quality(made).items():
            totals[name] += value * len(rows) / len(indices)
    assert first is not None
    return first, totals


def draw(made: Reconstruction, count: int, config: PretrainConfig, path: Path) -> None:
    """Draw a row per image: original, visible, predicted and true masked part (around gray), completed."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(count, len(TITLES), figsize=(1.3 * len(TITLES), 1.3 * count + 0.7), squeeze=False)
    for column, (name, title) in enumerate(TITLES.items()):
        axes[0, column].set_title(title, fontsize=9)
        for row in range(count):
            levels = getattr(made, name)[row].cpu()
            if name in ("prediction", "target"):
                levels = levels + 127.5
            axes[row, column].imshow(_picture(levels), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            axes[row, column].axis("off")
    masking = config.masking
    share = "of the variance" if masking.method == "pmae" else "of the patches"
    drawn = masking.ratio_range
    ratio = f"{masking.ratio:.0%}" if drawn is None else f"{drawn[0]:.0%} to {drawn[1]:.0%}"
    figure.suptitle(f"{masking.method}, {ratio} {share} masked", fontsize=10)
    figure.tight_layout(rect=(0, 0, 1, 0.99))
    with replace_atomically(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:].lower(), dpi=150)
    plt.close(figure)


def _picture(levels: torch.Tensor) -> np.ndarray:
    picture = levels.round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
    return picture[:, :, 0] if picture.shape[2] == 1 else picture

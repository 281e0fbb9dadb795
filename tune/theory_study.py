"""Kong et al. 2023 (arXiv 2306.04898) at small scale: masking ratio x mask unit for MAE, units apart from patch size.

The theory: ratio and unit decide which level of features is learned; values near 0 or 1 give low-level features. In
addition to linear and k-NN accuracy each trial measures SSIM (structure) and PSNR (pixels) of reconstructed images and
accuracy under corruptions; the report tests the inverted U over the ratio.
"""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

if __name__ == "__main__":
    # Run as a script: the checkout takes the place of its folder tune/, whose modules are not to be imported bare.
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from tune.run import interrupts

    interrupts.install()

from pmae.config import MIN_TOKENS
from tune.options import ConfirmOptions, ConfirmRule, SearchOptions, StudyOptions
from tune.run.cli import run_command
from tune.search.space import default_patch_sizes

if TYPE_CHECKING:
    from pmae.data import ImageSet
    from tune.trial.run import MeasureInput

RATIOS = (0.1, 0.25, 0.5, 0.75, 0.9)  # of Kong et al.'s Table 1
UNITS = 3  # sides of 1, 2 and 4 patches, where they fit
RECONSTRUCTED = 512  # images; enough for means that differ between settings, and quick


@dataclass(frozen=True)
class TheoryStudy(StudyOptions):
    """Study what masking ratio and mask unit do to an MAE's features (Kong et al. 2023): accuracy, reconstructions
    and robustness over both, each ratio confirmed with the same seeds."""

    program: ClassVar[str] = "tune/theory_study.py"
    question: ClassVar[str | None] = "What do masking ratio and mask unit do to the features?"
    rule: ClassVar[ConfirmRule] = ConfirmRule(refinements=0, every_patch_setting=True)
    metrics: ClassVar[str | None] = "tune.theory_study:measure"
    examples: ClassVar[tuple[str, ...]] = (
        "pmae-study theory",
        "pmae-study theory --dataset cifar10 --mask-units 4 8 16",
        "pmae-study rerun runs/digits/study.json --confirm-seeds 10",
    )

    search: SearchOptions = field(default_factory=lambda: SearchOptions(methods=("mae",), ratios=RATIOS, search="none"))
    confirm: ConfirmOptions = field(default_factory=lambda: ConfirmOptions(confirm_seeds=3))

    def fill_from_images(self, images: ImageSet) -> StudyOptions:
        """One patch size, and mask units of one, two and four patches a side."""
        search, size = self.search, images.image_size
        patch_sizes = search.patch_sizes or default_patch_sizes(size)[-1:]
        units = search.mask_units or tuple(unit for patch in patch_sizes for unit in mask_units(size, patch))
        filled = dataclasses.replace(search, patch_sizes=patch_sizes, mask_units=tuple(dict.fromkeys(units)))
        return dataclasses.replace(self, search=filled)


def mask_units(image_size: int, patch_size: int) -> tuple[int, ...]:
    """Sides of 1, 2 and 4 patches, as far as the image holds enough of them."""
    units = [patch_size * 2**i for i in range(UNITS)]
    return tuple(u for u in units if image_size % u == 0 and (image_size // u) ** 2 >= MIN_TOKENS)


def measure(measured: MeasureInput) -> dict[str, Any]:
    """Structure against pixels of full-image reconstructions, and accuracy under corruptions, of one encoder.

    Returns:
        ``ssim``, ``psnr`` (dB) of completed images and of their visible parts alone (``visible_``), on the split that
        may be read; ``corrupted_linear``: mean accuracy of a linear probe that has seen clean images only; by
        corruption under ``corruptions``.
    """
    import torch

    from pmae.probes import corruption_probe
    from pmae.reconstruction import reconstruct, reconstruction_quality

    result, images = measured.result, measured.images
    chosen = images.indices(measured.split)[:RECONSTRUCTED]
    pixels = torch.from_numpy(images.images[chosen].copy())
    rebuilt = reconstruct(result.model, pixels, result.statistics, result.config, result.seed)
    confirmed = measured.split == "test"
    probe = corruption_probe(
        result.encoder, images, measured.spec.seed, features=measured.features, score_test=confirmed
    )
    return {
        **reconstruction_quality(rebuilt),
        "corrupted_linear": probe.test_accuracy if confirmed else probe.val_accuracy,
        "corruptions": probe.details[f"{measured.split}_by_corruption"],
    }


if __name__ == "__main__":
    sys.exit(run_command(sys.argv[1:], TheoryStudy()))

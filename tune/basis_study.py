"""Is it the PCA? Bases (principal components, DCT, wavelet, random rotation, pixels) x masking ratio, for PMAE.

A ladder of ratios is confirmed for every basis with the same seeds, then the bases are compared at their best ratios.
"""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

if __name__ == "__main__":
    # Run as a script: the checkout takes the place of its folder tune/, whose modules are not to be imported bare.
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from tune.run import interrupts

    interrupts.install()

from pmae.config import Basis
from tune.options import ConfirmOptions, ConfirmRule, SearchOptions, StudyOptions
from tune.run.cli import run_command
from tune.search.space import default_patch_sizes

if TYPE_CHECKING:
    from pmae.data import ImageSet

BASES: tuple[Basis, ...] = ("pca", "dct", "wavelet", "rotation", "pixel")
RATIOS = (0.1, 0.2, 0.35, 0.55)


@dataclass(frozen=True)
class BasisStudy(StudyOptions):
    """Study whether it is the principal components that matter: masks of equal variance in other orthonormal bases,
    each at its own best ratio."""

    program: ClassVar[str] = "tune/basis_study.py"
    question: ClassVar[str | None] = "Does it matter which basis is masked?"
    rule: ClassVar[ConfirmRule] = ConfirmRule(refinements=0, every_patch_setting=True)
    examples: ClassVar[tuple[str, ...]] = (
        "pmae-study basis",
        "pmae-study basis --dataset bloodmnist --basis pca dct",
        "pmae-study rerun runs/digits/study.json --confirm-seeds 10",
    )

    search: SearchOptions = field(
        default_factory=lambda: SearchOptions(methods=("pmae",), ratios=RATIOS, basis=BASES, search="none")
    )
    confirm: ConfirmOptions = field(default_factory=lambda: ConfirmOptions(confirm_seeds=5))

    def fill_from_images(self, images: ImageSet) -> StudyOptions:
        """One patch size: bases are compared, not patches."""
        patch_sizes = self.search.patch_sizes or default_patch_sizes(images.image_size)[-1:]
        return dataclasses.replace(self, search=dataclasses.replace(self.search, patch_sizes=patch_sizes))


if __name__ == "__main__":
    sys.exit(run_command(sys.argv[1:], BasisStudy()))

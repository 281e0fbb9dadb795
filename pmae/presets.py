"""The recipes that runs start from, each as the settings in which it differs from the defaults of ``pmae.config``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Settings = dict[str, dict[str, Any]]


def quick(method: str) -> Settings:
    """A small model and a short schedule that orders ratios within seconds a trial; its accuracies are not a paper's.

    Paper: none. 450 steps of 32 images, or 8 epochs if that is more: max(450, N / 4) steps for N training images.
    Hardware and time: one CPU core; seconds on digits, about a minute on 12,000 images of 28 px.
    Expected linear accuracy on digits with patch 2: 84 % (PMAE) and 80 % (MAE) out of fold, 71 % untrained;
    benchmarks/recipes.py measures it for other datasets (docs/verdict.md).
    Command: ``python -m pmae pretrain --patch-size 2 --out models/digits``
    """
    return {
        "data": {"crop_scale": None, "flip": False},
        "masking": {"method": method, "reduction": "batch"},
        "model": {
            "patch_size": 4, "width": 64, "depth": 2, "heads": 4,
            "decoder_width": 64, "decoder_depth": 1, "decoder_heads": 4, "pool": "concat",
        },
        "optim": {"steps": 450, "min_epochs": 8, "batch_size": 32, "learning_rate": 1.6e-2},
    }  # fmt: skip


def paper(method: str) -> Settings:
    """The recipe of Bizeul et al. 2025 (arXiv 2502.06314): ViT-Tiny, patch 8, 800 epochs of batches of 512.

    Hardware and time: a GPU; hours were not measured here.
    Expected linear accuracy on CIFAR-10, as published: PMAE 59.0 % at its best ratio, MAE 41.7 % at 75 %; not
    reproduced here.
    Command: ``python -m pmae pretrain --preset paper --dataset cifar10 --out models/cifar10``
    """
    masking = {"method": method, "strategy": "fixed"} if method == "pmae" else {"method": method}
    return {
        "data": {"crop_scale": (0.2, 1.0), "flip": True},
        "masking": masking,
        "model": {
            "encoder": "vit_tiny", "patch_size": 8, "decoder_width": 512, "decoder_depth": 8, "decoder_heads": 16,
        },
        "optim": {
            "epochs": 800, "batch_size": 512, "learning_rate": 1.5e-4, "weight_decay": 0.05, "betas": (0.9, 0.95),
        },
        "probe": {"protocol": "paper"},
    }  # fmt: skip


def released_code(method: str) -> Settings:
    """The paper's recipe as its released code (alicebizeul/pmae) runs it; docs/recipes.md lists what differs and why.

    Hardware and time: as ``paper``; not run to its end here. The published accuracies came from code of this kind.
    Command: ``python -m pmae pretrain --preset released-code --dataset cifar10 --out models/cifar10``
    """
    recipe = paper(method)
    if method == "pmae":
        recipe["masking"] |= {"strategy": "released", "per": "batch"}
    del recipe["model"]["encoder"]
    recipe["model"] |= {"width": 192, "depth": 12, "heads": 12, "position": "sincos"}
    recipe["optim"] |= {"schedule": "released", "weight_decay_on": "all"}
    return recipe


PRESETS: dict[str, Callable[[str], Settings]] = {"quick": quick, "paper": paper, "released-code": released_code}

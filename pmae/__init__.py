"""Masked image pre-training: masked principal components (PMAE) or patches (MAE), and probes of the encoders.

The public names below are imported from their modules on first use: ``import pmae`` alone imports neither torch nor
Ray. This package knows neither studies nor how they are run.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pmae.components import PrincipalComponents as PrincipalComponents
    from pmae.config import PretrainConfig as PretrainConfig
    from pmae.config import preset as preset
    from pmae.data import ImageSet as ImageSet
    from pmae.data import load_images as load_images
    from pmae.export import extract_features as extract_features
    from pmae.export import load_encoder as load_encoder
    from pmae.export import load_model as load_model
    from pmae.export import save_encoder as save_encoder
    from pmae.export import save_model as save_model
    from pmae.masking import draw_component_mask as draw_component_mask
    from pmae.masking import draw_patch_mask as draw_patch_mask
    from pmae.model import MaskedAutoencoder as MaskedAutoencoder
    from pmae.probes import ProbeResult as ProbeResult
    from pmae.probes import corruption_probe as corruption_probe
    from pmae.probes import crossval_knn_probe as crossval_knn_probe
    from pmae.probes import crossval_linear_probe as crossval_linear_probe
    from pmae.probes import finetune as finetune
    from pmae.probes import knn_probe as knn_probe
    from pmae.probes import linear_probe as linear_probe
    from pmae.probes import mlp_probe as mlp_probe
    from pmae.trainer import PretrainResult as PretrainResult
    from pmae.trainer import pretrain as pretrain
    from pmae.training.distributed import PMAETrainer as PMAETrainer

    __version__: str

_NAMES = {
    "pmae.components": ("PrincipalComponents",),
    "pmae.config": ("PretrainConfig", "preset"),
    "pmae.data": ("ImageSet", "load_images"),
    "pmae.export": ("extract_features", "load_encoder", "load_model", "save_encoder", "save_model"),
    "pmae.masking": ("draw_component_mask", "draw_patch_mask"),
    "pmae.model": ("MaskedAutoencoder",),
    "pmae.probes": (
        "ProbeResult", "corruption_probe", "crossval_knn_probe", "crossval_linear_probe", "finetune", "knn_probe",
        "linear_probe", "mlp_probe",
    ),
    "pmae.trainer": ("PretrainResult", "pretrain"),
    "pmae.training.distributed": ("PMAETrainer",),
}  # fmt: skip
_MODULES = {name: module for module, names in _NAMES.items() for name in names}
__all__ = ["__version__", *sorted(_MODULES)]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("pmae")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

"""The public path of pre-training; one process is in ``training.loop``, several workers in ``training.distributed``."""

from typing import TYPE_CHECKING, Any

from pmae.training.loop import PretrainResult, Training, pretrain

if TYPE_CHECKING:
    from pmae.training.distributed import PMAETrainer

__all__ = ["PMAETrainer", "PretrainResult", "Training", "pretrain"]


def __getattr__(name: str) -> Any:
    """``PMAETrainer`` imports Ray, which :func:`pretrain` does not need (PEP 562)."""
    if name != "PMAETrainer":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from pmae.training.distributed import PMAETrainer

    return PMAETrainer

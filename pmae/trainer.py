"""The public path of pre-training; one process is in ``training.loop``, several workers in ``training.distributed``."""

from pmae.training.loop import PretrainResult, Training, pretrain

__all__ = ["PretrainResult", "Training", "pretrain"]

"""Pre-training in one process; on several workers see :class:`pmae.training.distributed.PMAETrainer`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np

from pmae.config import PretrainConfig
from pmae.cost import step_flops
from pmae.devices import pick_device, pick_threads
from pmae.errors import ConfigError
from pmae.masking import DrawMask
from pmae.training.checkpoint import load_checkpoint, save_checkpoint
from pmae.training.loader import Images
from pmae.training.loop import OnEpoch, PretrainResult, Training

if TYPE_CHECKING:
    from pmae.components import PrincipalComponents

__all__ = ["PretrainResult", "Training", "pretrain"]


def pretrain(
    config: PretrainConfig,
    images: Images | np.ndarray,
    components: PrincipalComponents | None = None,
    *,
    seed: int,
    on_epoch: OnEpoch | None = None,
    checkpoint_dir: str | os.PathLike[str] | None = None,
    resume_from: str | os.PathLike[str] | None = None,
    device: str = "auto",
    checkpoint_every: int = 1,
    threads: int | None = None,
    draw_mask: DrawMask | None = None,
) -> PretrainResult:
    """Pre-train one model in this process. A pure function of its arguments: one seed fixes every random number.

    Args:
        config: Settings; ``model.image_size`` and ``model.channels`` may be left to the images.
        images: Image set (its ``train`` split is used) or uint8 array (N, H, W, C), all of which is used.
        components: Fitted components; None fits them (and caches them where ``images`` is an image set). For MAE
            only their pixel statistics are used.
        seed: Fixes initialization, order, augmentation and masks.
        on_epoch: Called after every epoch with its history entry and the model; what it raises ends the training.
        checkpoint_dir: Folder for checkpoints; None writes none.
        resume_from: Folder of checkpoints or one file to resume from; the result equals that of an undisturbed run.
        device: ``auto`` (a GPU if there is one), ``cpu``, ``cuda`` or ``cuda:N``.
        checkpoint_every: Epochs between checkpoints; the last epoch always has one.
        threads: CPU threads of the training; None takes one where a step is small and neither ``OMP_NUM_THREADS`` nor
            ``torch.set_num_threads`` chose a number, see :func:`pmae.devices.pick_threads`. The result reports it;
            torch's number is restored after every epoch.
        draw_mask: A mask strategy of your own, see :class:`pmae.masking.DrawMask`; ``masking.strategy`` then names it
            ``own:NAME``. It is not stored with checkpoints: give it again to resume.

    Raises:
        ConfigError: Settings contradict the images, the components, the machine or the checkpoint.
        DataError: The images cannot be trained on, or no intact checkpoint exists to resume from.
        DivergedError: The loss became infinite or NaN; it names the step.
    """
    if threads is not None and threads < 1:
        raise ConfigError(f"threads is {threads}; it must be at least 1, or None for the default")
    where = pick_device(device)
    training = Training(config, images, components, seed=seed, device=where, draw_mask=draw_mask)
    training.threads = pick_threads(step_flops(training.config), where) if threads is None else threads
    if resume_from is not None:
        training.restore(load_checkpoint(resume_from, training.config.hash(), seed))
    for record in training.epochs():
        if checkpoint_dir is not None and training.checkpoint_is_due(checkpoint_every):
            save_checkpoint(checkpoint_dir, training.epoch, training.state())
        if on_epoch is not None:
            on_epoch(record, training.model)
    return training.result()

"""A whole pre-trained model on disk: encoder, decoder, components and history, in safetensors and JSON.

The folder is an exported encoder too (see ``export``); ``model.safetensors``, ``components.safetensors`` (PMAE only)
and ``model.json`` join it. Checkpoints that a training goes on from are ``checkpoint``'s.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch

from pmae.batches import PixelStatistics
from pmae.components import PrincipalComponents
from pmae.config import PretrainConfig
from pmae.errors import ConfigError, DataError
from pmae.export import (
    DESCRIPTION,
    FORMAT,
    FORMAT_VERSION,
    STATISTICS,
    describe_images,
    read_description,
    read_tensors,
    save_encoder,
    write_json,
    write_tensors,
)
from pmae.model import MaskedAutoencoder
from pmae.trainer import PretrainResult

MODEL_FORMAT, MODEL_FORMAT_VERSION = "pmae-model", 1
MODEL_DESCRIPTION, MODEL_WEIGHTS, COMPONENTS = "model.json", "model.safetensors", "components.safetensors"


def save_model(result: PretrainResult, folder: str | os.PathLike[str], *, images: object = None) -> Path:
    """Write encoder and whole model to ``folder``, which is made if need be; what is there is replaced.

    Args:
        result: What :func:`~pmae.trainer.pretrain` returned.
        folder: Where to.
        images: Image set it was trained on, for the record.

    Returns:
        The folder, absolute.

    Raises:
        OSError: The folder cannot be written.
    """
    folder = save_encoder(result, folder, images=images)
    checksum = write_tensors(folder / MODEL_WEIGHTS, result.model.state_dict())
    if result.components is not None:
        result.components.save(folder / COMPONENTS)
    else:
        (folder / COMPONENTS).unlink(missing_ok=True)
    description = {
        "format": MODEL_FORMAT,
        "format_version": MODEL_FORMAT_VERSION,
        "model": result.config.to_dict(),
        "seed": result.seed,
        "data": None if images is None else describe_images(images),
        "sha256": {MODEL_WEIGHTS: checksum},
        "history": result.history,
        "precision": result.precision,
    }
    write_json(folder / MODEL_DESCRIPTION, description)
    return folder


def load_model(folder: str | os.PathLike[str]) -> PretrainResult:
    """The model in ``folder`` with its history, settings, statistics and components, on the CPU.

    Raises:
        DataError: There is none, a file is damaged, or it was written by a newer version.
    """
    folder = Path(folder)
    description = read_description(folder / MODEL_DESCRIPTION, MODEL_FORMAT, MODEL_FORMAT_VERSION)
    encoder = read_description(folder / DESCRIPTION, FORMAT, FORMAT_VERSION)
    weights = read_tensors(folder / MODEL_WEIGHTS, description["sha256"][MODEL_WEIGHTS])
    statistics = read_tensors(folder / STATISTICS, encoder["sha256"][STATISTICS])
    try:
        config = PretrainConfig.from_dict(description["model"])
        masking = config.masking
        components = PrincipalComponents.load(folder / COMPONENTS) if masking.method == "pmae" else None
        model = MaskedAutoencoder(
            config.model, components, loss=masking.loss, normalise_target=masking.normalise_target
        )
        model.load_state_dict(weights)
    except (ConfigError, RuntimeError) as error:
        raise DataError(f"{folder / MODEL_DESCRIPTION} does not describe the weights beside it: {error}") from None
    pixels = PixelStatistics(statistics["mean"], statistics["std"])
    return PretrainResult(
        model.on(torch.device("cpu")).eval(),
        description["history"],
        config,
        pixels,
        components,
        description["seed"],
        description.get("precision", "fp32"),
    )

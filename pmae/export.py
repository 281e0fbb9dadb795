"""Encoders and whole models on disk: safetensors and JSON; nothing is ever unpickled.

An encoder's folder holds ``encoder.safetensors`` (weights under timm's names), ``standardisation.safetensors``
(``mean`` and ``std``, (C, H, W), uint8 units) and ``encoder.json`` (shapes, settings, versions, SHA-256 of both, and
under ``timm`` the arguments of ``timm.create_model`` for a model that takes the weights strictly and gives the same
features). A whole model adds ``model.safetensors``, ``model.json`` and, for PMAE, ``components.safetensors``.

Without this package, from the files alone::

    arguments = json.load(open("encoder.json"))["timm"]
    model = timm.create_model(**arguments)
    model.load_state_dict(safetensors.torch.load_file("encoder.safetensors"))
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from pmae.components import PrincipalComponents
from pmae.config import ModelConfig, PretrainConfig
from pmae.errors import ConfigError, DataError
from pmae.files import replace_atomically
from pmae.model.autoencoder import MaskedAutoencoder
from pmae.model.encoder import Encoder, build_vit
from pmae.probes.features import as_encoder, extract_features
from pmae.training.loader import PixelStatistics
from pmae.training.loop import PretrainResult

__all__ = ["extract_features", "load_encoder", "load_model", "save_encoder", "save_model"]

FORMAT, MODEL_FORMAT, FORMAT_VERSION = "pmae-encoder", "pmae-model", 1
TIMM_POOLS = {"cls": "token", "mean": "avg", "concat": ""}  # timm has no concatenation: it then returns all tokens
DESCRIPTION, WEIGHTS = "encoder.json", "encoder.safetensors"
STATISTICS = "standardisation.safetensors"  # the spelling is part of the file format
RUN_FACTS = ("seed", "history", "precision", "threads")  # of a result, as they are in the model's description
MODEL_DESCRIPTION, MODEL_WEIGHTS, COMPONENTS = "model.json", "model.safetensors", "components.safetensors"


def save_encoder(
    encoder: Any,
    folder: str | os.PathLike[str],
    *,
    config: PretrainConfig | ModelConfig | None = None,
    images: Any = None,
) -> Path:
    """Write an encoder to ``folder``, which is created if it does not exist; an existing encoder is replaced.

    Args:
        encoder: An Encoder, or a pre-training result (whose settings are then the default of ``config``).
        folder: Where to.
        config: Settings that the encoder was trained with; None reads the shapes off the encoder.
        images: Image set that it was trained on, for the record: its name, fingerprint and class names.

    Returns:
        The folder, absolute.

    Raises:
        ConfigError: ``config`` describes another encoder, or is needed because the encoder is not a plain one.
        OSError: The folder cannot be written.
    """
    if config is None:
        config = getattr(encoder, "config", None)
    encoder = as_encoder(encoder)
    model = _model_config(encoder, config)
    folder = Path(folder).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    description = {
        "model": dataclasses.asdict(model),
        "timm": _timm_arguments(model),
        "config": config.to_dict() if isinstance(config, PretrainConfig) else None,
        "sha256": {
            WEIGHTS: _write_tensors(folder / WEIGHTS, encoder.vit.state_dict()),
            STATISTICS: _write_tensors(folder / STATISTICS, {"mean": encoder.mean, "std": encoder.std}),
        },
        "versions": {name: version(name) for name in ("pmae", "torch", "timm")},
    }
    _write_description(folder / DESCRIPTION, FORMAT, description, images)
    return folder


def load_encoder(folder: str | os.PathLike[str]) -> Encoder:
    """The encoder in ``folder``, on the CPU, in evaluation mode; DataError if it is missing, corrupted or too new."""
    folder = Path(folder)
    description = _read_description(folder / DESCRIPTION, FORMAT)
    weights, statistics = (_read_tensors(folder / name, description["sha256"][name]) for name in (WEIGHTS, STATISTICS))
    try:
        model = ModelConfig(**description["model"])
        vit = build_vit(model)
        vit.load_state_dict(weights)
    except (TypeError, ConfigError, RuntimeError) as error:
        raise DataError(f"{folder / DESCRIPTION} does not describe the weights next to it: {error}") from None
    return Encoder(vit, statistics["mean"], statistics["std"], pool=model.pool).eval()


def _timm_arguments(model: ModelConfig) -> dict[str, Any] | None:
    """Arguments of ``timm.create_model`` for the encoder; None for overlapping patches, which timm does not have."""
    if model.stride != model.patch_size:
        return None
    arguments: dict[str, Any] = {
        "model_name": model.encoder if model.shape is None else "vit_tiny_patch16_224",
        "img_size": model.image_size,
        "patch_size": model.patch_size,
        "in_chans": model.channels,
        "num_classes": 0,
        "global_pool": TIMM_POOLS[model.pool],
        "fc_norm": False,
    }
    if model.shape is not None:
        arguments |= dict(zip(("embed_dim", "depth", "num_heads"), model.shape, strict=True))
        arguments["mlp_ratio"] = model.mlp_ratio
    return arguments


def _write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> str:
    """Write float32 copies as safetensors, atomically; returns the file's SHA-256."""
    content = safetensors.torch.save({n: t.detach().float().cpu().contiguous() for n, t in tensors.items()})
    with replace_atomically(path) as temporary:
        temporary.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def _read_tensors(path: Path, sha256: str) -> dict[str, Tensor]:
    """Tensors of a safetensors file; DataError where it is missing or its SHA-256 differs."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); save the encoder or model again") from None
    if hashlib.sha256(content).hexdigest() != sha256:
        raise DataError(f"{path} is corrupted or incomplete (its checksum differs); save the encoder or model again")
    try:
        return safetensors.torch.load(content)
    except safetensors.SafetensorError as error:
        raise DataError(f"{path} is not a safetensors file: {error}") from None


def _write_description(path: Path, kind: str, content: Mapping[str, Any], images: Any) -> None:
    facts = ("name", "fingerprint", "class_names")
    data = None if images is None else {name: getattr(images, name) for name in facts}
    text = json.dumps({"format": kind, "format_version": FORMAT_VERSION, "data": data, **content}, indent=2)
    with replace_atomically(path) as temporary:
        temporary.write_text(f"{text}\n", encoding="utf-8")


def _read_description(path: Path, kind: str) -> dict[str, Any]:
    """The JSON at ``path``, checked to be of ``kind`` and of a format version this code knows."""
    if not path.is_file():
        raise DataError(
            f"there is no {path.name} in {path.parent}; give the folder that 'python -m pmae pretrain' wrote"
        )
    try:
        read = json.loads(path.read_bytes())
    except ValueError as error:
        raise DataError(f"{path} is not JSON: {error}") from None
    content = read if isinstance(read, dict) else {}
    if content.get("format") != kind:
        raise DataError(f"{path} is not of the format {kind!r}; give another folder")
    found = content.get("format_version")
    if found != FORMAT_VERSION:
        raise DataError(f"{path} has format version {found}, this code reads {FORMAT_VERSION}; update pmae")
    if {type(content.get(key)) for key in ("sha256", "model")} != {dict}:
        raise DataError(f"{path} lacks checksums or shapes; save it again")
    return content


def _model_config(encoder: Encoder, config: PretrainConfig | ModelConfig | None) -> ModelConfig:
    """Resolved shapes that rebuild exactly this encoder."""
    model = config.model if isinstance(config, PretrainConfig) else config or _shapes_of(encoder.vit)
    size, channels = model.image_size or encoder.image_size, model.channels or encoder.channels
    pool: Any = encoder.pool
    model = dataclasses.replace(model, image_size=size, channels=channels, pool=pool)
    if not _rebuilds(model, encoder.vit):
        raise ConfigError(
            f"config ({size} px, {channels} channels) does not describe this encoder ({encoder.image_size} px, "
            f"{encoder.channels} channels); give the one it was trained with"
        )
    return model


def _rebuilds(model: ModelConfig, vit: VisionTransformer) -> bool:
    """Whether ``model`` and the weights alone give the same outputs as ``vit``."""
    again = build_vit(model)
    try:
        again.load_state_dict(vit.state_dict())
    except RuntimeError:
        return False
    image = torch.randn(2, model.channels or 0, model.image_size or 0, model.image_size or 0)
    with torch.no_grad():
        have = copy.deepcopy(vit).cpu().eval().forward_features(image)
        return torch.allclose(again.eval().forward_features(image), have, rtol=1e-3, atol=1e-3)


def _shapes_of(vit: VisionTransformer) -> ModelConfig:
    block: Any = vit.blocks[0]
    return ModelConfig(
        patch_size=vit.patch_embed.patch_size[0],
        patch_stride=vit.patch_embed.proj.stride[0],
        width=vit.embed_dim,
        depth=len(vit.blocks),
        heads=block.attn.num_heads,
        mlp_ratio=block.mlp.fc1.out_features / vit.embed_dim,
        position="learned" if vit.pos_embed is not None and vit.pos_embed.requires_grad else "sincos",
    )


def save_model(result: PretrainResult, folder: str | os.PathLike[str], *, images: object = None) -> Path:
    """Write encoder and whole model, the ``result`` of ``pretrain``, to ``folder``; else as :func:`save_encoder`."""
    folder = save_encoder(result, folder, images=images)
    checksum = _write_tensors(folder / MODEL_WEIGHTS, result.model.state_dict())
    if result.components is not None:
        result.components.save(folder / COMPONENTS)
    else:
        (folder / COMPONENTS).unlink(missing_ok=True)
    description = {
        "model": result.config.to_dict(),
        "sha256": {MODEL_WEIGHTS: checksum},
        **{name: getattr(result, name) for name in RUN_FACTS},
    }
    _write_description(folder / MODEL_DESCRIPTION, MODEL_FORMAT, description, images)
    return folder


def load_model(folder: str | os.PathLike[str]) -> PretrainResult:
    """The model in ``folder``, on the CPU, with all that training gave; DataError if missing, corrupted or too new."""
    folder = Path(folder)
    description = _read_description(folder / MODEL_DESCRIPTION, MODEL_FORMAT)
    encoder = _read_description(folder / DESCRIPTION, FORMAT)
    weights = _read_tensors(folder / MODEL_WEIGHTS, description["sha256"][MODEL_WEIGHTS])
    statistics = _read_tensors(folder / STATISTICS, encoder["sha256"][STATISTICS])
    try:
        config = PretrainConfig.from_dict(description["model"])
        masking = config.masking
        components = PrincipalComponents.load(folder / COMPONENTS) if masking.method == "pmae" else None
        model = MaskedAutoencoder(
            config.model, components, loss=masking.loss, normalize_target=masking.normalize_target
        )
        model.load_state_dict(weights)
        known = {"precision": "fp32", "threads": None, **description}  # models from before these were recorded
        facts = {name: known[name] for name in RUN_FACTS}
    except (ConfigError, RuntimeError, KeyError) as error:
        raise DataError(f"{folder / MODEL_DESCRIPTION} does not describe the weights next to it: {error}") from None
    pixels = PixelStatistics(statistics["mean"], statistics["std"])
    model = model.on(torch.device("cpu")).eval()
    return PretrainResult(model=model, config=config, statistics=pixels, components=components, **facts)

"""Training checkpoints: written atomically with a checksum; the last two are kept.

Truncated or corrupted checkpoints are detected by their checksum; the previous one is loaded and a warning is issued.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import warnings
from pathlib import Path
from pickle import UnpicklingError  # torch.load(weights_only=True) raises it
from typing import Any

import torch

from pmae.errors import ConfigError, DataError
from pmae.files import replace_atomically

MAGIC = b"PMAECKP1"
KEEP_CHECKPOINTS = 2
_NAME = re.compile(r"epoch-(\d{6})\.ckpt")


def save_checkpoint(folder: str | os.PathLike[str], epoch: int, state: dict[str, Any]) -> Path:
    """Write ``state`` after ``epoch`` epochs and delete all but the last two files; an OSError changes none of them."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    torch.save(state, buffer)
    payload = buffer.getvalue()
    path = folder / f"epoch-{epoch:06d}.ckpt"
    with replace_atomically(path) as temporary:
        temporary.write_bytes(MAGIC + hashlib.sha256(payload).digest() + payload)
    for old in list_checkpoints(folder)[:-KEEP_CHECKPOINTS]:
        old.unlink(missing_ok=True)
    return path


def list_checkpoints(folder: str | os.PathLike[str]) -> list[Path]:
    """List the checkpoints in ``folder``, oldest first."""
    return sorted(p for p in Path(folder).glob("epoch-*.ckpt") if _NAME.fullmatch(p.name))


def load_checkpoint(path: str | os.PathLike[str], config_hash: str | None = None, seed: int | None = None) -> dict:
    """Load the newest intact checkpoint at ``path``, a folder or one of its files.

    Raises:
        DataError: No checkpoint exists, or all are corrupted.
        ConfigError: The checkpoint belongs to other settings (``config_hash``) or another seed.
    """
    path = Path(path)
    files = [path] if path.is_file() else list_checkpoints(path)
    if not files:
        raise DataError(f"no checkpoint in {path}; leave resume_from out to start from the beginning")
    for file in reversed(files):
        state = _read(file)
        if state is None:
            warnings.warn(f"checkpoint {file} is corrupted (checksum mismatch); loading the previous one", stacklevel=2)
            continue
        for name, want in (("config_hash", config_hash), ("seed", seed)):
            if want is not None and state.get(name) != want:
                raise ConfigError(
                    f"checkpoint {file} has {name} {state.get(name)}, this run has {want}; "
                    "resume with the settings and the seed it was started with, or choose another folder"
                )
        return state
    raise DataError(f"every checkpoint in {path} is corrupted; delete them to start from the beginning")


def _read(file: Path) -> dict[str, Any] | None:
    content = file.read_bytes()
    head = len(MAGIC) + 32
    if content[: len(MAGIC)] != MAGIC or hashlib.sha256(content[head:]).digest() != content[len(MAGIC) : head]:
        return None
    try:
        return torch.load(io.BytesIO(content[head:]), map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise DataError(
            f"checkpoint {file} holds more than tensors and plain values and is not loaded: {error}"
        ) from None

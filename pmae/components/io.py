"""Arrays with a description in one safetensors file, written atomically and checked by a checksum.

The meaning of the arrays is defined in ``principal``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from safetensors.numpy import save_file

from pmae.errors import DataError
from pmae.files import replacing

SCHEMA_VERSION = 1

Arrays = Mapping[str, np.ndarray]


def write_arrays(path: Path, arrays: Arrays, description: Mapping[str, Any]) -> None:
    """Write ``arrays`` and a JSON ``description``; who reads at the same time sees the old file or the new one."""
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    text = json.dumps({"schema_version": SCHEMA_VERSION, **description}, sort_keys=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        save_file(dict(arrays), temporary, {"description": text, "sha256": _checksum(arrays, text)})


def read_arrays(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Memory-mapped arrays and description that :func:`write_arrays` wrote.

    Raises:
        DataError: The file is missing, truncated, changed, or was written by another version.
    """
    try:
        # Through torch because its arrays stay in the file's pages, which all processes share.
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name).numpy() for name in file.keys()}  # noqa: SIM118 (not a mapping)
        text = metadata["description"]
        if _checksum(arrays, text) != metadata["sha256"]:
            raise DataError(f"{path} is corrupted: its checksum does not match; delete it to fit the components again")
        description = json.loads(text)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist") from None
    except (safetensors.SafetensorError, OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise DataError(
            f"{path} cannot be read ({type(error).__name__}: {error}); it is truncated, corrupted or not a file of "
            "this toolkit; delete it to fit the components again"
        ) from error
    if description.pop("schema_version") != SCHEMA_VERSION:
        raise DataError(f"{path} was written by another version of the toolkit; delete it to fit the components again")
    return arrays, description


def _checksum(arrays: Arrays, description: str) -> str:
    digest = hashlib.sha256(description.encode())
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode())
        digest.update(arrays[name].data)
    return digest.hexdigest()

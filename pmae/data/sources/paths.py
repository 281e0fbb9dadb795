"""The paths of ``folder:``, ``parquet:`` and ``npz:``."""

from __future__ import annotations

from pathlib import Path

from pmae.data.source import Request
from pmae.errors import DataError
from pmae.files import user_path


def requested_path(request: Request) -> Path:
    """Return the request's path, ``~`` expanded; a relative path starts from the request's root."""
    path = user_path(request.argument, f"{request.name}:")
    return path if request.root is None else request.root / path


def existing_file(request: Request, kind: str, suffix: str) -> Path:
    """Return the request's path, which must be a file; the DataError suggests others."""
    path = requested_path(request)
    if path.is_file():
        return path
    if path.is_dir():
        inside = sorted(p.name for p in path.glob(f"*{suffix}"))
        hint = f"; it is a folder, name one of its files: {', '.join(inside[:10]) or f'it has no {suffix} file'}"
    else:
        hint = f"; give {kind}:PATH the path of a {suffix} file"
    raise DataError(f"{path} does not exist{hint}")

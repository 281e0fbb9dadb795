"""Atomic writes: a crash, a loss of power or a full disk leaves the previous file intact."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from studies.errors import StudyError, StudyWriteError

# Errors of file systems that cannot sync a folder.
_CANNOT_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES, errno.EPERM)


def write_file(path: Path | str, content: bytes | str | Callable[[BinaryIO], object]) -> None:
    """Put ``content`` (or what it writes to an open file) at ``path``, all or nothing, or raise StudyWriteError."""
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        with os.fdopen(descriptor, "wb") as file:
            if callable(content):
                content(file)
            else:
                file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)  # mkstemp makes files that only their owner can read
        os.replace(temporary, path)
        sync_folder(path.parent)
    except BaseException as error:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)
        if isinstance(error, OSError):
            raise write_error(path, error) from error
        raise


def sync_folder(folder: Path | str) -> None:
    """Make the names of the files in ``folder`` safe from a loss of power, which an fsync of the files does not."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise
    finally:
        os.close(descriptor)


def write_error(path: Path, error: OSError) -> StudyWriteError:
    """The error to raise when writing ``path`` failed: what happened, what is still intact, and the way out."""
    before = "the previous version is intact" if path.exists() else "nothing was written"
    return StudyWriteError(
        f"cannot write {path}: {error.strerror or error}; {before}. "
        "Free some space or fix the permissions of the folder, then continue the study with --resume"
    )


def write_json(path: Path | str, values: Mapping[str, Any]) -> None:
    """``values`` as indented JSON at ``path``; see :func:`write_file`."""
    write_file(path, as_json(values))


def as_json(values: Any) -> str:
    """``values`` as indented JSON with a line end; times are in ISO 8601."""
    return json.dumps(values, indent=2, ensure_ascii=False, default=_as_text) + "\n"


def _as_text(value: Any) -> str:
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def read_json(path: Path | str) -> dict[str, Any] | None:
    """The mapping in the JSON file at ``path``; None if the file does not exist."""
    path = Path(path)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise StudyError(f"cannot read {path}: {error}; restore it from a copy or delete it") from error
    if not isinstance(values, dict):
        raise StudyError(f"{path} holds a {type(values).__name__} where a mapping is due; restore it or delete it")
    return values

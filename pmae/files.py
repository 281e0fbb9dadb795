"""Atomic writes, writable folders, and arrays in files that several processes map instead of copying."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pmae.errors import ConfigError, DataError

MAX_NAME_BYTES, MAX_PATH_BYTES = 255, 4000  # of Linux and macOS, with room for the files below


@contextmanager
def replace_atomically(path: Path) -> Iterator[Path]:
    """A temporary path next to ``path``; what the block writes there then replaces ``path`` atomically.

    A block that raises leaves ``path`` as it was and no temporary file.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def make_writable_folder(folder: Path) -> None:
    """Make ``folder`` where it is missing and write a file in it, which is removed again; OSError if that fails."""
    folder.mkdir(parents=True, exist_ok=True)
    trial = folder / f".writable-{os.getpid()}"
    trial.touch()
    trial.unlink()


def user_path(text: str | Path, what: str) -> Path:
    """A path that a user gave, ``~`` expanded; ConfigError, which calls it ``what``, if no file can be called so."""
    try:
        path = Path(text).expanduser()
    except RuntimeError as error:  # ~somebody
        raise ConfigError(f"{what} {_shortened(text)}: {error}; give the path in full") from None
    encoded = os.fsencode(path)
    if b"\0" in encoded or len(encoded) > MAX_PATH_BYTES or max(map(len, encoded.split(b"/"))) > MAX_NAME_BYTES:
        raise ConfigError(
            f"{what} {_shortened(text)} cannot be a path: names have at most {MAX_NAME_BYTES} bytes, paths "
            f"{MAX_PATH_BYTES:,}, and none is zero; give a shorter one"
        )
    return path


def _shortened(text: str | Path) -> str:
    shown = repr(str(text))
    return shown if len(shown) <= 100 else f"{shown[:60]}... ({len(str(text))} characters)"


@dataclass(frozen=True)
class MappedArray:
    """Location of an array: ``offset`` bytes into the file ``path``, uint8, C order."""

    path: str
    offset: int
    shape: tuple[int, ...]

    @classmethod
    def of(cls, array: np.ndarray) -> MappedArray | None:
        """The place of a uint8 array that is a whole piece of a memory map; None for any other."""
        whole: object = array
        while isinstance(whole, np.ndarray) and not isinstance(whole, np.memmap):
            whole = whole.base
        if not isinstance(whole, np.memmap) or whole.filename is None:
            return None
        while isinstance(whole.base, np.memmap):  # a slice of a map is a map that keeps the offset of the whole
            whole = whole.base
        if array.dtype != np.uint8 or not array.flags.c_contiguous:
            return None
        inside = array.__array_interface__["data"][0] - whole.__array_interface__["data"][0]
        return cls(str(Path(str(whole.filename)).absolute()), whole.offset + inside, array.shape)

    def open(self) -> np.ndarray:
        """The array, mapped read-only; DataError if this machine does not see the file, or it is too short."""
        try:
            return np.memmap(self.path, np.uint8, "r", self.offset, self.shape)
        except (OSError, ValueError) as error:
            raise DataError(
                f"{self.path} cannot be mapped on this machine ({error}); images this large are read by every node "
                "from the same file: set PMAE_CACHE to a folder that all nodes see"
            ) from error

"""Writing files so that readers see the old one or the new one, and folders that can be written to."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A place beside ``path`` to write to; what the block wrote there then takes the place of ``path``.

    A block that raises leaves ``path`` as it was and nothing beside it.

    Raises:
        OSError: The disk is full, or the folder cannot be written to.
    """
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield beside
        with open(beside, "rb") as file:
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def make_writable_folder(folder: Path) -> None:
    """Make ``folder`` where it is missing and write a file in it, which is removed again; OSError if that fails."""
    folder.mkdir(parents=True, exist_ok=True)
    trial = folder / f".writable-{os.getpid()}"
    trial.touch()
    trial.unlink()

"""Zip and tar archives, read in place: nothing is written to disk, so their names and links cannot do harm."""

from __future__ import annotations

import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pmae.errors import DataError

MAX_MEMBER_BYTES = 1 << 28


@contextmanager
def broken_as(what: str, way_out: str) -> Iterator[None]:
    """Turn every exception into a DataError ``what (exception); way_out``."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # zipfile, zlib and NumPy's header parser have no common base class
        raise DataError(f"{what} ({type(error).__name__}: {error}); {way_out}") from error


def open_zip(path: Path) -> zipfile.ZipFile:
    """Open the archive; DataError if it is truncated or not a zip archive."""
    with broken_as(f"{path} is not a readable zip archive", "remove it to download it again"):
        return zipfile.ZipFile(path)


def read_zip_member(archive: zipfile.ZipFile, name: str) -> bytes:
    """Return the bytes of a member; DataError if it is corrupted or larger than 256 MiB."""
    size = archive.getinfo(name).file_size
    if size > MAX_MEMBER_BYTES:
        raise DataError(f"{archive.filename}: {name} unpacks to {size:,} bytes; refused as a decompression bomb")
    with broken_as(f"{archive.filename}: {name} is corrupted", "remove the archive to download it again"):
        return archive.read(name)


def tar_files(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield (name, bytes) for each regular file of a tar archive.

    Raises:
        DataError: Not a tar archive, truncated, or with a member larger than 256 MiB.
    """
    way_out = "remove it to download it again"
    with broken_as(f"{path} is not a readable tar archive", way_out), tarfile.open(path) as archive:
        for member in archive:
            if not member.isfile():
                continue
            if member.size > MAX_MEMBER_BYTES:
                raise DataError(f"{path}: {member.name} has {member.size:,} bytes; refused as a decompression bomb")
            file = archive.extractfile(member)
            if file is not None:
                yield member.name, file.read()

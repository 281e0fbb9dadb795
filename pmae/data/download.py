"""Download files: resumed after broken connections, verified by checksum, written atomically.

``$PMAE_MIRROR``, a URL, replaces the server of every file, for machines that reach only a mirror. File names and
checksums stay the official ones.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import ssl
import time
import urllib.error
import urllib.request
import warnings
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from pmae.data.cache import cache_dir
from pmae.data.progress import progress_bar
from pmae.errors import DataError

ATTEMPTS = 5  # in a row without a new byte
FIRST_PAUSE = 0.5  # seconds before the second attempt, doubled for each further one
TIMEOUT = 30.0  # seconds
CHUNK = 1 << 18  # bytes
RETRIED_STATUS = (408, 425, 429, 500, 502, 503, 504)
BROKEN = (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError)


@dataclass(frozen=True)
class Remote:
    """A file on the web: its URL, its local name, and the MD5 that its publisher states."""

    url: str
    filename: str
    md5: str


def fetch(remote: Remote, folder: Path | None = None, *, progress: bool = False) -> Path:
    """Return the path of the file in ``folder`` (None: ``downloads`` in the cache); download it if it is missing.

    An existing file is not checked. Processes that need the same file at the same time download it once. The message
    of a DataError (no such file, no server, other bytes, no room) says where to put the file by hand.
    """
    target = (folder or cache_dir() / "downloads") / remote.filename
    if target.is_file():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(f".{target.name}.lock")):
            if not target.is_file():
                _download(remote, target, progress)
    except OSError as error:
        raise DataError(
            f"{target.parent} cannot hold the download {remote.filename} ({error}); make room, or name another "
            "folder with root (--data-root) or PMAE_CACHE"
        ) from error
    return target


def warn_unless_official(path: Path, remote: Remote) -> None:
    """Warn if the file does not have the published checksum."""
    found = md5_of(path)
    if found != remote.md5:
        warnings.warn(
            f"{path} is not the published file (MD5 {found}, published {remote.md5}); its images are used all the "
            "same, so do not compare results with published ones. Remove it to download the published file",
            stacklevel=2,
        )


def md5_of(path: Path) -> str:
    """Return the hex MD5 of a file."""
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _download(remote: Remote, target: Path, progress: bool) -> None:
    """Complete the part that earlier connections left, with a new one whenever one breaks."""
    mirror = os.environ.get("PMAE_MIRROR")
    url = f"{mirror.rstrip('/')}/{remote.filename}" if mirror else remote.url
    by_hand = f"Try again later, or get the file elsewhere (MD5 {remote.md5}) and put it at {target}"
    part = target.with_name(f".{target.name}.part")
    part.touch()
    resumed, failures = part.stat().st_size > 0, 0
    while True:
        before = part.stat().st_size
        try:
            _receive(url, part, f"downloading {remote.filename}", progress)
        except BROKEN as error:
            failures = 1 if part.stat().st_size > before else failures + 1
            if getattr(error, "code", 503) not in RETRIED_STATUS:  # a broken connection has no code
                raise DataError(f"{url} cannot be downloaded ({error}). {by_hand}") from error
            if failures == ATTEMPTS:
                raise DataError(
                    f"{url} cannot be downloaded ({error or type(error).__name__}; attempt {failures} of {ATTEMPTS}); "
                    f"what has arrived is kept and the next run resumes from there. {by_hand}"
                ) from error
            time.sleep(FIRST_PAUSE * 2 ** (failures - 1))
            continue
        found = md5_of(part)
        if found == remote.md5:
            break
        part.unlink()
        if not resumed:
            raise DataError(
                f"{url} sent a file with MD5 {found} instead of {remote.md5}; it is corrupted or replaced. {by_hand}"
            )
        resumed = False  # the part may be of another version of the file: start over
        part.touch()
    os.replace(part, target)


def _receive(url: str, part: Path, title: str, progress: bool) -> None:
    """Append the rest of the file to ``part`` over one connection."""
    have = part.stat().st_size
    request = urllib.request.Request(url, headers={"User-Agent": "pmae", "Accept-Encoding": "identity"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        return  # the part is complete, or longer than the file: its checksum tells
    with response, part.open("ab") as file:
        # The answer begins at byte 0 if the server ignored the range.
        start = have if response.headers.get("Content-Range", "").startswith(f"bytes {have}-") else 0
        length = response.headers.get("Content-Length", "")
        coming, free = int(length) if length.isdigit() else 0, shutil.disk_usage(part.parent).free
        if coming > free:
            raise OSError(f"{coming / 1e9:.2f} GB to come, {free / 1e9:.2f} GB free")
        file.truncate(start)
        file.seek(start)  # tell() would count from the old end until the first flush
        with progress_bar(title, start + coming if coming else None, unit="bytes", shown=progress) as advance:
            advance(start)
            while chunk := response.read1(CHUNK):
                file.write(chunk)
                advance(len(chunk))
        received = file.tell() - start
    if received < coming:
        raise ConnectionError(f"the connection broke after {received:,} of {coming:,} bytes")

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


@dataclass(frozen=True)
class Remote:
    """A file on the web: its URL, its local name, and the MD5 that its publisher states."""

    url: str
    filename: str
    md5: str


class _Retry(Exception):
    """The connection failed, but another attempt may succeed."""


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
    part = target.with_name(f".{target.name}.part")
    resumed = part.exists()
    found = _transfer(remote, target, part, progress)
    if found != remote.md5 and resumed:  # the part may be of another version of the file: start over
        part.unlink()
        found = _transfer(remote, target, part, progress)
    if found != remote.md5:
        part.unlink()
        raise DataError(
            f"{_url(remote)} sent a file with MD5 {found} instead of {remote.md5}; it is corrupted or was replaced. "
            + _by_hand(remote, target)
        )
    os.replace(part, target)


def _transfer(remote: Remote, target: Path, part: Path, progress: bool) -> str:
    """Complete ``part``, with a new connection whenever one breaks, and return its MD5; ``ATTEMPTS`` in vain fail."""
    failures = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            _receive(remote, part, progress)
            return md5_of(part)
        except _Retry as error:
            gained = (part.stat().st_size if part.exists() else 0) > before
            failures = 1 if gained else failures + 1
            if failures >= ATTEMPTS:
                raise DataError(
                    f"{_url(remote)} cannot be downloaded ({error}, {ATTEMPTS} attempts); what has arrived is kept "
                    f"and the next run resumes from there. {_by_hand(remote, target)}"
                ) from error
            time.sleep(FIRST_PAUSE * 2 ** (failures - 1))
        except urllib.error.HTTPError as error:
            raise DataError(
                f"{_url(remote)} cannot be downloaded (HTTP {error.code} {error.reason}). {_by_hand(remote, target)}"
            ) from error


def _receive(remote: Remote, part: Path, progress: bool) -> None:
    """Append the rest of the file to ``part`` over one connection."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(_url(remote), headers={"User-Agent": "pmae", "Accept-Encoding": "identity"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
            given, length = (response.headers.get(name, "") for name in ("Content-Range", "Content-Length"))
            # The answer begins at byte 0 if the server ignored the range.
            start = have if response.status == 206 and given.startswith(f"bytes {have}-") else 0
            total = start + int(length) if length.isdigit() else None
            _check_space(part, total, start)
            with (
                part.open("r+b" if part.exists() else "wb") as file,
                progress_bar(f"downloading {remote.filename}", total, unit="bytes", shown=progress) as advance,
            ):
                file.truncate(start)
                file.seek(start)
                advance(start)
                while chunk := response.read1(CHUNK):
                    file.write(chunk)
                    advance(len(chunk))
                received = file.tell()
    except urllib.error.HTTPError as error:
        if error.code == 416:  # the part is complete, or longer than the file: its checksum tells
            error.close()
            return
        if error.code in RETRIED_STATUS:
            raise _Retry(f"HTTP {error.code}") from error
        raise
    except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError) as error:
        raise _Retry(str(getattr(error, "reason", error)) or type(error).__name__) from error
    if total is not None and received < total:
        raise _Retry(f"the connection broke after {received:,} of {total:,} bytes")


def _check_space(part: Path, total: int | None, start: int) -> None:
    free = shutil.disk_usage(part.parent).free
    if total is not None and total - start > free:
        raise OSError(f"{(total - start) / 1e9:.2f} GB to come, {free / 1e9:.2f} GB free")


def _url(remote: Remote) -> str:
    mirror = os.environ.get("PMAE_MIRROR")
    return f"{mirror.rstrip('/')}/{remote.filename}" if mirror else remote.url


def _by_hand(remote: Remote, target: Path) -> str:
    return f"Try again later, or get the file elsewhere (MD5 {remote.md5}) and put it at {target}"

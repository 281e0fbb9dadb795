"""Files in an object store (S3, Google Cloud, whatever pyarrow has a file system for), below one URI.

Objects are written atomically: a reader sees the previous one or the new one. Every error names the URI without its
secrets, what is wrong and the way out, and is raised within seconds.
"""

from __future__ import annotations

import atexit
import io
import os
import posixpath
import re
import secrets
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar
from urllib.parse import parse_qs, unquote, urlsplit, urlunsplit

import pyarrow as pa
from pyarrow import fs

from studies.errors import StudyError, StudyWriteError
from studies.storage.atomic import sync_folder

SCHEMES = "s3://BUCKET/PATH, gs://BUCKET/PATH, abfs://CONTAINER@ACCOUNT.dfs.core.windows.net/PATH"
S3_OPTIONS = ("region", "scheme", "endpoint_override")
REFUSED = ("access_denied", "invalid_access_key", "signature", "forbidden", "expired", "oauth", "authentication")
LOGINS = {
    "s3": "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS (or gcloud auth application-default login)",
    "abfs": "AZURE_CLIENT_ID, AZURE_TENANT_ID and AZURE_CLIENT_SECRET (or az login)",
}
PATIENCE = 30.0  # seconds that a store gets for its first answer
BLOCK = 16 * 2**20  # bytes of a file that are held in memory
T = TypeVar("T")


class Store:
    """Files below ``root`` of a pyarrow file system; names are relative, with ``/``. Users are shown ``uri``."""

    def __init__(self, filesystem: fs.FileSystem, root: str, uri: str) -> None:
        self.filesystem, self.root, self.uri = filesystem, root.rstrip("/"), uri

    @classmethod
    def open(cls, uri: str) -> Store:
        """The store at ``uri``. A login in an S3 URI overrides the ``AWS_*`` environment variables."""
        shown = without_secrets(uri)
        with _explained(shown, "use", StudyError):
            filesystem, root = run_with_timeout(PATIENCE, lambda: _filesystem(uri, shown))
        return cls(filesystem, root, shown)

    def below(self, name: str) -> Store:
        """The part of this store below ``name``."""
        address = urlsplit(self.uri)
        path = f"{address.path.rstrip('/')}/{name}"
        return Store(self.filesystem, f"{self.root}/{name}", urlunsplit(address._replace(path=path)))

    def files(self) -> dict[str, int]:
        """Size by name of all files, however deep."""
        with _explained(self.uri, "list", StudyError):
            found = self.filesystem.get_file_info(fs.FileSelector(self.root, recursive=True, allow_not_found=True))
        return {posixpath.relpath(f.path, self.root): f.size for f in found if f.type == fs.FileType.File}

    def studies(self) -> list[str]:
        """Names of the studies directly below."""
        with _explained(self.uri, "list", StudyError):  # not recursively: a bucket may hold much else
            found = self.filesystem.get_file_info(fs.FileSelector(self.root, allow_not_found=True))
            plans = [f"{f.path}/study.json" for f in found if f.type == fs.FileType.Directory]
            there = self.filesystem.get_file_info(plans)
        names = (posixpath.basename(posixpath.dirname(f.path)) for f in there if f.type == fs.FileType.File)
        return sorted(name for name in names if not name.startswith("."))

    def modified(self, name: str) -> float | None:
        """When the store wrote ``name``, in seconds of its own clock; None if it does not exist."""
        with _explained(self.uri, "read", StudyError):
            info = self.filesystem.get_file_info(self._path(name))
        return None if info.type != fs.FileType.File else info.mtime_ns / 1e9

    def read(self, name: str) -> bytes | None:
        """Content of ``name``; None if it does not exist."""
        with _explained(self.uri, "read", StudyError):
            try:
                with self.filesystem.open_input_stream(self._path(name)) as stream:
                    return stream.read()
            except FileNotFoundError:
                return None

    def fetch(self, name: str, path: Path) -> bool:
        """Copy ``name`` to ``path``, which appears once it is complete, with the store's time; False if it is gone."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.part")
        with _explained(self.uri, "read", StudyError):
            try:
                stream = self.filesystem.open_input_stream(self._path(name))
            except FileNotFoundError:
                return False
            with stream, open(temporary, "wb") as file:
                shutil.copyfileobj(stream, file, BLOCK)
                file.flush()
                os.fsync(file.fileno())
        written = self.modified(name)
        if written is not None:
            os.utime(temporary, (written, written))
        temporary.replace(path)
        sync_folder(path.parent)
        return True

    def write(self, name: str, source: Path | bytes) -> None:
        """Copy the file at ``source``, or these bytes, to ``name``; a FileNotFoundError if the file is gone."""
        path = self._path(name)
        with (
            io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as file,
            _explained(self.uri, "write to", StudyWriteError),
        ):
            # S3 and GCS have no directories; GCS is not in every pyarrow.
            if not isinstance(self.filesystem, (fs.S3FileSystem, getattr(fs, "GcsFileSystem", fs.S3FileSystem))):
                self.filesystem.create_dir(posixpath.dirname(path), recursive=True)
            with self.filesystem.open_output_stream(path) as stream:
                shutil.copyfileobj(file, stream, BLOCK)

    def delete(self, name: str) -> None:
        """Delete a file if it exists."""
        with _explained(self.uri, "write to", StudyWriteError):
            if self.filesystem.get_file_info(self._path(name)).type == fs.FileType.File:
                self.filesystem.delete_file(self._path(name))

    def delete_folder(self, name: str) -> None:
        """Delete all files below ``name``, if any."""
        with _explained(self.uri, "write to", StudyWriteError):
            if self.filesystem.get_file_info(self._path(name)).type == fs.FileType.Directory:
                self.filesystem.delete_dir(self._path(name))

    def check_writable(self) -> None:
        """Write a file and remove it again; raises StudyWriteError without bucket, login or answer."""
        name = f".writable-{secrets.token_hex(8)}"
        self.write(name, b"a test, removed at once")
        self.delete(name)

    def _path(self, name: str) -> str:
        return f"{self.root}/{name}"


def run_with_timeout(seconds: float, work: Callable[[], T]) -> T:
    """The result of ``work()``, or TimeoutError after ``seconds``; the call then continues in the background."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as problem:
            future.set_exception(problem)

    threading.Thread(target=run, daemon=True).start()
    if not wait([future], seconds).done:
        raise TimeoutError(f"no answer within {seconds:g} s")
    return future.result()


def _filesystem(uri: str, shown: str) -> tuple[fs.FileSystem, str]:
    parts = urlsplit(uri)
    if parts.scheme in ("mock", "file"):
        raise StudyError(f"{shown}: {parts.scheme}:// is not an object store; give {SCHEMES}")
    if not parts.netloc.rpartition("@")[2]:
        raise StudyError(f"{shown} names no bucket; give {SCHEMES}")
    query = parse_qs(parts.query)
    if parts.scheme in ("gs", "gcs"):  # a quarter of an hour by default
        query.setdefault("retry_limit_seconds", ["10"])
        uri = urlunsplit(parts._replace(query="&".join(f"{k}={v[0]}" for k, v in query.items())))
    filesystem, root = fs.FileSystem.from_uri(uri)
    if not isinstance(filesystem, fs.S3FileSystem):
        return filesystem, root
    unknown = [name for name in query if name not in S3_OPTIONS]
    if unknown:
        raise StudyError(f"{shown}: unknown option {', '.join(unknown)}; allowed are {', '.join(S3_OPTIONS)}")
    # from_uri() retries for minutes where a server accepts and does not answer; this constructor three times.
    return fs.S3FileSystem(
        **_s3_login(parts.username, parts.password),
        **{name: values[0] for name, values in {"region": [filesystem.region], **query}.items()},
    ), root


def _s3_login(username: str | None, password: str | None) -> dict[str, str]:
    """Keys of the URI, else those of the environment, so that they are kept when the file system is pickled."""
    if username and password:
        return {"access_key": unquote(username), "secret_key": unquote(password)}
    names = {"access_key": "AWS_ACCESS_KEY_ID", "secret_key": "AWS_SECRET_ACCESS_KEY"}
    keys = {option: os.environ.get(name, "") for option, name in names.items()}
    if not all(keys.values()):
        return {}  # profiles, instance roles and so on, as the S3 client finds them
    token = os.environ.get("AWS_SESSION_TOKEN")
    return {**keys, **({"session_token": token} if token else {})}


@contextmanager
def _explained(uri: str, doing: str, kind: type[StudyError]) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException, NotImplementedError) as error:
        text = without_secrets(" ".join(str(error).split()))[:400]
        raise kind(f"cannot {doing} {uri}: {text}; {_way_out(uri, text)}") from None


def _way_out(uri: str, text: str) -> str:
    low = text.lower()
    if "unrecognized filesystem" in low or "cannot parse uri" in low:
        return f"give a folder, file:///PATH, or {SCHEMES}"
    if "no_such_bucket" in low or "bucket does not exist" in low:
        return f"make the bucket first (aws s3 mb s3://{urlsplit(uri).netloc}), or give another"
    if any(sign in low for sign in REFUSED):
        return f"check {LOGINS.get(urlsplit(uri).scheme, 'your login')}"
    if any(sign in low for sign in ("network_connection", "unavailable", "no answer", "resolve")):
        return "check the network, the region and the address (?endpoint_override=http://HOST:PORT for your own store)"
    return "check the address, the bucket, its region and your credentials"


_LOGIN = re.compile(r"(\w*)://([^/@\s]+)@")
_OPTION = re.compile(r"(?i)([?&][\w-]*(?:token|key|secret|password|signature|credential|sig)[\w-]*=)[^&\s'\"]+")


def is_uri(text: str) -> bool:
    """Whether ``text`` names an object store: a URI of another kind than ``file://``."""
    scheme, mark, _ = text.partition("://")
    return bool(mark) and scheme != "file"


def without_secrets(text: str) -> str:
    """``text`` with user names, passwords and tokens in URLs replaced by ``***``."""
    return _OPTION.sub(r"\1***", _LOGIN.sub(_without_login, text))


def _without_login(found: re.Match[str]) -> str:
    scheme, login = found.groups()
    if scheme == "s3":  # without a login the URI works with the AWS_* variables
        return "s3://"
    # Azure's container, and Google's "nobody", stand where others have a login.
    named = (scheme in ("abfs", "abfss") and ":" not in login) or login == "anonymous"
    return found[0] if named else f"{scheme}://***@"


# Journals before their tables: rows that a table takes over meanwhile are then in both, not in neither.
TABLES = ("trials.journal", "history.journal", "trials.arrow", "history.arrow")
READ = (*TABLES, "verdict.json", "samples.npz", "study.json")


def download_studies(uri: str) -> Path:
    """A folder with copies of the study at ``uri``, or of those directly below it."""
    store = Store.open(uri)
    here = store.modified("study.json") is not None
    name = store.root.rpartition("/")[2]
    studies = {name: store} if here else {n: store.below(n) for n in store.studies()}
    if not studies:
        raise StudyError(f"{store.uri} holds no study (no study.json); give a study's URI, which is <storage>/<name>")
    folder = Path(tempfile.mkdtemp(prefix="pmae-studies-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for name, study in studies.items():
        there = study.files()
        for file in READ:
            if file in there:
                study.fetch(file, folder / name / file)
    return folder / next(iter(studies)) if here else folder

"""Where studies are stored: a folder, or an object store with a working copy on this machine.

A study always runs in a folder. With an object store it is in the cache, is copied to the store while the study runs,
and is downloaded when it is missing or older than the store.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast
from urllib.parse import parse_qs, unquote, urlsplit

from pmae.data.cache import cache_dir
from pmae.errors import ConfigError
from pmae.files import user_path
from studies.storage.atomic import read_json
from studies.storage.lock import StudyLock
from studies.storage.object_store import Store, is_uri
from studies.storage.rows import StudyRecord
from tune.storage.clock import CLOCK, Clock
from tune.storage.lease import StudyLease
from tune.storage.mirror import Mirror, download_study

STUDY_FILES = ("study.json", "trials.arrow", "trials.journal")
RESUME_NEEDS = ("name", "created_at", "dataset", "phases", "options", "command", "resources")  # of study.json


@dataclass(frozen=True)
class Storage:
    """A parsed ``--storage``: the folder of the studies on this machine, and the object store if it is one."""

    root: Path
    store: Store | None = None
    clock: Clock = CLOCK

    @classmethod
    def open(cls, text: str, write: bool = True) -> Storage:
        """Parse ``--storage``; ``write`` tries to write to an object store. No error contains secrets.

        Folders are created with the first study in them, after everything else has been validated.
        """
        if not is_uri(text):
            return cls(_folder(text))
        store = Store.open(text)
        if write:
            store.check_writable()
        # Not every option: naming a region or another login does not change the place.
        address = urlsplit(store.uri)
        server = parse_qs(address.query).get("endpoint_override")
        place = address.scheme, address.netloc, address.path.rstrip("/"), server
        copies = cache_dir() / "studies" / hashlib.sha256(repr(place).encode()).hexdigest()[:16]
        return cls(_folder(str(copies)), store)

    def new(self, name: str) -> Path:
        """The folder of a new study; ConfigError if the name is not valid, or in use here or in the store."""
        folder = self.root / study_name(name)
        taken = str(folder) if is_study(folder) else ""
        if self.store is not None and name in self.store.studies():
            taken = self.store.below(name).uri
        if taken:
            raise ConfigError(
                f"{taken} holds a study already; resume it (--resume), or use another --name or --storage"
            )
        if folder.exists() and (not folder.is_dir() or any(not p.name.startswith(".") for p in folder.iterdir())):
            raise ConfigError(f"{folder} exists and is not a study; use another --name or --storage")
        return folder

    def find_study(self, name: str | None) -> tuple[Path, StudyRecord]:
        """Find the study to resume: its folder, downloaded if the store is newer, and its ``study.json``."""
        stored = [] if self.store is None else self.store.studies()
        here = sorted(p.name for p in self.root.iterdir() if is_study(p)) if self.root.is_dir() else []
        names = stored or here
        place = str(self.root) if self.store is None else self.store.uri
        listed = f"the studies in {place} are {', '.join(names)}" if names else f"there is no study in {place}"
        if name is None and len(names) != 1:
            raise ConfigError(f"--resume: {listed}; {'give --name' if names else 'leave --resume out to start one'}")
        name = names[0] if name is None else name
        folder = self.root / study_name(name)
        if self.store is not None and name in stored:
            with StudyLock(folder):
                lease = StudyLease(self.store.below(name), folder, clock=self.clock)
                lease.check()
                if not is_study(folder) or lease.fetch_is_due():
                    download_study(lease.store, folder)
        record = read_json(folder / "study.json")
        if record is None:
            raise ConfigError(f"--resume: no study {name!r} in {place}; {listed}; leave --resume out to start one")
        missing = [key for key in RESUME_NEEDS if key not in record]
        if missing:
            raise ConfigError(
                f"--resume: {folder / 'study.json'} lacks {', '.join(missing)}: it is corrupted "
                "or of another program; delete the folder, or use another --name"
            )
        return folder, cast(StudyRecord, record)

    def describe_location(self, folder: Path) -> str:
        """Where the study in ``folder`` is stored, for people."""
        return str(folder) if self.store is None else f"{self.store.below(folder.name).uri} (working copy: {folder})"

    @contextmanager
    def hold(
        self, folder: Path, say: Callable[[str], None], report: Callable[[Exception], None], shared: bool
    ) -> Iterator[Mirror | None]:
        """Own the study in ``folder`` while the block runs, or raise StudyLockedError; yields its mirror."""
        with StudyLock(folder):
            if self.store is None:
                yield None
                return
            store = self.store.below(folder.name)
            lease = StudyLease(store, folder, report, self.clock)
            mirror = Mirror(folder, store, say, shared, self.clock, lease.confirm)
            lease.acquire(lambda: download_study(store, folder))  # if another driver has run it since it was planned
            try:
                yield mirror
            finally:
                mirror.abandon()
                lease.release()


def _folder(storage: str) -> Path:
    """The absolute path of ``--storage``, in which a folder could be created."""
    if not storage:
        raise ConfigError("--storage is empty; give a folder, for example runs")
    try:
        text = unquote(urlsplit(storage).path) if "://" in storage else storage
    except ValueError as error:  # brackets that do not match
        raise ConfigError(f"--storage {storage!r} is not a valid path or URI ({error})") from None
    path = user_path(text, "--storage").absolute()
    try:
        if path.exists() and not path.is_dir():
            raise ConfigError(f"--storage {path} is a file; give a folder")
        if is_study(path):
            raise ConfigError(
                f"--storage {path} is itself a study; give its parent folder: --storage {path.parent} --name NAME"
            )
        above = next(p for p in (path, *path.parents) if p.exists())
        if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
            raise ConfigError(
                f"--storage {path} is not writable ({above}); choose another folder or fix its permissions"
            )
        with tempfile.TemporaryFile(dir=above):  # never has a name where the system can do without
            return path
    except OSError as error:
        raise ConfigError(
            f"--storage {path} is not writable ({error.strerror or error}); choose another folder or free some space"
        ) from error


def study_name(name: str) -> str:
    """``name`` if it is valid; raises :class:`ConfigError` for anything that could be a path outside the storage."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        raise ConfigError(
            f"--name is {name!r}; a name has letters, digits, '.', '_' and '-' only, begins with a letter or a digit "
            "and has at most 100 characters"
        )
    return name


def as_study_name(text: str) -> str:
    """A valid study name made from a dataset's name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._")[:100] or "study"


def is_study(folder: Path) -> bool:
    """Whether ``folder`` has one of a study's files."""
    return any((folder / name).is_file() for name in STUDY_FILES)

"""Where studies are kept: a folder, or an object store with a working folder on this machine.

A study always runs in a folder. With an object store that folder lies in the cache, is copied to the store while the
study runs, and is brought back from it where it is missing or somebody else went on with the study.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from pmae.data.cache import cache_dir
from pmae.errors import ConfigError
from studies.errors import StudyError
from studies.storage.lock import StudyLock
from studies.storage.object_store import Store, is_uri
from tune.storage.folder import existing_folder, is_study, new_folder, storage_path, study_name
from tune.storage.lease import StudyLease
from tune.storage.mirror import Mirror, bring_back


@dataclass(frozen=True)
class Storage:
    """What ``--storage`` names.

    Attributes:
        root: Folder of the studies on this machine.
        store: The object store, None for a plain folder.
    """

    root: Path
    store: Store | None = None

    @classmethod
    def open(cls, text: str, create: bool = True) -> Storage:
        """Read ``--storage``; without ``create`` nothing is written, for a dry run.

        Raises:
            ConfigError, StudyError: It cannot be used; the message names it without secrets.
        """
        if not is_uri(text):
            return cls(storage_path(text, create))
        store = Store.open(text)
        if create:
            store.check_writable()
        address = urlsplit(store.uri)
        # Not every option: a region that is named later, or a new login, is the same place.
        place = (
            address.scheme,
            address.netloc,
            address.path.rstrip("/"),
            parse_qs(address.query).get("endpoint_override"),
        )
        return cls(
            storage_path(str(cache_dir() / "studies" / hashlib.sha256(repr(place).encode()).hexdigest()[:16]), create),
            store,
        )

    def new(self, name: str) -> Path:
        """The folder of a new study.

        Raises:
            ConfigError: There is such a study already, here or in the store.
        """
        if self.store is None:
            return new_folder(self.root, name)
        if study_name(name) in self.store.studies():
            raise ConfigError(
                f"{self.store.below(name).uri} holds a study already; go on with it (--resume), or give this one "
                "another --name or --storage"
            )
        folder = self.root / name
        if is_study(folder):
            raise ConfigError(
                f"{folder} is the working copy of a study that is no longer in {self.store.uri}; put it there again "
                "with --resume, or delete the folder"
            )
        return new_folder(self.root, name)

    def existing(self, name: str | None) -> tuple[Path, dict[str, Any]]:
        """Folder and ``study.json`` of the study to go on with, brought back from the store where that is due.

        Raises:
            ConfigError: There is none, or there are several and none is named.
            StudyLockedError: It is running.
        """
        if self.store is None:
            return existing_folder(self.root, name)
        there = self.store.studies()
        if name is None and there:
            if len(there) > 1:
                raise ConfigError(f"--resume: the studies in {self.store.uri} are {', '.join(there)}; give --name")
            name = there[0]
        if name is not None and study_name(name) in there:
            folder = self.root / name
            with StudyLock(folder):
                lease = StudyLease(self.store.below(name), folder)
                lease.check()
                self._bring_back(lease)
        try:
            return existing_folder(self.root, name)
        except ConfigError as problem:
            raise ConfigError(str(problem).replace(str(self.root), self.store.uri)) from None

    def _bring_back(self, lease: StudyLease) -> None:
        if not is_study(lease.folder) or lease.fetch_is_due():
            bring_back(lease.store, lease.folder)

    def share_cache(self) -> None:
        """Keep images and components in a cache below the folder, which every node of a cluster sees.

        They are then decoded and fitted once, not by each node. ``PMAE_CACHE`` overrides it. With an object store
        each node keeps its own.
        """
        if self.store is None:
            os.environ.setdefault("PMAE_CACHE", str(self.root / ".cache"))

    def place(self, folder: Path) -> str:
        """Where the study in ``folder`` lies, in words."""
        if self.store is None:
            return str(folder)
        return f"{self.store.below(folder.name).uri} (working copy: {folder})"

    @contextmanager
    def held(self, folder: Path, say: Callable[[str], None], shared: bool) -> Iterator[Mirror | None]:
        """Own the study in ``folder`` while the block runs; gives what copies it to the store.

        Args:
            say: Tells the user.
            shared: See :class:`tune.storage.mirror.Mirror`.

        Raises:
            StudyLockedError: Somebody else runs it.
        """
        with StudyLock(folder):
            if self.store is None:
                yield None
                return
            mirror = Mirror(folder, self.store.below(folder.name), say, shared)

            def lost(problem: StudyError) -> None:
                mirror.problem = problem

            lease = StudyLease(mirror.store, folder, lost)
            lease.check()
            if lease.fetch_is_due():  # it has run elsewhere since this one was planned
                bring_back(mirror.store, folder)
            lease.acquire()
            try:
                yield mirror
            finally:
                mirror.abandon()
                lease.release()

"""Where studies are stored: a folder, or an object store with a working copy on this machine.

A study always runs in a folder. With an object store it is in the cache, is copied to the store while the study runs,
and is downloaded when it is missing or older than the store.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from pmae.data.cache import cache_dir
from pmae.errors import ConfigError
from studies.errors import StudyError
from studies.storage.lock import StudyLock
from studies.storage.object_store import Store, is_uri
from studies.storage.rows import StudyRecord
from tune.storage.clock import CLOCK, Clock
from tune.storage.folder import existing_folder, is_study, new_folder, storage_path, study_name
from tune.storage.lease import StudyLease
from tune.storage.mirror import Mirror, download_study


@dataclass(frozen=True)
class Storage:
    """A parsed ``--storage``.

    Attributes:
        root: Folder of the studies on this machine.
        store: The object store; None for a folder.
        clock: What the lease and the mirror go by.
    """

    root: Path
    store: Store | None = None
    clock: Clock = CLOCK

    @classmethod
    def open(cls, text: str, create: bool = True) -> Storage:
        """Parse ``--storage``; without ``create`` nothing is written, for a dry run.

        Raises:
            ConfigError, StudyError: It cannot be used; the message contains no secrets.
        """
        if not is_uri(text):
            return cls(storage_path(text, create))
        store = Store.open(text)
        if create:
            store.check_writable()
        address = urlsplit(store.uri)
        # Not every option: naming a region or another login does not change the place.
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
            ConfigError: The study exists, here or in the store.
        """
        if self.store is None:
            return new_folder(self.root, name)
        if study_name(name) in self.store.studies():
            raise ConfigError(
                f"{self.store.below(name).uri} holds a study already; resume it (--resume), or use another "
                "--name or --storage"
            )
        folder = self.root / name
        if is_study(folder):
            raise ConfigError(
                f"{folder} is the working copy of a study that is no longer in {self.store.uri}; upload it "
                "again with --resume, or delete the folder"
            )
        return new_folder(self.root, name)

    def existing(self, name: str | None) -> tuple[Path, StudyRecord]:
        """Folder and ``study.json`` of the study to resume, downloaded from the store if that is newer.

        Raises:
            ConfigError: It does not exist, or there are several and ``name`` is None.
            StudyLockedError: It is running.
        """
        if self.store is None:
            return existing_folder(self.root, name, str(self.root))
        there = self.store.studies()
        if name is None and there:
            if len(there) > 1:
                raise ConfigError(f"--resume: the studies in {self.store.uri} are {', '.join(there)}; give --name")
            name = there[0]
        if name is not None and study_name(name) in there:
            folder = self.root / name
            with StudyLock(folder):
                lease = StudyLease(self.store.below(name), folder, clock=self.clock)
                lease.check()
                self._download(lease)
        return existing_folder(self.root, name, self.store.uri)

    def _download(self, lease: StudyLease) -> None:
        if not is_study(lease.folder) or lease.fetch_is_due():
            download_study(lease.store, lease.folder)

    def share_cache(self) -> None:
        """Use a cache below the folder, which every node of a cluster sees, for images and components.

        They are then decoded and fitted once instead of on each node. ``PMAE_CACHE`` overrides it. With an object
        store each node has its own cache.
        """
        if self.store is None:
            os.environ.setdefault("PMAE_CACHE", str(self.root / ".cache"))

    def place(self, folder: Path) -> str:
        """Where the study in ``folder`` is stored, for people."""
        if self.store is None:
            return str(folder)
        return f"{self.store.below(folder.name).uri} (working copy: {folder})"

    @contextmanager
    def hold(
        self, folder: Path, say: Callable[[str], None], report: Callable[[Exception], None], shared: bool
    ) -> Iterator[Mirror | None]:
        """Own the study in ``folder`` while the block runs; yields what copies it to the store.

        Args:
            folder: The study's folder.
            say: Shows a line to the user.
            report: Called from another thread when the study was taken over by another driver.
            shared: See :class:`tune.storage.mirror.Mirror`.

        Raises:
            StudyLockedError: Another driver runs it.
        """
        with StudyLock(folder):
            if self.store is None:
                yield None
                return
            store = self.store.below(folder.name)

            def on_lost(problem: StudyError) -> None:
                mirror.lose(problem)
                report(problem)

            lease = StudyLease(store, folder, on_lost, self.clock)
            mirror = Mirror(folder, store, say, shared, self.clock, lease.confirm)
            lease.acquire(
                lambda: download_study(store, folder)
            )  # if another driver has run it since it was planned here
            try:
                yield mirror
            finally:
                mirror.abandon()
                lease.release()

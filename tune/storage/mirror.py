"""Copies a study's folder to an object store while it is written, and back when it resumes.

The store is always consistent: the plan is sent first, a table before its journal, the report last, and a trial's row
after its history. A store that does not answer does not stop the study, but at the end everything must be in it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from studies.errors import StudyError, StudyWriteError
from studies.storage.object_store import Store
from tune.storage.clock import CLOCK, Clock, Repeated

COPY_EVERY = 2.0  # seconds
LONGEST_WAIT = 30.0  # seconds between attempts while the store does not answer
ATTEMPTS = 3  # of the last copy
FIRST = ("study.json", "history.arrow", "history.journal", "trials.arrow", "trials.journal", "optuna.db")
# In reading order: rows before histories, and a journal before the table that it is merged into.
TABLES = ("trials.journal", "trials.arrow", "history.journal", "history.arrow")
LAST = ("verdict.json", "report.html")
CHECKPOINTS = "checkpoints/"


class Mirror:
    """Keeps ``store``, a study's part of an object store, equal to ``folder``; ``say`` shows a line to the user.

    If it is ``shared``, the workers of a cluster write checkpoints to the store themselves, which are not mirrored.
    ``confirm`` is called before each change of the store: ``StudyLease.confirm``.
    """

    def __init__(
        self,
        folder: Path,
        store: Store,
        say: Callable[[str], None],
        shared: bool = False,
        clock: Clock = CLOCK,
        confirm: Callable[[], None] = lambda: None,
    ) -> None:
        self.folder, self.store, self.say, self.shared = folder, store, say, shared
        self._clock, self._confirm = clock, confirm
        self._copied: dict[str, tuple[int, int, int]] = {}
        self._there: set[str] = set()
        self._copies: Repeated | None = None  # while it runs
        self._wait, self._warned = COPY_EVERY, False

    def start(self) -> None:
        """Copy the plan, or raise StudyWriteError, then the rest in a thread."""
        foreign = CHECKPOINTS if self.shared else ()
        self._there = {n for n in self.store.files() if not _is_hidden(n) and not n.startswith(foreign)}
        self.store.write(FIRST[0], self.folder / FIRST[0])
        self._copies = self._clock.repeat("mirror", COPY_EVERY, self._try)

    def finish(self) -> None:
        """Copy what is left and end; raises StudyError if not everything could be copied."""
        self._stop()
        for attempt in range(1, ATTEMPTS + 1):
            try:
                self.copy()
                return
            except StudyWriteError:
                if attempt == ATTEMPTS:
                    raise
                self._clock.sleep(attempt)

    def abandon(self) -> None:
        """End after one attempt to copy what is left; does nothing before :meth:`start` or after :meth:`finish`."""
        if self._copies is not None:
            self._stop()
            try:
                self.copy()
            except StudyError as problem:
                self.say(f"{problem}; what is missing there is in {self.folder}")

    def _stop(self) -> None:
        copies, self._copies = self._copies, None
        if copies is not None:
            copies.stop()

    def _try(self) -> float | None:
        try:
            self.copy()
        except StudyWriteError as problem:
            self._wait = min(2 * self._wait, LONGEST_WAIT)
            if not self._warned:
                self._warned = True
                self.say(f"{problem}; the study continues in {self.folder} and tries again")
        except StudyError:
            return None
        else:
            if self._warned:
                self.say(f"{self.store.uri} can be written to again")
            self._wait, self._warned = COPY_EVERY, False
        return self._wait

    def copy(self) -> None:
        """Copy what has changed, delete what is gone; raises what ``confirm`` and the store raise."""
        files = self._files()
        changed = {name for name in files if self._copied.get(name) != files[name]}
        tables: dict[str, bytes] = {}
        for name in TABLES if changed & set(TABLES) else ():  # a snapshot of all, since one may have changed meanwhile
            with suppress(FileNotFoundError):
                tables[name] = (self.folder / name).read_bytes()
        for name in sorted(changed | tables.keys(), key=_order):
            self._confirm()
            try:
                self.store.write(name, tables.get(name, self.folder / name))
            except FileNotFoundError:  # deleted in the meantime
                continue
            self._copied[name] = files.get(name, (0, 0, 0))
            self._there.add(name)
        for name in sorted(self._there - files.keys()):
            self._confirm()
            parent = Path(name).parent.as_posix()
            if parent != "." and not (self.folder / parent).is_dir():
                self.store.delete_folder(parent)
            else:
                self.store.delete(name)
            self._there.discard(name)
            self._copied.pop(name, None)

    def delete_remote(self, folder: str) -> None:
        """Delete checkpoints that workers of a cluster wrote to ``folder`` of the store."""
        if self.shared:
            try:
                self._confirm()
                self.store.delete_folder(folder)
            except StudyError as problem:
                self.say(f"{problem}; {folder} was not deleted")

    def _files(self) -> dict[str, tuple[int, int, int]]:
        found = {}
        for path in self.folder.rglob("*"):
            name = path.relative_to(self.folder).as_posix()
            if _is_hidden(name) or name.startswith("ray/") or name.endswith((".part", ".tmp", "-journal")):
                continue
            try:
                state = path.stat()
            except FileNotFoundError:
                continue
            if path.is_file():
                found[name] = (state.st_mtime_ns, state.st_size, state.st_ino)
        return found


def download_study(store: Store, folder: Path) -> None:
    """Replace the contents of ``folder`` by those of ``store``; files whose name begins with a dot stay."""
    names = [n for n in store.files() if not _is_hidden(n)]
    folder.mkdir(parents=True, exist_ok=True)
    for path in list(folder.iterdir()):
        if path.is_dir():
            shutil.rmtree(path)
        elif not path.name.startswith("."):
            path.unlink()
    # The plan comes last: a folder without one is incomplete.
    for name in sorted(names, key=_order, reverse=True):
        store.fetch(name, folder / name)


def _is_hidden(name: str) -> bool:
    """Whether a part of ``name`` begins with a dot: such files, and paths with ``..``, are not copied."""
    return any(part.startswith(".") for part in name.split("/"))


def _order(name: str) -> tuple[int, str]:
    if name in FIRST:
        return FIRST.index(name), name
    return len(FIRST) + (1 + LAST.index(name) if name in LAST else 0), name

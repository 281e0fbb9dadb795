"""A lease on a study in an object store, so that one driver at a time runs it, on whichever machine.

The lease object holds the owner's id and a heartbeat. It expires after ``STALE`` seconds without one, or at once if the
owner's process is known to be dead on this machine. Ages are measured by the store's clock.

A driver writes a claim before it takes or checks the lease, and stops if it sees another claim: of two drivers, at
least the later writer sees the other. A single request is assumed to take less than half of ``STALE``.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import secrets
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from studies.errors import StudyError, StudyLockedError, StudyWriteError
from studies.storage.atomic import write_file
from studies.storage.object_store import Store
from tune.storage.clock import CLOCK, Clock, Repeated

OWNER = ".owner.json"
CLAIM = ".claim-"
OWNER_LOG = ".owners"  # in the working folder: owners that wrote to the store from it
RENEW = 20.0  # seconds
STALE = 90.0  # seconds
UNSURE = 45.0  # seconds after a heartbeat in which the store is written to without asking it again


class StudyLostError(StudyLockedError):
    """Another driver has become the owner."""


class StudyLease:
    """Ownership of the study in ``store`` whose working copy is ``folder``; ``on_lost`` is called from a thread."""

    def __init__(
        self,
        store: Store,
        folder: Path,
        on_lost: Callable[[StudyError], None] = lambda problem: None,
        clock: Clock = CLOCK,
    ) -> None:
        self.store, self.folder, self._on_lost = store, folder, on_lost
        self.id = secrets.token_hex(8)
        self._clock = clock
        self._confirmed = (0.0, 0.0)  # before the last heartbeat, see _now()
        self._lost: StudyLostError | None = None
        self._renewals: Repeated | None = None  # while it is held

    def check(self) -> None:
        """Raise StudyLockedError if another driver owns or claims the study."""
        with self._claim() as (_, now):
            self._check_owner(now)

    def _check_owner(self, now: float) -> None:
        owner = self._owner()
        if owner is None or owner.get("released") or owner["id"] == self.id or _is_gone(owner):
            return
        age = now - (self.store.modified(OWNER) or 0)
        if age < STALE:
            free = datetime.datetime.fromtimestamp(self._clock.time() + STALE - age)
            raise StudyLockedError(
                f"{self.store.uri} is in use by {owner['holder']}, last heartbeat {max(age, 0):.0f} s ago; wait for "
                f"it, stop it (the lease of a killed process expires at {free:%H:%M:%S}), or use another --storage or "
                "--name"
            )

    def fetch_is_due(self) -> bool:
        """Whether the store is newer than the working folder: its last writer is not known there."""
        owner = self._owner()
        return owner is not None and owner["id"] not in self._known()

    def acquire(self, download: Callable[[], None] = lambda: None) -> None:
        """Become the owner or raise StudyLockedError; ``download`` is called if the store is newer than the folder."""
        downloaded = None
        while True:
            with self._claim() as (claimed, now):
                self._check_owner(now)
                owner, known = self._owner(), self._known()
                if owner is None or owner == downloaded or owner["id"] in known:
                    # If OWNER_LOG were lost or torn, the next driver here would replace newer rows by the store's.
                    write_file(self.folder / OWNER_LOG, "".join(f"{owner}\n" for owner in (*known, self.id)))
                    self._write(claimed)
                    break
            download()  # may take longer than a claim lasts, so that the owner may be another one by then
            downloaded = owner
        self._renewals = self._clock.repeat("lease", RENEW, self._renew)

    def release(self) -> None:
        """Release the lease; the id stays, so that the next owner knows whether its working copy is current."""
        if self._renewals is not None:
            self._renewals.stop()
            self._renewals = None
            with contextlib.suppress(StudyError):
                self._heartbeat(released=True)

    def confirm(self) -> None:
        """Raise StudyLostError if another driver is the owner; asks the store if this process was suspended."""
        if self._lost is not None:
            raise self._lost
        if self._since(self._confirmed) > UNSURE:
            try:
                self._heartbeat()
            except StudyLostError:
                raise
            except StudyError as problem:
                raise StudyWriteError(str(problem)) from None

    def _now(self) -> tuple[float, float]:
        """Monotonic and wall time: a suspended machine stops the one, and the other may be set."""
        return self._clock.monotonic(), self._clock.time()

    def _since(self, moment: tuple[float, float]) -> float:
        return max(now - then for now, then in zip(self._now(), moment, strict=True))

    def _heartbeat(self, released: bool = False) -> None:
        if self._since(self._confirmed) > UNSURE:  # another driver may take over at the same time
            with self._claim() as (claimed, _):
                self._check_mine()
                self._write(claimed, released)
        else:
            now = self._now()
            self._check_mine()
            self._write(now, released)

    @contextlib.contextmanager
    def _claim(self) -> Iterator[tuple[tuple[float, float], float]]:
        """Let no other driver become the owner meanwhile; yields when that began, also by the store's clock."""
        name, claimed = CLAIM + self.id, self._now()
        self.store.write(name, self._identity(released=False))
        try:
            now = self.store.modified(name)
            if now is None:
                raise StudyWriteError(f"{self.store.uri} does not show what was just written to it; try again")
            for other in self.store.files():
                if other.startswith(CLAIM) and other != name:
                    self._check_claim(other, now)
            yield claimed, now
        finally:
            with contextlib.suppress(StudyError):
                self.store.delete(name)

    def _check_claim(self, name: str, now: float) -> None:
        written, owner = self.store.modified(name), self._owner(name)
        if written is None or owner is None:  # withdrawn
            return
        if now - written > STALE or _is_gone(owner):
            self.store.delete(name)
            return
        raise StudyLockedError(
            f"{self.store.uri} is being opened by {owner['holder']}; try again in a moment (the claim of a killed "
            f"process expires after {STALE:.0f} s), or use another --storage or --name"
        )

    def _check_mine(self) -> None:
        owner = self._owner()
        if owner is not None and owner["id"] != self.id:
            raise StudyLostError(f"{self.store.uri} was taken over by {owner['holder']}; this driver stops")

    def _write(self, since: tuple[float, float], released: bool = False) -> None:
        """Become or stay the owner, unless what the store said since ``since`` may be out of date."""
        if self._since(since) > UNSURE:
            raise StudyWriteError(f"{self.store.uri} answers too slowly for a lease of {STALE:.0f} s; try again")
        self.store.write(OWNER, self._identity(released))
        self._confirmed = since

    def _renew(self) -> float | None:
        try:
            self._heartbeat()
        except StudyLostError as problem:
            self._lost = problem
            self._on_lost(problem)
            return None
        except StudyError:  # no answer, or a claim that will be withdrawn; the mirror warns the user
            pass
        return RENEW

    def _identity(self, released: bool) -> bytes:
        owner = {
            "id": self.id,
            "holder": f"process {os.getpid()} on {socket.gethostname()}",
            "renewed": self._clock.time(),  # shows a driver that downloads whether the owner has written meanwhile
            "released": released,
            **_process(os.getpid()),
        }
        return json.dumps(owner).encode()

    def _owner(self, name: str = OWNER) -> dict[str, Any] | None:
        text = self.store.read(name)
        try:
            return None if text is None else dict(json.loads(text))
        except ValueError:
            return None

    def _known(self) -> list[str]:
        try:
            return (self.folder / OWNER_LOG).read_text().split()
        except FileNotFoundError:
            return []


def _process(pid: int) -> dict[str, Any]:
    """Identify a process uniquely on this machine, past ones included; empty where there is no /proc."""
    try:
        place = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        started = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
        return {"place": f"{place}/{os.stat('/proc/self/ns/pid').st_ino}", "pid": pid, "started": started}
    except OSError:
        return {}


def _is_gone(owner: dict[str, Any]) -> bool:
    """Whether the owner ran on this machine, in this PID namespace, and is dead."""
    here = _process(os.getpid())
    if not here or owner.get("place") != here["place"]:
        return False
    return _process(owner["pid"]).get("started") != owner["started"]

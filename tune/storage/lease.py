"""A lease on a study in an object store, so that one driver at a time runs it, on whichever machine.

The lease object holds the owner's id and a heartbeat. It expires after ``STALE`` seconds without one, or at once if the
owner's process is known to be dead on this machine. Ages are measured by the store's clock.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import secrets
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from studies.errors import StudyError, StudyLockedError, StudyWriteError
from studies.storage.atomic import write_file
from studies.storage.object_store import Store
from tune.storage.clock import CLOCK, Clock, Repeated

OWNER = ".owner.json"
KNOWN = ".owners"  # in the working folder: owners that wrote to the store from it
RENEW = 20.0  # seconds
STALE = 90.0  # seconds
UNSURE = 45.0  # seconds after a heartbeat in which the store is written to without asking it again
SETTLE = 0.5  # seconds after which the winner of two simultaneous attempts is known


class StudyLease:
    """Ownership of the study in ``store`` whose working copy is ``folder``.

    Args:
        store: The study's own part of the store.
        folder: Its folder on this machine.
        on_lost: Called from a thread when another driver has taken it over.
        clock: When it is renewed.
    """

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
        self._confirmed = (0.0, 0.0)  # monotonic and wall time before the last heartbeat
        self._renewals: Repeated | None = None  # while it is held

    def check(self) -> None:
        """Raise StudyLockedError if another driver owns the study."""
        now = self._store_time()
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

    def acquire(self) -> None:
        """Become the owner until :meth:`release`.

        Raises:
            StudyLockedError: Another driver is the owner.
        """
        self.check()
        # If it were lost or torn, the next driver here would replace newer rows by the store's.
        write_file(self.folder / KNOWN, "".join(f"{owner}\n" for owner in (*self._known(), self.id)))
        self._confirmed = (self._clock.monotonic(), self._clock.time())
        self._write(released=False)
        self._clock.sleep(SETTLE)
        self._check_mine()
        self._renewals = self._clock.repeat("lease", RENEW, self._renew)

    def release(self) -> None:
        """Release the lease; the id stays, so that the next owner knows whether its working copy is current."""
        if self._renewals is not None:
            self._renewals.stop()
            self._renewals = None
            with contextlib.suppress(StudyError):
                self._check_mine()
                self._write(released=True)

    def confirm(self) -> None:
        """Ask the store who the owner is if the last heartbeat is old: this process or machine may have been suspended.

        Raises:
            StudyLockedError: Another driver is.
            StudyWriteError: The store does not answer.
        """
        # A suspended machine stops the monotonic clock, and the wall clock may be set.
        now = (self._clock.monotonic(), self._clock.time())
        if max(n - c for n, c in zip(now, self._confirmed, strict=True)) > UNSURE:
            try:
                self._heartbeat()
            except StudyLockedError:
                raise
            except StudyError as problem:
                raise StudyWriteError(str(problem)) from None

    def _heartbeat(self) -> None:
        now = (self._clock.monotonic(), self._clock.time())
        self._check_mine()
        self._write(released=False)
        self._confirmed = now

    def _renew(self) -> float | None:
        try:
            self._heartbeat()
        except StudyLockedError as problem:
            self._on_lost(problem)
            return None
        except StudyError:  # no answer; the mirror warns the user
            pass
        return RENEW

    def _check_mine(self) -> None:
        owner = self._owner()
        if owner is not None and owner["id"] != self.id:
            raise StudyLockedError(f"{self.store.uri} was taken over by {owner['holder']}; this driver stops")

    def _write(self, released: bool) -> None:
        now = datetime.datetime.fromtimestamp(self._clock.time(), datetime.timezone.utc)
        holder = f"process {os.getpid()} on {socket.gethostname()}"
        owner = {
            "id": self.id,
            "holder": holder,
            "renewed": now.isoformat(timespec="seconds"),
            "released": released,
            **_process(os.getpid()),
        }
        self.store.write(OWNER, json.dumps(owner).encode())

    def _owner(self) -> dict[str, Any] | None:
        text = self.store.read(OWNER)
        try:
            return None if text is None else dict(json.loads(text))
        except ValueError:
            return None

    def _known(self) -> list[str]:
        try:
            return (self.folder / KNOWN).read_text().split()
        except FileNotFoundError:
            return []

    def _store_time(self) -> float:
        name = f".clock-{self.id}"
        self.store.write(name, b"what time is it?")
        now = self.store.modified(name)
        self.store.delete(name)
        return self._clock.time() if now is None else now


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

"""One running study per folder. The operating system drops the lock when its holder dies, however it dies."""

from __future__ import annotations

import datetime
import fcntl
import os
import socket
from pathlib import Path

from studies.errors import StudyLockedError
from studies.storage.atomic import write_error


class StudyLock:
    """Holds the folder of a study for this process while the ``with`` block runs, or raises StudyLockedError.

    The lock is ``flock`` on ``<folder>/.lock``, which also names the holder. It works within a machine and on
    network file systems that pass ``flock`` on (NFS 4 does).
    """

    def __init__(self, folder: Path | str) -> None:
        self.path = Path(folder).absolute() / ".lock"
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock, or raise :class:`StudyLockedError` at once."""
        started = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.truncate(self._descriptor, 0)
            os.write(self._descriptor, f"process {os.getpid()} on {socket.gethostname()} since {started}\n".encode())
        except BlockingIOError:
            assert self._descriptor is not None
            holder = os.read(self._descriptor, 500).decode(errors="replace").strip() or "another process"
            self.release()
            raise StudyLockedError(
                f"{self.path.parent} is in use by {holder}; wait for it, stop it, or choose another --storage or --name"
            ) from None
        except OSError as error:
            self.release()
            raise write_error(self.path, error) from error

    def release(self) -> None:
        """Give the lock back; the file stays, since removing it would let two later holders in."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> StudyLock:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

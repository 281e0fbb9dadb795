"""A disk that loses what was not synced, gets full, and stops in the middle of a write.

Files are real ones, on a RAM disk where there is one. ``os.fsync``, ``os.replace`` and ``os.unlink`` are intercepted:
they are the moments at which a process may be killed, and an fsync is what makes content (of a file) and names (of a
folder) survive a loss of power. Until then each name in a folder may be the old or the new one, and a file may end in
zeros or too early.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

REAL = {name: getattr(os, name) for name in ("fsync", "replace", "unlink")}


class Disk:
    """The disk of one machine, below ``root``.

    Args:
        root: A folder of its own.
        rng: Draws what is lost.
        on_step: Called before and after each operation with its name; may raise Kill, or OSError before it.
    """

    def __init__(self, root: Path, rng: random.Random, on_step: Callable[[str], None]) -> None:
        self.root, self._rng, self._on_step = root, rng, on_step
        self._synced: dict[int, bytes] = {}  # content by inode
        self._safe: dict[str, tuple[int, bytes]] = {}  # inode and content by path: what power loss cannot take
        self._writes = 0
        root.mkdir(parents=True)

    def fsync(self, descriptor: int) -> None:
        """The file's content, or the folder's names, are safe."""
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            self._on_step("sync folder")
            self._sync_folder(path)
        else:
            try:
                self._on_step(f"sync {os.path.basename(path)}")
            except BaseException:
                self._tear(path, status.st_ino)
                raise
            self._writes += 1  # a coarse clock of the file system would hide changes from the mirror
            os.utime(path, ns=(self._writes * 1000, self._writes * 1000))
            content = Path(path).read_bytes()
            self._synced[status.st_ino] = content
            if self._safe.get(path, (0,))[0] == status.st_ino:
                self._safe[path] = (status.st_ino, content)
        self._on_step("synced")

    def replace(self, source: object, target: object) -> None:
        """Rename; not safe before the folder is synced."""
        self._on_step("rename")
        REAL["replace"](source, target)
        self._on_step("renamed")

    def unlink(self, path: object, **options: object) -> None:
        """Delete; not safe before the folder is synced."""
        self._on_step("delete")
        REAL["unlink"](path, **options)

    def lose_power(self) -> None:
        """Bring back one of the states that the disk may be in after a loss of power."""
        keep = self._rng.choice((0.0, 0.5, 1.0))  # probability that an operation that was not synced survived
        now = {str(p): p for p in self.root.rglob("*") if p.is_file()}
        for name in sorted({*now, *self._safe}):
            path = Path(name)
            if name in now and self._rng.random() < keep:
                content: bytes | None = self._torn(path.read_bytes(), self._synced.get(path.stat().st_ino, b""))
            else:
                content = self._safe[name][1] if name in self._safe else None
            path.unlink(missing_ok=True)
            if content is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
        self._synced.clear()
        self._safe.clear()
        for path in (p for p in self.root.rglob("*") if p.is_file()):
            self._synced[path.stat().st_ino] = path.read_bytes()
        for folder in (self.root, *(p for p in self.root.rglob("*") if p.is_dir())):
            self._sync_folder(str(folder))

    def erase(self) -> None:
        """The machine is gone and another one takes its place."""
        shutil.rmtree(self.root)
        self.root.mkdir()
        self._synced.clear()
        self._safe.clear()

    def _sync_folder(self, folder: str) -> None:
        for name in [n for n in self._safe if os.path.dirname(n) == folder]:
            del self._safe[name]
        for entry in os.scandir(folder):
            if entry.is_file():
                inode = entry.inode()
                self._safe[entry.path] = (inode, self._synced.get(inode, b""))

    def _tear(self, path: str, inode: int) -> None:
        """Part of what was written since the last sync has reached the disk."""
        before, size = len(self._synced.get(inode, b"")), os.path.getsize(path)
        if size > before:
            os.truncate(path, self._rng.randint(before, size))

    def _torn(self, content: bytes, synced: bytes) -> bytes:
        if content == synced:
            return content
        if not content.startswith(synced):
            return content if self._rng.random() < 0.5 else synced
        end = self._rng.randint(len(synced), len(content))
        zeros = len(content) - end if self._rng.random() < 0.3 else 0
        return content[:end] + bytes(zeros)


@contextmanager
def intercepted(current: Callable[[], Disk | None]) -> Iterator[None]:
    """Pass the operations of simulated processes to their disk, and those of everybody else through."""

    def wrap(name: str) -> Callable[..., None]:
        def call(*arguments: object, **options: object) -> None:
            disk = current()
            (getattr(disk, name) if disk is not None else REAL[name])(*arguments, **options)

        return call

    for name in REAL:
        setattr(os, name, wrap(name))
    try:
        yield
    finally:
        for name, function in REAL.items():
            setattr(os, name, function)


def full() -> OSError:
    """The error of a full disk."""
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

"""An object store in memory: atomic objects, a clock of its own, and answers that are slow, missing or lost."""

from __future__ import annotations

import io
import posixpath
from collections.abc import Callable
from pathlib import Path

from studies.errors import StudyError, StudyWriteError
from studies.storage.object_store import Store


class SimulatedStore(Store):
    """One part of the store as one process sees it.

    Args:
        objects: Content and time of writing by full name; shared by all.
        root: Prefix of this part.
        on_call: Called with (what, False) before each request and with (what, True) after a write. It may raise
            Kill, or OSError: the request, or only its answer, is lost.
        clock: The store's time.
        on_change: Called after an object was written or deleted, with its name below ``root``.
    """

    def __init__(
        self,
        objects: dict[str, tuple[bytes, float]],
        root: str,
        on_call: Callable[[str, bool], None],
        clock: Callable[[], float],
        on_change: Callable[[str], None],
    ) -> None:
        self.objects, self.root, self.uri = objects, root, f"sim://bucket/{root}"
        self.filesystem = self  # for Store.fetch, which is the real one
        self._on_call, self._clock, self._on_change = on_call, clock, on_change

    def below(self, name: str) -> SimulatedStore:
        """A part of it."""
        root = f"{self.root}/{name}"
        return SimulatedStore(self.objects, root, self._on_call, self._clock, self._on_change)

    def files(self) -> dict[str, int]:
        """See ``Store``."""
        self._call("list", StudyError)
        prefix = f"{self.root}/"
        return {n.removeprefix(prefix): len(c) for n, (c, _) in self.objects.items() if n.startswith(prefix)}

    def studies(self) -> list[str]:
        """See ``Store``."""
        names = (posixpath.split(name) for name in self.files())
        return sorted(folder for folder, name in names if name == "study.json" and "/" not in folder)

    def modified(self, name: str) -> float | None:
        """See ``Store``."""
        self._call(f"stat {name}", StudyError)
        found = self.objects.get(self._path(name))
        return None if found is None else found[1]

    def read(self, name: str) -> bytes | None:
        """See ``Store``."""
        self._call(f"read {name}", StudyError)
        found = self.objects.get(self._path(name))
        return None if found is None else found[0]

    def open_input_stream(self, path: str) -> io.BytesIO:
        """See ``pyarrow.fs.FileSystem``."""
        self._on_call(f"fetch {path.removeprefix(self.root + '/')}", False)
        if path not in self.objects:
            raise FileNotFoundError(path)
        return io.BytesIO(self.objects[path][0])

    def write(self, name: str, source: Path | bytes) -> None:
        """See ``Store``."""
        content = source if isinstance(source, bytes) else source.read_bytes()
        self._call(f"write {name}", StudyWriteError)
        self.objects[self._path(name)] = (content, self._clock())
        self._on_change(name)
        self._call(f"write {name}", StudyWriteError, answered=True)

    def delete(self, name: str) -> None:
        """See ``Store``."""
        self._call(f"delete {name}", StudyWriteError)
        if self.objects.pop(self._path(name), None) is not None:
            self._on_change(name)

    def delete_folder(self, name: str) -> None:
        """See ``Store``."""
        self._call(f"delete {name}/", StudyWriteError)
        for full in [n for n in self.objects if n.startswith(f"{self._path(name)}/")]:
            del self.objects[full]

    def _call(self, what: str, kind: type[StudyError], answered: bool = False) -> None:
        try:
            self._on_call(what, answered)
        except OSError as error:
            raise kind(f"cannot {what} in {self.uri}: {error}") from None

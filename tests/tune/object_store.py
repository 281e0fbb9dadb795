"""A local server that speaks S3 over HTTP, for tests that keep studies in it."""

from __future__ import annotations

import os
import shutil
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from moto.server import ThreadedMotoServer

from studies.errors import StudyError
from studies.storage.object_store import Store

SECRET_KEY = "Kq7-secret-key"


class Bucket:
    """A bucket of the server."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.options = f"?endpoint_override={address}&region=us-east-1"
        self._post("/runs", b"", "PUT")

    def uri(self, path: str = "") -> str:
        """``s3://runs/PATH?...``."""
        return f"s3://runs{path and f'/{path}'}{self.options}"

    def store(self, path: str = "") -> Store:
        """What lies there."""
        return Store.open(self.uri(path))

    def check_logins(self, yes: bool) -> None:
        """Whether the server refuses those whom it does not know (all of them)."""
        self._post("/moto-api/reset-auth", b"0" if yes else b"1000000000")

    def _post(self, path: str, content: bytes, method: str = "POST") -> None:
        request = urllib.request.Request(self.address + path, content, {"Content-Type": "text/plain"}, method=method)
        urllib.request.urlopen(request, timeout=30).close()

    def copy(self, path: str, folder: Path) -> Path:
        """A local copy of all that lies below ``path``, however it came there."""
        shutil.rmtree(folder, ignore_errors=True)
        store = self.store(path)
        for name in store.files():
            try:
                store.fetch(name, folder / name)
            except StudyError:  # a checkpoint of a running study that was deleted since
                if name in store.files():
                    raise
        return folder


@contextmanager
def bucket() -> Iterator[Bucket]:
    """Start the server; its credentials are in the environment meanwhile."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    before = dict(os.environ)
    os.environ |= {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
    try:
        yield Bucket("http://{}:{}".format(*server.get_host_and_port()))
    finally:
        server.stop()
        os.environ.clear()
        os.environ |= before

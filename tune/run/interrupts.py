"""Ctrl-C that cannot get lost while a study starts.

Python discards a ``KeyboardInterrupt`` that is raised inside a weak-reference callback or ``__del__``, and imports run
such callbacks all the time. :func:`noticed` remembers the signal, so that :func:`check` raises it again.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_received = False


def _remember(number: int, frame: FrameType | None) -> None:
    global _received
    _received = True
    raise KeyboardInterrupt


@contextmanager
def noticed() -> Iterator[None]:
    """Remember every Ctrl-C while the block runs. Does nothing outside the main thread or under another handler."""
    global _received
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGINT) not in (signal.default_int_handler, _remember):
        yield
        return
    before = signal.signal(signal.SIGINT, _remember)
    if before is not _remember:
        _received = False
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def install() -> None:
    """Remember every Ctrl-C from now on: for a script, before it imports anything else."""
    signal.signal(signal.SIGINT, _remember)


def check() -> None:
    """Raise ``KeyboardInterrupt`` if one was received earlier and discarded."""
    global _received
    if _received:
        _received = False
        raise KeyboardInterrupt

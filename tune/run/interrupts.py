"""Ctrl-C and SIGTERM that cannot get lost while a study starts.

Python discards a ``KeyboardInterrupt`` that is raised inside a weak-reference callback or ``__del__``, and imports run
such callbacks all the time. :func:`remember_signals` keeps the signal, so that :func:`check` raises it again.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
_received = False


def _remember(number: int, frame: FrameType | None) -> None:
    global _received
    _received = True
    raise KeyboardInterrupt


@contextmanager
def handle_signals(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Pass Ctrl-C and SIGTERM to ``handler`` while the block runs; changes nothing outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in SIGNALS}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


@contextmanager
def remember_signals() -> Iterator[None]:
    """Remember Ctrl-C and SIGTERM while the block runs; nothing outside the main thread or under another handler."""
    global _received
    before = signal.getsignal(signal.SIGINT)
    if before not in (signal.default_int_handler, _remember):
        yield
        return
    try:
        with handle_signals(_remember):
            yield
    finally:
        if before is not _remember:
            _received = False


def install() -> None:
    """Remember every Ctrl-C or SIGTERM from now on: for a script, before it imports anything else."""
    for number in SIGNALS:
        signal.signal(number, _remember)
    sys.excepthook = _report
    sys.unraisablehook = _report_unraisable


def reinstall() -> None:
    """Take SIGTERM back from Ray, whose ``init`` installs a handler that ends the process without a word."""
    if signal.getsignal(signal.SIGINT) is _remember and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _remember)


def _report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):  # during the script's imports, before anything can catch it
        print("interrupted", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


def _report_unraisable(found: sys.UnraisableHookArgs) -> None:
    if not issubclass(found.exc_type, KeyboardInterrupt):  # which check() raises again
        sys.__unraisablehook__(found)


def check() -> None:
    """Raise ``KeyboardInterrupt`` if a signal was received earlier and discarded."""
    global _received
    if _received:
        _received = False
        raise KeyboardInterrupt

"""Programs whose output is read by another one that may stop reading, such as ``| head``."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable


def quiet_when_cut_off(main: Callable[[], int]) -> int:
    """The exit code of ``main``; 0, without a traceback, when standard output was closed by its reader."""
    try:
        code = main()
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        discard_output()
        return 0
    except SystemExit as leaving:  # rich turns a broken pipe into SystemExit(1)
        if not isinstance(leaving.__context__, BrokenPipeError):
            raise
        discard_output()
        return 0


def discard_output() -> None:
    """Send standard output to the null device, so that Python's own flush at exit does not fail either."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):  # not a file, for example captured by a test
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (for the rest of the process)

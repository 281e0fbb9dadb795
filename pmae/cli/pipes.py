"""Exit quietly when the reader of standard output closes it, as ``| head`` does."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable


def exit_quietly_on_broken_pipe(main: Callable[[], int]) -> int:
    """Return the exit code of ``main``, or 0 if the reader of standard output has closed it."""
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
    """Send standard output to the null device, so that Python's flush at exit does not fail."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):  # not a file, for example captured by a test
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (for the rest of the process)

"""A study from Python: what the command line does, returning the study and raising instead of exiting."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from studies.errors import StudyError
from studies.records import Study, read_study
from tune.options import StudyOptions


def run_study(options: StudyOptions, *, on_event: Callable[[str], None] | None = None) -> Study:
    """Run a study and return it with its verdict.

    Args:
        options: Everything the command line offers; ``options.output.quiet`` silences the display.
        on_event: Called with each line of the display instead of printing it.

    Raises:
        ConfigError, DataError, StudyError: The options, the images or the storage cannot be used.
        SessionError: Ray does not start, or the cluster is not there.
        KeyboardInterrupt: The study was interrupted; everything finished is on record.
    """
    from tune.run.cli import run_options
    from tune.run.runner import FINISHED, INTERRUPTED

    code, folder = run_options(options, on_event=on_event)
    if code == INTERRUPTED:
        raise KeyboardInterrupt
    if code != FINISHED or folder is None:
        raise StudyError(f"the study stopped before its end (exit code {code}); its records are in {folder}")
    return read_study(Path(folder))

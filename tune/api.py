"""Run a study from Python: like the command line, but it returns the study and raises instead of exiting."""

from __future__ import annotations

from collections.abc import Callable

from studies.errors import StudyError
from studies.records import Study, read_study
from tune.options import StudyOptions


def run_study(options: StudyOptions, *, on_event: Callable[[str], None] | None = None) -> Study:
    """Run a study and return it with its verdict.

    Args:
        options: The options of the command line; ``options.output.quiet`` silences the display.
        on_event: Called with each line of the display instead of printing it.

    Raises:
        ConfigError, DataError, StudyError: The options, the images or the storage cannot be used, or
            (``StudyStoppedError``, with the command that resumes it) the study stopped before its end.
        SessionError: Ray cannot be started, or there is no cluster at the address.
        KeyboardInterrupt: The study was interrupted; everything that finished is on record.
    """
    from tune.run.runner import run

    folder = run(options, on_event=on_event)
    if folder is None:
        raise StudyError("output.dry_run prints the plan and runs no study; leave it out")
    return read_study(folder)

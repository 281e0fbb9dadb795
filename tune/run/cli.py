"""The command line of all study programs: options in, messages and an exit code out.

0 finished (whatever the verdict), 2 bad usage, 130 interrupted with everything saved, 1 anything else.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pmae.errors import ConfigError, DataError
from tune.options import StudyOptions, parse_options

if TYPE_CHECKING:
    from tune.search.confirm import ConfirmRule

FINISHED, FAILED, BAD_USAGE, INTERRUPTED = 0, 1, 2, 130
PROGRAM = "tune/masking_ratio_study.py"


def run_command(
    argv: Sequence[str],
    program: str,
    *,
    default: StudyOptions | None = None,
    metrics: str | None = None,
    rule: ConfirmRule | None = None,
) -> int:
    """Run the study that ``argv`` describes; returns the exit code.

    Args:
        argv: Command line without the program's name.
        program: Path of the script, for help and for commands that are shown.
        default: Default options of the study.
        metrics, rule: See ``tune.planning.plan.plan_study``.
    """
    from studies.errors import StudyError
    from tune.run.ray_session import SessionError

    try:
        options = parse_options(list(argv), f"python {program}", default)
        from tune.run.runner import StudyInterrupted, StudyStoppedError, run  # not for --help: it takes a second

        try:
            run(options, argv=list(argv), program=program, metrics=metrics, rule=rule)
        except StudyInterrupted:  # the command that resumes it is printed
            return INTERRUPTED
        except (StudyStoppedError, SessionError) as problem:
            return _fail(problem, FAILED)
    except SystemExit as leaving:  # --help, or options that cannot be read: tyro has printed why
        return leaving.code if isinstance(leaving.code, int) else BAD_USAGE
    except KeyboardInterrupt:
        return _fail("interrupted", INTERRUPTED)
    except (ConfigError, DataError, StudyError) as mistake:
        return _fail(mistake, BAD_USAGE)
    return FINISHED


def _fail(problem: Exception | str, code: int) -> int:
    print(f"error: {problem}" if isinstance(problem, Exception) else problem, file=sys.stderr)
    return code

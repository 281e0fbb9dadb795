"""The command line of all study programs: options in, messages and an exit code out.

0 finished (whatever the verdict), 2 bad usage, 130 interrupted with everything saved, 1 anything else.
"""

from __future__ import annotations

import itertools
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from pmae.cli.pipes import exit_quietly_on_broken_pipe
from pmae.errors import ConfigError, DataError
from tune.options import StudyOptions, parse_options
from tune.run import interrupts

FINISHED, FAILED, BAD_USAGE, INTERRUPTED = 0, 1, 2, 130


def run_command(argv: Sequence[str], default: StudyOptions) -> int:
    """Run the study that ``argv`` describes, as changes of ``default``; returns the exit code."""
    with interrupts.remember_signals():
        return exit_quietly_on_broken_pipe(lambda: _guarded(list(argv), default))


def _guarded(words: list[str], default: StudyOptions) -> int:
    try:
        from studies.errors import StudyError
        from tune.run.ray_session import SessionError

        options = parse_options(words, default)
        if any(word.partition("=")[0] == "--config" for word in words):  # the record does not depend on the file
            words = options.to_argv()
        from tune.run.runner import StudyInterrupted, StudyStoppedError, run  # not for --help: it takes a second

        try:
            run(options, words)
        except StudyInterrupted:  # the command that resumes it is printed
            return INTERRUPTED
        except (StudyStoppedError, SessionError) as problem:
            return _fail(f"error: {problem}", FAILED)
    except SystemExit as leaving:  # --help, or options that cannot be read: tyro has printed why
        if isinstance(leaving.__context__, BrokenPipeError):
            raise
        return leaving.code if isinstance(leaving.code, int) else BAD_USAGE
    except KeyboardInterrupt:
        return _fail("interrupted", INTERRUPTED)
    except (ConfigError, DataError, StudyError) as mistake:
        return _fail(f"error: {mistake}", BAD_USAGE)
    return FINISHED


def _fail(text: str, code: int) -> int:
    print(text, file=sys.stderr)
    return code


def rerun_words(words: Sequence[str]) -> tuple[str | None, list[str]]:
    """The question of the study in ``words[0]``, its ``study.json``, and the command line that starts it again.

    The new study has the same settings, and another name in the same storage unless ``words`` give them.
    """
    if not words or words[0].startswith("-"):
        raise ConfigError("rerun needs the study.json of a study, for example: pmae-study rerun runs/digits/study.json")
    path = Path(words[0]).expanduser().absolute()
    path = path / "study.json" if path.is_dir() else path
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        question, name = record.get("question"), record["name"]
        if not isinstance(record["options"], dict):
            raise TypeError
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise ConfigError(f"rerun: {path} is not the study.json of a study; give one, in the study's folder") from None
    rest = list(words[1:])
    asked = {word.partition("=")[0] for word in rest}
    storage = path.parent.parent
    if "--storage" not in asked:
        from studies.storage.object_store import is_uri  # imports pyarrow: not for --help

        began = shlex.split(record.get("command") or "")
        stored = [word for option, word in itertools.pairwise(began) if option == "--storage"]
        rest += ["--storage", next(filter(is_uri, stored), str(storage))]  # the folder is a working copy of a URI
    if "--name" not in asked:
        number = 2
        while (storage / f"{name}-{number}").exists():
            number += 1
        rest += ["--name", f"{name}-{number}"]
    return question, ["--config", str(path), *rest]

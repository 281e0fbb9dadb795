"""From the command line to an exit code: what all study programs share.

0 finished (whatever the verdict), 2 bad usage, 130 interrupted with everything saved, 1 anything else.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pmae.errors import ConfigError
from tune.options import StudyOptions, parse_options
from tune.run.ray_session import SessionError
from tune.run.runner import BAD_USAGE, FAILED, INTERRUPTED, Launch

if TYPE_CHECKING:
    from tune.planning.plan import StudyPlan
    from tune.search.confirm import ConfirmRule


PROGRAM = "tune/masking_ratio_study.py"
EXAMPLES = (
    "pmae-study --dataset digits",
    "pmae-study --dataset folder:PATH --image-size 32 --time-budget 2h",
    "pmae-study rerun runs/digits/study.json --seed 1",
)


def run_command(
    argv: Sequence[str],
    program: str,
    *,
    default: StudyOptions | None = None,
    metrics: str | None = None,
    rule: ConfirmRule | None = None,
    examples: Sequence[str] = EXAMPLES,
) -> int:
    """Read ``argv``, run the study it asks for, print what came out.

    Args:
        argv: Command line without the program's name.
        program: Path of the script, for help and for commands that are shown.
        default: Options of a study of another question.
        metrics, rule: See ``tune.planning.plan.plan_study``.
        examples: Commands that the help begins with.
    """
    words = list(argv)
    try:
        options = parse_options(words, f"python {program}", default, examples=examples)
        if any(word.partition("=")[0] == "--config" for word in words):  # the record does not depend on the file
            words = options.to_argv()
        return run_options(options, argv=words, program=program, metrics=metrics, rule=rule)[0]
    except SystemExit as leaving:  # --help, or options that cannot be read: tyro has said why
        return leaving.code if isinstance(leaving.code, int) else BAD_USAGE
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except ValueError as mistake:
        if not _is_ours(mistake):
            raise
        print(f"error: {mistake}", file=sys.stderr)
        return BAD_USAGE
    except SessionError as problem:
        print(f"error: {problem}", file=sys.stderr)
        return FAILED


def _is_ours(error: ValueError) -> bool:
    from pmae.errors import DataError
    from studies.errors import StudyError

    return isinstance(error, (ConfigError, DataError, StudyError))


def rerun_words(words: Sequence[str]) -> tuple[str | None, list[str]]:
    """The question of the study in ``words[0]``, its ``study.json``, and the command line that starts it again.

    The new study has the same settings, and another name in the same storage unless ``words`` give them.

    Raises:
        ConfigError: There is no such file, or it is not a study's.
    """
    path = Path(words[0]).expanduser().absolute() if words and not words[0].startswith("-") else None
    if path is None:
        raise ConfigError("rerun needs the study.json of a study, for example: pmae-study rerun runs/digits/study.json")
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
        rest += ["--storage", str(storage)]
    if "--name" not in asked:
        numbers = itertools.count(2)
        rest += ["--name", next(n for i in numbers if not (storage / (n := f"{name}-{i}")).exists())]
    return question, ["--config", str(path), *rest]


def run_options(
    options: StudyOptions,
    *,
    argv: list[str] | None = None,
    program: str = PROGRAM,
    metrics: str | None = None,
    rule: ConfirmRule | None = None,
    on_event: Callable[[str], None] | None = None,
) -> tuple[int, Path | None]:
    """Run the study that ``options`` ask for; returns the exit code and the study's folder.

    Args:
        options: What is asked for.
        argv: The command line that they were read from; None is worked out from the options.
        program, metrics, rule: As for :func:`run_command`.
        on_event: Called with each line instead of printing it.
    """
    from studies.storage.object_store import is_uri
    from tune.storage.location import Storage

    options = options.with_file()
    argv = options.to_argv() if argv is None else argv
    dry, place = options.output.dry_run, options.storage.storage
    # Fail early on an unusable storage; create the study folder only after everything else has been validated.
    storage = None if dry or not (options.storage.resume or is_uri(place)) else Storage.open(place)
    if options.storage.resume and storage is not None:
        folder, record = storage.existing(options.storage.name)
        options = _as_stored(argv, program, options, record)
    else:
        record, folder = None, None
        options = options.normalized()

    if options.machine.address is not None and not dry:
        storage = storage or Storage.open(place)
        storage.share_cache()
    from tune.planning.plan import plan_study, splits_present
    from tune.run.display import Display

    display = Display(options.output.quiet, on_event)
    plan = plan_study(options, metrics=metrics, rule=rule, progress=not options.output.quiet and sys.stderr.isatty())
    splits_present(plan.images)
    if record is not None:
        plan = dataclasses.replace(plan, name=record["name"], seeds=tuple(record["phases"]["confirm"]["seeds"]))
        _check_same_images(plan, record)
    elif not dry:
        storage = storage or Storage.open(place)
        folder = storage.new(plan.name)
    run = Launch(plan, display, argv, program, storage, folder, record)
    if options.machine.address is not None:
        return run.on_cluster(options.machine.address), folder
    return run.here(), folder


def _as_stored(argv: list[str], program: str, options: StudyOptions, record: dict[str, Any]) -> StudyOptions:
    """The study's own options, overridden by what is given on the command line, which must then be the same."""
    stored = record.get("options", {})
    given = parse_options(argv, f"python {program}", options.with_study(stored), pairs=True).normalized()
    differences = given.differences(stored)
    if differences:
        raise ConfigError(
            f"--resume: the study {record['name']!r} had other settings: {'; '.join(differences)}; "
            "leave them out, or start a new study under another --name"
        )
    return given


def _check_same_images(plan: StudyPlan, record: dict[str, Any]) -> None:
    then, now = record["dataset"]["fingerprint"], plan.images.fingerprint
    if then != now:
        raise ConfigError(
            f"--resume: the images of {record['dataset']['source']} are not those that the study began with "
            f"(fingerprint {now[:12]}, then {then[:12]}); bring them back, or start a new study under another --name"
        )

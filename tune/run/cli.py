"""From the command line to an exit code: what all study programs share.

0 finished (whatever the verdict), 2 bad usage, 130 interrupted with everything saved, 1 anything else.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pmae.cli.pipes import quiet_when_cut_off
from pmae.errors import ConfigError
from tune.options import StudyOptions, parse_options
from tune.run import interrupts
from tune.run.ray_session import SessionError, cluster_address
from tune.run.runner import BAD_USAGE, FAILED, INTERRUPTED, Launch

if TYPE_CHECKING:
    from tune.planning.plan import StudyPlan
    from tune.search.confirm import ConfirmRule


PROGRAM = "tune/masking_ratio_study.py"


def run_command(
    argv: Sequence[str],
    program: str,
    *,
    default: StudyOptions | None = None,
    metrics: str | None = None,
    rule: ConfirmRule | None = None,
) -> int:
    """Read ``argv``, run the study it asks for, print what came out.

    Args:
        argv: Command line without the program's name.
        program: Path of the script, for help and for commands that are shown.
        default: Options of a study of another question.
        metrics, rule: See ``tune.planning.plan.plan_study``.
    """
    with interrupts.noticed():
        return quiet_when_cut_off(lambda: _guarded(list(argv), program, default, metrics, rule))


def _guarded(
    argv: list[str], program: str, default: StudyOptions | None, metrics: str | None, rule: ConfirmRule | None
) -> int:
    try:
        return _run(argv, program, default, metrics, rule)
    except SystemExit as leaving:  # --help, or options that cannot be read: tyro has said why
        if isinstance(leaving.__context__, BrokenPipeError):
            raise
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


def _run(
    argv: list[str], program: str, default: StudyOptions | None, metrics: str | None, rule: ConfirmRule | None
) -> int:
    options = parse_options(argv, f"python {program}", default)
    return run_options(options, argv=argv, program=program, metrics=metrics, rule=rule)[0]


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
    from tune.planning.check import check_options
    from tune.storage.location import Storage

    check_options(options)
    if options.machine.address is not None:
        cluster_address(options.machine.address)
    argv = options.to_argv() if argv is None else argv
    dry, place = options.output.dry_run, options.storage.storage
    # Fail early on an unusable storage; create the study folder only after everything else has been validated.
    # A dry run refuses what a run refuses, and writes nothing.
    early = dry or options.storage.resume or is_uri(place)
    storage = Storage.open(place, create=not dry) if early else None
    if options.storage.resume and storage is not None:
        folder, record = storage.existing(options.storage.name)
        options = _as_stored(argv, program, options, record)
    else:
        record, folder = None, None
        options = options.normalised()

    if options.machine.address is not None and not dry:
        storage = storage or Storage.open(place)
        storage.share_cache()
    from tune.planning.plan import plan_study, splits_present
    from tune.run.display import Display

    display = Display(options.output.quiet, on_event)
    interrupts.check()
    plan = plan_study(options, metrics=metrics, rule=rule, progress=not options.output.quiet and sys.stderr.isatty())
    splits_present(plan.images)
    interrupts.check()
    if record is not None:
        plan = dataclasses.replace(plan, name=record["name"], seeds=tuple(record["phases"]["confirm"]["seeds"]))
        _check_same_images(plan, record)
    else:
        storage = storage or Storage.open(place)
        folder = storage.new(plan.name)
    if dry:
        storage = folder = None
    run = Launch(plan, display, argv, program, storage, folder, record)
    if options.machine.address is not None:
        return run.on_cluster(options.machine.address), folder
    return run.here(), folder


def _as_stored(argv: list[str], program: str, options: StudyOptions, record: dict[str, Any]) -> StudyOptions:
    """The study's own options, overridden by what is given on the command line, which must then be the same."""
    stored = record.get("options", {})
    given = parse_options(argv, f"python {program}", options.with_study(stored), pairs=True).normalised()
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

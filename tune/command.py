"""From the command line to an exit code: what all study programs share.

0 finished (whatever the verdict), 2 bad usage, 130 interrupted with everything saved, 1 anything else.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pmae.errors import ConfigError
from tune.options import StudyOptions, parse_options
from tune.session import SessionError

if TYPE_CHECKING:
    from tune.confirm import ConfirmRule
    from tune.plan import StudyPlan
    from tune.progress import Display
    from tune.resources import Machine, Placement

FINISHED, FAILED, BAD_USAGE, INTERRUPTED = 0, 1, 2, 130


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
        metrics, rule: See ``tune.plan.plan_study``.
    """
    try:
        return _run(list(argv), program, default, metrics, rule)
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


def _run(
    argv: list[str], program: str, default: StudyOptions | None, metrics: str | None, rule: ConfirmRule | None
) -> int:
    options = parse_options(argv, f"python {program}", default)
    from tune.folder import existing_folder, new_folder, share_cache, storage_path

    if options.storage.resume and not options.output.dry_run:
        storage = storage_path(options.storage.storage)
        folder, record = existing_folder(storage, options.storage.name)
        options = _as_stored(argv, program, options, record)
    else:
        record, storage, folder = None, None, None
        options = options.normalised()

    if options.machine.address is not None and not options.output.dry_run:
        share_cache(options.storage.storage)
    from tune.plan import plan_study, splits_present
    from tune.progress import Display

    display = Display(options.output.quiet)
    plan = plan_study(options, metrics=metrics, rule=rule, progress=not options.output.quiet and sys.stderr.isatty())
    splits_present(plan.images)
    if record is not None:
        plan = dataclasses.replace(plan, name=record["name"])
        _check_same_images(plan, record)
    elif storage is None and not options.output.dry_run:
        storage = storage_path(options.storage.storage)
        folder = new_folder(storage, plan.name)
    run = Launch(plan, display, argv, program, folder, record)
    if options.machine.address is not None:
        return run.on_cluster(options.machine.address)
    return run.here()


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


class Launch:
    """A planned study about to run: works out what fits, says so, runs it, reports."""

    def __init__(
        self,
        plan: StudyPlan,
        display: Display,
        argv: list[str],
        program: str,
        folder: Path | None,
        record: dict[str, Any] | None,
    ) -> None:
        self.plan, self.display, self.argv, self.program = plan, display, argv, program
        self.folder, self.record = folder, record

    def here(self) -> int:
        """Run on this machine with a Ray of its own."""
        from tune.resources import Machine, cpu_count

        placement = self._place(Machine.here())
        if self.plan.options.output.dry_run:
            return FINISHED
        with self._locked():
            return self._in_session(None, cpu_count(), placement)

    def on_cluster(self, address: str) -> int:
        """Join a running cluster."""
        if self.plan.options.output.dry_run:
            from tune.session import ray_session

            with ray_session(address, 0, False) as session:
                self._place(_cluster(session.resources))
            return FINISHED
        with self._locked():
            return self._in_session(address, 0, None)

    def _place(self, machine: Machine) -> Placement:
        from tune.describe import describe_plan
        from tune.resources import place, trial_memory

        configs = [self.plan.config(s) for s in self.plan.space.grid()]
        memory = max(trial_memory(c, self.plan.images.images.nbytes) for c in configs)
        placement = place(machine, self.plan.options.machine, self.plan.trials, memory)
        title, rows = describe_plan(self.plan, placement, machine, self.folder)
        self.display.plan(title, rows, self.plan.warnings)
        return placement

    def _locked(self) -> Any:
        from studies.lock import StudyLock

        assert self.folder is not None
        return StudyLock(self.folder)

    def _in_session(self, address: str | None, cpus: int, placement: Placement | None) -> int:
        from tune.driver import prepare_components
        from tune.session import ray_session, token_path, warm_up

        options = self.plan.options.machine
        with ray_session(address, cpus, options.dashboard) as session:
            if placement is None:
                placement = self._place(_cluster(session.resources))
            if not placement.gpus:  # which GPU a process sees is settled when it first looks for one
                warm_up(placement.concurrent * placement.workers, placement.threads)
            processes = int(session.resources.get("CPU", 1)) if session.joined else 1
            prepare_components(self.plan, self.display, processes)
            if session.dashboard_url:
                self.display.always(f"dashboard: {session.dashboard_url} (its access token lies in {token_path()})")
            return self._study(placement, gauges=options.dashboard or session.joined)

    def _study(self, placement: Placement, gauges: bool) -> int:
        from studies.errors import StudyWriteError
        from studies.records import StudyWriter
        from tune.driver import StudyRun
        from tune.outcome import finish, settled

        assert self.folder is not None
        folder = self.folder
        record = self._write_record(placement)
        confirm = self.plan.options.confirm
        with StudyWriter(folder, self.plan.name) as writer:
            run = StudyRun(
                self.plan,
                self._job(placement, gauges),
                placement,
                record["resources"]["lag"],
                writer,
                self.display,
                settled=(lambda rounds: settled(writer, confirm, rounds)) if confirm.until_settled else None,
            )
            try:
                run.run()
            except (StudyWriteError, OSError) as problem:
                print(f"error: {problem}\nresume with: {self._resume_command()}", file=sys.stderr)
                return FAILED
        complete = not run.interrupted
        commands = {"resume": self._resume_command(), "more": self._more_command()}
        finish(folder, self.plan, self.display, rounds=run.rounds, complete=complete, **commands)
        return INTERRUPTED if run.interrupted else FINISHED

    def _write_record(self, placement: Placement) -> dict[str, Any]:
        from studies.files import write_json
        from tune.plan import study_record
        from tune.progress import now

        assert self.folder is not None
        resources = {**placement.to_dict(), "lag": 2 * placement.concurrent}
        created = now()
        if self.record is not None:  # how far the search looks back is part of what a study finds
            resources["lag"] = self.record["resources"]["lag"]
            created = self.record["created_at"]
        record = study_record(self.plan, self._command(), created, resources)
        write_json(self.folder / "study.json", record)
        return record

    def _job(self, placement: Placement, gauges: bool) -> Any:
        from tune.plan import code_version, versions
        from tune.spec import TrialJob

        return TrialJob(
            folder=str(self.folder),
            dataset=self.plan.images.name,
            skip_unreadable=self.plan.options.data.skip_unreadable,
            threads=placement.threads,
            workers=placement.workers,
            gpus=placement.gpus,
            timeout=self.plan.options.machine.trial_timeout,
            metrics=self.plan.metrics,
            code_version=code_version(),
            versions=versions(),
            gauges=gauges,
        )

    def _command(self) -> str:
        """What began the study: of a resumed one its first command, for the resuming one leaves settings out."""
        from tune.folder import command_line

        if self.record is not None:
            return str(self.record["command"])
        return command_line([a for a in self.argv if a != "--resume"], self.program)

    def _more_command(self) -> str:
        import shlex

        from tune.folder import without_options

        return shlex.join(without_options(shlex.split(self._command()), ("--name", "--confirm-seeds")))

    def _resume_command(self) -> str:
        from tune.folder import command_line

        return command_line(self.argv, self.program, {"--name": self.plan.name, "--resume": None})


def _cluster(resources: dict[str, float]) -> Machine:
    from tune.resources import Machine

    return Machine.cluster(resources)

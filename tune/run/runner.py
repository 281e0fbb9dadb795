"""Run a study: plan it, compute its placement, start Ray, run its trials, judge it.

``run_study`` is the same for Python. What goes wrong is raised; ``tune.run.cli`` maps it to messages and exit codes.
"""

from __future__ import annotations

import dataclasses
import datetime
import os
import queue
import shlex
import sys
import time
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from pmae.data.decode import available_cpus
from pmae.errors import ConfigError
from studies.errors import StudyError, StudyLockedError, StudyWriteError
from studies.records import Study, StudyWriter, read_study
from studies.storage.atomic import write_json
from studies.storage.object_store import Store, without_secrets
from studies.storage.rows import StudyRecord
from tune.options import StudyOptions, parse_options
from tune.planning.check import check_options
from tune.planning.describe import describe_plan, fit_to_budget
from tune.planning.placement import Machine, Placement, compute_placement, trial_memory, worker_range
from tune.planning.plan import StudyPlan, code_version, plan_study, study_record, versions
from tune.run import interrupts
from tune.run.display import Display
from tune.run.ray_session import RayLostError, cluster_address, ray_session, token_path
from tune.storage.location import Storage
from tune.trial.spec import TrialJob

NOT_REPEATED = ("--name", "--confirm-seeds", "--look", "--time-budget", "--seed")  # set again by the suggested command


class StudyInterrupted(KeyboardInterrupt):
    """The user interrupted the study; all that has ended is on record."""


class StudyStoppedError(StudyError):
    """Something ended the study before its time; the message ends with the command that resumes it."""


@dataclass(frozen=True)
class Invocation:
    """How a study was started, and the commands that follow from it."""

    argv: list[str]
    program: str  # path of the script, in commands that are shown
    record: StudyRecord | None  # study.json of a study that resumes

    @property
    def command(self) -> str:
        """The command that started the study first; the one that resumes it leaves settings out."""
        if self.record is not None:
            return self.record["command"]
        return command_line([word for word in self.argv if word != "--resume"], self.program)

    @property
    def more(self) -> str:
        """:attr:`command` without name and seeds, for another study."""
        return shlex.join(without_options(shlex.split(self.command), NOT_REPEATED))

    def resume(self, name: str) -> str:
        """The command that resumes the study, which is called ``name``."""
        given = {word.partition("=")[0] for word in self.argv}
        words = self.argv if "--name" in given else [*self.argv, "--name", name]
        return command_line(words if "--resume" in given else [*words, "--resume"], self.program)


def command_line(argv: Sequence[str], program: str) -> str:
    """The shell command that runs ``program`` with ``argv``, without the passwords and tokens in its URLs."""
    return shlex.join(["python", program, *map(without_secrets, argv)])


def without_options(argv: Sequence[str], options: Collection[str]) -> list[str]:
    """``argv`` without ``options``, each with one value, given as ``--name X`` or ``--name=X``."""
    kept, words = [], iter(argv)
    for word in words:
        if word in options:
            next(words, None)
        elif word.partition("=")[0] not in options:
            kept.append(word)
    return kept


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
    folder = run(options, on_event=on_event)
    if folder is None:
        raise StudyError("output.dry_run prints the plan and runs no study; leave it out")
    return read_study(folder)


def run(
    options: StudyOptions, argv: list[str] | None = None, on_event: Callable[[str], None] | None = None
) -> Path | None:
    """Run a study as :func:`run_study` does; returns its folder, None after a dry run. ``argv`` gave the options."""
    options = options.with_file()
    check_options(options)
    if options.machine.address is not None:
        cluster_address(options.machine.address)
    argv = options.to_argv() if argv is None else argv
    dry, address = options.output.dry_run, options.machine.address
    storage = Storage.open(options.storage.storage, write=not dry)  # a dry run refuses what a run refuses
    folder, record = None, None
    if options.storage.resume:
        folder, record = storage.find_study(options.storage.name)
        options = _stored_options(argv, options, record)
    else:
        options = options.with_absolute_paths()
    if not dry and address is not None and storage.store is None:
        # Decode images and fit components once, where every node sees them.
        os.environ.setdefault("PMAE_CACHE", str(storage.root / ".cache"))
    display = Display(options.output.quiet, options.output.verbose or dry, on_event)
    interrupts.check()
    plan = plan_study(options, progress=not options.output.quiet and sys.stderr.isatty())
    interrupts.check()
    if record is not None:
        plan = dataclasses.replace(plan, name=record["name"], seeds=tuple(record["phases"]["confirm"]["seeds"]))
        _check_same_images(plan, record)
    folder = folder or storage.new(plan.name)
    if not dry:
        _run_study(plan, display, Invocation(argv, options.program, record), storage, folder)
        return folder
    if address is None:
        _place(plan, display, Machine.here(), record, None)
    else:
        with ray_session(address, 0, False) as session:
            _place(plan, display, Machine.cluster(session.resources), record, None)
    return None


def _stored_options(argv: list[str], options: StudyOptions, record: StudyRecord) -> StudyOptions:
    """The options that the study had; those of ``argv`` must be equal, but for those of the machine."""
    if record.get("question") != options.question:
        asked = record.get("question") or "which share should be masked, with which patches?"
        raise ConfigError(
            f"--resume: the study {record['name']!r} asks another question ({asked}); resume it with the command that "
            f"began it: {record['command']}"
        )
    had = record["resources"]
    workers, least = had.get("workers", 1), had.get("least_workers")
    shared_by = str(workers) if least is None else f"{least}-{workers}"
    gpus = had.get("gpus") if workers == 1 else None
    machine = dataclasses.replace(
        options.machine, workers_per_trial=shared_by, gpus_per_trial=gpus, trial_timeout=had.get("trial_timeout")
    )
    options = dataclasses.replace(options, machine=machine)  # what ``argv`` names is taken from there
    given = parse_options(argv, options.with_study(record["options"]), pairs=True).with_absolute_paths()
    differences = given.differences(record["options"])
    if differences:
        raise ConfigError(
            f"--resume: the study {record['name']!r} had other settings: {'; '.join(differences)}; "
            "leave them out, or start a new study under another --name"
        )
    return given


def _check_same_images(plan: StudyPlan, record: StudyRecord) -> None:
    stored, current = record["dataset"]["fingerprint"], plan.images.fingerprint
    if stored != current:
        raise ConfigError(
            f"--resume: the images of {record['dataset']['source']} have changed since the study began "
            f"(fingerprint {current[:12]}, was {stored[:12]}); restore them, or start a new study under another --name"
        )


def _place(
    plan: StudyPlan, display: Display, machine: Machine, record: StudyRecord | None, where: str | None
) -> tuple[StudyPlan, Placement]:
    """Fit the study on ``machine`` and print the plan; returns it with the seeds that ``--time-budget`` allows."""
    configs = [plan.config(s) for s in plan.space.grid()]
    memory = max(trial_memory(c, plan.images.images.nbytes) for c in configs)
    trials = max(plan.trials, plan.max_confirm_trials)
    threads = None if record is None else record["resources"].get("threads")
    placement = compute_placement(machine, plan.options.machine, trials, memory, explored=plan.trials, threads=threads)
    if record is None:
        plan = fit_to_budget(plan, placement)
    else:  # the lag is part of what a study finds
        placement = dataclasses.replace(placement, lag=record["resources"]["lag"])
    summary, rows = describe_plan(plan, placement, machine, where)
    display.print_plan(summary, rows, plan.warnings)
    return plan, placement


def _run_study(plan: StudyPlan, display: Display, invocation: Invocation, storage: Storage, folder: Path) -> None:
    machine, record, where = plan.options.machine, invocation.record, storage.describe_location(folder)
    problems: queue.SimpleQueue[Exception] = queue.SimpleQueue()
    resume = invocation.resume(plan.name)

    def last_words(problem: RayLostError) -> None:  # the process ends here: nobody is left to catch an exception
        print(f"error: {_stopped(problem, resume)}", file=sys.stderr, flush=True)

    placement = None
    if machine.address is None:
        plan, placement = _place(plan, display, Machine.here(), record, where)
    cpus = available_cpus() if machine.address is None else 0
    shared = machine.address is not None and worker_range(machine.workers_per_trial)[1] > 1
    with (
        storage.hold(folder, display.warn, problems.put, shared) as mirror,
        ray_session(machine.address, cpus, machine.dashboard, problems.put, last_words, plan.name) as session,
    ):
        if placement is None:
            plan, placement = _place(plan, display, Machine.cluster(session.resources), record, where)
        started = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        created = started if record is None else record["created_at"]
        resources = {**dataclasses.asdict(placement), "trial_timeout": machine.trial_timeout}
        write_json(folder / "study.json", study_record(plan, invocation.command, created, resources))
        if mirror is not None:
            mirror.start()
        from tune.run.driver import StudyDriver  # imports torch: by now it is known that Ray is there

        _fit_components(plan, display)
        interrupts.check()
        if session.dashboard_url:
            text = f"dashboard: {session.dashboard_url} (its access token is in {token_path()})"
            display.print_always(text, unbroken=True)
        remote_store = mirror.store if mirror is not None and session.joined else None
        job = _trial_job(plan, placement, folder, machine.dashboard or session.joined, remote_store)
        access: AbstractContextManager[TrialJob] = nullcontext(job)
        if remote_store is not None:
            from tune.trial.remote_folder import exchange  # imports timm

            access = exchange(job)
        with _add_resume_command(resume), access as job, StudyWriter(folder, plan.name) as writer:
            complete = StudyDriver(plan, job, placement, writer, display, problems, mirror).run()
        from tune.run.finalize import finish  # plotting takes seconds to import: not before the first trial

        finish(folder, plan, display, complete=complete, resume=resume, more=invocation.more)
        if mirror is not None:
            try:
                mirror.finish()
            except StudyError as problem:
                raise _stopped(f"{problem}; the complete study is in {folder}", resume) from problem
            display.print_always(f"stored:  {mirror.store.uri}", unbroken=True)
    if not complete:
        raise StudyInterrupted


@contextmanager
def _add_resume_command(resume: str) -> Iterator[None]:
    """Add the command that resumes the study to errors that stop it."""
    try:
        yield
    except BrokenPipeError:
        print(f"stopped: the output was closed\nresume with: {resume}", file=sys.stderr)
        raise
    except (StudyWriteError, StudyLockedError, RayLostError, OSError) as problem:
        raise _stopped(problem, resume) from problem


def _fit_components(plan: StudyPlan, display: Display) -> None:
    from pmae.components import cached_components

    for basis in plan.space.bases if "pmae" in plan.space.methods else ():
        started = time.perf_counter()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*carry no variance")  # the plan warns of it
            components, how = cached_components(plan.images, basis)
        share = components.explained_variance_ratio
        display.print_detail(
            f"  {basis} components {how} ({len(share)}, the first explains {100 * share[0]:.0f} % of the variance, "
            f"{time.perf_counter() - started:.1f} s)"
        )


def _stopped(problem: Exception | str, resume: str) -> StudyStoppedError:
    return StudyStoppedError(f"{problem}\nresume with: {resume}")


def _trial_job(plan: StudyPlan, placement: Placement, folder: Path, gauges: bool, store: Store | None) -> TrialJob:
    """What trials share; ``store`` is the study's object store if nodes see no common folder."""
    return TrialJob(
        folder=str(folder),
        dataset=plan.images.name,
        skip_unreadable=plan.options.data.skip_unreadable,
        threads=placement.threads,
        workers=placement.workers,
        least_workers=placement.least_workers,
        gpus=placement.gpus,
        timeout=plan.options.machine.trial_timeout,
        metrics=plan.options.metrics,
        code_version=code_version(),
        versions=versions(),
        gauges=gauges,
        checkpoint_uri=None if store is None else store.below("checkpoints").uri,
    )

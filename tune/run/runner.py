"""A planned study about to run: what fits is worked out and said, the study is run, its end told.

Exit codes are those of ``tune.run.cli``, which reads the command line.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tune.planning.placement import Machine, Placement
    from tune.planning.plan import StudyPlan
    from tune.run.display import Display
    from tune.storage.location import Storage
    from tune.storage.mirror import Mirror
    from tune.trial.spec import TrialJob

# Options that the command to try next sets anew.
NOT_REPEATED = ("--name", "--confirm-seeds", "--look", "--time-budget", "--seed")
FINISHED, FAILED, BAD_USAGE, INTERRUPTED = 0, 1, 2, 130


class Launch:
    """A planned study about to run: works out what fits, says so, runs it, reports."""

    def __init__(
        self,
        plan: StudyPlan,
        display: Display,
        argv: list[str],
        program: str,
        storage: Storage | None,
        folder: Path | None,
        record: dict[str, Any] | None,
    ) -> None:
        self.plan, self.display, self.argv, self.program = plan, display, argv, program
        self.storage, self.folder, self.record = storage, folder, record
        self.mirror: Mirror | None = None

    def here(self) -> int:
        """Run on this machine with a Ray of its own."""
        from tune.planning.placement import Machine, cpu_count

        placement = self._place(Machine.here())
        if self.plan.options.output.dry_run:
            return FINISHED
        with self._held():
            return self._in_session(None, cpu_count(), placement)

    def on_cluster(self, address: str) -> int:
        """Join a running cluster."""
        if self.plan.options.output.dry_run:
            from tune.run.ray_session import ray_session

            with ray_session(address, 0, False) as session:
                self._place(_cluster(session.resources))
            return FINISHED
        with self._held():
            return self._in_session(address, 0, None)

    def _place(self, machine: Machine) -> Placement:
        from tune.planning.describe import describe_plan, fit_to_budget
        from tune.planning.placement import place, trial_memory

        configs = [self.plan.config(s) for s in self.plan.space.grid()]
        memory = max(trial_memory(c, self.plan.images.images.nbytes) for c in configs)
        placement = place(machine, self.plan.options.machine, max(self.plan.trials, len(configs)), memory)
        if self.record is None:
            self.plan = fit_to_budget(self.plan, placement)
        title, rows = describe_plan(self.plan, placement, machine, self._place_on_disk())
        self.display.plan(title, rows, self.plan.warnings)
        return placement

    def _place_on_disk(self) -> str | None:
        return None if self.storage is None or self.folder is None else self.storage.place(self.folder)

    @contextmanager
    def _held(self) -> Iterator[None]:
        """The study is this process's while the block runs."""
        assert self.storage is not None and self.folder is not None
        from tune.planning.placement import worker_range

        machine = self.plan.options.machine
        shared = machine.address is not None and worker_range(machine.workers_per_trial)[1] > 1
        with self.storage.held(self.folder, self.display.warn, shared) as self.mirror:
            yield

    def _in_session(self, address: str | None, cpus: int, placement: Placement | None) -> int:
        from tune.run import interrupts
        from tune.run.ray_session import ray_session, token_path

        options = self.plan.options.machine
        with ray_session(address, cpus, options.dashboard) as session:
            if placement is None:
                placement = self._place(_cluster(session.resources))
            from tune.run.driver import prepare_components  # brings torch: a Ray that is not there is told before

            # Without a folder that all nodes see, the images are here.
            spread = session.joined and self.mirror is None
            processes = int(session.resources.get("CPU", 1)) if spread else 1
            prepare_components(self.plan, self.display, processes)
            interrupts.check()
            if session.dashboard_url:
                self.display.always(f"dashboard: {session.dashboard_url} (its access token lies in {token_path()})")
            with self._job(placement, gauges=options.dashboard or session.joined, joined=session.joined) as job:
                return self._study(placement, job)

    def _study(self, placement: Placement, job: TrialJob) -> int:
        from studies.errors import StudyError, StudyLockedError, StudyWriteError
        from studies.records import StudyWriter
        from tune.run.driver import StudyRun

        assert self.folder is not None
        folder = self.folder
        record = self._write_record(placement)
        if self.mirror is not None:
            self.mirror.start()
        with StudyWriter(folder, self.plan.name) as writer:
            run = StudyRun(
                self.plan,
                job,
                placement,
                record["resources"]["lag"],
                writer,
                self.display,
                mirror=self.mirror,
            )
            try:
                run.run()
            except BrokenPipeError:
                print(f"stopped: nobody reads the output\nresume with: {self._resume_command()}", file=sys.stderr)
                raise
            except (StudyWriteError, StudyLockedError, OSError) as problem:
                return self._failed(problem)
        from tune.run.finalize import (
            finish,  # figures and statistics take seconds to import: not before the first trial
        )

        complete = not run.interrupted
        commands = {"resume": self._resume_command(), "more": self._more_command()}
        finish(folder, self.plan, self.display, complete=complete, **commands)
        if self.mirror is not None:
            try:
                self.mirror.finish()
            except StudyError as problem:
                return self._failed(f"{problem}; all of the study lies in {folder}")
            self.display.always(f"stored:  {self.mirror.store.uri}")
        return INTERRUPTED if run.interrupted else FINISHED

    def _failed(self, problem: Exception | str) -> int:
        print(f"error: {problem}\nresume with: {self._resume_command()}", file=sys.stderr)
        return FAILED

    def _write_record(self, placement: Placement) -> dict[str, Any]:
        from studies.storage.atomic import write_json
        from tune.planning.plan import study_record
        from tune.run.display import now

        assert self.folder is not None
        resources = {**placement.to_dict(), "lag": placement.concurrent}
        created = now()
        if self.record is not None:  # how far the search looks back is part of what a study finds
            resources["lag"] = self.record["resources"]["lag"]
            created = self.record["created_at"]
        record = study_record(self.plan, self._command(), created, resources)
        write_json(self.folder / "study.json", record)
        return record

    @contextmanager
    def _job(self, placement: Placement, gauges: bool, joined: bool) -> Iterator[TrialJob]:
        """What trials share; where nodes see no common folder, with an actor that stands in for it."""
        from tune.planning.plan import code_version, versions
        from tune.trial.spec import TrialJob

        apart = self.mirror.store if self.mirror is not None and joined else None
        job = TrialJob(
            folder=str(self.folder),
            dataset=self.plan.images.name,
            skip_unreadable=self.plan.options.data.skip_unreadable,
            threads=placement.threads,
            workers=placement.workers,
            least_workers=placement.least_workers,
            gpus=placement.gpus,
            timeout=self.plan.options.machine.trial_timeout,
            metrics=self.plan.metrics,
            code_version=code_version(),
            versions=versions(),
            gauges=gauges,
            checkpoint_uri=None if apart is None else apart.below("checkpoints").uri,
        )
        if apart is None:
            yield job
            return
        from tune.trial.remote_folder import exchange

        with exchange(job) as job:
            yield job

    def _command(self) -> str:
        """What began the study: of a resumed one its first command, for the resuming one leaves settings out."""
        from tune.storage.folder import command_line

        if self.record is not None:
            return str(self.record["command"])
        return command_line([a for a in self.argv if a != "--resume"], self.program)

    def _more_command(self) -> str:
        import shlex

        from tune.storage.folder import without_options

        return shlex.join(without_options(shlex.split(self._command()), NOT_REPEATED))

    def _resume_command(self) -> str:
        from tune.storage.folder import command_line

        return command_line(self.argv, self.program, {"--name": self.plan.name, "--resume": None})


def _cluster(resources: dict[str, float]) -> Machine:
    from tune.planning.placement import Machine

    return Machine.cluster(resources)

"""One history of a study: machines, a store, drivers, and the faults that a seed draws.

The operator starts drivers, sometimes two at a time, and starts another one after each that ended early. When the drawn
faults are used up, undisturbed drivers finish the study. Checked on the way and at the end:

* what was acknowledged as durable is still there, and no such trial is trained again;
* every trial that is done has its complete history, on disk and in the store;
* the store is written by the owner of the lease alone, a folder by one driver at a time;
* a driver that ends early raises an error for the user, never an internal one;
* table, history and verdict are those of the undisturbed run.
"""

from __future__ import annotations

import io
import json
import os
import random
import re
import shutil
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow as pa

from pmae.errors import ConfigError
from studies.errors import StudyError, StudyLockedError
from studies.records import StudyWriter, read_study
from studies.storage import tables
from tests.faults.clock import Kill, Process, Scheduler, SimulatedClock, Task
from tests.faults.disk import Disk, full, intercepted
from tests.faults.driver import final_rows, lose_ray, run_study
from tests.faults.store import SimulatedStore
from tests.faults.study import COLUMNS, EPOCHS, SETTINGS, Expected, Setting, expected, facts, verdict_text
from tune.run.driver import RETRIES
from tune.run.ray_session import RayLostError
from tune.search.sampler import FINAL
from tune.storage import lease
from tune.storage.mirror import TABLES, download_study
from tune.trial.spec import TrialSpec

CALM_RUNS = 6  # undisturbed drivers at most; a lease that has to expire costs one
RAM_DISK = Path("/dev/shm")


class Violation(AssertionError):
    """Something that must hold does not."""


@dataclass
class Faults:
    """What may happen in a history; each kind is left out of about half of them, so that the others get their turn."""

    kills: bool
    power: bool
    lost_machines: bool
    full_disk: bool
    outages: bool
    lost_answers: float
    slow: float
    jumps: bool
    stops: bool
    interrupts: bool
    lost_ray: bool
    rivals: float
    duplicates: float
    long_trials: float
    stubborn: float
    runs: int

    @classmethod
    def draw(cls, rng: random.Random, stored: bool) -> Faults:
        """A mixture of faults."""

        def some(most: float) -> float:
            return rng.random() * most if rng.random() < 0.5 else 0.0

        def maybe() -> bool:
            return rng.random() < 0.5

        return cls(
            kills=rng.random() < 0.8, power=rng.random() < 0.7, lost_machines=stored and maybe(), full_disk=maybe(),
            outages=stored and maybe(), lost_answers=some(0.1), slow=some(0.3), jumps=maybe(), stops=maybe(),
            interrupts=maybe(), lost_ray=maybe(), rivals=some(0.8), duplicates=some(0.5), long_trials=some(0.5),
            stubborn=some(0.5), runs=rng.randint(1, 4),
        )  # fmt: skip


@dataclass
class Machine:
    """A machine with a disk and a clock."""

    name: str
    disk: Disk
    offset: float = 0.0  # of its wall clock
    full_until: float = 0.0
    acknowledged: dict[str, tuple] = field(default_factory=dict)  # rows that its drivers have recorded in its folder


class Driver(Process):
    """A driver's process. Its ``on_`` methods are called by the study that runs in it."""

    def __init__(self, world: World, machine: Machine, number: int) -> None:
        super().__init__(world.scheduler, f"driver {number} on {machine.name}", pid=number)
        self.world, self.machine = world, machine
        self.clock = SimulatedClock(world.scheduler, lambda: machine.offset)
        self.store = None if world.objects is None else world.store()
        self.fuse: int | None = None  # operations until it dies
        self.on_interrupt: Callable[[], None] | None = None
        self.problems: Any = None
        self.ray_lost = False
        self.outcome = ""
        self._holds = False
        self._recorded: set[str] = set()
        self._losses: Counter[str] = Counter()  # of a trial's processes
        self.main = Task(world.scheduler, self, "main", self._run)

    def _run(self) -> None:
        try:
            complete = run_study(self)
            self.outcome = "complete" if complete else "interrupted"
        except (StudyError, ConfigError, OSError, RayLostError) as error:
            self.outcome = f"{type(error).__name__}: {error}"
            if "corrupted" in str(error) or (self.world.calm and not isinstance(error, StudyLockedError)):
                self.world.fail(f"{self.name} ended with {traceback.format_exc()}")
        except Exception:
            self.world.fail(f"{self.name} ended with {traceback.format_exc()}")
        except Kill:
            self.outcome = "killed"
        self._holds = False
        self.world.log(f"{self.name}: {self.outcome}")

    def step(self) -> None:
        """An operation begins or has ended: the process may die here."""
        if self.dead:
            raise Kill
        if self.fuse is not None:
            self.fuse -= 1
            if self.fuse < 0:
                self.world.log(f"{self.name} is killed")
                self.kill()
                raise Kill

    def on_hold(self) -> None:
        """The study is this driver's."""
        others = [d.name for d in self.world.drivers if d is not self and d._holds and d.machine is self.machine]
        if others:
            self.world.fail(f"{self.name} holds a folder that {others[0]} holds too")
        self._holds = True

    def on_open(self, writer: StudyWriter) -> None:
        """The tables were read."""
        rows = final_rows(writer)
        self._recorded = set(rows)
        self.world.check_kept(
            self.machine.acknowledged, facts(list(rows.values())), f"the folder of {self.machine.name}"
        )
        if self.store is not None:
            self.world.check_kept(self.world.kept, facts(list(rows.values())), "the store")
        self.world.check_history(writer.history, rows, f"the folder of {self.machine.name}")
        self.machine.acknowledged = facts(list(rows.values()))
        self.world.log(f"{self.name} has {len(rows)} rows")

    def on_start(self, spec: TrialSpec, checkpoints: Path) -> None:
        """A trial starts, and sometimes writes a checkpoint."""
        if spec.trial_id in self._recorded:
            self.world.fail(f"{self.name} trains {spec.trial_id} again")
        if not self.world.calm and self.world.rng.random() < 0.2:
            checkpoints.mkdir(parents=True, exist_ok=True)
            (checkpoints / "epoch-000001.ckpt").write_bytes(b"weights")

    def on_record(self, row: dict[str, Any]) -> None:
        """A row is on disk."""
        if row["status"] in FINAL:
            self._recorded.add(row["trial_id"])
            if self.world.owns(self):  # what a driver records after it was taken over, unknowingly, is trained again
                self.machine.acknowledged[row["trial_id"]] = tuple(row.get(column) for column in COLUMNS)

    def on_mirrored(self, folder: Path) -> None:
        """All of the study is in the store."""
        if facts(list(final_rows(folder).values())) != facts(self.world.stored_rows()):
            self.world.fail(f"{self.name} has finished and the store differs from its folder")

    def duration(self, spec: TrialSpec) -> float:
        """Seconds that a trial takes, some several times as long as others."""
        rng, faults = self.world.rng, self.world.faults
        parts = 1
        while not self.world.calm and parts < 3 and rng.random() < faults.long_trials:
            parts += 1
        return sum(rng.uniform(1.0, 10.0) for _ in range(parts))

    def loses(self, spec: TrialSpec) -> bool:
        """Whether a trial that starts loses its process; it is started again ``RETRIES`` times at most."""
        if self.world.calm or self._losses[spec.trial_id] == RETRIES:
            return False
        lost = self.world.losses.random() < self.world.lost_processes
        self._losses[spec.trial_id] += lost
        return lost

    def ignores_stop(self) -> bool:
        """Whether a trial that starts does not end early when it is asked to."""
        return not self.world.calm and self.world.rng.random() < self.world.faults.stubborn

    def reports_again(self) -> float | None:
        """Seconds after which a result arrives a second time; None if it does not."""
        if self.world.calm or self.world.rng.random() >= self.world.faults.duplicates:
            return None
        return self.world.rng.uniform(0.0, 20.0)


class World:
    """One history.

    Args:
        setting: The study.
        seed: Draws all that happens.
        root: An empty folder.
        losses: Whether trials may lose their process.
    """

    def __init__(self, setting: Setting, seed: int, root: Path, losses: bool) -> None:
        self.rng = random.Random(seed)
        self.losses = random.Random(f"losses {seed}")  # of its own: older histories stay as they were
        self.lost_processes = self.losses.choice((0.0, 0.1, 0.5)) if losses else 0.0
        self.expected: Expected = expected(setting)
        self.scheduler = Scheduler(random.Random(self.rng.random()))
        self.events: list[str] = []
        self.calm = False
        self.violation: str | None = None
        self.drivers: list[Driver] = []
        stored = self.rng.random() < 0.7
        self.faults = Faults.draw(self.rng, stored)
        self.objects: dict[str, tuple[bytes, float]] | None = {} if stored else None
        self.kept: dict[str, tuple] = {}  # rows that the owner has stored
        self._skew = self.rng.uniform(-500, 500)
        self._out_until = 0.0
        self._root = root
        self.machines = [self._machine(n) for n in range(2 if stored else 1)]

    def _machine(self, number: int) -> Machine:
        disk = Disk(self._root / f"machine-{number}", self.rng, lambda what: self._on_disk(machine, what))
        machine = Machine(f"machine {number}", disk)
        return machine

    def log(self, text: str) -> None:
        """Remember an event."""
        text = text.replace(str(self._root), "")  # a replay has another folder ...
        text = re.sub(r"by process \d+ on \S+ since \S+;", "by another process;", text)  # ... and another time
        self.events.append(f"{self.scheduler.now:9.2f} s  {text}")

    def fail(self, text: str) -> None:
        """Note the first violation; the history then ends."""
        self.log(f"VIOLATION: {text}")
        self.violation = self.violation or text
        for driver in self.drivers:
            driver.kill()
        if self.scheduler.current.process.dead:
            raise Kill
        raise Violation(text)

    # What processes do

    def _current(self) -> Process | None:
        return self.scheduler.current.process if self.scheduler.current is not None else None

    def disk(self) -> Disk | None:
        """The disk of the process whose turn it is."""
        process = self._current()
        return process.machine.disk if isinstance(process, Driver) else None

    def _on_disk(self, machine: Machine, what: str) -> None:
        process = self._current()
        assert isinstance(process, Driver)
        process.step()
        if self.calm:
            return
        if what.startswith("sync "):
            self.scheduler.pause(self.rng.uniform(0.0, 0.3))
            if what != "sync folder" and self.scheduler.now < machine.full_until:
                raise full()

    def store(self) -> SimulatedStore:
        """The store of all studies."""
        assert self.objects is not None
        return SimulatedStore(self.objects, "runs", self._on_call, self._store_time, self._on_change)

    def _store_time(self) -> float:
        return 1_700_000_000.0 + self.scheduler.now + self._skew

    def _on_call(self, what: str, answered: bool) -> None:
        process = self._current()
        if not isinstance(process, Driver):
            return
        process.step()
        if self.calm:
            return
        slow = self.rng.random() < self.faults.slow
        process.requests += 1
        try:
            self.scheduler.pause(self.rng.uniform(1.0, 20.0) if slow else self.rng.uniform(0.0, 0.2))
        finally:
            process.requests -= 1
        if self.scheduler.now < self._out_until or (answered and self.rng.random() < self.faults.lost_answers):
            raise OSError("no answer")

    def _on_change(self, name: str) -> None:
        process = self._current()
        name = name.rpartition("/")[2] if name.startswith(self.expected.plan.name) else name
        if not isinstance(process, Driver):
            return
        if name == lease.OWNER:  # what others have not copied until now is trained again
            for machine in self.machines:
                if machine is not process.machine:
                    machine.acknowledged.clear()
        if name not in TABLES:
            return
        if not self.owns(process):
            self.fail(f"{process.name} writes {name} to the store of another driver")
        if name.startswith("trials"):
            rows = {row["trial_id"]: row for row in self.stored_rows()}
            self.check_kept(self.kept, facts(list(rows.values())), "the store")
            # A row that is read while it is written may still be dropped: a sync that fails takes it back.
            self.kept = {t: row for t, row in facts(list(rows.values())).items() if t in process._recorded}
            if self.rng.random() < 0.3:  # takes long
                self.check_history(self._stored("history"), rows, "the store")

    def owns(self, driver: Driver) -> bool:
        """Whether the store names ``driver`` as its owner; without a store a folder's driver always owns it."""
        return self.objects is None or json.loads(self._object(lease.OWNER) or b"{}").get("pid") == driver.pid

    def _object(self, name: str) -> bytes | None:
        assert self.objects is not None
        found = self.objects.get(f"runs/{self.expected.plan.name}/{name}")
        return None if found is None else found[0]

    def _stored(self, table: str) -> pa.Table:
        content, lines = self._object(f"{table}.arrow"), self._object(f"{table}.journal")
        rows = [] if content is None else pa.ipc.open_file(io.BytesIO(content)).read_all().to_pylist()
        waiting = [json.loads(line[9:])[1] for line in (lines or b"").splitlines(keepends=True) if line.endswith(b"\n")]
        keys = ("trial_id",) if table == "trials" else ("trial_id", "epoch")
        return list({tuple(row[key] for key in keys): row for row in [*rows, *waiting]}.values())

    def stored_rows(self) -> list[dict[str, Any]]:
        """Final rows in the store."""
        return [row for row in self._stored("trials") if row["status"] in FINAL]

    # What must hold

    def check_kept(self, before: dict[str, tuple], now: dict[str, tuple], where: str) -> None:
        """Nothing that was durable is lost or changed."""
        lost = [trial_id for trial_id, row in before.items() if now.get(trial_id) != row]
        if lost:
            self.fail(f"{where} has lost {', '.join(sorted(lost)[:3])} ({len(lost)} of {len(before)} rows)")

    def check_history(self, history: Any, rows: dict[str, Any], where: str) -> None:
        """Trials on record have all their epochs, once."""
        epochs: dict[str, list[int]] = {}
        for row in history if isinstance(history, list) else history.to_pylist():
            epochs.setdefault(row["trial_id"], []).append(row["epoch"])
        wrong = [t for t in rows if sorted(epochs.get(t, ())) != list(range(1, EPOCHS + 1))]
        if wrong:
            self.fail(f"{where} has {wrong[0]} with the epochs {epochs.get(wrong[0])}")

    # The operator

    def run(self) -> None:
        """The whole history."""
        for number in range(self.faults.runs):
            self._disturbed_run(number)
        self.calm = True
        self.log("calm")
        for machine in self.machines:
            machine.full_until = 0.0
        for _ in range(CALM_RUNS):
            driver = self._start(self.rng.choice(self.machines))
            driver.main.join()
            if self.violation:
                return
            if driver.outcome == "complete":
                self._compare(driver.machine)
                return
            self.scheduler.pause(lease.STALE + 1)
        self.fail(f"the study does not end: {driver.outcome}")

    def _disturbed_run(self, number: int) -> None:
        rng, faults = self.rng, self.faults
        running = [self._start(rng.choice(self.machines))]
        rival = rng.random() < faults.rivals
        if rival and rng.random() < 0.5:
            running.append(self._start(rng.choice(self.machines)))
        while any(not driver.main.done for driver in running):
            if self.violation:
                raise Violation(self.violation)
            self.scheduler.pause(rng.expovariate(1 / 15.0))
            self._disturb(rng.choice(running))
            if rival and len(running) < 3 and rng.random() < 0.1:
                running.append(self._start(rng.choice(self.machines)))
        for task in [task for driver in running for task in list(driver.tasks)]:
            task.join()
        for machine in self.machines:
            mine = [d for d in running if d.machine is machine and d.outcome == "killed"]
            if mine and faults.power and rng.random() < 0.8:
                self.log(f"{machine.name} loses power")
                machine.disk.lose_power()
            elif mine and faults.lost_machines and rng.random() < 0.3:
                self.log(f"{machine.name} is replaced")
                machine.disk.erase()
                machine.acknowledged.clear()
            machine.full_until = min(machine.full_until, self.scheduler.now + 60.0)
        if rng.random() < 0.5:
            self.scheduler.pause(rng.uniform(0.0, 2 * lease.STALE))

    def _start(self, machine: Machine) -> Driver:
        driver = Driver(self, machine, len(self.drivers) + 1)
        if not self.calm and self.faults.kills and self.rng.random() < 0.8:
            driver.fuse = int(10 ** self.rng.uniform(0.7, 3.0))
        self.drivers.append(driver)
        self.log(f"{driver.name} starts")
        return driver

    def _disturb(self, driver: Driver) -> None:
        """One drawn event."""
        rng, faults, now = self.rng, self.faults, self.scheduler.now
        event = rng.choice(("full disk", "outage", "jump", "stop", "interrupt", "ray", "nothing", "nothing"))
        if driver.main.done:
            return
        if event == "full disk" and faults.full_disk:
            driver.machine.full_until = now + rng.uniform(0.0, 20.0)
            self.log(f"the disk of {driver.machine.name} is full until {driver.machine.full_until:.0f} s")
        elif event == "outage" and faults.outages:
            self._out_until = now + rng.expovariate(1 / 40.0)
            self.log(f"the store does not answer until {self._out_until:.0f} s")
        elif event == "jump" and faults.jumps:
            driver.machine.offset += rng.uniform(-4000, 4000)
            self.log(f"the clock of {driver.machine.name} is off by {driver.machine.offset:.0f} s")
        # A process that stops between its last look at the lease and the write that follows cannot be helped: object
        # stores as pyarrow sees them have no conditional writes.
        elif event == "stop" and faults.stops and not driver.requests:
            seconds = rng.uniform(1.0, 2.5 * lease.STALE)
            driver.suspend(seconds)
            self.log(f"{driver.name} is suspended for {seconds:.0f} s")
        elif event == "interrupt" and faults.interrupts and driver.on_interrupt is not None:
            self.log(f"{driver.name} is interrupted")
            driver.on_interrupt()
        elif event == "ray" and faults.lost_ray and driver.problems is not None and rng.random() < 0.5:
            self.log(f"{driver.name} loses Ray")
            lose_ray(driver)

    def _compare(self, machine: Machine) -> None:
        name = self.expected.plan.name
        self._compare_folder(machine.disk.root / name)
        if self.objects is not None:
            copy = self._root / "copy" / name
            download_study(self.store().below(name), copy)
            self._compare_folder(copy)

    def _compare_folder(self, folder: Path) -> None:
        study = read_study(folder)
        rows = study.trials.to_pylist()
        if len(rows) != len({row["trial_id"] for row in rows}):
            self.fail(f"{folder} has rows twice")
        found = facts(rows)
        if found != self.expected.facts:
            both = {*found, *self.expected.facts}
            wrong = sorted(t for t in both if found.get(t) != self.expected.facts.get(t))
            t = wrong[0]
            self.fail(f"{folder}: {len(wrong)} rows differ, {t}: {found.get(t)} is not {self.expected.facts.get(t)}")
        self.check_history(study.history, found, str(folder))
        if verdict_text(study.stored_verdict or {}) != self.expected.verdict:
            self.fail(f"{folder}: the verdict differs")


@dataclass(frozen=True)
class History:
    """How a history went: its events, and what was wrong (None: nothing)."""

    seed: int
    violation: str | None
    events: list[str]
    steps: int


def run_history(seed: int, losses: bool = True) -> History:
    """Run the history of a seed in a folder of its own; without ``losses`` no trial loses its process."""
    setting = SETTINGS[seed % len(SETTINGS)]
    expected(setting)
    folder = Path(tempfile.mkdtemp(prefix="pmae-faults-", dir=RAM_DISK if RAM_DISK.is_dir() else None))
    try:
        world = World(setting, seed, folder, losses)
        rng = random.Random(seed)
        with ExitStack() as stack:
            if rng.random() < 0.7:  # a journal that lives longer than one row
                stack.enter_context(mock.patch.object(tables, "SMALL_ROWS", 0))
                stack.enter_context(mock.patch.object(tables, "SMALL_BYTES", 0))
                stack.enter_context(mock.patch.object(tables, "GROWTH", rng.choice((0, 1, 2))))
            if rng.random() < 0.8:  # the checksums of tables take a quarter of the time
                stack.enter_context(mock.patch.object(tables, "checksum", lambda table: table.num_rows))
            # Real seconds; what other threads report is there already.
            stack.enter_context(mock.patch("tune.run.driver.LOST_AFTER", 0.0))
            stack.enter_context(mock.patch.object(lease, "_process", lambda pid: _identity(world, pid)))
            ids = iter(f"{number:016x}" for number in range(10**8))
            stack.enter_context(mock.patch.object(lease.secrets, "token_hex", side_effect=ids))
            names = iter(f"{number:08d}" for number in range(10**8))
            stack.enter_context(mock.patch.object(tempfile, "_name_sequence", names))
            stack.enter_context(intercepted(world.disk))
            with suppress(Violation):
                world.scheduler.run(world.run)
        return History(seed, world.violation, world.events, world.scheduler.steps)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _identity(world: World, pid: int) -> dict[str, Any]:
    """As ``lease._process``, for simulated processes: its own, or one of another id; empty for a dead one."""
    number = world.scheduler.current.process.pid if pid == os.getpid() else pid
    found = next((d for d in world.drivers if d.pid == number), None)
    if found is None or found.main.done:
        return {}
    return {"place": found.machine.name, "pid": found.pid, "started": str(found.pid)}

"""A study of many short trials whose processes are killed every few seconds, resumed by a supervisor to its end.

    python benchmarks/soak.py --trials 40               # minutes
    python benchmarks/soak.py                           # 2,000 trials, more than an hour on 2 cores

The study runs twice: undisturbed, then with faults drawn from a seed. Trial workers get SIGKILL while they train; the
driver gets SIGKILL, SIGTERM or SIGINT, or a process of its private Ray is killed; the supervisor resumes the study
whenever it ends. Tables and verdict must be equal but for times and order, nothing may outlive its session, and memory,
open files and files on disk must not grow with the number of sessions. Exits with 1 if one of these does not hold.

Everything is in a private folder below /tmp, which is deleted unless --keep is given.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from measuring import REPOSITORY, RESULTS, describe_machine, write_result

from studies.records import read_study
from tune.run.driver import RETRIES

PROGRAM = REPOSITORY / "tune" / "masking_ratio_study.py"
MARK = "PMAE_SOAK"  # environment variable of every process: the folder and the number of the session
PER_SEED = 5  # trials of the confirm phase: the ladder, the best explored ratio, two controls
TIMES = ("started_at", "seconds", "images_per_second", "peak_memory_bytes", "code_version")  # differ between runs
SAMPLE_EVERY = 5.0  # seconds
OUTLIVES = 60.0  # seconds after which a process of an ended session counts as left behind
# What ends a session, and how it may then end: exit codes, negative for signals. Before the study's own handlers are
# installed, and while Ray's are, a signal ends it as it ends any process.
DRIVER = {signal.SIGKILL: {-9}, signal.SIGTERM: {130, 1, -2, -15}, signal.SIGINT: {130, -2}}
RAY = ("/raylet/raylet", "/gcs/gcs_server", "RuntimeEnvAgent", "DashboardAgent", "log_monitor.py", "ray_folder.py")
GOOD = {0}


def make_images(path: Path) -> None:
    """Write a two-class set that trains and is probed in a fraction of a second; its test split avoids folds."""
    draws, arrays = np.random.default_rng(0), {}
    for split, count in (("train", 64), ("val", 32), ("test", 2000)):
        labels = np.arange(count) % 2
        images = draws.integers(0, 200, (count, 8, 8))
        images[labels == 1, :4] += 12
        arrays |= {f"{split}_images": images.astype(np.uint8), f"{split}_labels": labels}
    np.savez(path, **arrays)  # type: ignore[arg-type]


class Run:
    """One study in its own storage, driven through any number of sessions.

    Args:
        base: The private folder.
        name: Folder of this run below it.
        words: Options of the study.
    """

    def __init__(self, base: Path, name: str, words: list[str]) -> None:
        self.storage, self.words, self.mark = base / name, words, f"{base}/{name}"
        self.ray, self.cache, self.log = base / name[0], base / f"{name}-cache", base / f"{name}.log"
        self.folder = self.storage / "soak"
        self.sessions: list[dict[str, Any]] = []
        self.samples: list[dict[str, Any]] = []
        self.outlived: dict[int, str] = {}
        self._ended: list[float] = []
        self._sampled = 0.0
        self.ray.mkdir()

    def start(self) -> subprocess.Popen[bytes]:
        """Start the study, or resume it where it exists."""
        existing = (self.folder / "study.json").exists()
        words = ["--name", "soak", "--resume"] if existing else ["--name", "soak", *self.words]
        environment = {
            **os.environ, MARK: f"{self.mark}:{len(self.sessions)}:", "RAY_TMPDIR": str(self.ray),
            "PMAE_CACHE": str(self.cache), "PYTHONPATH": str(REPOSITORY),
        }  # fmt: skip
        with open(self.log, "ab") as log:
            log.write(f"\n--- session {len(self.sessions)}\n".encode())
            log.flush()
            return subprocess.Popen(
                [sys.executable, str(PROGRAM), "--storage", str(self.storage), *words],
                stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True,
            )  # fmt: skip

    def session(self, disturb: Callable[[psutil.Process, float], str | None] | None = None) -> dict[str, Any]:
        """Run the study until it ends; ``disturb(driver, seconds)`` is called often and names the faults it injects."""
        offset = self.log.stat().st_size if self.log.exists() else 0
        began, faults = time.monotonic(), Counter[str]()
        process = self.start()
        try:
            driver = psutil.Process(process.pid)
            while process.poll() is None:
                if time.monotonic() - self._sampled > SAMPLE_EVERY:
                    self._sample(driver, time.monotonic() - began)
                with suppress(psutil.Error):
                    if disturb is not None and (fault := disturb(driver, time.monotonic() - began)):
                        faults[fault] += 1
                time.sleep(0.1)
        finally:
            process.kill()
        self._ended.append(time.monotonic())
        said = self.log.read_bytes()[offset:].decode(errors="replace")
        self.sessions.append(
            {
                "exit": process.returncode,
                "faults": dict(faults),
                "seconds": round(time.monotonic() - began, 1),
                "trials": self.recorded(),
                "traceback": "Traceback" in said,
            }
        )
        return self.sessions[-1]

    def recorded(self) -> int:
        """Trials on record; 0 before there is a table."""
        with suppress(ValueError):
            return read_study(self.folder).trials.num_rows
        return 0

    def processes(self) -> dict[int, list[psutil.Process]]:
        """Living processes of this run by session."""
        found: dict[int, list[psutil.Process]] = {}
        wanted = f"{MARK}={self.mark}:".encode()
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                environment = Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
                for entry in environment:
                    if entry.startswith(wanted) and process.status() != psutil.STATUS_ZOMBIE:
                        found.setdefault(int(entry[len(wanted) :].partition(b":")[0]), []).append(process)
        return found

    def note_outlived(self, living: dict[int, list[psutil.Process]]) -> None:
        """Remember processes of sessions that ended more than ``OUTLIVES`` seconds ago."""
        for number, processes in living.items():
            if number < len(self._ended) and time.monotonic() - self._ended[number] > OUTLIVES:
                for process in processes:
                    with suppress(psutil.Error):
                        self.outlived.setdefault(process.pid, " ".join(process.cmdline())[:120])

    def settle(self) -> None:
        """Wait until no process is left, at most ``OUTLIVES`` seconds; kill and remember what is left."""
        end = time.monotonic() + OUTLIVES + 1
        while (living := self.processes()) and time.monotonic() < end:
            time.sleep(0.5)
        self.note_outlived(living)
        for process in (p for processes in living.values() for p in processes):
            with suppress(psutil.Error):
                process.kill()

    def _sample(self, driver: psutil.Process, seconds: float) -> None:
        self._sampled = time.monotonic()
        living = self.processes()
        self.note_outlived(living)
        mine = living.get(len(self.sessions), [])
        with suppress(psutil.Error):
            self.samples.append(
                {
                    "session": len(self.sessions),
                    "seconds": round(seconds, 1),
                    "trials": self.recorded(),
                    "driver_mib": round(driver.memory_info().rss / 2**20, 1),
                    "driver_files": driver.num_fds(),
                    "processes": len(mine),
                    "object_store_mib": round(_object_store(mine) / 2**20, 1),
                    "ray_mib": round(_size(self.ray)[0] / 2**20, 1),
                    "ray_folders": len(list(self.ray.glob("*"))),
                    "study_mib": round(_size(self.folder)[0] / 2**20, 2),
                    "study_files": _size(self.folder)[1],
                }
            )


def _object_store(processes: list[psutil.Process]) -> float:
    """Bytes of the raylet's shared memory, which holds Ray's objects."""
    for process in processes:
        with suppress(psutil.Error, IndexError):
            if process.cmdline()[0].endswith("/raylet"):
                return process.memory_info().shared
    return 0.0


def _size(folder: Path) -> tuple[int, int]:
    """Bytes and number of the files below ``folder``."""
    total = count = 0
    for parent, _, names in os.walk(folder):  # Path.rglob fails if a folder is deleted meanwhile
        for name in names:
            with suppress(OSError):
                total, count = total + os.lstat(os.path.join(parent, name)).st_size, count + 1
    return total, count


class Disturber:
    """Kills what it finds at moments drawn from ``draws``: workers every few seconds, a session now and then.

    Args:
        draws: Source of the moments and the victims.
        every: Mean seconds between the ends of workers.
        session_seconds: Mean seconds from the first trial of a session until it is ended.

    On a busy machine, where processes start slowly, both are longer, so that the study makes progress.
    """

    def __init__(self, draws: random.Random, every: float, session_seconds: float) -> None:
        self.draws, self.every, self.session_seconds = draws, every, session_seconds
        self.victims: Counter[str] = Counter()
        self.startup = 15.0  # seconds from a session's start to its first trial
        self.begin_session()

    def begin_session(self) -> None:
        """Draw when and how the next session ends. One in six is hit while it starts."""
        early = self.draws.random() < 1 / 6
        self._end_at = self.draws.uniform(0, self.startup) if early else math.inf
        self._end_by: Any = self.draws.choice([*DRIVER, *RAY, "twice"])
        self._next_worker, self._training = 0.0, False
        self.victims.clear()
        self.allowed = GOOD

    def __call__(self, driver: psutil.Process, seconds: float) -> str | None:
        """Inject the faults that are due; returns the name of one."""
        if seconds >= self._end_at:
            return self._end(driver, seconds)
        if seconds < self._next_worker:
            return None
        workers = [p for p in driver.children(recursive=True) if _title(p).startswith("ray::") and "seed=" in _title(p)]
        wait = self.draws.expovariate(1 / max(self.every, self.startup / 4)) if self._training else 0.5
        self._next_worker = seconds + wait
        if workers and not self._training:
            self._training, self.startup = True, seconds
            mean = max(self.session_seconds, self.startup)
            self._end_at = min(self._end_at, seconds + self.draws.expovariate(1 / mean))
        # A trial whose process is lost more often than it is retried is recorded as failed, as it should be.
        workers = [p for p in workers if self.victims[_title(p)] < RETRIES]
        if not workers:
            return None
        victim = self.draws.choice(workers)
        self.victims[_title(victim)] += 1
        victim.kill()
        return "worker"

    def _end(self, driver: psutil.Process, seconds: float) -> str | None:
        self._end_at = math.inf
        if self._end_by == "twice":
            self.allowed = {130, -2}
            driver.send_signal(signal.SIGINT)
            time.sleep(self.draws.uniform(0, 2))
            driver.send_signal(signal.SIGINT)
            return "SIGINT twice"
        if isinstance(self._end_by, signal.Signals):
            self.allowed = DRIVER[self._end_by]
            driver.send_signal(self._end_by)
            return self._end_by.name
        found = [p for p in driver.children(recursive=True) if self._end_by in _title(p)]
        if not found:  # not started yet: the driver is killed instead
            self.allowed = DRIVER[signal.SIGKILL]
            driver.kill()
            return "SIGKILL"
        found[0].kill()
        if self._end_by == "ray_folder.py":  # without it no process cleans up after the driver
            self.allowed = DRIVER[signal.SIGKILL]
            driver.kill()
            return "watchdog and SIGKILL"
        self.allowed = {1}
        name = Path(self._end_by).name
        if self._end_by == "log_monitor.py":  # Ray lives on without it
            self._end_by, self._end_at = signal.SIGKILL, seconds + 10
        return name


def _title(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def facts(folder: Path) -> dict[str, Any]:
    """What a study found, without times and order."""
    study = read_study(folder)
    trials = {row["trial_id"]: row for row in study.trials.drop_columns(list(TIMES)).to_pylist()}
    epochs = study.history.drop_columns(["images_per_second"]).to_pylist()
    verdict = json.loads((folder / "verdict.json").read_text())
    return {
        "trials": trials,
        "epochs": sorted(epochs, key=lambda row: (row["trial_id"], row["epoch"])),
        "verdict": {name: verdict[name] for name in ("answer", "rows", "overall")},
    }


def differences(ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """What differs between two results of :func:`facts`, a few words each."""
    found = [name for name in ("epochs", "verdict") if ours[name] != theirs[name]]
    for trial_id in sorted(
        {*ours["trials"], *theirs["trials"]}, key=lambda name: (not name.startswith("explore"), name)
    ):
        a, b = ours["trials"].get(trial_id), theirs["trials"].get(trial_id)
        if a is None or b is None:
            found.append(f"{trial_id}: in one table only")
        else:
            found += [f"{trial_id}: {name} is {a[name]} and {b[name]}" for name in a if a[name] != b[name]]
    return found


def growth(points: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Medians of the first and the last third of ``points``, and the largest."""
    third = max(1, len(points) // 3)
    names = [name for name in (points[0] if points else {}) if name not in ("session", "seconds")]
    return {
        name: {
            "first_third": statistics.median(point[name] for point in points[:third]),
            "last_third": statistics.median(point[name] for point in points[-third:]),
            "largest": max(point[name] for point in points),
        }
        for name in names
    }


def peaks(samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The largest values of each session that ran trials."""
    found = []
    for number in sorted({sample["session"] for sample in samples}):
        mine = [sample for sample in samples if sample["session"] == number]
        if mine[-1]["trials"] > mine[0]["trials"]:
            found.append({name: max(sample[name] for sample in mine) for name in mine[0]})
    return found


def soak(options: argparse.Namespace, base: Path) -> dict[str, Any]:
    """Run the study undisturbed and disturbed; returns what is written to the JSON file."""
    images = base / "tiny.npz"
    make_images(images)
    words = [
        *("--dataset", f"npz:{images}", "--methods", "pmae", "--ladder", "0.1", "0.2", "--patch-sizes", "4"),
        *("--epochs", "2", "--batch-size", "64", "--search", "tpe", "--confirm-seeds", str(options.confirm_seeds)),
        *("--trials", str(options.trials - options.confirm_seeds * PER_SEED)),
    ]
    calm, wild = Run(base, "calm", words), Run(base, "wild", words)
    first = calm.session()
    calm.settle()
    if first["exit"]:
        sys.exit(f"the undisturbed study ended with {first['exit']}; see {calm.log}")
    print(f"undisturbed: {first['trials']} trials in {first['seconds']:.0f} s", flush=True)
    disturb = Disturber(random.Random(options.seed), options.every, options.session_seconds)
    unexpected: list[dict[str, Any]] = []
    end = time.monotonic() + options.most_seconds
    while True:
        disturb.begin_session()
        one = wild.session(disturb)
        if one["exit"] not in disturb.allowed | GOOD or one["traceback"]:
            unexpected.append({"session": len(wild.sessions) - 1, **one})
        print(
            f"session {len(wild.sessions):3}: exit {one['exit']:4}, {one['trials']:5} trials, {one['faults']}",
            flush=True,
        )
        if one["exit"] == 0 or time.monotonic() > end:
            break
        if disturb.draws.random() < 0.5:  # else the next session starts while the last one's processes still end
            wild.settle()
    wild.settle()
    complete = wild.sessions[-1]["exit"] == 0
    found = differences(facts(calm.folder), facts(wild.folder)) if complete else ["it did not end in time"]
    for line in found[:10]:
        print(f"differs: {line}")
    return {
        "options": words,
        "seed": options.seed,
        "trials": wild.recorded(),
        "complete": complete,
        "differences": found[:50],
        "faults": dict(sum((Counter(s["faults"]) for s in wild.sessions), Counter[str]())),
        "unexpected_ends": unexpected,
        "outlived": [*calm.outlived.values(), *wild.outlived.values()],
        "ray_folders_left": len([*calm.ray.glob("*"), *wild.ray.glob("*")]),
        "seconds": {"undisturbed": first["seconds"], "disturbed": sum(s["seconds"] for s in wild.sessions)},
        "undisturbed": growth([sample for sample in calm.samples if sample["trials"]]),
        "disturbed": growth(peaks(wild.samples)),
        "sessions": wild.sessions,
    }


def main() -> None:
    """Parse the options, soak, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=2000, help="of the study, confirm phase included")
    parser.add_argument("--confirm-seeds", type=int, help="a quarter of the trials if left out")
    parser.add_argument("--seed", type=int, default=0, help="random seed of the faults")
    parser.add_argument("--every", type=float, default=4, help="mean seconds between the kills of workers")
    parser.add_argument("--session-seconds", type=float, default=45, help="mean, until a session is ended")
    parser.add_argument("--most-seconds", type=float, default=24 * 3600.0, help="of the disturbed study")
    parser.add_argument("--keep", action="store_true", help="keep the folder")
    parser.add_argument("--out", type=Path, default=RESULTS / "soak.json", help="the JSON file")
    options = parser.parse_args()
    if options.confirm_seeds is None:
        options.confirm_seeds = max(2, options.trials // (4 * PER_SEED))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it, and so would we
    base = Path(tempfile.mkdtemp(prefix="soak-", dir="/tmp"))  # short: Ray's sockets are below it
    try:
        found = soak(options, base)
    finally:
        if options.keep:
            print(f"kept: {base}")
        else:
            shutil.rmtree(base, ignore_errors=True)
    machine = describe_machine("cpu", ("torch", "ray", "optuna", "pyarrow"), __file__)
    write_result({"benchmark": "soak", **machine, **found}, options.out)
    print(
        f"{found['trials']} trials, {len(found['sessions'])} sessions, faults {found['faults']}: "
        f"{len(found['differences'])} differences, {len(found['unexpected_ends'])} unexpected ends, "
        f"{len(found['outlived'])} processes and {found['ray_folders_left']} Ray folders left"
    )
    for name, values in found["disturbed"].items():
        print(f"{name:18} {values['first_third']:8} (first third) {values['last_third']:8} (last third)")
    bad = ("differences", "unexpected_ends", "outlived", "ray_folders_left")
    sys.exit(1 if any(found[name] for name in bad) else 0)


if __name__ == "__main__":
    main()

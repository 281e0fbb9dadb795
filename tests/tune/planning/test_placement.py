"""What fits on which machine, and what is refused with which way out."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pmae.cli.options import DataOptions
from pmae.config import preset
from pmae.errors import ConfigError
from tune.options import MachineOptions, StudyOptions
from tune.planning.check import check_options
from tune.planning.placement import (
    GIB,
    Machine,
    Placement,
    compute_placement,
    forward_flops,
    may_have_gpus,
    trial_memory,
    trial_seconds,
)
from tune.planning.plan import plan_study
from tune.run import runner
from tune.run.display import Display

ROOT = Path(__file__).resolve().parents[3]

LAPTOP = Machine(cpus=2, memory=16 * GIB)
BOX = Machine(cpus=32, gpus=2, memory=256 * GIB, gpu_memory=80 * GIB)


def test_two_cores_take_two_trials_of_one_thread():
    placement = compute_placement(LAPTOP, MachineOptions(), trials=16, memory=GIB)
    assert (placement.concurrent, placement.threads, placement.gpus) == (2, 1, 0)
    assert "CPU" in placement.limited_by


def test_a_fraction_of_a_gpu_lets_several_trials_share_it():
    placement = compute_placement(BOX, MachineOptions(gpus_per_trial=0.25), trials=100, memory=GIB)
    assert placement.concurrent == 8 and "GPU" in placement.limited_by


def test_memory_limits():
    placement = compute_placement(LAPTOP, MachineOptions(), trials=16, memory=12 * GIB)
    assert placement.concurrent == 1 and "memory" in placement.limited_by
    with pytest.raises(ConfigError, match="--batch-size"):
        compute_placement(LAPTOP, MachineOptions(), trials=16, memory=20 * GIB)


def test_a_search_is_not_run_all_at_once_but_the_confirm_phase_is():
    cluster = Machine(cpus=64, memory=512 * GIB)
    placement = compute_placement(cluster, MachineOptions(), trials=40, memory=GIB, explored=16)
    assert (placement.concurrent, placement.lag, placement.threads) == (40, 4, 1)
    assert compute_placement(LAPTOP, MachineOptions(), trials=40, memory=GIB, explored=16).lag == 2
    assert compute_placement(cluster, MachineOptions(max_concurrent=1), trials=40, memory=GIB, explored=16).lag == 1


def test_a_study_that_resumes_keeps_its_threads():
    box = Machine(cpus=8, memory=256 * GIB)
    before = compute_placement(box, MachineOptions(max_concurrent=2), trials=16, memory=GIB)
    assert (before.concurrent, before.threads) == (2, 4)
    again = compute_placement(
        Machine(cpus=16, memory=256 * GIB), MachineOptions(), trials=16, memory=GIB, threads=before.threads
    )
    assert (again.concurrent, again.threads) == (4, 4)
    assert compute_placement(LAPTOP, MachineOptions(), trials=16, memory=GIB, threads=before.threads).threads == 2


def test_threads_and_lag_of_a_study_come_from_its_record():
    plan = plan_study(StudyOptions(data=DataOptions(limit=100)))
    record = {"resources": {"threads": 3, "lag": 1}}
    placement = runner._place(plan, Display(quiet=True), Machine(cpus=8, memory=256 * GIB), record, None)[1]
    assert (placement.threads, placement.concurrent, placement.lag) == (3, 2, 1)


def test_fewer_workers_do_while_nodes_are_missing():
    elastic = compute_placement(LAPTOP, MachineOptions(workers_per_trial="1-4"), trials=16, memory=GIB)
    assert (elastic.concurrent, elastic.threads, elastic.workers, elastic.least_workers) == (1, 1, 4, 1)
    assert "1 to 4 workers with 1 CPU" in elastic.describe(LAPTOP) and dataclasses.asdict(elastic)["least_workers"] == 1
    for text in ("2", "2-2"):
        fixed = compute_placement(LAPTOP, MachineOptions(workers_per_trial=text), trials=16, memory=GIB)
        assert fixed.workers == 2 and fixed.least_workers is None


def test_workers_share_the_gpus_that_there_are():
    assert compute_placement(BOX, MachineOptions(workers_per_trial="1-4"), trials=100, memory=GIB).gpus == 2
    with pytest.raises(ConfigError, match="each worker takes one GPU, of which there are 2"):
        compute_placement(BOX, MachineOptions(workers_per_trial="4"), trials=100, memory=GIB)


def test_max_concurrent_is_kept():
    assert compute_placement(BOX, MachineOptions(max_concurrent=1), trials=100, memory=GIB).concurrent == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (MachineOptions(workers_per_trial="3"), "--workers-per-trial 3 needs 3 CPUs, there are 2"),
        (MachineOptions(workers_per_trial="3-4"), "--workers-per-trial 3-4 needs 3 CPUs, there are 2"),
        *(
            (MachineOptions(workers_per_trial=w), f"--workers-per-trial is {w}; .*1-2")
            for w in ("0", "two", "2-1", "1-")
        ),
        (MachineOptions(gpus_per_trial=1), r"--gpus-per-trial 1 exceeds the available GPUs \(0\)"),
        (MachineOptions(gpus_per_trial=-1), "must be 0, a fraction"),
        (MachineOptions(max_concurrent=0), "--max-concurrent is 0"),
        (MachineOptions(trial_timeout=0), "--trial-timeout"),
    ],
)
def test_what_is_not_there_is_refused(options, message):
    def check_and_place() -> None:
        check_options(StudyOptions(machine=options))
        compute_placement(LAPTOP, options, trials=16, memory=GIB)

    with pytest.raises(ConfigError, match=message):
        check_and_place()


def test_memory_and_arithmetic_grow_with_the_model():
    small = preset("quick").resolve(32, 3)
    large = preset("paper").with_values({"model.patch_size": 4}).resolve(32, 3)
    assert trial_memory(small, 0) < trial_memory(large, 0)
    assert trial_memory(small, GIB) - trial_memory(small, 0) == GIB
    assert forward_flops(small) < forward_flops(large)


def test_the_papers_forward_costs_what_was_counted_by_hand():
    config = preset("paper").resolve(32, 3)
    # encoder 17 tokens x 12 blocks x 24 w^2 + attention, decoder likewise, three products with V
    by_hand = 12 * (24 * 17 * 192**2 + 4 * 17**2 * 192) + 8 * (24 * 17 * 512**2 + 4 * 17**2 * 512) + 6 * 3072**2
    assert forward_flops(config) == pytest.approx(by_hand)
    assert dataclasses.asdict(config)["model"]["patch_size"] == 8
    # MLPs as wide as their input: 12 w^2 instead of 24 w^2
    narrow = forward_flops(config.with_values({"model.mlp_ratio": 1.0}))
    assert forward_flops(config) - narrow == pytest.approx(12 * 17 * (12 * 192**2 + 8 * 512**2))


def test_torch_is_asked_for_gpus_only_where_there_is_a_driver():
    script = "import sys; from tune.planning.placement import Machine; Machine.here(); print('torch' in sys.modules)"
    cuda = torch.cuda.is_available()
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert run.stdout.strip() == str(may_have_gpus())
    assert may_have_gpus() or not cuda


def test_a_group_of_workers_takes_longer_to_start_than_one():
    config = preset("quick").resolve(8, 1)
    one, two = (Placement(1, 1, workers, 0, GIB, "") for workers in (1, 2))
    assert trial_seconds(config, 10, two) > trial_seconds(config, 10, one) + 5

"""CPU threads of a training: one for small steps, the user's own number kept, torch's number restored."""

from __future__ import annotations

import pytest
import torch

from pmae import devices
from pmae.config import preset, step_flops
from pmae.devices import ONE_THREAD_FLOPS, cpu_threads, pick_threads
from pmae.errors import ConfigError
from pmae.export import load_model, save_model
from pmae.trainer import pretrain

CPU = torch.device("cpu")
SMALL, LARGE = ONE_THREAD_FLOPS / 2, ONE_THREAD_FLOPS * 2


@pytest.fixture
def four_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of four cores on which torch chose four threads and the user none."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(devices.os, "cpu_count", lambda: 4)
    monkeypatch.setattr(devices, "_THREADS_AT_IMPORT", 4)
    with cpu_threads(4):
        yield


def test_small_steps_take_one_thread_and_large_ones_torchs_number(four_cores):
    assert (pick_threads(SMALL, CPU), pick_threads(LARGE, CPU)) == (1, 4)
    assert pick_threads(SMALL, torch.device("cuda")) == 4


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "MKL_NUM_THREADS"])
def test_a_number_from_the_environment_is_kept(four_cores, monkeypatch, name):
    monkeypatch.setenv(name, "4")
    assert pick_threads(SMALL, CPU) == 4


def test_a_number_set_after_the_import_is_kept(four_cores):
    with cpu_threads(2):
        assert pick_threads(SMALL, CPU) == 2


def test_a_number_set_before_the_import_is_kept(four_cores, monkeypatch):
    monkeypatch.setattr(devices, "_THREADS_AT_IMPORT", 3)
    with cpu_threads(3):
        assert pick_threads(SMALL, CPU) == 3


def test_the_result_reports_the_threads_and_torchs_setting_is_restored(four_cores, monkeypatch, digits, tiny, tmp_path):
    config, inside, between = tiny.with_values({"optim.epochs": 2}), [], []
    forward = torch.nn.Module.__call__

    def spy(*args, **kwargs):
        inside.append(torch.get_num_threads())
        return forward(*args, **kwargs)

    monkeypatch.setattr(torch.nn.Module, "__call__", spy)
    options = {"seed": 0, "device": "cpu", "on_epoch": lambda *_: between.append(torch.get_num_threads())}
    result = pretrain(config, digits, **options)
    assert (set(inside), between, result.threads, torch.get_num_threads()) == ({1}, [4, 4], 1, 4)
    assert load_model(save_model(result, tmp_path / "model")).threads == 1
    inside.clear()
    assert pretrain(config, digits, threads=2, **options).threads == 2
    assert (set(inside), torch.get_num_threads()) == ({2}, 4)
    with pytest.raises(ConfigError, match="threads is 0"):
        pretrain(config, digits, threads=0, **options)


def test_torchs_number_is_restored_after_an_error(four_cores):
    with pytest.raises(KeyError), cpu_threads(2):
        raise KeyError
    assert torch.get_num_threads() == 4


def test_the_quick_preset_is_small_on_digits_and_the_papers_model_is_not():
    quick, paper = preset("quick", "digits", "pmae"), preset("paper", "cifar10", "mae")
    assert step_flops(quick.resolve(8, 1)) < ONE_THREAD_FLOPS < step_flops(paper.resolve(32, 3))

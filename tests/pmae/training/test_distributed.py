"""The loop on two real Ray Train workers (gloo on the CPU): the same curve as in one process, also after a kill."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from pmae.errors import ConfigError, DivergedError
from pmae.trainer import pretrain
from pmae.training.distributed import PMAETrainer


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """A local Ray with two cores, its session folder removed afterwards."""
    import pmae.training.distributed  # sets Ray's environment before Ray is imported

    ray = pmae.training.distributed.ray
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    session = Path(ray._private.worker._global_node.get_session_dir_path())
    yield
    ray.shutdown()
    shutil.rmtree(session, ignore_errors=True)


def losses(result) -> list[float]:
    return [record["train_loss"] for record in result.history]


@pytest.mark.parametrize(
    ("method", "reduction", "parts"), [("pmae", "image", 1), ("pmae", "batch", 3), ("mae", "image", 1)]
)
def test_two_workers_train_as_one_process_does(digits, tiny, tmp_path, monkeypatch, method, reduction, parts):
    # 150 images in batches of 51: the workers' parts differ by an image.
    values = {"masking.method": method, "masking.reduction": reduction, "optim.batch_size": 51}
    config = tiny.with_values({**values, "optim.precision": "fp32"})
    images = digits[:150]
    if method == "mae":  # as if they were too many for the object store: each worker maps the file
        monkeypatch.setattr("pmae.training.distributed.STORE_SHARE", 0)
        np.save(tmp_path / "images.npy", images)
        images = np.asarray(np.load(tmp_path / "images.npy", mmap_mode="r"))
    alone = pretrain(config, images, seed=2)
    shared = config.with_values({"optim.accumulation_steps": parts})
    together = PMAETrainer(
        shared, images, num_workers=2, use_gpu=False, seed=2, storage_path=tmp_path, name="pair"
    ).fit()
    for name in ("train_loss", "objective", "achieved_ratio", "achieved_sd"):
        found, wanted = ([record[name] for record in r.history] for r in (together, alone))
        assert found == pytest.approx(wanted, rel=1e-4, abs=1e-9)
    unseen = torch.from_numpy(digits[150:])
    torch.testing.assert_close(together.encoder.encode(unseen), alone.encoder.encode(unseen), rtol=1e-2, atol=1e-2)


@pytest.mark.filterwarnings("ignore:12 training images give")
def test_workers_with_unequal_numbers_of_parts_exchange_in_the_same_order(digits, tiny, tmp_path):
    # Of a batch of 3 one worker has one image and one part, the other two of each.
    values = {"masking.reduction": "batch", "optim.batch_size": 3, "optim.epochs": 1, "optim.precision": "fp32"}
    config = tiny.with_values({**values, "optim.accumulation_steps": 2})
    images = digits[:12]
    together = PMAETrainer(config, images, num_workers=2, use_gpu=False, storage_path=tmp_path, name="uneven").fit()
    assert losses(together) == pytest.approx(losses(pretrain(config, images, seed=0)), rel=1e-4)


@pytest.mark.slow
def test_a_killed_worker_resumes_from_its_checkpoint(digits, tiny, tmp_path):
    config = tiny.with_values({"optim.epochs": 40, "optim.warmup_epochs": 1, "optim.precision": "fp32"})
    killer = Killer(tmp_path / "killed")
    killer.start()
    result = PMAETrainer(
        config, digits, num_workers=2, use_gpu=False, seed=0, storage_path=tmp_path, name="killed"
    ).fit()
    killer.join()
    assert killer.victim is not None, "the run ended before a worker could be killed"
    assert losses(result) == pytest.approx(losses(pretrain(config, digits, seed=0)), rel=1e-3)


def test_a_diverging_run_raises_the_named_error(digits, tiny, tmp_path):
    config = tiny.with_values({"optim.learning_rate": 1e30, "optim.warmup_epochs": 0})
    with pytest.raises(DivergedError, match="step"):
        PMAETrainer(config, digits, use_gpu=False, storage_path=tmp_path, max_failures=0).fit()


def test_more_than_the_cluster_has_is_refused(digits, tiny):
    with pytest.raises(ConfigError, match="the Ray cluster has 2 CPUs; use num_workers=2"):
        PMAETrainer(tiny, digits, num_workers=5, use_gpu=False).fit()
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="no node of the Ray cluster has a GPU"):
            PMAETrainer(tiny, np.asarray(digits), use_gpu=True).fit()


class Killer(threading.Thread):
    """SIGKILLs one training worker as soon as the run has a checkpoint."""

    def __init__(self, run: Path) -> None:
        super().__init__(daemon=True)
        self.run_folder, self.victim = run, None

    def run(self) -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if list(self.run_folder.glob("checkpoint_*")):
                workers = [
                    p for p in psutil.Process(os.getpid()).children(recursive=True) if "RayTrainWorker" in _title(p)
                ]
                if workers:
                    self.victim = workers[-1].pid
                    os.kill(self.victim, signal.SIGKILL)
                    return
            time.sleep(0.05)


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def test_components_that_are_left_out_are_fitted_once_and_sent_to_the_workers(digits, tiny, tmp_path, monkeypatch):
    import ray

    from pmae.training import distributed

    fits, sent = [], []

    class Stopped:
        def __init__(self, worker, train_loop_config, **others) -> None:
            sent.append(train_loop_config)

        def fit(self) -> None:
            raise KeyboardInterrupt

    def fit(basis, images):
        fits.append(basis)
        return fitted(basis, images)

    fitted = distributed.fit_components
    monkeypatch.setattr(distributed, "fit_components", fit)
    monkeypatch.setattr(distributed, "TorchTrainer", Stopped)
    trainer = PMAETrainer(tiny, digits, use_gpu=False, storage_path=tmp_path)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            trainer.fit()
    assert fits == ["pca"] and all(ray.get(job["components"]) is not None for job in sent)

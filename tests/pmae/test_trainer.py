"""Pre-training in one process: learning, determinism, resuming, divergence, bad input."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys

import numpy as np
import pytest
import torch

from pmae.components import PrincipalComponents
from pmae.components.moments import STD_FLOOR
from pmae.config import DataConfig, OptimConfig
from pmae.errors import ConfigError, DataError, DivergedError
from pmae.trainer import Training, pretrain
from pmae.training.loader import TrainLoader, pixel_statistics, seeded_generator
from pmae.training.loop import compiles, find_training_problem, learning_rate, set_learning_rate

CPU = torch.device("cpu")


def losses(result) -> list[float]:
    return [record["train_loss"] for record in result.history]


@pytest.mark.parametrize("method", ["pmae", "mae"])
def test_history_records_every_epoch(digits, tiny, method):
    seen = []
    config = tiny.with_values({"masking.method": method})
    result = pretrain(config, digits, seed=0, on_epoch=lambda record, model: seen.append(record["epoch"]))
    assert seen == [0, 1, 2]
    assert [set(r) for r in result.history] == [
        {"epoch", "train_loss", "objective", "learning_rate", "achieved_ratio", "achieved_sd", "images_per_second"}
    ] * 3
    assert (result.precision, result.training_problem) == ("fp32", None)
    assert (result.history[-1]["achieved_sd"] > 0.01) == (method == "pmae")
    assert (result.model.projection is None) == (method == "mae")
    assert result.config.model.image_size == 8
    wanted = {"pmae": 0.20, "mae": 0.75}[method]
    assert result.history[-1]["achieved_ratio"] == pytest.approx(wanted, abs=0.02)


@pytest.mark.parametrize("method", ["pmae", "mae"])
def test_it_learns(digits, tiny, method):
    config = tiny.with_values({"masking.method": method, "optim.epochs": 12, "data.crop_scale": [1.0, 1.0]})
    curve = losses(pretrain(config, digits, seed=0))
    assert curve[-1] < 0.9 * curve[0]


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"masking.reduction": "batch"},
        {"masking.per": "group", "masking.group_size": 5, "masking.reduction": "batch"},
        {"masking.per": "batch", "masking.loss": "pixels", "masking.reduction": "batch"},
        {"masking.method": "mae"},
        {"masking.method": "mae", "masking.reduction": "batch", "model.patch_size": 4, "model.patch_stride": 2},
    ],
)
def test_a_batch_in_parts_trains_as_in_one(digits, tiny, values):
    # 64 images in parts of 22, 21 and 21, which begin within groups of 5.
    config = tiny.with_values({**values, "optim.clip_grad_norm": 0.1})
    whole = pretrain(config, digits, seed=1)
    parts = pretrain(config.with_values({"optim.accumulation_steps": 3}), digits, seed=1)
    for name in ("train_loss", "objective", "achieved_ratio"):
        found, wanted = ([record[name] for record in r.history] for r in (parts, whole))
        assert found == pytest.approx(wanted, rel=1e-4)
    for a, b in zip(parts.model.parameters(), whole.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-3)


@pytest.mark.filterwarnings("ignore:30 training images give")
@pytest.mark.parametrize("images", [30, 200])  # fewer images than pixels leave a residual, which can be masked too
@pytest.mark.parametrize(
    "values",
    [
        {},
        {"masking.per": "group", "masking.group_size": 3},
        {"masking.loss": "pixels"},
        {"masking.method": "mae"},
        {"masking.method": "mae", "model.patch_size": 4, "model.patch_stride": 2},
    ],
)
def test_masked_values_are_counted_before_the_forward_too(digits, tiny, images, values):
    training = Training(tiny.with_values(values), digits[:images], seed=0, device=CPU)
    pixels = next(iter(training.batches.epoch(0)))
    draw = training.masks.draw(len(pixels), torch.Generator().manual_seed(0), torch.Generator().manual_seed(1))
    output = training.model(pixels, draw.mask, draw.visible_tokens)
    assert float(training.model.masked_values(draw.mask, len(pixels))) == float(output.masked_values)


def test_one_seed_fixes_everything_and_leaves_the_global_stream_alone(digits, tiny):
    torch.manual_seed(1)
    first = pretrain(tiny, digits, seed=3)
    after = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(after, torch.rand(1))
    torch.manual_seed(2)
    second = pretrain(tiny, digits, seed=3)
    assert losses(first) == losses(second)
    for a, b in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert losses(pretrain(tiny, digits, seed=4)) != losses(first)


def test_another_process_gives_the_same_numbers(digits, tiny, tmp_path):
    np.save(tmp_path / "digits.npy", digits)
    code = (
        "import json, sys, numpy as np, torch; torch.set_num_threads(int(sys.argv[3]));"
        "from pmae.config import PretrainConfig; from pmae.trainer import pretrain;"
        "r = pretrain(PretrainConfig.from_dict(json.loads(sys.argv[1])), np.load(sys.argv[2]), seed=3);"
        "print(json.dumps([h['train_loss'] for h in r.history]))"
    )
    arguments = [json.dumps(tiny.to_dict()), str(tmp_path / "digits.npy"), str(torch.get_num_threads())]
    out = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    assert json.loads(out.stdout) == losses(pretrain(tiny, digits, seed=3))


def test_every_ratio_starts_from_the_same_weights(digits, tiny):
    models = [
        Training(tiny.with_values({"masking.ratio": r}), digits, seed=5, device=CPU).model.state_dict()
        for r in (0.1, 0.6)
    ]
    assert all(torch.equal(models[0][k], models[1][k]) for k in models[0])


@pytest.mark.parametrize(
    ("values", "every"), [({}, 1), ({}, 10), ({"masking.method": "mae", "masking.ratio_range": (0.3, 0.9)}, 1)]
)
def test_a_resumed_run_equals_an_undisturbed_one(digits, tiny, tmp_path, values, every):
    config = tiny.with_values(values)
    whole = pretrain(config, digits, seed=1)

    def stop(record, model):
        if record["epoch"] == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain(config, digits, seed=1, on_epoch=stop, checkpoint_dir=tmp_path, checkpoint_every=every)
    assert (tmp_path / "epoch-000002.ckpt").exists()
    resumed = pretrain(config, digits, seed=1, resume_from=tmp_path, checkpoint_dir=tmp_path)
    assert losses(resumed) == losses(whole)
    for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_checkpoints_of_other_settings_are_refused(digits, tiny, tmp_path):
    pretrain(tiny, digits, seed=1, checkpoint_dir=tmp_path)
    with pytest.raises(ConfigError, match="seed 1, this run has 2"):
        pretrain(tiny, digits, seed=2, resume_from=tmp_path)
    with pytest.raises(ConfigError, match="config_hash"):
        pretrain(tiny.with_values({"masking.ratio": 0.5}), digits, seed=1, resume_from=tmp_path)
    with pytest.raises(DataError, match="no checkpoint"):
        pretrain(tiny, digits, seed=1, resume_from=tmp_path / "nowhere")


@pytest.mark.parametrize("method", ["pmae", "mae"])
def test_a_loss_that_explodes_names_the_step(digits, tiny, method):
    config = tiny.with_values({"masking.method": method, "optim.learning_rate": 1e30, "optim.warmup_epochs": 0})
    with pytest.raises(DivergedError, match="step") as error:
        pretrain(config, digits, seed=0)
    assert error.value.step >= 1  # the first step's loss was computed before any update
    assert not math.isfinite(error.value.value)


def test_the_learning_rate_warms_up_linearly_and_falls_as_a_cosine():
    config = OptimConfig(epochs=100, warmup_epochs=10, batch_size=512, learning_rate=1e-3)
    peak = 2e-3
    assert learning_rate(config, 0, 0.01) == pytest.approx(peak * 0.001)
    assert learning_rate(config, 4.99, 0.01) == pytest.approx(peak * 0.5)
    assert learning_rate(config, 10, 0.01) == pytest.approx(peak)
    assert learning_rate(config, 55, 0.01) == pytest.approx(peak / 2)
    assert learning_rate(config, 99.99, 0.01) == pytest.approx(0, abs=1e-7)


def test_a_learning_rate_tensor_is_filled_in_place_and_survives_a_checkpoint_of_another_device(digits, tiny):
    training, other = (Training(tiny, digits, seed=0, device=CPU) for _ in range(2))
    rate = torch.zeros(())  # what build_optimizer gives all groups on a GPU
    for group in training.optimizer.param_groups:
        group["lr"] = rate
    set_learning_rate(training.optimizer, 0.25)
    assert {id(g["lr"]) for g in training.optimizer.param_groups} == {id(rate)} and rate == 0.25
    saved = training.state()
    assert [type(g["lr"]) for g in saved["optimizer"]["param_groups"]] == [float, float]
    next(other.epochs())
    training.restore(other.state())
    set_learning_rate(training.optimizer, 0.5)
    assert {id(g["lr"]) for g in training.optimizer.param_groups} == {id(rate)} and rate == 0.5
    other.restore(saved)
    assert [type(g["lr"]) for g in other.optimizer.param_groups] == [float, float]


def test_pixel_statistics_are_exact(digits):
    images = digits.copy()
    images[:, 0, 0] = 7
    mean, std = pixel_statistics(images, np.arange(200))
    plain = images[:200].astype(np.float64).transpose(0, 3, 1, 2)
    expected = np.maximum(plain.std(0), STD_FLOOR * np.sqrt(plain.var(0).mean()))
    np.testing.assert_allclose(mean, plain.mean(0), rtol=1e-6)
    np.testing.assert_allclose(std, expected, rtol=1e-6)
    assert std[0, 0, 0] == std.min() > 10


@pytest.mark.parametrize(
    "values",
    [
        {"masking.ratio": 0.1},
        {"masking.ratio": 0.7, "masking.per": "batch"},
        {"masking.per": "group"},
        {"masking.loss": "pixels"},
        {"masking.method": "mae"},
        {"masking.method": "mae", "masking.normalize_target": True},
    ],
)
def test_predicting_the_mean_costs_one(digits, tiny, values):
    training = Training(tiny.with_values({"optim.epochs": 1, **values}), digits, seed=0, device=CPU)
    with torch.no_grad():
        training.model.decoder_pred.weight.zero_()
    training._step, step = lambda pixels, draw, rate: step(pixels, draw, 0.0), training._step
    record = next(training.epochs())
    assert record["train_loss"] == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("reduction", ["image", "batch"])
def test_the_training_loss_pools_the_batches(digits, tiny, reduction):
    parts = []
    config = tiny.with_values({"optim.epochs": 1, "masking.reduction": reduction})
    training = Training(config, digits, seed=0, device=CPU)
    forward = training.forward

    def spy(pixels, mask, tokens):
        output = forward(pixels, mask, tokens)
        basis = training.model.projection.basis.double()
        wrong, right = ((x.detach().double().flatten(1) @ basis) * mask for x in (output.prediction - pixels, pixels))
        errors, counts = wrong.square().sum(1), mask.sum(1)
        objective = (errors / counts).mean() if reduction == "image" else errors.sum() / counts.sum()
        parts.append((errors.sum(), right.square().sum(), objective))
        return output

    training.forward = spy
    record = next(training.epochs())
    error, target, objective = torch.tensor(parts).double().T
    assert record["train_loss"] == pytest.approx(float(error.sum() / target.sum()), rel=1e-5)
    assert record["objective"] == pytest.approx(float(objective.mean()), rel=1e-5)


def test_the_learning_rate_follows_the_batch_that_is_used(digits, tiny):
    asked = tiny.with_values({"optim.batch_size": 1000, "optim.warmup_epochs": 0})
    rates = [
        [record["learning_rate"] for record in pretrain(c, digits[:128], seed=0).history]
        for c in (asked, asked.with_values({"optim.batch_size": 128}))
    ]
    assert rates[0] == rates[1] and rates[0][0] == pytest.approx(asked.optim.learning_rate / 2)


def test_steps_become_epochs_of_the_images_at_hand(digits, tiny):
    config = tiny.with_values({"optim.steps": 9})
    assert config.optim.epochs is None
    result = pretrain(config, digits, seed=0)  # 4 steps of 64 an epoch
    assert len(result.history) == result.config.optim.epochs == 2
    assert result.config.optim.warmup_epochs == pytest.approx(0.1)
    assert result.config.resolve(8, 1, 300) == result.config
    with pytest.warns(UserWarning, match="50 training images give 49 of 64 components"):
        assert len(pretrain(config, digits[:50], seed=0).history) == 9


@pytest.mark.parametrize(
    ("losses", "problem"),
    [
        ([], None),
        ([0.9, 0.6, 0.4], None),
        ([1.4, 1.2, 1.23], r"the loss ended above that of predicting the mean \(1.23\)"),
        ([0.9, 0.8, 0.7, 0.61, 0.83], r"the loss rose from 0.61 \(epoch 3\) to 0.83"),
        ([0.9, 0.42, 0.4, 0.41], None),
        ([0.99, 0.97, 0.99], None),
    ],
)
def test_a_training_that_got_worse_is_named(losses, problem):
    found = find_training_problem(losses)
    assert found is None if problem is None else re.fullmatch(problem, found)


def test_a_rate_that_is_too_high_is_a_training_problem(digits, tiny):
    config = tiny.with_values({"optim.learning_rate": 5.0, "optim.epochs": 8})
    assert pretrain(config, digits, seed=0).training_problem is not None


def test_the_precision_is_recorded(digits, tiny):
    assert pretrain(tiny.with_values({"optim.epochs": 1}), digits, seed=0).precision == "fp32"
    config = tiny.with_values({"optim.epochs": 1, "optim.precision": "bf16"})
    assert pretrain(config, digits, seed=0).precision == "bf16"


@pytest.mark.parametrize("workers", [2, 3])
def test_workers_share_every_batch_without_loss_or_overlap(digits, workers):
    train = np.arange(200)
    config, statistics = DataConfig(crop_scale=(0.5, 1)), pixel_statistics(digits, train)

    def epoch(rank, world):
        return list(TrainLoader(digits, train, config, statistics, 64, 0, CPU, rank, world).epoch(2))

    whole = epoch(0, 1)
    assert len(whole) == 3
    parts = [epoch(rank, workers) for rank in range(workers)]
    for step, batch in enumerate(whole):
        assert torch.equal(torch.cat([p[step] for p in parts]), batch)


def test_streams_differ_by_purpose_and_repeat():
    draws = [
        torch.rand(4, generator=seeded_generator("cpu", *parts)) for parts in [(0, 1, "a"), (0, 1, "b"), (0, 1, "a")]
    ]
    assert torch.equal(draws[0], draws[2])
    assert not torch.equal(draws[0], draws[1])


def test_images_of_another_size_or_type_are_refused(digits, tiny):
    with pytest.raises(ConfigError, match="image_size is 16, but the images have 8"):
        pretrain(tiny.with_values({"model.image_size": 16}), digits, seed=0)
    with pytest.raises(DataError, match="uint8"):
        pretrain(tiny, digits.astype(np.float32), seed=0)
    with pytest.raises(ConfigError, match="CUDA devices"):
        pretrain(tiny, digits, seed=0, device="cuda:99")
    with pytest.raises(ConfigError, match="allowed are auto"):
        pretrain(tiny, digits, seed=0, device="gpu")
    with pytest.raises(ConfigError, match="checkpoint_every is 0"):
        pretrain(tiny, digits, seed=0, checkpoint_every=0)
    color = np.repeat(digits, 3, axis=3)
    for method in ("pmae", "mae"):  # MAE takes only the pixel statistics, which must fit too
        with pytest.raises(ConfigError, match=r"fitted on images of shape \(1, 8, 8\), these have \(3, 8, 8\)"):
            pretrain(tiny.with_values({"method": method}), color, PrincipalComponents.fit(digits), seed=0)


@pytest.mark.gpu
def test_the_gpu_trains_as_the_cpu_does(digits, tiny):
    config = tiny.with_values({"optim.precision": "fp32", "data.crop_scale": [1.0, 1.0], "optim.compile": "off"})
    on_gpu = losses(pretrain(config, digits, seed=0, device="cuda"))
    assert on_gpu == pytest.approx(losses(pretrain(config, digits, seed=0, device="cpu")), rel=0.05)


@pytest.mark.gpu
@pytest.mark.parametrize("mode", ["on", "reduce-overhead"])
@pytest.mark.parametrize("method", ["pmae", "mae"])
def test_a_compiled_step_trains_on_the_gpu_as_a_plain_one(digits, tiny, method, mode):
    config = tiny.with_values({"masking.method": method, "optim.precision": "fp32", "optim.compile": "off"})
    compiled = pretrain(config.with_values({"optim.compile": mode}), digits, seed=0, device="cuda")
    assert losses(compiled) == pytest.approx(losses(pretrain(config, digits, seed=0, device="cuda")), rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["on", "reduce-overhead"])
@pytest.mark.parametrize("method", ["pmae", "mae"])
def test_a_compiled_step_trains_as_a_plain_one(digits, tiny, method, mode):
    config = tiny.with_values({"masking.method": method})
    compiled = pretrain(config.with_values({"optim.compile": mode}), digits, seed=0)
    assert losses(compiled) == pytest.approx(losses(pretrain(config, digits, seed=0)), rel=1e-4)


def test_only_long_runs_on_a_gpu_are_compiled_unasked():
    gpu = torch.device("cuda")
    assert not compiles(OptimConfig(epochs=10), gpu, 100) and compiles(OptimConfig(epochs=800), gpu, 97)
    assert not compiles(OptimConfig(epochs=800), CPU, 97) and compiles(OptimConfig(compile="on"), CPU, 1)

"""The memory that a trial is planned with against that of a step's tensors, counted on the meta device."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest

from pmae.config import preset
from tune.planning.placement import PROCESS_MEMORY, trial_memory

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


@pytest.mark.parametrize("method", ["pmae", "mae"])
@pytest.mark.parametrize(
    ("recipe", "size", "channels", "values"),
    [
        ("quick", 8, 1, {"model.patch_size": 2}),
        ("quick", 28, 1, {}),
        ("quick", 28, 1, {"model.patch_size": 2}),
        ("quick", 28, 1, {"model.patch_size": 8, "model.patch_stride": 4}),
        ("quick", 28, 1, {"model.width": 192, "model.depth": 6, "masking.ratio": 0.3}),
        ("quick", 28, 1, {"model.mlp_ratio": 16.0}),
        ("paper", 32, 3, {"optim.batch_size": 64}),
    ],
    ids=["8 px", "28 px", "many patches", "overlapping patches", "wide", "wide MLPs", "paper"],
)
def test_a_trial_is_planned_with_at_least_what_a_step_needs(monkeypatch, method, recipe, size, channels, values):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    kernels = importlib.import_module("kernels")
    base = preset(recipe, "made", method)
    values = {**values, "optim.precision": "fp32", "optim.compile": "off"}
    values |= {"masking.basis": "dct"} if method == "pmae" else {}
    config = base.with_values(values)
    images = np.random.default_rng(0).integers(0, 256, (config.optim.batch_size, size, size, channels), dtype=np.uint8)
    config = config.resolve(size, channels, len(images))
    needed = kernels.count(config, images, fused_attention=False).peak
    planned = trial_memory(config, 0) - PROCESS_MEMORY
    # Too small would end in a killed process. The plan counts MAE's encoder as if all patches were visible.
    assert needed <= planned <= {"pmae": 2, "mae": 3}[method] * needed

"""The study of ratio x mask unit: its plan, its measures against the functions they come from, and a whole one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pmae.config import preset
from pmae.data import load_images
from pmae.probes import extract_features
from pmae.probes.corruptions import CORRUPTIONS
from pmae.reconstruction import psnr, reconstruct
from pmae.trainer import pretrain
from studies.records import read_study
from tests.tune.test_basis_study import ROOT, blank_images
from tune.options import parse_options
from tune.planning.plan import plan_study
from tune.search.confirm import candidates_to_confirm, max_candidates
from tune.theory_study import RATIOS, TheoryStudy, mask_units, measure
from tune.trial.run import MeasureInput
from tune.trial.spec import TrialSpec


@pytest.mark.parametrize(
    ("size", "units"), [(8, (2, 4)), (28, (4,)), (32, (4, 8, 16)), (64, (8, 16, 32)), (224, (28, 56, 112))]
)
def test_mask_units_of_one_two_and_four_patches_where_they_fit(size, units):
    search = TheoryStudy().fill_from_images(blank_images(size)).search
    assert search.mask_units == units and search.patch_sizes == units[:1]
    assert mask_units(size, units[0]) == units


def test_every_ratio_is_confirmed_for_every_unit():
    plan = plan_study(TheoryStudy())
    confirmed = candidates_to_confirm(plan.space, [], plan.options.rule)
    by_unit = {u: {s.ratio for s in confirmed if s.patches.mask_unit == u} for u in (None, 4)}
    assert by_unit == {None: {*RATIOS, 0.75}, 4: {0.25, 0.5, 0.75}}
    assert max_candidates(plan.space, TheoryStudy.rule) == len(confirmed)  # of 4 units three ratios differ
    asked = parse_options(["--mask-units", "4", "--patch-sizes", "2"], TheoryStudy())
    assert {s.patches.mask_unit for s in plan_study(asked).space.grid()} == {4}


@pytest.mark.parametrize(("phase", "split"), [("explore", "val"), ("confirm", "test")])
def test_what_is_measured(phase, split):
    images = load_images("digits", limit=60)
    tiny = {"model.patch_size": 2, "model.width": 16, "model.depth": 1, "model.heads": 2, "optim.epochs": 1}
    config = preset("quick", "digits", "mae").with_values(tiny).resolve(8, 1)
    result = pretrain(config, images, seed=1, device="cpu")
    features = extract_features(
        result.encoder, images, ("train", "val", "test") if split == "test" else ("train", "val")
    )
    measured = MeasureInput(result, images, TrialSpec("t", phase, 1, "x", config), features)
    assert measured.split == split
    found = measure(measured)
    pixels = torch.from_numpy(np.array(images.images[images.indices(split)]))
    rebuilt = reconstruct(result.model, pixels, result.statistics, config, 1)
    assert found["psnr"] == pytest.approx(psnr(rebuilt.completed, rebuilt.original).mean().item())
    assert set(found["corruptions"]) == set(CORRUPTIONS)
    assert found["corrupted_linear"] == pytest.approx(np.mean(list(found["corruptions"].values())))
    json.dumps(found)


@pytest.mark.timeout(600)
def test_a_small_study_shows_its_measures(tmp_path: Path):
    command = [sys.executable, str(ROOT / "tune" / "theory_study.py"), "--storage", str(tmp_path), "--name", "theory"]
    small = ["--limit", "60", "--epochs", "1", "--ratios", "0.5", "--confirm-seeds", "2"]
    run = subprocess.run([*command, *small], capture_output=True, text=True, timeout=580, check=False)
    assert run.returncode == 0, run.stderr
    rows = read_study(tmp_path / "theory").trials.to_pylist()
    assert {r["status"] for r in rows} == {"done"}
    for row in rows:
        if row["phase"] == "control":
            continue
        metrics = json.loads(row["metrics"])
        assert (row["test_linear"] is None) == (row["phase"] == "explore")
        assert 0 < metrics["psnr"] < 60 and -1 < metrics["ssim"] < 1
    assert {(r["mask_unit"], r["ratio"]) for r in rows if r["phase"] == "confirm"} == {
        (u, r) for u in (2, 4) for r in (0.5, 0.75)
    }
    page = (tmp_path / "theory" / "report.html").read_text()
    assert "What do masking ratio and mask unit do to the features?" in page
    assert "corrupted linear (%)" in page and "corruptions.jpeg (%)" in page
    assert "each mask unit at its best ratio" in " ".join(run.stdout.split()) and "psnr" in run.stdout

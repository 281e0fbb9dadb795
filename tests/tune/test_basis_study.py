"""The study of bases: its plan for images of several sizes, and a whole one in small with its comparison."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pmae.data import ImageSet, load_images
from studies.records import read_study
from studies.statistics.contrasts import compare_settings
from tune.basis_study import BASES, RATIOS, BasisStudy
from tune.options import parse_options
from tune.planning.plan import plan_study
from tune.search.confirm import candidates_to_confirm, max_candidates

ROOT = Path(__file__).resolve().parents[2]


def blank_images(size: int) -> ImageSet:
    digits = load_images("digits", limit=20)
    return replace(digits, images=np.zeros((len(digits.images), size, size, 1), np.uint8))


@pytest.mark.parametrize(("size", "patch"), [(8, 2), (28, 4), (32, 4), (64, 8)])
def test_one_patch_size_that_fits_the_images(size, patch):
    assert BasisStudy().fill_from_images(blank_images(size)).search.patch_sizes == (patch,)
    asked = parse_options(["--patch-sizes", "4"], BasisStudy())
    assert asked.fill_from_images(blank_images(size)).search.patch_sizes == (4,)


def test_every_basis_is_confirmed_with_the_same_ladder():
    plan = plan_study(BasisStudy())
    assert {(s.basis, s.ratio) for s in candidates_to_confirm(plan.space, [], plan.options.rule)} == {
        (basis, ratio) for basis in BASES for ratio in RATIOS
    }
    assert plan.trials == 0 and max_candidates(plan.space, plan.options.rule) == len(RATIOS) * len(BASES)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_small_study_compares_the_bases_and_reports_it(tmp_path):
    command = [sys.executable, str(ROOT / "tune" / "basis_study.py"), "--storage", str(tmp_path), "--name", "bases"]
    small = ["--limit", "60", "--epochs", "1", "--basis", "pca", "dct", "--ratios", "0.5", "--confirm-seeds", "2"]
    run = subprocess.run([*command, *small], capture_output=True, text=True, timeout=580, check=False)
    assert run.returncode == 0, run.stderr
    study = read_study(tmp_path / "bases")
    confirmed = [r for r in study.trials.to_pylist() if r["phase"] == "confirm"]
    assert {(r["basis"], r["ratio"], r["seed"]) for r in confirmed} == {
        (b, r, s) for b in ("pca", "dct") for r in (0.2, 0.5) for s in (1, 2)
    }
    reference, other = compare_settings(study.trials)
    assert (reference.value, other.value, other.seeds) == ("pca", "dct", 2)
    page = (tmp_path / "bases" / "report.html").read_text()
    assert "Does it matter which basis is masked?" in page and "PMAE on digits, each basis at its best ratio" in page
    assert "each basis at its best ratio" in " ".join(run.stdout.split())
    assert "PMAE on digits, patch 2, basis dct" in run.stdout

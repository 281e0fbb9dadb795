"""``import pmae`` offers the names that a researcher types, and costs next to nothing."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

import pmae


def test_every_public_name_is_importable() -> None:
    assert all(getattr(pmae, name) is not None for name in pmae.__all__)
    with pytest.raises(AttributeError, match="no attribute 'pretrian'"):
        _ = pmae.pretrian


@pytest.mark.parametrize("package", ["pmae", "studies", "tune"])
def test_importing_a_package_imports_nothing_heavy(package: str) -> None:
    code = (
        f"import sys, {package}; print(*sorted({{'torch', 'ray', 'scipy', 'matplotlib', 'numpy'}} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == []


@pytest.mark.parametrize(
    ("module", "names"),
    [
        ("pmae.data", "load_images"),
        ("pmae.components", "PrincipalComponents"),
        ("pmae.masking", "draw_component_mask draw_patch_mask"),
        ("pmae.model", "MaskedAutoencoder"),
        ("pmae.config", "PretrainConfig preset"),
        ("pmae.trainer", "pretrain PMAETrainer"),
        ("pmae.probes", "linear_probe mlp_probe knn_probe finetune"),
        ("pmae.export", "save_encoder load_encoder extract_features"),
        ("studies.records", "read_study StudyWriter TRIAL_SCHEMA HISTORY_SCHEMA"),
        ("studies.verdict", "judge"),
        ("tune", "run_study simulate StudyOptions"),
    ],
)
def test_paths_that_users_import_from_stay(module: str, names: str) -> None:
    assert not [name for name in names.split() if not hasattr(importlib.import_module(module), name)]

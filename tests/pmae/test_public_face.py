"""``import pmae`` offers the names that a researcher types, and costs next to nothing."""

from __future__ import annotations

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

"""Studies that several tests read; none of them may be written to."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.studies.make_study import make_study


@pytest.fixture(scope="session")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage folder with a whole study of digits, and a smaller one of CIFAR-10 without pictures."""
    folder = tmp_path_factory.mktemp("runs")
    make_study(folder)
    make_study(folder, "cifar10-quick", dataset="cifar10", patch_sizes=(4,), samples=False)
    return folder


@pytest.fixture(scope="session")
def digits(storage: Path) -> Path:
    """The whole study."""
    return storage / "digits-quick"

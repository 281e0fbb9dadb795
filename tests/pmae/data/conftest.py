from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of its own for every test."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("PMAE_CACHE", str(folder))
    return folder

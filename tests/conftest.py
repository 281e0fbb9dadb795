"""Options and skips shared by all tests. Slow, GPU and browser tests say why they are skipped."""

from __future__ import annotations

import os
import shutil

import pytest

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("MPLBACKEND", "Agg")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the tests marked slow too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    import torch

    reasons = {
        "slow": None if config.getoption("--slow") else "slow: run with --slow",
        "gpu": None if torch.cuda.is_available() else "no CUDA device on this machine",
        "browser": None if find_chromium() else "no Chromium and driver (apt-get install chromium chromium-driver)",
    }
    for item in items:
        for marker, reason in reasons.items():
            if reason and item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))


def find_chromium() -> str | None:
    """Path of a Chromium-like browser that a driver is there for, or None."""
    if shutil.which("chromedriver") is None:
        return None
    return next((p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None)


@pytest.fixture(autouse=True, scope="session")
def _private_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Data and component caches of the tests never touch the user's own."""
    os.environ["PMAE_CACHE"] = str(tmp_path_factory.mktemp("pmae-cache"))

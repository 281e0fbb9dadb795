"""Starting Ray: a start that fails, and what a cluster's workers are told beside what ``ray job submit`` told them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tune.run.ray_session import SWITCHES, ray_session

ROOT = Path(__file__).resolve().parents[3]
CLUSTER = "10.0.0.1:6379"


def test_a_ray_that_does_not_start_is_reported_without_a_traceback(tmp_path):
    long = tmp_path / ("x" * 100)  # Ray's sockets lie there, whose paths have at most 107 characters
    long.mkdir()
    command = [sys.executable, "tune/masking_ratio_study.py", "--storage", str(tmp_path / "runs"), "--limit", "60"]
    run = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "RAY_TMPDIR": str(long)}, capture_output=True, text=True, check=False
    )
    assert run.returncode == 1 and "Traceback" not in run.stderr
    assert "error: Ray could not be started on this machine" in run.stderr and "--address" in run.stderr
    assert not list(tmp_path.rglob("*.arrow"))


@pytest.fixture
def asked(monkeypatch) -> dict:
    """The options that ``ray.init`` is given when a cluster is joined."""
    import ray

    options: dict = {}

    def init(**given: object) -> None:
        options.update(given)
        raise KeyboardInterrupt

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr("tune.run.ray_session.cluster_address", lambda address: address)
    return options


def join(asked: dict) -> dict:
    with pytest.raises(KeyboardInterrupt), ray_session(CLUSTER, 0, False):
        pass
    return asked["runtime_env"]


def test_workers_get_the_code_the_caches_and_the_switches(asked, monkeypatch):
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    monkeypatch.setenv("PMAE_CACHE", "/shared/cache")
    told = join(asked)
    assert {Path(p).name for p in told["py_modules"]} == {"pmae", "studies", "tune"}
    assert all(Path(p).is_absolute() and Path(p).is_dir() for p in told["py_modules"])
    assert told["env_vars"]["PMAE_CACHE"] == "/shared/cache" and set(SWITCHES) <= set(told["env_vars"])


def test_settings_of_the_job_are_not_repeated(asked, monkeypatch):
    from ray.runtime_env.runtime_env import _merge_runtime_env

    of_job = {"env_vars": {"PMAE_CACHE": "/shared/cache"}, "py_modules": ["gcs://x.zip"], "working_dir": "gcs://y.zip"}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps({"runtime_env": of_job}))
    monkeypatch.setenv("PMAE_CACHE", "/shared/cache")
    told = join(asked)
    assert "PMAE_CACHE" not in told["env_vars"] and "py_modules" not in told
    assert _merge_runtime_env(of_job, told) is not None  # None is a conflict, which ray.init raises

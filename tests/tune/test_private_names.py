"""Private names of Ray and Optuna that the packages use, with the versions that were seen to have them.

A failure after an upgrade says which module to adapt. `.ci/run` tests the newest versions, `.ci/lowest` the oldest.
"""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path

import pytest
from ray._private.node import Node
from ray.air.execution._internal.actor_manager import RayActorManager
from ray.tune.execution.tune_controller import TuneController
from ray.tune.utils.object_cache import _ObjectCache

SEEN = "seen in Ray 2.50.0 and 2.60.0, Optuna 4.0.0 and 5.0.0"
PACKAGES = ("pmae", "studies", "tune")
NAMES = [
    ("ray._private.ray_constants", "ENABLE_RAY_CLUSTER", "tune/run/ray_session.py, pmae/training/distributed.py"),
    ("ray._private.services", "canonicalize_bootstrap_address", "pmae/training/distributed.py"),
    ("ray._private.utils", "read_ray_address", "tune/run/ray_session.py"),
    ("ray._private.worker", "_global_node", "tune/run/ray_session.py"),
    ("ray._private.node", "Node.dead_processes", "tune/run/ray_session.py"),
    ("ray.tune.execution.class_cache", "ENV_VARS_TO_PROPAGATE", "tune/run/ray_session.py"),
]


@pytest.mark.parametrize(("module", "name", "user"), NAMES)
def test_a_private_name_of_ray_exists(module: str, name: str, user: str) -> None:
    found = importlib.import_module(module)
    for part in name.split("."):
        assert hasattr(found, part), f"{module}.{name}, which {user} needs, is missing; {SEEN}"
        found = getattr(found, part)


def test_every_private_module_of_ray_in_the_packages_is_listed_here() -> None:
    root = Path(__file__).resolve().parents[2]
    text = "\n".join(path.read_text() for package in PACKAGES for path in (root / package).rglob("*.py"))
    used = {"ray." + name for name in re.findall(r"\bray\.(_private\.\w+|_raylet)", text)}
    for names in re.findall(r"from ray\._private import ([\w, ]+)", text):
        used |= {f"ray._private.{name.strip()}" for name in names.split(",")}
    listed = {module for module, _, _ in NAMES} - {"ray._private.node", "ray.tune.execution.class_cache"}
    assert used == listed


def test_rays_node_lists_its_processes() -> None:
    assert "self.all_processes" in inspect.getsource(Node), SEEN


def test_tune_submits_the_task_of_a_trial_where_it_is_named() -> None:
    assert "self._schedule_trial_train(trial)" in inspect.getsource(TuneController), SEEN
    assert "getattr(ray_actor, method_name)" in inspect.getsource(RayActorManager), SEEN


def test_tune_has_the_cache_of_idle_processes_that_is_enlarged() -> None:
    assert "_actor_cache" in inspect.getsource(TuneController), SEEN
    assert "force_all" in inspect.signature(TuneController._cleanup_cached_actors).parameters, SEEN
    assert "by" in inspect.signature(_ObjectCache.increase_max).parameters, SEEN

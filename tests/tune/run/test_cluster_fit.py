"""Components fitted by several processes: the same bits as by one; a file that a node does not see is named."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from pmae.components import PrincipalComponents, cached_components
from pmae.components.moments import TrainingImages
from pmae.data import load_images
from pmae.errors import DataError
from tune.run.cluster_fit import collect_moments
from tune.run.ray_session import SWITCHES


@pytest.fixture(scope="module", autouse=True)
def _two_processes():
    for name, value in SWITCHES.items():
        os.environ.setdefault(name, value)
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    session = Path(ray._private.worker._global_node.get_session_dir_path())
    yield
    ray.shutdown()
    shutil.rmtree(session, ignore_errors=True)


def test_sums_of_several_processes_give_the_same_bits(tmp_path):
    images = load_images("digits", limit=301)
    alone = PrincipalComponents.fit(images)
    together, how = cached_components(images, folder=tmp_path, collect=lambda data: collect_moments(data, 3))
    assert how == "fitted"
    np.testing.assert_array_equal(together.components, alone.components)
    np.testing.assert_array_equal(together.explained_variance_ratio, alone.explained_variance_ratio)
    assert together.fingerprint == alone.fingerprint


def test_images_in_no_file_are_sent_and_a_file_that_is_gone_is_named(tmp_path):
    array = np.random.default_rng(0).integers(0, 256, (50, 4, 4, 1), np.uint8)
    expected = TrainingImages.of(array).moments()
    np.testing.assert_array_equal(collect_moments(TrainingImages.of(array), 99).products, expected.products)
    np.save(tmp_path / "images.npy", array)
    mapped = TrainingImages.of(np.load(tmp_path / "images.npy", mmap_mode="r"))
    np.testing.assert_array_equal(collect_moments(mapped, 2).products, expected.products)
    (tmp_path / "images.npy").unlink()
    with pytest.raises(DataError, match=r"images\.npy cannot be mapped on this machine"):
        collect_moments(mapped, 2)

"""Arrays found again in the files that they are mapped from."""

from __future__ import annotations

import numpy as np
import pytest

from pmae.errors import DataError
from pmae.files import MappedArray


@pytest.fixture
def stored(tmp_path) -> np.ndarray:
    path = tmp_path / "images.npy"
    np.save(path, np.random.default_rng(0).integers(0, 256, (20, 4, 4, 3), np.uint8))
    return np.load(path, mmap_mode="r", allow_pickle=False)


def views(array: np.ndarray) -> list[np.ndarray]:
    return [array, np.asarray(array), array[5:9], np.asarray(array)[5:9], array[3:][2:7], array[7]]


def test_a_map_and_its_pieces_are_opened_as_they_were(stored):
    for view in views(stored):
        place = MappedArray.of(view)
        assert place is not None
        opened = place.open()
        np.testing.assert_array_equal(opened, view)
        assert not opened.flags.writeable


def test_only_a_contiguous_part_of_a_file_can_be_mapped(stored):
    for array in (np.zeros(3, np.uint8), stored[::2], stored[..., 0], stored.astype(np.float32), np.array(stored)):
        assert MappedArray.of(array) is None


def test_a_file_that_is_not_there_or_too_short_is_named(stored):
    place = MappedArray.of(stored)
    assert place is not None
    for wrong in (MappedArray("/nowhere/x.npy", 0, (4,)), MappedArray(place.path, place.offset, (99, 4, 4, 3))):
        with pytest.raises(DataError, match="PMAE_CACHE"):
            wrong.open()

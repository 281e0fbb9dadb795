from __future__ import annotations

import pickle

import numpy as np
import pytest

from pmae.data import ImageSet, load_images
from pmae.errors import DataError


def make(n: int = 6, **changes: object) -> ImageSet:
    fields: dict = {
        "images": np.arange(n * 12, dtype=np.uint8).reshape(n, 2, 2, 3),
        "labels": np.arange(n, dtype=np.int64) % 2,
        "class_names": ("cat", "dog"),
        "splits": {"train": np.arange(4), "test": np.array([4, 5])},
        "name": "toy",
    }
    return ImageSet(**{**fields, **changes})


def test_a_split_is_a_view_where_its_images_lie_side_by_side() -> None:
    images = make()
    test = images.split("test")
    assert np.shares_memory(test.images, images.images)
    np.testing.assert_array_equal(test.images, images.images[4:])
    np.testing.assert_array_equal(test.labels, images.labels[4:])
    assert list(test.splits) == ["test"] and test.indices("test").tolist() == [0, 1]


def test_a_scattered_split_takes_the_right_images() -> None:
    images = make(splits={"train": np.array([5, 0, 3]), "test": np.array([1])})
    np.testing.assert_array_equal(images.split("train").images, images.images[[5, 0, 3]])


def test_the_split_of_a_split_is_itself() -> None:
    train = make().split("train")
    assert train.split("train") is train


def test_a_missing_split_names_those_there_are() -> None:
    with pytest.raises(DataError, match=r"no split 'val'; its splits: train \(4 images\), test \(2 images\)"):
        make().split("val")


def test_the_fingerprint_follows_the_content_and_nothing_else() -> None:
    base = make()
    changed = base.images.copy()
    changed[5, 1, 1, 2] ^= 1
    assert make(name="other").fingerprint == base.fingerprint
    assert make(images=changed).fingerprint != base.fingerprint
    assert make(labels=1 - base.labels).fingerprint != base.fingerprint
    assert make(splits={"train": np.arange(5), "test": np.array([5])}).fingerprint != base.fingerprint
    assert base.split("train").fingerprint not in (base.fingerprint, base.split("test").fingerprint)


def test_a_set_survives_pickling() -> None:
    images = make()
    again = pickle.loads(pickle.dumps(images))
    assert again.fingerprint == images.fingerprint
    np.testing.assert_array_equal(again.images, images.images)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": np.zeros((6, 2, 2, 3), np.float32)}, "must be uint8"),
        ({"images": np.zeros((6, 2, 2, 2), np.uint8)}, "C 1 or 3"),
        ({"images": np.zeros((6, 2, 4, 3), np.uint8)}, "4x2 px; they must be square"),
        ({"labels": np.zeros((6, 2), np.int64)}, "must be int64"),
        ({"labels": np.full(6, 2)}, "labels of 'toy' run from 2 to 2"),
        ({"splits": {"train": np.array([6])}}, "points outside"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        make(**changes)


def test_digits_are_scikit_learns() -> None:
    from sklearn.datasets import load_digits

    digits = load_images("digits")
    expected = {
        (np.round(image * 255 / 16).astype(np.uint8).tobytes(), int(label))
        for image, label in zip(*load_digits(return_X_y=True), strict=True)
    }
    got = {(image.tobytes(), int(label)) for image, label in zip(digits.images, digits.labels, strict=True)}
    assert got == expected and len(digits) == 1797
    assert (digits.image_size, digits.channels, digits.name) == (8, 1, "digits")
    assert digits.images.max() == 255
    assert [len(digits.split(s)) for s in ("train", "val", "test")] == [1295, 143, 359]

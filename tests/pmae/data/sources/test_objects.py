"""Images in memory as sources: arrays, tensors, torch data sets, Hugging Face data sets."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from pmae.data import load_images
from pmae.errors import ConfigError, DataError
from tests.pmae.data.samples import encoded, pixels

COUNT = 40
IMAGES = np.stack([pixels(i) for i in range(COUNT)])
LABELS = np.arange(COUNT) % 2


class Pictures(Dataset):
    """A torch Dataset of PIL images, as torchvision's are."""

    classes = ("cat", "dog")

    def __getitem__(self, i: int) -> tuple[Image.Image, int]:
        if i >= COUNT:
            raise IndexError
        return Image.fromarray(IMAGES[i]), int(LABELS[i])

    def __len__(self) -> int:
        return COUNT


class ClassLabel:
    names = ("cat", "dog")


class HuggingFace:
    """What ``datasets.Dataset`` offers here."""

    column_names = ("id", "label", "img")
    features: ClassVar = {"id": None, "label": ClassLabel(), "img": None}
    info = SimpleNamespace(dataset_name="My Pets")

    def __getitem__(self, key: int | str) -> Any:
        if isinstance(key, str):
            return LABELS.tolist()
        return {"id": key, "label": int(LABELS[key]), "img": Image.fromarray(IMAGES[key])}

    def __len__(self) -> int:
        return COUNT


CHANNEL_FIRST = torch.from_numpy(IMAGES).permute(0, 3, 1, 2)


@pytest.mark.parametrize(
    "source",
    [
        (IMAGES, LABELS),
        (IMAGES, LABELS[:, None]),
        (IMAGES / 255, LABELS),
        (IMAGES.astype(np.int64), LABELS),
        (CHANNEL_FIRST, torch.from_numpy(LABELS)),
        (CHANNEL_FIRST.float() / 255, LABELS),
        (CHANNEL_FIRST.numpy(), LABELS),
        TensorDataset(CHANNEL_FIRST, torch.from_numpy(LABELS)),
        Pictures(),
        Subset(Pictures(), range(COUNT)),
        HuggingFace(),
        ([Image.fromarray(image) for image in IMAGES], LABELS),
        ([encoded(image) for image in IMAGES], LABELS),
        [(image, int(label)) for image, label in zip(IMAGES, LABELS, strict=True)],
    ],
    ids=[
        "array", "labels in a column", "floats", "int64", "tensor", "float tensor", "channel-first array",
        "TensorDataset", "Dataset", "Subset", "Hugging Face", "PIL images", "encoded", "pairs",
    ],
)  # fmt: skip
def test_images_in_memory_are_the_same_set(source: Any) -> None:
    images, expected = load_images(source, seed=3), load_images((IMAGES, LABELS), seed=3)
    np.testing.assert_array_equal(images.images, expected.images)
    np.testing.assert_array_equal(images.labels, expected.labels)
    assert {s: len(i) for s, i in images.splits.items()} == {"train": 28, "val": 4, "test": 8}
    got = {(image.tobytes(), int(label)) for image, label in zip(images.images, images.labels, strict=True)}
    assert got == {(image.tobytes(), int(label)) for image, label in zip(IMAGES, LABELS, strict=True)}
    for split in images.splits:
        assert abs(np.bincount(images.labels[images.indices(split)]) - len(images.indices(split)) / 2).max() <= 1


def test_names_come_from_the_source() -> None:
    found = load_images(HuggingFace())
    assert (found.name, found.class_names) == ("my-pets", ("cat", "dog"))
    assert (load_images(Pictures()).name, load_images(Pictures()).class_names) == ("pictures", ("cat", "dog"))
    assert load_images((IMAGES, np.array(["b", "a"] * 20))).class_names == ("a", "b")


def test_given_splits_are_kept() -> None:
    images = load_images({"train": (IMAGES[:20], LABELS[:20]), "validation": (IMAGES[20:], LABELS[20:])})
    np.testing.assert_array_equal(
        np.sort(images.split("test").images.sum((1, 2, 3))), np.sort(IMAGES[20:].sum((1, 2, 3)))
    )
    again = load_images(images)
    assert again.fingerprint == images.fingerprint
    assert len(load_images(images, limit=4).split("train")) == 4
    with pytest.raises(ConfigError, match="the key 'images'; the keys must be train, val and test"):
        load_images({"images": IMAGES, "labels": LABELS})
    with pytest.raises(ConfigError, match="'train' is missing"):
        load_images({"test": (IMAGES, LABELS)})
    with pytest.raises(DataError, match="only some splits"):
        load_images({"train": (IMAGES, LABELS), "test": IMAGES})


def test_unequal_sizes_need_an_image_size() -> None:
    mixed = [pixels(i, 8 + i % 2) for i in range(20)]
    with pytest.raises(DataError, match=r"different sizes: .*image 0 has 8 x 8 pixels, .*; give image_size"):
        load_images((mixed, LABELS[:20]))
    assert load_images((mixed, LABELS[:20]), image_size=8).image_size == 8
    with pytest.raises(DataError, match=r"not square; give image_size"):
        load_images((IMAGES[:, :, :6], LABELS))
    assert load_images((IMAGES[:, :, :6], LABELS), image_size=6).image_size == 6


def test_images_without_labels_can_be_loaded() -> None:
    images = load_images(IMAGES[..., :1], limit=10)
    assert not images.is_labeled and images.channels == 1 and len(images.split("train")) == 10
    assert repr(images).endswith("1 channel, no labels; train 10, val 3, test 8)")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ((IMAGES * 1.0, LABELS), r"float64 from 0 to 255; they must be uint8, or floats in \[0, 1\]"),
        ((IMAGES / 127.5 - 1, LABELS), "from -1 to 1; .* undo a normalization"),
        ((np.full_like(IMAGES, np.nan, dtype=np.float32), LABELS), "from nan to nan"),
        ((IMAGES.astype(complex), LABELS), "are complex128"),
        (np.zeros((4, 5, 6, 7, 8)), r"float64 array of shape \(4, 5, 6, 7, 8\); they must be \(N, H, W\)"),
        (IMAGES[:0], "no images"),
        ((IMAGES, LABELS[:-1]), "40 images, but 39 labels"),
        ((IMAGES, np.eye(2)[LABELS]), r"float64 array of shape \(40, 2\); they must be whole numbers or text"),
        ((IMAGES, LABELS * 1.0), "labels of 'array' are a float64 array"),
        ((IMAGES, LABELS - 1), "'array': labels run from -1 to 0; they must be class numbers from 0"),
        ([object()] * 5, "image 0 is a object; it must be a PIL image"),
        ([(image,) for image in IMAGES[:8]], "label of item 0 is None; it must be a number or text"),
    ],
)
def test_images_that_cannot_be_used_are_refused(source: Any, message: str) -> None:
    with pytest.raises(DataError, match=message) as refused:
        load_images(source)
    assert len(str(refused.value)) < 400


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (DataLoader(Pictures()), "source is a DataLoader; pass its dataset, loader.dataset"),
        (7, "source is 7; give"),
        (None, "source is None; give"),
        (iter([1]), "source is a list_iterator; give"),
    ],
)
def test_other_objects_are_refused(source: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_images(source)


def test_a_root_has_no_effect_on_images_in_memory(tmp_path: Any) -> None:
    with pytest.raises(ConfigError, match="root has no effect"):
        load_images((IMAGES, LABELS), root=tmp_path)


def test_a_set_has_a_short_repr() -> None:
    assert repr(load_images("digits")) == (
        "ImageSet('digits', 1797 images, 8 px, 1 channel, 10 classes; train 1,295, val 143, test 359)"
    )


def test_a_real_hugging_face_dataset() -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    rows = {"image": [Image.fromarray(image) for image in IMAGES], "label": LABELS.tolist()}
    found = load_images(datasets.Dataset.from_dict(rows, features=features))
    assert found.class_names == ("cat", "dog") and len(found) == COUNT

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pmae.data import load_images
from pmae.errors import DataError
from tests.pmae.data.samples import medmnist_arrays


def save(path: Path, **arrays: Any) -> str:
    np.savez_compressed(path, **arrays)
    return f"npz:{path}"


@pytest.mark.parametrize("channels", [1, 3])
def test_the_medmnist_layout(tmp_path: Path, channels: int) -> None:
    arrays = medmnist_arrays(channels=channels)
    images = load_images(save(tmp_path / "toy.npz", **arrays))
    assert images.name == "toy" and images.class_names == ("0", "1") and images.channels == channels
    for split in ("train", "val", "test"):
        expected = arrays[f"{split}_images"].reshape(-1, 28, 28, channels)
        np.testing.assert_array_equal(images.split(split).images, expected)
        np.testing.assert_array_equal(images.split(split).labels, arrays[f"{split}_labels"][:, 0])


def test_a_missing_validation_pair_is_held_out_of_train(tmp_path: Path) -> None:
    arrays = {k: v for k, v in medmnist_arrays(train=40).items() if not k.startswith("val")}
    images = load_images(save(tmp_path / "toy.npz", **arrays))
    assert {s: len(images.split(s)) for s in images.splits} == {"train": 36, "val": 4, "test": 8}


def test_class_numbers_with_gaps_become_classes_by_value(tmp_path: Path) -> None:
    arrays = medmnist_arrays()
    arrays = {k: v * 7 + 3 if k.endswith("labels") else v for k, v in arrays.items()}
    images = load_images(save(tmp_path / "toy.npz", **arrays))
    assert images.class_names == ("3", "10")
    np.testing.assert_array_equal(images.split("train").labels, np.arange(20) % 2)


def without(*keys: str) -> dict[str, Any]:
    return {k: v for k, v in medmnist_arrays().items() if k not in keys}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": np.zeros((2, 8, 8), np.uint8)}, r"no train_images, train_labels; its keys are images"),
        (without("train_labels"), "no train_labels; its keys are train_images, val_images"),
        (without("test_labels"), "no test_labels; its keys are"),
        ({**medmnist_arrays(), "train_labels": np.zeros((20, 14), np.uint8)}, "14 labels per image"),
        ({**medmnist_arrays(), "train_labels": np.zeros(19, np.uint8)}, "holds 20 images, but train_labels 19"),
        ({**medmnist_arrays(), "train_labels": np.full(20, -1)}, "labels run from -1 to 1; they must be class numbers"),
        ({**medmnist_arrays(), "train_labels": np.zeros(20)}, "must be whole numbers"),
        (
            {**medmnist_arrays(), "train_images": np.zeros((20, 28, 28))},
            r"float64 \(20, 28, 28\); images must be uint8 .*; convert images in 0..1 by",
        ),
        ({**medmnist_arrays(), "train_images": np.zeros((20, 8, 8, 8), np.uint8)}, "images must be uint8"),
        ({**medmnist_arrays(), "test_images": np.zeros((8, 32, 32), np.uint8)}, "different sizes"),
        (
            {**medmnist_arrays(), "train_images": np.array([object()] * 20)},
            "pickled object array, which is never opened",
        ),
        (
            {**medmnist_arrays(), "train_labels": np.array([object()] * 20)},
            "pickled object array, which is never opened",
        ),
    ],
)
def test_archives_that_cannot_serve_are_refused(tmp_path: Path, arrays: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_images(save(tmp_path / "toy.npz", **arrays))


def test_a_hostile_pickle_is_never_run(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(tmp_path / "owned"),)

    save(tmp_path / "toy.npz", **{**medmnist_arrays(), "val_images": np.array([Bomb()] * 6)})
    with pytest.raises(DataError, match="pickled"):
        load_images(f"npz:{tmp_path / 'toy.npz'}")
    assert not (tmp_path / "owned").exists()


def test_a_file_that_is_not_an_archive_and_a_truncated_one_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(DataError, match=r"text\.npz is not a readable npz archive"):
        load_images(f"npz:{tmp_path / 'text.npz'}")
    save(tmp_path / "cut.npz", **medmnist_arrays())
    (tmp_path / "cut.npz").write_bytes((tmp_path / "cut.npz").read_bytes()[:-100])
    with pytest.raises(DataError, match=r"cut\.npz is not a readable npz archive"):
        load_images(f"npz:{tmp_path / 'cut.npz'}")


def test_a_flipped_byte_is_noticed(tmp_path: Path) -> None:
    np.savez(tmp_path / "toy.npz", **medmnist_arrays())
    data = bytearray((tmp_path / "toy.npz").read_bytes())
    data[5000] ^= 1  # among the pixels of the first member
    (tmp_path / "toy.npz").write_bytes(bytes(data))
    with pytest.raises(DataError, match=r"train_images is corrupted or truncated"):
        load_images(f"npz:{tmp_path / 'toy.npz'}")


def write_member(path: Path, shape: tuple[int, ...], body: bytes) -> None:
    """``train_images`` with a header of ``shape`` and any body; the other members are good."""
    member = io.BytesIO()
    np.lib.format.write_array_header_1_0(member, {"descr": "|u1", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("train_images.npy", member.getvalue() + body)
        for key, array in without("train_images").items():
            with archive.open(f"{key}.npy", "w") as file:
                np.save(file, array)


def test_decompression_bombs_are_refused(tmp_path: Path) -> None:
    write_member(tmp_path / "toy.npz", (20, 1000, 1000), bytes(20_000_000))
    with pytest.raises(DataError, match="refused as a decompression bomb"):
        load_images(f"npz:{tmp_path / 'toy.npz'}")


def test_a_header_that_promises_more_than_there_is(tmp_path: Path) -> None:
    write_member(tmp_path / "toy.npz", (20, 100_000, 100_000), os.urandom(1000))
    with pytest.raises(DataError, match=r"truncated|pixels"):
        load_images(f"npz:{tmp_path / 'toy.npz'}")


def test_a_folder_and_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"missing\.npz does not exist"):
        load_images(f"npz:{tmp_path / 'missing.npz'}")
    save(tmp_path / "toy.npz", **medmnist_arrays())
    with pytest.raises(DataError, match=r"is a folder; give npz:PATH the path of a \.npz file"):
        load_images(f"npz:{tmp_path}")

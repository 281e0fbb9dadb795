"""Whatever bytes of a file are damaged, loading it ends with images or a DataError, never with anything else."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import numpy as np
import pytest

from pmae.data import load_images
from pmae.errors import DataError
from tests.pmae.data.samples import medmnist_arrays, write_parquet
from tests.pmae.data.sources.test_named import binary_files, tar, tiny_files, zipped

DAMAGES = 25


def damaged(data: bytes, seed: int) -> bytes:
    """Cut short, or with up to 20 bytes changed, mostly near the ends, where the tables of contents are."""
    draw = random.Random(seed)
    if draw.random() < 0.2:
        return data[: draw.randrange(len(data))]
    changed = bytearray(data)
    for _ in range(draw.choice([1, 3, 20])):
        near_start, near_end = draw.randrange(300), len(data) - 1 - draw.randrange(2000)
        changed[draw.choice([draw.randrange(len(data)), near_start, near_end])] = draw.randrange(256)
    return bytes(changed)


def npz(folder: Path) -> tuple[str, Path]:
    np.savez_compressed(folder / "x.npz", **medmnist_arrays())
    return f"npz:{folder}/x.npz", folder / "x.npz"


def parquet(folder: Path) -> tuple[str, Path]:
    return f"parquet:{folder}/x.parquet", write_parquet(folder / "x.parquet", [0, 1] * 12, class_names=["a", "b"])


def tiny(folder: Path) -> tuple[str, Path]:
    return "tinyimagenet", zipped(folder / "tiny-imagenet-200.zip", tiny_files())


def cifar_archive(folder: Path) -> tuple[str, Path]:
    return "cifar10", tar(folder / "cifar-10-binary.tar.gz", binary_files())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make", [npz, parquet, tiny, cifar_archive])
def test_damage_is_never_a_crash(make, tmp_path: Path, cache: Path) -> None:  # type: ignore[no-untyped-def]
    source, path = make(tmp_path)
    good = path.read_bytes()
    refused = 0
    for seed in range(DAMAGES):
        path.write_bytes(damaged(good, seed))
        try:
            load_images(source, root=tmp_path)
        except DataError:
            refused += 1
        shutil.rmtree(cache, ignore_errors=True)
    assert refused

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pmae.data import load_images
from pmae.errors import DataError
from tests.pmae.data.samples import encoded, pixels, write_parquet

LABELS = [0, 1] * 12


def numbers(images, labels) -> dict:  # type: ignore[no-untyped-def]
    """Number of each image (by its pixels) -> class name."""
    known = {pixels(i).tobytes(): i for i in range(len(labels))}
    return {known[i.tobytes()]: images.class_names[c] for i, c in zip(images.images, images.labels, strict=True)}


def test_one_file_with_class_names_from_the_metadata(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "pets.parquet", LABELS, class_names=["cat", "dog"])
    images = load_images(f"parquet:{path}")
    assert images.name == "pets" and images.class_names == ("cat", "dog")
    assert numbers(images, LABELS) == {i: ("cat", "dog")[c] for i, c in enumerate(LABELS)}
    assert {s: len(images.split(s)) for s in images.splits} == {"train": 18, "val": 2, "test": 4}


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("train-00000-of-00001.parquet", "test-00000-of-00001.parquet"),
        ("data/train-00000-of-00001-ab12.parquet", "data/validation-00000-of-00001-cd34.parquet"),
        ("default/train/0000.parquet", "default/test/0000.parquet"),
        ("partial-train/0000.parquet", "partial-test/0000.parquet"),
    ],
)
def test_splits_from_the_layouts_of_the_hub(tmp_path: Path, train: str, test: str) -> None:
    write_parquet(tmp_path / "pets" / train, LABELS)
    held = [encoded(pixels(100 + i)) for i in range(6)]
    write_parquet(tmp_path / "pets" / test, [0, 1] * 3, held)
    for source in (f"parquet:{tmp_path}/pets", f"parquet:{tmp_path}/pets/**/*.parquet"):
        images = load_images(source)
        assert {i.tobytes() for i in images.split("test").images} == {pixels(100 + i).tobytes() for i in range(6)}
        assert len(images.split("train")) + len(images.split("val")) == 24


def test_a_split_in_several_files(tmp_path: Path) -> None:
    for shard in range(2):
        numbered = [encoded(pixels(12 * shard + i)) for i in range(12)]
        write_parquet(tmp_path / f"train-0000{shard}-of-00002.parquet", LABELS[:12], numbered)
    write_parquet(tmp_path / "test-00000-of-00001.parquet", LABELS)
    assert {i.tobytes() for i in load_images(f"parquet:{tmp_path}").images} == {pixels(i).tobytes() for i in range(24)}


def test_a_single_split_requested_by_name_is_split_again(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "test-00000-of-00001.parquet", LABELS)
    assert set(load_images(f"parquet:{path}").splits) == {"train", "val", "test"}


def test_a_file_without_a_split_is_left_out_with_a_warning(tmp_path: Path) -> None:
    for name in ("train-0.parquet", "test-0.parquet", "extra-0.parquet"):
        write_parquet(tmp_path / name, LABELS)
    with pytest.warns(UserWarning, match=r"names contain no split: extra-0\.parquet"):
        assert len(load_images(f"parquet:{tmp_path}")) == 48


@pytest.mark.parametrize(
    "columns", [("img", "label"), ("image", "labels"), ("img", "fine_label"), ("picture", "label")]
)
def test_columns_are_found_by_name_and_type(tmp_path: Path, columns: tuple[str, str]) -> None:
    assert len(load_images(f"parquet:{write_parquet(tmp_path / 'x.parquet', LABELS, columns=columns)}")) == 24


def test_the_fine_label_is_taken_where_there_are_two(tmp_path: Path) -> None:
    images = pa.array([{"bytes": encoded(pixels(i))} for i in range(24)])
    table = pa.table({"coarse_label": [0] * 24, "fine_label": LABELS, "image": images})
    pq.write_table(table, tmp_path / "x.parquet")
    assert load_images(f"parquet:{tmp_path}/x.parquet").class_names == ("0", "1")


def test_text_labels_and_plain_binary_images(tmp_path: Path) -> None:
    table = pa.table({"image": [encoded(pixels(i)) for i in range(24)], "label": ["dog", "cat"] * 12})
    pq.write_table(table, tmp_path / "x.parquet")
    images = load_images(f"parquet:{tmp_path}/x.parquet")
    assert numbers(images, LABELS) == {i: "dog" if i % 2 == 0 else "cat" for i in range(24)}


def test_only_wanted_rows_are_decoded(tmp_path: Path) -> None:
    files = [encoded(pixels(i)) for i in range(24)]
    path = write_parquet(tmp_path / "x.parquet", LABELS, files)
    kept = numbers(load_images(f"parquet:{path}", limit=4), LABELS)
    broken = [data if i in kept else b"broken" for i, data in enumerate(files)]
    write_parquet(path, LABELS, broken)
    assert numbers(load_images(f"parquet:{path}", limit=4), LABELS) == kept


def test_a_broken_image_is_named_by_its_row(tmp_path: Path) -> None:
    files = [encoded(pixels(i)) for i in range(24)]
    files[7] = files[7][:50]
    path = write_parquet(tmp_path / "x.parquet", LABELS, files)
    with pytest.raises(DataError, match=r"x\.parquet, row 7 cannot be read"):
        load_images(f"parquet:{path}")
    with pytest.warns(UserWarning, match="skipped 1 unreadable"):
        assert 7 not in numbers(load_images(f"parquet:{path}", skip_unreadable=True), LABELS)


def write_table(path: Path, **columns: object) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


GOOD = [encoded(pixels(i)) for i in range(6)]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"label": [0, 1] * 3, "text": ["x"] * 6}, r"no image column .*its columns: label \(int64\), text \(string\)"),
        ({"image": GOOD, "caption": ["x"] * 6}, r"no label column; its columns: image \(binary\), caption \(string\)"),
        ({"image": GOOD, "label": [0, 1, None, 0, 1, 0]}, "1 of 6 labels in 'label' are missing"),
        ({"image": GOOD, "label": [-1] * 6}, "labels run from -1 to -1.*not public"),
        ({"image": GOOD, "label": [0.5] * 6}, "'label' is double; labels must be whole numbers or text"),
        ({"image": GOOD, "label": [[0, 1]] * 6}, "several labels per image"),
        ({"image": [None, *GOOD[1:]], "label": [0, 1] * 3}, "row 0: column 'image' holds no image bytes"),
    ],
)
def test_tables_that_cannot_serve_are_refused(tmp_path: Path, columns: dict, message: str) -> None:
    path = write_table(tmp_path / "x.parquet", **columns)
    with pytest.raises(DataError, match=message):
        load_images(f"parquet:{path}")


def test_labels_beyond_the_class_names_are_refused(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "x.parquet", [0, 1, 2] * 4, class_names=["a", "b"])
    with pytest.raises(
        DataError, match=r"x\.parquet: labels run from 0 to 2; they must be class numbers from 0 to 1 \(a, b\)"
    ):
        load_images(f"parquet:{path}")


def test_a_class_name_without_images_is_a_warning(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "x.parquet", LABELS, class_names=["a", "b", "c"])
    with pytest.warns(UserWarning, match="train split of 'x' has no images of class 'c'"):
        assert load_images(f"parquet:{path}").class_names == ("a", "b", "c")


@pytest.mark.parametrize("size", [0, 100, -20])
def test_a_truncated_file_is_refused(tmp_path: Path, size: int) -> None:
    path = write_parquet(tmp_path / "x.parquet", LABELS)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(DataError, match=r"x\.parquet is not a readable Parquet file"):
        load_images(f"parquet:{path}")


def test_a_page_with_wrong_bytes_is_refused(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "x.parquet", LABELS)
    data = bytearray(path.read_bytes())
    data[200:400] = bytes(200)
    path.write_bytes(bytes(data))
    with pytest.raises(DataError, match=r"x\.parquet"):
        load_images(f"parquet:{path}")


@pytest.mark.parametrize("name", ["missing.parquet", "no*.parquet", "."])
def test_no_files_is_an_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=r"no Parquet files at .*; give parquet:PATH a file, a glob or a folder"):
        load_images(f"parquet:{tmp_path / name}")


def test_image_size_resizes(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "x.parquet", LABELS)
    images = load_images(f"parquet:{path}", image_size=5)
    assert images.images.shape == (24, 5, 5, 3) and np.ptp(images.images) > 100

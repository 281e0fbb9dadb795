from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from pmae.data import load_images
from pmae.errors import DataError
from tests.pmae.data.samples import encoded, pixels, write_folder


def contents(images) -> set:  # type: ignore[no-untyped-def]
    """(pixels, class name) of every image."""
    return {(i.tobytes(), images.class_names[c]) for i, c in zip(images.images, images.labels, strict=True)}


def test_class_folders_without_splits(tmp_path: Path) -> None:
    images = load_images(f"folder:{write_folder(tmp_path / 'pets', {'dog': 20, 'cat': 30})}")
    assert images.name == "pets" and images.class_names == ("cat", "dog")
    assert {s: len(images.split(s)) for s in ("train", "val", "test")} == {"train": 36, "val": 4, "test": 10}
    expected = {(pixels(i).tobytes(), "dog" if i < 20 else "cat") for i in range(50)}
    assert contents(images) == expected


def test_split_folders(tmp_path: Path) -> None:
    write_folder(tmp_path / "train", {"a": 8, "b": 8})
    write_folder(tmp_path / "validation", {"a": 3, "b": 3}, first=100)
    write_folder(tmp_path / "Test", {"a": 2, "b": 2}, first=200)
    (tmp_path / "extra" / "a").mkdir(parents=True)
    with pytest.warns(UserWarning, match="other folders are left out: extra"):
        images = load_images(f"folder:{tmp_path}")
    for split, numbers in (("train", range(16)), ("val", range(100, 106)), ("test", range(200, 204))):
        assert {i.tobytes() for i in images.split(split).images} == {pixels(n).tobytes() for n in numbers}


def test_images_may_lie_deeper_and_system_files_are_no_images(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a/images": 6, "b": 6})
    for name in ("__MACOSX/a", "b/@eaDir"):
        (tmp_path / name).mkdir(parents=True)
    for name in (".DS_Store", "a/.hidden", "b/Thumbs.db", "README.md", "__MACOSX/a/._000.png", "b/@eaDir/000.jpg"):
        (tmp_path / name).write_text("no image")
    assert len(load_images(f"folder:{tmp_path}")) == 12


def test_a_relative_path_starts_from_root(tmp_path: Path) -> None:
    write_folder(tmp_path / "pets", {"a": 6, "b": 6})
    assert len(load_images("folder:pets", root=tmp_path)) == 12


def test_unreadable_images_are_named_or_skipped_and_counted(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "pets", {"a": 10, "b": 10})
    (root / "a" / "004.png").write_bytes(encoded(pixels(4))[:40])
    (root / "b" / "notes.txt").write_text("no image")
    with pytest.raises(DataError, match=r"pets/a/004\.png cannot be read"):
        load_images(f"folder:{root}")
    for _ in range(2):  # decoded, then cached
        with pytest.warns(UserWarning, match=r"(?s)pets: skipped 2 unreadable images.*004\.png.*notes\.txt"):
            images = load_images(f"folder:{root}", skip_unreadable=True)
        expected = {(pixels(i).tobytes(), "a" if i < 10 else "b") for i in range(20) if i != 4}
        assert contents(images) == expected


def test_a_class_of_which_nothing_can_be_read_is_refused(tmp_path: Path) -> None:
    root = write_folder(tmp_path, {"a": 10, "b": 10})
    for path in (root / "b").iterdir():
        path.write_text("no image")
    with pytest.raises(DataError, match="no image of 'b' in the train split can be read"):
        load_images(f"folder:{root}", skip_unreadable=True)


def empty(root: Path) -> None:
    root.mkdir()


def class_without_images(root: Path) -> None:
    write_folder(root, {"a": 3, "b": 3})
    (root / "c").mkdir()


def unlabeled(root: Path) -> None:
    root.mkdir()
    (root / "x.jpg").write_bytes(encoded(pixels(0), "JPEG"))


def one_class(root: Path) -> None:
    write_folder(root, {"a": 9})


def sizes(root: Path) -> None:
    write_folder(root, {"a": 5})
    write_folder(root / "more", {"b": 5}, size=9)
    (root / "more" / "b").rename(root / "b")
    (root / "more").rmdir()


def broken_link(root: Path) -> None:
    write_folder(root, {"a": 5, "b": 5})
    (root / "a" / "x.png").symlink_to(root / "nowhere.png")


def empty_split(root: Path) -> None:
    write_folder(root / "train", {"a": 5, "b": 5})
    (root / "test").mkdir()


def new_class_in_test(root: Path) -> None:
    write_folder(root / "train", {"a": 5, "b": 5})
    write_folder(root / "test", {"a": 5, "b": 5, "c": 5})


def linked_class(root: Path) -> None:
    write_folder(root, {"cat": 5, "dog": 5})
    (root / "all-cats").symlink_to("cat", target_is_directory=True)


def linked_root(root: Path) -> None:
    write_folder(root, {"cat": 5, "dog": 5})
    (root / "again").symlink_to(root, target_is_directory=True)


def linked_into_a_class(root: Path) -> None:
    write_folder(root, {"cat/black": 5, "dog": 5})
    (root / "black").symlink_to(root / "cat" / "black", target_is_directory=True)


def linked_split(root: Path) -> None:
    write_folder(root / "train", {"cat": 5, "dog": 5})
    (root / "test").symlink_to("train", target_is_directory=True)


def twice_linked(root: Path) -> None:
    write_folder(root.parent / "elsewhere", {"cat": 5})
    write_folder(root, {"dog": 5})
    for name in ("one", "two"):
        (root / name).symlink_to(root.parent / "elsewhere" / "cat", target_is_directory=True)


def a_file(root: Path) -> None:
    root.write_text("")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: None, "does not exist; give folder:PATH"),
        (a_file, "is a file, not a folder"),
        (empty, "is empty; it needs one sub-folder of images per class"),
        (class_without_images, r"class folder .*c holds no images; fill it or remove it"),
        (unlabeled, r"have no labels \(for example x\.jpg\); put them into one sub-folder per class"),
        (one_class, r"has a single class \(a\)"),
        (sizes, r"different sizes: .*000\.png has 8 x 8 pixels, .*000\.png has 9 x 9; give image_size"),
        (broken_link, r"x\.png is a link to a file that does not exist"),
        (empty_split, "test is empty"),
        (
            linked_class,
            r"class folder .*all-cats is a link to .*cat, which shares its images with .*; .*remove the link",
        ),
        (linked_root, "again is a link to"),
        (linked_into_a_class, "black is a link to"),
        (linked_split, "test/cat is a link to|test/cat .*shares its images"),
        (twice_linked, "two is a link to .*one"),
        (new_class_in_test, "has class 'c', which train lacks"),
    ],
)
def test_folders_that_cannot_serve_are_refused(tmp_path: Path, make, message: str) -> None:  # type: ignore[no-untyped-def]
    make(tmp_path / "data")
    with pytest.raises(DataError, match=message):
        load_images(f"folder:{tmp_path / 'data'}")


def test_images_outside_the_class_folders_are_a_warning(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a": 6, "b": 6})
    (tmp_path / "loose.png").write_bytes(encoded(pixels(0)))
    with pytest.warns(UserWarning, match="1 images in .* are outside the class folders"):
        assert len(load_images(f"folder:{tmp_path}")) == 12


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_a_pipe_is_no_image_and_is_never_opened(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a": 6, "b": 6})
    os.mkfifo(tmp_path / "a" / "pipe.png")
    assert len(load_images(f"folder:{tmp_path}")) == 12


def test_gray_files_make_a_gray_set(tmp_path: Path) -> None:
    images = load_images(f"folder:{write_folder(tmp_path, {'a': 6, 'b': 6}, channels=1)}")
    assert images.channels == 1
    assert contents(images) == {(pixels(i, channels=1).tobytes(), "a" if i < 6 else "b") for i in range(12)}
    np.testing.assert_array_equal(np.unique(images.labels), [0, 1])


@pytest.mark.parametrize("tail", ["train", "images", "birds/train/images"])
def test_a_set_is_not_named_after_its_split(tmp_path: Path, tail: str) -> None:
    root = write_folder(tmp_path / "birds" / tail, {"a": 6, "b": 6})
    assert load_images(f"folder:{root}").name == "birds"


def test_links_to_class_folders_elsewhere_are_followed(tmp_path: Path) -> None:
    write_folder(tmp_path / "store", {"cat": 6, "dog": 6})
    (tmp_path / "pets").mkdir()
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).symlink_to(tmp_path / "store" / name, target_is_directory=True)
    assert len(load_images(f"folder:{tmp_path / 'pets'}")) == 12

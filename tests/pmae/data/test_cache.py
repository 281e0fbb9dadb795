from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pmae.data import ImageSet, load_images
from pmae.data import cache as cache_module
from pmae.errors import DataError
from tests.pmae.data.samples import encoded, pixels, write_folder


@pytest.fixture
def source(tmp_path: Path) -> str:
    return f"folder:{write_folder(tmp_path / 'pets', {'cat': 10, 'dog': 10})}"


def cached_set(cache_folder: Path) -> Path:
    (found,) = (path for path in (cache_folder / "images").iterdir() if path.is_dir())
    return found


def test_the_second_load_reads_the_cache_and_no_image(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_images(source)
    monkeypatch.setattr("pmae.data.load.decode_images", None)
    second = load_images(source)
    assert second.fingerprint == first.fingerprint and second.class_names == ("cat", "dog")
    np.testing.assert_array_equal(second.images, first.images)
    assert {k: v.tolist() for k, v in second.splits.items()} == {k: v.tolist() for k, v in first.splits.items()}


def test_cached_pixels_are_a_read_only_map(source: str) -> None:
    images = load_images(source).images
    assert isinstance(images.base, np.memmap) and not images.flags.writeable


def test_settings_and_changed_files_make_a_new_set(source: str, tmp_path: Path) -> None:
    base = load_images(source).fingerprint
    assert load_images(source, seed=1).fingerprint != base
    assert load_images(source, image_size=4).image_size == 4
    assert len(load_images(source, limit=4).split("train")) == 4
    (tmp_path / "pets" / "cat" / "000.png").write_bytes(encoded(pixels(99)))
    assert load_images(source).fingerprint != base


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 4
    path.write_bytes(bytes(data))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


@pytest.mark.parametrize("damage", [flip, cut, Path.unlink], ids=["flipped bit", "cut short", "missing"])
@pytest.mark.parametrize("name", ["images.npy", "labels.npy", "set.json"])
def test_a_corrupted_cache_is_rebuilt_with_a_warning(
    source: str, cache: Path, name: str, damage: Callable[[Path], None]
) -> None:
    before = load_images(source)
    expected = before.images.copy()
    damage(cached_set(cache) / name)
    with pytest.warns(UserWarning, match=r"corrupted \(.+\); rebuilding them"):
        after = load_images(source)
    assert after.fingerprint == before.fingerprint
    np.testing.assert_array_equal(after.images, expected)
    assert [p.name for p in cached_set(cache).iterdir() if p.is_dir()] == []


def test_a_set_of_another_schema_is_built_again(source: str, cache: Path) -> None:
    load_images(source)
    path = cached_set(cache) / "set.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": 99}))
    with pytest.warns(UserWarning, match="schema version 99"):
        load_images(source)


def test_pickled_labels_in_the_cache_are_not_opened(source: str, cache: Path) -> None:
    load_images(source)
    np.save(cached_set(cache) / "labels.npy", np.array([object()]), allow_pickle=True)
    with pytest.warns(UserWarning, match="corrupted"):
        load_images(source)


LOADER = "import sys; from pmae.data import load_images; print(load_images(sys.argv[1]).fingerprint)"


def test_processes_that_build_the_same_set_at_once_agree(source: str, cache: Path) -> None:
    command = [sys.executable, "-W", "error", "-c", LOADER, source]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    prints = {process.communicate(timeout=120)[0] for process in running}
    assert {process.returncode for process in running} == {0}
    assert prints == {load_images(source).fingerprint + "\n"}
    assert len([path for path in (cache / "images").iterdir() if path.is_dir()]) == 1


def test_what_a_killed_process_left_is_cleared(source: str, cache: Path) -> None:
    load_images(source)
    found = cached_set(cache)
    stale = found.with_name(f".{found.name}.0badcafe")
    found.rename(stale)
    load_images(source)
    assert not stale.exists()


def test_a_failed_build_leaves_nothing(tmp_path: Path, cache: Path) -> None:
    root = write_folder(tmp_path / "pets", {"cat": 10, "dog": 10})
    (root / "dog" / "003.png").write_bytes(b"broken")
    with pytest.raises(DataError):
        load_images(f"folder:{root}")
    assert [path.suffix for path in (cache / "images").iterdir()] == [".lock"]


def test_a_cache_that_cannot_be_written_is_named(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PMAE_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match=r"cannot be written .* PMAE_CACHE"):
        load_images(source)


def test_a_disk_that_is_too_small_is_reported_before_it_is_full(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 100}))
    with pytest.raises(DataError, match=r"need .* MB free; lower limit"):
        load_images(source)


def test_built_in_sets_need_no_cache(cache: Path) -> None:
    assert isinstance(load_images("digits"), ImageSet)
    assert not cache.exists()


def test_the_cache_is_in_the_home_folder_by_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("PMAE_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_module.cache_dir() == tmp_path / ".cache" / "pmae"


def test_a_full_disk_while_allocating_is_one_clear_error(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("os.posix_fallocate", raising=False)  # macOS has none

    class FullDisk(io.FileIO):
        def write(self, content: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    opened = Path.open
    monkeypatch.setattr(
        Path,
        "open",
        lambda self, mode="r", *a, **k: FullDisk(self, mode) if mode == "wb" else opened(self, mode, *a, **k),
    )
    with pytest.raises(DataError, match=r"cannot be written .*No space left.*PMAE_CACHE"):
        load_images(source)


def test_the_file_of_a_set_is_allocated_in_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "BLOCK", 1000)
    images = cache_module._allocate_in_file(tmp_path / "x.npy", (7, 10, 10, 3))
    assert images.shape == (7, 10, 10, 3) and not images.any()
    assert os.stat(tmp_path / "x.npy").st_blocks * 512 >= images.size
    images[:] = 1
    again = cache_module._allocate_in_file(tmp_path / "x.npy", (2, 10, 10, 1))  # after gray images, in color
    assert again.shape == (2, 10, 10, 1) and not again.any()

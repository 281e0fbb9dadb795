"""The named sets: their real layouts in small, read from a root and downloaded from a server."""

from __future__ import annotations

import hashlib
import io
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pmae.data import load_images
from pmae.data.download import Remote
from pmae.data.sources import named
from pmae.errors import ConfigError, DataError
from tests.pmae.data.samples import encoded, medmnist_arrays, pixels
from tests.pmae.data.server import serving

PER_BATCH = 20
unofficial = pytest.mark.filterwarnings("ignore:.*is not the published file")


def cifar_batches() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Batch name -> images (N, 32, 32, 3), labels (N,)."""
    names = [name for names in named.CIFAR10_BATCHES.values() for name in names]
    return {
        name: (
            np.stack([pixels(100 * b + i, 32) for i in range(PER_BATCH)]),
            np.arange(PER_BATCH, dtype=np.int64) % 10,
        )
        for b, name in enumerate(names)
    }


def binary_files() -> dict[str, bytes]:
    return {
        f"cifar-10-batches-bin/{name}.bin": b"".join(
            bytes([label]) + image.transpose(2, 0, 1).tobytes() for image, label in zip(*batch, strict=True)
        )
        for name, batch in cifar_batches().items()
    }


def tar(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def unpack(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


@unofficial
@pytest.mark.parametrize(
    "place",
    [
        lambda root: tar(root / "cifar-10-binary.tar.gz", binary_files()),
        lambda root: unpack(root, binary_files()),
    ],
    ids=["archive", "folder"],
)
def test_cifar10_in_every_form_is_the_same(tmp_path: Path, place: Callable[[Path], Path]) -> None:
    place(tmp_path)
    images = load_images("cifar10", root=tmp_path)
    batches = cifar_batches()
    np.testing.assert_array_equal(images.split("test").images, batches["test_batch"][0])
    np.testing.assert_array_equal(images.split("test").labels, batches["test_batch"][1])
    train = {
        (i.tobytes(), int(c)) for name in named.CIFAR10_BATCHES["train"] for i, c in zip(*batches[name], strict=True)
    }
    held = [images.split(s) for s in ("train", "val")]
    assert {(i.tobytes(), int(c)) for s in held for i, c in zip(s.images, s.labels, strict=True)} == train
    assert [len(s) for s in held] == [90, 10]
    assert images.class_names[3] == "cat" and images.name == "cifar10"


@unofficial
def test_the_binary_archive_is_read_where_both_versions_are_there(tmp_path: Path) -> None:
    (tmp_path / "cifar-10-batches-py").mkdir()
    tar(tmp_path / "cifar-10-binary.tar.gz", binary_files())
    assert len(load_images("cifar10", root=tmp_path)) == 6 * PER_BATCH


@unofficial
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.popitem(), "CIFAR-10 is incomplete: .*test_batch.bin missing"),
        (lambda f: f.update({"cifar-10-batches-bin/data_batch_2.bin": b"short"}), "data_batch_2.bin has 5 bytes"),
        (
            lambda f: f.update({"cifar-10-batches-bin/data_batch_2.bin": b"\xff" * 3073}),
            "corrupted files of CIFAR-10: labels run from 0 to 255",
        ),
    ],
)
def test_corrupted_or_hostile_cifar10_archives_are_refused(
    tmp_path: Path, change: Callable[[dict], None], message: str
) -> None:
    files = binary_files()
    change(files)
    tar(tmp_path / "cifar-10-binary.tar.gz", files)
    with pytest.raises(DataError, match=message):
        load_images("cifar10", root=tmp_path)


@unofficial
def test_links_in_a_tar_archive_are_not_followed(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "cifar-10-binary.tar.gz", "w:gz") as archive:
        link = tarfile.TarInfo("cifar-10-batches-bin/data_batch_1.bin")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    with pytest.raises(DataError, match="CIFAR-10 is incomplete: data_batch_1"):
        load_images("cifar10", root=tmp_path)


@unofficial
def test_a_truncated_tar_archive_is_refused(tmp_path: Path) -> None:
    path = tar(tmp_path / "cifar-10-binary.tar.gz", binary_files())
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(DataError, match="not a readable tar archive"):
        load_images("cifar10", root=tmp_path)


WNIDS = {"n02000001": "crane, bird", "n01000001": "goldfish, Carassius auratus", "n03000001": "crane"}


def tiny_files() -> dict[str, bytes]:
    files = {
        "wnids.txt": "\n".join(WNIDS).encode(),
        "words.txt": "\n".join(f"{k}\t{v}" for k, v in WNIDS.items()).encode(),
        "test/images/test_0.JPEG": b"the official test split has no labels",
    }
    lines = []
    for c, wnid in enumerate(WNIDS):
        for i in range(10):
            files[f"train/{wnid}/images/{wnid}_{i}.JPEG"] = encoded(pixels(100 * c + i), "PNG")
        files[f"train/{wnid}/{wnid}_boxes.txt"] = b"boxes"
        files[f"val/images/val_{c}.JPEG"] = encoded(pixels(1000 + c), "PNG")
        lines.append(f"val_{c}.JPEG\t{wnid}\t0\t0\t9\t9")
    return {**files, "val/val_annotations.txt": "\n".join(lines).encode()}


def zipped(path: Path, files: dict[str, bytes], prefix: str = "tiny-imagenet-200/") -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(prefix + name, data)
    return path


@unofficial
@pytest.mark.parametrize(
    "place",
    [
        lambda root: zipped(root / "tiny-imagenet-200.zip", tiny_files()),
        lambda root: zipped(root / "tiny-imagenet-200-part.zip", tiny_files()),
        lambda root: unpack(root / "tiny-imagenet-200", tiny_files()),
        lambda root: unpack(root, tiny_files()),
    ],
    ids=["archive", "part of it", "folder", "the root itself"],
)
def test_tinyimagenet_packed_or_not(tmp_path: Path, place: Callable[[Path], Path]) -> None:
    place(tmp_path)
    images = load_images("tinyimagenet", root=tmp_path)
    assert images.class_names == ("goldfish", "crane (n02000001)", "crane (n03000001)")
    test = images.split("test")
    assert {(i.tobytes(), int(c)) for i, c in zip(test.images, test.labels, strict=True)} == {
        (pixels(1000).tobytes(), 1),
        (pixels(1001).tobytes(), 0),
        (pixels(1002).tobytes(), 2),
    }
    assert (len(images.split("train")), len(images.split("val"))) == (27, 3)
    train = images.split("train")
    label = dict(zip((i.tobytes() for i in train.images), train.labels.tolist(), strict=True))
    assert all(label.get(pixels(100 + i).tobytes(), 0) == 0 for i in range(10))


def without(name: str) -> Callable[[dict], object]:
    return lambda files: files.pop(name)


@unofficial
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("val/val_annotations.txt"), r"val/val_annotations\.txt is missing"),
        (without("words.txt"), r"words\.txt is missing"),
        (without("val/images/val_1.JPEG"), r"names missing val/images/val_1\.JPEG"),
        (lambda f: f.update({"val/val_annotations.txt": b"val_0.JPEG\tn09999999"}), "names class 'n09999999'"),
        (lambda f: f.update({"train/n01000001/images/x.JPEG": b"broken"}), r"images/x\.JPEG cannot be read"),
    ],
)
def test_corrupted_or_hostile_tinyimagenet_archives_are_refused(
    tmp_path: Path, change: Callable[[dict], object], message: str
) -> None:
    files = tiny_files()
    change(files)
    zipped(tmp_path / "tiny-imagenet-200.zip", files)
    with pytest.raises(DataError, match=message):
        load_images("tinyimagenet", root=tmp_path)


@unofficial
def test_bombs_in_a_zip_archive_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zipped(tmp_path / "tiny-imagenet-200.zip", tiny_files())
    monkeypatch.setattr("pmae.data.sources.named.MAX_MEMBER_BYTES", 10)
    with pytest.raises(DataError, match="refused as a decompression bomb"):
        load_images("tinyimagenet", root=tmp_path)


def published(name: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> Remote:
    """Let the file at ``path`` be the published one."""
    old: Remote = getattr(named, name)
    new = Remote(old.url, old.filename, hashlib.md5(path.read_bytes()).hexdigest())
    monkeypatch.setattr(named, name, new)
    return new


def test_named_sets_are_downloaded_once_into_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zipped(tmp_path / "tiny.zip", tiny_files())
    tar(tmp_path / "cifar.tar.gz", binary_files())
    np.savez(tmp_path / "blood.npz", **medmnist_arrays(channels=3))
    tiny = published("TINY_IMAGENET", tmp_path / "tiny.zip", monkeypatch)
    cifar = published("CIFAR10", tmp_path / "cifar.tar.gz", monkeypatch)
    info = named.medmnist_info()["bloodmnist"]
    monkeypatch.setitem(info, "MD5", hashlib.md5((tmp_path / "blood.npz").read_bytes()).hexdigest())
    files = {
        tiny.filename: (tmp_path / "tiny.zip").read_bytes(),
        cifar.filename: (tmp_path / "cifar.tar.gz").read_bytes(),
        "bloodmnist.npz": (tmp_path / "blood.npz").read_bytes(),
    }
    root = tmp_path / "root"
    with serving(files=files, break_after=5000, breaks=3) as server, warnings.catch_warnings():
        warnings.simplefilter("error")  # the file is the published one, so nothing is to be said
        warnings.filterwarnings("ignore", ".* split of 'bloodmnist' has no images")
        monkeypatch.setenv("PMAE_MIRROR", server.url)
        sizes = {name: len(load_images(name, root=root)) for name in ("tinyimagenet", "cifar10", "bloodmnist")}
        assert sizes == {"tinyimagenet": 33, "cifar10": 120, "bloodmnist": 34}
        asked = len(server.requests)
        load_images("cifar10", root=root, seed=1)
        assert len(server.requests) == asked
    assert {path.name for path in root.iterdir() if not path.name.startswith(".")} == set(files)


def test_files_other_than_the_published_ones_are_used_with_a_warning(tmp_path: Path) -> None:
    np.savez(tmp_path / "pneumoniamnist.npz", **medmnist_arrays())
    with pytest.warns(UserWarning, match=r"pneumoniamnist\.npz is not the published file \(MD5"):
        images = load_images("pneumoniamnist", root=tmp_path)
    assert images.class_names == ("normal", "pneumonia") and images.channels == 1


@pytest.mark.parametrize(("asked", "taken"), [(None, 28), (8, 28), (32, 28), (46, 64), (64, 64), (96, 128), (512, 224)])
def test_medmnist_takes_the_nearest_published_size(asked: int | None, taken: int) -> None:
    assert named.nearest_size(asked) == taken


@unofficial
@pytest.mark.filterwarnings("ignore:.* split of 'pathmnist' has no images")
def test_medmnist_reads_the_file_of_its_size_and_resizes(tmp_path: Path) -> None:
    np.savez(tmp_path / "pathmnist_64.npz", **medmnist_arrays(size=64, channels=3))
    assert load_images("pathmnist", root=tmp_path, image_size=64).image_size == 64
    assert load_images("pathmnist", root=tmp_path, image_size=60).image_size == 60


def test_every_2d_medmnist_set_is_known_with_url_and_checksum_at_every_size() -> None:
    names = [name for name in named.medmnist_info() if not name.endswith("3d")]
    assert {"bloodmnist", "dermamnist", "pathmnist", "retinamnist", "organamnist"} < set(names) and len(names) == 12
    for name in names:
        for tail in ("", "_64", "_128", "_224"):
            info = named.medmnist_info()[name]
            assert info[f"url{tail}"].startswith("https://") and len(info[f"MD5{tail}"]) == 32


def test_medmnist_sets_that_do_not_fit_say_why() -> None:
    with pytest.raises(DataError, match=r"chestmnist has 14 labels per image \(multi-label\) and .*AUROC") as refused:
        load_images("chestmnist")
    assert "choose another: pathmnist, dermamnist" in str(refused.value)
    with pytest.raises(DataError, match="organmnist3d holds volumes"):
        load_images("organmnist3d")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("cifar", r"unknown dataset 'cifar' \(did you mean 'cifar10'\?\); available are digits, cifar10, tinyimagenet"),
        ("CIFAR10", "did you mean 'cifar10'"),
        ("bloodmist", "did you mean 'bloodmnist'"),
        ("zebras", "available are digits, .*pathmnist, .*folder:PATH, parquet:PATH, npz:PATH"),
        ("digits:here", "unknown dataset 'digits:here'"),
        ("folder", "has no path; write folder:PATH"),
        ("parquet:", "has no path; write parquet:PATH"),
    ],
)
def test_unknown_sources_are_refused_with_the_list(source: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_images(source)


@pytest.mark.parametrize("source", ["tinyimagenet", "cifar10", "bloodmnist"])
def test_a_root_that_is_a_file_is_refused_with_its_folder(source: str, tmp_path: Path) -> None:
    archive = tmp_path / "images.zip"
    archive.write_bytes(b"x")
    with pytest.raises(DataError, match=rf"images.zip is a file; give its parent folder: root='{tmp_path}'"):
        load_images(source, root=archive)


def test_a_path_without_its_kind_is_recognised(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"did you mean 'folder:{tmp_path}'"):
        load_images(str(tmp_path))
    (tmp_path / "x.parquet").write_bytes(b"")
    with pytest.raises(ConfigError, match=rf"did you mean 'parquet:{tmp_path}/x\.parquet'"):
        load_images(str(tmp_path / "x.parquet"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_size": 3}, "image_size is 3; it must be a whole number of at least 4"),
        ({"image_size": 8.0}, "image_size is 8.0"),
        ({"limit": 0}, "limit is 0"),
        ({"limit": 9}, "limit is 9, but 'digits' has 10 classes"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_images("digits", **settings)


def test_settings_may_be_numpy_integers() -> None:
    found = load_images("digits", image_size=np.int64(8), limit=np.int32(20), seed=np.int64(1))
    assert found.fingerprint == load_images("digits", image_size=8, limit=20, seed=1).fingerprint

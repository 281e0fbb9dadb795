from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pmae.data import decode
from pmae.data.cache import allocate_in_memory
from pmae.data.decode import UnreadableError, decode_image, decode_images
from pmae.errors import DataError
from tests.pmae.data.samples import encoded, pixels


def decode_all(payloads: list, **options: object) -> tuple[np.ndarray, list]:
    wanted = np.arange(len(payloads))
    read = lambda rows: ((f"file {i}", payloads[i]) for i in rows)  # noqa: E731
    return decode_images(read, wanted, allocate_in_memory, **options)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "JPEG2000"])
@pytest.mark.parametrize("channels", [1, 3])
def test_lossless_files_come_back_exactly(kind: str, channels: int) -> None:
    image = pixels(0, 9, channels)
    np.testing.assert_array_equal(decode_image("x", encoded(image, kind)), image)


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"quality": 30}, {"subsampling": 0}, {"optimize": True}]
)
@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_files_give_pillows_pixels(channels: int, options: dict) -> None:
    options = {k: v for k, v in options.items() if channels == 3 or k != "subsampling"}
    data = encoded(pixels(1, 37, channels), "JPEG", **options)
    expected = np.asarray(Image.open(io.BytesIO(data))).reshape(37, 37, channels)
    np.testing.assert_array_equal(decode_image("x", data), expected)


def test_cmyk_and_rotated_jpeg_files(tmp_path: Path) -> None:
    Image.fromarray(pixels(2, 16)).convert("CMYK").save(tmp_path / "cmyk.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees
    Image.fromarray(pixels(2, 16)).crop((0, 0, 8, 16)).save(tmp_path / "rotated.jpg", exif=exif)
    assert decode_image("x", tmp_path / "cmyk.jpg").shape == (16, 16, 3)
    assert decode_image("x", tmp_path / "rotated.jpg").shape == (8, 16, 3)


def test_palettes_transparency_and_16_bit_gray(tmp_path: Path) -> None:
    Image.fromarray(pixels(3)).quantize(16).save(tmp_path / "palette.png")
    Image.fromarray(pixels(3, channels=4)).save(tmp_path / "rgba.png")
    deep = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000
    Image.fromarray(deep).save(tmp_path / "deep.png")
    assert decode_image("x", tmp_path / "palette.png").shape == (8, 8, 3)
    np.testing.assert_array_equal(decode_image("x", tmp_path / "rgba.png"), pixels(3, channels=4)[..., :3])
    np.testing.assert_array_equal(decode_image("x", tmp_path / "deep.png")[..., 0], deep >> 8)


def test_resizing_crops_the_centre_square_and_is_pillows_bicubic() -> None:
    wide = np.concatenate([pixels(4, 12), pixels(5, 12)], axis=1)  # 24 x 12
    expected = Image.fromarray(wide[:, 6:18]).resize((5, 5), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(decode_image("x", encoded(wide), 5), np.asarray(expected))
    np.testing.assert_array_equal(decode_image("x", wide, 5), np.asarray(expected))


def test_rows_follow_the_wanted_order() -> None:
    images = [pixels(i) for i in range(300)]
    wanted = np.random.default_rng(0).permutation(300)[:200]

    def read(rows: np.ndarray):  # type: ignore[no-untyped-def]
        assert (np.diff(rows) > 0).all()
        return ((str(i), encoded(images[i])) for i in rows)

    decoded, _ = decode_images(read, wanted, allocate_in_memory)
    np.testing.assert_array_equal(decoded, np.stack([images[i] for i in wanted]))


def test_large_files_go_through_threads_with_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    payloads = [encoded(pixels(i)) for i in range(600)]
    inline, _ = decode_all(payloads)
    monkeypatch.setattr(decode, "THREADED_FROM", 0)
    threaded, _ = decode_all(payloads)
    np.testing.assert_array_equal(inline, threaded)


def test_gray_stays_gray_until_one_image_is_in_color() -> None:
    gray, color = [pixels(i, channels=1) for i in range(3)], pixels(9)
    assert decode_all([encoded(g) for g in gray])[0].shape == (3, 8, 8, 1)
    mixed, _ = decode_all([*(encoded(g) for g in gray), encoded(color)])
    np.testing.assert_array_equal(mixed, np.stack([*(g.repeat(3, axis=2) for g in gray), color]))


def test_different_sizes_need_an_image_size() -> None:
    payloads = [encoded(pixels(0, 8)), encoded(pixels(1, 10))]
    with pytest.raises(DataError, match=r"file 0 has 8 x 8 pixels, file 1 has 10 x 10; give image_size"):
        decode_all(payloads)
    assert decode_all(payloads, image_size=8)[0].shape == (2, 8, 8, 3)


def test_images_that_are_not_square_need_an_image_size() -> None:
    with pytest.raises(DataError, match="file 0 has 4 x 8 pixels and is not square; give image_size"):
        decode_all([encoded(pixels(0, 8)[:, :4])])


PNG = encoded(pixels(0, 32))
JPEG = encoded(pixels(0, 32), "JPEG")


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        b"not an image",
        PNG[: len(PNG) // 2],
        JPEG[: len(JPEG) // 2],
        JPEG[:-2],
        JPEG[:20],
        b"%!PS-Adobe-3.0 EPSF-3.0\n",
    ],
    ids=["empty", "text", "png cut", "jpeg cut", "jpeg end", "jpeg start", "eps"],
)
def test_unreadable_files_are_named_or_skipped(broken: bytes) -> None:
    payloads = [encoded(pixels(0)), broken, encoded(pixels(2))]
    with pytest.raises(DataError, match=r"file 1 cannot be read as an image .*skip_unreadable"):
        decode_all(payloads)
    images, failed = decode_all(payloads, skip_unreadable=True)
    assert [index for index, _ in failed] == [1]
    np.testing.assert_array_equal(images[[0, 2]], np.stack([pixels(0), pixels(2)]))


def test_a_file_that_is_not_an_image_is_reported_without_internals() -> None:
    with pytest.raises(DataError, match=r"^x cannot be read as an image \(not one of JPEG, PNG, [^)]*\); repair"):
        decode_image("x", b"not an image")


def giant_png(width: int, height: int) -> bytes:
    """A few bytes that declare an enormous picture."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(9000, 9000), (60000, 60000)])
def test_giant_images_are_refused_before_they_are_unpacked(size: tuple[int, int]) -> None:
    with pytest.raises(UnreadableError, match=r"pixels|DecompressionBomb"):
        decode_image("bomb.png", giant_png(*size))


def test_a_jpeg_that_declares_a_giant_is_refused() -> None:
    at = JPEG.index(b"\xff\xc0") + 5
    bomb = JPEG[:at] + struct.pack(">HH", 60000, 60000) + JPEG[at + 4 :]
    with pytest.raises(UnreadableError, match=r"bomb\.jpg"):
        decode_image("bomb.jpg", bomb)


def test_files_too_large_to_be_images_are_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "MAX_FILE_BYTES", 100)
    (tmp_path / "large.png").write_bytes(PNG)
    with pytest.raises(UnreadableError, match=r"large\.png"):
        decode_image("large.png", tmp_path / "large.png")

"""read_image: every format and depth comes out as its own library says, or is refused in words."""

from __future__ import annotations

import contextlib
import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from scanwise.core.errors import DataError
from scanwise.data import images as module
from scanwise.data.images import image_size, read_image, sniff
from scanwise.data.pixels import fit_to_square, is_grey, plain_depth, promote, turn_upright

RNG = np.random.default_rng(3)
COLOR = RNG.integers(0, 256, (37, 53, 3), np.uint8)
GREY = COLOR[..., 0].copy()
SMOOTH = cv2.GaussianBlur(cv2.resize(COLOR, (160, 120)), (0, 0), 5)
DEEP = (RNG.integers(0, 65536, (37, 53, 3))).astype(np.uint16)


def encoded(pixels: np.ndarray | Image.Image, kind: str, **how: object) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    buffer = io.BytesIO()
    image.save(buffer, kind, **how)
    return buffer.getvalue()


def cv_png(pixels: np.ndarray) -> bytes:
    """PNG by OpenCV, which writes 16 bits; channels in BGR(A) order."""
    done, buffer = cv2.imencode(".png", pixels)
    assert done
    return buffer.tobytes()


def png(width: int, height: int, depth: int, color: int, raw: bytes, *more: bytes) -> bytes:
    """A PNG by the letter of its specification, for what no library here writes."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    extra = b"".join(chunk(part[:4], part[4:]) for part in more)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + extra
        + chunk(b"IDAT", zlib.compress(raw))
        + chunk(b"IEND", b"")
    )


# --- formats and depths -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(encoded(COLOR, "PNG"), COLOR, id="png rgb"),
        pytest.param(encoded(GREY, "PNG"), GREY[..., None], id="png grey"),
        pytest.param(encoded(COLOR, "BMP"), COLOR, id="bmp"),
        pytest.param(encoded(GREY, "BMP"), GREY[..., None], id="bmp grey"),
        pytest.param(encoded(COLOR, "WEBP", lossless=True), COLOR, id="webp"),
        pytest.param(encoded(COLOR, "TIFF"), COLOR, id="tiff"),
        pytest.param(cv_png(DEEP[..., 0]), DEEP[..., :1], id="png grey 16"),
        pytest.param(cv_png(DEEP[..., ::-1]), DEEP, id="png rgb 16 (not bgr)"),
    ],
)
def test_lossless_formats_keep_every_pixel(data: bytes, expected: np.ndarray) -> None:
    image = read_image(data)
    assert image.pixels.dtype == expected.dtype
    np.testing.assert_array_equal(image.pixels, expected)
    assert image.notes == ()


@pytest.mark.parametrize("pixels", [SMOOTH, SMOOTH[..., 0]], ids=["rgb", "grey"])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_agrees_with_pillow(pixels: np.ndarray, progressive: bool) -> None:
    data = encoded(pixels, "JPEG", quality=92, progressive=progressive)
    ours = read_image(data).pixels
    theirs = np.asarray(Image.open(io.BytesIO(data)))
    assert ours.shape == (120, 160, 3 if pixels.ndim == 3 else 1)
    assert np.abs(ours.squeeze().astype(int) - theirs).max() <= 2
    assert np.abs(ours.squeeze().astype(int) - pixels).mean() < 4  # RGB, not BGR


def test_cmyk_jpeg_becomes_rgb_and_is_noted() -> None:
    data = encoded(Image.fromarray(SMOOTH).convert("CMYK"), "JPEG", quality=95)
    image = read_image(data)
    assert image.notes == ("CMYK converted to RGB",)
    assert np.abs(image.pixels.astype(int) - SMOOTH).mean() < 4


def test_palette_becomes_rgb() -> None:
    palette = Image.fromarray(COLOR).quantize(16)
    image = read_image(encoded(palette, "PNG"))
    np.testing.assert_array_equal(image.pixels, np.asarray(palette.convert("RGB")))
    assert image.notes == ("palette expanded to RGB",)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_one_bit_becomes_grey_of_0_and_255(kind: str) -> None:
    bits = GREY > 127
    pixels = read_image(encoded(Image.fromarray(bits), kind)).pixels
    np.testing.assert_array_equal(pixels[..., 0], bits * 255)
    assert pixels.dtype == np.uint8


def test_four_bit_png_is_spread_over_the_whole_range() -> None:
    rows = b"\0\x0f\xf0" + b"\0\x12\x34"  # filter byte, then four pixels of four bits
    pixels = read_image(png(4, 2, 4, 0, rows)).pixels[..., 0]
    np.testing.assert_array_equal(pixels, np.array([[0, 15, 15, 0], [1, 2, 3, 4]]) * 17)


def test_single_frame_gif_is_read() -> None:
    still = Image.fromarray(GREY)
    np.testing.assert_array_equal(read_image(encoded(still, "GIF")).pixels[..., 0], GREY)


# --- alpha --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_alpha_is_composited_on_black(kind: str) -> None:
    alpha = RNG.integers(0, 256, GREY.shape, np.uint8)
    rgba = np.dstack([COLOR, alpha])
    how = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    image = read_image(encoded(rgba, kind, **how))
    expected = np.rint(COLOR.astype(float) * alpha[..., None] / 255)
    assert image.pixels.shape == COLOR.shape
    np.testing.assert_array_equal(image.pixels, expected)
    assert image.notes == ("alpha composited on black",)


def test_grey_with_alpha_stays_grey() -> None:
    alpha = np.full_like(GREY, 128)
    image = read_image(encoded(Image.fromarray(np.dstack([GREY, alpha]), "LA"), "PNG"))
    np.testing.assert_array_equal(image.pixels[..., 0], np.rint(GREY.astype(float) * 128 / 255))
    assert image.pixels.shape[2] == 1


def test_sixteen_bit_alpha_is_composited_at_full_depth() -> None:
    alpha = RNG.integers(0, 65536, GREY.shape).astype(np.uint16)
    image = read_image(cv_png(np.dstack([DEEP[..., ::-1], alpha])))
    expected = np.rint(DEEP.astype(float) * alpha[..., None] / 65535)
    assert image.pixels.dtype == np.uint16
    np.testing.assert_array_equal(image.pixels, expected)


def test_sixteen_bit_grey_with_alpha() -> None:
    samples = np.array([[1000, 65535], [40000, 32768]], ">u2")  # (value, alpha) twice
    image = read_image(png(2, 1, 16, 4, b"\0" + samples.tobytes()))
    expected = [1000, round(40000 * 32768 / 65535)]
    np.testing.assert_array_equal(image.pixels, np.array(expected).reshape(1, 2, 1))


def test_transparent_color_counts_as_alpha() -> None:
    """PNG's tRNS: one grey value is fully transparent."""
    image = read_image(png(3, 1, 8, 0, b"\0\x0a\x14\x1e", b"tRNS\x00\x14"))
    np.testing.assert_array_equal(image.pixels.squeeze(), [10, 0, 30])
    assert image.notes == ("alpha composited on black",)


# --- orientation --------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_as_pillow_applies_it(orientation: int, kind: str, tmp_path: Path) -> None:
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"turned.{kind.lower()}"
    how = {"JPEG": {"quality": 95}, "WEBP": {"lossless": True}}.get(kind, {})
    Image.fromarray(SMOOTH).save(path, kind, exif=exif, **how)
    with Image.open(path) as opened:
        expected = np.asarray(ImageOps.exif_transpose(opened))
    image = read_image(path)
    assert image.pixels.shape == expected.shape
    assert np.abs(image.pixels.astype(int) - expected).max() <= 2
    assert ("EXIF orientation applied" in image.notes) == (orientation > 1)
    assert image_size(path) == expected.shape[:2]


def test_turning_twice_comes_back() -> None:
    for there, back in [(2, 2), (3, 3), (4, 4), (5, 5), (6, 8), (7, 7), (8, 6)]:
        np.testing.assert_array_equal(turn_upright(turn_upright(COLOR, there), back), COLOR)


# --- refusals -----------------------------------------------------------------------------------


def test_empty_text_and_unknown_files(tmp_path: Path) -> None:
    for name, content, reason in [
        ("a.png", b"", r"is empty \(0 bytes\)"),
        ("b.png", b"patient;label\n1;ill\n" * 99, "is a text file, not an image"),
        ("BM.png", b"BM is how this text begins\n", "is a text file, not an image"),
        ("c.jpg", bytes(range(255, 0, -1)) * 9, "is not an image format"),
        ("d.heic", b"\0\0\0\x18ftypheic\0\0\0\0", "is a HEIC file; convert it"),
        ("e.jp2", b"\0\0\0\x0cjP  \r\n\x87\n\0\0", "is a JPEG 2000 file; convert it"),
        ("f.png", b"%PDF-1.7 ...", "is a PDF file"),
        ("g.psd", b"8BPS\0\1", "is a Photoshop file"),
        ("h.nii.gz", b"\x1f\x8b\x08\x00" + b"\0" * 30, "is a volume"),
        ("i.nii", b"\x5c\x01\0\0" + b"\0" * 340 + b"n+1\0", "is a volume"),
        ("j.dat", b"\x5c\x01\0\0" + b"\0" * 340 + b"n+1\0", "is a volume"),
        ("k.mrxs", b"\xff\xd8\xff\xe0", "is a whole-slide image"),
    ]:
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(DataError, match=reason):
            read_image(path)
        assert image_size(path) is None


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="file not found"):
        read_image(tmp_path / "nowhere.png")
    with pytest.raises(DataError, match="is a folder"):
        read_image(tmp_path)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.99])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF"])
def test_truncated_files_are_errors(kind: str, share: float) -> None:
    how = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(SMOOTH, kind, **how)
    with pytest.raises(DataError):
        read_image(data[: int(len(data) * share)])


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_truncated_sixteen_bit_png(share: float) -> None:
    data = cv_png(DEEP)
    with pytest.raises(DataError, match="truncated"):
        read_image(data[: int(len(data) * share)])


def test_progressive_jpeg_cut_at_a_scan_is_an_error() -> None:
    """Half of a progressive JPEG is a whole, blurred picture to a lenient decoder."""
    data = encoded(SMOOTH, "JPEG", progressive=True)
    with pytest.raises(DataError):
        read_image(data[: len(data) // 2])


def test_jpeg_with_a_tail_after_its_end_is_read() -> None:
    data = encoded(SMOOTH, "JPEG")
    np.testing.assert_allclose(
        read_image(data + b"camera maker's trailer").pixels.astype(int),
        read_image(data).pixels,
        atol=2,
    )


def test_damaged_png_is_found_by_its_checksum() -> None:
    data = bytearray(encoded(COLOR, "PNG"))
    data[len(data) // 2] ^= 0x10
    with pytest.raises(DataError, match="damaged PNG"):
        read_image(bytes(data))


def test_animations_are_refused_with_their_frame_count() -> None:
    frames = [Image.fromarray(np.roll(COLOR, 9 * i, 1)) for i in range(3)]
    for kind in ("GIF", "WEBP"):
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
        with pytest.raises(DataError, match=r"animated .* with 3 frames"):
            read_image(data)
    data = encoded(frames[0], "PNG", save_all=True, append_images=frames[1:])
    with pytest.raises(DataError, match="animated PNG"):
        read_image(data)


def test_decompression_bombs_are_refused_by_their_header(monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = png(50_000, 50_000, 8, 0, b"\0" * 100)

    def fail(*_: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(module.cv2, "imdecode", fail)
    with pytest.raises(DataError, match="50000x50000 px, over the limit of 100 megapixels"):
        read_image(bomb)
    for kind in ("BMP", "JPEG"):
        data = bytearray(encoded(GREY, kind))
        if kind == "BMP":
            data[18:26] = struct.pack("<ii", 60_000, 60_000)
        else:
            at = data.index(b"\xff\xc0")
            data[at + 5 : at + 9] = struct.pack(">HH", 60_000, 60_000)
        with pytest.raises(DataError, match="60000x60000 px, over the limit"):
            read_image(bytes(data))


def test_zero_sides_are_refused() -> None:
    with pytest.raises(DataError, match="0 px"):
        read_image(png(0, 5, 8, 0, b""))


@pytest.mark.parametrize("seed", range(40))
def test_hostile_bytes_end_in_a_data_error_or_a_picture(seed: int) -> None:
    """Random damage to real files: never another exception."""
    rng = np.random.default_rng(seed)
    kind = ["JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF"][seed % 6]
    data = bytearray(encoded(SMOOTH[:40, :40], kind))
    for _ in range(12):
        data[int(rng.integers(4, len(data)))] = int(rng.integers(256))
    with contextlib.suppress(DataError):
        assert read_image(bytes(data)).pixels.ndim == 3


def test_stderr_stays_clean_on_damaged_files(tmp_path: Path) -> None:
    """Decoders in C write to the real stderr, so ask another process."""
    for kind in ("PNG", "TIFF", "BMP"):
        data = encoded(SMOOTH, kind)
        (tmp_path / f"cut.{kind.lower()}").write_bytes(data[: len(data) // 2])
    script = (
        "import sys; from pathlib import Path\n"
        "from scanwise.data.images import read_image\n"
        "for path in Path(sys.argv[1]).iterdir():\n"
        "    try: read_image(path)\n"
        "    except ValueError: pass\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""


# --- names and notes ----------------------------------------------------------------------------


def test_content_decides_and_a_wrong_name_is_noted(tmp_path: Path) -> None:
    path = tmp_path / "really_a_jpeg.png"
    path.write_bytes(encoded(SMOOTH, "JPEG"))
    image = read_image(path)
    assert image.format == "JPEG"
    assert image.notes == ("wrong extension: content is JPEG, name ends in .png",)
    assert image_size(path) == (120, 160)


def test_names_without_suffix_say_nothing(tmp_path: Path) -> None:
    path = tmp_path / "IM000001"
    path.write_bytes(encoded(COLOR, "PNG"))
    assert read_image(path).notes == ()


def test_eight_bits_saved_as_sixteen_are_noted() -> None:
    assert "looks like 8-bit saved as 16" in read_image(cv_png(GREY.astype(np.uint16))).notes
    assert read_image(cv_png(GREY.astype(np.uint16) + 1)).notes == ()


def test_sniff_needs_no_name() -> None:
    for kind, name in [("PNG", "PNG"), ("WEBP", "WebP"), ("GIF", "GIF"), ("TIFF", "TIFF")]:
        assert sniff(encoded(COLOR, kind)) == name
    assert sniff(b"") == sniff(b"hello") == ""


# --- arithmetic ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 9])
@pytest.mark.parametrize("fit", ["stretch", "pad", "crop"])
def test_fit_to_square_keeps_depth_and_channels(dtype: type, channels: int, fit: str) -> None:
    pixels = RNG.integers(0, 256, (41, 23, channels)).astype(dtype)
    for side in (16, 30, 64):
        square = fit_to_square(pixels, side, fit)
        assert square.shape == (side, side, channels)
        assert square.dtype == dtype


def test_shrinking_averages_areas() -> None:
    pixels = RNG.integers(0, 256, (64, 96, 3), np.uint8)
    small = fit_to_square(pixels, (16, 32))
    means = pixels.reshape(16, 4, 32, 3, 3).mean(axis=(1, 3))
    assert np.abs(small - means).max() <= 0.51


def test_stretch_may_shrink_one_side_and_grow_the_other() -> None:
    pixels = np.repeat(np.arange(0, 256, 2, dtype=np.uint8)[:, None, None], 8, axis=1)
    square = fit_to_square(pixels, 32)
    means = pixels[:, 0, 0].reshape(32, 4).mean(axis=1)
    assert np.abs(square[:, :, 0] - means[:, None]).max() <= 0.51


def test_pad_is_black_and_centred_and_crop_is_the_centre() -> None:
    pixels = np.full((10, 20, 1), 200, np.uint8)
    padded = fit_to_square(pixels, 20, "pad")
    np.testing.assert_array_equal(padded[:5], 0)
    np.testing.assert_array_equal(padded[5:15], 200)
    np.testing.assert_array_equal(padded[15:], 0)
    wide = np.tile(np.arange(20, dtype=np.uint8)[None, :, None], (10, 1, 1))
    np.testing.assert_array_equal(fit_to_square(wide, 10, "crop")[0, :, 0], np.arange(5, 15))


def test_extreme_shapes_do_not_explode() -> None:
    line = np.zeros((1, 60_000, 1), np.uint8)
    for fit in ("stretch", "pad", "crop"):
        assert fit_to_square(line, 32, fit).shape == (32, 32, 1)


def test_unknown_fit_is_refused() -> None:
    with pytest.raises(DataError, match="unknown fit 'squash'"):
        fit_to_square(COLOR, 8, "squash")


def test_promote_keeps_white_white() -> None:
    white = np.full((2, 2, 1), 255, np.uint8)
    assert promote(white, np.dtype(np.uint16)).max() == 65535
    assert promote(white, np.dtype(np.float32)).max() == 255
    with pytest.raises(DataError, match="depth uint16"):
        promote(white.astype(np.uint16), np.dtype(np.uint8))


def test_plain_depth() -> None:
    assert plain_depth(np.array([[True]]))[0].tolist() == [[255]]
    assert plain_depth(np.array([[-5]], np.int16))[0].dtype == np.float32
    assert plain_depth(np.array([[1.5]]))[1] == ("float64 read as float32",)
    big_endian = plain_depth(np.array([[258]], ">u2"))[0]
    assert big_endian.dtype == np.dtype(np.uint16)
    assert big_endian.item() == 258
    with pytest.raises(DataError, match="2 pixels that are NaN or infinite"):
        plain_depth(np.array([[np.nan, np.inf, 1]]))
    with pytest.raises(DataError, match="complex"):
        plain_depth(np.array([[1j]]))


def test_is_grey() -> None:
    assert is_grey(np.repeat(GREY[..., None], 3, axis=2))
    assert is_grey(GREY[..., None])
    assert not is_grey(COLOR)
    assert not is_grey(COLOR[..., :2])

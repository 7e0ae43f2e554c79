"""TIFF: real files, many kinds that tifffile and Pillow write, stacks, slides."""

from __future__ import annotations

import io
import lzma
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from scanwise.core.errors import DataError
from scanwise.data.images import read_image

RNG = np.random.default_rng(5)
GREY = RNG.integers(0, 256, (20, 31), np.uint8)
COLOR = RNG.integers(0, 256, (20, 31, 3), np.uint8)
DEEP = RNG.integers(0, 65536, (20, 31)).astype(np.uint16)


def tiff(pixels: np.ndarray, **how: object) -> bytes:
    buffer = io.BytesIO()
    how.setdefault("metadata", None)
    how.setdefault("photometric", "rgb" if pixels.shape[-1] == 3 else "minisblack")
    tifffile.imwrite(buffer, pixels, **how)
    return buffer.getvalue()


def pillow_tiff(image: Image.Image, **how: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "TIFF", **how)
    return buffer.getvalue()


REAL_FILES = {
    "32-bit-grayscale.tif": ((1, 10, 1), "float32"),
    "chessboard_GRAY_U16.tif": ((200, 200, 1), "uint16"),
    "chessboard_GRAY_U16B.tif": ((200, 200, 1), "uint16"),
    "ct_single_uint16.tif": ((512, 512, 1), "uint16"),
    "ct_multipage_uint16.tif": "has 5 pages",
    "multipage.tif": "has 2 pages",
    "multipage_rgb.tif": "has 2 pages",
}


@pytest.mark.parametrize("name", REAL_FILES)
def test_every_real_tiff_is_read_or_refused(shared: Path, name: str) -> None:
    path, expected = shared / "data/tricky/tiff" / name, REAL_FILES[name]
    if isinstance(expected, str):
        with pytest.raises(DataError, match=expected) as error:
            read_image(path)
        assert "--page" in str(error.value)
        assert "--project max" in str(error.value)
        return
    image = read_image(path)
    assert (image.pixels.shape, image.pixels.dtype.name) == expected
    with Image.open(path) as opened:
        np.testing.assert_array_equal(image.pixels[..., 0], np.asarray(opened))
    np.testing.assert_array_equal(image.pixels[..., 0], tifffile.imread(path))


def test_the_table_lists_every_real_tiff(shared: Path) -> None:
    assert {path.name for path in (shared / "data/tricky/tiff").iterdir()} == set(REAL_FILES)


def test_real_histology_tiles(shared: Path) -> None:
    paths = sorted((shared / "data/tricky/nct_crc_9tiff").glob("*/*.tif"))
    assert len(paths) == 9
    for path in paths:
        with Image.open(path) as opened:
            np.testing.assert_array_equal(read_image(path).pixels, np.asarray(opened))


def test_real_stacks_page_by_page_and_projected(shared: Path) -> None:
    path = shared / "data/tricky/tiff/ct_multipage_uint16.tif"
    stack = tifffile.imread(path)
    for page in range(5):
        np.testing.assert_array_equal(read_image(path, page=page).pixels[..., 0], stack[page])
    image = read_image(path, project="max")
    np.testing.assert_array_equal(image.pixels[..., 0], stack.max(axis=0))
    assert "pages projected by their maximum" in image.notes
    with pytest.raises(DataError, match=r"has 5 pages \(0 to 4\), so no page 5"):
        read_image(path, page=5)
    planar = shared / "data/tricky/tiff/multipage_rgb.tif"
    pages = tifffile.imread(planar)  # (2, 3, 10, 10) float64
    image = read_image(planar, page=1)
    np.testing.assert_allclose(image.pixels, pages[1].transpose(1, 2, 0), rtol=1e-6)
    assert image.pixels.dtype == np.float32


# --- one page -----------------------------------------------------------------------------------


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("bigtiff", [False, True])
@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_depths_in_both_byte_orders(
    byteorder: str, bigtiff: bool, compression: str | None, dtype: str
) -> None:
    pixels = (DEEP % 251 if dtype == "uint8" else DEEP).astype(dtype)
    data = tiff(pixels, byteorder=byteorder, bigtiff=bigtiff, compression=compression)
    image = read_image(data)
    assert image.pixels.dtype == np.dtype(dtype)  # native order
    np.testing.assert_array_equal(image.pixels[..., 0], pixels)


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "uint32", "float16", "float64"])
def test_other_depths_become_float32_of_the_same_values(dtype: str) -> None:
    pixels = (GREY.astype(np.int64) - (0 if dtype.startswith("u") else 100)).astype(dtype)
    image = read_image(tiff(pixels))
    assert image.pixels.dtype == np.float32
    np.testing.assert_array_equal(image.pixels[..., 0], pixels.astype(np.float32))


@pytest.mark.parametrize("channels", [2, 4, 5, 12])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_many_channels(channels: int, planar: str) -> None:
    pixels = RNG.integers(0, 65536, (20, 31, channels)).astype(np.uint16)
    stored = pixels if planar == "contig" else pixels.transpose(2, 0, 1)
    data = tiff(
        stored, photometric="minisblack", planarconfig=planar, extrasamples=[0] * (channels - 1)
    )
    np.testing.assert_array_equal(read_image(data).pixels, pixels)


def test_planar_rgb() -> None:
    data = tiff(COLOR.transpose(2, 0, 1), photometric="rgb", planarconfig="separate")
    np.testing.assert_array_equal(read_image(data).pixels, COLOR)


@pytest.mark.parametrize(("kind", "premultiplied"), [("unassalpha", False), ("assocalpha", True)])
def test_alpha_is_composited_unless_premultiplied(kind: str, premultiplied: bool) -> None:
    alpha = RNG.integers(0, 256, GREY.shape, np.uint8)
    data = tiff(np.dstack([COLOR, alpha]), photometric="rgb", extrasamples=[kind])
    image = read_image(data)
    expected = COLOR if premultiplied else np.rint(COLOR.astype(float) * alpha[..., None] / 255)
    np.testing.assert_array_equal(image.pixels, expected)
    assert image.notes == ("alpha composited on black",)


def test_white_is_zero() -> None:
    data = tiff(DEEP, photometric="miniswhite")
    np.testing.assert_array_equal(read_image(data).pixels[..., 0], 65535 - DEEP)


def test_palette() -> None:
    colors = RNG.integers(0, 256, (3, 256)).astype(np.uint16)
    data = tiff(GREY, photometric="palette", colormap=colors * 257)
    np.testing.assert_array_equal(read_image(data).pixels, colors.T[GREY])


@pytest.mark.parametrize(
    "compression", ["tiff_lzw", "packbits", "tiff_adobe_deflate", "tiff_deflate", "lzma"]
)
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "1"])
def test_lossless_compressions(compression: str, mode: str) -> None:
    plain = Image.fromarray(COLOR)
    image = plain.quantize(16) if mode == "P" else plain.convert(mode)
    expected = read_image(pillow_tiff(image))
    found = read_image(pillow_tiff(image, compression=compression))
    np.testing.assert_array_equal(found.pixels, expected.pixels)


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
@pytest.mark.parametrize("channels", [1, 3])
def test_lzw_at_depth_needs_no_codec_package(dtype: str, channels: int) -> None:
    """OpenCV writes and reads LZW; tifffile alone cannot."""
    pixels = RNG.integers(0, 65536, (20, 31, channels)).astype(dtype)
    done, buffer = cv2.imencode(".tif", pixels[..., ::-1], [cv2.IMWRITE_TIFF_COMPRESSION, 5])
    assert done
    with tifffile.TiffFile(io.BytesIO(buffer.tobytes())) as tif:
        assert tif.pages[0].compression == 5
    found = read_image(buffer.tobytes()).pixels
    assert found.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(found, pixels)


def test_jpeg_and_fax_compression() -> None:
    smooth = cv2.GaussianBlur(cv2.resize(COLOR, (96, 64)), (0, 0), 4)
    found = read_image(pillow_tiff(Image.fromarray(smooth), compression="jpeg", quality=95)).pixels
    assert np.abs(found.astype(int) - smooth).mean() < 4
    bits = GREY > 127
    found = read_image(pillow_tiff(Image.fromarray(bits), compression="group4")).pixels
    np.testing.assert_array_equal(found[..., 0], bits * 255)


def test_cmyk_becomes_rgb() -> None:
    image = read_image(pillow_tiff(Image.fromarray(COLOR).convert("CMYK")))
    np.testing.assert_array_equal(image.pixels, COLOR)
    assert image.notes == ("CMYK converted to RGB",)


def test_colour_spaces_that_nothing_converts_are_named() -> None:
    with pytest.raises(DataError, match="stores CFA pixels, which is not supported"):
        read_image(tiff(GREY, photometric="cfa"))


def test_unreadable_pixels_are_counted() -> None:
    pixels = DEEP.astype(np.float32)
    pixels[3, 4] = np.nan
    with pytest.raises(DataError, match="1 pixels that are NaN or infinite"):
        read_image(tiff(pixels))


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("share", [0.02, 0.4, 0.9])
def test_truncated(compression: str | None, share: float) -> None:
    data = tiff(DEEP, compression=compression)
    with pytest.raises(DataError, match=r"truncated|damaged"):
        read_image(data[: int(len(data) * share)])


# --- stacks -------------------------------------------------------------------------------------


STACK = RNG.integers(0, 65536, (4, 20, 31)).astype(np.uint16)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(tiff(STACK, photometric="minisblack"), id="plain pages"),
        pytest.param(tiff(STACK, metadata={"axes": "ZYX"}), id="shaped"),
        pytest.param(tiff(STACK, metadata={"axes": "ZYX"}, truncate=True), id="one page record"),
        pytest.param(tiff(STACK, imagej=True, metadata={"axes": "ZYX"}), id="ImageJ"),
        pytest.param(tiff(STACK, ome=True, metadata={"axes": "TYX"}), id="OME"),
    ],
)
def test_stacks_are_never_read_by_their_first_page(data: bytes) -> None:
    with pytest.raises(DataError, match="has 4 pages"):
        read_image(data)
    np.testing.assert_array_equal(read_image(data, page=2).pixels[..., 0], STACK[2])
    np.testing.assert_array_equal(read_image(data, page=0).pixels[..., 0], STACK[0])
    np.testing.assert_array_equal(read_image(data, project="max").pixels[..., 0], STACK.max(axis=0))


def test_one_page_record_followed_by_many_planes() -> None:
    """What ImageJ writes above 4 GB, and other programs always."""
    data = tiff(STACK, imagej=True, metadata={"axes": "ZYX"})
    with tifffile.TiffFile(io.BytesIO(data)) as tif:
        first, second = tif.pages[0], tif.pages[1]
        link = first.offset + 2 + 12 * len(first.tags)
        assert second.offset
    cut = bytearray(data)
    cut[link : link + 4] = bytes(4)  # forget where the second record is
    with pytest.raises(DataError, match="has 4 pages"):
        read_image(bytes(cut))
    for page in range(4):
        np.testing.assert_array_equal(read_image(bytes(cut), page=page).pixels[..., 0], STACK[page])
    np.testing.assert_array_equal(
        read_image(bytes(cut), project="max").pixels[..., 0], STACK.max(axis=0)
    )


@pytest.mark.parametrize("how", [{"imagej": True}, {"ome": True}])
def test_channels_on_pages_of_their_own_are_one_picture(how: dict[str, bool]) -> None:
    data = tiff(STACK, metadata={"axes": "CYX"}, **how)
    np.testing.assert_array_equal(read_image(data).pixels, STACK.transpose(1, 2, 0))


@pytest.mark.parametrize(("how", "axes"), [({"imagej": True}, "ZCYX"), ({"ome": True}, "CZYX")])
def test_projecting_keeps_channels(how: dict[str, bool], axes: str) -> None:
    shape = (3, 2) if axes == "ZCYX" else (2, 3)
    stack = RNG.integers(0, 65536, (*shape, 20, 31)).astype(np.uint16)
    data = tiff(stack, metadata={"axes": axes}, **how)
    with pytest.raises(DataError, match="has 6 pages"):
        read_image(data)
    expected = stack.max(axis=axes.index("Z")).transpose(1, 2, 0)
    np.testing.assert_array_equal(read_image(data, project="max").pixels, expected)


def test_pages_of_different_sizes_can_be_chosen_but_not_projected(tmp_path: Path) -> None:
    path = tmp_path / "two.tif"
    with tifffile.TiffWriter(path) as writer:
        writer.write(GREY, metadata=None)
        writer.write(GREY[:10, :10], metadata=None)
    with pytest.raises(DataError, match="has 2 pages"):
        read_image(path)
    np.testing.assert_array_equal(read_image(path, page=1).pixels[..., 0], GREY[:10, :10])
    with pytest.raises(DataError, match="different sizes"):
        read_image(path, project="max")


def test_compressed_stacks_by_the_other_decoders() -> None:
    pages = [Image.fromarray(np.roll(COLOR, i, 0)) for i in range(3)]
    data = pillow_tiff(pages[0], save_all=True, append_images=pages[1:], compression="tiff_lzw")
    np.testing.assert_array_equal(read_image(data, page=2).pixels, np.asarray(pages[2]))
    done, buffer = cv2.imencodemulti(".tif", list(STACK), [cv2.IMWRITE_TIFF_COMPRESSION, 5])
    assert done
    np.testing.assert_array_equal(read_image(buffer.tobytes(), page=3).pixels[..., 0], STACK[3])


# --- slides -------------------------------------------------------------------------------------


def pyramid() -> bytes:
    buffer = io.BytesIO()
    base = RNG.integers(0, 256, (256, 256, 3), np.uint8)
    with tifffile.TiffWriter(buffer) as writer:
        writer.write(base, subifds=2, tile=(64, 64), metadata=None)
        writer.write(base[::2, ::2], subfiletype=1, tile=(64, 64), metadata=None)
        writer.write(base[::4, ::4], subfiletype=1, tile=(64, 64), metadata=None)
    return buffer.getvalue()


def test_pyramids_are_refused_with_their_level_count() -> None:
    with pytest.raises(DataError, match=r"whole-slide image \(3 levels, 256x256 px") as error:
        read_image(pyramid())
    assert "QuPath" in str(error.value)


def test_vendor_slides_are_refused(tmp_path: Path) -> None:
    data = tiff(COLOR, description="Aperio Image Library v1", tile=(16, 16))
    with pytest.raises(DataError, match="whole-slide image"):
        read_image(data)
    path = tmp_path / "case.svs"
    path.write_bytes(tiff(COLOR))
    with pytest.raises(DataError, match="whole-slide image"):
        read_image(path)


def test_a_tiled_picture_of_one_level_is_a_picture() -> None:
    np.testing.assert_array_equal(read_image(tiff(COLOR, tile=(16, 16))).pixels, COLOR)


def test_a_volume_in_one_page_is_refused() -> None:
    data = tiff(RNG.integers(0, 256, (16, 32, 32), np.uint8), volumetric=True, tile=(16, 16, 16))
    with pytest.raises(DataError, match=r"has 16 pages|volumetric"):
        read_image(data)


def test_giant_headers_are_refused() -> None:
    data = bytearray(tiff(GREY, byteorder="<"))
    with tifffile.TiffFile(io.BytesIO(bytes(data))) as tif:
        for name in ("ImageWidth", "ImageLength"):
            tag = tif.pages[0].tags[name]
            data[tag.offset + 8 : tag.offset + 12] = (60_000).to_bytes(4, "little")
    with pytest.raises(DataError, match="60000x60000 px, over the limit"):
        read_image(bytes(data))


@pytest.mark.parametrize("compression", ["zlib", "lzma", "packbits"])
@pytest.mark.parametrize("cut", [{}, {"rowsperstrip": 7}, {"tile": (32, 48)}])
def test_packed_strips_are_read_and_those_that_hold_too_much_refused(compression, cut) -> None:
    """A strip that unpacks to gigabytes must be measured before anything unpacks it."""
    from scanwise.data import inflate

    pixels = (np.arange(120 * 90) % 251).astype(np.uint8).reshape(120, 90)
    if compression != "packbits":  # which tifffile only reads
        file = io.BytesIO()
        tifffile.imwrite(file, pixels, compression=compression, **cut)
        np.testing.assert_array_equal(read_image(file.getvalue()).pixels[..., 0], pixels)
    packed = {
        "zlib": (zlib.compress(bytes(5000)), inflate.deflate),
        "lzma": (lzma.compress(bytes(5000)), inflate.xz),
    }
    if compression == "packbits":
        data = bytes([129, 7]) * 10 + bytes([128, 2, 1, 2, 3])  # 10 x 128, nothing, 3 as they are
        assert inflate.packbits_beyond(data, 1282)
        assert not inflate.packbits_beyond(data, 1283)
    else:
        data, inflater = packed[compression]
        assert inflate.inflates_beyond(data, 4999, inflater)
        assert not inflate.inflates_beyond(data, 5000, inflater)
        assert not inflate.inflates_beyond(b"damaged", 1, inflater)

"""One reader of image files for training, prediction and serving: bytes in, pixels out.

The content decides what a file is, its name only earns a note. Sizes are read from the header
before anything is decoded, and a file that would need a guess (several pages, frames or levels) is
refused.
"""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    WebPImagePlugin,
)

from scanwise.core.errors import DataError, one_line
from scanwise.data.pixels import (
    SLIDE_SUFFIXES,
    check_pixel_count,
    composite_on_black,
    orientation_of,
    pillow_pixels,
    slide_reason,
    upright,
)

MAX_FILE_BYTES = 1 << 30

SUFFIXES: dict[str, tuple[str, ...]] = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "BMP": (".bmp", ".dib"),
    "TIFF": (".tif", ".tiff"),
    "WebP": (".webp",),
    "GIF": (".gif",),
    "DICOM": (".dcm", ".dicom", ".ima"),
}
VOLUME_SUFFIXES = (".nii", ".nii.gz", ".mha", ".mhd", ".nrrd")
# Pictures that people have, and that need converting first.
FOREIGN_SUFFIXES = (".jp2", ".j2k", ".heic", ".heif", ".avif", ".jxl", ".psd", ".czi", ".lif")

_PLUGINS: dict[str, type[ImageFile.ImageFile]] = {
    # The plugin itself, not Image.open: we know the format by then, and Image.open only warns
    # (and on stderr) about sizes that we refuse below.
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "WebP": WebPImagePlugin.WebPImageFile,
    "GIF": GifImagePlugin.GifImageFile,
}

_BMP_HEADERS = {struct.pack("<I", size) for size in (12, 40, 52, 56, 64, 108, 124)}


@dataclass(frozen=True, eq=False)
class DecodedImage:
    """One picture as stored, upright, without alpha.

    `notes` are "topic" or "topic: detail"; the topic is the same for all files it happens to.
    """

    pixels: NDArray[Any]  # (h, w, c); uint8, uint16 or float32; RGB order
    notes: tuple[str, ...] = ()
    group: str | None = None  # hashed PatientID of a DICOM file
    format: str = ""  # "JPEG", "PNG", ...


def read_image(
    source: Path | bytes, *, page: int | None = None, project: Literal["max"] | None = None
) -> DecodedImage:
    """Decode one image file, or its bytes.

    Palette, CMYK and 1-bit images become 8-bit RGB or grey; alpha is composited on black; the EXIF
    orientation is applied; 16-bit and float images keep their depth (wider integers become
    float32); TIFF may have any number of channels.

    Args:
        source: Path, or the file's bytes.
        page: Page of a multi-page TIFF, counted from 0.
        project: "max" takes the maximum over the pages of a TIFF.

    Returns:
        The picture, (h, w, c), with notes on what was done to it.

    Raises:
        DataError: The reason why the file can't be read, without its name (the caller knows it).
    """
    try:
        return _read(source, page, project)
    except DataError:
        raise
    except MemoryError:
        raise
    except Exception as error:  # decoders raise anything on damaged files
        raise DataError(f"can't be decoded ({one_line(error)})") from error


def image_size(source: Path | bytes) -> tuple[int, int] | None:
    """Height and width in px from the header, upright; None where the file can't be read."""
    try:
        if isinstance(source, bytes):
            return _size_in(io.BytesIO(source), identify(source[:1024], ""))
        kind = identify(_head(source), source.name)
        with source.open("rb") as stream:
            return _size_in(stream, kind)
    except Exception:  # the full decode will tell the reason
        return None


def _size_in(stream: BinaryIO, kind: str) -> tuple[int, int] | None:
    if kind == "DICOM":
        from scanwise.data.dicom import dicom_size

        return dicom_size(stream)
    if kind == "TIFF":
        from scanwise.data.tiff import tiff_size

        return tiff_size(stream)
    with _PLUGINS[kind](stream) as image:
        width, height = image.size
        sideways = orientation_of(image) >= 5
    return (width, height) if sideways else (height, width)


def is_image_name(name: str) -> bool:
    """True if the file's name promises an image, of a kind we read or one we refuse by name."""
    lower = name.lower()
    known = [suffix for suffixes in SUFFIXES.values() for suffix in suffixes]
    return lower.endswith((*known, *SLIDE_SUFFIXES, *VOLUME_SUFFIXES, *FOREIGN_SUFFIXES))


def looks_like_image(path: Path) -> bool:
    """True if the first bytes are an image's; for files whose name says nothing."""
    try:
        return sniff(_head(path)) in SUFFIXES
    except OSError:
        return False


def sniff(head: bytes) -> str:
    """Format by the first 352 bytes or more: a key of SUFFIXES, another format's name, or ''."""
    if head[128:132] == b"DICM":  # first: its free preamble may look like a TIFF, on purpose
        return "DICOM"
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if head[:4] in {b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"}:
        return "TIFF"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WebP"
    if head[:6] in {b"GIF87a", b"GIF89a"}:
        return "GIF"
    # "BM" alone also begins texts; the size of its second header is one of these.
    if head[:2] == b"BM" and head[14:18] in _BMP_HEADERS:
        return "BMP"
    return _foreign(head)


def _foreign(head: bytes) -> str:
    """Formats that we only know well enough to name them."""
    if head[344:348] in {b"n+1\0", b"ni1\0"} or head[4:8] in {b"n+2\0", b"ni2\0"}:
        return "NIfTI"
    if head[4:12] == b"jP  \r\n\x87\n" or head[:4] == b"\xff\x4f\xff\x51":
        return "JPEG 2000"
    if head[4:8] == b"ftyp":
        return "AVIF" if head[8:12] in {b"avif", b"avis"} else "HEIC"
    for magic, name in (
        (b"\x00\x00\x00\x0cJXL ", "JPEG XL"),
        (b"\xff\x0a", "JPEG XL"),
        (b"8BPS", "Photoshop"),
        (b"%PDF", "PDF"),
        (b"PK\x03\x04", "ZIP"),
        (b"\x1f\x8b", "gzip"),
        (b"NRRD", "NRRD"),
        (b"ZISRAWFILE", "CZI"),
    ):
        if head.startswith(magic):
            return name
    return ""


def identify(head: bytes, name: str) -> str:
    """The format, a key of SUFFIXES.

    Raises:
        DataError: If it is none that scanwise reads; says what it is instead.
    """
    lower = name.lower()
    kind = sniff(head)
    if lower.endswith(SLIDE_SUFFIXES) and kind != "TIFF":  # the TIFF reader counts the levels
        raise DataError(slide_reason(""))
    if kind in {"NIfTI", "NRRD"} or lower.endswith(VOLUME_SUFFIXES):
        raise DataError(
            "is a volume (NIfTI or the like), and scanwise reads 2-D pictures; export its slices "
            "as PNG or TIFF first"
        )
    if kind in SUFFIXES:
        return kind
    if not head:
        raise DataError("is empty (0 bytes)")
    if lower.endswith(SUFFIXES["DICOM"]):
        return "DICOM"  # some lack the preamble; the reader finds out
    if kind:
        raise DataError(f"is a {kind} file; convert it to PNG, TIFF or JPEG")
    if _is_text(head):
        raise DataError("is a text file, not an image")
    raise DataError("is not an image format that scanwise knows")


def _is_text(head: bytes) -> bool:
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 4:  # not just a character cut by the end of the head
            return False
        text = head[: error.start].decode("utf-8")
    return all(character.isprintable() or character in "\r\n\t\f\ufeff" for character in text)


def _head(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(1024)


def _read(source: Path | bytes, page: int | None, project: Literal["max"] | None) -> DecodedImage:
    name = source.name if isinstance(source, Path) else ""
    head = source[:1024] if isinstance(source, bytes) else _head_of_file(source)
    kind = identify(head, name)
    notes = _name_note(kind, name)
    group = None
    if kind == "TIFF":
        from scanwise.data.tiff import read_tiff

        pixels, more = read_tiff(source, page=page, project=project)
    else:
        data = source if isinstance(source, bytes) else source.read_bytes()
        if kind == "DICOM":
            from scanwise.data.dicom import read_dicom

            pixels, more, group = read_dicom(data)
        elif kind == "PNG":
            pixels, more = _read_png(data)
        elif kind == "JPEG":
            pixels, more = _read_jpeg(data)
        else:
            pixels, more = _read_with_pillow(data, kind)
    pixels = pixels[:, :, np.newaxis] if pixels.ndim == 2 else pixels
    if pixels.dtype == np.uint16 and pixels.max(initial=0) <= 255:
        more = (*more, "looks like 8-bit saved as 16")
    return DecodedImage(np.ascontiguousarray(pixels), (*notes, *more), group, kind)


def _head_of_file(path: Path) -> bytes:
    try:
        if path.is_dir():
            raise DataError("is a folder, not a file")
        head = _head(path)
        size = path.stat().st_size
    except FileNotFoundError as error:
        raise DataError("file not found") from error
    except PermissionError as error:
        raise DataError("no permission to read it") from error
    if size > MAX_FILE_BYTES and sniff(head) != "TIFF":  # TIFF is read in parts
        raise DataError(f"has {size / 2**30:.1f} GiB, over the limit of 1 GiB for one picture")
    return head


def _name_note(kind: str, name: str) -> tuple[str, ...]:
    suffix = Path(name).suffix.lower()
    known = suffix in {one for suffixes in SUFFIXES.values() for one in suffixes}
    if not known or suffix in SUFFIXES[kind]:
        return ()
    return (f"wrong extension: content is {kind}, name ends in {suffix}",)


# --- PNG and JPEG: OpenCV where it is safe, since it is fast and keeps 16 bits -------------------


def _read_png(data: bytes) -> tuple[NDArray[Any], tuple[str, ...]]:
    width, height, depth, color, chunks = _png_header(data)
    check_pixel_count(height, width)
    if b"acTL" in chunks:
        raise DataError("is an animated PNG; save the frame that matters as its own file")
    plain = color in (0, 2) and b"tRNS" not in chunks
    if depth < 8 or not (plain or depth == 16):
        return _read_with_pillow(data, "PNG")
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.shape[:2] != (height, width):
        raise DataError("is a damaged PNG")
    notes: tuple[str, ...] = ()
    if pixels.ndim == 3 and pixels.shape[2] >= 3:
        pixels = cv2.cvtColor(
            pixels, cv2.COLOR_BGRA2RGBA if pixels.shape[2] == 4 else cv2.COLOR_BGR2RGB
        )
    if color in (4, 6) or b"tRNS" in chunks:
        pixels, notes = (
            composite_on_black(pixels[..., :-1], pixels[..., -1]),
            ("alpha composited on black",),
        )
        if color in (0, 4):
            pixels = pixels[..., 0]
    if b"eXIf" in chunks:
        with PngImagePlugin.PngImageFile(io.BytesIO(data)) as image:
            return upright(pixels, orientation_of(image), notes)
    return pixels, notes


def _png_header(data: bytes) -> tuple[int, int, int, int, set[bytes]]:
    """Width, height, bit depth, colour type, chunk names; checks that the file is whole.

    Some decoders fill the missing rows of a cut file with grey, so every chunk's checksum is
    verified here (PNG specification, 5.3 and 11.2).
    """
    view, at, names = memoryview(data), 8, set()
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        name, end = bytes(view[at + 4 : at + 8]), at + 12 + length
        if end > len(data):
            break
        if struct.unpack_from(">I", data, end - 4)[0] != zlib.crc32(view[at + 4 : end - 4]):
            raise DataError(f"is a damaged PNG (checksum of its {name.decode('latin-1')!r} part)")
        names.add(name)
        at = end
        if name == b"IEND":
            if b"IHDR" not in names or b"IDAT" not in names:
                raise DataError("is a damaged PNG (no header or no pixels)")
            width, height, depth, color = struct.unpack_from(">IIBB", data, 16)
            return width, height, depth, color, names
    raise DataError("is truncated (the end of the PNG is missing)")


def _read_jpeg(data: bytes) -> tuple[NDArray[Any], tuple[str, ...]]:
    with _open(data, "JPEG") as image:
        orientation = orientation_of(image)
        # Only a file that ends with the end-of-image marker is surely whole. The others go to
        # Pillow, which raises if it is cut, where OpenCV may return a picture half grey.
        if image.mode in {"L", "RGB"} and data[-64:].rstrip(b"\0").endswith(b"\xff\xd9"):
            flag = cv2.IMREAD_GRAYSCALE if image.mode == "L" else cv2.IMREAD_COLOR
            pixels = cv2.imdecode(
                np.frombuffer(data, np.uint8), flag | cv2.IMREAD_IGNORE_ORIENTATION
            )
            if pixels is not None and pixels.shape[1::-1] == image.size:
                if pixels.ndim == 3:
                    pixels = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
                return upright(pixels, orientation)
        pixels, notes = pillow_pixels(image)
    return upright(pixels, orientation, notes)


# --- everything else: Pillow --------------------------------------------------------------------


def _open(data: bytes, kind: str) -> ImageFile.ImageFile:
    try:
        image = _PLUGINS[kind](io.BytesIO(data))
    except (SyntaxError, EOFError, OSError, struct.error) as error:
        raise DataError(f"is a damaged {kind} file ({one_line(error)})") from error
    check_pixel_count(image.height, image.width)
    return image


def _read_with_pillow(data: bytes, kind: str) -> tuple[NDArray[Any], tuple[str, ...]]:
    with _open(data, kind) as image:
        frames = int(getattr(image, "n_frames", 1))
        if frames > 1:
            raise DataError(
                f"is an animated {kind} with {frames} frames; save the frame that matters as its "
                "own file"
            )
        orientation = orientation_of(image)
        pixels, notes = pillow_pixels(image)
    return upright(pixels, orientation, notes)


# --- pixel arithmetic shared with tiff.py and dicom.py ------------------------------------------

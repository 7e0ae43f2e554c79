"""Files of every format and depth that people have, made from a seed: good ones and bad ones."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]


def picture(rng: np.random.Generator) -> Pixels:
    """A smooth colour picture with something in it, (h, w, 3) of 24 to 90 px."""
    height, width = rng.integers(24, 90, 2)
    rows, columns = np.mgrid[:height, :width]
    y, x, radius = rng.uniform(0, height), rng.uniform(0, width), rng.uniform(4, 20)
    blob = np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / radius**2)
    colours = rng.uniform(0, 255, (2, 3))
    made = colours[0] * blob[..., None] + colours[1] * (1 - blob[..., None])
    return (made + rng.normal(0, 6, made.shape)).clip(0, 255).astype(np.uint8)


def _saved(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def _tiff(array: NDArray[np.generic], **options: object) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, array, **options)
    return stream.getvalue()


def _turned(image: Image.Image, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return _saved(image, "JPEG", quality=92, exif=exif)


def _dicom(pixels: Pixels, interpretation: str) -> bytes:
    import pydicom
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[interpretation, str(pixels.sum())])
    made = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    made.SOPClassUID, made.SOPInstanceUID = meta.MediaStorageSOPClassUID, generate_uid()
    made.Modality, made.PatientID = "OT", "p1"
    made.Rows, made.Columns = pixels.shape[:2]
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, interpretation
    made.BitsAllocated, made.BitsStored, made.HighBit = 16, 12, 11
    made.PixelRepresentation = 0
    made.PixelData = (pixels.mean(axis=2).astype(np.uint16) * 16).tobytes()
    stream = io.BytesIO()
    pydicom.dcmwrite(stream, made, enforce_file_format=True)
    return stream.getvalue()


def _grey(p: Pixels) -> Image.Image:
    return Image.fromarray(p).convert("L")


def _alpha(p: Pixels) -> Image.Image:
    made = Image.fromarray(p).convert("RGBA")
    made.putalpha(Image.fromarray(p[..., 0]))
    return made


def _deep(p: Pixels) -> NDArray[np.uint16]:
    return p[..., 0].astype(np.uint16) * 257


MAKERS: dict[str, Callable[[Pixels], bytes]] = {
    "rgb.jpg": lambda p: _saved(Image.fromarray(p), "JPEG", quality=90),
    "progressive.jpg": lambda p: _saved(Image.fromarray(p), "JPEG", progressive=True),
    "full-chroma.jpeg": lambda p: _saved(Image.fromarray(p), "JPEG", subsampling=0),
    "grey.jpg": lambda p: _saved(_grey(p), "JPEG"),
    "cmyk.jpg": lambda p: _saved(Image.fromarray(p).convert("CMYK"), "JPEG"),
    "turned-6.jpg": lambda p: _turned(Image.fromarray(p), 6),
    "turned-3.jpg": lambda p: _turned(Image.fromarray(p), 3),
    "mirrored-5.jpg": lambda p: _turned(Image.fromarray(p), 5),
    "rgb.png": lambda p: _saved(Image.fromarray(p), "PNG"),
    "grey.png": lambda p: _saved(_grey(p), "PNG"),
    "alpha.png": lambda p: _saved(_alpha(p), "PNG"),
    "grey-alpha.png": lambda p: _saved(_alpha(p).convert("LA"), "PNG"),
    "palette.png": lambda p: _saved(Image.fromarray(p).quantize(32), "PNG"),
    "one-bit.png": lambda p: _saved(_grey(p).convert("1"), "PNG"),
    "deep.png": lambda p: _saved(Image.fromarray(_deep(p)), "PNG"),
    "rgb.bmp": lambda p: _saved(Image.fromarray(p), "BMP"),
    "palette.bmp": lambda p: _saved(Image.fromarray(p).quantize(16), "BMP"),
    "lossy.webp": lambda p: _saved(Image.fromarray(p), "WEBP", quality=80),
    "lossless.webp": lambda p: _saved(Image.fromarray(p), "WEBP", lossless=True),
    "still.gif": lambda p: _saved(Image.fromarray(p).quantize(64), "GIF"),
    "plain.tif": lambda p: _tiff(p, photometric="rgb"),
    "deflated.tiff": lambda p: _tiff(p, photometric="rgb", compression="zlib"),
    "planar.tif": lambda p: _tiff(
        np.moveaxis(p, 2, 0).copy(), photometric="rgb", planarconfig="separate"
    ),
    "big.tif": lambda p: _tiff(p, photometric="rgb", bigtiff=True),
    "grey.tif": lambda p: _tiff(p[..., 0], photometric="minisblack"),
    "deep.tif": lambda p: _tiff(_deep(p), photometric="minisblack"),
    "float.tif": lambda p: _tiff(p[..., 0].astype(np.float32) / 255, photometric="minisblack"),
    "monochrome2.dcm": lambda p: _dicom(p, "MONOCHROME2"),
    "monochrome1.dcm": lambda p: _dicom(p, "MONOCHROME1"),
    # What can't be answered: each keeps its row and gets its reason.
    "empty.png": lambda p: b"",
    "cut.jpg": lambda p: _saved(Image.fromarray(p), "JPEG")[: 60 + p.shape[0]],
    "text.png": lambda p: b"name,age\nann,31\n",
    "animated.gif": lambda p: _saved(
        Image.fromarray(p), "GIF", save_all=True, append_images=[Image.fromarray(255 - p)]
    ),
    "pages.tif": lambda p: _tiff(np.stack([p[..., 0]] * 3), photometric="minisblack"),
}


def make_files(folder: Path, n: int, seed: int = 0) -> list[Path]:
    """Write n files, kinds in turn, each of another picture; returns them in order."""
    rng = np.random.default_rng(seed)
    kinds = list(MAKERS)
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for number in range(n):
        name = kinds[number % len(kinds)]
        path = folder / f"{number:04d} {name}"
        path.write_bytes(MAKERS[name](picture(rng)))
        made.append(path)
    return made

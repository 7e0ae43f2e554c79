"""Single-frame DICOM by the extra: stored values → modality → VOI window → MONOCHROME1 last.

Source of the order: DICOM PS3.3, C.7.6.3.1.2, C.11.1 and C.11.2; PS3.4, N.2.

No value of the header gets into a message, a note or a file: only sizes, window numbers, names of
storage classes and of compressions, and a hash of the PatientID.
"""

from __future__ import annotations

import hashlib
import io
import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from scanwise.core.errors import DataError
from scanwise.data.inflate import inflates_beyond, raw_deflate
from scanwise.data.pixels import check_pixel_count, plain_depth

PIP_LINE = 'pip install "scanwise[dicom]"'

_ONE_AT_A_TIME = threading.Lock()
MAX_INFLATED = 1 << 28  # bytes of a deflated file, unpacked: one picture with its header

# Storage classes whose "pixels" are masks, doses or maps (DICOM PS3.4, B.5).
NOT_PICTURES = {
    "1.2.840.10008.5.1.4.1.1.66.4": "Segmentation Storage",
    "1.2.840.10008.5.1.4.1.1.66.7": "Label Map Segmentation Storage",
    "1.2.840.10008.5.1.4.1.1.66.5": "Surface Segmentation Storage",
    "1.2.840.10008.5.1.4.1.1.30": "Parametric Map Storage",
    "1.2.840.10008.5.1.4.1.1.481.2": "RT Dose Storage",
}
SLIDE_CLASS = "1.2.840.10008.5.1.4.1.1.77.1.6"


def read_dicom(data: bytes) -> tuple[NDArray[Any], tuple[str, ...], str | None]:
    """Decode the single frame of a DICOM file.

    Colour is 8-bit RGB (16-bit where stored so). Grey with a VOI LUT or window becomes uint8, the
    display range of its first window; grey without one keeps its depth: uint8 or uint16 as stored,
    float32 after a rescale or with signed values. MONOCHROME1 is inverted last.

    Args:
        data: The file's bytes.

    Returns:
        Pixels (h, w) or (h, w, 3), notes, and the group: 16 hex digits of the PatientID's SHA-256,
        or None if there is no PatientID.

    Raises:
        DataError: The extra is missing, or the file is not one readable picture.
    """
    pydicom = _pydicom()
    with _in_silence():
        try:
            _refuse_bomb(pydicom, io.BytesIO(data))
            return _decode(pydicom, data)
        except (DataError, MemoryError):
            raise
        except Exception:  # its text may quote the header, so it does not go into tracebacks either
            raise DataError("is a damaged DICOM file") from None


def _decode(pydicom: Any, data: bytes) -> tuple[NDArray[Any], tuple[str, ...], str | None]:
    header = _parse(pydicom, data)
    _refuse_other_objects(header)
    stored = _stored_pixels(pydicom, header)
    if stored.ndim == 3:
        pixels, notes = plain_depth(stored)
    elif _text(header, "PhotometricInterpretation") == "PALETTE COLOR":
        pixels, notes = _through_palette(header, stored), ("palette expanded to RGB",)
    else:
        pixels, notes = _grey(header, stored)
    return pixels, notes, _group(header)


def _refuse_bomb(pydicom: Any, stream: BinaryIO) -> None:
    """pydicom unpacks deflated files whole (PS3.5, A.5), header and all, whatever their size."""
    from pydicom.filereader import _read_file_meta_info, read_preamble

    if stream.read(132)[128:] == b"DICM":
        stream.seek(0)
        read_preamble(stream, force=False)
        syntax = _read_file_meta_info(stream).get("TransferSyntaxUID")
        deflated = syntax == pydicom.uid.DeflatedExplicitVRLittleEndian
        if deflated and inflates_beyond(stream.read(), MAX_INFLATED, raw_deflate):
            raise DataError(f"unpacks to more than {MAX_INFLATED >> 20} MiB (damaged or hostile)")
    stream.seek(0)


def dicom_size(stream: BinaryIO) -> tuple[int, int] | None:
    """Height and width in px from the header."""
    pydicom = _pydicom()
    with _in_silence():
        _refuse_bomb(pydicom, stream)
        header = pydicom.dcmread(
            stream, force=True, stop_before_pixels=True, specific_tags=["Rows", "Columns"]
        )
        rows, columns = header.get("Rows"), header.get("Columns")
    return (int(rows), int(columns)) if rows and columns else None


def _pydicom() -> Any:
    try:
        import pydicom
    except ImportError:
        raise DataError(f"is a DICOM file, which needs an extra: {PIP_LINE}") from None
    return pydicom


@contextmanager
def _in_silence() -> Iterator[None]:
    """pydicom's warnings and log lines quote header values, names of patients among them.

    Neither filter is safe between threads, so one DICOM file is read at a time; parsing holds the
    interpreter anyway.
    """
    log = logging.getLogger("pydicom")
    with _ONE_AT_A_TIME, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before, log.disabled = log.disabled, True
        try:
            yield
        finally:
            log.disabled = before


def _parse(pydicom: Any, data: bytes) -> Any:
    marked = data[128:132] == b"DICM"
    try:
        header = pydicom.dcmread(io.BytesIO(data), force=not marked)
        known = "SOPClassUID" in header or "Rows" in header
    except Exception:
        raise DataError("is a damaged DICOM file (its header can't be parsed)") from None
    if not known:
        raise DataError(
            "is a damaged DICOM file (no storage class or image size in its header"
            + (")" if marked else ", and no 'DICM' mark at its start)")
        )
    if "TransferSyntaxUID" not in header.file_meta:
        # Files from before 1993 have no file meta header; parsing has found out their encoding.
        implicit, little = header.original_encoding
        kind = "Implicit" if implicit else "Explicit"
        order = "Little" if little else "Big"
        header.file_meta.TransferSyntaxUID = getattr(
            pydicom.uid, f"{kind}VR{order}Endian", pydicom.uid.ImplicitVRLittleEndian
        )
    return header


def _refuse_other_objects(header: Any) -> None:
    uid = str(header.get("SOPClassUID", ""))
    name = _class_name(uid)
    if uid in NOT_PICTURES:
        raise DataError(f"holds no picture: it is a {NOT_PICTURES[uid]} object")
    if uid == SLIDE_CLASS:
        raise DataError("is a whole-slide image (DICOM); cut tiles out of it first")
    if not any(key in header for key in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        raise DataError(f"holds no picture: it has no pixel data ({name})")
    rows, columns = _number(header, "Rows"), _number(header, "Columns")
    check_pixel_count(rows, columns)
    frames = _number(header, "NumberOfFrames", missing=1)
    if frames > 1:
        raise DataError(
            f"has {frames} frames, and scanwise reads single-frame DICOM; export the frame that "
            "matters as its own file"
        )


def _number(header: Any, keyword: str, missing: int = 0) -> int:
    try:
        value = header.get(keyword, missing)
        return missing if value is None else int(value)
    except (ValueError, TypeError):
        raise DataError(f"is a damaged DICOM file ({keyword} is not a whole number)") from None


def _class_name(uid: str) -> str:
    """The standard's name of a storage class; private ones are not repeated."""
    from pydicom.uid import UID

    name = UID(uid).name if uid else "no storage class"
    return "private storage class" if name == uid else str(name)


def _stored_pixels(pydicom: Any, header: Any) -> NDArray[Any]:
    syntax = header.file_meta.TransferSyntaxUID
    try:
        # pydicom converts YBR to RGB here.
        return np.asarray(header.pixel_array)
    except MemoryError:
        raise
    except Exception:
        raise DataError(_pixel_reason(pydicom, header, syntax)) from None


def _pixel_reason(pydicom: Any, header: Any, syntax: Any) -> str:
    """Why the pixels could not be decoded, in words that quote no header text."""
    if not syntax.is_compressed:
        samples = _number(header, "SamplesPerPixel", 1)
        bits = _number(header, "BitsAllocated", 0)
        size = _number(header, "Rows") * _number(header, "Columns") * samples * bits // 8
        found = len(header.get("PixelData", b""))
        if found < size:
            return f"is truncated ({found} of {size} bytes of pixel data)"
        return "is a damaged DICOM file (its pixel data do not fit its header)"
    how = f"{syntax.name}, {_number(header, 'BitsStored')} bits"
    try:
        available = pydicom.pixels.get_decoder(syntax).is_available
    except NotImplementedError:
        available = False
    if not available:
        return f"is compressed ({how}) and no decoder for it is installed: {PIP_LINE}"
    return (
        f"is compressed ({how}), and the installed decoders can't read it: the data are damaged, "
        "or this variant has no free decoder; export it uncompressed"
    )


def _through_palette(header: Any, stored: NDArray[Any]) -> NDArray[Any]:
    from pydicom.pixels import apply_color_lut

    colors = np.asarray(apply_color_lut(stored, header))[..., :3]
    # Entries are 8 or 16 bits (PS3.3, C.7.6.3.1.5); a screen shows the upper eight.
    return (colors >> 8).astype(np.uint8) if colors.dtype == np.uint16 else colors.astype(np.uint8)


def _grey(header: Any, stored: NDArray[Any]) -> tuple[NDArray[Any], tuple[str, ...]]:
    from pydicom.pixels import apply_modality_lut

    values = apply_modality_lut(stored, header)
    shown, notes = _windowed(header, values)
    if shown is None:
        pixels, notes = _unwindowed(header, stored, values)
    else:
        pixels = shown
    if _text(header, "PhotometricInterpretation") == "MONOCHROME1":
        pixels = _inverted(header, pixels, windowed=shown is not None)
        notes = (*notes, "DICOM MONOCHROME1 inverted")
    return pixels, notes


def _windowed(
    header: Any, values: NDArray[Any]
) -> tuple[NDArray[np.uint8] | None, tuple[str, ...]]:
    """The first VOI LUT, else the first window, as 0-255; None if the file has neither."""
    if header.get("VOILUTSequence"):
        from pydicom.pixels import apply_voi

        item = header.VOILUTSequence[0]
        bits = int(item.LUTDescriptor[2])
        shown = apply_voi(values.astype(np.int64), header).astype(np.float64) / (2**bits - 1)
        return _to_bytes(shown), ("DICOM VOI LUT of the file applied",)
    centers, widths = _floats(header, "WindowCenter"), _floats(header, "WindowWidth")
    if not centers or not widths:
        return None, ()
    center, width = centers[0], widths[0]
    function = _text(header, "VOILUTFunction") or "LINEAR"
    least = 1.0 if function == "LINEAR" else 0.0
    if width < least or (width == 0.0):
        raise DataError(f"is a damaged DICOM file (its window has a width of {width:g})")
    # PS3.3, C.11.2.1.2.1 to C.11.2.1.3.
    if function == "LINEAR":
        span = max(width - 1, 1e-12)
        shown = (values - (center - 0.5)) / span + 0.5
    elif function == "LINEAR_EXACT":
        shown = (values - center) / width + 0.5
    elif function == "SIGMOID":
        shown = 1 / (1 + np.exp(-4 * (values - center) / width))
    else:
        raise DataError("is a damaged DICOM file (unknown VOI LUT function)")
    which = f", the first of {len(centers)}" if len(centers) > 1 else ""
    return _to_bytes(shown), (
        f"DICOM window of the file applied: center {center:g}, width {width:g}{which}",
    )


def _to_bytes(shown: NDArray[Any]) -> NDArray[np.uint8]:
    return np.asarray(np.rint(np.clip(shown, 0, 1) * 255), np.uint8)


def _unwindowed(
    header: Any, stored: NDArray[Any], values: NDArray[Any]
) -> tuple[NDArray[Any], tuple[str, ...]]:
    if _number(header, "BitsStored") == 1:
        return plain_depth(stored.astype(np.bool_))
    changed = not np.array_equal(values, stored)
    if values.dtype.kind == "f":
        values = values.astype(np.float32)
    pixels, notes = plain_depth(values if changed else stored)
    if changed:
        notes = ("DICOM without window: values after rescale kept",)
    return pixels, (notes or ("DICOM without window: stored values kept",))


def _inverted(header: Any, pixels: NDArray[Any], windowed: bool) -> NDArray[Any]:
    """Mirror the brightness within the range that the file can express, not that of its picture."""
    if windowed:
        return (255 - pixels).astype(pixels.dtype)
    signed, bits = _number(header, "PixelRepresentation"), _number(header, "BitsStored")
    ends = -1.0 if signed else 2.0**bits - 1  # lowest plus highest value
    if header.get("ModalityLUTSequence"):
        ends = 2.0 ** int(header.ModalityLUTSequence[0].LUTDescriptor[2]) - 1
    elif _floats(header, "RescaleSlope"):
        slope, intercept = _floats(header, "RescaleSlope"), _floats(header, "RescaleIntercept")
        ends = slope[0] * ends + 2 * (intercept[0] if intercept else 0.0)
    mirrored = ends - pixels.astype(np.float64)
    if pixels.dtype.kind == "u":
        mirrored = mirrored.clip(0, np.iinfo(pixels.dtype).max)
    return mirrored.astype(pixels.dtype)


def _floats(header: Any, keyword: str) -> list[float]:
    value = header.get(keyword)
    if value is None or value == "":
        return []
    try:
        items = (
            list(value) if hasattr(value, "__iter__") and not isinstance(value, str) else [value]
        )
        return [float(item) for item in items]
    except (ValueError, TypeError):
        raise DataError(f"is a damaged DICOM file ({keyword} is not a number)") from None


def _text(header: Any, keyword: str) -> str:
    return str(header.get(keyword) or "").strip().upper()


def _group(header: Any) -> str | None:
    patient = str(header.get("PatientID") or "").strip()
    return hashlib.sha256(patient.encode("utf-8")).hexdigest()[:16] if patient else None

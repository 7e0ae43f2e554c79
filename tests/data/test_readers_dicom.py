"""DICOM: every real file is read as pydicom's own steps say, or refused with its reason."""

from __future__ import annotations

import builtins
import hashlib
import io
import logging
import sys
import traceback
import warnings
from pathlib import Path

import numpy as np
import pytest

from scanwise.core.errors import DataError
from scanwise.data.images import image_size, read_image

pydicom = pytest.importorskip("pydicom")
from pydicom.dataset import Dataset, FileMetaDataset  # noqa: E402
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_windowing  # noqa: E402
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, RLELossless  # noqa: E402

CT_CLASS = "1.2.840.10008.5.1.4.1.1.2"

# What must come out: "color", "palette", "window", "values", or the reason of the refusal.
REAL_FILES = {
    "CT_small.dcm": "values",
    "ExplVR_BigEnd.dcm": "color",
    "J2K_pixelrep_mismatch.dcm": "window",
    "JPEG-lossy.dcm": r"compressed \(JPEG Extended \(Process 2 and 4\), 12 bits\)",
    "JPGExtended.dcm": r"compressed \(JPEG Extended \(Process 2 and 4\), 12 bits\)",
    "MR_small.dcm": "window",
    "MR_small_RLE.dcm": "window",
    "MR_small_bigendian.dcm": "window",
    "MR_small_implicit.dcm": "window",
    "MR_truncated.dcm": r"truncated \(8130 of 8192 bytes of pixel data\)",
    "SC_rgb_jpeg_dcmd.dcm": "color",
    "SC_ybr_full_422_uncompressed.dcm": "color",
    "badVR.dcm": "holds no picture: it is a RT Dose Storage object",
    "examples_jpeg2k.dcm": "color",
    "examples_overlay.dcm": "window",
    "examples_palette.dcm": "palette",
    "examples_rgb_color.dcm": "color",
    "examples_ybr_color.dcm": "has 30 frames",
    "liver_1frame.dcm": "holds no picture: it is a Segmentation Storage object",
    "no_meta.dcm": "no storage class or image size in its header",
    "waveform_ecg.dcm": r"no pixel data \(12-lead ECG Waveform Storage\)",
}


def expected_pixels(path: Path, how: str) -> np.ndarray:
    """The same picture by pydicom's own functions."""
    header = pydicom.dcmread(path)
    stored = header.pixel_array
    if how == "color":
        return stored
    if how == "palette":
        return (apply_color_lut(stored, header) >> 8).astype(np.uint8)
    values = apply_modality_lut(stored, header)
    if how == "values":
        return values.astype(np.float32)
    shown = apply_windowing(values, header)  # onto the range of the stored type
    bits = header.BitsStored
    low, high = (
        (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        if header.PixelRepresentation
        else (
            0,
            2**bits - 1,
        )
    )
    if "RescaleSlope" in header:
        low = low * header.RescaleSlope + header.RescaleIntercept
        high = high * header.RescaleSlope + header.RescaleIntercept
    return np.rint((shown - low) / (high - low) * 255).astype(np.uint8)


@pytest.mark.parametrize("name", REAL_FILES)
@pytest.mark.filterwarnings("default:.*:UserWarning")
def test_every_real_file_is_read_or_refused(shared: Path, name: str) -> None:
    path, expected = shared / "data/tricky/dicom" / name, REAL_FILES[name]
    if expected not in {"color", "palette", "window", "values"}:
        with pytest.raises(DataError, match=expected):
            read_image(path)
        return
    image = read_image(path)
    wanted = expected_pixels(path, expected)
    wanted = wanted[..., None] if wanted.ndim == 2 else wanted
    assert image.pixels.dtype == wanted.dtype
    np.testing.assert_array_equal(image.pixels, wanted)
    assert image.format == "DICOM"
    assert image_size(path) == image.pixels.shape[:2]
    patient = str(pydicom.dcmread(path).get("PatientID") or "").strip()
    assert image.group == (hashlib.sha256(patient.encode()).hexdigest()[:16] if patient else None)


def test_the_table_lists_every_real_file(shared: Path) -> None:
    assert {path.name for path in (shared / "data/tricky/dicom").iterdir()} == set(REAL_FILES)


def test_the_same_slice_in_four_encodings_is_the_same_picture(shared: Path) -> None:
    folder = shared / "data/tricky/dicom"
    pictures = [
        read_image(folder / f"MR_small{end}.dcm").pixels
        for end in ("", "_RLE", "_bigendian", "_implicit")
    ]
    for picture in pictures[1:]:
        np.testing.assert_array_equal(picture, pictures[0])


# --- made here ----------------------------------------------------------------------------------


def dicom(pixels: np.ndarray, **header: object) -> bytes:
    """A file with these stored pixels; keywords set or (None) remove header fields."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CT_CLASS
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    syntax = header.pop("syntax", ExplicitVRLittleEndian)
    meta.TransferSyntaxUID = syntax
    data = Dataset()
    data.file_meta = meta
    data.SOPClassUID = CT_CLASS
    data.SOPInstanceUID = "1.2.3"
    data.PatientName = "SECRET^NAME"
    data.PatientID = "SECRET-ID"
    data.Rows, data.Columns = pixels.shape[:2]
    data.SamplesPerPixel = 3 if pixels.ndim == 3 else 1
    data.PhotometricInterpretation = "RGB" if pixels.ndim == 3 else "MONOCHROME2"
    if pixels.ndim == 3:
        data.PlanarConfiguration = 0
    data.BitsAllocated = data.BitsStored = 8 * pixels.dtype.itemsize
    data.HighBit = data.BitsStored - 1
    data.PixelRepresentation = int(pixels.dtype.kind == "i")
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    data.PixelData = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    for keyword, value in header.items():
        if value is None:
            delattr(data, keyword)
        else:
            setattr(data, keyword, value)
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, data, enforce_file_format=True)
    return buffer.getvalue()


RAMP = np.arange(0, 4096, dtype=np.uint16).reshape(64, 64)


def test_linear_window_by_the_standards_formula() -> None:
    """PS3.3 C.11.2.1.2.1, written out as there."""
    center, width = 1000.0, 800.0
    out = read_image(dicom(RAMP, WindowCenter=center, WindowWidth=width))
    expected = np.empty(RAMP.shape)
    for place, x in np.ndenumerate(RAMP.astype(float)):
        if x <= center - 0.5 - (width - 1) / 2:
            expected[place] = 0
        elif x > center - 0.5 + (width - 1) / 2:
            expected[place] = 255
        else:
            expected[place] = ((x - (center - 0.5)) / (width - 1) + 0.5) * 255
    np.testing.assert_array_equal(out.pixels[..., 0], np.rint(expected))
    assert out.notes == ("DICOM window of the file applied: center 1000, width 800",)


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_window_functions_agree_with_pydicom(function: str) -> None:
    data = dicom(RAMP, WindowCenter=900, WindowWidth=700, VOILUTFunction=function)
    shown = apply_windowing(RAMP, pydicom.dcmread(io.BytesIO(data)))
    np.testing.assert_array_equal(
        read_image(data).pixels[..., 0], np.rint(shown / 65535 * 255).astype(np.uint8)
    )


def test_window_comes_after_rescale() -> None:
    data = dicom(RAMP, RescaleSlope=2, RescaleIntercept=-1000, WindowCenter=0, WindowWidth=501)
    pixels = read_image(data).pixels[..., 0]
    assert pixels.flat[374] == 0  # 2 · 374 − 1000 = −252
    assert pixels.flat[500] in (127, 128)
    assert pixels.flat[626] == 255


def test_the_first_of_several_windows_is_said() -> None:
    image = read_image(dicom(RAMP, WindowCenter=[40, 600], WindowWidth=[80, 100]))
    assert image.notes[0].endswith("center 40, width 80, the first of 2")


def test_voi_lut_wins_over_the_window() -> None:
    item = Dataset()
    item.LUTDescriptor = [256, 1000, 16]
    item.LUTData = ((255 - np.arange(256)) * 257).astype("<u2").tobytes()
    data = dicom(RAMP, VOILUTSequence=[item], WindowCenter=40, WindowWidth=80)
    image = read_image(data)
    np.testing.assert_array_equal(
        image.pixels[..., 0], 255 - np.clip(RAMP.astype(int) - 1000, 0, 255)
    )
    assert image.notes == ("DICOM VOI LUT of the file applied",)


def test_modality_lut_comes_first() -> None:
    item = Dataset()
    item.LUTDescriptor = [4096, 0, 16]
    item.LUTData = (RAMP.astype(np.uint16) * 3).tobytes()
    item.ModalityLUTType = "US"
    image = read_image(dicom(RAMP, ModalityLUTSequence=[item]))
    np.testing.assert_array_equal(image.pixels[..., 0], RAMP * 3)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_without_window_the_depth_stays(syntax: str) -> None:
    image = read_image(dicom(RAMP, syntax=syntax))
    assert image.pixels.dtype == np.dtype(np.uint16)
    np.testing.assert_array_equal(image.pixels[..., 0], RAMP)
    assert image.notes == ("DICOM without window: stored values kept",)
    signed = read_image(dicom(RAMP.astype(np.int16) - 2000, syntax=syntax))
    assert signed.pixels.dtype == np.float32
    np.testing.assert_array_equal(signed.pixels[..., 0], RAMP.astype(int) - 2000)


def test_monochrome1_is_inverted_last() -> None:
    window = {"WindowCenter": 1000, "WindowWidth": 800}
    plain = read_image(dicom(RAMP, **window)).pixels
    inverted = read_image(dicom(RAMP, PhotometricInterpretation="MONOCHROME1", **window))
    np.testing.assert_array_equal(inverted.pixels, 255 - plain)
    assert "DICOM MONOCHROME1 inverted" in inverted.notes


def test_monochrome1_without_window_mirrors_the_range_of_the_file_type() -> None:
    how = {"PhotometricInterpretation": "MONOCHROME1"}
    stored = read_image(dicom(RAMP, BitsStored=12, HighBit=11, **how)).pixels[..., 0]
    np.testing.assert_array_equal(stored, 4095 - RAMP)
    half = read_image(dicom(RAMP[:32], BitsStored=12, HighBit=11, **how)).pixels[..., 0]
    np.testing.assert_array_equal(half, stored[:32])  # the rest of the picture has no say
    scaled = read_image(
        dicom(RAMP, BitsStored=12, HighBit=11, RescaleSlope=1, RescaleIntercept=-1024, **how)
    ).pixels[..., 0]
    np.testing.assert_array_equal(scaled, 4095 - 2048 - (RAMP.astype(int) - 1024))


def test_color_and_one_frame_said_explicitly() -> None:
    color = np.random.default_rng(1).integers(0, 256, (9, 12, 3), np.uint8)
    np.testing.assert_array_equal(read_image(dicom(color, NumberOfFrames=1)).pixels, color)


def test_a_file_without_meta_header_is_read(tmp_path: Path) -> None:
    data = dicom(RAMP)
    header = pydicom.dcmread(io.BytesIO(data))
    path = tmp_path / "old.dcm"
    with path.open("wb") as stream:
        del header.file_meta
        header.preamble = None
        pydicom.dcmwrite(stream, header, implicit_vr=True, little_endian=True)
    assert path.read_bytes()[128:132] != b"DICM"
    np.testing.assert_array_equal(read_image(path).pixels[..., 0], RAMP)


# --- refusals and privacy -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ({"NumberOfFrames": 7}, "has 7 frames"),
        ({"PixelData": None}, r"no pixel data \(CT Image Storage\)"),
        ({"Rows": 60_000, "Columns": 60_000}, "over the limit of 100 megapixels"),
        ({"Rows": 128}, r"truncated \(8192 of 16384 bytes"),
        ({"WindowCenter": 3, "WindowWidth": 0}, "its window has a width of 0"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.77.1.6"}, "whole-slide"),
    ],
)
def test_refusals(header: dict[str, object], reason: str) -> None:
    with pytest.raises(DataError, match=reason) as error:
        read_image(dicom(RAMP, **header))
    assert "SECRET" not in str(error.value)


def test_damaged_compressed_pixels_are_refused_without_quoting() -> None:
    from pydicom.encaps import encapsulate

    data = dicom(RAMP)
    header = pydicom.dcmread(io.BytesIO(data))
    header.file_meta.TransferSyntaxUID = RLELossless
    header.PixelData = encapsulate([b"no such thing"])
    header["PixelData"].is_undefined_length = True
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, header)
    with pytest.raises(DataError, match=r"compressed \(RLE Lossless, 16 bits\)") as error:
        read_image(buffer.getvalue())
    assert "SECRET" not in str(error.value)


def test_no_patient_data_in_anything_that_comes_out(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Not in pixels' notes, nor in warnings or logs, even where header values are invalid."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bad = dicom(RAMP, PatientBirthDate="SECRET-DATE", PatientID="SECRET" * 20)
    caplog.clear()
    with caplog.at_level(logging.DEBUG), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        image = read_image(bad)
    said = " ".join([*image.notes, str(image.group), *map(str, caught), caplog.text])
    said += "".join(capfd.readouterr())
    assert "SECRET" not in said
    assert image.group == hashlib.sha256(("SECRET" * 20).encode()).hexdigest()[:16]


def test_log_and_tracebacks_quote_no_header_value(caplog: pytest.LogCaptureFixture) -> None:
    data = dicom(RAMP, NumberOfFrames=1)
    bad = data.replace(b"IS\x02\x001 ", b"IS\x02\x001Q")  # pydicom would log "Invalid value: '1Q'"
    assert bad != data
    with (
        caplog.at_level(logging.DEBUG),
        pytest.raises(DataError, match="NumberOfFrames is not a whole number") as error,
    ):
        read_image(bad)
    assert "1Q" not in caplog.text
    assert "1Q" not in "".join(traceback.format_exception(error.value))
    assert not logging.getLogger("pydicom").disabled


def test_deflated_files_are_read_and_bombs_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole data set of a deflated file is packed (PS3.5, A.5), zeros by a thousand to one."""
    pixels = np.zeros((300, 300), np.uint16)
    deflated = io.BytesIO()
    header = pydicom.dcmread(io.BytesIO(dicom(pixels)))
    header.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    header.save_as(deflated)
    assert read_image(deflated.getvalue()).pixels.shape[:2] == (300, 300)
    assert image_size(deflated.getvalue()) == (300, 300)
    monkeypatch.setattr("scanwise.data.dicom.MAX_INFLATED", 100_000)
    with pytest.raises(DataError, match="unpacks to more than"):
        read_image(deflated.getvalue())
    assert image_size(deflated.getvalue()) is None


def test_no_patient_no_group() -> None:
    assert read_image(dicom(RAMP, PatientID="")).group is None
    assert read_image(dicom(RAMP, PatientID=None)).group is None


def test_a_missing_extra_gives_the_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    data = dicom(RAMP)
    real = builtins.__import__

    def without(name: str, *args: object, **more: object) -> object:
        if name.split(".")[0] == "pydicom":
            raise ImportError(name)
        return real(name, *args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.delitem(sys.modules, "pydicom")
    with pytest.raises(DataError, match=r'pip install "scanwise\[dicom\]"'):
        read_image(data)


@pytest.mark.parametrize("seed", range(30))
def test_hostile_bytes_end_in_a_data_error_or_a_picture(seed: int) -> None:
    rng = np.random.default_rng(seed)
    data = bytearray(dicom(RAMP, WindowCenter=1000, WindowWidth=800, RescaleSlope=2))
    for _ in range(10):
        data[int(rng.integers(132, 900))] = int(rng.integers(256))
    try:
        read_image(bytes(data))
    except DataError as error:
        message = str(error)
    else:
        message = ""
    assert "SECRET" not in message

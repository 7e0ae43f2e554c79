"""Data larger than memory: nothing on the main path copies the whole array, and no result moves."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import scanwise as sw
from scanwise.cli import main
from scanwise.core import memory
from scanwise.core.errors import DataError
from scanwise.core.memory import available_bytes, check_memory
from scanwise.data import cache, near_duplicates, npz
from scanwise.data.cache import ReadOptions
from scanwise.data.demo import load_demo
from scanwise.data.npz import load_npz
from scanwise.data.views import working_copies
from scanwise.deploy.bundle import Bundle
from scanwise.pipeline.baselines import histogram_features
from scanwise.prepare import batches
from scanwise.prepare import rows as prepared_rows
from scanwise.prepare.preprocessing import fit_preprocessing
from scanwise.prepare.rows import PixelRows, evaluation_batch, keep_pixels

SIDE_PX, LARGE = 400, 1400  # 224 MB, of which train is 157
ALLOWED = 145e6  # bytes beyond what a training on 60 such images takes; 109 were measured

# The set is sparse: each image is black but for lines of its own, whose place tells the class.
LIMITED = """
import resource, sys
from pathlib import Path
import numpy as np
import scanwise as sw
from scanwise.data import npz
from scanwise.prepare import batches

npz.LARGE_BYTES = 2**20
batches.RESIDENT_LIMIT_BYTES = 2**20
folder, side = Path(sys.argv[1]), int(sys.argv[2])
settings = dict(model="mlp:2", epochs=1, batch_size=8, augment="none", threads=1)

def write(name, n):
    rng = np.random.default_rng(n)
    images = np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.uint8, (n, side, side))
    places = rng.integers(0, 16, n)
    for image, place in zip(images, places):
        lines = np.repeat(rng.integers(0, 256, 20, np.uint8), side // 20)
        image[place * (side // 16) :][: side // 30] = lines
    np.savez(folder / f"{name}.npz", X=images, y=places // 8)
    return folder / f"{name}.npz"

def in_use():
    words = dict(line.split(":") for line in open("/proc/self/status") if ":" in line)
    return int(words["VmData"].split()[0]) * 1024

small, large = write("small", 60), write("large", int(sys.argv[3]))
sw.train(small, output=str(folder / "warm"), **settings)
limit = in_use() + int(float(sys.argv[4]))
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
run = sw.train(large, output=str(folder / "run"), **settings)
print(run.metrics["splits"]["test"]["n"])
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the system enforces RLIMIT_DATA on Linux")
def test_the_main_path_needs_far_less_memory_than_the_data(tmp_path: Path) -> None:
    """The system refuses more memory: a copy of the data or of train would be a MemoryError."""
    # What is freed goes back to the system at once, so that the limit counts what is held.
    settings = {"MALLOC_ARENA_MAX": "2", "MALLOC_MMAP_THRESHOLD_": "65536"}
    settings["SCANWISE_CACHE"] = str(tmp_path / "cache")
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, tmp_path, str(SIDE_PX), str(LARGE), str(ALLOWED)],
        capture_output=True, text=True, check=False, timeout=1500,
        env=os.environ | settings,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout) == LARGE * 0.15


# --- rows that are prepared as they are read ----------------------------------------------------


@pytest.fixture(scope="module", params=["uint8", "uint16", "grey for three channels", "clahe"])
def view(request: pytest.FixtureRequest) -> PixelRows:
    """Some rows, out of order, of the demo in several depths and preparations."""
    dataset = load_demo("demo:cells?n=60")
    images = dataset.images
    if request.param == "uint16":
        images = images.astype(np.uint16) * 17
    if request.param.startswith("grey"):
        images = images[..., :1]
    dataset = replace(dataset, images=images)
    contrast = "clahe" if request.param == "clahe" else "none"
    channels = 3 if request.param.startswith("grey") else None
    fitted = fit_preprocessing(dataset, np.arange(30), contrast=contrast, channels=channels)
    return PixelRows(fitted, images, np.array([7, 3, 58, 3, 40, 11, 12]))


def test_rows_read_like_the_whole_array(view: PixelRows) -> None:
    whole = view.preprocessing.to_pixels(view.images[view.rows])
    assert view.shape == whole.shape
    assert len(view) == 7
    np.testing.assert_array_equal(view[2:5], whole[2:5])
    np.testing.assert_array_equal(view[5:99], whole[5:])
    np.testing.assert_array_equal(view[-1], whole[-1])
    np.testing.assert_array_equal(np.stack(list(view)), whole)  # by __getitem__ until IndexError
    np.testing.assert_array_equal(histogram_features(view), histogram_features(whole))


def test_a_bundle_says_the_same_of_rows_and_arrays(disc_run) -> None:
    bundle = Bundle.from_pretrained(disc_run.path)
    images = load_npz(Path(disc_run.config.data)).images
    rows = np.arange(len(images))[::-1]
    whole = bundle.probabilities_of(bundle.preprocessing.to_pixels(images[rows]))
    lazy = bundle.probabilities_of(PixelRows(bundle.preprocessing, images, rows))
    np.testing.assert_array_equal(lazy, whole)


def test_errors_name_the_row_of_the_data_set() -> None:
    dataset = load_demo("demo:cells?n=60")
    grey = replace(dataset, images=np.repeat(dataset.images[..., :1], 3, axis=3))
    fitted = fit_preprocessing(grey, np.arange(20), channels=1)
    with pytest.raises(DataError, match="image 30 has 3 channels that differ"):
        PixelRows(fitted, dataset.images, np.array([30, 2]))[:2]


def test_many_prepared_pixels_go_to_a_file_without_a_name(
    view: PixelRows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    expected, note = keep_pixels(view)
    assert note == ""
    assert not isinstance(expected, np.memmap)
    monkeypatch.setenv("SCANWISE_CACHE", str(tmp_path))
    monkeypatch.setattr(prepared_rows, "RESIDENT_LIMIT_BYTES", 0)
    monkeypatch.setattr(prepared_rows, "_BLOCK_BYTES", 1)  # row by row
    monkeypatch.setattr("scanwise.data.cache.LARGE_BYTES", 0)
    pixels, note = keep_pixels(view)
    assert isinstance(pixels, np.memmap)
    np.testing.assert_array_equal(pixels, expected)
    assert "in a temporary file" in note
    assert list((tmp_path / "prepared").iterdir()) == []
    assert "GB free" in capsys.readouterr().err


def test_without_room_prepared_pixels_stay_in_memory_if_they_fit(
    view: PixelRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepared_rows, "RESIDENT_LIMIT_BYTES", 0)
    monkeypatch.setattr(prepared_rows, "room_for", lambda *_: "9 GB needed, 1 GB free")
    pixels, note = keep_pixels(view)
    assert not isinstance(pixels, np.memmap)
    assert "kept in memory: 9 GB needed" in note
    monkeypatch.setattr(memory, "available_bytes", lambda: 10)
    with pytest.raises(DataError, match=r"9 GB needed.*needs 0\.0 GB of memory.*make room"):
        keep_pixels(view)


def test_a_training_gives_the_same_from_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"model": "mlp:8", "epochs": 1, "contrast": "clahe", "batch_size": 32}
    usual = sw.train("demo:cells?n=120", output=str(tmp_path / "a"), **settings)
    for owner in (prepared_rows, batches):
        monkeypatch.setattr(owner, "RESIDENT_LIMIT_BYTES", 0)
    mapped = sw.train("demo:cells?n=120", output=str(tmp_path / "b"), **settings)
    assert "in a temporary file" in (mapped.path / "log.txt").read_text()
    for name in ("predictions.csv", "baselines/histogram.csv"):
        assert (mapped.path / name).read_bytes() == (usual.path / name).read_bytes()


def test_evaluation_batches_shrink_with_the_images() -> None:
    assert [evaluation_batch((side, side)) for side in (28, 64, 128, 256, 1024)] == [
        256, 256, 64, 16, 8,
    ]  # fmt: skip


def test_a_split_goes_to_the_device_part_by_part(monkeypatch: pytest.MonkeyPatch) -> None:
    array = np.random.default_rng(0).integers(0, 256, (20, 4, 4, 1), np.uint8)
    monkeypatch.setattr(batches, "_UPLOAD_BYTES", 3 * 16)
    rows = np.array([5, 1, 19, 0, 7, 7, 2])
    held = batches._uploaded(array, rows, torch.device("cpu"))
    np.testing.assert_array_equal(held.numpy(), array[rows])


# --- what is asked before something large is made -----------------------------------------------


def test_available_memory_is_the_least_of_machine_and_container(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 9000 kB\nMemAvailable:    4000 kB\n")
    assert available_bytes(meminfo, tmp_path) == 4000 * 1024
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("700000\n")
    (tmp_path / "memory.stat").write_text("anon 200000\nfile 500000\n")
    assert available_bytes(meminfo, tmp_path) == 800_000
    (tmp_path / "memory.max").write_text("max\n")
    assert available_bytes(meminfo, tmp_path) == 4000 * 1024
    elsewhere = available_bytes(tmp_path / "none", tmp_path)
    assert elsewhere is None or elsewhere > 2**28


def test_what_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: 10**9)
    check_memory(700_000_000, "this", "go.")
    with pytest.raises(DataError, match=r"this needs 0.9 GB of memory, and 1.0 GB are available"):
        check_memory(900_000_000, "this", "go.")
    monkeypatch.setattr(memory, "available_bytes", lambda: None)
    check_memory(10**15, "where the system won't say, nothing", "is refused.")


def test_neither_disk_nor_memory_is_one_message(
    discs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(npz, "LARGE_BYTES", 1)
    monkeypatch.setattr(npz, "room_for", lambda *_: "9 GB needed, 1 GB free")
    monkeypatch.setattr(memory, "available_bytes", lambda: 10)
    with pytest.raises(SystemExit) as stop:
        main(["train", str(discs), "--output", str(tmp_path / "run")])
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert "9 GB needed, 1 GB free" in said
    assert "set SCANWISE_CACHE" in said
    assert not (tmp_path / "run").exists()


def test_the_size_of_a_copy_is_told_before_it_is_made(
    discs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("SCANWISE_CACHE", str(tmp_path))
    monkeypatch.setattr(npz, "LARGE_BYTES", 1)
    monkeypatch.setattr(cache, "LARGE_BYTES", 1)
    usual = load_npz(discs)  # three members, so a copy
    said = capsys.readouterr().err
    assert said.startswith(
        "Cache: a copy of discs.npz that can be read by index takes about 0.0 GB"
    )
    assert "GB free" in said
    again = load_npz(discs)
    assert capsys.readouterr().err == ""
    np.testing.assert_array_equal(again.images, usual.images)


def test_the_depth_of_image_files_is_estimated_from_a_few(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import cv2

    paths = [tmp_path / f"{k}.png" for k in range(20)]
    for path in paths:
        cv2.imwrite(str(path), np.full((8, 8), 200, np.uint8))
    assert cache._estimate_bytes(paths, (8, 8), ReadOptions()) == 20 * 64 * 6  # little: not looked
    monkeypatch.setattr(cache, "LARGE_BYTES", 1)
    assert cache._estimate_bytes(paths, (8, 8), ReadOptions()) == 20 * 64
    cv2.imwrite(str(paths[0]), np.full((8, 8, 3), 200, np.uint16))
    assert cache._estimate_bytes(paths, (8, 8), ReadOptions()) == 20 * 64 * 6


def test_smote_that_does_not_fit_is_refused_before_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: 1000)
    with pytest.raises(DataError, match=r"SMOTE holds all images.*--class-weights balanced"):
        sw.train("demo:cells?n=60", balance="smote", output=str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


# --- the search for copies in blocks ------------------------------------------------------------


def test_the_search_for_copies_does_not_depend_on_its_blocks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dataset = load_demo("demo:cells?n=150")
    images = np.concatenate([dataset.images, dataset.images[:5, :, ::-1]])
    images[3] = 0  # left out of the search: the rows behind it move up
    usual = near_duplicates.find_near_pairs(images)
    monkeypatch.setattr(near_duplicates, "EMBED_ROWS", 32)
    blocks = near_duplicates.find_near_pairs(images)
    assert len(usual.rows)
    np.testing.assert_array_equal(blocks.rows, usual.rows)
    np.testing.assert_allclose(blocks.similarity, usual.similarity, atol=1e-6)


def test_kept_rows_move_to_the_front() -> None:
    work = np.arange(24, dtype=np.uint8).reshape(6, 2, 2, 1)
    rows = np.array([0, 2, 5])
    expected = work[rows].copy()
    kept = near_duplicates._kept(work, rows)
    np.testing.assert_array_equal(kept, expected)
    assert np.shares_memory(kept, work)


def test_one_picture_in_colour_keeps_three_channels() -> None:
    grey = np.repeat(np.random.default_rng(0).integers(0, 256, (30, 20, 20, 1), np.uint8), 3, 3)
    assert working_copies(grey).shape[3] == 1
    grey[17, 4, 4, 0] ^= 255
    assert working_copies(grey).shape[3] == 3

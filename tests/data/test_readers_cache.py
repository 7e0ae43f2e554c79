"""The decoded cache: used when it fits, never when a byte changed, whole or absent, shared."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import time
from collections import namedtuple
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from scanwise.data import cache
from scanwise.data.cache import ReadOptions, choose_size, decode_files, npy_header

RNG = np.random.default_rng(4)


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("SCANWISE_CACHE", str(folder))
    return folder


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Twelve colour pictures of three sizes, old enough to be remembered."""
    paths = []
    for i in range(12):
        path = tmp_path / f"{i:02}.png"
        side = (40, 50, 60)[i % 3]
        Image.fromarray(RNG.integers(0, 256, (side, side + 3, 3), np.uint8)).save(path)
        age(path)
        paths.append(path)
    return paths


def age(path: Path, seconds: float = 60) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


def names(paths: list[Path]) -> list[str]:
    return [path.name for path in paths]


def no_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr(cache, "read_image", fail)


def test_second_load_neither_decodes_nor_hashes(
    own_cache: Path, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = decode_files(files, names(files), ReadOptions())
    assert isinstance(first.images, np.memmap)
    assert first.not_cached == ""
    no_decoding(monkeypatch)
    monkeypatch.setattr(cache, "sha256_file", lambda path: pytest.fail("hashed again"))
    second = decode_files(files, names(files), ReadOptions())
    np.testing.assert_array_equal(second.images, first.images)
    assert second.facts == first.facts
    assert second.sha256 == first.sha256
    assert not list(own_cache.rglob("*.part"))


def test_the_map_is_read_only(own_cache: Path, files: list[Path]) -> None:
    images = decode_files(files, names(files), ReadOptions()).images
    with pytest.raises(ValueError, match="read-only"):
        images[0] = 0


def test_a_changed_file_is_noticed(own_cache: Path, files: list[Path]) -> None:
    before = decode_files(files, names(files), ReadOptions())
    Image.fromarray(np.full((40, 43, 3), 9, np.uint8)).save(files[0])
    after = decode_files(files, names(files), ReadOptions())
    assert (after.images[0] == 9).all()
    np.testing.assert_array_equal(after.images[1:], before.images[1:])
    assert after.sha256[0] != before.sha256[0]


def test_a_change_within_one_clock_tick_is_noticed(own_cache: Path, files: list[Path]) -> None:
    """Same size, same time: a file written a moment ago is hashed again, as git does."""
    os.utime(files[0])
    stat = files[0].stat()
    before = decode_files(files, names(files), ReadOptions())
    data = bytearray(files[0].read_bytes())
    data[-1] ^= 1
    files[0].write_bytes(bytes(data))
    os.utime(files[0], ns=(stat.st_atime_ns, stat.st_mtime_ns))
    after = decode_files(files, names(files), ReadOptions())
    assert [index for index, _ in after.failures] == [0]
    assert not before.failures


@pytest.mark.parametrize(
    "other",
    [ReadOptions(size=32), ReadOptions(fit="pad"), ReadOptions(page=0), ReadOptions(project="max")],
)
def test_other_options_are_other_entries(
    own_cache: Path, files: list[Path], other: ReadOptions
) -> None:
    decode_files(files, names(files), ReadOptions())
    decode_files(files, names(files), other)
    assert len(list((own_cache / "decoded").glob("*.npy"))) == 2


def test_another_decoder_is_another_entry(
    own_cache: Path, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failure for want of a decoder must not outlive its installation."""
    decode_files(files, names(files), ReadOptions())
    monkeypatch.setattr(cache, "_decoders", lambda: ["pydicom 99"])
    decode_files(files, names(files), ReadOptions())
    assert len(list((own_cache / "decoded").glob("*.npy"))) == 2


def test_the_same_files_elsewhere_are_the_same_entry(
    own_cache: Path, files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = decode_files(files, names(files), ReadOptions())
    moved = [Path(shutil.copy(path, tmp_path / f"copy-{path.name}")) for path in files]
    no_decoding(monkeypatch)
    second = decode_files(moved, names(files), ReadOptions())
    np.testing.assert_array_equal(second.images, first.images)


def test_relative_paths_of_another_folder_are_other_files(
    own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i, name in enumerate(("one", "two")):
        (tmp_path / name).mkdir()
        path = tmp_path / name / "x.bmp"
        Image.fromarray(np.full((30, 30), 50 * i, np.uint8)).save(path)
        os.utime(path, (1e9, 1e9))
    for i, name in enumerate(("one", "two")):
        monkeypatch.chdir(tmp_path / name)
        assert (decode_files([Path("x.bmp")], ["x.bmp"], ReadOptions()).images == 50 * i).all()


@pytest.mark.parametrize("damage", ["cut array", "cut list", "no list", "no array", "other list"])
def test_a_damaged_entry_is_made_again(own_cache: Path, files: list[Path], damage: str) -> None:
    first = decode_files(files, names(files), ReadOptions())
    expected = np.array(first.images)
    (array,) = (own_cache / "decoded").glob("*.npy")
    listing = array.with_suffix(".json")
    if damage == "cut array":
        os.truncate(array, 5000)
    elif damage == "cut list":
        os.truncate(listing, 50)
    elif damage == "no list":
        listing.unlink()
    elif damage == "no array":
        array.unlink()
    else:
        known = json.loads(listing.read_text())
        known["facts"].pop()
        listing.write_text(json.dumps(known))
    again = decode_files(files, names(files), ReadOptions())
    np.testing.assert_array_equal(again.images, expected)
    assert again.not_cached == ""


def test_a_damaged_index_is_no_reason_to_stop(own_cache: Path, files: list[Path]) -> None:
    own_cache.mkdir()
    (own_cache / "files.sqlite").write_bytes(b"this is no database" * 100)
    assert len(decode_files(files, names(files), ReadOptions()).images) == 12


def test_a_killed_writer_leaves_nothing_that_counts(
    own_cache: Path, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(cache, "_complete_file", killed)
        with pytest.raises(KeyboardInterrupt):
            decode_files(files, names(files), ReadOptions())
    assert not list((own_cache / "decoded").iterdir())
    assert len(decode_files(files, names(files), ReadOptions()).images) == 12


def test_leftovers_of_killed_processes_are_swept_up(own_cache: Path, files: list[Path]) -> None:
    (own_cache / "decoded").mkdir(parents=True)
    old, new = own_cache / "decoded/old.part", own_cache / "decoded/new.part"
    for path in (old, new):
        path.write_bytes(b"x")
    age(old, 3 * 24 * 3600)
    decode_files(files, names(files), ReadOptions())
    assert not old.exists()
    assert new.exists()


def test_no_room_means_memory_and_says_so(
    own_cache: Path, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: usage(10, 9, 1))
    decoded = decode_files(files, names(files), ReadOptions())
    assert not isinstance(decoded.images, np.memmap)
    assert "GB free" in decoded.not_cached
    assert len(decoded.images) == 12


def test_an_unwritable_cache_means_memory_and_says_so(
    tmp_path: Path, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = tmp_path / "a file"
    blocked.write_text("not a folder")
    monkeypatch.setenv("SCANWISE_CACHE", str(blocked))
    decoded = decode_files(files, names(files), ReadOptions())
    assert decoded.not_cached
    assert len(decoded.images) == 12
    assert blocked.read_text() == "not a folder"


def test_memory_and_disk_give_the_same(
    own_cache: Path, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where rows must be rewritten: grey, colour and 16-bit files together."""
    cv2.imwrite(str(files[3]), RNG.integers(0, 65536, (40, 40)).astype(np.uint16))
    cv2.imwrite(str(files[7]), RNG.integers(0, 256, (40, 40), np.uint8))
    on_disk = decode_files(files, names(files), ReadOptions())
    assert on_disk.images.dtype == np.uint16
    monkeypatch.setattr(cache, "room_for", lambda *_: "no")
    shutil.rmtree(own_cache)
    in_memory = decode_files(files, names(files), ReadOptions())
    np.testing.assert_array_equal(on_disk.images, in_memory.images)
    assert on_disk.facts == in_memory.facts


def _load_in_process(arguments: tuple[str, list[str]]) -> int:
    os.environ["SCANWISE_CACHE"] = arguments[0]
    paths = [Path(name) for name in arguments[1]]
    images = decode_files(paths, [path.name for path in paths], ReadOptions()).images
    return int(images.astype(np.int64).sum())


def test_processes_at_once_do_not_disturb_each_other(own_cache: Path, files: list[Path]) -> None:
    context = multiprocessing.get_context("spawn")
    task = (str(own_cache), [str(path) for path in files])
    with context.Pool(3) as pool:
        sums = pool.map(_load_in_process, [task] * 6, chunksize=1)
    assert len(set(sums)) == 1
    assert sums[0] == int(decode_files(files, names(files), ReadOptions()).images.astype(int).sum())
    assert not list((own_cache / "decoded").glob("*.part"))


def test_npy_header_is_numpys_own_format(tmp_path: Path) -> None:
    for shape, dtype in [((3, 4, 5, 1), np.uint8), ((10**7, 224, 224, 3), np.float32)]:
        header = npy_header(shape, np.dtype(dtype))
        assert len(header) == 256
        path = tmp_path / "h.npy"
        path.write_bytes(header)
        with path.open("rb") as stream:
            assert np.lib.format.read_magic(stream) == (1, 0)
            assert np.lib.format.read_array_header_1_0(stream) == (shape, False, np.dtype(dtype))


def test_choose_size() -> None:
    assert choose_size([(300, 200)], 48)[0] == (48, 48)
    assert choose_size([(28, 28)] * 3, None)[0] == (28, 28)
    assert choose_size([(64, 20)] * 3, None)[0] == (64, 20)
    assert choose_size([(65, 65)] * 3, None)[0] == (64, 64)
    assert choose_size([(1000, 5)], None)[0] == (224, 224)
    assert choose_size([], None)[0] == (224, 224)

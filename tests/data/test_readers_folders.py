"""Class folders and pre-split folders: which class, which file, what is left out or refused."""

from __future__ import annotations

import os
import shutil
import unicodedata
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from scanwise.core.errors import ConfigError, DataError
from scanwise.core.files import sha256_file
from scanwise.core.types import Dataset
from scanwise.data.cache import ReadOptions
from scanwise.data.folders import load_folder
from scanwise.data.quality import measure_quality

RNG = np.random.default_rng(11)
FIVE = {"photometric": "minisblack", "planarconfig": "contig", "metadata": None}


def picture(path: Path, *, size: tuple[int, int] = (20, 20), color: bool = True) -> Path:
    """A random picture, (height, width), in the format of its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (*size, 3) if color else size
    Image.fromarray(RNG.integers(0, 256, shape, np.uint8)).save(path)
    return path


def class_folders(root: Path, counts: dict[str, int], **how: object) -> Path:
    for name, count in counts.items():
        for i in range(count):
            picture(root / name / f"{i:02}.png", **how)
    return root


def codes(dataset: Dataset) -> dict[str, str]:
    return {note.code: note.evidence for note in dataset.notes}


# --- class folders ------------------------------------------------------------------------------


def test_classes_are_sorted_by_code_point_and_rows_aligned(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "my cells", {"b10": 2, "b2": 1, "Zebra": 3, "äpfel": 1})
    dataset = load_folder(root)
    assert dataset.class_names == ("Zebra", "b10", "b2", "äpfel")
    assert dataset.class_counts().tolist() == [3, 2, 1, 1]
    assert dataset.name == "my-cells"
    assert dataset.provenance.kind == "folder"
    assert dataset.provenance.files
    assert dataset.given_split is None
    assert dataset.paths is not None
    assert dataset.sample_ids[:3] == ("Zebra/00.png", "Zebra/01.png", "Zebra/02.png")
    for row, name in enumerate(dataset.sample_ids):
        path = root / name
        assert Path(dataset.paths[row]).is_absolute()
        assert Path(dataset.paths[row]) == path
        assert dataset.class_names[dataset.targets[row]] == path.parent.name
        assert dataset.sha256[row] == sha256_file(path)
        np.testing.assert_array_equal(dataset.images[row], np.asarray(Image.open(path)))
    np.testing.assert_array_equal(dataset.original_sizes, [[20, 20]] * 7)


def test_folders_are_read_recursively(tmp_path: Path) -> None:
    picture(tmp_path / "ill/patient1/left/a.png")
    picture(tmp_path / "ill/b.png")
    picture(tmp_path / "well/c.png")
    dataset = load_folder(tmp_path)
    assert dataset.sample_ids == ("ill/b.png", "ill/patient1/left/a.png", "well/c.png")
    assert dataset.targets.tolist() == [0, 0, 1]


def test_relative_roots_give_absolute_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class_folders(tmp_path / "data", {"a": 2, "b": 2})
    monkeypatch.chdir(tmp_path)
    dataset = load_folder(Path("data"))
    assert dataset.paths is not None
    assert dataset.paths[0] == str(tmp_path / "data/a/00.png")
    assert dataset.sample_ids[0] == "a/00.png"


def test_names_are_nfc_normalised(tmp_path: Path) -> None:
    class_folders(tmp_path, {unicodedata.normalize("NFD", "Fälle"): 1, "Rest": 1})
    assert load_folder(tmp_path).class_names == (unicodedata.normalize("NFC", "Fälle"), "Rest")


def test_junk_is_counted_and_other_files_listed(tmp_path: Path) -> None:
    root = class_folders(tmp_path, {"a": 2, "b": 2})
    for junk in (
        ".DS_Store",
        "a/Thumbs.db",
        "a/._00.png",
        "b/desktop.ini",
        "b/.hidden/x.png",
        "__MACOSX/a/00.png",
    ):
        (root / junk).parent.mkdir(parents=True, exist_ok=True)
        (root / junk).write_bytes(b"x")
    (root / "a/notes.txt").write_text("seen on Monday")
    (root / "README").write_text("hello")
    dataset = load_folder(root)
    assert len(dataset) == 4
    assert codes(dataset)["R001"] == "6 hidden or system files and folders ignored."
    assert codes(dataset)["R002"] == "2 files are no images: 'README', 'a/notes.txt'."


def test_loose_images_are_left_out_loudly(tmp_path: Path) -> None:
    root = class_folders(tmp_path, {"a": 2, "b": 2})
    picture(root / "stray.png")
    dataset = load_folder(root)
    assert len(dataset) == 4
    note = next(note for note in dataset.notes if note.code == "R003")
    assert note.severity == "warning"
    assert "'stray.png'" in note.evidence


def test_files_without_suffix_are_known_by_their_content(tmp_path: Path) -> None:
    root = class_folders(tmp_path, {"a": 1, "b": 1})
    picture(root / "b/IM0001.png").rename(root / "b/IM0001")
    assert load_folder(root).sample_ids == ("a/00.png", "b/00.png", "b/IM0001")


def test_a_manifest_beside_the_classes_is_pointed_at(tmp_path: Path) -> None:
    root = class_folders(tmp_path, {"a": 1, "b": 1})
    (root / "manifest.csv").write_text("path,label\n")
    note = next(note for note in load_folder(root).notes if note.code == "R018")
    assert note.command == f"scanwise check {root / 'manifest.csv'}"


def test_symbolic_links_do_not_loop(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "data", {"a": 2, "b": 2})
    try:
        (root / "a/again").symlink_to(root / "a", target_is_directory=True)
        (root / "a/up").symlink_to(root, target_is_directory=True)
        (root / "b/broken.png").symlink_to(root / "nowhere.png")
    except OSError:
        pytest.skip("no symbolic links here")
    dataset = load_folder(root)
    assert [name for name in dataset.sample_ids if name.startswith("b/")] == [
        "b/00.png",
        "b/01.png",
    ]
    assert {name for name in dataset.sample_ids if name.startswith("a/0")} == {
        "a/00.png",
        "a/01.png",
    }
    assert [item.path for item in dataset.unreadable] == ["b/broken.png"]
    assert dataset.unreadable[0].reason == "file not found"


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["Ill", "ill "], ["'Ill'", "'ill '"]),
        (["left lung", "left  lung"], ["'left lung'"]),
        (
            [unicodedata.normalize("NFC", "é"), unicodedata.normalize("NFD", "é"), "x"],
            ["differ only in case, spaces or accents"],
        ),
    ],
)
def test_names_equal_after_folding_are_refused(
    tmp_path: Path, names: list[str], said: list[str]
) -> None:
    class_folders(tmp_path, dict.fromkeys(names, 1))
    if len(list(tmp_path.iterdir())) < len(names):
        pytest.skip("this file system folds names itself")
    with pytest.raises(DataError) as error:
        load_folder(tmp_path)
    for words in said:
        assert words in str(error.value)
    assert error.value.exit_code == 2


def test_no_class_one_class_empty_class(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no class folders with images"):
        load_folder(tmp_path)
    picture(tmp_path / "loose.png")
    with pytest.raises(DataError, match=r"no class folders with images \(1 images lie directly"):
        load_folder(tmp_path)
    class_folders(tmp_path, {"ill": 2})
    with pytest.raises(DataError, match=r"has one class folder, 'ill', and two are needed; put"):
        load_folder(tmp_path)
    (tmp_path / "well").mkdir()
    (tmp_path / "well/list.txt").write_text("later")
    with pytest.raises(DataError, match="class folder without images: 'well'; add images"):
        load_folder(tmp_path)
    (tmp_path / "other").mkdir()
    with pytest.raises(DataError, match="class folders without images: 'other', 'well'"):
        load_folder(tmp_path)


def test_a_single_val_folder_gets_a_hint(tmp_path: Path) -> None:
    class_folders(tmp_path / "val", {"a": 1, "b": 1})
    with pytest.raises(DataError, match=r"'val' looks like a split: give .*val instead"):
        load_folder(tmp_path)


def test_a_train_folder_alone_is_a_delivery_of_training_images(tmp_path: Path) -> None:
    dataset = load_folder(class_folders(tmp_path / "train", {"a": 3, "b": 2}).parent)
    assert dataset.class_names == ("a", "b")
    assert dataset.given_split is not None
    assert set(dataset.given_split) == {"train"}


def test_blank_pictures_are_not_taken_for_several_labels(tmp_path: Path) -> None:
    for name in ("a/0.png", "a/1.png", "b/0.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("L", (20, 20), 7).save(tmp_path / name)
    dataset = load_folder(tmp_path)
    with pytest.raises(DataError, match="single colour"):
        measure_quality(dataset)


# --- pre-split ----------------------------------------------------------------------------------


def split_folders(root: Path, layout: dict[str, dict[str, int]]) -> Path:
    for split, counts in layout.items():
        class_folders(root / split, counts)
    return root


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [("train", "val", "test"), ("Training", "valid", "TESTING"), ("TRAIN", "validation", "Test")],
)
def test_split_folders_and_their_other_names(
    tmp_path: Path, train: str, val: str, test: str
) -> None:
    layout = {train: {"a": 3, "b": 2}, val: {"b": 1, "a": 1}, test: {"a": 1, "b": 2}}
    dataset = load_folder(split_folders(tmp_path, layout))
    assert dataset.provenance.kind == "split-folder"
    assert dataset.split_origin == "user"
    assert dataset.given_split is not None
    assert dataset.given_split.tolist() == ["train"] * 5 + ["val"] * 2 + ["test"] * 3
    assert dataset.targets.tolist() == [0, 0, 0, 1, 1, 0, 1, 0, 1, 1]
    assert dataset.sample_ids[0] == f"{train}/a/00.png"


def test_classes_are_joined_by_name_and_keep_their_index(tmp_path: Path) -> None:
    """Test lacks the first class: 'b' must not slide to index 0 there."""
    layout = {"train": {"a": 2, "b": 2, "c": 2}, "test": {"c": 1, "b": 1}}
    dataset = load_folder(split_folders(tmp_path, layout))
    assert dataset.class_names == ("a", "b", "c")
    assert dataset.given_split is not None
    assert dataset.targets[dataset.given_split == "test"].tolist() == [1, 2]
    assert set(dataset.given_split) == {"train", "test"}  # no val: the split code makes one


def test_an_empty_class_folder_in_test_is_no_error(tmp_path: Path) -> None:
    root = split_folders(tmp_path, {"train": {"a": 2, "b": 2}, "test": {"b": 1}})
    (root / "test/a").mkdir()
    assert load_folder(root).class_names == ("a", "b")
    (root / "train/c").mkdir()
    with pytest.raises(DataError, match="class folder without images: 'c'"):
        load_folder(root)


def test_a_class_outside_train_cannot_be_learned(tmp_path: Path) -> None:
    layout = {
        "train": {"a": 2, "b": 2},
        "val": {"a": 1, "rare": 1},
        "test": {"b": 1, "rare": 1, "new": 1},
    }
    with pytest.raises(DataError, match="can't be learned") as error:
        load_folder(split_folders(tmp_path, layout))
    assert "'rare' (test, val)" in str(error.value)
    assert "'new' (test)" in str(error.value)


def test_mixed_and_doubled_split_folders(tmp_path: Path) -> None:
    root = split_folders(tmp_path / "one", {"train": {"a": 1, "b": 1}, "test": {"a": 1}})
    class_folders(root, {"extra": 1})
    with pytest.raises(DataError, match="has a train folder beside 'extra'"):
        load_folder(root)
    root = split_folders(
        tmp_path / "two", {"train": {"a": 1, "b": 1}, "val": {"a": 1}, "validation": {"a": 1}}
    )
    with pytest.raises(DataError, match="two folders for val: 'val' and 'validation'"):
        load_folder(root)
    root = split_folders(tmp_path / "three", {"train": {"Ill": 1, "b": 1}, "test": {"ill": 1}})
    with pytest.raises(DataError, match="'Ill' and 'ill'"):
        load_folder(root)


def test_folders_named_test_without_train_are_classes(tmp_path: Path) -> None:
    class_folders(tmp_path, {"test": 2, "control": 2})
    assert load_folder(tmp_path).class_names == ("control", "test")


# --- groups -------------------------------------------------------------------------------------


def test_group_regex_takes_the_first_group_of_the_path(tmp_path: Path) -> None:
    for name in ("a/p01_1.png", "a/p01_2.png", "b/p02_1.png", "b/p03_1.png"):
        picture(tmp_path / name)
    dataset = load_folder(tmp_path, group_regex=r"(p\d+)_")
    assert dataset.groups == ("p01", "p01", "p02", "p03")
    assert load_folder(tmp_path, group_regex=r"p\d+").groups == ("p01", "p01", "p02", "p03")


def test_group_regex_must_match_every_file(tmp_path: Path) -> None:
    for name in ("a/p01_1.png", "a/x.png", "b/p02_1.png", "b/y.png"):
        picture(tmp_path / name)
    with pytest.raises(DataError, match="gives a group for 2 of 4 files") as error:
        load_folder(tmp_path, group_regex=r"(p\d+)_")
    assert "'a/x.png', 'b/y.png'" in str(error.value)
    with pytest.raises(ConfigError, match="no regular expression"):
        load_folder(tmp_path, group_regex="(p")


# --- sizes, channels, depths --------------------------------------------------------------------


def test_small_files_of_one_size_keep_it_even_if_not_square(tmp_path: Path) -> None:
    root = class_folders(tmp_path, {"a": 2, "b": 2}, size=(28, 40))
    dataset = load_folder(root)
    assert dataset.size_px == (28, 40)
    assert "R004" not in codes(dataset)


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([(30, 20), (31, 31), (90, 10)], 32),
        ([(100, 80)] * 3, 96),
        ([(120, 500), (60, 480), (700, 600)], 224),
        ([(10, 9), (12, 10), (8, 8)], 28),
    ],
)
def test_other_sizes_go_to_a_standard_one(
    tmp_path: Path, sizes: list[tuple[int, int]], expected: int
) -> None:
    for i, size in enumerate(sizes):
        picture(tmp_path / f"a/{i}.png", size=size)
        picture(tmp_path / f"b/{i}.png", size=size)
    dataset = load_folder(tmp_path)
    assert dataset.size_px == (expected, expected)
    assert "median of the larger sides" in codes(dataset)["R004"]
    assert dataset.original_sizes is not None
    assert dataset.original_sizes[: len(sizes)].tolist() == [list(size) for size in sizes]


@pytest.mark.parametrize("fit", ["stretch", "pad", "crop"])
def test_size_and_fit_as_asked(tmp_path: Path, fit: str) -> None:
    root = class_folders(tmp_path, {"a": 1, "b": 1}, size=(30, 60))
    dataset = load_folder(root, ReadOptions(size=16, fit=fit))
    assert dataset.size_px == (16, 16)
    black_rows = (dataset.images == 0).all(axis=(2, 3)).sum()
    assert black_rows == (16 if fit == "pad" else 0)  # 8 of 16 rows in each of two images


def test_grey_saved_as_rgb_is_stored_as_one_channel(tmp_path: Path) -> None:
    for name in ("a/0.png", "a/1.png", "b/0.png"):
        path = picture(tmp_path / name, color=False)
        Image.open(path).convert("RGB").save(path)
    picture(tmp_path / "b/1.png", color=False)
    dataset = load_folder(tmp_path)
    assert dataset.channels == 1
    assert "3 of 4 images have three equal channels" in codes(dataset)["R010"]
    for row, path in enumerate(dataset.paths or ()):
        grey = np.asarray(Image.open(path).convert("L"))
        np.testing.assert_array_equal(dataset.images[row, ..., 0], grey)


def test_mixed_grey_and_color_is_a_shortcut_risk(tmp_path: Path) -> None:
    class_folders(tmp_path, {"ill": 3}, color=False)
    class_folders(tmp_path, {"well": 2}, color=True)
    dataset = load_folder(tmp_path)
    assert dataset.channels == 3
    note = next(note for note in dataset.notes if note.code == "R011")
    assert note.severity == "warning"
    assert "3 grey images (ill 3), 2 in colour (well 2)" in note.evidence
    np.testing.assert_array_equal(dataset.images[0, ..., 0], dataset.images[0, ..., 2])


def test_mixed_depths_are_promoted_and_noted(tmp_path: Path) -> None:
    class_folders(tmp_path, {"a": 2, "b": 1}, color=False)
    deep = RNG.integers(0, 65536, (20, 20)).astype(np.uint16)
    cv2.imwrite(str(tmp_path / "b/deep.png"), deep)
    dataset = load_folder(tmp_path)
    assert dataset.images.dtype == np.uint16
    row = dataset.sample_ids.index("b/deep.png")
    np.testing.assert_array_equal(dataset.images[row, ..., 0], deep)
    eight = np.asarray(Image.open(tmp_path / "a/00.png"))
    np.testing.assert_array_equal(dataset.images[0, ..., 0], eight.astype(int) * 257)
    assert "3 uint8 (a 2, b 1)" in codes(dataset)["R012"]


def test_sixteen_bit_folders_keep_their_depth(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        deep = RNG.integers(0, 65536, (20, 20)).astype(np.uint16)
        tifffile.imwrite(tmp_path / name / "0.tif", deep)
    dataset = load_folder(tmp_path)
    assert dataset.images.dtype == np.uint16
    np.testing.assert_array_equal(dataset.images[1, ..., 0], tifffile.imread(tmp_path / "b/0.tif"))
    assert "R012" not in codes(dataset)


def test_eight_bit_saved_as_sixteen_is_noted_once(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        pixels = RNG.integers(0, 256, (20, 20)).astype(np.uint16)
        tifffile.imwrite(tmp_path / name / "0.tif", pixels)
    note = next(note for note in load_folder(tmp_path).notes if note.code == "R009")
    assert note.severity == "warning"
    assert note.evidence == "looks like 8-bit saved as 16: 2 images, first 'a/0.tif'."


def test_differing_channels_are_refused_by_name_and_count(tmp_path: Path) -> None:
    class_folders(tmp_path, {"a": 2, "b": 1})
    five = RNG.integers(0, 256, (20, 20, 5), np.uint8)
    tifffile.imwrite(tmp_path / "b/five.tif", five, **FIVE)
    with pytest.raises(DataError, match=r"'b/five.tif' has 5 channels, but 'a/00.png' has 3"):
        load_folder(tmp_path)


def test_five_channels_everywhere_are_fine(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        five = RNG.integers(0, 65536, (40, 50, 5)).astype(np.uint16)
        tifffile.imwrite(tmp_path / name / "0.tif", five, **FIVE)
    assert load_folder(tmp_path, ReadOptions(size=32)).images.shape == (2, 32, 32, 5)


def test_format_mix_is_reported_per_class(tmp_path: Path) -> None:
    for i in range(2):
        picture(tmp_path / f"a/{i}.png")
        picture(tmp_path / f"b/{i}.bmp")
    note = next(note for note in load_folder(tmp_path).notes if note.code == "R013")
    assert note.severity == "warning"
    assert note.evidence == "mixed formats: a: 2 PNG; b: 2 BMP."
    for i in range(2):
        picture(tmp_path / f"a/x{i}.bmp")
        picture(tmp_path / f"b/x{i}.png")
    note = next(note for note in load_folder(tmp_path).notes if note.code == "R013")
    assert note.severity == "info"


def test_file_notes_are_counted(tmp_path: Path) -> None:
    class_folders(tmp_path, {"a": 2, "b": 2})
    rgba = RNG.integers(0, 256, (20, 20, 4), np.uint8)
    Image.fromarray(rgba).save(tmp_path / "a/alpha1.png")
    Image.fromarray(rgba[::-1]).save(tmp_path / "b/alpha2.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(rgba[..., :3]).save(tmp_path / "b/turned.png", exif=exif)
    Image.fromarray(rgba[..., :3]).save(tmp_path / "b/wrong.jpg", "PNG")
    said = codes(load_folder(tmp_path))
    assert said["R005"] == "alpha composited on black: 2 images, first 'a/alpha1.png'."
    assert said["R006"] == "EXIF orientation applied: 1 image, first 'b/turned.png'."
    assert said["R007"] == (
        "wrong extension: 1 image, first 'b/wrong.jpg': content is PNG, name ends in .jpg (1)."
    )


# --- unreadable files ---------------------------------------------------------------------------


def test_unreadable_files_are_listed_and_rows_never_shift(tmp_path: Path) -> None:
    root = class_folders(tmp_path, {"a": 4, "b": 4})
    (root / "a/01.png").write_bytes(b"")
    (root / "b/02.png").write_bytes((root / "b/01.png").read_bytes()[:99])
    (root / "b/03.png").write_text("not a picture")
    dataset = load_folder(root)
    assert [(item.path, item.class_name) for item in dataset.unreadable] == [
        ("a/01.png", "a"),
        ("b/02.png", "b"),
        ("b/03.png", "b"),
    ]
    assert [item.reason for item in dataset.unreadable] == [
        "is empty (0 bytes)",
        "is truncated (the end of the PNG is missing)",
        "is a text file, not an image",
    ]
    assert len(dataset) == 5
    for row, name in enumerate(dataset.sample_ids):
        np.testing.assert_array_equal(dataset.images[row], np.asarray(Image.open(root / name)))
        assert dataset.class_names[dataset.targets[row]] == name[0]
        assert dataset.sha256[row] == sha256_file(root / name)
    again = load_folder(root)  # from the cache
    assert again.unreadable == dataset.unreadable
    assert again.sample_ids == dataset.sample_ids


def test_nothing_readable_is_an_error(tmp_path: Path) -> None:
    for name in ("a/1.png", "a/2.png", "b/1.png", "b/2.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(DataError, match="none of the 4 image files can be read") as error:
        load_folder(tmp_path)
    assert "'a/1.png' is empty (0 bytes)" in str(error.value)
    assert str(error.value).endswith("and 1 more.")


def test_stacks_and_volumes_are_listed_not_ignored(tmp_path: Path) -> None:
    root = class_folders(tmp_path, {"a": 2, "b": 2})
    tifffile.imwrite(
        root / "a/stack.tif", np.zeros((3, 20, 20), np.uint8), photometric="minisblack"
    )
    (root / "b/brain.nii.gz").write_bytes(b"\x1f\x8b\x08\0\0\0")
    dataset = load_folder(root)
    assert [item.path for item in dataset.unreadable] == ["a/stack.tif", "b/brain.nii.gz"]
    assert "has 3 pages" in dataset.unreadable[0].reason
    by_page = load_folder(root, ReadOptions(page=1))
    assert [item.path for item in by_page.unreadable] == ["b/brain.nii.gz"]


# --- several classes per image ------------------------------------------------------------------


def test_the_same_files_under_several_classes_mean_several_labels(tmp_path: Path) -> None:
    root = class_folders(tmp_path, {"a": 3})
    shutil.copytree(root / "a", root / "b")
    picture(root / "b/own.png")
    with pytest.raises(DataError, match="6 of 7 files lie under several classes") as error:
        load_folder(root)
    assert "manifest" in str(error.value)


def test_a_few_such_files_are_left_to_the_checks(tmp_path: Path) -> None:
    root = class_folders(tmp_path, {"a": 4, "b": 4})
    shutil.copy(root / "a/00.png", root / "b/copy.png")
    assert len(load_folder(root)) == 9


# --- real ---------------------------------------------------------------------------------------


def test_real_blood_cells_by_smear(shared: Path) -> None:
    dataset = load_folder(shared / "data/folders/bccd_287", group_regex=r"BloodImage_(\d+)")
    assert dataset.class_names == ("Platelets", "RBC", "WBC")
    assert dataset.class_counts().tolist() == [36, 160, 91]
    assert dataset.size_px == (128, 128)
    assert dataset.channels == 3
    assert dataset.groups is not None
    assert len(set(dataset.groups)) > 50
    row = dataset.sample_ids.index(next(s for s in dataset.sample_ids if "_00007_" in s))
    assert dataset.groups[row] == "00007"
    assert not dataset.unreadable


def test_real_dicom_and_tiff_files_as_classes(shared: Path, tmp_path: Path) -> None:
    for kind in ("dicom", "tiff"):
        os.symlink(shared / "data/tricky" / kind, tmp_path / kind)
    dataset = load_folder(tmp_path, ReadOptions(size=32))
    assert dataset.class_counts().tolist() == [13, 4]
    assert len(dataset.unreadable) == 8 + 3
    assert dataset.groups is None
    assert {note.code for note in dataset.notes} >= {"R009", "R011", "R012", "R013", "R014", "R015"}


def test_dicom_patients_become_groups(shared: Path, tmp_path: Path) -> None:
    folder = shared / "data/tricky/dicom"
    for kind, names in {
        "mr": ("MR_small.dcm", "MR_small_RLE.dcm"),
        "us": ("examples_rgb_color.dcm", "examples_jpeg2k.dcm"),
    }.items():
        (tmp_path / kind).mkdir()
        for name in names:
            shutil.copy(folder / name, tmp_path / kind / name)
    dataset = load_folder(tmp_path)
    assert dataset.groups is not None
    assert dataset.groups[0] == dataset.groups[1] != dataset.groups[2] == dataset.groups[3]
    assert "2 patients, 4 images" in codes(dataset)["R015"]

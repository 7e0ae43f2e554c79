"""demo:cells: the same pixels each time, what it says of itself, hard enough, whole on disk."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression

from scanwise.core.errors import DataError
from scanwise.core.files import sha256_bytes
from scanwise.core.types import Dataset
from scanwise.data.demo import demo_truth, load_demo, parse_demo, write_demo_folder
from scanwise.data.folders import load_folder
from scanwise.data.smear import KINDS, SHARES, paint_cells
from scanwise.data.splits import check_split, make_split

SMALL = "demo:cells?n=120&slides=6&size=24&seed=3"


@pytest.fixture(scope="module")
def cells() -> Dataset:
    return load_demo("demo:cells?slides=12")


def test_the_default_is_small_and_imbalanced(cells: Dataset) -> None:
    assert cells.images.shape == (1500, 48, 48, 3)
    assert cells.images.dtype == np.uint8
    truth = np.bincount(demo_truth("demo:cells"), minlength=4)
    np.testing.assert_array_equal(truth, np.round(np.array(SHARES) * 1500))
    assert cells.class_names == tuple(sorted(KINDS))
    assert not any(side in name for name in KINDS for side in ("left", "right"))


def test_it_says_that_it_is_synthetic(cells: Dataset) -> None:
    assert cells.provenance.synthetic
    assert cells.provenance.kind == "demo"
    assert cells.provenance.licence == "synthetic (made by scanwise)"
    [note] = cells.notes
    assert note.code == "N001"
    assert "synthetic" in note.evidence
    assert "2 % of the labels are wrong" in note.evidence


@pytest.mark.parametrize("noise", [0.0, 0.02, 0.3])
def test_the_stated_share_of_labels_is_wrong(noise: float) -> None:
    spec = f"demo:cells?n=200&size=16&noise={noise}"
    wrong = load_demo(spec).targets != demo_truth(spec)
    assert wrong.sum() == round(noise * 200)


def test_slides_are_groups_that_hold_all_classes(cells: Dataset) -> None:
    assert cells.groups == cells.metadata["slide"]
    names, counts = np.unique(np.array(cells.groups), return_counts=True)
    assert list(names) == [f"slide{i:02}" for i in range(1, 13)]
    assert counts.min() >= 40
    assert counts.max() > 1.2 * counts.min()  # slides are not all alike
    for name in names:
        assert set(cells.targets[np.array(cells.groups) == name]) == {0, 1, 2, 3}
    facts = check_split(cells, make_split(cells))
    assert facts.groups is not None
    assert facts.groups.shared == ()
    assert min(min(counts) for counts in facts.class_counts.values()) >= 10


def test_slides_differ_in_colour_more_than_their_own_images_do_by_chance(cells: Dataset) -> None:
    colours = cells.images.mean(axis=(1, 2))
    groups = np.array(cells.groups)
    means = np.array([colours[groups == name].mean(axis=0) for name in np.unique(groups)])
    within = np.mean([colours[groups == name].std(axis=0) for name in np.unique(groups)], axis=0)
    # Of equal slides of 100 images the means would spread by a tenth of `within`.
    assert (means.std(axis=0) > 0.5 * within).all()


def test_each_row_has_the_hash_of_its_pixels_and_a_name(cells: Dataset) -> None:
    assert cells.sha256[7] == sha256_bytes(cells.images[7].tobytes())
    assert len(set(cells.sha256)) == len(cells)
    assert cells.sample_ids[7] == "cells#7"


def test_the_same_spec_gives_the_same_data_whatever_the_number_of_threads() -> None:
    here = load_demo(SMALL)
    code = (
        "import cv2; cv2.setNumThreads(1)\n"
        "from scanwise.data.demo import load_demo\n"
        "from scanwise.core.files import sha256_bytes\n"
        f"d = load_demo({SMALL!r}); print(sha256_bytes(''.join(d.sha256).encode()), *d.targets)"
    )
    there = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    ).stdout.split()
    assert there[0] == sha256_bytes("".join(here.sha256).encode())
    assert there[1:] == [str(target) for target in here.targets]


def test_another_seed_gives_other_data() -> None:
    one, other = load_demo(SMALL), load_demo(SMALL.replace("seed=3", "seed=4"))
    assert not set(one.sha256) & set(other.sha256)
    assert (one.targets != other.targets).any()


@pytest.mark.parametrize("size", [16, 33, 96])
def test_pictures_of_any_size_show_a_dark_cell_in_the_middle(size: int) -> None:
    images = paint_cells(np.arange(40) % 4, np.arange(40) % 4, size_px=size, seed=0)
    assert images.shape == (40, size, size, 3)
    mean = images[..., 0].mean(axis=0)  # the purple stain takes red light away
    middle, corner = mean[size // 3 : -size // 3].mean(), mean[: size // 6, : size // 6].mean()
    assert middle < corner - 25
    assert images.reshape(40, -1).std(axis=1).min() > 10


def test_colours_alone_are_a_poor_guide(cells: Dataset) -> None:
    """Logistic regression on the mean colour of each image is not far above the majority class."""
    test = np.isin(cells.groups, ["slide01", "slide02", "slide03"])
    colours = cells.images.mean(axis=(1, 2)) / 255
    model = LogisticRegression(C=100, max_iter=1000).fit(colours[~test], cells.targets[~test])
    majority = np.mean(cells.targets[test] == 3)
    assert model.score(colours[test], cells.targets[test]) < majority + 0.15


def test_classes_differ_in_form(cells: Dataset) -> None:
    """Round nuclei fill their convex hull, segmented ones do not: measured, not trusted."""
    images = paint_cells(np.repeat([2, 3], 60), np.zeros(120, np.int64), size_px=96, seed=1)
    filled = []
    for image in images:
        _, mask = cv2.threshold(image[..., 0], 0, 1, cv2.THRESH_BINARY_INV | cv2.THRESH_OTSU)
        outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        nucleus = max(outlines, key=cv2.contourArea)
        filled.append(cv2.contourArea(nucleus) / cv2.contourArea(cv2.convexHull(nucleus)))
    assert np.median(filled[:60]) > 0.93
    assert np.median(filled[60:]) < 0.88


# --- The spec -------------------------------------------------------------------------------------


def test_a_spec_is_read() -> None:
    spec = parse_demo("demo:cells?n=1200&noise=0.05&slides=7&size=32&seed=9&broken=3")
    assert (spec.n, spec.noise, spec.slides) == (1200, 0.05, 7)
    assert (spec.size, spec.seed, spec.broken) == (32, 9, 3)
    assert parse_demo(str(spec)) == spec


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("demo:cell", "'cells'"),
        ("demo:nuclei", "cells"),
        ("demo:cells?slide=3", "did you mean 'slides'"),
        ("demo:cells?zzz=3", "choose one of"),
        ("demo:cells?n=10", "n=10 is not a whole number from 60 to 100000"),
        ("demo:cells?n=many", "n=many is not a whole number"),
        ("demo:cells?n=", "n= is not a whole number"),
        ("demo:cells?n=1e3", "n=1e3 is not a whole number"),
        ("demo:cells?noise=0.9", "noise=0.9 is not a number from 0 to 0.5"),
        ("demo:cells?noise=nan", "noise=nan"),
        ("demo:cells?n=100&n=200", "'n' twice"),
        ("demo:cells?n", "key=value"),
        ("demo:cells?n=100&slides=50", "slides=20 at most"),
        ("demo:cells?n=100000&size=512", "GiB"),
    ],
)
def test_a_wrong_spec_is_refused_with_the_way_out(spec: str, words: str) -> None:
    with pytest.raises(DataError) as caught:
        parse_demo(spec)
    assert words in str(caught.value)
    assert caught.value.exit_code == 2


# --- On disk --------------------------------------------------------------------------------------


def test_the_folder_holds_the_same_data(tmp_path: Path) -> None:
    spec = f"{SMALL}&broken=4"
    facts = write_demo_folder(tmp_path / "cells", spec)
    assert facts["images"] == 120
    assert facts["slides"] == 6
    assert facts["broken"] == 4

    made = load_demo(spec)
    read = load_folder(tmp_path / "cells", group_regex=r"(slide\d+)")
    rows = [int(name.rpartition("_")[2].removesuffix(".png")) for name in read.sample_ids]
    assert sorted(rows) == list(range(120))
    assert read.class_names == made.class_names
    np.testing.assert_array_equal(read.images, made.images[rows])
    np.testing.assert_array_equal(read.targets, made.targets[rows])
    assert made.groups is not None
    assert read.groups == tuple(made.groups[row] for row in rows)
    assert {(file.path, file.class_name) for file in read.unreadable} == {
        (file.path, file.class_name) for file in made.unreadable
    }


def test_broken_files_are_broken_in_different_ways(tmp_path: Path) -> None:
    write_demo_folder(tmp_path / "cells", f"{SMALL}&broken=3")
    broken = sorted((tmp_path / "cells").glob("*/*_012[0-2].png"), key=lambda path: path.stem[-4:])
    cut, empty, text = (path.read_bytes() for path in broken)
    assert cut.startswith(b"\x89PNG")
    assert b"IEND" not in cut
    assert empty == b""
    assert text.decode().strip().isprintable()
    for path in broken:
        # Of bytes, since an image that can't be opened leaves its file open.
        with pytest.raises((OSError, SyntaxError)):
            Image.open(io.BytesIO(path.read_bytes())).load()


def test_the_files_say_that_they_are_synthetic(tmp_path: Path) -> None:
    write_demo_folder(tmp_path / "cells", SMALL)
    assert "synthetic" in (tmp_path / "cells" / "README.txt").read_text(encoding="utf-8")
    picture = next((tmp_path / "cells" / "round").iterdir())
    with Image.open(picture) as image:
        assert "Synthetic" in image.info["Comment"]


def test_nothing_is_overwritten_without_force(tmp_path: Path) -> None:
    write_demo_folder(tmp_path / "cells", SMALL)
    before = sorted(path.name for path in (tmp_path / "cells").rglob("*.png"))
    with pytest.raises(DataError, match="--force"):
        write_demo_folder(tmp_path / "cells", SMALL.replace("n=120", "n=60"))
    assert sorted(path.name for path in (tmp_path / "cells").rglob("*.png")) == before
    write_demo_folder(tmp_path / "cells", SMALL.replace("n=120", "n=60"), force=True)
    assert len(list((tmp_path / "cells").rglob("*.png"))) == 60
    assert [path.name for path in tmp_path.iterdir()] == ["cells"]  # no temporary folder stays


@pytest.mark.parametrize("stranger", ["thesis.txt", "round/patient1.png"])
def test_force_deletes_nothing_but_a_demo(tmp_path: Path, stranger: str) -> None:
    precious = tmp_path / "home" / stranger
    precious.parent.mkdir(parents=True)
    precious.write_text("precious")
    with pytest.raises(DataError, match="not deleted"):
        write_demo_folder(tmp_path / "home", SMALL, force=True)
    assert precious.read_text() == "precious"


def test_an_empty_folder_may_be_filled_and_a_file_may_not(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    write_demo_folder(tmp_path / "empty", SMALL)
    assert len(list((tmp_path / "empty").rglob("*.png"))) == 120
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="is a file"):
        write_demo_folder(tmp_path / "file", SMALL, force=True)


def test_a_failure_half_way_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> bytes:
        raise OSError("disk full")

    monkeypatch.setattr("scanwise.data.demo._broken_bytes", fails)
    with pytest.raises(OSError, match="disk full"):
        write_demo_folder(tmp_path / "cells", f"{SMALL}&broken=1")
    assert list(tmp_path.iterdir()) == []

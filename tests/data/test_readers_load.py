"""load: the right reader for each source, and helpful words where there is none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scanwise.core.errors import ConfigError, DataError, ScanwiseError
from scanwise.data.load import from_arrays, load

RNG = np.random.default_rng(6)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one source of each kind."""
    for name in ("cells/a/p1_0.png", "cells/a/p2_1.png", "cells/b/p1_0.png", "cells/b/p3_1.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(RNG.integers(0, 256, (40, 30), np.uint8)).save(path)
    (tmp_path / "list.csv").write_text(
        "path,label,slide\ncells/a/p1_0.png,x,s1\ncells/b/p3_1.png,y,s2\n"
    )
    pixels = RNG.integers(0, 256, (4, 8, 8), np.uint8)
    np.savez(tmp_path / "pair.npz", X=pixels, y=[0, 1, 0, 1])
    np.save(tmp_path / "pixels.npy", pixels)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_each_source_by_its_reader(here: Path) -> None:
    for source, kind in [("cells", "folder"), ("list.csv", "manifest"), ("pair.npz", "npz")]:
        for given in (source, here / source):
            assert load(given).provenance.kind == kind
    assert load("demo:cells?n=120").provenance.kind == "demo"
    assert from_arrays(RNG.random((4, 8, 8)), [0, 1, 0, 1]).provenance.kind == "arrays"


def test_settings_reach_the_reader(here: Path) -> None:
    assert load("cells", size=16, fit="pad").size_px == (16, 16)
    assert load("list.csv", size=16).size_px == (16, 16)
    assert load("cells", group_regex=r"(p\d)_").groups == ("p1", "p2", "p1", "p3")
    assert load("list.csv", group="slide").groups == ("s1", "s2")
    assert load("list.csv", group_regex=r"(p\d)_", seed=5).groups == ("p1", "p3")


def test_user_home_is_expanded(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(here))
    monkeypatch.setenv("USERPROFILE", str(here))
    assert len(load("~/cells")) == 4


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("cels", "cels does not exist; did you mean 'cells'?"),
        ("nothing like it", "does not exist; give a folder with one sub-folder per class"),
        ("no/such/folder/x.csv", "does not exist; give a folder"),
        ("dermamnist", "for the public set give medmnist:dermamnist."),
        ("DermaMNIST@64", "give medmnist:dermamnist@64."),
        ("medmist:octmnist", "unknown source 'medmist:'; did you mean 'medmnist'?"),
        ("http://host/x", "unknown source 'http:'"),
        ("medmnist:otcmnist", "unknown MedMNIST set 'otcmnist'; did you mean 'octmnist'"),
        ("medmnist:octmnist@30", "exists at 28, 64, 128, 224 px, not at 30"),
        ("medmnist:octmnist@big", "'@big' is no size"),
        ("medmnist:octmnist@28", "SCANWISE_OFFLINE forbids the network. Download https://zenodo"),
        ("pixels.npy", "labels are missing; save both with numpy.savez"),
        ("cells/a/p1_0.png", "it is one image; give a folder"),
    ],
)
def test_sources_that_are_none(here: Path, source: str, said: str) -> None:
    with pytest.raises(DataError) as error:
        load(source)
    assert said in str(error.value)
    assert error.value.exit_code == 2


@pytest.mark.parametrize("name", ["scan.zip", "table.xlsx", "notes.docx", "noext"])
def test_other_files_say_what_is_accepted(here: Path, name: str) -> None:
    (here / name).write_bytes(b"x")
    with pytest.raises(DataError, match="can't be read as a data set") as error:
        load(name)
    assert "an .npz file, medmnist:NAME" in str(error.value)


def test_unknown_demo_names_the_known_ones(here: Path) -> None:
    with pytest.raises(ScanwiseError, match="cells"):
        load("demo:cels")


def test_settings_that_do_not_fit(here: Path) -> None:
    for how, said in [
        ({"group": "slide", "group_regex": "x"}, "not both"),
        ({"page": 1, "project": "max"}, "not both"),
        ({"page": -1}, "counted from 0"),
        ({"size": 0}, "1 px or more"),
        ({"group": "slide"}, "names a column, and cells is a folder"),
    ]:
        with pytest.raises(ConfigError, match=said):
            load("cells", **how)
    with pytest.raises(ConfigError, match=r"pair.npz holds arrays of 8x8 px. Leave size out"):
        load("pair.npz", size=16)
    assert load("pair.npz", size=8).size_px == (8, 8)
    with pytest.raises(ConfigError, match="asks for 64 px, but size is 28"):
        load("medmnist:octmnist@64", size=28)
    with pytest.raises(DataError, match="no column 'slide'; it has none"):
        load("pair.npz", group="slide")
    with pytest.raises(DataError, match="gives a group for 0 of 4 files"):
        load("pair.npz", group_regex=r"(p\d)_")


def test_group_by_a_metadata_column(shared: Path) -> None:
    path = shared / "data/partial/pathmnist_train1000.npz"
    groups = load(path, group="official_train_index").groups
    assert groups is not None
    assert len(set(groups)) == 1000
    with pytest.raises(DataError, match="did you mean 'official_train_index'"):
        load(path, group="official_index")


def test_loading_changes_no_global_random_state(here: Path) -> None:
    before = np.random.get_state()[1].copy()  # type: ignore[union-attr]  # noqa: NPY002
    load("cells")
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


def test_a_run_is_no_data_set(tmp_path: Path) -> None:
    """Its folders look like classes without images, and nobody should remove them."""
    for name in ("bundle", "plots"):
        (tmp_path / name).mkdir()
    for name in ("config.yaml", "plan.yaml"):
        (tmp_path / name).write_text("a: 1\n")
    with pytest.raises(DataError, match="is a run of scanwise, not a data set"):
        load(tmp_path)

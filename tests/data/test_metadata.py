"""Metadata of a table beside the images, joined by name or by split and index."""

from __future__ import annotations

import numpy as np
import pytest

from scanwise.core.errors import DataError
from scanwise.data.load import load
from scanwise.data.metadata import number_places, read_metadata


def write(path, text):
    path.write_text(text)
    return path


def test_joined_by_name_in_any_order(tmp_path):
    table = write(tmp_path / "m.csv", "path,sex,age\nb.png,f,\na.png,m,40\nc.png,m,1\n")
    found = read_metadata(table, ("a.png", "b.png"), None)
    assert found == {"sex": ("m", "f"), "age": ("40", "")}


def test_joined_by_split_and_index(tmp_path):
    table = write(tmp_path / "m.tsv", "split\tindex\tsite\ntest\t0\tx\ntrain\t1\ty\ntrain\t0\tz\n")
    places = number_places(["train", "train", "test"])
    assert read_metadata(table, ("d#0", "d#1", "d#2"), places) == {"site": ("z", "y", "x")}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name,sex\na,f\n", "can't be joined"),
        ("path,sex\na,f\n", "lacks 1 of 2 images, first 'b'"),
        ("path,sex\na,f\nb,f\na,m\n", "line 4: 'a' was in line 2"),
        ("path\na\nb\n", "no column besides path"),
        ("split,index,sex\ntrain,x,f\n", "came without a split"),
    ],
)
def test_what_can_not_be_joined(tmp_path, text, said):
    with pytest.raises(DataError, match=said):
        read_metadata(write(tmp_path / "m.csv", text), ("a", "b"), None)


def test_an_index_that_is_none(tmp_path):
    table = write(tmp_path / "m.csv", "split,index,sex\ntrain,x,f\n")
    with pytest.raises(DataError, match="line 2: split 'train', index 'x'"):
        read_metadata(table, ("a",), (("train", 0),))


def test_dermamnist_lesions_as_groups(shared):
    """The table's own labels are those of the images, so its rows are in the right places."""
    folder = shared / "data" / "medmnist"
    table = folder / "dermamnist_split_ids.csv"
    dataset = load(folder / "dermamnist.npz", meta=table, group="lesion_id")
    labels = np.array(dataset.metadata["label"], dtype=np.int64)
    np.testing.assert_array_equal(labels, dataset.targets)
    assert dataset.groups is not None
    assert len(set(dataset.groups)) == 7470
    with pytest.raises(DataError, match="did you mean 'lesion_id'"):
        load(folder / "dermamnist.npz", meta=table, group="lesion")

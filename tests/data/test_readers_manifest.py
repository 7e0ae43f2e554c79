"""Manifests: columns, separators, labels of all kinds, and every wrong line by its number."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scanwise.core.errors import DataError
from scanwise.core.types import Dataset
from scanwise.data.manifest import load_manifest, sort_labels

RNG = np.random.default_rng(2)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six pictures img/0.png … img/5.png, all different."""
    (tmp_path / "img").mkdir()
    for i in range(6):
        pixels = RNG.integers(0, 256, (12, 12), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"img/{i}.png")
    return tmp_path


def manifest(folder: Path, *lines: str, name: str = "list.csv", **how: str) -> Path:
    path = folder / name
    path.write_bytes("\n".join(lines).encode(how.get("encoding", "utf-8")))
    return path


def rows(*cells: str) -> list[str]:
    """Lines img/i.png,CELLS."""
    return [f"img/{i}.png,{cell}" for i, cell in enumerate(cells)]


def check_rows(dataset: Dataset, folder: Path) -> None:
    for row, name in enumerate(dataset.sample_ids):
        picture = np.asarray(Image.open(folder / name))
        np.testing.assert_array_equal(dataset.images[row, ..., 0], picture)


# --- good ones ----------------------------------------------------------------------------------


def test_all_columns(folder: Path) -> None:
    path = manifest(
        folder,
        "path,label,split,group,weight,sex,age",
        "img/3.png,mel,train,p1,1,f,30",
        "img/0.png,nv,Training,p2,2.5,m,",
        "img/1.png,nv,valid,p3,0,f,41",
        "img/2.png,mel,test,p4,1,m,52",
    )
    dataset = load_manifest(path)
    assert dataset.class_names == ("mel", "nv")
    assert dataset.targets.tolist() == [0, 1, 1, 0]
    assert dataset.sample_ids == ("img/3.png", "img/0.png", "img/1.png", "img/2.png")
    assert dataset.groups == ("p1", "p2", "p3", "p4")
    assert dataset.given_split is not None
    assert dataset.given_split.tolist() == ["train", "train", "val", "test"]
    assert dataset.split_origin == "user"
    assert dataset.weights is not None
    assert dataset.weights.tolist() == [1, 2.5, 0, 1]
    assert dict(dataset.metadata) == {"sex": ("f", "m", "f", "m"), "age": ("30", "", "41", "52")}
    assert dataset.provenance.kind == "manifest"
    check_rows(dataset, folder)


@pytest.mark.parametrize(
    ("name", "separator", "encoding", "ending"),
    [
        ("a.csv", ",", "utf-8", "\n"),
        ("a.csv", ";", "utf-8-sig", "\r\n"),
        ("a.csv", "\t", "utf-16", "\r\n"),
        ("a.tsv", "\t", "utf-8", "\n"),
        ("a.CSV", ",", "utf-8-sig", "\r"),
    ],
)
def test_separators_marks_and_line_ends(
    folder: Path, name: str, separator: str, encoding: str, ending: str
) -> None:
    lines = [["Path", " Label ", "Größe"], *([f"img/{i}.png", "ab"[i % 2], "5"] for i in range(6))]
    text = ending.join(separator.join(line) for line in lines) + ending
    path = folder / name
    path.write_bytes(text.encode(encoding))
    dataset = load_manifest(path)
    assert dataset.targets.tolist() == [0, 1] * 3
    assert dataset.metadata["Größe"] == ("5",) * 6


def test_quoted_cells(folder: Path) -> None:
    path = manifest(
        folder,
        "path,label,note",
        '"img/0.png","a, b","says ""hm"""',
        'img/1.png, c ,"two',
        'lines"',
        "img/2.png,c,",
    )
    dataset = load_manifest(path)
    assert dataset.class_names == ("a, b", "c")
    assert dataset.metadata["note"] == ('says "hm"', "two\nlines", "")


def test_file_name_absolute_and_windows_paths(folder: Path) -> None:
    path = manifest(
        folder, "file_name,label", f"{folder / 'img/0.png'},a", "img\\1.png,b", "./img/2.png,a"
    )
    dataset = load_manifest(path)
    assert dataset.sample_ids == (
        f"{folder / 'img/0.png'}".replace("\\", "/"),
        "img/1.png",
        "./img/2.png",
    )
    check_rows(dataset, folder)


def test_paths_start_from_the_manifest_not_from_here(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    manifest(folder, "path,label", *rows("a", "b"))
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert len(load_manifest(folder / "list.csv")) == 2


def test_whole_numbers_are_sorted_as_numbers(folder: Path) -> None:
    dataset = load_manifest(manifest(folder, "path,label", *rows("10", "9", "2", "10")))
    assert dataset.class_names == ("2", "9", "10")
    assert dataset.targets.tolist() == [2, 1, 0, 2]
    assert sort_labels({"b", "B", "a", "10", "9"}) == ("10", "9", "B", "a", "b")


def test_any_column_can_be_the_group(folder: Path) -> None:
    path = manifest(
        folder, "path,label,group,slide", *rows("a,g1,s1", "b,g1,s2", "a,g2,s2", "b,g2,s1")
    )
    assert load_manifest(path).groups == ("g1", "g1", "g2", "g2")
    dataset = load_manifest(path, group="slide")
    assert dataset.groups == ("s1", "s2", "s2", "s1")
    assert load_manifest(path, group_regex=r"(\d)\.png").groups == ("0", "1", "2", "3")


def test_a_split_column_left_empty_is_no_split(folder: Path) -> None:
    dataset = load_manifest(manifest(folder, "path,label,split", *rows("a,", "b,", "b,")))
    assert dataset.given_split is None
    assert dataset.split_origin is None


def test_blank_lines_are_skipped_and_names_come_from_the_folder(folder: Path) -> None:
    path = manifest(folder, "path,label", "", *rows("a", "b"), ",", "", name="manifest.csv")
    dataset = load_manifest(path)
    assert len(dataset) == 2
    assert dataset.name == folder.name


def test_unreadable_rows_leave_all_columns_aligned(folder: Path) -> None:
    (folder / "img/1.png").write_bytes(b"")
    path = manifest(
        folder,
        "path,label,split,group,weight,age",
        *rows("a,train,g0,1,10", "b,train,g1,2,11", "b,test,g2,3,12", "a,val,g3,4,13"),
        "img/4.png,b,train,g4,5,14",
    )
    dataset = load_manifest(path)
    assert [(u.path, u.class_name) for u in dataset.unreadable] == [("img/1.png", "b")]
    assert dataset.groups == ("g0", "g2", "g3", "g4")
    assert dataset.metadata["age"] == ("10", "12", "13", "14")
    assert dataset.weights is not None
    assert dataset.weights.tolist() == [1, 3, 4, 5]
    assert dataset.given_split is not None
    assert dataset.given_split.tolist() == ["train", "test", "val", "train"]
    check_rows(dataset, folder)


# --- several labels -----------------------------------------------------------------------------


def test_labels_joined_by_bars(folder: Path) -> None:
    dataset = load_manifest(
        manifest(folder, "path,label", *rows("edema|mass", "mass", "", "nodule | edema"))
    )
    assert dataset.task == "multilabel"
    assert dataset.class_names == ("edema", "mass", "nodule")
    assert dataset.targets.tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 0], [1, 0, 1]]


def test_one_column_per_label(folder: Path) -> None:
    path = manifest(
        folder, "path,label_z,label_a,smoker", *rows("1,0,1", "0,1,0", "1,1,0", "0,0,1")
    )
    dataset = load_manifest(path)
    assert dataset.task == "multilabel"
    assert dataset.class_names == ("z", "a")  # the columns' order
    assert dataset.targets.tolist() == [[1, 0], [0, 1], [1, 1], [0, 0]]
    assert dataset.metadata["smoker"] == ("1", "0", "0", "1")
    assert not [note for note in dataset.notes if note.code == "R019"]


def test_plain_columns_of_0_and_1_are_taken_loudly(folder: Path) -> None:
    path = manifest(folder, "path,edema,mass,age", *rows("1,0,44", "0,1,51", "1,1,62"))
    dataset = load_manifest(path)
    assert dataset.class_names == ("edema", "mass")
    assert dict(dataset.metadata) == {"age": ("44", "51", "62")}
    note = next(note for note in dataset.notes if note.code == "R019")
    assert note.severity == "warning"
    assert "edema, mass" in note.evidence


# --- bad ones -----------------------------------------------------------------------------------


def refused(path: Path, **how: str) -> str:
    with pytest.raises(DataError) as error:
        load_manifest(path, **how)
    assert error.value.exit_code == 2
    return str(error.value)


def test_all_offenders_in_one_message_with_their_lines(folder: Path) -> None:
    path = manifest(
        folder,
        "path,label,split,weight,group",
        "img/0.png,a,train,1,g",
        "img/7.png,a,train,1,g",
        "img/1.png,b,tets,1,g",
        "img/2.png,,train,1,g",
        "img/3.png,b,train,heavy,g",
        "img/0.png,b,train,1,g",
        "./img/1.png,b,test,1,",
        "img,b,test,-1,g",
    )
    message = refused(path)
    for words in (
        "9 problems",
        "line 3: file 'img/7.png' not found",
        "line 4: split 'tets', where train, val or test is expected",
        "line 5: empty label",
        "line 6: weight 'heavy' is not a number",
        "line 7: '0.png' is listed before with another label, in line 2",
        "line 8: '1.png' is listed before, in line 4",
        "line 8: empty group",
        "line 9: 'img' is a folder",
        "line 9: weight '-1'",
    ):
        assert words in message
    assert message.index("line 3") < message.index("line 9")


def test_only_the_first_twenty_are_listed(folder: Path) -> None:
    message = refused(manifest(folder, "path,label", *(f"no/{i}.png,a" for i in range(50))))
    assert "50 problems" in message
    assert "line 21: file 'no/19.png' not found; and 30 more" in message
    assert "no/20.png" not in message


def test_line_numbers_count_lines_of_the_file(folder: Path) -> None:
    message = refused(
        manifest(folder, "path,label,note", 'img/0.png,a,"two', 'lines"', "", "img/9.png,b,")
    )
    assert "line 5: file 'img/9.png' not found" in message


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["label,age", "a,1"], "no column 'path' (or 'file_name'); its columns are 'label', 'age'"),
        (["path,age", *rows("1", "7")], "no column 'label' and 0 label columns"),
        (["path,label_a", *rows("1", "0")], "1 label columns of 0 and 1 (two are needed)"),
        (["path,label"], "lists no images"),
        ([""], "lists no images"),
        (["path,label,label", *rows("a,b")], "columns of the same name: 'label'"),
        (["path,file_name,label", *rows("x,b")], "both 'path' and 'file_name'"),
        (["path,label,label_b", *rows("a,1")], "a column 'label' and columns such as 'label_b'"),
        (["path,label", *rows("a", "a")], "one label, 'a'; two classes are needed"),
        (["path,label", *rows("Mel", "mel", "nv")], "'Mel' and 'mel'"),
        (["path,label", *rows("a,b", "c")], "1 lines differ: line 2: 3 cells"),
        (["path,label", *rows("a|", "b|a")], "line 2: empty label in 'a|'"),
        (["path,label_a,label_b", *rows("1,0", "2,1")], "line 3: '2' in column 'label_a'"),
        (["path,label_a,label_b", *rows("1,0", "1,0")], "no image has the label 'b'"),
        (["path,label,split", *rows("a,val", "b,test")], "no images in split 'train'"),
        (["path,label,split", *rows("a,train", "b,")], "line 3: split ''"),
        (
            ["path,label,split", *rows("a,train", "b,train", "c,test")],
            "class without training images can't be learned: 'c' (test)",
        ),
        (
            ["path,label,split", *rows("a|b,train", "b,train", "c|a,test")],
            "can't be learned: 'c' (test)",
        ),
        (["path,label", 'img/0.png,"a', "img/1.png,b"], "unexpected end of data"),
    ],
)
def test_tables_that_cannot_be_used(folder: Path, lines: list[str], said: str) -> None:
    assert said in refused(manifest(folder, *lines))


def test_unknown_group_column_names_the_nearest(folder: Path) -> None:
    path = manifest(folder, "path,label,patient", *rows("a,p1", "b,p2"))
    assert "no column 'patiant'; did you mean 'patient'" in refused(path, group="patiant")
    assert "can't be the group" in refused(path, group="label")
    assert "gives a group for 0 of 2 files" in refused(path, group_regex="(p9)")


def test_files_that_are_no_table(folder: Path) -> None:
    latin = folder / "latin.csv"
    latin.write_bytes("path,label\nimg/0.png,böse\n".encode("latin-1"))
    assert "not UTF-8 text (byte 22); save it as 'CSV UTF-8'" in refused(latin)
    binary = folder / "binary.csv"
    binary.write_bytes(b"path,label\n\0\0\0")
    assert "zero bytes" in refused(binary)


# --- real ---------------------------------------------------------------------------------------


def test_real_skin_lesions(shared: Path) -> None:
    dataset = load_manifest(shared / "data/folders/ham_287/manifest.csv")
    assert dataset.name == "ham_287"
    assert dataset.class_names == ("bcc", "mel", "vasc")
    assert dataset.class_counts().tolist() == [91, 160, 36]
    assert list(dataset.metadata) == ["age", "sex", "site"]
    assert dataset.groups is not None
    assert len(set(dataset.groups)) < 287
    assert not dataset.unreadable
    assert dataset.given_split is None
    assert dataset.original_sizes is not None
    assert set(map(tuple, dataset.original_sizes.tolist())) == {(150, 200)}

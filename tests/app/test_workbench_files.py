"""What the workbench keeps on disk: state, class folders, answers, labels; and its guard."""

from __future__ import annotations

import asyncio
import csv
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from nicegui import Client, ui
from PIL import Image

from scanwise.app.answers import (
    Models,
    answer_inputs,
    command_of,
    confidence,
    list_sets,
    new_set_folder,
    read_set,
    sort_answers,
)
from scanwise.app.curves import curves_svg
from scanwise.app.explaining import explain_file
from scanwise.app.folders import ClassFolders, list_folder, safe_name
from scanwise.app.guard import Guard, check_host
from scanwise.app.labelling import LabelBook, add_to_classes, relabel_training
from scanwise.app.pages.use import Use
from scanwise.app.plans import clean_settings, plan_rows, proposals, train_words
from scanwise.app.preview import preview
from scanwise.app.server import _routes
from scanwise.app.theme import stylesheet
from scanwise.app.thumbnails import Thumbnails
from scanwise.app.widgets import Bench
from scanwise.app.workspace import Workspace
from scanwise.core.errors import ConfigError, DataError, RunError
from scanwise.pipeline.find_inputs import find_inputs
from scanwise.pipeline.label_journal import read_journal


def png(level: int, side: int = 16) -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(level).integers(0, 255, (side, side), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def space(tmp_path) -> Workspace:
    return Workspace.open(tmp_path / "space")


# --- workspace -----------------------------------------------------------------------------------


def test_state_survives_and_damage_does_not_stop_it(space):
    space.change(data="demo:cells", settings={"epochs": 3})
    assert Workspace.open(space.root).read().settings == {"epochs": 3}
    (space.root / "workbench/state.json").write_text('{"data": "x", "unknown": 1')
    assert space.read().data == ""


def test_new_folders_are_numbered(space):
    assert space.new_folder("runs", "My cells!") == "runs/my-cells-001"
    (space.root / "runs/my-cells-007").mkdir(parents=True)
    assert space.new_folder("runs", "My cells!") == "runs/my-cells-008"


def test_only_report_files_of_the_workspace_are_served(space):
    for name in ("runs/a/report.html", "runs/a/bundle/model.safetensors", "secret.html"):
        (space.root / name).parent.mkdir(parents=True, exist_ok=True)
        (space.root / name).write_text("x")
    outside = space.root / "runs/a/link.html"
    outside.symlink_to(space.root / "secret.html")
    assert space.is_servable(space.root / "runs/a/report.html")
    assert not space.is_servable(space.root / "runs/a/bundle/model.safetensors")
    assert not space.is_servable(space.root / "runs/../secret.html")
    assert not space.is_servable(outside)
    assert not space.is_servable(Path("/etc/passwd"))


@pytest.mark.parametrize("name", ["runs/a\x00", "runs/" + "x" * 5000, "~nobody-here/x.html", ".."])
def test_odd_addresses_name_no_file(space, name):
    assert space.served(name) is None


def test_downloads_and_files_that_are_not_there_are_404(space):
    for name in ("predictions.csv", "predictions/set-001/predictions.csv"):
        (space.root / name).parent.mkdir(parents=True, exist_ok=True)
        (space.root / name).write_text("path\n")
    (space.root / "predictions/predictions.csv").write_text("path\n")
    api = FastAPI()
    _routes(Bench(space), api)
    with TestClient(api) as client:
        assert client.get("/download/set-001").text == "path\n"
        for address in ("/download/%2e%2e", "/download/%2e", "/download/%00", "/files/%00"):
            assert client.get(address).status_code == 404, address


def test_answers_open_in_a_workspace_without_a_model(space):
    client = Client(ui.page("/use"), request=None)
    try:
        with client:
            page = Use(Bench(space))
            page.build()
            asyncio.run(page.open(space.predictions / "set-001"))
            assert "holds no answers" in str([each.content for each in words_in(page.place)])
    finally:
        client.delete()


def words_in(element):
    return [each for each in element.descendants() if hasattr(each, "content")]


def test_a_workspace_that_can_not_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="choose another --workspace"):
        Workspace.open(tmp_path / "file")


# --- class folders -------------------------------------------------------------------------------


def test_dropped_pictures_go_into_their_class_once(space):
    folders = ClassFolders(space.root / "images/mine")
    folders.add_class("ill")
    folders.add_class("well")
    assert folders.add_image("ill", "../../a.png", png(1)).path == folders.root / "ill/a.png"
    assert folders.add_image("ill", "a.png", png(2)).path == folders.root / "ill/a-2.png"
    twice = folders.add_image("well", "b.png", png(1))
    assert twice.path is None
    assert "in class 'ill' already" in twice.reason
    assert "there already" in folders.add_image("ill", "c.png", png(1)).reason
    assert "not that of an image" in folders.add_image("ill", "a.txt", b"x").reason
    assert folders.classes() == {"ill": 2, "well": 0}
    with pytest.raises(DataError, match="already"):
        folders.add_class("ILL")


@pytest.mark.parametrize("name", ["", "..", "a/b", ".hidden", "x" * 300, "a\x00b", "c:d"])
def test_names_that_are_paths_are_refused(name):
    with pytest.raises(DataError, match="choose another"):
        safe_name(name)


def test_folders_are_listed(space):
    (space.root / "a").mkdir()
    (space.root / ".hidden").mkdir()
    (space.root / "labels.csv").write_text("path,label\n")
    (space.root / "x.png").write_bytes(png(1))
    found = list_folder(space.root)
    assert found.folders == ("a", "workbench")
    assert found.files == ("labels.csv",)
    assert (found.images, found.parent) == (1, space.root.parent)
    with pytest.raises(DataError, match="choose another folder"):
        list_folder(space.root / "nowhere")


def test_preview_counts_and_shows(some_cells):
    found = preview(str(some_cells))
    assert {each.name: each.images for each in found.classes} == {
        "Platelets": 22, "RBC": 30, "WBC": 26,
    }  # fmt: skip
    name, source = found.classes[0].samples[0]
    assert name.startswith("Platelets/")
    keys = Thumbnails()
    key = keys.add(source)
    assert keys.add(source) == key
    assert keys.add(np.zeros((4, 4, 1), np.uint8)) != key
    with Image.open(io.BytesIO(keys.png(key, 96))) as image:
        assert max(image.size) <= 96
    assert keys.png("no such key", 96) is None


# --- plans ---------------------------------------------------------------------------------------

CHECKED = {
    "n": 100, "kind": "folder", "counts": {"train": [40, 30]}, "split": {"n": {"train": 70}},
    "checks": {"findings": [
        {"code": "D013", "severity": "warning", "evidence": "names look like groups",
         "command": r"scanwise train x --group-regex 'p(\d+)'"},
        {"code": "D001", "severity": "warning", "evidence": "2 files"},
    ]},
}  # fmt: skip


def test_the_plan_is_that_of_train():
    line, decisions = plan_rows({"epochs": 7, "seed": None}, CHECKED)
    assert line.startswith("preset default")
    chosen = {decision.setting: decision for decision in decisions}
    assert (chosen["epochs"].value, chosen["epochs"].source) == (7, "you")
    assert chosen["batch_size"].value == 32
    assert plan_rows({}, {}) == ("", ())


def test_settings_are_checked_as_on_the_command_line():
    with pytest.raises(ConfigError, match="epochs=0"):
        clean_settings({"epochs": 0})
    words = train_words("my cells", {"epochs": 3, "skip_unreadable": True}, "runs/a-001")
    assert words == ["train", "my cells", "--epochs", "3", "--skip-unreadable", "--output",
                     "runs/a-001"]  # fmt: skip


def test_the_check_proposes_settings():
    found = {each.setting: each.value for each in proposals(CHECKED)}
    assert found == {"group_regex": r"p(\d+)", "skip_unreadable": True}


def test_curves_say_their_numbers():
    svg = curves_svg("Loss", [("train", [0.9, 0.5]), ("val <b>", [1.0, float("nan")])], 5, top=None)
    assert "train 0.500 after epoch 2, 0.900 after the first" in svg
    assert "<b>" not in svg
    assert "no epoch is done yet" in curves_svg("Loss", [("train", [])], 0, top=None)


def test_the_style_has_the_colours_of_the_report():
    css = stylesheet()
    assert ":root:has(body.body--dark)" in css
    assert css.count("--accent:") == 2
    assert "http" not in css


# --- answers -------------------------------------------------------------------------------------


@pytest.fixture
def answered(space, disc_run, monkeypatch):
    """Answers to two readable files and one that is not."""
    folder = new_set_folder(space)
    (folder / "images").mkdir()
    for name, data in (("a.png", png(1)), ("b.png", png(2)), ("c.png", b"no picture")):
        (folder / "images" / name).write_bytes(data)
    monkeypatch.chdir(space.root)
    source = f"{space.name_of(folder / 'images')}/*"
    told: list[tuple[int, int]] = []
    opened = Models().open(disc_run.path)
    found = answer_inputs(
        space, folder, str(disc_run.path), opened, source, find_inputs([source]),
        lambda *pair: told.append(pair),
    )  # fmt: skip
    assert told[-1] == (3, 3)
    return found, opened[0]


def test_answers_are_those_of_the_bundle_and_survive_the_disk(answered, space):
    found, bundle = answered
    direct = bundle.predict([space.place(answer.sample) for answer in found.answers])
    for answer, expected in zip(found.answers, direct, strict=True):
        assert answer.ok == expected.ok
        assert dict(answer.probabilities) == dict(expected.probabilities)
        assert answer.predicted == expected.predicted
        assert answer.decision == expected.decision
        assert answer.prediction_set == expected.prediction_set
    assert read_set(found.folder).answers == found.answers
    assert [path for path, _ in list_sets(space)] == [found.folder]
    with found.csv.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["status"] for row in rows] == ["ok", "ok", "error"]
    assert list(rows[0])[:4] == ["path", "status", "reason", "pred"]
    assert list(rows[0])[-4:] == ["threshold_pred", "set", "in_dist", "unknown_score"]


def test_the_summary_adds_up(answered):
    found, _ = answered
    assert sum(int(number) for _, number in found.counts()) == 2
    assert sum(int(number) for _, number in found.summary()) == 3
    assert confidence(found.answers[2]) == ("error", "can't be read")
    assert found.headline == "2 of 3 answered, 1 could not be read"
    assert replace(found, answers=found.answers[:2]).headline == "2 pictures answered"


def test_the_command_shown_names_a_table_that_is_not_there(answered, disc_run):
    found, _ = answered
    expected = f"scanwise predict {disc_run.path} 'predictions/set-001/images/*' -o NAME.csv"
    assert found.about["command"] == expected
    assert command_of({**found.about, "command": "of an older version"}) == expected


def test_a_cancelled_prediction_leaves_no_answers(space, disc_run, tmp_path):
    (tmp_path / "a.png").write_bytes(png(1))
    folder = new_set_folder(space)
    with pytest.raises(RunError, match="cancelled"):
        answer_inputs(
            space,
            folder,
            "m",
            Models().open(disc_run.path),
            "a",
            find_inputs([f"{tmp_path}/a.png"]),
            cancelled=lambda: True,
        )
    assert list_sets(space) == []


def test_sorting_copies_and_refuses_its_own_folder(answered, space):
    found, bundle = answered
    done = sort_answers(space, found, bundle, "sorted/x", 0.0)
    assert sum(done.counts.values()) == 2
    assert done.left_out == 1
    assert (found.folder / "images/a.png").is_file()
    with pytest.raises(RunError, match="name a new one"):
        sort_answers(space, found, bundle, "sorted/x", 0.0)


def test_an_answer_can_be_explained(answered, space):
    found, bundle = answered
    drawn, words = explain_file(bundle, space.place(found.answers[0].sample))
    assert drawn.startswith(b"\x89PNG")
    assert "Grad-CAM" in words
    with pytest.raises(DataError, match=r"c\.png"):
        explain_file(bundle, space.place(found.answers[2].sample))


# --- labels --------------------------------------------------------------------------------------


def test_labels_are_journalled_and_undone(tmp_path):
    one, two = tmp_path / "1.png", tmp_path / "2.png"
    one.write_bytes(png(1))
    two.write_bytes(png(2))
    book = LabelBook(tmp_path / "labels")
    assert book.give({one: "ill", two: "ill"}) == 2
    assert book.give({one: "well"}) == 1
    assert book.give({one: "well"}) == 0
    assert book.undo() == 1
    assert LabelBook(tmp_path / "labels").labels() == {one: "ill", two: "ill"}
    assert book.undo() == 2
    assert book.undo() == 0
    entries = read_journal(tmp_path / "labels")
    assert [(entry.old, entry.new) for entry in entries[:2]] == [("", "ill"), ("", "ill")]
    assert len(entries) == 6
    assert book.labels() == {}


def test_one_picture_with_two_labels_is_a_conflict(tmp_path):
    same = [tmp_path / name for name in ("1.png", "2.png")]
    for path in same:
        path.write_bytes(png(1))
    book = LabelBook(tmp_path / "labels")
    assert book.clashes(same, "ill") == []
    book.give({same[0]: "ill"})
    (clash,) = book.clashes([same[1]], "well")
    assert (clash.known, clash.wanted, clash.where) == ("ill", "well", "1.png")
    assert book.clashes([same[0]], "well") == []  # its own label may change


def test_labelled_pictures_join_the_class_folders(tmp_path):
    path = tmp_path / "new.png"
    path.write_bytes(png(5))
    book = LabelBook(tmp_path / "labels")
    folders = ClassFolders(tmp_path / "images")
    with pytest.raises(DataError, match="no picture has a label"):
        add_to_classes(book, folders)
    book.give({path: "ill"})
    assert [added.path for added in add_to_classes(book, folders)] == [
        tmp_path / "images/ill/new.png"
    ]
    assert "there already" in add_to_classes(book, folders)[0].reason


def test_training_labels_are_corrected_through_relabel(some_cells, tmp_path):
    path = sorted((some_cells / "RBC").iterdir())[0]
    book, output = LabelBook(tmp_path / "labels"), tmp_path / "out"
    with pytest.raises(DataError, match="no labelled picture"):
        relabel_training(str(some_cells), book, output)
    book.give({path: "WBC"})
    done = relabel_training(str(some_cells), book, output)
    assert done.applied is not None
    assert [entry.new for entry in done.applied.changed] == ["WBC"]
    assert (output / "labels_v2.csv").is_file()
    book.give({path: "Platelets"})  # against the journal: a conflict, which has to be settled
    again = relabel_training(str(some_cells), book, output)
    assert again.applied is None
    (conflict,) = again.conflicts
    settled = relabel_training(str(some_cells), book, output, {conflict.path: "Platelets"})
    assert settled.applied is not None
    assert settled.applied.version == 3


# --- the guard -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "refused"),
    [
        ({"host": "127.0.0.1:8765"}, False),
        ({"host": "localhost:8765", "origin": "http://localhost:8765"}, False),
        ({"host": "evil.example:8765"}, True),  # DNS rebinding
        ({"host": "127.0.0.1:80"}, True),
        ({}, True),
        ({"host": "127.0.0.1:8765", "origin": "https://evil.example"}, True),
        ({"host": "127.0.0.1:8765", "origin": "null"}, True),
        ({"host": "127.0.0.1:8765", "origin": "http://127.0.0.1:9999"}, True),
        ({"host": "127.0.0.1:8765", "sec-fetch-site": "cross-site"}, True),
        ({"host": "127.0.0.1:8765", "sec-fetch-site": "same-site"}, True),
        ({"host": "127.0.0.1:8765", "sec-fetch-site": "same-origin"}, False),
        (
            {
                "host": "127.0.0.1:8765",
                "sec-fetch-site": "cross-site",
                "sec-fetch-dest": "document",
            },
            False,  # a link that the user follows
        ),
    ],
)
def test_only_this_servers_own_pages_may_ask(headers, refused):
    assert bool(Guard(None, 8765).problem(headers)) is refused


def test_only_this_machine_is_listened_to():
    assert check_host("localhost") == "127.0.0.1"
    for host in ("0.0.0.0", "::", "192.168.0.4", "example.org"):
        with pytest.raises(ConfigError, match=r"listens on 127\.0\.0\.1 only"):
            check_host(host)

"""predict: one row an input, in their order, whatever the files are and however often it is cut."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from scanwise.cli import main
from scanwise.core.errors import ConfigError, DataError, RunError
from scanwise.deploy.bundle import Bundle, BundleConfig
from scanwise.deploy.ensemble import EnsembleBundle, Member
from scanwise.deploy.opening import open_model
from scanwise.metrics.predictions import read_predictions
from scanwise.models.build import build_model
from scanwise.pipeline import predict as predict_module
from scanwise.pipeline.answer_rows import joined, names_in
from scanwise.pipeline.find_inputs import find_inputs
from scanwise.pipeline.predict import Job, predict
from scanwise.pipeline.sort_into import REVIEW, SortPlan
from scanwise.prepare.preprocessing import Preprocessing

NAMES = ("blast, cell", "b/c", "Zelle ü")
ODD_NAMES = ("plain.png", "a,b.png", 'quo"te.png', "new\nline.png", "cr\rhere.png", "ü 漢.png")


def make_bundle(seed: int = 0, **changes) -> Bundle:
    """A small network of random weights for colour images of 16 px."""
    torch.manual_seed(seed)
    model = build_model("mlp:8", num_outputs=3, channels=3, size_px=(16, 16))
    preprocessing = Preprocessing(
        size_px=(16, 16), channels=3, source_channels=3, mean=(0.5,) * 3, std=(0.05,) * 3
    )
    stated = {"architecture": "mlp:8", "task": "multiclass", "class_names": NAMES}
    return Bundle(
        model,
        preprocessing,
        BundleConfig(**(stated | {"size_px": (16, 16), "channels": 3} | changes)),
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle().save_pretrained(tmp_path_factory.mktemp("model") / "bundle")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Twelve different pictures under odd names, some deep in folders."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(5)
    made = []
    for number in range(12):
        place = folder / ("deep/er" if number >= 6 else ".")
        place.mkdir(parents=True, exist_ok=True)
        made.append(place / ODD_NAMES[number % 6])
        Image.fromarray(rng.integers(0, 255, (20, 24, 3), dtype=np.uint8)).save(made[-1])
    return made


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def numbers(row: dict[str, str]) -> list[float]:
    return [float(row[f"prob_{name}"]) for name in NAMES]


def odd_files(folder: Path, good: Path) -> dict[str, tuple[Path, str]]:
    """Files that can't be answered, each with words of its reason; "" for those that can."""
    jpeg = folder / "cut.jpg"
    Image.open(good).resize((200, 200)).save(jpeg)
    jpeg.write_bytes(jpeg.read_bytes()[:2000])
    (folder / "empty.png").touch()
    (folder / "text.png").write_text("no image")
    tifffile.imwrite(folder / "deep.tif", np.full((16, 16), 40_000, np.uint16))
    tifffile.imwrite(
        folder / "pages.tif", np.zeros((5, 16, 16), np.uint8), photometric="minisblack"
    )
    Image.open(good).convert("CMYK").save(folder / "cmyk.jpg")
    frames = [Image.new("L", (16, 16), color) for color in (10, 200)]
    frames[0].save(folder / "moving.gif", save_all=True, append_images=frames[1:])
    return {
        "empty": (folder / "empty.png", "is empty (0 bytes)"),
        "cut": (jpeg, "is truncated"),
        "text": (folder / "text.png", "is a text file"),
        "deep": (folder / "deep.tif", "has depth uint16"),
        "pages": (folder / "pages.tif", "5 pages"),
        "cmyk": (folder / "cmyk.jpg", ""),
        "moving": (folder / "moving.gif", "animated GIF with 2 frames"),
        "dicom": (_dicom_without_pixels(folder / "scan.dcm"), "no pixel data"),
        "absent": (folder / "absent.png", "file not found"),
    }


def _dicom_without_pixels(path: Path) -> Path:
    pydicom = pytest.importorskip("pydicom")
    meta = pydicom.dataset.FileMetaDataset()
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    header = pydicom.dataset.FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    header.SOPClassUID = meta.MediaStorageSOPClassUID
    header.Rows = header.Columns = 16
    header.save_as(path, enforce_file_format=True)
    return path


# --- order and alignment ------------------------------------------------------------------------


def test_bad_files_in_the_middle_shift_no_row(model: Path, pictures, tmp_path: Path) -> None:
    bad = odd_files(tmp_path, pictures[0])
    order: list[tuple[Path, str]] = []
    for picture, (file, words) in zip(pictures, [*bad.values()] * 2, strict=False):
        order += [(picture, ""), (file, words)]
    found = predict(
        Job(
            model, tuple(str(path) for path, _ in order),
            output=str(tmp_path / "out.csv"), batch_size=5,
        )
    )  # fmt: skip
    said = rows(tmp_path / "out.csv")
    assert list(said[0]) == [
        "path", "status", "reason", "pred", *(f"prob_{name}" for name in NAMES),
        "threshold_pred", "set", "in_dist", "unknown_score",
    ]  # fmt: skip
    assert [row["path"] for row in said] == [str(path) for path, _ in order]
    alone = open_model(model)
    for row, (path, words) in zip(said, order, strict=True):
        if words:
            assert (row["status"], row["pred"]) == ("error", ""), path
            assert words in row["reason"]
            continue
        answer = alone.predict([path]).answer(0)
        assert (row["status"], row["reason"], row["pred"]) == ("ok", "", answer.predicted)
        np.testing.assert_allclose(numbers(row), list(answer.probabilities.values()), atol=1e-6)
    assert found.tally.errors == sum(bool(words) for _, words in order)
    assert sum(found.tally.predicted) == found.tally.ok == len(order) - found.tally.errors


@pytest.fixture(scope="module")
def expected(model: Path, pictures) -> dict[str, list[float]]:
    opened = open_model(model)
    return {
        str(path): opened.predict([path]).probabilities[0].tolist() for path in pictures
    }  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(order=st.lists(st.integers(0, 14), min_size=1, max_size=30), batch=st.integers(1, 7))
def test_every_row_belongs_to_its_input(model, pictures, expected, order, batch) -> None:
    with tempfile.TemporaryDirectory() as name:
        bad = [Path(name) / kind for kind in ("zero.png", "text.png", "absent.png")]
        bad[0].touch()
        bad[1].write_text("no image")
        files = [*pictures, *bad]
        given_files = tuple(str(files[i]) for i in order)
        job = Job(model, given_files, output=f"{name}/o.csv", batch_size=batch)
        if set(order) == {14}:
            with pytest.raises(DataError, match="does not exist"):
                predict(job)
            return
        predict(job)
        said = rows(Path(name) / "o.csv")
    assert [row["path"] for row in said] == list(given_files)
    for i, row in zip(order, said, strict=True):
        assert row["status"] == ("ok" if i < 12 else "error")
        if i < 12:
            np.testing.assert_allclose(numbers(row), expected[row["path"]], atol=1e-6)


def test_the_runs_own_test_images_get_the_runs_own_probabilities(
    disc_run, discs: Path, tmp_path: Path
) -> None:
    predict(Job(disc_run.path, (str(discs),), output=str(tmp_path / "out.csv")))
    said = {row["path"]: row for row in rows(tmp_path / "out.csv")}
    assert list(said) == [f"discs#{row}" for row in range(400)]
    known = read_predictions(disc_run.path / "predictions.csv")
    for sample, values, predicted in zip(
        known.sample, known.probabilities, known.predicted.tolist(), strict=True
    ):
        row = said[sample]
        mine = [float(row[f"prob_{name}"]) for name in known.class_names]
        np.testing.assert_allclose(mine, values, atol=1e-6)
        assert row["pred"] == known.class_names[predicted]
    assert {row["in_dist"] for row in said.values()} <= {"yes", "no"}
    noise = np.random.default_rng(1).integers(0, 255, (3, 16, 16, 1), np.uint8)
    np.savez(tmp_path / "noise.npz", images=noise)
    predict(Job(disc_run.path, (str(tmp_path / "noise.npz"),), output=str(tmp_path / "n.csv")))
    assert [float(row["unknown_score"]) > 0 for row in rows(tmp_path / "n.csv")] == [True] * 3


# --- what can be given --------------------------------------------------------------------------


def test_folders_globs_lists_and_tables(pictures, tmp_path: Path, monkeypatch) -> None:
    top = pictures[0].parent
    monkeypatch.chdir(top)
    inside = [path.relative_to(top).as_posix() for path in pictures]
    ordered = sorted(inside)
    assert [each.name for each in find_inputs(["."]).images] == [f"./{name}" for name in ordered]
    assert [each.name for each in find_inputs(["deep"]).images] == [
        name for name in ordered if name.startswith("deep")
    ]
    assert [each.name for each in find_inputs(["**/*.png"]).images] == ordered
    assert {each.name for each in find_inputs(["*.png"]).images} == set(inside[:6])
    listing = tmp_path / "list.txt"
    listing.write_bytes("\ufeffplain.png\r\n\na,b.png\ndeep\n".encode())
    names = ["plain.png", "a,b.png", *(name for name in ordered if name.startswith("deep"))]
    for given_files in (find_inputs([f"@{listing}"]), find_inputs([], lists=[str(listing)])):
        assert [each.name for each in given_files.images] == names
    listing.write_bytes(b"new\nline.png\0plain.png\0")
    assert find_inputs([f"@{listing}"]).images[0].name == "new\nline.png"
    table = tmp_path / "table.csv"
    file = os.path.relpath(pictures[1], tmp_path)
    table.write_text(f'path,note\n"{file}",x\ngone.png,y\n')
    found = find_inputs([str(table)]).images
    assert [each.name for each in found] == [file, "gone.png"]  # as the table has it
    assert Path(found[0].file).read_bytes() == pictures[1].read_bytes()


def test_nothing_to_look_at(tmp_path: Path) -> None:
    for given_files, words in (
        ([], "no image to look at"),
        ([str(tmp_path / "gone.png")], "gone.png does not exist"),
        ([str(tmp_path / "a.png"), str(tmp_path / "b.png")], "nor do 1 others"),
        ([str(tmp_path)], "holds no image"),
        ([f"{tmp_path}/*.png"], "no file matches"),
        ([f"@{tmp_path}/list"], "can't read the list"),
    ):
        with pytest.raises(DataError, match=words):
            find_inputs(given_files)


def test_linked_folders_are_searched_once(pictures, tmp_path: Path) -> None:
    os.symlink(pictures[0].parent, tmp_path / "link")
    os.symlink(tmp_path, tmp_path / "loop")
    assert len(find_inputs([str(tmp_path)])) == 12


def test_rows_of_arrays(model: Path, tmp_path: Path) -> None:
    images = np.random.default_rng(2).integers(0, 255, (6, 16, 16, 3), np.uint8)
    np.savez(tmp_path / "my set.npz", train_images=images[:4], test_images=images[4:])
    np.savez(tmp_path / "large.npz", X=images.repeat(2, axis=1))
    given_files = (str(tmp_path / "my set.npz"), str(tmp_path / "large.npz"))
    predict(Job(model, given_files, output=str(tmp_path / "out.csv")))
    said = rows(tmp_path / "out.csv")
    assert [row["path"] for row in said[:6]] == [f"my-set#{row}" for row in range(6)]
    whole = open_model(model).predict(images)
    np.testing.assert_allclose([numbers(row) for row in said[:6]], whole.probabilities, atol=1e-6)
    assert {row["reason"] for row in said[6:]} == {
        "images are 32x16 px, the model was trained on 16x16; resize them, or give file paths."
    }
    with pytest.raises(ConfigError, match=r"rows of an \.npz are none"):
        predict(Job(model, given_files, output=str(tmp_path / "o"), sort=SortPlan(tmp_path / "s")))


# --- interrupted --------------------------------------------------------------------------------


def test_a_killed_prediction_goes_on_to_the_same_bytes(
    model: Path, pictures, tmp_path: Path
) -> None:
    listing, out = tmp_path / "list.txt", tmp_path / "out.csv"
    listing.write_bytes(b"\0".join(str(path).encode() for path in pictures * 100))
    words = [str(model), "--list", str(listing), "--batch-size", "8"]
    with pytest.raises(SystemExit) as ended:
        main(["predict", *words, "-o", str(tmp_path / "whole.csv")])
    assert ended.value.code == 0
    state = tmp_path / "out.csv.part.json"
    started = [sys.executable, "-m", "scanwise", "predict", *words, "-o", str(out)]
    with subprocess.Popen(started, stderr=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 60
            while not state.exists() or json.loads(state.read_text())["rows"] < 80:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.002)
        finally:
            process.send_signal(signal.SIGKILL)
    assert not out.exists()
    done = json.loads(state.read_text())["rows"]
    assert 80 <= done < 1200
    with (tmp_path / "out.csv.part").open("ab") as part:
        part.write(b"half a ro")  # what a block that was cut leaves
    job = Job(model, (), (str(listing),), str(out), batch_size=8)
    with pytest.raises(RunError, match="is an interrupted prediction; --resume goes on"):
        predict(job)
    summary = predict(Job(model, (), (str(listing),), str(out), resume=True))
    assert out.read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert (summary.tally.n, summary.answered) == (1200, 1200 - done)
    assert sorted(path.name for path in tmp_path.glob("out*")) == ["out.csv"]


def test_another_model_or_other_inputs_do_not_go_on(
    model: Path, pictures, tmp_path: Path, monkeypatch
) -> None:
    from scanwise.pipeline import predict as module

    real, given_files = module._rows_here, tuple(map(str, pictures))

    def stops(*parts):
        yield next(real(*parts))
        raise KeyboardInterrupt

    job = Job(model, given_files, output=str(tmp_path / "out.csv"), batch_size=3)
    with pytest.raises(KeyboardInterrupt):
        predict(job, stops)
    other = make_bundle(1).save_pretrained(tmp_path / "other")
    on = {"output": job.output, "resume": True}
    with pytest.raises(RunError, match="another model"):
        predict(Job(other, given_files, **on))
    with pytest.raises(RunError, match="12 inputs, not 11"):
        predict(Job(model, given_files[1:], **on))
    with pytest.raises(RunError, match="other inputs"):
        predict(Job(model, given_files[::-1], **on))
    predict(Job(model, given_files, **on))
    with pytest.raises(RunError, match="is complete"):
        predict(Job(model, given_files, **on))
    with pytest.raises(RunError, match="--force to replace it"):
        predict(job)
    before = Path(job.output).read_bytes()
    predict(Job(model, given_files, output=job.output, force=True, batch_size=3))
    assert Path(job.output).read_bytes() == before


# --- sorting ------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["copy", "link"])
def test_files_are_sorted_and_originals_stay(model: Path, pictures, tmp_path: Path, way) -> None:
    before = {path: path.read_bytes() for path in pictures}
    (tmp_path / "bad.png").touch()
    given_files = (str(pictures[0].parent), str(tmp_path / "bad.png"))
    plan = SortPlan(tmp_path / "sorted", 0.6, way)
    found = predict(Job(model, given_files, output=str(tmp_path / "out.csv"), sort=plan))
    assert {path: path.read_bytes() for path in pictures} == before
    folders = {"blast, cell": "blast, cell", "b/c": "b_c", "Zelle ü": "Zelle ü"}
    listed = rows(plan.folder / "sorted.csv")
    said = rows(tmp_path / "out.csv")
    assert [row["path"] for row in listed] == [row["path"] for row in said]
    for listing, row in zip(listed, said, strict=True):
        if row["status"] == "error":
            assert listing["to"] == ""
            continue
        sure = max(numbers(row)) >= 0.6
        target = plan.folder / listing["to"]
        assert target.parent.name == (folders[row["pred"]] if sure else REVIEW)
        assert target.read_bytes() == Path(row["path"]).read_bytes()
        assert target.is_symlink() == (way == "link")
    assert len({row["to"] for row in listed}) == 13  # same names in two folders: suffixed
    assert found.sorted_files is not None
    assert (sum(found.sorted_files.counts.values()), found.sorted_files.left_out) == (12, 1)
    assert REVIEW in found.sorted_files.counts


def test_copies_never_land_among_the_originals(model: Path, pictures, tmp_path: Path) -> None:
    folder = pictures[0].parent
    for target in (folder, folder / "new", folder / "deep" / "new"):
        job = Job(
            model, (str(folder),), output=str(tmp_path / "out.csv"), sort=SortPlan(target)
        )  # fmt: skip
        with pytest.raises((ConfigError, RunError)):
            predict(job)
    within = tmp_path / "b_c"  # a folder of images with the name of a class
    within.mkdir()
    Image.open(pictures[0]).save(within / "x.png")
    with pytest.raises(RunError, match="not an empty folder"):
        predict(Job(model, (str(within),), output=str(tmp_path / "o"), sort=SortPlan(tmp_path)))
    assert not (tmp_path / "out.csv").exists()
    assert not (folder / "new").exists()


def test_answers_are_not_kept_among_the_sorted_files(model, pictures, tmp_path: Path) -> None:
    target = tmp_path / "sorted"
    job = Job(model, (str(pictures[0]),), output=str(target / "a.csv"), sort=SortPlan(target))
    target.mkdir()
    with pytest.raises(ConfigError, match="lies inside of --sort-into"):
        predict(job)
    assert not list(target.iterdir())


def test_a_finished_table_is_not_sorted_by_another_model(model, pictures, tmp_path: Path) -> None:
    """Which model a finished table is of is not known any more."""
    out, plan = tmp_path / "out.csv", SortPlan(tmp_path / "sorted")
    job = Job(model, (str(pictures[0]),), output=str(out))
    predict(job)
    with pytest.raises(RunError, match="--force predicts anew, and with --sort-into sorts"):
        predict(replace(job, resume=True, sort=plan))
    assert not plan.folder.exists()
    predict(replace(job, force=True, sort=plan))
    assert len(rows(plan.folder / "sorted.csv")) == 1


def test_a_resumed_table_is_sorted_whole(model, pictures, tmp_path: Path, monkeypatch) -> None:
    out, plan = tmp_path / "out.csv", SortPlan(tmp_path / "sorted", 0.0)
    job = Job(model, tuple(map(str, pictures)), output=str(out), batch_size=4, sort=plan)

    def stops(*parts):
        blocks = predict_module._rows_here(*parts)
        yield next(blocks)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict(job, stops)
    assert not plan.folder.exists()
    assert predict(replace(job, resume=True)).answered == len(pictures) - 4
    assert [row["path"] for row in rows(plan.folder / "sorted.csv")] == list(map(str, pictures))


@pytest.mark.parametrize(
    "names",
    [(), ("a",), ("a", "b"), ("a|b",), ("a|b", "c"), ('say "x"', '"y'), ("new\nline", "c\r|")],
)
def test_names_come_back_from_a_cell(names: tuple[str, ...]) -> None:
    assert names_in(joined(names)) == names
    if names in [(), ("a",), ("a", "b")]:
        assert joined(names) == "|".join(names)


def test_a_class_with_the_separator_in_its_name(pictures, tmp_path: Path) -> None:
    odd = ("a|b", 'say "x"', "a")
    bundle = make_bundle(
        class_names=odd,
        thresholds={"a|b": 0.3},
        conformal={"alpha": 0.1, "min_probability": dict.fromkeys(odd, 0.05)},
    ).save_pretrained(tmp_path / "odd")
    out, plan = tmp_path / "out.csv", SortPlan(tmp_path / "sorted", 0.0)
    found = predict(Job(bundle, tuple(map(str, pictures)), output=str(out), sort=plan))
    answers = open_model(bundle).predict(pictures)
    said = rows(out)
    assert [row["pred"] for row in said] == list(answers.predicted)
    assert [names_in(row["set"]) for row in said] == list(answers.sets)
    assert [names_in(row["threshold_pred"]) for row in said] == list(answers.above_threshold)
    assert "a|b" in answers.predicted
    assert found.tally.predicted == [answers.predicted.count(name) for name in odd]
    folders = {"a|b": "a_b", 'say "x"': "say _x_", "a": "a"}
    for row, answer in zip(rows(plan.folder / "sorted.csv"), answers, strict=True):
        expected = folders[answer.predicted]
        if answer.predicted != "a|b" and answer.above_threshold:
            expected = "a_b"
        assert row["to"].split("/")[0] in (expected, REVIEW)
        assert (row["to"].split("/")[0] == REVIEW) == (
            answer.predicted == "a|b" and not answer.above_threshold
        )


def test_a_table_that_another_process_writes_is_left_alone(
    model: Path, pictures, tmp_path: Path
) -> None:
    out = tmp_path / "out.csv"
    hold = (
        "import sys; from pathlib import Path; from scanwise.core.files import only_one\n"
        "with only_one(Path(sys.argv[1]), 'busy'): print('held', flush=True); sys.stdin.read()"
    )
    words = [sys.executable, "-c", hold, str(tmp_path / ".out.csv.lock")]
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "held\n"
        for resume in (False, True):
            with pytest.raises(RunError, match="being written by another process"):
                predict(Job(model, (str(pictures[0]),), output=str(out), resume=resume))
        process.stdin.close()
        process.wait(30)
    predict(Job(model, (str(pictures[0]),), output=str(out)))
    assert [path.name for path in tmp_path.iterdir()] == ["out.csv"]


def test_a_prediction_killed_at_its_very_end_is_complete(model, pictures, tmp_path: Path) -> None:
    out, state = tmp_path / "out.csv", tmp_path / "out.csv.part.json"
    predict(Job(model, (str(pictures[0]),), output=str(out)))
    state.write_text("{}")
    with pytest.raises(RunError, match="is complete"):
        predict(Job(model, (str(pictures[0]),), output=str(out), resume=True))


def test_nothing_readable_is_said_plainly(model: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"")
    text = predict(Job(model, (str(bad),), output=str(tmp_path / "out.csv"))).text()
    assert "0 of 1 answered, 1 error" in text
    assert "reference" not in text
    assert "scanwise counts" not in text


def test_unknown_images_and_missed_thresholds_are_for_review(tmp_path: Path) -> None:
    from scanwise.pipeline.answer_rows import Said
    from scanwise.pipeline.sort_into import destinations

    plain, high = make_bundle(), make_bundle(thresholds={"b/c": 0.5})
    many = make_bundle(task="multilabel")
    sure = (0.01, 0.98, 0.01)
    for bundle, row, expected in (
        (plain, Said(True, "", "b/c", sure, "", "yes"), ("b/c",)),
        (plain, Said(True, "", "b/c", sure, "", ""), ("b/c",)),
        (plain, Said(True, "", "b/c", sure, "", "no"), (REVIEW,)),
        (plain, Said(False, "is empty", "", (), "", ""), ()),
        (high, Said(True, "", "b/c", sure, "b/c", "yes"), ("b/c",)),
        (high, Said(True, "", "b/c", sure, "", "yes"), (REVIEW,)),
        (high, Said(True, "", "blast, cell", (0.98, 0.01, 0.01), "", "yes"), ("blast, cell",)),
        (many, Said(True, "", "b/c", sure, "", "yes"), ("b/c",)),
        (many, Said(True, "", "", (0.01,) * 3, "", "yes"), ("_none",)),
        (many, Said(True, "", "b/c", (0.3, 0.98, 0.1), "", "yes"), (REVIEW,)),
    ):
        assert destinations(row, bundle, 0.9)[0] == expected


# --- models, engines, the command ---------------------------------------------------------------


def test_ensembles_and_several_labels(pictures, tmp_path: Path) -> None:
    members = [Member(make_bundle(seed), 0.5, f"run{seed}") for seed in (0, 1)]
    both = EnsembleBundle(members).save_pretrained(tmp_path / "both")
    labels = make_bundle(task="multilabel", thresholds={"b/c": 0.2}).save_pretrained(
        tmp_path / "labels"
    )
    for model in (both, labels):
        out = tmp_path / f"{model.name}.csv"
        found = predict(Job(model, tuple(map(str, pictures)), output=str(out)))
        answers = open_model(model).predict(pictures)
        said = rows(out)
        np.testing.assert_allclose(
            [numbers(row) for row in said], answers.probabilities, atol=1e-6
        )  # fmt: skip
        assert [row["pred"] for row in said] == list(answers.predicted)
        counts = [sum(name in one.split("|") for one in answers.predicted) for name in NAMES]
        assert found.tally.predicted == counts
    above = answers.above_threshold
    assert above is not None
    assert [row["threshold_pred"] for row in said] == ["|".join(names) for names in above]


def test_what_the_command_prints_and_how_it_ends(
    model: Path, pictures, tmp_path: Path, capfdbinary, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    good, bad = str(pictures[0]), tmp_path / "bad.png"
    bad.touch()

    def ends_with(*words: str) -> tuple[int, bytes, bytes]:
        with pytest.raises(SystemExit) as ended:
            main(["predict", *words])
        said = capfdbinary.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    code, out, _ = ends_with(str(model), good)
    assert code == 0
    assert b"predictions.csv: 1 of 1 answered, 0 errors" in out
    assert b"scanwise counts RUN PATHS" in out
    code, out, err = ends_with(str(model), good, str(bad), "-o", "two.csv", "--json")
    assert code == 1
    assert json.loads(out)["errors"] == 1
    assert b"1 of 2 inputs have no answer" in err
    code, out, err = ends_with(str(model), good, str(bad), "-o", "-")
    assert code == 1
    assert out == (tmp_path / "two.csv").read_bytes()
    assert b"first error: is empty" in err
    for words in (
        (str(model), "gone.png"),
        (str(tmp_path / "no model"), good),
        (str(model), good, "--batch-size", "0"),
        (str(model), good, "--device", "tpu"),
        (str(model), good, "--link"),
        (str(model), good, "-o", "nowhere/out.csv"),
        (str(model), good, "-o", "-", "--json"),
        (str(model), good, "-o", "-", "--resume"),
        (str(model), good, "--backend", "slurm"),
    ):
        code, out, err = ends_with(*words)
        assert (code, out) == (2, b""), words
        assert err.startswith(b"error: ")
        assert err.count(b"\n") == 1
    damaged = make_bundle().save_pretrained(tmp_path / "damaged")
    data = bytearray((damaged / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (damaged / "model.safetensors").write_bytes(data)
    assert ends_with(str(damaged), good, "-o", "d.csv")[0] == 3
    assert not (tmp_path / "d.csv").exists()

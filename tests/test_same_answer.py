"""One contract: command, Python, service, ONNX file and web page answer alike."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from tests.all_formats import MAKERS, make_files

import scanwise as sw
from scanwise.app.answers import Models, answer_inputs
from scanwise.app.workspace import Workspace
from scanwise.deploy.answers import Answer
from scanwise.deploy.opening import open_model
from scanwise.pipeline.export import export_model
from scanwise.pipeline.find_inputs import find_inputs
from scanwise.server.app import create_app
from scanwise.server.models import load_model
from scanwise.server.settings import ServerSettings

# One file of each kind; `SCANWISE_FILES=1000` for the long one.
NUM_FILES = int(os.environ.get("SCANWISE_FILES", len(MAKERS)))
PART = 16  # files a request
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Row:
    """What every way in says of one file."""

    name: str
    ok: bool
    predicted: str
    probabilities: Mapping[str, float]
    in_distribution: bool | None
    prediction_set: tuple[str, ...] | None


def of_answer(answer: Answer) -> Row:
    return Row(
        Path(answer.sample).name,
        answer.ok,
        answer.predicted,
        answer.probabilities,
        answer.in_distribution,
        answer.prediction_set,
    )


def of_csv(file: Path, names: Sequence[str], sets: bool) -> list[Row]:
    with file.open(encoding="utf-8", newline="") as stream:
        return [_row(row, names, sets) for row in csv.DictReader(stream)]


def _row(row: Mapping[str, str], names: Sequence[str], sets: bool) -> Row:
    ok = row["status"] == "ok"
    return Row(
        Path(row["path"]).name,
        ok,
        row["pred"],
        {name: float(row[f"prob_{name}"]) for name in names} if ok else {},
        {"yes": True, "no": False}.get(row["in_dist"]),
        tuple(filter(None, row["set"].split("|"))) if ok and sets else None,
    )


def by_command(model: Path, folder: Path, out: Path) -> None:
    """`scanwise predict`; some files can't be read, so it ends with 1."""
    words = [sys.executable, "-m", "scanwise", "predict", str(model), str(folder), "-o", str(out)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=600)
    assert done.returncode == 1, done.stderr


def by_service(run: Path, files: Sequence[Path]) -> list[Row]:
    rows = []
    app = create_app([load_model("cells", run)], ServerSettings())
    with TestClient(app, base_url="http://127.0.0.1") as client:
        for start in range(0, len(files), PART):
            part = files[start : start + PART]
            form = [("files", (path.name, path.read_bytes())) for path in part]
            answer = client.post("/predict/batch", files=form)
            assert answer.status_code == 200, answer.text
            for path, result in zip(part, answer.json()["results"], strict=True):
                assert result["name"] == path.name
                said = result["prediction"] or {}
                chosen = said.get("prediction_set")
                rows.append(
                    Row(
                        path.name,
                        result["status"] == "ok",
                        said.get("predicted", ""),
                        said.get("probabilities", {}),
                        said.get("in_distribution"),
                        None if chosen is None else tuple(chosen),
                    )
                )
    return rows


def by_page(run: Path, folder: Path, workspace: Path) -> list[Row]:
    """What the workbench's page shows; the browser's test compares the page itself with a CSV."""
    inputs = find_inputs([str(folder)])
    found = answer_inputs(
        Workspace(workspace), workspace / "set", str(run), Models().open(run), str(folder), inputs
    )
    return [of_answer(answer) for answer in found.answers]


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cells") / "run"
    sw.train(
        "demo:cells?n=240&slides=24&size=32", model="simple_cnn", epochs=3, output=str(folder),
        report=False,
    )  # fmt: skip
    return folder


def test_five_ways_in_give_one_answer(cells: Path, tmp_path: Path) -> None:
    folder = tmp_path / "files"
    files = make_files(folder, NUM_FILES)
    model = open_model(cells)
    by_python = [of_answer(answer) for answer in model.predict(files)]
    names, sets = model.class_names, model.config.conformal is not None

    exported = export_model(cells, output=tmp_path / "onnx").folder / "model.onnx"
    by_command(cells, folder, tmp_path / "bundle.csv")
    by_command(exported, folder, tmp_path / "onnx.csv")
    ways = {
        "command": of_csv(tmp_path / "bundle.csv", names, sets),
        "ONNX": of_csv(tmp_path / "onnx.csv", names, sets),
        "service": by_service(cells, files),
        "page": by_page(cells, folder, tmp_path),
    }
    kinds = len(MAKERS)
    assert sum(not row.ok for row in by_python) >= 5 * (NUM_FILES // kinds)
    assert sum(row.ok for row in by_python) >= 20 * (NUM_FILES // kinds)
    for way, rows in ways.items():
        assert len(rows) == len(by_python), way
        for row, expected in zip(rows, by_python, strict=True):
            where = f"{way}, {expected.name}"
            assert (row.name, row.ok) == (expected.name, expected.ok), where
            assert row.predicted == expected.predicted, where
            assert row.in_distribution == expected.in_distribution, where
            assert row.prediction_set == expected.prediction_set, where
            assert list(row.probabilities) == list(expected.probabilities), where
            np.testing.assert_allclose(
                list(row.probabilities.values()),
                list(expected.probabilities.values()),
                rtol=0,
                atol=TOLERANCE,
                err_msg=where,
            )

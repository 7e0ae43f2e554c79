"""The examples end to end: the commands of their READMEs, the notebook, the rebuilt leak."""

from __future__ import annotations

import itertools
import json
import re
import runpy
import shlex
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient

from scanwise.cli import main

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def small(source: Path, target: Path, n: int) -> Path:
    """The first images of each split of a real .npz (for the leak: every class in every fold)."""
    whole, arrays = np.load(source), {}
    for part, count in (("train", n), ("val", n // 3), ("test", n // 3)):
        for kind in ("images", "labels"):
            arrays[f"{part}_{kind}"] = whole[f"{part}_{kind}"][:count]
    np.savez(target, **arrays)
    return target


def commands(readme: Path) -> list[list[str]]:
    """The words of each `scanwise` command in a README."""
    text = "\n".join(re.findall(r"```bash\n(.*?)```", readme.read_text(encoding="utf-8"), re.S))
    lines = text.replace("\\\n", " ").splitlines()
    return [shlex.split(line)[1:] for line in lines if line.startswith("scanwise ")]


def run(words: list[str]) -> None:
    """One command, smaller: one epoch, one seed, two folds, one process.

    Parts of a public set have no official split any more, so their known copies must be accepted.
    """
    swap = {"--epochs": "1", "--seeds": "1", "--cv": "2"}
    for place, word in enumerate(words[:-1]):
        words[place + 1] = swap.get(word, words[place + 1])
    words = [str(EXAMPLES.parent / w) if w.startswith("examples/") else w for w in words]
    if words[0] != "summary":
        words += ["--jobs", "1", "--epochs", "1", "--accept-leak"]
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code in (0, None), words


def test_the_mlp_study_trains_five_networks_and_tells_what_differs(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = small(shared / "data/partial/pathmnist_train1000.npz", tmp_path / "DATA.npz", 300)
    (words,) = commands(EXAMPLES / "pathmnist_mlp_study" / "README.md")
    run([str(data) if word == "DATA.npz" else word for word in words])
    found = json.loads((tmp_path / "runs/pathmnist_mlp_study/comparison.json").read_text())
    rows = {row["name"]: row for row in found["tables"][0]["rows"] if row.get("model")}
    assert rows["output_activation=sigmoid"]["output_activation"] == "sigmoid"
    assert rows["base"]["output_activation"] == "auto"
    assert rows["lr=1e-4"]["lr"] == 1e-4
    assert rows["optimizer=sgd"]["optimizer"] == "sgd"
    wide = rows["model=mlp:1024,512,512,256,128"]
    layers = [28 * 28 * 3, 1024, 512, 512, 256, 128, 9]
    by_hand = sum(a * b + b for a, b in itertools.pairwise(layers))
    assert wide["parameters"] == by_hand
    assert not any("confounded" in row["label"] for row in rows.values())


def test_the_notebook_runs_from_top_to_bottom(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = EXAMPLES / "pathmnist_mlp_study"
    data = small(shared / "data/partial/pathmnist_train1000.npz", tmp_path / "data.npz", 300)
    for name, value in {
        "STUDY_DATA": data, "STUDY_EPOCHS": 1, "STUDY_SEEDS": 1, "STUDY_OUTPUT": tmp_path / "study",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, str(value))
    notebook = nbformat.read(folder / "study.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)  # committed without outputs
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}}).execute()
    printed = "".join(
        output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", ())
    )
    assert "page: " in printed
    assert "output_activation=sigmoid" in printed
    assert not list(folder.glob("runs"))


def test_the_fold_commands_run_in_the_right_order_of_steps(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = small(shared / "data/medmnist/pneumoniamnist.npz", tmp_path / "DATA.npz", 120)
    for words in commands(EXAMPLES / "oct_cnn_kfold" / "README.md"):
        run([str(data) if word == "DATA.npz" else word for word in words])
    steps = json.loads((tmp_path / "runs/oct_cnn_steps/comparison.json").read_text())
    names = [row["name"] for row in steps["tables"][0]["rows"] if row.get("model")]
    assert names == ["base", "contrast=none", "balance=none", "augment=none"]
    assert (tmp_path / "runs/oct_cnn_kfold/out_of_fold/seed0/metrics.json").is_file()


def test_the_rebuilt_leak_shares_images_and_says_by_how_much_it_inflates(
    shared: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    data = small(shared / "data/medmnist/pneumoniamnist.npz", tmp_path / "data.npz", 120)
    script = EXAMPLES / "oct_cnn_kfold" / "leaky_order.py"
    words = [str(script), "--data", str(data), "--epochs", "1", "--output", str(tmp_path / "leak")]
    monkeypatch.setattr(sys, "argv", words)
    runpy.run_path(str(script), run_name="__main__")
    found = json.loads((tmp_path / "leak/leaky_order.json").read_text())
    assert found["inflation"]["n"] == 160
    assert found["untouched"]["n"] == 40
    assert found["untouched"]["num_seeds"] == 5
    assert "Inflation on the same 160 original images" in capsys.readouterr().out
    # The audit sees what was done: test folds hold copies of training images.
    facts = json.loads((tmp_path / "leak/leaky-fold1/dataset.json").read_text())
    assert "D004" in {finding["code"] for finding in facts["checks"]["findings"]}


def test_the_methodologies_end_in_one_summary(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sources = {
        "medmnist:pneumoniamnist": shared / "data/medmnist/pneumoniamnist.npz",
        "medmnist:chestmnist": shared / "data/partial/chestmnist_subset1000.npz",
    }
    files = {
        name: str(small(source, tmp_path / f"{name[9:]}.npz", 100))
        for name, source in sources.items()
    }
    left_out = {"medmnist:dermamnist", "medmnist:octmnist"}
    for words in commands(EXAMPLES / "medmnist_methodologies" / "README.md"):
        run([files.get(w, w) for w in words if w not in left_out])
    tree = tmp_path / "training_results"
    text = (tree / "TRAINING_SUMMARY.md").read_text(encoding="utf-8")
    assert "## Key Findings" in text
    assert (tree / "model_comparison.png").is_file()
    assert {path.name for path in tree.iterdir() if path.is_dir()} >= {
        "pneumoniamnist",
        "chestmnist",
    }

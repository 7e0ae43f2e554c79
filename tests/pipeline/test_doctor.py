"""`scanwise doctor`: a sound installation passes; the first broken part is named with its fix."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from tests.conftest import run_main

from scanwise.core import packages
from scanwise.pipeline import doctor

STEPS = [
    "packages", "devices", "memory", "cache folder", "current folder", "train", "predict", "export",
]  # fmt: skip


def test_this_installation_is_sound(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert run_main(["doctor", "--json"]) == 0
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert said.err == ""
    assert found["ok"]
    assert [(step["step"], step["ok"]) for step in found["steps"]] == [(s, True) for s in STEPS]
    assert found["offline"] is True
    assert found["cache"] == os.environ["SCANWISE_CACHE"]
    assert found["packages"]["torch"]
    assert found["machine"]["cores"] >= 1
    assert list(tmp_path.iterdir()) == []  # nothing is left behind


def test_the_first_failing_step_is_named_with_its_remedy(monkeypatch, capsys) -> None:
    def broken(folder: Path):
        raise RuntimeError("libgomp is missing\nand more")

    monkeypatch.setattr(doctor, "_train", broken)
    monkeypatch.setenv("SCANWISE_CACHE", "/proc/none")
    assert run_main(["doctor"]) == 1
    said = capsys.readouterr()
    assert "cache folder failed" in said.err
    assert "set SCANWISE_CACHE" in said.err
    assert "RuntimeError: libgomp is missing" in said.out
    assert said.out.count("FAILED") == 4  # predict and export need the training
    assert said.out.count(doctor.NOT_RUN) == 2


def test_wrong_answers_are_found(disc_run, tmp_path: Path, monkeypatch) -> None:
    step, answers = doctor._try("predict", lambda: doctor._predict(disc_run, tmp_path))
    assert step.ok
    monkeypatch.setattr("scanwise.pipeline.export_check.TOLERANCE", -1.0)
    step, _ = doctor._try("export", lambda: doctor._export(disc_run, answers, tmp_path))
    assert not step.ok
    assert "a probability differs" in step.detail
    assert "pip install -U" in step.fix


def test_missing_and_old_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    stated = [
        "numpy>=999",
        "no-such-package>=1.2",
        'other-package>=3; extra == "serve"',
        'scanwise[serve]; extra == "app"',
        'torch>=2.6; extra == "app"',
    ]
    monkeypatch.setattr(packages.importlib.metadata, "requires", lambda name: stated)
    missing = packages.missing_packages()
    assert [words.partition(" ")[0] for words in missing] == ["numpy", "no-such-package"]
    assert "is older than 999" in next(iter(missing))
    assert packages.pip_line(missing) == "pip install 'numpy>=999' 'no-such-package>=1.2'"
    assert list(packages.missing_packages("app").values()) == ["other-package>=3"]
    step, _ = doctor._try("packages", doctor._packages)
    assert not step.ok
    assert step.fix.startswith("pip install 'numpy>=999'")

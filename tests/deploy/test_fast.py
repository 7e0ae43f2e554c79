"""ONNX Runtime in torch's place: the same answers, compared once for a network on a machine."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from scanwise.core.errors import ModelError
from scanwise.deploy import fast
from scanwise.deploy.bundle import Bundle, Prepared
from scanwise.deploy.ensemble import EnsembleBundle, Member
from scanwise.deploy.onnx_export import onnx_bytes
from scanwise.deploy.opening import open_model
from scanwise.pipeline.predict import Job, predict

MANY = 1000


@pytest.fixture(autouse=True)
def _own_cache_and_no_clock(tmp_path: Path, monkeypatch) -> None:
    """Every job is worth a comparison, and both engines take equally long."""
    monkeypatch.setenv("SCANWISE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fast, "WORTH_S", 0.0)
    real = fast._timed
    monkeypatch.setattr(fast, "_timed", lambda *parts: (1.0, real(*parts)[1]))


@pytest.fixture
def prepared(disc_run, discs: Path) -> list[Prepared]:
    bundle = open_model(disc_run.path, lazily=True)
    with np.load(discs) as arrays:
        return [bundle.prepare(image) for image in arrays["test_images"]]


def opened(path: Path) -> Bundle:
    return open_model(path, lazily=True)


def answers(bundle: Bundle, prepared: list[Prepared]):
    return bundle.predict_prepared([""] * len(prepared), prepared)


def verdict_file() -> Path:
    (path,) = Path(os.environ["SCANWISE_CACHE"], "onnx").glob("*.json")
    return path


def test_onnx_runtime_gives_torchs_answers_or_is_not_used(disc_run, prepared, monkeypatch) -> None:
    bundle = open_model(disc_run.path)
    plain = answers(bundle, prepared)
    assert fast.choose_engine(bundle, prepared, 10).reason == "few images"
    monkeypatch.setattr(fast, "WORTH_S", 1e9)
    assert "does not pay" in fast.choose_engine(bundle, prepared, MANY).reason
    assert bundle.runner is None
    monkeypatch.setattr(fast, "WORTH_S", 0.0)
    assert fast.choose_engine(bundle, prepared, MANY).engine == "onnxruntime"
    quick = answers(bundle, prepared)
    assert fast.difference(plain, quick) == ""
    np.testing.assert_allclose(quick.unknown_scores, plain.unknown_scores, rtol=1e-4)
    fast.use_engine(bundle, "torch")
    np.testing.assert_array_equal(answers(bundle, prepared).probabilities, plain.probabilities)


def test_a_later_job_goes_by_the_verdict_and_loads_no_network(disc_run, prepared) -> None:
    first = opened(disc_run.path)
    assert fast.known_choice(first) is None
    choice = fast.choose_engine(first, prepared, MANY)
    assert choice.engine == "onnxruntime"
    later = opened(disc_run.path)
    known = fast.known_choice(later)
    assert known == fast.Choice(
        "onnxruntime", f"as measured before on this machine: {choice.reason}"
    )
    said, expected = answers(later, prepared), answers(first, prepared)
    np.testing.assert_array_equal(said.probabilities, expected.probabilities)
    np.testing.assert_array_equal(said.unknown_scores, expected.unknown_scores)
    assert not later.is_loaded
    assert fast.known_choice(opened(disc_run.path), device="cuda").reason == "on cuda"


def test_engines_that_differ_are_not_compared_again(disc_run, prepared, monkeypatch) -> None:
    good = fast._onnx_runner

    def moved(*parts):
        runner = good(*parts)

        def run(pixels):
            outputs = runner(pixels)
            return outputs._replace(logits=outputs.logits + np.float32([0.001, 0]))

        return run

    monkeypatch.setattr(fast, "_onnx_runner", moved)
    bundle = opened(disc_run.path)
    choice = fast.choose_engine(bundle, prepared, MANY)
    assert choice.engine == "torch"
    assert "probabilities differ" in choice.reason
    known = fast.known_choice(opened(disc_run.path))
    assert known is not None
    assert known.engine == "torch"
    assert known.reason.endswith(choice.reason)
    assert bundle.runner is None


def test_a_slow_moment_decides_for_one_job_only(disc_run, prepared, monkeypatch) -> None:
    timed = fast._timed
    monkeypatch.setattr(
        fast, "_timed", lambda one, some: (1.0 + (one.runner is not None), timed(one, some)[1])
    )
    bundle = opened(disc_run.path)
    assert "ONNX Runtime is slower" in fast.choose_engine(bundle, prepared, MANY).reason
    assert bundle.runner is None
    assert fast.known_choice(opened(disc_run.path)) is None


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"engine": "magic", "reason": "", "sha256": []}',
                '{"engine": "onnxruntime", "reason": "", "sha256": []}'],
)  # fmt: skip
def test_a_damaged_verdict_is_as_none(disc_run, prepared, content: str) -> None:
    fast.choose_engine(opened(disc_run.path), prepared, MANY)
    whole = verdict_file().read_text()
    verdict_file().write_text(content)
    bundle = opened(disc_run.path)
    assert fast.known_choice(bundle) is None
    assert bundle.runner is None
    fast.choose_engine(bundle, prepared, MANY)
    assert verdict_file().read_text() == whole


def test_a_changed_network_in_the_cache_is_exported_anew(disc_run, prepared) -> None:
    first = opened(disc_run.path)
    fast.choose_engine(first, prepared, MANY)
    (exported,) = verdict_file().parent.glob("*.onnx")
    whole = exported.read_bytes()
    for changed in (whole[:-1], b"", whole + b"\0"):
        exported.write_bytes(changed)
        later = opened(disc_run.path)
        assert fast.known_choice(later) is None
        assert not exported.exists()
        assert fast.choose_engine(later, prepared, MANY).engine == "onnxruntime"
        np.testing.assert_array_equal(
            answers(later, prepared).probabilities, answers(first, prepared).probabilities
        )
    exported.unlink()
    assert fast.known_choice(opened(disc_run.path)) is None


@pytest.mark.parametrize("what", ["__version__", "cpu_model", "thread_count", "torch"])
def test_another_machine_or_version_compares_anew(disc_run, prepared, what, monkeypatch) -> None:
    fast.choose_engine(opened(disc_run.path), prepared, MANY)
    if what == "torch":
        monkeypatch.setattr("scanwise.training.onnx_files.package_version", lambda name: "9.9")
    else:
        monkeypatch.setattr(fast, what, "9.9" if what == "__version__" else lambda: 99)
    assert fast.known_choice(opened(disc_run.path)) is None


def test_other_weights_or_settings_compare_anew(disc_run, prepared, tmp_path: Path) -> None:
    fast.choose_engine(opened(disc_run.path), prepared, MANY)
    changed = open_model(disc_run.path)
    before = fast._weights_sha256(changed)
    with torch.no_grad():
        next(changed.model.parameters()).add_(0.5)
    assert fast._weights_sha256(changed) != before
    assert fast.known_choice(changed) is None
    saved = changed.save_pretrained(tmp_path / "changed")
    assert fast.known_choice(opened(saved)) is None
    fast.use_engine(changed, "onnxruntime")
    expected = answers(opened(saved), prepared)
    assert fast.difference(expected, answers(changed, prepared)) == ""
    again = open_model(disc_run.path)
    again.config = type(again.config)(**(vars(again.config) | {"temperature": 3.0}))
    assert fast.known_choice(opened(again.save_pretrained(tmp_path / "warmer"))) is None


def test_all_members_of_an_ensemble_are_known_or_none(disc_run, prepared, tmp_path) -> None:
    member = open_model(disc_run.path)
    other = open_model(disc_run.path)
    with torch.no_grad():
        next(other.model.parameters()).mul_(1.5)
    both = EnsembleBundle([Member(member, 0.5, "a"), Member(other, 0.5, "b")])
    path = both.save_pretrained(tmp_path / "both")
    with pytest.raises(ModelError, match="no single model"):
        _ = both.model
    twice = [(one, one) for (one,) in prepared]
    fast.choose_engine(opened(path), twice, MANY)
    later = opened(path)
    assert fast.known_choice(later) is not None
    assert not any(each.bundle.is_loaded for each in later.members)
    assert fast.difference(answers(both, twice), answers(later, twice)) == ""
    next(verdict_file().parent.glob("*.onnx")).unlink()
    assert fast.known_choice(opened(path)) is None


def test_an_exported_file_runs_as_it_is_on_any_device(disc_run, tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(onnx_bytes(open_model(disc_run.path)))
    for device in ("cpu", "cuda"):
        choice = fast.known_choice(open_model(file), device=device)
        assert choice == fast.Choice("onnxruntime", "as it was exported")


def test_predict_imports_no_torch_where_the_engine_is_known(disc_run, discs, tmp_path) -> None:
    folder, out = tmp_path / "pictures", tmp_path / "out.csv"
    folder.mkdir()
    with np.load(discs) as arrays:
        for number, image in enumerate([*arrays["test_images"], *arrays["test_images"]][:80]):
            Image.fromarray(image.squeeze()).save(folder / f"{number:02d}.png")
    job = Job(disc_run.path, (str(folder),), output=str(out), device="cpu")
    first = predict(job)
    assert first.engine.startswith("ONNX Runtime (1.0 times as fast")
    file = tmp_path / "model.onnx"
    file.write_bytes(onnx_bytes(open_model(disc_run.path)))
    code = (
        "import sys\n"
        "from scanwise.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit as ended: assert not ended.code, ended.code\n"
        "print([name for name in ('torch', 'scipy.special', 'sklearn') if name in sys.modules])"
    )
    for model in (disc_run.path, file):
        words = ["predict", str(model), str(folder), "-o", f"{out}.2", "--device", "cpu"]
        done = subprocess.run(
            [sys.executable, "-c", code, *words, "--force"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert done.stdout.endswith("[]\n")
        if model == disc_run.path:
            assert "as measured before on this machine" in done.stdout
            assert Path(f"{out}.2").read_bytes() == out.read_bytes()
    with out.open(newline="") as one, Path(f"{out}.2").open(newline="") as other:
        rows = list(zip(csv.DictReader(one), csv.DictReader(other), strict=True))
    assert len(rows) == 80
    assert all(a["pred"] == b["pred"] for a, b in rows)


def test_a_network_that_does_not_open_leaves_no_file(disc_run, tmp_path: Path) -> None:
    bundle = open_model(disc_run.path)
    Image.new("L", bundle.config.size_px).save(tmp_path / "a.png")
    bundle.config = type(bundle.config)(**(vars(bundle.config) | {"architecture": "custom:Mine"}))
    path = bundle.save_pretrained(tmp_path / "mine")
    config = json.loads((path / "config.json").read_text())
    assert config["architecture"] == "custom:Mine"
    out = tmp_path / "out.csv"
    with pytest.raises(ModelError, match="your own module"):
        predict(Job(path, (str(tmp_path / "a.png"),), output=str(out), device="cpu"))
    assert not list(tmp_path.glob("*out.csv*"))

"""The command line as its users meet it: real processes, exit codes, one clear message."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from scanwise.cli import main


def scanwise(*words: str, cwd: Path | None = None, **environ: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "scanwise", *words],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environ},
        timeout=300,
        check=False,
    )


class Done(NamedTuple):
    """What a command left behind, as a process would."""

    returncode: int
    stdout: str
    stderr: str


def in_process(capsys: pytest.CaptureFixture[str], *words: str) -> Done:
    """Run the command line in this process: the same door, without loading everything again."""
    with pytest.raises(SystemExit) as caught:
        main(list(words))
    printed = capsys.readouterr()
    return Done(int(caught.value.code or 0), printed.out, printed.err)


def assert_user_error(done: subprocess.CompletedProcess | Done, *words: str, code: int = 2) -> None:
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr


def test_help_lists_the_verbs_and_loads_nothing_heavy():
    done = subprocess.run(
        [
            sys.executable, "-X", "importtime", "-m", "scanwise", "--help",
        ],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    for verb in (
        "train",
        "check",
        "learning-curve",
        "tune",
        "init",
        "evaluate",
        "report",
        "verify-report",
        "summary",
        "benchmark",
    ):
        assert verb in done.stdout
    assert "not a medical device" in " ".join(done.stdout.split())
    loaded = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}
    assert not loaded & {"torch", "numpy", "scipy", "sklearn", "matplotlib", "cv2"}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["train", "--epochs", "3"], ["name the data", "demo:cells"]),
        (["train", "x.npz", "--epocs", "3"], ["--epochs"]),
        (["train", "x.npz", "--preset", "meduim"], ["meduim", "Did you mean 'medium'?"]),
        (["train", "x.npz", "--output", f"{__file__}/run"], ["--output", "is a file"]),
        (["train", "x.npz", "--optimizer", "adm"], ["optimizer", "adm", "adam"]),
        (["train", "x.npz", "--epochs", "0"], ["epochs", "0"]),
        (["train", "x.npz", "--epochs", "many"], ["epochs", "many"]),
        (["train", "x.npz", "--time-limit", "10"], ["time_limit", "10m"]),
        (["train", "x.npz", "--monitor", "test_accuracy"], ["test split"]),
        (["train", "x.npz", "--val-fraction", "0.6", "--test-fraction", "0.4"], ["val_fraction"]),
        (["train", "x.npz", "--model", "resnet19"], ["resnet19", "resnet18"]),
        (["train", "x.npz"], ["x.npz"]),
        (["train", "demo:cels"], ["cels", "cells"]),
        (["train", "medmnist:dermamist"], ["dermamist", "dermamnist"]),
        (["train", "medmnist:dermamnist"], ["https://", "MD5"]),
        (["train", "--resume", "nowhere"], ["nowhere"]),
        (["train", "x.npz", "--resume", "nowhere"], ["--resume"]),
        (["train", "x.npz", "--config", "absent.yaml"], ["absent.yaml"]),
        (["train", "demo:cells?n=200", "--device", "cuda"], ["cuda", "cpu"]),
        (["train", "demo:cells?n=200", "--warmup", "9", "--epochs", "5"], ["warmup", "epochs"]),
        (["train", "demo:cells?n=200", "--augment", "wild"], ["wild", "gentle"]),
        (["train", "demo:cells?n=200", "--contrast", "clahee"], ["clahee", "clahe"]),
        (["train", "demo:cells?n=200", "--class-weights", "none=2,x=1"], ["none"]),
        (["train", "demo:cells?n=200&nose=1"], ["nose", "noise"]),
        (["check", "nowhere"], ["nowhere"]),
        (["report", "nowhere"], ["nowhere"]),
        (["evaluate", "nowhere"], ["nowhere"]),
        (["verify-report", "nowhere"], ["nowhere"]),
    ],
)
def test_a_mistake_is_one_message_and_leaves_nothing(
    words, expected, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    done = in_process(capsys, *words)
    assert_user_error(done, *expected)
    assert list(tmp_path.iterdir()) == []


def test_settings_come_from_flag_then_environment_then_yaml(discs, tmp_path):
    (tmp_path / "settings.yaml").write_text("epochs: 3\nbatch_size: 64\nmodel: mlp:8\nseed: 4\n")
    done = scanwise(
        "train", str(discs), "--config", "settings.yaml", "--epochs", "1", "--output", "run",
        cwd=tmp_path, SCANWISE_BATCH_SIZE="32", SCANWISE_EPOCHS="2",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    import yaml

    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["epochs"] == 1  # flag
    assert config["batch_size"] == 32  # environment
    assert config["seed"] == 4  # YAML
    assert config["lr"] == pytest.approx(1e-3)  # preset


def test_an_unknown_yaml_key_is_named_with_the_nearest(discs, tmp_path):
    (tmp_path / "settings.yaml").write_text("batchsize: 64\n")
    done = scanwise("train", str(discs), "--config", "settings.yaml", cwd=tmp_path)
    assert_user_error(done, "batchsize", "batch_size")


def test_train_prints_results_and_json_is_parseable(discs, tmp_path):
    plain = scanwise("train", str(discs), "--model", "mlp:8", "--epochs", "1", cwd=tmp_path)
    assert plain.returncode == 0, plain.stderr
    assert "accuracy" in plain.stdout
    assert "report.html" in plain.stdout
    assert "\x1b" not in plain.stdout + plain.stderr
    assert "Epoch 1/1" in plain.stderr
    machine = scanwise(
        "train", str(discs), "--model", "mlp:8", "--epochs", "1", "--json", cwd=tmp_path
    )
    answer = json.loads(machine.stdout)
    assert (tmp_path / answer["report"]).is_file()
    assert answer["metrics"]["schema"] == 1


def test_verify_report_says_what_was_edited(copied_run):
    fine = scanwise("verify-report", str(copied_run.path))
    assert fine.returncode == 0
    assert "numbers follow" in fine.stdout
    metrics = copied_run.metrics
    metrics["splits"]["val"]["mcc"]["value"] = 0.99
    copied_run.write("metrics.json", metrics)
    edited = scanwise("verify-report", str(copied_run.path))
    assert edited.returncode == 3
    assert "splits.val.mcc.value" in edited.stdout


def test_report_can_be_rebuilt(copied_run):
    (copied_run.path / "report.html").unlink()
    done = scanwise("report", str(copied_run.path))
    assert done.returncode == 0, done.stderr
    assert (copied_run.path / "report.html").is_file()


def test_check_writes_its_page_and_exits_3_on_a_leak(discs, tmp_path):
    import numpy as np

    done = scanwise("check", str(discs), "--output", str(tmp_path / "fine"))
    assert done.returncode == 0, done.stderr
    for name in ("check.html", "dataset.json", "splits.csv", "class_distribution.png",
                 "samples.png", "intensity.png", "intensity_per_class.png",
                 "mean_per_class.png"):  # fmt: skip
        assert (tmp_path / "fine" / name).is_file(), name
    arrays = dict(np.load(discs))
    arrays["test_images"][:12] = arrays["train_images"][:12]
    np.savez(tmp_path / "leaky.npz", **arrays)
    leaky = scanwise("check", str(tmp_path / "leaky.npz"), cwd=tmp_path)
    assert_user_error(leaky, "test", code=3)


def test_the_demo_folder_goes_all_the_way(tmp_path):
    done = scanwise("init", "--demo", "cells", "--data", "demo:cells?n=160&size=32", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    trained = scanwise(
        "train", "cells", "--group-regex", r"(slide\d+)", "--model", "mlp:8", "--epochs", "1",
        "--output", "run", cwd=tmp_path,
    )  # fmt: skip
    assert trained.returncode == 0, trained.stderr
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["metrics"]["splits"]["test"]["bootstrap"]["unit"] == "group"
    page = (tmp_path / "run" / "report.md").read_text()
    assert "bootstrap resamples by group" in page
    assert "Wilson" not in page  # not where whole groups are drawn
    again = scanwise("init", "--demo", "cells", cwd=tmp_path)
    assert_user_error(again, "cells", "--force")


def test_a_runs_folder_that_can_not_be_made_is_one_message(discs, tmp_path, monkeypatch, capsys):
    (tmp_path / "runs").touch()
    monkeypatch.chdir(tmp_path)
    done = in_process(capsys, "train", str(discs), "--model", "mlp:4", "--epochs", "1")
    assert_user_error(done, "runs is a file", "--output")


def test_a_sigmoid_for_exclusive_classes_is_allowed_and_told(discs, tmp_path):
    done = scanwise(
        "train", str(discs), "--model", "mlp:4", "--epochs", "1", "--output", "run",
        "--output-activation", "sigmoid", "--batch-size", "100", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "L101" in done.stderr
    assert "58.02" in done.stderr
    assert "1 epoch done" in done.stderr
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert "L101" in {finding["code"] for finding in report["findings"]}
    assert "58.02" in (tmp_path / "run" / "report.html").read_text()


def test_debug_keeps_the_traceback(tmp_path):
    done = scanwise("--debug", "check", "nowhere", cwd=tmp_path)
    assert "Traceback" in done.stderr


def test_a_training_without_report_ends_with_its_verdict(tmp_path, capsys):
    output = tmp_path / "run"
    words = "train demo:cells?n=200&slides=20&size=16 --model mlp:8 --epochs 1 --no-report --output"
    with pytest.raises(SystemExit) as ended:
        main([*words.split(), str(output)])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert f"scanwise report {output} makes it" in text
    assert "balanced accuracy" in text
    assert not (output / "report.html").exists()
    assert not (output / "plots").exists()
    assert not (output / "errors").exists()


def test_a_narrow_network_trains_with_two_threads(tmp_path):
    # In channels-last order torch's backward pass kills the process; so it runs in one of its own.
    data = "demo:cells?n=400&slides=40&size=24"
    words = ["train", data, "--model", "small_resnet:8", "--epochs", "1", "--no-report"]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "scanwise",
            *words,
            "--threads",
            "2",
            "--output",
            str(tmp_path / "r"),
        ],
        env={key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"},
        capture_output=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-500:]

"""From a file of images to a report: what lies in the run folder, and that it is true."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from scanwise.core.config import make_config
from scanwise.core.errors import ConfigError, IntegrityError, RunError, SplitError
from scanwise.core.files import only_one
from scanwise.core.types import Dataset
from scanwise.data.load import from_arrays, load
from scanwise.data.splits import make_split
from scanwise.pipeline import train as main_path
from scanwise.pipeline.fitting import fit_model
from scanwise.pipeline.plan import DataFacts, make_plan
from scanwise.pipeline.prepared import prepare
from scanwise.pipeline.verify import verify_run

CONTRACT_FILES = (
    "config.yaml", "plan.yaml", "env.json", "log.txt", "splits.csv", "history.csv", "metrics.json",
    "predictions.csv", "test_ledger.csv", "report.html", "report.md", "report.json",
    "bundle/model.safetensors", "bundle/config.json", "bundle/preprocess.json",
    "bundle/metrics.json", "bundle/MODEL_CARD.md", "bundle/SHA256SUMS", "errors/index.html",
)  # fmt: skip

HEADLINES = (
    "accuracy", "balanced_accuracy", "precision_macro", "recall_macro", "f1_macro",
    "precision_weighted", "recall_weighted", "f1_weighted", "specificity_macro", "mcc", "kappa",
    "auroc_macro", "auprc_macro", "ece", "brier",
)  # fmt: skip


def test_training_learns_to_see_the_disc(disc_run):
    test = disc_run.metrics["splits"]["test"]
    assert test["n"] == 80
    assert test["accuracy"]["value"] > 0.85
    low, high = test["accuracy"]["ci95"]
    assert low < test["accuracy"]["value"] <= high
    assert test["skill"] == "ok"


def test_the_run_folder_keeps_its_contract(disc_run):
    missing = [name for name in CONTRACT_FILES if not (disc_run.path / name).is_file()]
    assert missing == []
    assert list((disc_run.path / "plots").glob("*.png"))
    assert list((disc_run.path / "plots").glob("*.svg"))
    assert list((disc_run.path / "checkpoints").iterdir())


def test_env_json_says_where_the_numbers_come_from(disc_run):
    env = disc_run.read_json("env.json", "")
    assert {"packages", "python", "cpu", "memory_gib", "device", "git", "command"} <= set(env)
    assert env["data_sha256"] == disc_run.dataset["content_sha256"]
    assert env["split_sha256"] == disc_run.metrics["split_sha256"]
    assert 0 < env["seconds"]["training"] <= env["seconds"]["in_all"]


def test_metrics_json_keeps_its_contract(disc_run):
    metrics = disc_run.metrics
    assert metrics["schema"] == 1
    assert set(metrics["splits"]) == {"val", "test"}
    for part in metrics["splits"].values():
        for key in HEADLINES:
            assert part[key]["value"] is None or len(part[key]["ci95"]) == 2, key
        assert {"medmnist_auc", "medmnist_acc", "per_class", "confusion_matrix"} <= set(part)
        assert {"majority", "prior"} <= set(part["trivial"])


def test_history_has_the_columns_and_one_row_an_epoch(disc_run):
    with (disc_run.path / "history.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    columns = "epoch,loss,accuracy,val_loss,val_accuracy,lr,seconds,ms_per_step,images_per_s"
    assert list(rows[0])[:9] == columns.split(",")
    assert [int(row["epoch"]) for row in rows] == list(range(1, 9))


def test_predictions_are_rows_of_val_and_test_in_input_order(disc_run):
    with (disc_run.path / "predictions.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["split"] for row in rows] == ["val"] * 80 + ["test"] * 80
    with (disc_run.path / "splits.csv").open() as stream:
        split_of = {row["path"]: row["split"] for row in csv.DictReader(stream)}
    assert all(split_of[row["sample"]] == row["split"] for row in rows)


def test_every_number_can_be_recomputed(disc_run):
    result = verify_run(disc_run.path)
    assert result.checked > 100
    assert result.mismatches == ()


def test_an_edited_metric_is_named(copied_run):
    metrics = copied_run.metrics
    metrics["splits"]["test"]["f1_macro"]["value"] += 0.01
    copied_run.write("metrics.json", metrics)
    named = [bad.where for bad in verify_run(copied_run.path).mismatches]
    assert "splits.test.f1_macro.value" in named


def test_an_edited_report_is_named(copied_run):
    report = json.loads((copied_run.path / "report.json").read_text())
    report["metrics"]["splits"]["test"]["accuracy"]["value"] = 0.999
    copied_run.write("report.json", report)
    named = [bad.where for bad in verify_run(copied_run.path).mismatches]
    assert named == ["report.json.metrics.splits.test.accuracy.value"]


def test_an_edited_prediction_is_named(copied_run):
    file = copied_run.path / "predictions.csv"
    lines = file.read_text().splitlines(keepends=True)
    cells = lines[1].rstrip("\n").split(",")
    cells[-2:] = cells[-1], cells[-2]  # the probabilities of the two classes, swapped
    file.write_text("".join([lines[0], ",".join(cells) + "\n", *lines[2:]]))
    assert verify_run(copied_run.path).mismatches


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("verdict", "sentence"), "On 80 test images accuracy is 0.999."),
        (("split_sha256",), "00"),
        (("test_looks",), 0),
        (("training", "best_epoch"), 99),
        (("findings", 0, "evidence"), "all is well"),
    ],
)
def test_edited_words_of_the_report_are_named(copied_run, keys, value):
    report = copied_run.read_json("report.json", "")
    place = report
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    copied_run.write("report.json", report)
    (bad,) = verify_run(copied_run.path).mismatches
    assert bad.where == ".".join(map(str, ("report.json", *keys)))
    assert bad.stated == value


@pytest.mark.parametrize("name", ["report.html", "report.md", "metrics.md"])
def test_an_edited_page_is_named(copied_run, name):
    page = copied_run.path / name
    page.write_text(page.read_text().replace("0.", "0.9", 1))
    (bad,) = verify_run(copied_run.path).mismatches
    assert bad.where == name


def test_broken_files_of_a_run_are_named(copied_run):
    from scanwise.core.errors import ConfigError, IntegrityError, RunError

    table = copied_run.path / "predictions.csv"
    lines = table.read_text().splitlines()
    cells = lines[5].split(",")
    lines[5] = ",".join([*cells[:-1], str(float(cells[-1]) + 0.1)])
    table.write_text("\n".join(lines) + "\n")
    with pytest.raises(IntegrityError, match=r"predictions\.csv.*sum to 1"):
        verify_run(copied_run.path)
    (copied_run.path / "metrics.json").write_text("{")
    with pytest.raises(RunError, match=r"metrics\.json"):
        verify_run(copied_run.path)
    (copied_run.path / "config.yaml").write_text("a: [")
    with pytest.raises(ConfigError, match=r"config\.yaml"):
        _ = copied_run.config


def test_the_plan_gives_a_reason_for_every_choice(disc_run):
    plan = yaml.safe_load((disc_run.path / "plan.yaml").read_text())
    assert {"model", "lr", "augment", "epochs"} <= {choice["setting"] for choice in plan}
    assert all(choice["reason"] for choice in plan)
    chosen = {choice["setting"]: choice for choice in plan}
    assert chosen["epochs"]["source"] == "you"
    assert chosen["lr"]["source"].startswith("preset")


def test_the_same_seed_gives_the_same_bundle_and_numbers(discs, tmp_path):
    import scanwise as sw

    runs = [
        sw.train(discs, model="mlp:16", epochs=2, seed=5, output=str(tmp_path / name))
        for name in ("a", "b")
    ]
    first, second = ((run.bundle / "model.safetensors").read_bytes() for run in runs)
    assert first == second
    assert (runs[0].path / "predictions.csv").read_bytes() == (
        runs[1].path / "predictions.csv"
    ).read_bytes()
    third = sw.train(discs, model="mlp:16", epochs=2, seed=6, output=str(tmp_path / "c"))
    assert (third.bundle / "model.safetensors").read_bytes() != first


def test_test_is_looked_at_once_and_every_look_is_in_the_ledger(copied_run):
    from scanwise.pipeline.train import reevaluate

    assert len(copied_run.test_looks()) == 1
    before = copied_run.metrics["splits"]
    reevaluate(copied_run.path)
    looks = copied_run.test_looks()
    assert len(looks) == 2
    assert looks[0]["config_sha256"] == looks[1]["config_sha256"]
    assert copied_run.metrics["splits"] == before
    assert "2 times" in (copied_run.path / "report.md").read_text()


def test_no_test_leaves_the_test_split_closed(discs, tmp_path):
    import scanwise as sw

    run = sw.train(discs, model="mlp:8", epochs=1, no_test=True, output=str(tmp_path / "run"))
    assert set(run.metrics["splits"]) == {"val"}
    assert run.test_looks() == []
    assert ",test," not in (run.path / "predictions.csv").read_text()


def test_selecting_by_a_test_metric_cannot_be_said():
    with pytest.raises(ConfigError, match="test split"):
        make_config({"monitor": "test_accuracy"})


def test_an_existing_output_is_never_overwritten(disc_run, discs):
    import scanwise as sw

    before = (disc_run.path / "metrics.json").read_bytes()
    with pytest.raises(RunError, match="--force"):
        sw.train(discs, model="mlp:8", epochs=1, output=str(disc_run.path))
    assert (disc_run.path / "metrics.json").read_bytes() == before


def test_force_replaces_a_run_but_nothing_else(discs, tmp_path):
    import scanwise as sw

    precious = tmp_path / "thesis"
    precious.mkdir()
    (precious / "chapter.txt").write_text("years of work")
    with pytest.raises(RunError, match="not a scanwise run"):
        sw.train(discs, model="mlp:8", epochs=1, output=str(precious), force=True)
    assert (precious / "chapter.txt").read_text() == "years of work"


def test_a_leak_between_own_splits_stops_before_anything_is_written(discs, tmp_path):
    import scanwise as sw

    arrays = dict(np.load(discs))
    arrays["test_images"][:12] = arrays["train_images"][:12]
    arrays["test_labels"][:12] = arrays["train_labels"][:12]
    leaky = tmp_path / "leaky.npz"
    np.savez(leaky, **arrays)
    output = tmp_path / "run"
    with pytest.raises(IntegrityError) as caught:
        sw.train(leaky, model="mlp:8", epochs=1, output=str(output))
    assert caught.value.exit_code == 3
    assert not output.exists()
    run = sw.train(leaky, model="mlp:8", epochs=1, output=str(output), accept_leak=True)
    assert run.metrics["leaky"] is True
    assert run.metrics["clean_splits"]["test"]["n"] == 68
    assert "leaky" in (run.path / "report.md").read_text().lower()


def test_nothing_fitted_on_train_depends_on_val_or_test():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 200, (120, 12, 12, 1), dtype=np.uint8)
    targets = np.arange(120) % 3
    given = np.array(["train"] * 80 + ["val"] * 20 + ["test"] * 20)

    def fitted(pixels):
        from dataclasses import replace

        import torch

        data = replace(from_arrays(pixels, targets), given_split=given, split_origin="user")
        split = make_split(data)
        config = make_config({"class_weights": "balanced", "balance": "smote", "contrast": "clahe"})
        config, _, _ = make_plan(config, DataFacts(120, 80, 26, False))
        prepared = prepare(data, split, config, torch.device("cpu"))
        first = next(iter(prepared.train.iterate(0)))
        return prepared.preprocessing, prepared.class_weights, first[0]

    poisoned = images.copy()
    poisoned[80:] = rng.integers(0, 2, poisoned[80:].shape, dtype=np.uint8) * 255
    clean, poison = fitted(images), fitted(poisoned)
    assert clean[0] == poison[0]
    np.testing.assert_array_equal(clean[1], poison[1])
    assert bool((clean[2] == poison[2]).all())


def test_training_never_reads_a_test_row(discs):
    """Weights are the same bits when every test image is replaced by white."""
    data = load(discs)
    split = make_split(data)
    config = make_config({"model": "mlp:8", "epochs": 1})
    config, _, _ = make_plan(config, DataFacts(400, 240, 120, False))
    import torch

    guarded = data.images.copy()
    guarded[split.test] = 255
    plain = fit_weights(config, data, split)
    poisoned = fit_weights(config, with_images(data, guarded), split)
    assert all(torch.equal(plain[key], poisoned[key]) for key in plain)


def with_images(data: Dataset, images) -> Dataset:
    from dataclasses import replace

    return replace(data, images=images)


def fit_weights(config, data, split):
    import torch

    trained = fit_model(config, data, split, model=None, device=torch.device("cpu"))
    return trained.model.state_dict()


def test_an_interrupted_run_resumes_to_the_same_numbers(discs, tmp_path, monkeypatch):
    import scanwise as sw
    from scanwise.pipeline import train as main_path

    settings = {"model": "mlp:16", "epochs": 4, "seed": 2}
    whole = sw.train(discs, output=str(tmp_path / "whole"), **settings)

    class Stop(Exception):
        pass

    def stop(*_args, **_kwargs):
        raise Stop

    # As if the machine had gone down after training, before the evaluation.
    with monkeypatch.context() as patch:
        patch.setattr(main_path, "make_bundle", stop)
        with pytest.raises(Stop):
            sw.train(discs, output=str(tmp_path / "cut"), **settings)
    with (  # a process that trains it
        only_one(tmp_path / "cut/.lock", "another"),
        pytest.raises(RunError, match="is being trained by another process"),
    ):
        main_path.resume(tmp_path / "cut")
    cut = main_path.resume(tmp_path / "cut")
    assert not (cut.path / ".lock").exists()
    assert (cut.bundle / "model.safetensors").read_bytes() == (
        whole.bundle / "model.safetensors"
    ).read_bytes()
    assert cut.metrics["splits"] == whole.metrics["splits"]
    assert len(cut.test_looks()) == 1
    main_path.resume(tmp_path / "cut")  # it is finished by now
    assert len(cut.test_looks()) == 1


def test_the_command_is_written_as_it_is_typed(monkeypatch):
    from scanwise.pipeline.runs import command_line

    for program in ("/usr/bin/scanwise", "/site-packages/scanwise/__main__.py"):
        monkeypatch.setattr("sys.argv", [program, "train", "my data"])
        assert command_line() == "scanwise train 'my data'"


def test_a_run_that_was_cut_says_how_to_finish_it(disc_run, tmp_path):
    import shutil

    from scanwise.core.errors import RunError
    from scanwise.pipeline.train import reevaluate

    folder = tmp_path / "run"
    shutil.copytree(disc_run.path, folder)
    shutil.rmtree(folder / "bundle")
    with pytest.raises(RunError, match="train --resume"):
        reevaluate(folder)


def test_the_plan_counts_steps_as_the_training_does(disc_run):
    (told,) = [row for row in yaml.safe_load((disc_run.path / "plan.yaml").read_text())
               if row["setting"] == "batch_size"]  # fmt: skip
    assert told["value"] == 32
    history = (disc_run.path / "log.txt").read_text()
    assert "8/8 - " in history  # 240 / 32, rounded up

    from scanwise.core.config import make_config
    from scanwise.pipeline.plan import DataFacts, make_plan

    facts = DataFacts(n_images=120, n_train=83, smallest_class=8, from_files=False)
    _, decisions, _ = make_plan(make_config({}), facts)
    reason = {decision.setting: decision.reason for decision in decisions}["batch_size"]
    assert reason == "83 training images: 3 steps an epoch"


def test_resume_refuses_changed_data(disc_run, discs, tmp_path):
    import shutil

    from scanwise.core.errors import ScanwiseError
    from scanwise.pipeline.train import resume

    folder = tmp_path / "run"
    shutil.copytree(disc_run.path, folder)
    arrays = dict(np.load(discs))
    arrays["train_images"][0, 0, 0] ^= 255
    changed = tmp_path / "discs.npz"
    np.savez(changed, **arrays)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    (folder / "config.yaml").write_text(yaml.safe_dump(config | {"data": str(changed)}))
    with pytest.raises(ScanwiseError, match="changed"):
        resume(folder)


def test_reused_splits_are_the_same(disc_run, discs, tmp_path):
    import scanwise as sw

    run = sw.train(
        discs,
        model="mlp:8",
        epochs=1,
        splits=str(disc_run.path / "splits.csv"),
        output=str(tmp_path / "run"),
    )
    assert run.metrics["split_sha256"] == disc_run.metrics["split_sha256"]


def test_an_own_module_needs_no_registration(discs, tmp_path):
    import torch
    from torch import nn

    import scanwise as sw

    class Mine(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Flatten(), nn.Linear(256, 16), nn.ReLU(), nn.Linear(16, 2))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.body(images)

    run = sw.train(discs, model=Mine(), epochs=1, output=str(tmp_path / "run"))
    images = np.load(discs)["test_images"]
    bundle = sw.Bundle.from_pretrained(run.bundle, model=Mine())
    assert bundle.predict(images).probabilities.shape == (80, 2)
    with pytest.raises(ValueError, match="your own module"):
        sw.Bundle.from_pretrained(run.bundle)
    (run.path / "report.json").unlink()  # as if it had been interrupted
    with pytest.raises(RunError, match=r"a network of your own \(Mine\).*train anew"):
        main_path.resume(run.path)


def test_nested_run_numbers_count_up(discs, tmp_path, monkeypatch):
    import scanwise as sw

    monkeypatch.chdir(tmp_path)
    names = [sw.train(discs, model="mlp:8", epochs=1).path.name for _ in range(2)]
    assert names == ["discs-mlp-8-001", "discs-mlp-8-002"]
    assert Path("runs").is_dir()


def grouped_discs(folder: Path) -> Path:
    """Discs in class folders, four pictures a patient."""
    from PIL import Image
    from tests.conftest import disc_images

    images, targets = disc_images(80, np.random.default_rng(5))
    for row, (image, target) in enumerate(zip(images, targets, strict=True)):
        path = folder / ("disc" if target else "none") / f"p{row // 4:02}_{row}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return folder


def test_a_reused_split_keeps_its_groups(tmp_path):
    import scanwise as sw
    from scanwise.pipeline.train import reevaluate

    data = grouped_discs(tmp_path / "data")
    small = {"model": "mlp:8", "epochs": 1}
    first = sw.train(data, group_regex=r"(p\d+)_", output=str(tmp_path / "first"), **small)
    file = first.path / "splits.csv"
    again = sw.train(data, splits=str(file), output=str(tmp_path / "again"), **small)
    assert again.metrics["split_sha256"] == first.metrics["split_sha256"]
    for run in (again, reevaluate(again.path)):
        assert run.metrics["splits"]["test"]["bootstrap"]["unit"] == "group"
        assert run.dataset["groups"]["shared"] == 0
    lines = file.read_text().splitlines()
    place = next(i for i, line in enumerate(lines) if ",test," in line)
    lines[place] = lines[place].replace(",test,", ",train,")
    file.write_text("\n".join(lines) + "\n")
    with pytest.raises(IntegrityError, match="groups in more than one split: 1 of 20"):
        sw.train(data, splits=str(file), output=str(tmp_path / "cut"), **small)
    assert not (tmp_path / "cut").exists()


def test_a_delivery_without_test_scores_validation_only_and_says_so(discs, tmp_path):
    import scanwise as sw
    from scanwise.pipeline.summary import run_summary
    from scanwise.pipeline.train import reevaluate

    arrays = {k: v for k, v in np.load(discs).items() if not k.startswith("test")}
    np.savez(tmp_path / "discs.npz", **arrays)
    first = sw.train(
        tmp_path / "discs.npz", model="mlp:8", epochs=1, output=str(tmp_path / "first")
    )
    again = sw.train(
        tmp_path / "discs.npz", model="mlp:8", epochs=1, output=str(tmp_path / "again"),
        splits=str(first.path / "splits.csv"),
    )  # fmt: skip
    for run in (first, again, reevaluate(first.path)):
        assert set(run.metrics["splits"]) == {"val"}
        assert run.dataset["split"]["n"] == {"train": 240, "val": 80, "test": 0}
        assert run.test_looks() == []
        assert "no test set" in run_summary(run)
        report = json.loads((run.path / "report.json").read_text())
        assert "There is no test set" in report["verdict"]["sentence"]
        assert "D011" in {finding["code"] for finding in report["findings"]}
        assert verify_run(run.path).mismatches == ()


def test_training_rows_alone_are_split_and_copies_kept_together(discs, tmp_path):
    from scanwise.pipeline.train import split_and_check

    arrays = {k: v for k, v in np.load(discs).items() if k.startswith("train")}
    arrays["train_images"][100:110] = arrays["train_images"][:10, :, ::-1]
    arrays["train_labels"][100:110] = arrays["train_labels"][:10]
    np.savez(tmp_path / "discs.npz", **arrays)
    config = make_config({"data": str(tmp_path / "discs.npz")})
    _, split, report = split_and_check(load(tmp_path / "discs.npz"), config)
    assert len(split.val) > 20
    assert len(split.test) > 20
    assert "delivered without 'val' and 'test'" in split.note
    assert "Copies are kept together: 20 images in 10 clusters" in split.note
    assert not report.leaky


def test_the_class_plot_shows_what_balancing_does(discs, tmp_path):
    import scanwise as sw

    arrays = dict(np.load(discs))
    keep = np.r_[np.flatnonzero(arrays["train_labels"][:, 0] == 0), np.arange(1, 61, 2)]
    for name in ("images", "labels"):
        arrays[f"train_{name}"] = arrays[f"train_{name}"][keep]
    np.savez(tmp_path / "rare.npz", **arrays)
    run = sw.train(
        tmp_path / "rare.npz", model="mlp:8", epochs=1, balance="smote", class_weights="0=2",
        output=str(tmp_path / "run"),
    )  # fmt: skip
    drawn = (run.path / "plots" / "class_distribution.svg").read_text()
    for words in ("as they are: 0 120, 1 30", "after balancing: 0 120, 1 120",
                  "effective: drawn × weight: 0 240, 1 120"):  # fmt: skip
        assert words in drawn
    assert (run.path / "plots" / "augmentation.png").is_file()
    findings = json.loads((run.path / "report.json").read_text())["findings"]
    double = next(finding for finding in findings if finding["code"] == "B001")
    assert double["command"].startswith(f"scanwise train {tmp_path / 'rare.npz'} ")
    assert "--balance smote" in double["command"]
    assert double["command"].endswith("--class-weights none --model mlp:8 --epochs 1")


def test_a_split_that_fails_for_unreadable_files_names_them(tmp_path):
    from scanwise.pipeline.train import find_trouble

    data = grouped_discs(tmp_path / "data")
    for path in sorted((data / "disc").iterdir())[2:]:
        path.write_bytes(b"")
    with pytest.raises(SplitError, match=r"2 image\(s\).* 38 files can't be read: disc/.*; and 33"):
        find_trouble(load(data), make_config({"data": str(data)}))


def test_the_plan_counts_the_last_smaller_batch_among_the_steps():
    _, decisions, _ = make_plan(make_config({}), DataFacts(120, 84, 8, False))
    batch = next(item for item in decisions if item.setting == "batch_size")
    assert (batch.value, batch.reason) == (32, "84 training images: 3 steps an epoch")

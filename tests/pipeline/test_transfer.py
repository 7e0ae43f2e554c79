"""From a folder to a report on a pretrained backbone: frozen, fine-tuned, resumed, shipped."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import scanwise as sw
from scanwise.core.errors import ModelError
from scanwise.core.files import cache_dir, sha256_file
from scanwise.models.backbones import open_backbone, tensors_sha256


@pytest.fixture(scope="module")
def flags(tiny_hub) -> dict[str, object]:
    """The training guide's table: a hidden layer on the last features, trained by steps."""
    model = f"hf:{tiny_hub}"
    return {"model": model, "preset": "auto", "epochs": 4, "lr": 0.01, "views": 2, "seed": 1}


@pytest.fixture(scope="module")
def tiny_run(discs, flags, tmp_path_factory):
    return sw.train(discs, **flags, output=str(tmp_path_factory.mktemp("t") / "run"))


@pytest.fixture(scope="module")
def plain_flags(tiny_hub) -> dict[str, object]:
    """What a pretrained network gets if nothing else is said, but for fewer views."""
    return {"model": f"hf:{tiny_hub}", "views": 2}


@pytest.fixture(scope="module")
def plain_run(discs, plain_flags, tmp_path_factory):
    return sw.train(discs, **plain_flags, output=str(tmp_path_factory.mktemp("p") / "run"))


def weights_sha(run) -> str:
    return sha256_file(run.path / "bundle" / "model.safetensors")


def test_a_frozen_backbone_with_a_trained_head_beats_chance(tiny_run):
    test = tiny_run.metrics["splits"]["test"]
    assert test["n"] == 80
    assert test["auroc_macro"]["value"] > 0.6


def test_the_backbone_in_the_bundle_is_the_one_that_was_loaded(tiny_run, tiny_hub):
    bundle = sw.Bundle.from_pretrained(tiny_run.path)
    source = open_backbone(f"hf:{tiny_hub}")
    assert tensors_sha256(bundle.model.backbone) == tensors_sha256(source.module)
    assert bundle.config.backbone["weights_sha256"] == source.spec.weights_sha256


@pytest.mark.parametrize("recipe", ["tiny_run", "plain_run"])
def test_the_bundle_gives_the_runs_probabilities_without_the_source(
    recipe, discs, monkeypatch, request
):
    import csv

    run = request.getfixturevalue(recipe)
    monkeypatch.setattr(
        "scanwise.models.backbones.open_backbone", lambda *a: pytest.fail("source was opened")
    )
    images = np.load(discs)["test_images"]
    found = sw.Bundle.from_pretrained(run.path).predict(images).probabilities
    with (run.path / "predictions.csv").open() as stream:
        rows = [row for row in csv.DictReader(stream) if row["split"] == "test"]
    written = np.array([[float(row["prob_0"]), float(row["prob_1"])] for row in rows])
    # Trained on ONNX Runtime's features, answered by torch.
    np.testing.assert_allclose(found, written, atol=2e-5)


@pytest.mark.parametrize("recipe", ["flags", "plain_flags"])
def test_half_a_cache_gives_the_same_model(recipe, discs, tmp_path, monkeypatch, request):
    wanted = request.getfixturevalue(recipe)
    monkeypatch.setenv("SCANWISE_CACHE", str(tmp_path / "cache"))
    first = sw.train(discs, **wanted, output=str(tmp_path / "one"))
    for shard in (cache_dir() / "features").rglob("*.npy"):
        rows = np.load(shard)
        np.save(shard, rows[: len(rows) // 2])
    second = sw.train(discs, **wanted, output=str(tmp_path / "two"))
    assert weights_sha(first) == weights_sha(second)
    log = (second.path / "log.txt").read_text()
    assert " 0 computed" not in log


def test_a_second_run_computes_no_feature(tiny_run, discs, flags, tmp_path):
    again = sw.train(discs, **flags, output=str(tmp_path / "again"))
    assert ": 0 computed" in (again.path / "log.txt").read_text()
    assert weights_sha(again) == weights_sha(tiny_run)


def test_the_log_says_which_engine_ran_and_why(tiny_run):
    log = (tiny_run.path / "log.txt").read_text()
    assert "2 views of each training image" in log
    assert "engine onnxruntime: " in log or "engine torch: " in log


def test_the_plan_follows_the_guides_table(tiny_run):
    import yaml

    plan = (tiny_run.path / "plan.yaml").read_text()
    decisions = {d["setting"]: d for d in yaml.safe_load(plan)}
    assert decisions["finetune"]["value"] == "head"
    assert decisions["head"]["value"] == "mlp:256"
    assert "auto" in decisions["dropout"]["source"]


def test_without_a_preset_it_is_logistic_regression_on_all_levels(plain_run):
    from scanwise.training.logistic import PENALTIES

    config = plain_run.config
    assert (config.head, config.levels, config.preset) == ("logistic", "all", "transfer")
    facts = json.loads((plain_run.path / "training.json").read_text())
    assert 0 < facts["stop_reason"].count(";") < len(PENALTIES)
    assert plain_run.metrics["splits"]["test"]["auroc_macro"]["value"] > 0.9
    assert set(plain_run.metrics["baselines"]) == {"histogram"}  # the other one is the head itself
    assert not (plain_run.path / "history.csv").exists()
    assert 0 < facts["fitted"]["val_loss"] < 0.7
    report = (plain_run.path / "report.md").read_text()
    assert "**Fitted:** logistic regression with penalty" in report
    assert f"{facts['fitted']['val_loss']:.4f}" in report
    for nonsense in ("1 epoch", "Train for", "T007", "not available"):
        assert nonsense not in report


def test_every_number_of_a_run_without_epochs_is_recomputed(plain_run):
    from scanwise.pipeline.verify import verify_run

    assert not verify_run(plain_run.path).mismatches


def test_the_kept_penalty_is_the_best_on_what_judges_it(plain_run):
    facts = json.loads((plain_run.path / "training.json").read_text())
    words = facts["stop_reason"]
    assert "80 validation images and 5 folds of train" in words  # fewer than 200 to judge by
    tried = words.split("(")[1].strip(")").split("; ")
    values = {float(p): float(v) for p, v in (part.split(": ") for part in tried)}
    kept = float(words.split("penalty ")[1].split(",")[0])
    assert values[kept] == min(values.values())


def test_folds_of_train_keep_groups_whole_and_leave_no_image_out():
    from scanwise.pipeline.logistic_head import _folds

    targets = np.arange(60) % 3
    groups = [f"g{i // 4}" for i in range(60)]
    folds = _folds(targets, groups, 0)
    assert sorted(np.concatenate([held for _, held in folds]).tolist()) == list(range(60))
    for fitted_on, held in folds:
        assert not {groups[i] for i in fitted_on} & {groups[i] for i in held}
    assert _folds(targets, ["one"] * 30 + ["two"] * 30, 0) == []
    labels = (np.random.default_rng(0).random((40, 3)) > 0.5).astype(np.int64)
    assert len(_folds(labels, None, 0)) == 5


@pytest.mark.parametrize("monitor", ["val_auc", "val_balanced_acc"])
def test_another_measure_picks_the_penalty_on_validation_alone(discs, tiny_hub, tmp_path, monitor):
    run = sw.train(
        discs, model=f"hf:{tiny_hub}", views=1, monitor=monitor, no_test=True,
        output=str(tmp_path / "run"),
    )  # fmt: skip
    words = json.loads((run.path / "training.json").read_text())["stop_reason"]
    assert f"tried by {monitor} on 80 validation images (" in words


def test_fine_tuning_starts_from_the_logistic_head(discs, tiny_hub, tmp_path):
    run = sw.train(
        discs, model=f"hf:{tiny_hub}", views=1, epochs=1, finetune="last:1",
        output=str(tmp_path / "run"),
    )  # fmt: skip
    (stage,) = json.loads((run.path / "training.json").read_text())["finetune"]
    fitted = json.loads((run.path / "training.json").read_text())["fitted"]
    assert stage["before"] == pytest.approx(fitted["val_loss"], abs=1e-3)
    bundle = sw.Bundle.from_pretrained(run.path)
    assert bundle.predict(np.load(discs)["test_images"]).probabilities.shape == (80, 2)


def test_class_weights_move_the_logistic_head(discs, tiny_hub, tmp_path):
    wanted = {"model": f"hf:{tiny_hub}", "views": 1, "no_test": True}
    run = sw.train(discs, **wanted, class_weights="0=9,1=1", output=str(tmp_path / "nine"))
    plain = sw.train(discs, **wanted, output=str(tmp_path / "plain"))
    shares = []
    for each in (run, plain):
        bundle = sw.Bundle.from_pretrained(each.path)
        shares.append(bundle.predict(np.load(discs)["val_images"]).probabilities[:, 0].mean())
    assert shares[0] > shares[1]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"loss": "focal"}, "--loss focal does not go with --head logistic"),
        ({"sampler": "balanced"}, "--sampler balanced"),
        ({"label_smoothing": 0.1}, "--label-smoothing 0.1"),
        ({"output_activation": "sigmoid"}, "--output-activation sigmoid"),
    ],
)
def test_what_a_logistic_regression_cannot_do_is_refused(
    discs, tiny_hub, tmp_path, settings, words
):
    with pytest.raises(Exception, match=words):
        sw.train(discs, model=f"hf:{tiny_hub}", **settings, output=str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_image_files_are_read_at_the_backbones_size(tiny_hub, tmp_path):
    import cv2

    rng = np.random.default_rng(0)
    for name, low in (("dark", 0), ("light", 120)):
        (tmp_path / "d" / name).mkdir(parents=True)
        for i in range(12):
            image = rng.integers(low, low + 100, (50, 40, 3), np.uint8)
            cv2.imwrite(str(tmp_path / "d" / name / f"{i}.png"), image)
    run = sw.train(tmp_path / "d", model=f"hf:{tiny_hub}", epochs=2, output=str(tmp_path / "run"))
    assert json.loads((run.path / "bundle" / "config.json").read_text())["size_px"] == [32, 32]
    again = sw.Bundle.from_pretrained(run.path).predict(sorted((tmp_path / "d").rglob("*.png")))
    assert np.isfinite(again.probabilities).all()


@pytest.mark.parametrize("mode", ["last:1", "full", "gradual"])
def test_fine_tuning_is_kept_only_if_validation_improves(discs, flags, tmp_path, mode, tiny_hub):
    run = sw.train(
        discs, **flags | {"epochs": 2, "views": 1}, finetune=mode, output=str(tmp_path / mode)
    )
    facts = json.loads((run.path / "training.json").read_text())
    stages = facts["finetune"]
    assert len(stages) == (1 if mode != "gradual" else len({s["blocks"] for s in stages}))
    for stage in stages:
        assert stage["kept"] == (stage["after"] < stage["before"])
        assert len(stage["log_loss_gain"]["ci95"]) == 2
    bundle = sw.Bundle.from_pretrained(run.path)
    changed = tensors_sha256(bundle.model.backbone) != bundle.config.backbone["weights_sha256"]
    assert changed == any(stage["kept"] for stage in stages)
    buffers = dict(open_backbone(f"hf:{tiny_hub}").module.named_buffers())
    for name, buffer in bundle.model.backbone.named_buffers():
        assert torch.equal(buffer, buffers[name]), name


def test_a_stage_that_worsens_validation_is_undone(discs, flags, tmp_path, monkeypatch):
    from scanwise.pipeline import finetune

    monkeypatch.setattr(finetune, "RATE", 300.0)
    run = sw.train(
        discs, **flags | {"epochs": 1, "views": 1}, finetune="full", output=str(tmp_path / "run")
    )
    (stage,) = json.loads((run.path / "training.json").read_text())["finetune"]
    assert not stage["kept"]
    bundle = sw.Bundle.from_pretrained(run.path)
    assert tensors_sha256(bundle.model.backbone) == bundle.config.backbone["weights_sha256"]


def test_an_earlier_run_is_a_backbone_too(disc_run, discs, tmp_path):
    run = sw.train(
        discs, model=f"run:{disc_run.path}", epochs=2, lr=0.01, output=str(tmp_path / "run")
    )
    spec = sw.Bundle.from_pretrained(run.path).config.backbone
    assert spec["kind"] == "scanwise"
    assert spec["config"]["spec"] == "small_resnet:8"
    assert run.metrics["splits"]["test"]["auroc_macro"]["value"] > 0.9
    third = sw.train(
        discs, model=f"run:{run.path}", epochs=1, lr=0.01, output=str(tmp_path / "third")
    )
    assert third.metrics["splits"]["test"]["auroc_macro"]["value"] > 0.9


def test_pictures_reach_a_run_as_they_reached_the_earlier_one(tmp_path):
    import cv2

    rng = np.random.default_rng(0)
    for name, low in (("dark", 0), ("light", 120)):
        (tmp_path / "d" / name).mkdir(parents=True)
        for i in range(12):
            image = rng.integers(low, low + 100, (24, 40, 3), np.uint8)
            cv2.imwrite(str(tmp_path / "d" / name / f"{i}.png"), image)
    common = {"epochs": 1, "no_test": True, "report": False}
    first = sw.train(
        tmp_path / "d", model="small_resnet:8", size=16, fit="crop", contrast="clahe:clip=2",
        **common, output=str(tmp_path / "first"),
    )  # fmt: skip
    start = {"model": f"run:{first.path}", "views": 1} | common
    prepared = [
        sw.train(tmp_path / "d", **start, **said, output=str(tmp_path / f"then{i}")).config
        for i, said in enumerate(({}, {"fit": "pad", "contrast": "none"}))
    ]
    assert [(each.size, each.fit, each.contrast) for each in prepared] == [
        (16, "crop", "clahe:clip=2.0,grid=8"),
        (16, "pad", "none"),  # what is said counts
    ]
    bundle = sw.Bundle.from_pretrained(tmp_path / "then0")
    assert (bundle.preprocessing.fit, bundle.preprocessing.contrast.kind) == ("crop", "clahe")


def test_an_interrupted_head_goes_on_to_the_same_bits(discs, flags, tmp_path, monkeypatch):
    from scanwise.pipeline.train import resume
    from scanwise.training import loop

    whole = sw.train(discs, **flags, output=str(tmp_path / "whole"))
    real = loop._Training.run_epoch

    def stop_at_three(self, state):
        if state.epoch == 2:
            raise KeyboardInterrupt
        return real(self, state)

    monkeypatch.setattr(loop._Training, "run_epoch", stop_at_three)
    with pytest.raises(KeyboardInterrupt):
        sw.train(discs, **flags, output=str(tmp_path / "cut"))
    monkeypatch.undo()
    cut = resume(tmp_path / "cut")
    assert weights_sha(cut) == weights_sha(whole)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"model": "resnet18", "finetune": "head"}, "pretrained networks"),
        ({"model": "resnet18", "views": 3}, "pretrained networks"),
        ({"model": "resnet18", "levels": "all"}, "pretrained networks"),
        ({"model": "resnet18", "head": "logistic"}, "pretrained networks"),
        ({"model": "run:nowhere"}, "no bundle"),
        ({"activation": "tanh"}, "activation tanh does not go"),
    ],
)
def test_settings_that_do_not_go_together(discs, tiny_hub, tmp_path, settings, words):
    given = {"model": f"hf:{tiny_hub}"} | settings
    with pytest.raises(
        sw.ScanwiseError if hasattr(sw, "ScanwiseError") else Exception, match=words
    ):
        sw.train(discs, **given, output=str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_five_channels_do_not_fit_a_colour_backbone(tiny_hub, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (40, 16, 16, 5), np.uint8)
    np.savez(tmp_path / "five.npz", X=images, y=np.arange(40) % 2)
    with pytest.raises(Exception, match="5 channels"):
        sw.train(tmp_path / "five.npz", model=f"hf:{tiny_hub}", output=str(tmp_path / "run"))


def test_the_estimator_takes_a_pretrained_backbone(tiny_hub):
    rng = np.random.default_rng(1)
    X = rng.integers(0, 256, (60, 16, 16, 3), np.uint8)
    y = np.arange(60) % 2
    X[y == 1, 4:12, 4:12] = 255
    model = sw.ImageClassifier(f"hf:{tiny_hub}", epochs=8, lr=0.01).fit(X, y)
    assert model.score(X, y) > 0.8


def test_real_weights_on_real_cells(shared: Path, tmp_path):
    run = sw.train(
        shared / "data" / "folders" / "bccd_287",
        group_regex=r"BloodImage_(\d+)",
        model=f"hf:{shared / 'weights' / 'mobilenet_v2_imagenet'}",
        views=1,
        output=str(tmp_path / "run"),
    )
    assert run.metrics["splits"]["val"]["auroc_macro"]["value"] > 0.95


def test_an_unknown_finetune_mode_is_refused(tiny_hub, discs):
    with pytest.raises(Exception, match="last:K"):
        sw.train(discs, model=f"hf:{tiny_hub}", finetune="some")


def test_model_errors_are_value_errors_of_the_package():
    assert issubclass(ModelError, ValueError)

"""Ensembles: the mean of the members' answers, one honest bundle, and what must be refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from sklearn.metrics import log_loss

import scanwise as sw
from scanwise.cli import main
from scanwise.core.errors import ConfigError, IntegrityError, ModelError, RunError
from scanwise.deploy.ensemble import EnsembleBundle, Member
from scanwise.metrics.members import gain_over, greedy_counts
from scanwise.metrics.predictions import make_predictions, read_predictions
from scanwise.pipeline.reproduce import reproduce_run
from scanwise.pipeline.runs import Run
from scanwise.pipeline.train import reevaluate
from scanwise.pipeline.verify import verify_run
from scanwise.studies.ensemble import ensemble, find_runs
from scanwise.studies.run_details import show_run
from scanwise.studies.run_table import list_runs

DATA = "demo:cells?n=240"


@pytest.fixture(autouse=True, scope="module")
def _no_pictures():
    """Figures take most of a tiny run's time, and no test here looks at one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scanwise.report.build.draw_figures", lambda run, diagnoses: {})
        patch.setattr("scanwise.pipeline.evaluate.write_errors", lambda *given: None)
        yield


def train(folder: Path, **settings) -> Run:
    common = {"data": DATA, "model": "mlp:32", "epochs": 2, "batch_size": 32, "augment": "none"}
    return sw.train(output=str(folder), report=False, **(common | settings))


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    """A folder with members/a, b, c on one split, and other/d on another. Read it only."""
    folder = tmp_path_factory.mktemp("study")
    splits = str(train(folder / "members" / "a").path / "splits.csv")
    train(folder / "members" / "b", seed=1, splits=splits)
    train(folder / "members" / "c", seed=2, splits=splits, contrast="percentile")
    train(folder / "other" / "d", seed=3)
    return folder


@pytest.fixture(scope="module")
def soft(study, tmp_path_factory) -> Run:
    return ensemble([study / "members"], output=tmp_path_factory.mktemp("out") / "soft")


def answers(run: Path, split: str) -> np.ndarray:
    return read_predictions(run / "predictions.csv").of_split(split).probabilities


# Its answers.


def test_the_saved_bundle_gives_the_mean_of_the_members_answers(study, soft):
    mean = np.mean([answers(study / "members" / name, "test") for name in "abc"], axis=0)
    np.testing.assert_allclose(answers(soft.path, "test"), mean, atol=1e-6)
    bundle = sw.Bundle.from_pretrained(soft.path)
    dataset = sw.load(DATA)
    samples = read_predictions(soft.path / "predictions.csv").of_split("test").sample
    rows = np.array([dataset.sample_ids.index(name) for name in samples])
    np.testing.assert_allclose(bundle.predict(dataset.images[rows]).probabilities, mean, atol=1e-6)
    assert bundle.class_names == dataset.class_names
    assert bundle.config.task == "multiclass"


def test_a_bundle_saved_again_answers_the_same(soft, tmp_path):
    first = sw.Bundle.from_pretrained(soft.path)
    again = sw.Bundle.from_pretrained(first.save_pretrained(tmp_path / "copy"))
    images = sw.load(DATA).images[:7]
    np.testing.assert_array_equal(again.probabilities_of(images), first.probabilities_of(images))
    assert again.metrics == first.metrics == soft.metrics
    assert not list((tmp_path / "copy").rglob("*.pkl"))


def test_members_of_other_input_sizes_prepare_the_files_themselves(tmp_path):
    from PIL import Image

    rng = np.random.default_rng(0)
    for index in range(72):
        name = "ab"[index % 2]
        (tmp_path / "images" / name).mkdir(parents=True, exist_ok=True)
        pixels = rng.normal(80 + 60 * (index % 2), 30, (24, 24)).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / name / f"{index}.png")
    common = {"data": str(tmp_path / "images"), "model": "mlp:8", "epochs": 1}
    small = train(tmp_path / "small", size=16, **common)
    train(tmp_path / "large", size=24, splits=str(small.path / "splits.csv"), **common)
    run = ensemble([tmp_path / "large", tmp_path / "small"], output=tmp_path / "both")
    mean = (answers(tmp_path / "small", "test") + answers(tmp_path / "large", "test")) / 2
    np.testing.assert_allclose(answers(run.path, "test"), mean, atol=1e-6)
    card = (run.bundle / "MODEL_CARD.md").read_text()
    assert "24x24 px, 1 channel(s); 16x16 px, 1 channel(s)" in card
    bad = tmp_path / "bad.png"
    bad.write_text("no image")
    found = sw.Bundle.from_pretrained(run.path).predict([bad, tmp_path / "images" / "a" / "0.png"])
    assert np.isnan(found.probabilities[0]).all()
    assert found.reasons[0]
    assert found.predicted[1] in ("a", "b")


def test_what_only_one_network_has_is_refused_in_words(soft):
    bundle = sw.Bundle.from_pretrained(soft.path)
    with pytest.raises(ModelError, match="no single model"):
        _ = bundle.model
    with pytest.raises(ModelError, match="no logits"):
        bundle.logits_of(np.zeros((1, 8, 8, 3), np.uint8))
    with pytest.raises(ModelError, match="ensemble itself"):
        EnsembleBundle([Member(bundle, 1.0, "x")])


@pytest.mark.parametrize("name", ["config.json", "members/01/model.safetensors"])
def test_a_changed_byte_anywhere_is_refused(soft, tmp_path, name):
    copy = tmp_path / "copy"
    shutil.copytree(soft.bundle, copy)
    raw = bytearray((copy / name).read_bytes())
    raw[-2] ^= 1
    (copy / name).write_bytes(bytes(raw))
    with pytest.raises(IntegrityError, match=name):
        sw.Bundle.from_pretrained(copy)


def test_a_missing_member_is_refused(soft, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(soft.bundle, copy)
    shutil.rmtree(copy / "members" / "02")
    with pytest.raises(IntegrityError, match="members/02"):
        sw.Bundle.from_pretrained(copy)


# Its scores.


def test_the_run_says_what_it_was_made_of_and_looked_at_test_once(study, soft):
    facts = yaml.safe_load((soft.path / "ensemble.yaml").read_text())
    assert [each["weight"] for each in facts["members"]] == [pytest.approx(1 / 3)] * 3
    assert len(soft.test_looks()) == 1
    settings = yaml.safe_load((soft.path / "config.yaml").read_text())
    assert settings["model"] == "mlp:32"
    assert "seed" not in settings  # it differs, so there is no seed of the ensemble
    assert "contrast" not in settings
    assert soft.metrics["split_sha256"] == Run.open(study / "members" / "a").metrics["split_sha256"]
    report = (soft.path / "report.md").read_text()
    assert "Gain over the best single member" in report
    assert "histogram" in soft.metrics["baselines"]  # the best member's, on the same images


def test_the_gain_is_over_the_member_that_validation_prefers(study, soft):
    parts = [read_predictions(study / "members" / name / "predictions.csv") for name in "abc"]
    val = [part.of_split("val") for part in parts]
    labels = np.arange(len(val[0].class_names))
    losses = [log_loss(part.targets, part.probabilities, labels=labels) for part in val]
    best = parts[int(np.argmin(losses))].of_split("test")
    mine = read_predictions(soft.path / "predictions.csv").of_split("test")
    gain = soft.metrics["ensemble"]["gain"]
    assert soft.metrics["ensemble"]["compared_with"]["members"] == [int(np.argmin(losses))]
    right = [float((part.predicted == part.targets).mean()) for part in (best, mine)]
    assert gain["accuracy"]["value"] == pytest.approx(right[1] - right[0])
    before, after = (log_loss(p.targets, p.probabilities, labels=labels) for p in (best, mine))
    assert gain["log_likelihood"]["value"] == pytest.approx(before - after)
    assert gain["accuracy_is"] in ("better", "worse", "not distinguishable")


def test_every_number_can_be_recomputed_and_an_edited_gain_is_found(soft, tmp_path):
    assert verify_run(soft.path).mismatches == ()
    copy = tmp_path / "copy"
    shutil.copytree(soft.path, copy)
    metrics = json.loads((copy / "metrics.json").read_text())
    metrics["ensemble"]["gain"]["accuracy"]["value"] += 0.1
    (copy / "metrics.json").write_text(json.dumps(metrics))
    assert "ensemble.gain.accuracy.value" in [bad.where for bad in verify_run(copy).mismatches]


def test_evaluate_gives_the_same_numbers_and_counts_the_look(soft, tmp_path):
    copy = tmp_path / soft.path.name
    shutil.copytree(soft.path, copy)
    again = reevaluate(copy)
    assert again.metrics["splits"] == soft.metrics["splits"]
    assert again.metrics["ensemble"] == soft.metrics["ensemble"]
    assert len(again.test_looks()) == 2
    assert verify_run(copy).mismatches == ()


def test_groups_make_the_gain_less_certain(rng):
    targets = np.repeat(rng.integers(0, 2, 30), 10)
    groups = tuple(str(i // 10) for i in range(300))
    shift = np.repeat(rng.normal(0.1, 0.3, 30), 10)
    weak, strong = (
        np.clip(0.5 + sign * np.where(targets == 1, shift, -shift) / 2, 0.01, 0.99)
        for sign in (0, 1)
    )

    def made(given, groups):
        both = np.stack([1 - given, given], axis=1)
        ids = tuple(map(str, range(300)))
        return make_predictions(ids, ("test",) * 300, targets, both, ("a", "b"), groups=groups)

    widths = []
    for each in (None, groups):
        gain = gain_over(made(strong, each), [made(weak, each)], "test")["log_likelihood"]
        widths.append(gain["ci95"][1] - gain["ci95"][0])
    assert widths[1] > 2 * widths[0]


# Greedy selection.


def test_greedy_picks_what_lowers_the_log_loss_most(rng):
    """Against every mix of up to 4 picks, tried one by one."""
    import itertools

    targets = rng.integers(0, 3, 200)
    truth = np.eye(3)[targets]
    parts = []
    for noise in (0.6, 0.7, 3.0):
        logits = truth * 2 + rng.normal(0, noise * 2, truth.shape)
        parts.append(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True))
    counts = greedy_counts(parts, targets, "multiclass", steps=4)
    mixed = sum(c * p for c, p in zip(counts, parts, strict=True)) / sum(counts)
    singles = [log_loss(targets, part) for part in parts]
    every = [
        log_loss(targets, np.mean([parts[i] for i in picks], axis=0))
        for size in range(1, 5)
        for picks in itertools.combinations_with_replacement(range(3), size)
    ]
    assert log_loss(targets, mixed) <= min(singles)
    assert log_loss(targets, mixed) == pytest.approx(min(every), abs=0.01)
    assert counts[2] == 0


def test_greedy_keeps_one_member_where_no_other_helps():
    targets = np.array([0, 1, 0, 1])
    good = np.where(np.eye(2)[targets] == 1, 0.99, 0.01)
    assert greedy_counts([1 - good, good], targets, "multiclass") == [0, 1]


def test_greedy_says_that_validation_was_selected_on(study, tmp_path, capsys):
    main_ok(["ensemble", str(study / "members"), "--method", "greedy", "--output",
             str(tmp_path / "greedy")])  # fmt: skip
    out = capsys.readouterr().out
    assert "M001" in out
    assert "selected on" in out
    assert "M002" in out  # fewer than 100 validation images
    run = Run.open(tmp_path / "greedy")
    weights = [each["weight"] for each in run.metrics["ensemble"]["members"]]
    assert sum(weights) == pytest.approx(1)
    assert run.metrics["ensemble"]["selected_on"] == "val"
    stated = json.loads((run.bundle / "config.json").read_text())["members"]
    assert [each["weight"] for each in stated] == [weight for weight in weights if weight > 0]
    assert verify_run(run.path).mismatches == ()


# Folds.


def test_folds_without_a_shared_test_set_measure_nothing(study, tmp_path, capsys):
    runs = [study / "members" / "a", study / "other" / "d"]
    main_ok(["ensemble", *map(str, runs), "--folds", "--output", str(tmp_path / "folds")])
    out = capsys.readouterr().out
    assert "Not measured" in out
    assert "out-of-fold score of these runs belongs to single models" in out
    run = Run.open(tmp_path / "folds")
    assert run.metrics["splits"] == {}
    assert run.metrics["ensemble"]["gain"]["reason"] == "the folds share no test set"
    assert "not evaluable" in list_runs(tmp_path).text()
    assert "2 mlp:32" in show_run(run.path).text()
    assert run.test_looks() == []
    assert not (run.path / "predictions.csv").exists()
    assert "Not measured" in (run.bundle / "MODEL_CARD.md").read_text()
    assert verify_run(run.path).mismatches == ()
    both = sw.Bundle.from_pretrained(run.path).probabilities_of(sw.load(DATA).images[:5])
    np.testing.assert_allclose(both.sum(axis=1), 1)
    with pytest.raises(RunError, match="reproduce its members"):
        reproduce_run(run.path)
    with pytest.raises(RunError, match="ensemble of folds"):
        reevaluate(run.path)


def test_folds_are_scored_on_the_test_set_that_they_share(study, tmp_path):
    """The same test rows, train and val dealt anew."""
    lines = (study / "members" / "a" / "splits.csv").read_text().splitlines()
    swapped, given = [lines[0]], {"val": 0, "train": 0}
    wanted = sum(",val," in line for line in lines)
    for line in reversed(lines[1:]):
        name = next(n for n in ("train", "val", "test") if f",{n}," in line)
        if name == "val":
            line = line.replace(",val,", ",train,")
        elif name == "train" and given["val"] < wanted:
            given["val"] += 1
            line = line.replace(",train,", ",val,")
        swapped.append(line)
    splits = tmp_path / "splits.csv"
    splits.write_text("\n".join(swapped) + "\n")
    train(tmp_path / "e", seed=5, splits=str(splits), accept_leak=True)
    pair = [study / "members" / "a", tmp_path / "e"]
    run = ensemble(pair, folds=True, output=tmp_path / "folds")
    assert list(run.metrics["splits"]) == ["test"]
    mean = (answers(pair[0], "test") + answers(pair[1], "test")) / 2
    np.testing.assert_allclose(answers(run.path, "test"), mean, atol=1e-6)
    assert run.metrics["ensemble"]["gain"]["n"] == len(mean)
    assert "on average" in run.metrics["ensemble"]["compared_with"]["words"]
    assert verify_run(run.path).mismatches == ()


# What is refused.


def main_ok(words: list[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert not stop.value.code


@pytest.mark.parametrize(
    ("runs", "options", "words"),
    [
        (["members/a"], {}, "at least two runs, got only"),
        (["members", "members/b"], {}, "named twice"),
        (["members/a", "other/d"], {}, "different splits"),
        (["members"], {"folds": True}, "same split"),
        (["members", "nothing"], {}, "not a folder"),
        (["members/a/bundle", "members/b"], {}, "not a run folder"),
    ],
)
def test_runs_that_can_not_be_averaged_are_refused(study, tmp_path, runs, options, words):
    with pytest.raises(RunError, match=words):
        ensemble([study / name for name in runs], output=tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_different_splits_are_named_with_both_values(study, tmp_path):
    pair = [study / "members" / "a", study / "other" / "d"]
    with pytest.raises(RunError) as error:
        ensemble(pair, output=tmp_path / "out")
    for path in pair:
        assert Run.open(path).dataset["split"]["sha256"][:12] in str(error.value)


def test_other_classes_are_named_with_both_values(study, discs, tmp_path):
    other = train(tmp_path / "discs", data=str(discs), epochs=1).path
    with pytest.raises(RunError, match=r"different classes: \['.*\] and \['"):
        ensemble([study / "members" / "a", other], output=tmp_path / "out")


def test_settings_that_can_not_be(study, soft, tmp_path):
    with pytest.raises(ConfigError, match="soft, greedy"):
        ensemble([study / "members"], method="median")
    with pytest.raises(ConfigError, match="folds have none in common"):
        ensemble([study / "members"], method="greedy", folds=True)
    with pytest.raises(RunError, match="exists"):
        ensemble([study / "members"], output=soft.path)
    with pytest.raises(RunError, match="ensemble itself"):
        ensemble([study / "members" / "a", soft.path], output=tmp_path / "out")


def damaged(study: Path, tmp_path: Path) -> tuple[Path, list[str]]:
    """A copy of run b to damage, and the command that averages it with run a."""
    copy = tmp_path / "b"
    shutil.copytree(study / "members" / "b", copy)
    return copy, ["ensemble", str(study / "members" / "a"), str(copy), "--output",
                  str(tmp_path / "out")]  # fmt: skip


def test_an_interrupted_run_is_named_with_the_way_out(study, tmp_path, capsys):
    copy, words = damaged(study, tmp_path)
    shutil.rmtree(copy / "bundle")
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    assert "train --resume" in capsys.readouterr().err


@pytest.mark.parametrize("what", ["bundle/model.safetensors", "splits.csv", "predictions.csv"])
def test_a_tampered_member_stops_with_3_and_leaves_nothing(study, tmp_path, capsys, what):
    copy, words = damaged(study, tmp_path)
    raw = (copy / what).read_bytes()
    if what == "predictions.csv":  # consistent in itself, but not what the bundle says
        rows = raw.decode().splitlines()
        columns = rows[0].split(",")
        k = len(columns) - 4
        for i, row in enumerate(rows[1:], 1):
            cells = row.split(",")
            cells[4:] = ["0.97", *[str(0.03 / (k - 1))] * (k - 1)]
            cells[3] = columns[4].removeprefix("prob_")
            rows[i] = ",".join(cells)
        raw = ("\n".join(rows) + "\n").encode()
    else:
        raw = raw[:-2] + bytes([raw[-2] ^ 1]) + raw[-1:]
    (copy / what).write_bytes(raw)
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 3, capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_one_model_under_two_names_is_refused(study, tmp_path):
    copy = tmp_path / "b"
    shutil.copytree(study / "members" / "b", copy)
    with pytest.raises(RunError, match="same model"):
        ensemble([study / "members" / "b", copy], output=tmp_path / "out")


def test_test_stays_shut_where_a_member_kept_it_shut(study, tmp_path):
    splits = str(study / "members" / "a" / "splits.csv")
    train(tmp_path / "shut", seed=9, splits=splits, no_test=True)
    run = ensemble([study / "members" / "a", tmp_path / "shut"], output=tmp_path / "out")
    assert list(run.metrics["splits"]) == ["val"]
    assert run.test_looks() == []
    assert run.metrics["ensemble"]["gain"]["reason"] == "test was not opened"
    assert verify_run(run.path).mismatches == ()


def test_runs_are_found_in_folders(study):
    assert [path.name for path in find_runs([study])] == ["a", "b", "c", "d"]


def test_json_for_machines(study, tmp_path, capsys):
    main_ok(["ensemble", str(study / "members"), "--json", "--output", str(tmp_path / "x")])
    found = json.loads(capsys.readouterr().out)
    assert found["metrics"]["ensemble"]["method"] == "soft"
    assert found["bundle"].endswith("bundle")

"""Would more data help? Nested parts, honest bands, no test image, and the command itself."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest

from scanwise.cli import main
from scanwise.core.config import TrainConfig
from scanwise.core.errors import ConfigError
from scanwise.core.types import Dataset, Split
from scanwise.metrics.evaluate import evaluate_predictions
from scanwise.metrics.predictions import make_predictions
from scanwise.studies.learning_curve import (
    SHARES,
    Training,
    check_shares,
    curve_summary,
    errors_of,
    make_curve,
    nested_parts,
    scaled_settings,
    summarise,
)


def tiny(targets, groups=None, classes=3) -> Dataset:
    n = len(targets)
    images = np.zeros((n, 8, 8, 1), np.uint8)
    return Dataset(
        "tiny", images, np.asarray(targets, np.int64), tuple("abcdef"[:classes]),
        tuple(f"{i:04d}" for i in range(n)), ("",) * n, groups=groups,
    )  # fmt: skip


def test_parts_are_nested_stratified_and_differ_between_repeats():
    rng = np.random.default_rng(0)
    dataset = tiny(rng.choice(3, 1000, p=[0.6, 0.3, 0.1]))
    train = np.sort(rng.permutation(1000)[:700])
    parts, notes = nested_parts(dataset, train, SHARES, 3, seed=0)
    assert notes == ()
    whole = dataset.class_counts(train)
    for repeat in range(3):
        np.testing.assert_array_equal(parts[1.0, repeat], train)
        for small, large in itertools.pairwise(SHARES):
            assert set(parts[small, repeat]) < set(parts[large, repeat])
            counts = dataset.class_counts(parts[small, repeat])
            np.testing.assert_allclose(counts, whole * small, atol=2)
    assert set(parts[0.1, 0]) != set(parts[0.1, 1])


def test_groups_are_never_cut():
    rng = np.random.default_rng(1)
    groups = tuple(f"g{i}" for i in rng.integers(0, 60, 600))
    dataset = tiny(rng.integers(0, 3, 600), groups)
    parts, _ = nested_parts(dataset, np.arange(600), SHARES, 2, seed=3)
    for rows in parts.values():
        inside = {groups[row] for row in rows}
        outside = {groups[row] for row in range(600) if row not in set(rows.tolist())}
        assert not inside & outside


def test_a_share_without_images_of_a_class_is_left_out_and_told(monkeypatch):
    # Four patients, two classes: a quarter is one patient, who has one class.
    dataset = tiny([0] * 8 + [1] * 8, tuple("wwwwxxxxyyyyzzzz"), classes=2)
    parts, notes = nested_parts(dataset, np.arange(16), (0.5, 1.0), 1, seed=0)
    assert {share for share, _ in parts} == {0.5, 1.0}
    assert notes == ()
    monkeypatch.setattr(
        "scanwise.studies.learning_curve.draw_part", lambda data, rows, share, seed: rows[:4]
    )
    parts, notes = nested_parts(dataset, np.arange(16), (0.25, 1.0), 2, seed=0)
    assert {share for share, _ in parts} == {1.0}
    assert notes == ("25 % is left out: it would have no image of 'b'.",)
    assert dataset.class_counts(parts[1.0, 1]).tolist() == [8, 8]


def test_an_absent_class_is_told_and_does_not_empty_the_curve():
    parts, notes = nested_parts(tiny([0, 1] * 40), np.arange(80), SHARES, 1, seed=0)
    assert {share for share, _ in parts} == set(SHARES)
    assert notes == ("The training split has no image of c.",)


def test_smaller_parts_get_about_the_same_number_of_steps():
    config = TrainConfig(epochs=10, batch_size=32, warmup=1, patience=3)
    part = scaled_settings(config, 1000, 100)
    assert part.epochs * 4 == 10 * 32
    assert (part.warmup, part.patience) == (8, 24)
    same = scaled_settings(config, 1000, 1000)
    assert (same.epochs, same.warmup, same.patience) == (10, 1, 3)


@pytest.mark.parametrize("shares", [[], [0.0, 1.0], [0.5, 1.1], [0.1, 0.5]])
def test_shares_out_of_range_are_refused(shares):
    with pytest.raises(ConfigError, match="shares"):
        check_shares(shares, 3)


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_errors_are_those_of_metrics_json(task):
    rng = np.random.default_rng(5)
    if task == "multilabel":
        targets = rng.integers(0, 2, (120, 3))
        shares = rng.random((120, 3))
        predicted = (shares > 0.5).astype(np.int64)
    else:
        targets = rng.integers(0, 3, 120)
        shares = rng.dirichlet(np.ones(3), 120)
        predicted = shares.argmax(axis=1)
    predictions = make_predictions(
        sample=tuple(str(i) for i in range(120)), split=("val",) * 120, targets=targets,
        probabilities=shares, class_names=("a", "b", "c"), task=task,
    )  # fmt: skip
    metrics = evaluate_predictions(predictions, "val")
    found = errors_of(predicted, targets, 3, task, np.ones((120, 1)))[:, 0]
    assert found[0] == pytest.approx(1 - metrics["balanced_accuracy"]["value"])
    assert found[1] == pytest.approx(1 - metrics["accuracy"]["value"])
    for index, entry in enumerate(metrics["per_class"]):
        assert found[2 + index] == pytest.approx(1 - entry["sensitivity"]["value"])


def drawn(errors, noise, seed=0):
    rng = np.random.default_rng(seed)
    errors = np.asarray(errors, np.float64)
    return np.column_stack([errors, errors[:, None] + rng.normal(0, noise, (len(errors), 400))])


def test_doubling_a_known_law_gives_its_gain():
    sizes = np.array([100.0, 250, 500, 1000])
    curve = make_curve("e", sizes, drawn(3 * sizes**-0.5, 0.001), 200)
    expected = 3 * 1000**-0.5 - 3 * 2000**-0.5
    assert curve.gain.value == pytest.approx(expected, abs=1e-4)
    assert curve.gain.low < expected < curve.gain.high
    assert curve.verdict() == "falls"


def test_a_flat_noisy_curve_is_not_told_as_a_gain():
    sizes = np.array([100.0, 250, 500, 1000])
    curve = make_curve("e", sizes, drawn([0.21, 0.19, 0.205, 0.2], 0.03), 100)
    assert curve.gain.low <= 0 <= curve.gain.high
    assert curve.verdict() == "not distinguishable from no gain"


def test_three_sizes_are_shown_but_not_extrapolated():
    curve = make_curve("e", np.array([100.0, 200, 400]), drawn([0.3, 0.2, 0.1], 0.01), 100)
    assert curve.gain is None
    assert curve.law is None
    assert curve.errors[0].value == pytest.approx(0.3)
    assert "3 distinct numbers of training images, 4 are needed" in curve.verdict()
    assert curve.to_json()["doubling"] is None


def test_a_class_without_validation_images_is_not_measured():
    dataset = tiny([0, 1] * 60)
    split = Split(np.arange(80), np.arange(80, 120), np.empty(0, np.int64), "user")
    predicted = dataset.targets[split.val]
    trainings = [Training(share, 0, np.arange(int(80 * share)), 1, predicted) for share in SHARES]
    found = summarise(dataset, split, TrainConfig(), trainings)
    assert found.classes[2].errors[0].value is None
    assert "no image" in found.classes[2].reason
    assert found.overall.verdict() == "not distinguishable from no gain"
    assert json.dumps(found.to_json(), allow_nan=False)
    assert "not distinguishable from no gain" in curve_summary(found)


FLAGS = ("--model", "mlp:8", "--epochs", "2", "--repeats", "2", "--batch-size", "32")


def run(capsys, *words: str) -> tuple[int, str, str]:
    code = 0
    try:
        main(["learning-curve", *words])
    except SystemExit as stop:
        code = int(stop.code or 0)
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_the_command_writes_a_whole_folder(discs, tmp_path, capsys):
    folder = tmp_path / "curve"
    code, out, err = run(capsys, str(discs), *FLAGS, "--output", str(folder))
    assert code == 0, err
    assert "80 validation images" in out
    assert "Twice the training images (240 → 480)" in out
    assert "no model was trained, chosen or scored on test images" in out
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "config.yaml", "learning_curve.json", "learning_curve.md", "learning_curve.png",
        "learning_curve.svg",
    }  # fmt: skip
    found = json.loads((folder / "learning_curve.json").read_text())
    assert [point["images"] for point in found["balanced_error"]["points"]] == [24, 60, 120, 240]
    assert found["scored_on"] == "val"
    assert len(found["trainings"]) == 8
    assert len(found["balanced_error"]["doubling"]["gain"]["ci95"]) == 2
    # In the way now; --force replaces it.
    assert run(capsys, str(discs), *FLAGS, "--output", str(folder))[0] == 2
    assert len(list(folder.iterdir())) == 5
    few = (*FLAGS, "--shares", "50,100", "--output", str(folder), "--force")
    code, out, err = run(capsys, str(discs), *few)
    assert code == 0, err
    assert "not extrapolated: 2 distinct numbers of training images" in out
    assert [path.name for path in tmp_path.iterdir()] == ["curve"]


def test_other_test_images_change_nothing(discs, tmp_path, capsys):
    arrays = dict(np.load(discs))
    rng = np.random.default_rng(9)
    shape = arrays["test_images"].shape
    arrays["test_images"] = rng.integers(0, 255, shape).astype(np.uint8)
    arrays["test_labels"] = 1 - arrays["test_labels"]
    (tmp_path / "other").mkdir()
    other = tmp_path / "other" / "discs.npz"
    np.savez(other, **arrays)
    found = [run(capsys, str(path), *FLAGS, "--json")[1] for path in (discs, other)]
    assert json.loads(found[0])["balanced_error"]["points"]
    assert found[0] == found[1]


def test_a_pretrained_backbone_computes_features_once(discs, tiny_hub, capsys, monkeypatch):
    from scanwise.training.engine import Engine

    seen = []
    real = Engine.features
    monkeypatch.setattr(
        Engine, "features", lambda self, images: seen.append(len(images)) or real(self, images)
    )
    flags = ("--model", f"hf:{tiny_hub}", "--epochs", "2", "--views", "1", "--repeats", "2")
    code, out, err = run(capsys, str(discs), *flags, "--seed", "77")
    assert code == 0, err
    assert "Twice the training images" in out
    assert sum(seen) <= 240 + 80


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--shares", "10,half"], "shares"),
        (["--shares", "0,100"], "shares"),
        (["--shares", "10,25,50"], "100"),
        (["--repeats", "0"], "repeats"),
        (["--repeats", "two"], "repeats"),
        (["--epochs", "0"], "epochs"),
        (["--model", "resnet19"], "resnet18"),
    ],
)
def test_a_mistake_is_one_message_and_leaves_nothing(discs, tmp_path, capsys, words, expected):
    code, _, err = run(capsys, str(discs), *words, "--output", str(tmp_path / "new"))
    assert code == 2
    assert err.startswith("error: ")
    assert expected in err
    assert list(tmp_path.iterdir()) == []

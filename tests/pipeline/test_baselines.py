"""Simple models first: fitted on train, told before the network, verified like every number."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import numpy as np
import pytest

from scanwise.core.types import Interval
from scanwise.data.load import from_arrays, load
from scanwise.data.splits import make_split
from scanwise.metrics.baselines import baseline_scores, compare_words
from scanwise.metrics.predictions import make_predictions
from scanwise.pipeline.baselines import fit_baselines, histogram_features
from scanwise.pipeline.train import reevaluate
from scanwise.pipeline.verify import verify_run
from scanwise.prepare.preprocessing import fit_preprocessing


def test_histograms_are_those_of_numpy(rng):
    pixels = rng.integers(0, 256, (5, 9, 7, 3), np.uint8)
    found = histogram_features(pixels)
    assert found.shape == (5, 3 * 18)
    for i in range(5):
        for c in range(3):
            shares = np.histogram(pixels[i, :, :, c], 16, (0, 256))[0] / 63
            np.testing.assert_allclose(found[i, 16 * c : 16 * c + 16], shares, rtol=1e-6)
        levels = pixels[i].reshape(-1, 3) / 255
        np.testing.assert_allclose(found[i, 48:51], levels.mean(0), rtol=1e-5)
        np.testing.assert_allclose(found[i, 51:], levels.std(0), rtol=1e-5)


def colours(n: int, rng) -> tuple:
    """Two classes that differ in colour alone."""
    targets = np.arange(n) % 2
    images = rng.integers(0, 120, (n, 12, 12, 3), np.uint8)
    images[targets == 1, :, :, 0] += 60
    return images, targets


def test_a_colour_histogram_tells_colours_apart(rng):
    dataset = from_arrays(*colours(120, rng))
    split = make_split(dataset, seed=0)
    (baseline,) = fit_baselines(dataset, split, fit_preprocessing(dataset, split.train), seed=0)
    said = baseline.probabilities(dataset.images[split.test]).argmax(axis=1)
    assert (said == dataset.targets[split.test]).mean() > 0.95
    assert baseline.title.startswith("colour histogram")


def test_test_images_and_labels_are_never_read(rng):
    images, targets = colours(120, rng)
    dataset = from_arrays(images, targets)
    split = make_split(dataset, seed=0)
    poisoned, wrong = images.copy(), targets.copy()
    poisoned[split.test] = 255 - poisoned[split.test]
    wrong[split.test] = 1 - wrong[split.test]
    probabilities = [
        fit_baselines(data, split, fit_preprocessing(data, split.train), seed=0)[0].probabilities(
            images
        )
        for data in (dataset, replace(from_arrays(poisoned, wrong), name=dataset.name))
    ]
    np.testing.assert_array_equal(*probabilities)


def test_a_class_that_train_lacks_gets_no_probability(rng):
    images, targets = colours(90, rng)
    targets = targets.copy()
    targets[::9] = 2
    dataset = from_arrays(images, targets)
    split = make_split(dataset, seed=0)
    train = split.train[dataset.targets[split.train] != 2]
    thin = replace(split, train=train)
    (baseline,) = fit_baselines(dataset, thin, fit_preprocessing(dataset, train), seed=0)
    found = baseline.probabilities(images)
    assert found.shape == (90, 3)
    assert (found[:, 2] == 0).all()


def test_several_labels_an_image(rng):
    images, targets = colours(80, rng)
    both = np.stack([targets, 1 - targets, np.ones_like(targets)], axis=1)
    both[:4, 2] = 0
    dataset = from_arrays(images, both)
    split = make_split(dataset, seed=0)
    (baseline,) = fit_baselines(dataset, split, fit_preprocessing(dataset, split.train), seed=0)
    found = baseline.probabilities(images)
    assert ((found[:, :2] > 0.5) == both[:, :2]).mean() > 0.9


def two_answers(right_first: list[int], right_second: list[int]):
    targets = np.arange(len(right_first)) % 2
    parts = []
    for right in (right_first, right_second):
        said = np.where(right, targets, 1 - targets)
        probabilities = np.full((len(said), 2), 0.2)
        probabilities[np.arange(len(said)), said] = 0.8
        parts.append(
            make_predictions(
                tuple(f"s{i}" for i in range(len(said))), ("test",) * len(said), targets,
                probabilities, ("a", "b"),
            )
        )  # fmt: skip
    return parts


def test_the_gain_is_the_difference_of_accuracies():
    network, baseline = two_answers([1] * 36 + [0] * 4, [1] * 20 + [0] * 20)
    scores = baseline_scores(network, baseline, "test")
    assert scores["accuracy"]["value"] == 0.5
    assert scores["gain"]["value"] == pytest.approx(0.4)
    assert scores["network_is"] == "better"
    assert baseline_scores(baseline, network, "test")["network_is"] == "worse"
    assert baseline_scores(network, network, "test")["network_is"] == "not distinguishable"


@pytest.mark.parametrize(
    ("gain", "words"),
    [
        (Interval(0.1, 0.01, 0.2), "better"),
        (Interval(-0.1, -0.2, -0.01), "worse"),
        (Interval(0.1, -0.01, 0.2), "not distinguishable"),
        (Interval(0.1), "not distinguishable"),
    ],
)
def test_words_follow_the_interval(gain, words):
    assert compare_words(gain) == words


def test_a_run_tells_its_baselines_first_and_keeps_their_answers(disc_run):
    log = (disc_run.path / "log.txt").read_text()
    assert log.index("To beat, accuracy on 80 validation images") < log.index("Epoch 1/")
    entry = disc_run.metrics["baselines"]["histogram"]
    assert entry["title"] == "intensity histogram + logistic regression"
    with (disc_run.path / "baselines" / "histogram.csv").open() as stream:
        rows = [row for row in csv.DictReader(stream) if row["split"] == "test"]
    accuracy = np.mean([row["target"] == row["predicted"] for row in rows])
    assert entry["splits"]["test"]["accuracy"]["value"] == pytest.approx(accuracy)
    report = (disc_run.path / "report.md").read_text()
    assert "intensity histogram + logistic regression" in report


def test_the_verdict_names_the_toughest_simple_model(disc_run):
    sentence = json.loads((disc_run.path / "report.json").read_text())["verdict"]["sentence"]
    assert "intensity histogram + logistic regression" in sentence
    assert "paired" in sentence


def test_an_edited_baseline_is_named(copied_run):
    assert not verify_run(copied_run.path).mismatches
    path = copied_run.path / "metrics.json"
    metrics = json.loads(path.read_text())
    metrics["baselines"]["histogram"]["splits"]["test"]["accuracy"]["value"] += 0.1
    path.write_text(json.dumps(metrics))
    where = [bad.where for bad in verify_run(copied_run.path).mismatches]
    assert "baselines.histogram.splits.test.accuracy.value" in where


def test_evaluating_again_keeps_them(copied_run):
    before = copied_run.metrics["baselines"]
    assert reevaluate(copied_run.path).metrics["baselines"] == before
    assert not verify_run(copied_run.path).mismatches


def test_frozen_features_are_a_baseline_of_a_pretrained_network(discs, tiny_hub, tmp_path):
    import scanwise as sw

    run = sw.train(
        discs,
        model=f"hf:{tiny_hub}",
        preset="auto",
        epochs=1,
        views=1,
        no_test=True,
        output=str(tmp_path / "r"),
    )
    assert set(run.metrics["baselines"]) == {"histogram", "frozen_features"}
    assert set(run.metrics["baselines"]["frozen_features"]["splits"]) == {"val"}
    assert not verify_run(run.path).mismatches
    assert load(str(discs)).num_classes == 2

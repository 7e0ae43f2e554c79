"""Class weights against scikit-learn, samplers by counting, SMOTE by its geometry."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.utils.class_weight import compute_class_weight

from scanwise.core.errors import ConfigError, DataError
from scanwise.prepare.balance import (
    balance_findings,
    class_weights,
    describe_class_weights,
    drawn_counts,
    sample_order,
)
from scanwise.prepare.smote import smote, with_synthetic

NAMES = ("Platelets", "RBC", "WBC")
COUNTS = np.array([36, 160, 91])


def test_balanced_weights_are_those_of_sklearn():
    targets = np.repeat([0, 1, 2], COUNTS)
    expected = compute_class_weight("balanced", classes=np.array([0, 1, 2]), y=targets)
    np.testing.assert_allclose(class_weights(COUNTS, "balanced", NAMES), expected)


@pytest.mark.parametrize("spec", ["balanced", "sqrt"])
def test_weights_average_one_over_images(spec: str):
    weights = class_weights(COUNTS, spec, NAMES)
    assert weights is not None
    assert (weights * COUNTS).sum() == pytest.approx(COUNTS.sum())


def test_sqrt_is_the_root_of_the_ratio():
    weights = class_weights(COUNTS, "sqrt", NAMES)
    assert weights is not None
    assert weights[0] / weights[1] == pytest.approx(np.sqrt(160 / 36))


def test_none_is_none_and_names_set_weights():
    assert class_weights(COUNTS, "none", NAMES) is None
    np.testing.assert_array_equal(class_weights(COUNTS, "WBC=2.5,RBC=0", NAMES), [1, 0, 2.5])
    odd = ("a, b", "c")
    np.testing.assert_array_equal(class_weights(COUNTS[:2], "a, b=3,c=1e-1", odd), [3, 0.1])


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("WCB=2", "did you mean 'WBC'"),
        ("balance", "did you mean 'balanced'"),
        ("WBC=heavy", "'WBC=heavy'"),
        ("WBC=-1", "'WBC=-1'"),
        ("WBC=nan", "'WBC=nan'"),
        ("WBC=1,2", "NAME=W"),
        ("Platelets=0,RBC=0,WBC=0", "above 0"),
    ],
)
def test_a_mistake_is_named(spec: str, words: str):
    with pytest.raises(ConfigError) as caught:
        class_weights(COUNTS, spec, NAMES)
    assert words in str(caught.value)


def test_a_class_without_images_weighs_nothing_and_is_told():
    counts = np.array([30, 0, 10])
    weights = class_weights(counts, "balanced", NAMES)
    assert weights is not None
    np.testing.assert_allclose(weights, [40 / 60, 0, 2])
    findings = balance_findings(counts, NAMES, weights=weights, sampler="shuffle")
    assert [finding.code for finding in findings] == ["B002"]
    assert "'RBC'" in findings[0].evidence


def test_multi_label_weights_are_negatives_over_positives():
    counts = np.array([10, 50, 0])
    np.testing.assert_allclose(class_weights(counts, "balanced", NAMES, num_images=100), [9, 1, 1])
    np.testing.assert_allclose(class_weights(counts, "sqrt", NAMES, num_images=100), [3, 1, 1])


def test_the_two_lines_have_the_words_of_the_guide():
    """S2's counts; its own weights (2.63, 1.04, 0.59) do not belong to them: see the docstring."""
    counts = np.array([36, 91, 160])
    lines = describe_class_weights(counts, class_weights(counts, "balanced", NAMES))
    assert lines == (
        "Class distribution: {0: 36, 1: 91, 2: 160}",
        "Class weights: {0: 2.66, 1: 1.05, 2: 0.60}",
    )
    assert describe_class_weights(counts, None)[1] == "Class weights: {0: 1.00, 1: 1.00, 2: 1.00}"


def test_double_correction_is_told():
    weights = class_weights(COUNTS, "balanced", NAMES)
    findings = balance_findings(COUNTS, NAMES, weights=weights, sampler="balanced")
    assert [finding.code for finding in findings] == ["B001"]
    assert "class weights and the balanced sampler" in findings[0].evidence
    assert not balance_findings(COUNTS, NAMES, weights=weights, sampler="shuffle")
    assert not balance_findings(COUNTS, NAMES, weights=None, sampler="sqrt")
    equal = np.ones(3)
    assert not balance_findings(COUNTS, NAMES, weights=equal, sampler="balanced")
    assert balance_findings(COUNTS, NAMES, weights=weights, sampler="shuffle", smote=True)


TARGETS = np.repeat([0, 2, 3], [20, 70, 210])  # class 1 does not occur


@pytest.mark.parametrize("sampler", ["shuffle", "balanced", "sqrt"])
def test_an_epoch_is_as_long_as_train(sampler: str):
    order = sample_order(TARGETS, sampler, np.random.default_rng(0))
    assert len(order) == len(TARGETS)
    assert order.min() >= 0
    assert order.max() < len(TARGETS)


def test_shuffle_meets_every_image_once():
    order = sample_order(TARGETS, "shuffle", np.random.default_rng(0))
    np.testing.assert_array_equal(np.sort(order), np.arange(len(TARGETS)))
    assert not np.array_equal(order, np.arange(len(TARGETS)))


def test_balanced_meets_every_class_as_often():
    order = sample_order(TARGETS, "balanced", np.random.default_rng(0))
    np.testing.assert_array_equal(np.bincount(TARGETS[order]), [100, 0, 100, 100])
    draws = np.bincount(order, minlength=len(TARGETS))
    assert set(draws[:20]) == {5}
    assert set(draws[20:90]) == {1, 2}
    assert set(draws[90:]) == {0, 1}
    # Mixed, not class after class.
    assert len(np.unique(TARGETS[order[:30]])) == 3


def test_sqrt_meets_classes_by_the_root_of_their_counts():
    total = np.zeros(4)
    for seed in range(50):
        order = sample_order(TARGETS, "sqrt", np.random.default_rng(seed))
        total += np.bincount(TARGETS[order], minlength=4)
    roots = np.sqrt([20, 0, 70, 210])
    np.testing.assert_allclose(total / total.sum(), roots / roots.sum(), atol=0.002)


def test_multi_label_sampling_lifts_rare_labels():
    rng = np.random.default_rng(1)
    targets = (rng.random((600, 3)) < [0.5, 0.05, 0.3]).astype(np.int64)
    share = targets[:, 1].mean()
    lifted = [
        targets[sample_order(targets, sampler, np.random.default_rng(0), 6000), 1].mean()
        for sampler in ("sqrt", "balanced")
    ]
    assert share < 0.08
    assert 1.5 * share < lifted[0] < lifted[1]


def test_the_order_follows_the_generator():
    orders = [sample_order(TARGETS, "balanced", np.random.default_rng(s)) for s in (4, 4, 5)]
    np.testing.assert_array_equal(orders[0], orders[1])
    assert not np.array_equal(orders[0], orders[2])


@pytest.fixture(scope="module")
def blobs() -> tuple[np.ndarray, np.ndarray]:
    """Three classes of 40, 12 and 4 images; within a class brightness runs from dark to light."""
    rng = np.random.default_rng(8)
    targets = np.repeat([0, 1, 2], [40, 12, 4])
    images = rng.integers(0, 60, (56, 12, 12, 3))
    images += (rng.random(56) * 150).astype(int)[:, None, None, None]
    return images.astype(np.uint8), targets


@pytest.mark.parametrize("space", ["smote", "smote-pixels"])
def test_smote_fills_classes_with_images_between_images_of_the_class(
    space: str, blobs: tuple[np.ndarray, np.ndarray]
):
    pixels, targets = blobs
    made = smote(pixels, targets, NAMES, seed=3, space=space, num_neighbours=3)
    all_pixels, all_targets, marks = with_synthetic(pixels, targets, made)
    np.testing.assert_array_equal(np.bincount(all_targets), [40, 40, 40])
    assert marks.sum() == len(made.images) == 28 + 36
    np.testing.assert_array_equal(all_pixels[~marks], pixels)
    for image, label, (a, b), step in zip(
        made.images, made.targets, made.parents, made.steps, strict=True
    ):
        assert targets[a] == targets[b] == label
        blend = (1 - step) * pixels[a].astype(float) + step * pixels[b]
        assert np.abs(image - blend).max() <= 0.5
    assert not made.notes
    # Steps are uniform on [0, 1], so images are new ones.
    assert 0.35 < made.steps.mean() < 0.65
    assert (made.parents[:, 0] != made.parents[:, 1]).all()


@pytest.mark.parametrize("space", ["smote", "smote-pixels"])
def test_smotes_parents_are_neighbours_in_the_space(
    space: str, blobs: tuple[np.ndarray, np.ndarray]
):
    pixels, targets = blobs
    # Features that say the opposite of the pixels: neighbours are i and i + 6 of a class.
    features = np.stack([np.arange(56) % 6, np.arange(56) / 1000], axis=1) * 100.0
    given = features if space == "smote" else None
    made = smote(pixels, targets, NAMES, seed=0, space=space, features=given, num_neighbours=1)
    points = features if space == "smote" else pixels.reshape(56, -1).astype(float)
    for a, b in made.parents:
        mates = np.flatnonzero(targets == targets[a])
        nearest = [
            mates[np.argsort(np.linalg.norm(points[mates] - points[end], axis=1))[1]]
            for end in (a, b)
        ]
        assert b == nearest[0] or a == nearest[1]


def test_the_embedding_finds_the_bright_ones_neighbours(blobs: tuple[np.ndarray, np.ndarray]):
    pixels, targets = blobs
    made = smote(pixels, targets, NAMES, seed=0, num_neighbours=2)
    brightness = pixels.mean(axis=(1, 2, 3))
    gaps = np.abs(brightness[made.parents[:, 0]] - brightness[made.parents[:, 1]])
    everyone = np.abs(np.subtract.outer(brightness[targets == 1], brightness[targets == 1]))
    assert gaps[made.targets == 1].mean() < 0.5 * everyone.mean()


def test_a_class_too_small_is_copied_and_told(blobs: tuple[np.ndarray, np.ndarray]):
    pixels, targets = blobs
    made = smote(pixels, targets, NAMES, seed=0)
    assert len(made.notes) == 1
    assert "'WBC' has 4 training images, fewer than 6" in made.notes[0]
    copies = made.targets == 2
    assert copies.sum() == 36
    np.testing.assert_array_equal(made.parents[copies, 0], made.parents[copies, 1])
    np.testing.assert_array_equal(made.images[copies], pixels[made.parents[copies, 0]])
    np.testing.assert_array_equal(np.bincount(np.r_[targets, made.targets]), [40, 40, 40])


def test_smote_follows_its_seed(blobs: tuple[np.ndarray, np.ndarray]):
    pixels, targets = blobs
    first, same, other = (smote(pixels, targets, NAMES, seed=s) for s in (1, 1, 2))
    np.testing.assert_array_equal(first.images, same.images)
    assert not np.array_equal(first.steps, other.steps)


def test_balanced_classes_need_no_smote(blobs: tuple[np.ndarray, np.ndarray]):
    pixels, _ = blobs
    made = smote(pixels[:40], np.repeat([0, 1], 20), NAMES, seed=1)
    assert made.images.shape == (0, 12, 12, 3)
    assert made.parents.shape == (0, 2)


def test_smote_refuses_what_it_cannot_do(blobs: tuple[np.ndarray, np.ndarray]):
    pixels, targets = blobs
    with pytest.raises(ConfigError, match="multi-label"):
        smote(pixels, np.eye(3, dtype=np.int64)[targets], NAMES, seed=0)
    with pytest.raises(ConfigError, match="smote-pixels"):
        smote(pixels, targets, NAMES, seed=0, space="smote-pixel")
    with pytest.raises(DataError, match="features have 5 rows, images 56"):
        smote(pixels, targets, NAMES, seed=0, features=np.zeros((5, 2)))


@pytest.mark.parametrize("sampler", ["shuffle", "balanced", "sqrt"])
@pytest.mark.parametrize("multilabel", [False, True])
def test_expected_draws_are_the_average_of_drawn_epochs(sampler: str, multilabel: bool):
    targets = np.repeat([0, 1, 3], [40, 8, 12])
    if multilabel:
        targets = np.eye(4, dtype=np.int64)[targets]
        targets[:5, 1] = 1
    rng = np.random.default_rng(0)
    table = targets if multilabel else np.eye(4, dtype=np.int64)[targets]
    epochs = [table[sample_order(targets, sampler, rng)].sum(axis=0) for _ in range(300)]
    np.testing.assert_allclose(drawn_counts(targets, sampler, 4), np.mean(epochs, axis=0), atol=0.6)

"""The shipped table of published results: typed carefully, and checked against its sums."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from scanwise.data.medmnist_table import MEDMNIST, SIZES_PX
from scanwise.data.published import published_results, published_sources


def value(source: str, method: str, flag: str, px: int | None, metric: str) -> float:
    (found,) = (
        row.value
        for row in published_results()
        if (row.source, row.method, row.dataset, row.data_px, row.metric)
        == (source, method, flag, px, metric)
    )
    return found


def test_counts_names_and_ranges():
    rows = published_results()
    assert Counter(row.source for row in rows) == {
        "medmnist_v2": 168, "doerrich_2025": 168, "medvitv2": 48, "medmamba": 20,
        "ensemble_study": 7,
    }  # fmt: skip
    assert {row.dataset for row in rows} == set(MEDMNIST)
    assert {row.data_px for row in rows} <= {None, *SIZES_PX}
    assert {row.source for row in rows} == set(published_sources())
    assert all(0.4 < row.value < 1 for row in rows)
    keys = [(row.source, row.method, row.dataset, row.data_px, row.metric) for row in rows]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        (("medmnist_v2", "ResNet-18 (28)", "dermamnist", 28, "ACC"), 0.735),
        (("medmnist_v2", "ResNet-18 (28)", "octmnist", 28, "AUC"), 0.943),
        (("medmnist_v2", "Google AutoML Vision", "pneumoniamnist", 28, "ACC"), 0.946),
        (("medmnist_v2", "ResNet-50 (224)", "organcmnist", 28, "ACC"), 0.911),
        (("doerrich_2025", "VGG16, end-to-end", "octmnist", 28, "ACC"), 0.7750),
        (("doerrich_2025", "DenseNet-121, end-to-end", "chestmnist", 224, "AUC"), 0.8222),
        (("doerrich_2025", "DenseNet-121, end-to-end", "organsmnist", 64, "ACC"), 0.8347),
        (("doerrich_2025", "ViT-B, linear probe", "retinamnist", 28, "ACC"), 0.5425),
        (("medvitv2", "MedViTV2-L", "breastmnist", None, "ACC"), 0.910),
        (("medmamba", "MedMamba", "bloodmnist", None, "AUC"), 0.999),
        (("ensemble_study", "soft vote of 4 networks", "dermamnist", 224, "AUC"), 0.988),
    ],
)
def test_cells(cell, expected):
    assert value(*cell) == expected


@pytest.mark.parametrize(
    ("source", "method", "px", "acc", "auc"),
    [
        ("medmnist_v2", "ResNet-18 (28)", 28, 0.8187, 0.9218),
        ("medmnist_v2", "ResNet-18 (224)", 28, 0.8213, 0.9245),
        ("medmnist_v2", "ResNet-50 (28)", 28, 0.8163, 0.9203),
        ("medmnist_v2", "ResNet-50 (224)", 28, 0.8214, 0.9226),
        ("medmnist_v2", "auto-sklearn", 28, 0.7218, 0.8780),
        ("medmnist_v2", "AutoKeras", 28, 0.8130, 0.9171),
        ("medmnist_v2", "Google AutoML Vision", 28, 0.8087, 0.9269),
        ("doerrich_2025", "ResNet-18, end-to-end", 28, 0.7966, 0.9092),
        ("doerrich_2025", "DINO, linear probe", 28, 0.7823, 0.9094),
        ("doerrich_2025", "ResNet-18, end-to-end", 224, 0.8622, 0.9451),
        ("doerrich_2025", "DenseNet-121, end-to-end", 224, 0.8711, 0.9503),
        ("doerrich_2025", "DINO, linear probe", 224, 0.8511, 0.9499),
    ],
)
def test_columns_have_their_stated_means(source, method, px, acc, auc):
    """A mistyped cell moves the mean of its twelve sets."""
    for metric, mean in (("ACC", acc), ("AUC", auc)):
        cells = [value(source, method, flag, px, metric) for flag in MEDMNIST]
        assert np.mean(cells) == pytest.approx(mean, abs=6e-5)


def test_what_chose_on_test_is_marked():
    sources = published_sources()
    assert {key for key, source in sources.items() if source.mark == "‡"} == {"medvitv2"}
    assert sources["medvitv2"].selected_on == "test"
    assert sources["medmamba"].mark == "‡?"
    assert sources["doerrich_2025"].seeds == 3
    doubtful = {(row.source, row.dataset) for row in published_results() if not row.is_comparable}
    assert doubtful == {("medvitv2", "chestmnist")}

"""ImageClassifier under scikit-learn's own tools."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_val_score

from scanwise import ImageClassifier


@pytest.fixture(scope="module")
def small():
    """90 grey 12-px images in three classes of different brightness, of 15 patients."""
    rng = np.random.default_rng(0)
    targets = np.arange(90) % 3
    images = rng.normal(60 + 60 * targets[:, None, None], 20, (90, 12, 12))
    groups = np.array([f"p{row // 6}" for row in range(90)])
    return images.clip(0, 255).astype(np.uint8), np.array(["a", "b", "c"])[targets], groups


def quick(**settings) -> ImageClassifier:
    return ImageClassifier(
        **{"model": "mlp:16", "epochs": 8, "lr": 1e-2, "augment": "none", **settings}
    )


def test_clone_and_params_round_trip():
    model = quick(seed=3)
    copy = clone(model)
    assert copy is not model
    assert copy.get_params() == model.get_params()
    assert copy.set_params(epochs=7).epochs == 7
    with pytest.raises(ValueError, match="epoks"):
        copy.set_params(epoks=1)


def test_fit_returns_self_and_learns(small):
    images, labels, _ = small
    model = quick()
    assert model.fit(images, labels) is model
    assert model.classes_.tolist() == ["a", "b", "c"]
    probabilities = model.predict_proba(images)
    assert probabilities.shape == (90, 3)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    assert set(model.predict(images)) <= {"a", "b", "c"}
    assert model.score(images, labels) > 0.8
    np.testing.assert_array_equal(model.predict(images), model.classes_[probabilities.argmax(1)])


def test_same_seed_same_probabilities(small):
    images, labels, _ = small
    first, second = (quick(seed=1).fit(images, labels).predict_proba(images) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_cross_val_score_with_groups(small):
    images, labels, groups = small
    scores = cross_val_score(quick(), images, labels, groups=groups, cv=GroupKFold(3))
    assert scores.shape == (3,)
    assert scores.mean() > 0.6


def test_grid_search(small):
    images, labels, _ = small
    search = GridSearchCV(quick(), {"lr": [1e-2, 1e-5]}, cv=2, error_score="raise")
    search.fit(images, labels)
    assert search.best_params_ == {"lr": 1e-2}


def test_integer_and_one_column_labels(small):
    images, labels, _ = small
    numbers = np.searchsorted(["a", "b", "c"], labels) + 5
    model = quick(epochs=1).fit(images, numbers[:, None])
    assert model.classes_.tolist() == [5, 6, 7]
    assert set(model.predict(images)) <= {5, 6, 7}


def test_multilabel(small):
    images, labels, _ = small
    many = np.stack([labels == "a", labels != "c", np.arange(90) % 2 == 0], axis=1).astype(int)
    model = quick(epochs=1).fit(images, many)
    assert model.predict(images).shape == (90, 3)
    assert set(np.unique(model.predict(images))) <= {0, 1}


def test_unfitted_and_bad_input(small):
    images, labels, _ = small
    with pytest.raises(NotFittedError):
        quick().predict(images)
    with pytest.raises(ValueError, match="90"):
        quick().fit(images, labels[:-1])
    with pytest.raises(ValueError, match="optimizer"):
        quick(optimizer="adm").fit(images, labels)
    fitted = quick(epochs=1).fit(images, labels)
    with pytest.raises(ValueError, match="12x12"):
        fitted.predict(images[:, :10])
    with pytest.raises(ValueError, match=r"\(n, h, w\)"):
        fitted.predict(images[0])

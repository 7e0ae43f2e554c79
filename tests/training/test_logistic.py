"""The logistic head: the exact minimum, on all rows or rotated, folded back to plain features."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from scanwise.training.logistic import ABSENT, fit_logistic

RNG = np.random.default_rng(0)


def objective(flat, numbers, labels, shares, penalty, k):
    """The docstring's formula, term by term."""
    weight = torch.from_numpy(flat[: k * numbers.shape[1]].reshape(k, -1)).requires_grad_()
    bias = torch.from_numpy(flat[k * numbers.shape[1] :]).requires_grad_()
    logits = torch.from_numpy(numbers) @ weight.T + bias
    losses = torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels), reduction="none")
    share = torch.from_numpy(shares / shares.sum())
    value = (losses * share).sum() + penalty / 2 * weight.square().sum()
    value.backward()
    return float(value.detach()), np.concatenate([weight.grad.numpy().ravel(), bias.grad.numpy()])


@pytest.mark.parametrize("d", [4, 60], ids=["fewer features than rows", "more, so rotated"])
@pytest.mark.parametrize("weighted", [False, True])
def test_it_is_the_minimum_of_the_stated_loss(d, weighted):
    n, views, k = 15, 2, 3
    features = RNG.normal(size=(n, views, d)).astype(np.float32) * 5 + 2
    targets = np.arange(n) % k
    shares = RNG.uniform(0.5, 2, n) if weighted else np.ones(n)
    rows = features.reshape(-1, d).astype(np.float64)
    numbers = (rows - rows.mean(0)) / rows.std(0)
    labels = np.repeat(targets, views)
    for found in fit_logistic(
        features, targets, num_classes=k, weights=shares if weighted else None,
        penalties=(1.0, 0.1),
    ):  # fmt: skip
        best = minimize(
            objective, np.zeros(k * d + k), jac=True, method="L-BFGS-B", tol=1e-12,
            args=(numbers, labels, np.repeat(shares, views), found.penalty, k),
        )  # fmt: skip
        weight, bias = best.x[: k * d].reshape(k, d), best.x[k * d :]
        expected = torch.softmax(torch.from_numpy(numbers @ weight.T + bias), 1).numpy()
        logits = rows @ found.weight.T.astype(np.float64) + found.bias
        shown = torch.softmax(torch.from_numpy(logits), 1).numpy()
        np.testing.assert_allclose(shown, expected, atol=3e-3)


def test_two_classes_are_a_softmax_of_two_logits():
    features = RNG.normal(size=(40, 1, 3)).astype(np.float32)
    targets = (features[:, 0, 0] > 0).astype(np.int64)
    (found,) = fit_logistic(features, targets, num_classes=2, penalties=(0.01,))
    assert found.weight.shape == (2, 3)
    answers = (features[:, 0] @ found.weight.T + found.bias).argmax(1)
    assert (answers == targets).mean() > 0.9


def test_a_class_without_images_is_never_answered():
    features = RNG.normal(size=(30, 1, 3)).astype(np.float32)
    targets = np.arange(30) % 2 * 2  # classes 0 and 2 of 3
    (found,) = fit_logistic(features, targets, num_classes=3, penalties=(1.0,))
    logits = features[:, 0] @ found.weight.T + found.bias
    assert (logits[:, 1] < logits[:, [0, 2]].min(1) - ABSENT / 2).all()


def test_constant_features_and_a_single_class_do_no_harm():
    features = np.concatenate([np.full((20, 1, 1), 7.0), RNG.normal(size=(20, 1, 2))], 2)
    targets = np.arange(20) % 2
    (found,) = fit_logistic(features.astype(np.float32), targets, num_classes=2, penalties=(1.0,))
    assert np.isfinite(found.weight).all()
    assert (found.weight[:, 0] == 0).all()
    (one,) = fit_logistic(
        features.astype(np.float32), np.ones(20, np.int64), num_classes=2, penalties=(1.0,)
    )
    assert (features[:, 0] @ one.weight.T + one.bias).argmax(1).tolist() == [1] * 20


def test_labels_are_fitted_one_by_one_and_weighted():
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    features = RNG.normal(size=(50, 1, 4)).astype(np.float32)
    labels = np.stack([features[:, 0, 0] > 0.3, features[:, 0, 1] > 0, np.zeros(50)], 1)
    labels = labels.astype(np.int64)
    shares = np.where(labels > 0, 3.0, 1.0)
    (found,) = fit_logistic(features, labels, num_classes=3, weights=shares, penalties=(0.1,))
    logits = features[:, 0] @ found.weight.T + found.bias
    assert (logits[:, 2] <= -ABSENT / 2).all()
    numbers = StandardScaler().fit_transform(features[:, 0].astype(np.float64))
    for k in (0, 1):
        total = shares[:, k].sum()
        twin = LogisticRegression(C=1 / (0.1 * total), max_iter=1000, tol=1e-8)
        expected = twin.fit(numbers, labels[:, k], sample_weight=shares[:, k])
        np.testing.assert_allclose(logits[:, k], expected.decision_function(numbers), atol=2e-3)

"""Pages that ask one opened model at the same time."""

from __future__ import annotations

import copy
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from scanwise.app.answers import Models
from scanwise.deploy.explain import explain, find_way
from scanwise.deploy.subject import Subject


def meet(network, monkeypatch):
    """Make passes overlap: within one, wait until another thread has hooked and run the network."""
    both = threading.Barrier(2)
    passed = type(network).forward

    def forward(self, images):
        logits = passed(self, images)
        if self is network:
            try:  # alone in the network nobody comes
                both.wait(timeout=0.3)
            except threading.BrokenBarrierError:
                both.reset()
        return logits

    monkeypatch.setattr(type(network), "forward", forward)


def test_two_pages_on_one_model_get_their_own_unknown_scores(disc_run, monkeypatch):
    models = Models()
    bundle = models.open(disc_run.path)[0]
    assert models.open(disc_run.path)[0] is bundle
    h, w = bundle.config.size_px
    shape = (4, h, w, bundle.config.channels)
    random = np.random.default_rng(0)
    batches = [random.integers(low, low + 60, shape).astype(np.uint8) for low in (0, 180)]
    alone = [bundle.predict(batch).unknown_scores for batch in batches]
    assert not np.allclose(alone[0], alone[1])
    meet(bundle.model, monkeypatch)
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(lambda batch: bundle.predict(batch).unknown_scores, batches))
    np.testing.assert_array_equal(together, alone)


def test_a_map_drawn_during_a_prediction_leaves_it_alone(disc_run):
    bundle = Models().open(disc_run.path)[0]
    shape = (2, *bundle.preprocessing.size_px, bundle.preprocessing.channels)
    pixels = np.random.default_rng(1).integers(0, 255, shape).astype(np.uint8)
    subject = Subject(bundle, pixels)
    way = find_way(subject, "auto")
    scores = bundle.predict(pixels).unknown_scores
    maps = explain(subject, way, None).maps
    with ThreadPoolExecutor(2) as pool:
        drawn = pool.submit(lambda: [explain(subject, way, None).maps for _ in range(3)])
        answers = [bundle.predict(pixels).unknown_scores for _ in range(30)]
    for each in drawn.result():
        np.testing.assert_array_equal(each, maps)
    for each in answers:
        np.testing.assert_array_equal(each, scores)


def test_a_used_model_can_still_be_copied_and_pickled(disc_run):
    bundle = Models().open(disc_run.path)[0]
    pixels = np.zeros((1, *bundle.config.size_px, bundle.config.channels), np.uint8)
    expected = bundle.predict(pixels).probabilities
    for other in (copy.deepcopy(bundle), pickle.loads(pickle.dumps(bundle))):
        np.testing.assert_array_equal(other.predict(pixels).probabilities, expected)

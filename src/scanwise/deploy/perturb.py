"""Tests of maps: delete and insert pixels in their order, and draw the network's weights anew."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from scanwise.deploy.bundle import Bundle, random_network
from scanwise.deploy.ensemble import EnsembleBundle, Member
from scanwise.deploy.explain import Explanations, as_type, explain
from scanwise.deploy.subject import Subject
from scanwise.metrics.faithfulness import MapScores, curve_area, rank_correlation

STEPS = 16  # parts in which an image is deleted and inserted
RANDOM_MAPS = 3  # random orders that each map is compared with
REDRAWS = 2  # networks with random weights
BLUR = 1 / 8  # of the side: sigma of the blurred image that insertion starts from


def score_maps(
    subject: Subject,
    found: Explanations,
    *,
    seed: int = 0,
    device: str = "cpu",
    told: Callable[[int, int], None] | None = None,
) -> MapScores:
    """Measure deletion, insertion and dependence on the weights of each map.

    Deletion replaces pixels by the mean colour, in 16 steps; insertion brings them back into a
    blurred image. Random maps have as many places as the map (a coarse map deletes in patches, and
    must not be compared with one that deletes single pixels) and are enlarged in the same way.

    Args:
        subject: The images that were explained.
        found: Their maps.
        seed: Of random maps and weights.
        device: Where to compute.
        told: Called with the number of images done, and of all.

    Source:
        Petsiuk et al., RISE, BMVC 2018, arXiv:1806.07421; Adebayo et al., NeurIPS 2018,
        arXiv:1810.03292. RISE blurs less (5 of 224 px) and compares with other methods' maps.
    """
    rng = np.random.default_rng(seed)
    areas = np.empty((len(found), 1 + RANDOM_MAPS, 2))
    for row in range(len(found)):
        own = _order(found.maps[row], found.map_px, rng)
        others = [
            _order(np.zeros_like(found.maps[row]), found.map_px, rng) for _ in range(RANDOM_MAPS)
        ]
        for place, order in enumerate([own, *others]):
            areas[row, place] = _areas(subject, row, order, int(found.explained[row]), device)
        if told is not None:
            told(row + 1, len(found))
    redrawn = [_correlation(subject, found, seed + turn, device) for turn in range(REDRAWS)]
    return MapScores(
        deletion=areas[:, 0, 0],
        deletion_random=areas[:, 1:, 0].mean(axis=1),
        insertion=areas[:, 0, 1],
        insertion_random=areas[:, 1:, 1].mean(axis=1),
        correlation=np.mean(redrawn, axis=0),
    )


def with_random_weights(bundle: Bundle, seed: int) -> Bundle:
    """The same network with all weights drawn anew, as before training; of every member alike."""
    if isinstance(bundle, EnsembleBundle):
        members = [
            Member(with_random_weights(each.bundle, seed + 100 * place), each.weight, each.run)
            for place, each in enumerate(bundle.members)
        ]
        return EnsembleBundle(members, bundle.method)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if bundle.config.architecture.startswith("custom:"):
            network = _reset(copy.deepcopy(bundle.model))
        else:
            network = random_network(bundle.config)
    return Bundle(network, bundle.preprocessing, bundle.config)


def _reset(network: nn.Module) -> nn.Module:
    """Draw anew what knows how to: every layer of torch with weights does."""
    for layer in network.modules():
        reset: Any = getattr(layer, "reset_parameters", None)
        if callable(reset):
            reset()
    return network


def _correlation(
    subject: Subject, found: Explanations, seed: int, device: str
) -> NDArray[np.float64]:
    other = subject.with_bundle(with_random_weights(subject.bundle, seed))
    random = explain(other, found.way, found.explained, device=device)
    return rank_correlation(found.maps, random.maps)


def _order(
    values: NDArray[np.float32], map_px: tuple[int, int], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Rank of each pixel, int (h, w), 0 for the first to go: the largest value.

    Ties (all the zeros of a map, or all of an empty one) follow a random map.
    """
    height, width = values.shape
    small = rng.random(map_px, dtype=np.float32)
    random = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
    order = np.lexsort((-random.ravel(), -values.ravel()))
    rank = np.empty(order.size, np.int64)
    rank[order] = np.arange(order.size)
    return rank.reshape(height, width)


def _areas(
    subject: Subject, row: int, rank: NDArray[np.int64], class_index: int, device: str
) -> NDArray[np.float64]:
    """Deletion and insertion area of one image for one order of its pixels, (2,)."""
    image = subject.pixels[row]
    nothing = np.broadcast_to(as_type(subject.nothing(), image.dtype), image.shape)
    gone = np.linspace(0, rank.size, STEPS + 1).round()[:, None, None] > rank
    chosen = gone[..., None]
    deleted = np.where(chosen, nothing, image)
    inserted = np.where(chosen, image, _blurred(image))
    said = subject.answer(np.concatenate([deleted, inserted]), device=device)
    return curve_area(said[:, class_index].reshape(2, STEPS + 1))


def _blurred(image: NDArray[Any]) -> NDArray[Any]:
    blurred = cv2.GaussianBlur(image, (0, 0), BLUR * max(image.shape[:2]))
    return np.asarray(blurred).reshape(image.shape)

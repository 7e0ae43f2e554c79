"""Features are computed once, kept to the bit, and the same whatever is left of the cache."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from scanwise.core.types import Dataset
from scanwise.data.load import from_arrays
from scanwise.models.backbones import FrozenBackbone, open_backbone, tensors_sha256
from scanwise.prepare.augment import PRESETS
from scanwise.prepare.preprocessing import Preprocessing, fit_preprocessing
from scanwise.training import engine as engines
from scanwise.training.engine import make_engine
from scanwise.training.features import SHARD_ROWS, FeatureBatches, FeatureCache, FeatureExtractor

N = 37


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCANWISE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(engines, "_median_s", lambda run, images: 1.0)  # no clock decides here


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    rng = np.random.default_rng(2)
    return from_arrays(rng.integers(0, 256, (N, 20, 20, 3), np.uint8), np.arange(N) % 2)


@pytest.fixture(scope="module")
def backbone(tiny_hub):
    return open_backbone(f"hf:{tiny_hub}")


@pytest.fixture
def preprocessing(dataset, backbone) -> Preprocessing:
    fitted = fit_preprocessing(dataset, np.arange(N), channels=3)
    return fitted.with_source(backbone.spec.mean, backbone.spec.std, backbone.spec.name)


def make(backbone, preprocessing, dataset, strength: str = "medium") -> FeatureExtractor:
    sample = preprocessing.normalise(torch.from_numpy(dataset.images[:4]))
    engine = make_engine(backbone, sample, torch.device("cpu"))
    return FeatureExtractor(backbone.spec, engine, preprocessing, PRESETS[strength])


def test_cached_features_equal_those_computed_directly(backbone, preprocessing, dataset):
    extractor = make(backbone, preprocessing, dataset)
    first = extractor.extract(dataset.images)
    again = make(backbone, preprocessing, dataset).extract(dataset.images)
    assert (first.num_computed, again.num_computed) == (N, 0)
    np.testing.assert_array_equal(again.features, first.features)
    batch = preprocessing.normalise(torch.from_numpy(dataset.images[:5]))
    np.testing.assert_array_equal(first.features[:5, 0], extractor.engine.features(batch))
    with torch.inference_mode():
        torch_s = FrozenBackbone(backbone)(batch).numpy()
    np.testing.assert_allclose(first.features[:5, 0], torch_s, rtol=1e-4, atol=1e-4)


def test_half_a_cache_is_filled_up_with_the_same_bits(backbone, preprocessing, dataset):
    whole = make(backbone, preprocessing, dataset).extract(dataset.images, views=3)
    extractor = make(backbone, preprocessing, dataset)
    (shard,) = extractor.cache.folder.glob("*.npy")
    rows = np.load(shard)
    np.save(shard, rows[::2])
    again = make(backbone, preprocessing, dataset).extract(dataset.images, views=3)
    assert again.num_computed == len(rows) - len(rows[::2])
    np.testing.assert_array_equal(again.features, whole.features)


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY", b"no array at all" * 10])
def test_damaged_files_count_as_absent(backbone, preprocessing, dataset, damage):
    whole = make(backbone, preprocessing, dataset).extract(dataset.images)
    for shard in make(backbone, preprocessing, dataset).cache.folder.glob("*.npy"):
        shard.write_bytes(damage)
    again = make(backbone, preprocessing, dataset).extract(dataset.images)
    assert again.num_computed == N
    np.testing.assert_array_equal(again.features, whole.features)


def test_a_truncated_file_counts_as_absent(backbone, preprocessing, dataset):
    make(backbone, preprocessing, dataset).extract(dataset.images)
    for shard in make(backbone, preprocessing, dataset).cache.folder.glob("*.npy"):
        shard.write_bytes(shard.read_bytes()[:-7])
    assert make(backbone, preprocessing, dataset).extract(dataset.images).num_computed == N


def test_views_depend_on_nothing_but_the_image(backbone, preprocessing, dataset):
    extractor = make(backbone, preprocessing, dataset)
    whole = extractor.extract(dataset.images, views=3).features
    order = np.random.default_rng(0).permutation(N)
    for path in extractor.cache.folder.glob("*.npy"):
        path.unlink()
    shuffled = make(backbone, preprocessing, dataset).extract(dataset.images[order], views=3)
    np.testing.assert_array_equal(shuffled.features, whole[order])
    assert not np.array_equal(whole[:, 0], whole[:, 1])
    assert not np.array_equal(whole[:, 1], whole[:, 2])


def test_more_views_reuse_those_that_are_there(backbone, preprocessing, dataset):
    make(backbone, preprocessing, dataset).extract(dataset.images)
    more = make(backbone, preprocessing, dataset).extract(dataset.images, views=2)
    assert more.num_computed == N
    other = make(backbone, preprocessing, dataset, "strong").extract(dataset.images, views=2)
    assert other.num_computed == N  # other views, the same plain images


def test_the_same_picture_twice_is_computed_alike(backbone, preprocessing, dataset):
    twice = np.concatenate([dataset.images[:3], dataset.images[:3]])
    found = make(backbone, preprocessing, dataset).extract(twice).features
    np.testing.assert_array_equal(found[:3], found[3:])


def test_without_room_nothing_is_kept_and_it_is_said(
    backbone, preprocessing, dataset, tmp_path, monkeypatch
):
    expected = make(backbone, preprocessing, dataset).extract(dataset.images).features
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    monkeypatch.setenv("SCANWISE_CACHE", str(blocked))
    extractor = make(backbone, preprocessing, dataset)
    found = extractor.extract(dataset.images)
    assert extractor.cache.not_cached
    np.testing.assert_array_equal(found.features, expected)


def test_full_files_reach_the_disk_before_the_end(tmp_path):
    cache = FeatureCache(tmp_path / "f", 4)
    for number in range(SHARD_ROWS + 1):
        cache.put(number.to_bytes(32, "little"), np.full(4, number, np.float32))
    assert len(FeatureCache(tmp_path / "f", 4)._places) == SHARD_ROWS  # what a kill would leave
    cache.flush()
    again = FeatureCache(tmp_path / "f", 4)
    assert again.get((SHARD_ROWS).to_bytes(32, "little")).tolist() == [SHARD_ROWS] * 4


def test_an_engine_whose_outputs_differ_is_not_used(backbone, preprocessing, dataset, monkeypatch):
    real = engines._on_onnxruntime

    def wrong(session):
        run = real(session)
        return lambda images: run(images) * 1.01

    monkeypatch.setattr(engines, "_on_onnxruntime", wrong)
    extractor = make(backbone, preprocessing, dataset)
    assert extractor.engine.verdict.engine == "torch"
    assert "differ" in extractor.engine.verdict.reason


def test_a_network_that_cannot_be_exported_runs_in_torch(
    backbone, preprocessing, dataset, monkeypatch
):
    def fail(*args, **kwargs):
        raise RuntimeError("unsupported operator")

    monkeypatch.setattr(engines, "write_onnx", fail)
    extractor = make(backbone, preprocessing, dataset)
    assert extractor.engine.verdict.engine == "torch"
    assert "unsupported operator" in extractor.engine.verdict.reason


def test_the_choice_of_engine_is_remembered(backbone, preprocessing, dataset, monkeypatch):
    first = make(backbone, preprocessing, dataset).engine.verdict
    monkeypatch.setattr(engines, "_compare", lambda *args: pytest.fail("compared twice"))
    assert make(backbone, preprocessing, dataset).engine.verdict == first


def test_features_leave_the_backbone_as_it_was(backbone, preprocessing, dataset):
    before = tensors_sha256(backbone.module)
    make(backbone, preprocessing, dataset).extract(dataset.images, views=2)
    assert tensors_sha256(backbone.module) == before == backbone.spec.weights_sha256


def batches(**settings) -> FeatureBatches:
    features = np.arange(N * 3 * 2, dtype=np.float32).reshape(N, 3, 2)
    return FeatureBatches(features, np.arange(N) % 2, **settings)


def test_an_epoch_shows_each_image_once_in_one_of_its_views():
    stream = batches(batch_size=4, training=True, seed=3)
    for epoch in range(4):
        rows = torch.cat([b[0] for b in stream.iterate(epoch)])[:, 0].numpy() // 2
        assert sorted(rows // 3) == list(range(N))
    seen = {
        (int(v) // 2 // 3, int(v) // 2 % 3)
        for epoch in range(3)
        for b in stream.iterate(epoch)
        for v in b[0][:, 0]
    }
    assert len(seen) == N * 3  # three epochs: all three views of each


def test_an_epoch_is_a_function_of_seed_and_number():
    one, two = (
        batches(batch_size=8, training=True, seed=1),
        batches(batch_size=8, training=True, seed=1),
    )
    for left, right in zip(one.iterate(5), two.iterate(5), strict=True):
        assert torch.equal(left[0], right[0])
    first = next(iter(one.iterate(5)))[0]
    assert not torch.equal(first, next(iter(one.iterate(6)))[0])


def test_evaluation_is_in_order_and_plain():
    stream = batches(batch_size=10)
    rows = torch.cat([b[0] for b in stream.iterate()])[:, 0].numpy()
    assert rows.tolist() == [6.0 * i for i in range(N)]


def test_no_batch_of_one_in_training():
    sizes = [len(b[0]) for b in batches(batch_size=4, training=True).iterate()]
    assert sum(sizes) == N
    assert min(sizes) > 1
    assert len(sizes) == batches(batch_size=4, training=True).steps_per_epoch


@pytest.mark.parametrize(
    ("torch_s", "onnx_s", "engine"),
    [(1.0, 0.5, "onnxruntime"), (1.0, 1.4, "onnxruntime"), (1.0, 1.6, "torch")],
)
def test_the_faster_engine_is_taken_if_it_is_clearly_faster(
    backbone, preprocessing, dataset, monkeypatch, torch_s, onnx_s, engine
):
    times = iter([torch_s, onnx_s])
    monkeypatch.setattr(engines, "_median_s", lambda run, images: next(times))
    assert make(backbone, preprocessing, dataset).engine.verdict.engine == engine

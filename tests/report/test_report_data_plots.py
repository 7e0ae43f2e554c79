"""The five pictures of a data set, from chunks, and the page of `scanwise check`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from scanwise.core.types import Dataset
from scanwise.report import data_plots
from scanwise.report.data_plots import (
    pixel_statistics,
    plot_class_distribution,
    write_augmentation_sheet,
    write_check_page,
    write_data_plots,
)
from scanwise.report.style import save_figure

NAMES = {"class_distribution", "samples", "intensity", "intensity_per_class", "mean_per_class"}


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_five_pictures_with_alt_text(
    dtype: str, task: str, sim: SimpleNamespace, tmp_path: Path
) -> None:
    dataset, split = sim.dataset(sim.Simulated(task=task), 80, dtype)
    alt = write_data_plots(dataset, split, tmp_path)
    assert set(alt) == NAMES
    assert all(len(text) > 30 for text in alt.values())
    for name in NAMES:
        assert (tmp_path / f"{name}.png").stat().st_size > 2000
        assert (tmp_path / f"{name}.svg").is_file()


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_statistics_equal_those_of_all_pixels_at_once(
    dtype: str, sim: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_plots, "CHUNK_BYTES", 4000)  # a few images a chunk
    dataset, split = sim.dataset(None, 60, dtype)
    found = pixel_statistics(dataset, split.train)
    for index in range(dataset.num_classes):
        mine = dataset.images[split.train][dataset.targets[split.train] == index]
        assert found.images[index] == len(mine)
        np.testing.assert_allclose(found.means[index], mine.mean(axis=0), rtol=1e-6, atol=1e-6)
        for channel in range(3):
            expected = np.histogram(mine[..., channel], bins=found.edges)[0]
            # Edges of float bins may fall to either side by rounding.
            assert np.abs(found.counts[index, channel] - expected).sum() <= 0.02 * mine[..., 0].size
            assert found.counts[index, channel].sum() == mine[..., 0].size


def test_pixels_are_read_in_chunks_and_at_most_so_many(
    sim: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, _ = sim.dataset(None, 60)
    asked: list[int] = []

    class Watched(np.ndarray):  # type: ignore[type-arg]
        def __getitem__(self, key: Any) -> Any:
            if isinstance(key, np.ndarray):
                asked.append(len(key))
            return super().__getitem__(key)

    watched = replace(dataset, images=dataset.images.view(Watched))
    monkeypatch.setattr(data_plots, "CHUNK_BYTES", 5 * dataset.images[0].nbytes)
    monkeypatch.setattr(data_plots, "MAX_IMAGES", 20)
    found = pixel_statistics(watched, np.arange(60))
    assert found.n_images == 20
    assert max(asked) <= 5


def test_only_training_images_are_looked_at(sim: SimpleNamespace, tmp_path: Path) -> None:
    dataset, split = sim.dataset(None, 60)
    poisoned = dataset.images.copy()
    poisoned[split.test] = 255
    poisoned[split.val] = 0
    one = write_data_plots(dataset, split, tmp_path / "a")
    other = write_data_plots(replace(dataset, images=poisoned), split, tmp_path / "b")
    assert one == other
    for name in NAMES:
        assert (tmp_path / "a" / f"{name}.svg").read_bytes() == (
            tmp_path / "b" / f"{name}.svg"
        ).read_bytes()


def test_class_distribution_before_and_after_balancing(tmp_path: Path) -> None:
    counts = {"train": np.array([90, 10]), "test": np.array([30, 5])}
    balanced = {"drawn an epoch": [50, 50], "after SMOTE": [90, 90]}
    figure = plot_class_distribution(counts, ("a", "b"), balanced=balanced)
    assert len(figure.axes) == 2
    widths = [round(patch.get_width()) for patch in figure.axes[1].patches]
    assert widths == [50, 50, 90, 90]
    totals = [text.get_text() for text in figure.axes[0].texts]
    assert totals == ["120", "15"]
    save_figure(figure, tmp_path / "f", "alt")


def test_an_absent_class_and_a_single_channel_draw_too(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 255, (12, 9, 7, 1), dtype=np.uint8)
    dataset = Dataset(
        name="grey",
        images=images,
        targets=np.zeros(12, dtype=np.int64),
        class_names=("a", "never"),
        sample_ids=tuple(f"{i}" for i in range(12)),
        sha256=("0" * 64,) * 12,
    )
    assert set(write_data_plots(dataset, None, tmp_path)) == NAMES


def test_augmentation_sheet_is_written_with_alt_text(tmp_path: Path) -> None:
    originals = np.zeros((3, 8, 8, 3), dtype=np.uint8)
    alt = write_augmentation_sheet(
        tmp_path, originals, np.zeros((3, 4, 8, 8, 3), np.uint8), note="x"
    )
    assert "4 augmented variants" in alt
    assert (tmp_path / "augmentation.png").is_file()


CHECKS = {
    "findings": [
        {"code": "D003", "severity": "info", "evidence": "a note.", "advice": "", "command": ""},
        {
            "code": "D004",
            "severity": "error",
            "evidence": "3 test images lie in <train>.",
            "advice": "Split by groups.",
            "command": "scanwise train x --group patient",
        },
    ],
    "duplicates": {"exact_pairs": 3, "leaks": {"train-test": 3}, "test_share": 0.04},
    "quality": {
        "cut": 6.0,
        "outliers": 1,
        "top": [{"row": 5, "sample": "s#5", "class": "a", "reason": "dark", "score": 9.1}],
    },
    "classes": [{"class": "a<b>", "images": 20, "sensitivity_half_width": None}],
}


def test_check_page_says_the_worst_first(sim: SimpleNamespace, tmp_path: Path) -> None:
    dataset, split = sim.dataset(None, 60)
    facts = {"name": "cells", "n": 60, "class_names": ["a<b>", "c"], "task": "multiclass"}
    plots = write_data_plots(dataset, split, tmp_path)
    examples = {"Same picture in train and test": [[3, 50], [4, 51]], "Unlike the rest": [[5]]}
    page = write_check_page(
        tmp_path, CHECKS, facts, plots, dataset=dataset, split=split, examples=examples
    )
    html = page.read_text(encoding="utf-8")
    assert "Not ready to train: 1 error must be solved" in html
    assert html.index("D004 error") < html.index("D003 info")
    assert "&lt;train&gt;" in html
    assert "a&lt;b&gt;" in html
    assert "<b>" not in html
    assert html.count("data:image/png;base64,") >= 5  # two pairs and one outlier
    assert html.count("<figure") == 5
    markdown = (tmp_path / "check.md").read_text(encoding="utf-8")
    assert "](samples.png)" in markdown
    document = json.loads((tmp_path / "check.json").read_text(encoding="utf-8"))
    assert [finding["code"] for finding in document["findings"]] == ["D004", "D003"]


def test_check_page_without_anything_says_not_checked(tmp_path: Path) -> None:
    html = write_check_page(tmp_path, {}, {"name": "x"}, {}).read_text(encoding="utf-8")
    assert "Duplicates: not checked." in html
    assert "Quality: not checked." in html
    assert "The checks found nothing to report." in html

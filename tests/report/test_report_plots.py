"""The figures draw the numbers they are given; odd input draws too."""

from __future__ import annotations

import sys
from pathlib import Path
from subprocess import run
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.figure import Figure

from scanwise.core.types import Interval
from scanwise.report.history import History, read_history
from scanwise.report.plots import (
    Curve,
    Mark,
    ReliabilityBins,
    evenly,
    plot_augmentation_sheet,
    plot_confusion_matrix,
    plot_history,
    plot_label_outcomes,
    plot_per_class,
    plot_precision_recall,
    plot_predicted_vs_actual,
    plot_reliability,
    plot_roc,
    plot_sample_grid,
    to_display,
)
from scanwise.report.style import save_figure


def texts(figure: Figure) -> list[str]:
    found = [text.get_text() for axes in figure.axes for text in axes.texts]
    found += [axes.get_title(loc="left") for axes in figure.axes]
    for axes in figure.axes:
        legend = axes.get_legend()
        found += [text.get_text() for text in legend.get_texts()] if legend else []
        found += [label.get_text() for label in axes.get_yticklabels()]
    return found


def test_confusion_matrix_shows_counts_and_row_shares(tmp_path: Path) -> None:
    matrix = np.array([[30, 10], [5, 15]])
    accuracy = Interval(0.75, 0.62, 0.85)
    figure = plot_confusion_matrix(matrix, ("normal", "ill"), split="test", accuracy=accuracy)
    shown = texts(figure)
    assert {"30\n75%", "10\n25%", "5\n25%", "15\n75%"} <= set(shown)
    assert "normal\n(n=40)" in shown
    assert "60 test images, accuracy 0.750 [0.620, 0.850]" in shown
    save_figure(figure, tmp_path / "f", "alt")  # layout warnings are errors


@pytest.mark.parametrize("k", [2, 12, 30])
def test_confusion_matrix_of_any_size_has_room(k: int, tmp_path: Path) -> None:
    matrix = np.eye(k, dtype=np.int64) * 1000 + 3
    names = tuple(f"a rather long class name {i}" for i in range(k))
    save_figure(plot_confusion_matrix(matrix, names), tmp_path / "f", "alt")


def test_over_thirty_classes_show_the_top_confusions() -> None:
    k = 31
    matrix = np.eye(k, dtype=np.int64) * 10
    matrix[4, 7], matrix[2, 0] = 6, 3
    figure = plot_confusion_matrix(matrix, tuple(f"c{i}" for i in range(k)))
    shown = texts(figure)
    assert "c4 as c7" in shown
    assert "6 (38%)" in shown  # 6 of 16
    assert shown.index("c4 as c7") < shown.index("c2 as c0")
    assert any(text.startswith("Top confusions of 31 classes") for text in shown)


def test_history_marks_the_kept_epoch_and_the_test_line_only_after_evaluation(
    sim: SimpleNamespace, tmp_path: Path
) -> None:
    history = History.from_rows(sim.history_rows())
    before = plot_history(history, best_epoch=16)
    after = plot_history(history, best_epoch=16, test_accuracy=Interval(0.88, 0.85, 0.9))
    assert "kept: epoch 16" in texts(before)
    assert not any("test" in text for text in texts(before))
    assert "test 0.880 [0.850, 0.900]" in texts(after)
    drawn = after.axes[1].lines[0].get_ydata()
    np.testing.assert_allclose(drawn, history.accuracy)
    marked = plot_history(history, marks=[Mark(9, "overfits from here")])
    assert "overfits from here" in texts(marked)
    save_figure(after, tmp_path / "f", "alt")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_history_survives_divergence(value: float, tmp_path: Path) -> None:
    rows = [
        {"epoch": i + 1, "loss": 1.0, "val_loss": value if i else 1.0, "lr": 0.1} for i in range(5)
    ]
    save_figure(plot_history(History.from_rows(rows)), tmp_path / "f", "alt")


def test_history_reads_partial_files(tmp_path: Path) -> None:
    path = tmp_path / "history.csv"
    assert read_history(path) is None
    path.write_text("epoch,loss,accuracy,val_loss,val_accuracy,lr\n")
    assert read_history(path) is None
    path.write_text("epoch,loss,val_loss\n1,0.5,\n2,0.4,0.7\n")
    history = read_history(path)
    assert history is not None
    assert history.best_row() == 1
    assert np.isnan(history.val_loss[0])


def curve(name: str, area: float) -> Curve:
    x = np.linspace(0, 1, 5)
    return Curve(name, x, x**0.5, Interval(area, area - 0.05, area + 0.05), 40, 200)


def test_curves_name_class_area_interval_and_n(tmp_path: Path) -> None:
    figure = plot_roc([curve("a", 0.9), curve("b", 0.8)], macro=Interval(0.85, 0.8, 0.9))
    shown = texts(figure)
    assert "a: 0.900 [0.850, 0.950] (n=40)" in shown
    assert "200 test images, macro AUROC 0.850 [0.800, 0.900]" in shown
    many = plot_precision_recall([curve(f"c{i}", 0.5 + i / 100) for i in range(20)])
    named = [text for text in texts(many) if text.startswith("c")]
    assert named[0].startswith("c0: 0.500")  # the lowest first
    assert any("15 others" in text for text in texts(many))
    save_figure(many, tmp_path / "f", "alt")


def test_per_class_draws_bounds_and_says_what_is_not_evaluable(tmp_path: Path) -> None:
    values = [Interval(0.9, 0.8, 0.95), Interval(None, reason="n=0"), Interval(0.4, 0.2, 0.6)]
    figure = plot_per_class(values, ("a", "b", "c"), [50, 0, 20], n=70)
    shown = texts(figure)
    assert "not evaluable: n=0" in shown
    assert next(text for text in shown if "  n=" in text) == "c  n=20"
    bounds = figure.axes[0].lines[0].get_xdata()
    assert list(bounds) == [0.2, 0.6]
    save_figure(figure, tmp_path / "f", "alt")


def test_reliability_draws_before_and_after(tmp_path: Path) -> None:
    bins = ReliabilityBins(
        np.array([np.nan, 0.6, 0.9]), np.array([np.nan, 0.5, 0.8]), np.array([0, 4, 9]), 0.1
    )
    figure = plot_reliability(bins, bins, where="13 test images")
    assert "as trained, ECE 0.100" in texts(figure)
    assert "temperature-scaled, ECE 0.100" in texts(figure)
    alone = plot_reliability(bins)
    assert not any("trained" in text for text in texts(alone))
    save_figure(figure, tmp_path / "f", "alt")


def test_label_outcomes_show_each_2x2_table(tmp_path: Path) -> None:
    counts = np.array([[8, 2, 5, 85], [0, 0, 1, 99]])
    figure = plot_label_outcomes(counts, ("mass", "hernia"), n=100)
    assert {"8 / 10", "85 / 90", "none", "99 / 100"} <= set(texts(figure))
    save_figure(figure, tmp_path / "f", "alt")


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_samples_of_any_channels_and_depth(channels: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = (rng.random((7, 9, 12, channels)) * 60000).astype(np.uint16)
    shown = to_display(images)
    assert shown.dtype == np.uint8
    assert shown.min() == 0
    assert shown.max() == 255
    figure = plot_predicted_vs_actual(
        shown, ["a"] * 7, ["b"] * 7, [0.5] * 7, [True, False] * 3 + [True], title="T"
    )
    assert "✓ b 50%" in texts(figure)
    assert "✗ b 50%\ntrue: a" in texts(figure)
    save_figure(figure, tmp_path / "f", "alt")
    save_figure(plot_sample_grid(shown[:0], [], title="none"), tmp_path / "g", "alt")


def test_augmentation_sheet_has_originals_contrast_and_variants(tmp_path: Path) -> None:
    originals = np.zeros((3, 8, 8, 1), dtype=np.uint8)
    variants = np.zeros((3, 4, 8, 8, 1), dtype=np.uint8)
    figure = plot_augmentation_sheet(originals, variants, originals, note="rotation ±5°")
    shown = texts(figure)
    assert {"original", "contrast", "variant 1", "variant 4"} <= set(shown)
    assert len(figure.axes[0].images) == 3 * 6
    assert any("rotation ±5°" in text for text in shown)
    without = plot_augmentation_sheet(originals, variants)
    assert "contrast" not in texts(without)
    save_figure(figure, tmp_path / "f", "alt")


def test_evenly_keeps_order_and_ends() -> None:
    rows = np.arange(10, 110)
    chosen = evenly(rows, 7)
    assert len(chosen) == 7
    assert chosen[0] == 10
    assert chosen[-1] == 109
    assert (np.diff(chosen) > 0).all()
    np.testing.assert_array_equal(evenly(rows[:5], 7), rows[:5])


def test_drawing_imports_neither_pyplot_nor_torch() -> None:
    code = (
        "import sys, scanwise.report.build, scanwise.report.data_plots, scanwise.report.gallery;"
        "print([m for m in ('matplotlib.pyplot', 'torch') if m in sys.modules])"
    )
    done = run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

"""`--time-limit`: measure an epoch, then plan what fits, before the schedule starts.

A clock decides here, so two runs of one command may train for different numbers of epochs. What was
decided stands in time_plan.json, plan.yaml and config.yaml, and `--resume` keeps to it.
"""

from __future__ import annotations

import copy
import itertools
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import yaml
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor, nn

from scanwise.core.config import TrainConfig, duration_text
from scanwise.core.types import Split, Task
from scanwise.pipeline.runs import Run
from scanwise.report.style import new_figure, save_figure, styled
from scanwise.training.device import LossFunction
from scanwise.training.engine import BATCH
from scanwise.training.features import FeatureExtractor, Images
from scanwise.training.history import EpochRecord
from scanwise.training.loop import fit
from scanwise.training.settings import LoopSettings

TIME_PLAN = "time_plan.json"
MARGIN = 0.9  # of the time that is left; the rest is for epochs that take longer than the measured
MEASURING_SHARE = 0.03  # of the limit for one measured epoch; longer ones are timed in part
FEATURES_SHARE = 0.8  # of the time left, for the backbone's pass; the head gets what remains
REPORT_S = 15.0  # kept for intervals, plots and pages where their cost is not measured
# Intervals, plots and pages took as long as 17 simple figures (600 images, 4 classes).
REPORT_FIGURES = 20
FEWEST_IMAGES = 16  # that a head is trained on, however short the time
FEWEST_STEPS = 4  # of a short epoch: below it a one-cycle schedule has no peak


class Stream(Protocol):
    """Batches and FeatureBatches."""

    device: torch.device
    batch_size: int

    @property
    def steps_per_epoch(self) -> int: ...

    @property
    def num_images(self) -> int: ...

    def iterate(self, epoch: int = 0) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]: ...


class _Part:
    """The first batches of each epoch of a stream (of its random order, where it has one)."""

    def __init__(self, stream: Stream, steps: int) -> None:
        self._stream = stream
        self.device, self.batch_size = stream.device, stream.batch_size
        self.steps_per_epoch = min(steps, stream.steps_per_epoch)
        whole_epoch = self.steps_per_epoch == stream.steps_per_epoch
        self.num_images = (
            stream.num_images if whole_epoch else self.steps_per_epoch * stream.batch_size
        )

    def iterate(self, epoch: int = 0) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        return itertools.islice(self._stream.iterate(epoch), self.steps_per_epoch)


@dataclass(frozen=True)
class Measured:
    """What an epoch is made of, in seconds."""

    step_s: float  # one training step
    val_image_s: float  # one validation image
    save_s: float  # checkpoint and history

    def epoch_s(self, train: Stream, val: Stream) -> float:
        return self.step_s * train.steps_per_epoch + self.val_image_s * val.num_images + self.save_s


@dataclass(frozen=True, eq=False)
class Shortened:
    """What `fit` gets: the settings, the training batches, and who may end it early."""

    settings: LoopSettings
    train: Stream
    stop_when: Callable[[EpochRecord], str] | None = None


def whole(settings: LoopSettings, train: Stream) -> Shortened:
    """The training as it was planned, without a limit."""
    return Shortened(settings, train)


def measure_epoch(
    model: nn.Module,
    train: Stream,
    val: Stream,
    loss_fn: LossFunction,
    task: Task,
    settings: LoopSettings,
    allowed_s: float,
) -> Measured:
    """Time the parts of an epoch on a copy of the model, which itself does not change.

    The second of two epochs counts: the first pays for memory and kernels. An epoch that takes
    longer than `allowed_s` is timed on its first batches.
    """
    first = _time(model, _Part(train, 1), _Part(val, 1), loss_fn, task, settings)
    train_steps = max(1, min(train.steps_per_epoch, int(allowed_s / max(first.step_s, 1e-9))))
    val_batch_s = first.val_image_s * min(val.batch_size, val.num_images)
    val_steps = max(1, min(val.steps_per_epoch, int(allowed_s / max(val_batch_s, 1e-9))))
    if train_steps == 1 and val_steps == 1:
        return first
    return _time(model, _Part(train, train_steps), _Part(val, val_steps), loss_fn, task, settings)


def _time(
    model: nn.Module,
    train: _Part,
    val: _Part,
    loss_fn: LossFunction,
    task: Task,
    settings: LoopSettings,
) -> Measured:
    # A rate of almost nothing: this training is timed, never used, and must not diverge.
    quick = settings.model_copy(
        update={
            "epochs": 2, "lr": 1e-9, "scheduler": "none", "warmup": 0, "patience": 0,
            "monitor": "val_loss",
        }
    )  # fmt: skip
    ends: list[float] = []
    with tempfile.TemporaryDirectory(prefix="scanwise-time-") as folder:
        result = fit(
            copy.deepcopy(model),
            train,
            val,
            loss_fn=copy.deepcopy(loss_fn),
            task=task,
            settings=quick,
            run_dir=Path(folder),
            on_epoch=lambda _: ends.append(time.perf_counter()),
        )
    record = result.history[-1]
    train_s = train.num_images / record.images_per_s
    return Measured(
        step_s=train_s / train.steps_per_epoch,
        val_image_s=(record.seconds - train_s) / val.num_images,
        save_s=max(0.0, ends[1] - ends[0] - record.seconds),
    )


class Budget:
    """The time of a run: how much is left, and what each phase of training does with it."""

    def __init__(
        self,
        limit_s: float,
        *,
        num_val: int,
        num_test: int,
        run: Run | None = None,
        say: Callable[[str], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        started: float | None = None,
        measure: Callable[..., Measured] | None = None,
        report_s: float = REPORT_S,
    ) -> None:
        """Start (or take up) the time of a run.

        Args:
            limit_s: Seconds for all of it.
            num_val: Validation images; they are scored twice after training.
            num_test: Test images that will be scored, 0 with --no-test.
            run: Whose time_plan.json keeps the decisions; those already there are kept to.
            say: Where the decisions are told.
            clock: Seconds that only grow.
            started: The clock when the run began [now].
            measure: As `measure_epoch`.
            report_s: Kept for intervals, plots and pages.
        """
        self.limit_s = limit_s
        self._num_val, self._num_test = num_val, num_test
        self._run, self._say, self._clock = run, say, clock
        self._measure = measure or measure_epoch
        self._started = clock() if started is None else started
        self._evaluation_s, self._report_s = 0.0, report_s
        self.decided: dict[str, dict[str, Any]] = {}
        if run is not None and (run.path / TIME_PLAN).is_file():
            self.decided = json.loads((run.path / TIME_PLAN).read_text(encoding="utf-8"))

    @property
    def reserve_s(self) -> float:
        """Kept for what comes after training: scoring validation and test, the report."""
        return self._report_s + self._evaluation_s

    def left_s(self) -> float:
        """Seconds until the limit."""
        return self.limit_s - (self._clock() - self._started)

    def shorten(
        self,
        phase: str,
        model: nn.Module,
        train: Stream,
        val: Stream,
        loss_fn: LossFunction,
        task: Task,
        settings: LoopSettings,
        *,
        share: float = 1.0,
    ) -> Shortened:
        """Plan a phase of training; where not even one epoch fits, a short one on some batches.

        Args:
            phase: Its name in time_plan.json.
            model, train, val, loss_fn, task, settings: As for `fit`.
            share: Of the time left that this phase may take.
        """
        plan = self._plan(phase, model, train, val, loss_fn, task, settings, share, False)
        assert plan is not None
        return plan

    def shorten_or_skip(
        self,
        phase: str,
        model: nn.Module,
        train: Stream,
        val: Stream,
        loss_fn: LossFunction,
        task: Task,
        settings: LoopSettings,
        *,
        share: float = 1.0,
    ) -> Shortened | None:
        """As `shorten`, but None where not even one epoch fits: for what can be left out."""
        return self._plan(phase, model, train, val, loss_fn, task, settings, share, True)

    def _plan(
        self,
        phase: str,
        model: nn.Module,
        train: Stream,
        val: Stream,
        loss_fn: LossFunction,
        task: Task,
        settings: LoopSettings,
        share: float,
        can_skip: bool,
    ) -> Shortened | None:
        if phase in self.decided:
            return _as_decided(self.decided[phase], settings, train)
        allowed_s = MEASURING_SHARE * self.limit_s
        took = self._measure(model, train, val, loss_fn, task, settings, allowed_s)
        scored = 2 * self._num_val + self._num_test
        self._evaluation_s = max(self._evaluation_s, took.val_image_s * scored)
        available_s = MARGIN * share * (self.left_s() - self.reserve_s)
        epoch_s = took.epoch_s(train, val)
        epochs = min(settings.epochs, int(available_s / max(epoch_s, 1e-9)))
        facts = (
            f"{phase}: {_seconds(self.limit_s - self.left_s())} of {_seconds(self.limit_s)} used, "
            f"{_seconds(self.reserve_s)} kept for evaluation and report, one epoch takes "
            f"{_seconds(epoch_s)} (measured)"
        )
        decision: dict[str, Any] = {"epochs": epochs, "steps": None, "epoch_s": epoch_s}
        if epochs >= settings.epochs:
            words = f"all {epochs} epochs fit"
        elif epochs >= 1:
            words = f"{epochs} of {settings.epochs} epochs fit; the schedule is made for {epochs}"
        elif can_skip:
            words = "not even one epoch fits: this stage is left out"
            decision["epochs"] = 0
        else:
            rest_s = available_s - took.val_image_s * val.num_images - took.save_s
            steps = max(FEWEST_STEPS, int(rest_s / max(took.step_s, 1e-9)))
            steps = min(steps, train.steps_per_epoch)
            part = _Part(train, steps)
            decision |= {"epochs": 1, "steps": steps}
            words = (
                f"not even one epoch fits: one short epoch instead, of {steps} of "
                f"{train.steps_per_epoch} steps ({part.num_images:,} of {train.num_images:,} "
                "training images, chosen at random). The model is evaluated all the same"
            )
        decision["warmup"] = _warmup(settings, decision["epochs"])
        decision["words"] = f"Time limit, {facts}: {words}."
        self._record(phase, decision, settings)
        plan = _as_decided(decision, settings, train)
        if plan is None:
            return None
        late = _Late(self, plan.settings.epochs, epoch_s, self._clock)
        return Shortened(plan.settings, plan.train, late)

    def plan_features(
        self,
        extractor: FeatureExtractor,
        train: Images,
        val: Images,
        views: int,
        rows: NDArray[np.int64],
        targets: NDArray[np.int64],
    ) -> tuple[int, NDArray[np.int64]]:
        """How many views of which training rows the backbone has time for.

        Args:
            extractor: With the backbone, which is timed on a batch.
            train, val: Prepared pixels.
            views: Wanted views of each training image.
            rows: Numbers of the training rows, int (n,).
            targets: Of these rows; a part keeps the shares of the classes.

        Returns:
            Views (at least 1) and the rows, sorted; all of them where they fit.
        """
        if "features" in self.decided:
            known = self.decided["features"]
            return known["views"], _part_of(rows, targets, known["images"])
        vector_s = time_vector(extractor, train, self._clock)
        # Features of test can't be looked up in the cache before test is opened.
        self._evaluation_s = max(self._evaluation_s, vector_s * self._num_test)
        available_s = FEATURES_SHARE * (self.left_s() - self.reserve_s)
        val_s = vector_s * extractor.count_missing(val)
        for count in range(views, 0, -1):
            train_s = vector_s * extractor.count_missing(train, count)
            if train_s + val_s <= available_s:
                images, words = len(rows), f"{count} of {views} views of each training image fit"
                break
        else:
            count = 1
            images = int((available_s - val_s) / vector_s)
            images = min(len(rows), max(FEWEST_IMAGES, images))
            words = (
                f"one view of all {len(rows):,} training images does not fit: the head is trained "
                f"on {images:,} of them, each class in its share"
            )
        facts = f"one image takes the backbone {1000 * vector_s:.1f} ms (measured)"
        self._record(
            "features",
            {"views": count, "images": images, "words": f"Time limit, features: {facts}; {words}."},
            None,
        )
        return count, _part_of(rows, targets, images)

    def _record(self, phase: str, decision: dict[str, Any], settings: LoopSettings | None) -> None:
        """Tell a decision and write it down, so that a resumed run keeps to it."""
        self.decided[phase] = decision
        if self._say is not None:
            self._say(decision["words"])
        if self._run is None:
            return
        plan_file = self._run.path / "plan.yaml"
        plan = yaml.safe_load(plan_file.read_text(encoding="utf-8"))
        limit = duration_text(self.limit_s)
        plan.append(
            {"setting": "time_limit", "value": limit, "source": "you", "reason": decision["words"]}
        )
        config = self._run.config
        # Stages of fine-tuning have epochs of their own; the setting is that of the main phase.
        if settings is not None and phase in ("train", "head"):
            epochs = decision["epochs"]
            changed = {"epochs": epochs, "warmup": decision["warmup"]}
            for row in plan:
                new = changed.get(row["setting"], row["value"])
                if new != row["value"]:
                    row |= {
                        "value": new,
                        "source": "time limit",
                        "reason": f"{row['value']} without the limit of {limit}",
                    }
            config = config.model_copy(update=changed)
        if phase == "features":
            config = config.model_copy(update={"views": decision["views"]})
        self._run.write(TIME_PLAN, self.decided)
        self._run.write_settings(config, plan)


class _Late:
    """Ends a training whose epochs take longer than the measured one, before time is up."""

    def __init__(
        self, budget: Budget, epochs: int, epoch_s: float, clock: Callable[[], float]
    ) -> None:
        self._budget, self._epochs, self._epoch_s, self._clock = budget, epochs, epoch_s, clock
        self._began, self._done = clock(), 0

    def __call__(self, record: EpochRecord) -> str:
        self._done += 1
        mean_s = (self._clock() - self._began) / self._done
        if self._budget.left_s() - self._budget.reserve_s >= mean_s:
            return ""
        if record.epoch == self._epochs:
            return ""
        return (
            f"time limit: epochs took {_seconds(mean_s)} instead of the measured "
            f"{_seconds(self._epoch_s)}, so {record.epoch} of {self._epochs} fitted and the "
            "schedule did not reach its end"
        )


def open_budget(
    config: TrainConfig, split: Split, run: Run, say: Callable[[str], None], started: float
) -> Budget | None:
    """The budget of a run, None without `--time-limit`; `started` is time.monotonic()'s."""
    if config.time_limit is None:
        return None
    return Budget(
        config.time_limit,
        num_val=len(split.val),
        num_test=0 if config.no_test else len(split.test),
        run=run,
        say=say,
        started=started,
        report_s=REPORT_FIGURES * time_figure(),
    )


def clock_decided(reproducibility: str, time_limit_s: float | None) -> str:
    """The report's line on reproducibility, which a time limit changes."""
    if time_limit_s is None:
        return reproducibility
    return (
        f"not bit-reproducible: a clock chose how long to train (--time-limit "
        f"{duration_text(time_limit_s)}; the same command may choose otherwise). For the epochs "
        f"that were chosen: {reproducibility}"
    )


def time_figure() -> float:
    """Seconds that a simple figure takes here and now, as PNG and SVG; the second of two."""
    with tempfile.TemporaryDirectory(prefix="scanwise-time-") as folder:
        for _ in range(2):
            began = time.perf_counter()
            save_figure(_figure(), Path(folder) / "figure", "a line")
    return time.perf_counter() - began


@styled
def _figure() -> Figure:
    figure = new_figure()
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], label="line")
    axes.set(title="title", xlabel="x")
    axes.legend()
    return figure


def time_vector(extractor: FeatureExtractor, images: Images, clock: Callable[[], float]) -> float:
    """Seconds that the backbone takes for one image, from its second batch."""
    rows = [images[i % len(images)] for i in range(BATCH)]
    batch = extractor.preprocessing.normalise(torch.from_numpy(np.stack(rows)))
    extractor.engine.features(batch)
    began = clock()
    extractor.engine.features(batch)
    return max(clock() - began, 1e-9) / BATCH


def _as_decided(
    decision: dict[str, Any], settings: LoopSettings, train: Stream
) -> Shortened | None:
    epochs, steps = decision["epochs"], decision["steps"]
    if not epochs:
        return None
    settings = settings.model_copy(update={"epochs": epochs, "warmup": decision["warmup"]})
    return Shortened(settings, train if steps is None else _Part(train, steps))


def _warmup(settings: LoopSettings, epochs: int) -> int:
    """Warm-up epochs in proportion, and fewer than the epochs."""
    return min(epochs - 1, settings.warmup * epochs // settings.epochs) if epochs else 0


def _part_of(rows: NDArray[np.int64], targets: NDArray[np.int64], images: int) -> NDArray[np.int64]:
    """`images` of the rows by chance, each class in its share (multi-label: by chance alone)."""
    if images >= len(rows):
        return rows
    rng = np.random.default_rng(0)
    place = rng.random(len(rows))
    if targets.ndim == 1:
        for target in np.unique(targets):
            own = np.flatnonzero(targets == target)
            # Evenly along [0, 1), so that every beginning of the order has each class's share.
            place[own[rng.permutation(len(own))]] = (np.arange(len(own)) + 0.5) / len(own)
    return np.sort(rows[np.argsort(place, kind="stable")[:images]])


def _seconds(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds < 100 else f"{seconds:,.0f} s"

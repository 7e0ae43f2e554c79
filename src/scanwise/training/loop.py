"""Train one model on one split, and know its best epoch. The test split can't get in here."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path
from typing import Any, Protocol, TextIO

import numpy as np
import torch
from torch import Tensor, nn

from scanwise.core.errors import ConfigError, RunError, ScanwiseError
from scanwise.core.runtime import apply_threads
from scanwise.core.types import Task
from scanwise.models.batchnorm import BatchNormWarmup
from scanwise.models.shared_batchnorm import Presence, share_batchnorm
from scanwise.prepare.batches import Batches
from scanwise.training import checkpoint
from scanwise.training.averaging import WeightAverage
from scanwise.training.device import (
    FabricPrecision,
    LossFunction,
    deterministic_kernels,
    forked_rng,
    model_cost,
    pick_precision,
    reproducibility,
)
from scanwise.training.history import EpochRecord, append_history, write_history
from scanwise.training.mixing import mix_batch
from scanwise.training.progress import Reporter
from scanwise.training.schedule import Plateau, Schedule
from scanwise.training.settings import LoopSettings
from scanwise.training.state import TrainingState, identity
from scanwise.training.steps import Stepper, make_optimizer, set_rates
from scanwise.training.stopping import Watch
from scanwise.training.team import ALONE, Team, check_same_checkpoint
from scanwise.training.validation import Validation, predict_logits, validate

__all__ = ["BatchStream", "FitResult", "LoopSettings", "fit", "predict_logits"]

# Steps between looks at a running loss: a diverged long epoch ends early, and no GPU waits.
DIVERGENCE_CHECK_STEPS = 200


class BatchStream(Protocol):
    """What `fit` needs of scanwise.prepare.batches.Batches."""

    device: torch.device

    @property
    def steps_per_epoch(self) -> int: ...

    @property
    def num_images(self) -> int: ...

    def iterate(self, epoch: int = 0) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]: ...


@dataclass(frozen=True)
class FitResult:
    """What a training came to. The model handed to `fit` holds the weights of `best_epoch`."""

    best_epoch: int
    best_value: float  # of the monitored measure
    epochs_run: int
    stop_reason: str
    seconds: float  # all epochs, those before a resume included
    history: tuple[EpochRecord, ...]
    precision: FabricPrecision
    precision_reason: str
    micro_batch: int | None  # smaller than the batch if memory ran out
    reproducibility: str


def fit(
    model: nn.Module,
    train: BatchStream,
    val: BatchStream,
    *,
    loss_fn: LossFunction,
    task: Task,
    settings: LoopSettings,
    run_dir: Path | None = None,
    resume: bool = False,
    on_epoch: Callable[[EpochRecord], None] | None = None,
    stop_when: Callable[[EpochRecord], str] | None = None,
    stream: TextIO | None = None,
    lr_scales: Mapping[str, float] | None = None,
    team: Team = ALONE,
) -> FitResult:
    """Train a model and restore the weights of its best epoch, by validation.

    Each epoch is a function of (seed, epoch): batches, augmentation and dropout are seeded anew at
    its start. On a CPU the same seed gives bit-identical weights, also when the process was killed
    at any moment and went on with `resume`.

    Args:
        model: Images float (b, c, h, w) to logits (b, k); trained in place, on `train.device`.
        train: Training batches.
        val: Validation batches, in order. With `settings.ema` the averaged weights are validated,
            and those of the best epoch are what the model holds in the end. Always float32.
        loss_fn: Logits and targets to losses (b,) >= 0. The step's loss is their sum, times the
            images' weights, over the number of images.
        task: For accuracy and AUC.
        settings: See LoopSettings.
        run_dir: Where history.csv, log.txt and checkpoints/ go; None writes nothing.
        resume: Go on from run_dir's last finished epoch (from the start if there is none).
        on_epoch: Called with each epoch's record after its checkpoint is safe.
        stop_when: Asked after each epoch; a text that is not empty ends training for that reason.
        stream: Where the epoch lines go, such as sys.stderr; None is silent.
        lr_scales: Name of a parameter to the factor of its learning rate [1 for all].
        team: The processes that train this network together; each calls `fit` with its share of
            `train` (see Batches). The first alone validates, decides, writes and prints; all get
            the same weights and the same result.

    Returns:
        The result; `stop_reason` says why training ended.

    Raises:
        ScanwiseError: Training diverged before any epoch was good, or one image does not fit in
            memory, or bf16 was asked for and fails its parity test.
        ConfigError: The monitored measure can't be computed on this validation split, or
            `micro_batch` with several processes.
        RunError: `resume` with other settings, or a checkpoint that can't be read.
    """
    apply_threads()
    if team.size > 1 and settings.micro_batch is not None:
        raise ConfigError("micro_batch is for one process; lower the batch size instead.")
    if team.size > 1 and settings.mix != "none":
        raise ConfigError(
            f"mix={settings.mix} pairs images of a whole batch, which several processes divide; "
            "leave out --devices and --nodes, or say --mix none."
        )
    reporter = Reporter(
        settings.epochs,
        train.steps_per_epoch,
        stream=stream if team.leads else None,
        log=run_dir / "log.txt" if run_dir is not None and team.leads else None,
        explain=settings.explain,
    )
    with (
        forked_rng(train.device),
        deterministic_kernels(settings.deterministic and train.device.type != "cpu"),
        reporter,
    ):
        training = _Training(
            model, train, val, loss_fn, task, settings, run_dir, reporter, lr_scales, team
        )
        state = training.start(resume)
        while not state.stop_reason:
            state = training.run_epoch(state)
            if on_epoch is not None:
                on_epoch(state.history[-1])
            if stop_when is not None and not state.stop_reason:
                state = replace(state, stop_reason=stop_when(state.history[-1]))
        training.restore_best(state)
        reporter.say(_last_words(state))
    return FitResult(
        best_epoch=state.watch.best_epoch,
        best_value=state.watch.best_value,
        epochs_run=state.epoch,
        stop_reason=state.stop_reason,
        seconds=sum(record.seconds for record in state.history),
        history=state.history,
        precision=state.precision,
        precision_reason=state.precision_reason,
        micro_batch=state.micro_batch,
        reproducibility=reproducibility(train.device, settings.deterministic, team.size),
    )


def _last_words(state: TrainingState) -> str:
    watch = state.watch
    return (
        f"{state.stop_reason}; kept the weights of epoch {watch.best_epoch} "
        f"({watch.monitor} {watch.best_value:.4f})"
    )


class _Training:
    """What stays the same from epoch to epoch, and the tensors that change in place."""

    def __init__(
        self,
        model: nn.Module,
        train: BatchStream,
        val: BatchStream,
        loss_fn: LossFunction,
        task: Task,
        settings: LoopSettings,
        run_dir: Path | None,
        reporter: Reporter,
        lr_scales: Mapping[str, float] | None,
        team: Team,
    ) -> None:
        self.train, self.val, self.team = train, val, team
        self.task, self.settings, self.reporter = task, settings, reporter
        self.run_dir = run_dir
        self.lr_scales = lr_scales
        self.folder = None if run_dir is None else run_dir / "checkpoints"
        self.model = model.to(train.device)
        if settings.channels_last:
            self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.parameters = list(self.model.parameters())
        self.loss_fn = loss_fn.to(train.device) if isinstance(loss_fn, nn.Module) else loss_fn
        self.schedule = Schedule(
            settings.scheduler,
            settings.lr,
            settings.epochs,
            train.steps_per_epoch,
            settings.warmup,
        )
        self.identity = identity(settings, train.num_images, train.steps_per_epoch)
        self.step_images = None if team.size == 1 else _step_images(train)
        self.put_back: Callable[[], None] = _nothing
        self.best: dict[str, Tensor] = {}
        self.first_batch = next(iter(train.iterate(0)))[:2]

    def start(self, resume: bool) -> TrainingState:
        """Build what is left to build; take up the last checkpoint if there is one."""
        last = None if self.folder is None else self.folder / checkpoint.LAST
        found = None
        if resume and last is not None and last.exists():
            found = checkpoint.load_tensors(last)
        state = self._fresh_state() if found is None else self._stored_state(found[1])
        self._set_up(state)
        check_same_checkpoint(self.team, state.epoch, self.folder)
        if found is not None:
            self._load(found[0], state)
        if self.run_dir is not None and self.team.leads:
            write_history(self.run_dir / "history.csv", state.history)
        if found is None:
            self.reporter.say(f"precision: {state.precision_reason}")
        return state

    def _fresh_state(self) -> TrainingState:
        precision, reason = self._pick_precision()
        return TrainingState(
            epoch=0,
            watch=Watch(self.settings.monitor, self.settings.patience),
            plateau=Plateau(),
            history=(),
            precision=precision,
            precision_reason=reason,
            micro_batch=self.settings.micro_batch,
        )

    def _pick_precision(self) -> tuple[FabricPrecision, str]:
        """As `pick_precision`; the first process picks for all."""
        chosen: tuple[FabricPrecision, str] = ("32-true", "as the first process")
        if self.team.leads:
            images, targets = self.first_batch
            chosen = pick_precision(
                self.settings.precision,
                self.train.device,
                self.model,
                images,
                targets,
                self.loss_fn,
            )
        if self.team.leaders([chosen[0] == "bf16-mixed"], 1)[0]:
            return "bf16-mixed", chosen[1]
        return chosen

    def _stored_state(self, stored: dict[str, Any]) -> TrainingState:
        """The checkpoint's state, if it is of this training."""
        before, now = stored.pop("settings"), self.identity
        differ = [name for name in now if before.get(name) != now[name]]
        if differ:
            changes = "; ".join(f"{name} was {before.get(name)}, is {now[name]}" for name in differ)
            raise RunError(f"can't resume {self.run_dir} with other settings: {changes}.")
        threads = stored.pop("threads")
        if threads != torch.get_num_threads():
            self.reporter.say(
                f"the training began with {threads} threads and goes on with "
                f"{torch.get_num_threads()}: weights will agree up to rounding, not bit for bit"
            )
        state = TrainingState.from_json(stored, self.settings)
        self.reporter.say(f"resumed after epoch {state.epoch}")
        return state

    def _set_up(self, state: TrainingState) -> None:
        fabric: Any = self.team.fabric(self.train.device, state.precision)
        optimizer = make_optimizer(self.model, self.settings, self.lr_scales)
        self.average = (
            WeightAverage(self.model, self.settings.ema_decay) if self.settings.ema else None
        )
        cost = model_cost(self.model, tuple(self.first_batch[0].shape[1:]))
        presence = Presence()
        if self.team.size > 1:
            self.put_back = share_batchnorm(self.model, presence)
        self.warm_up = BatchNormWarmup(self.model)
        wrapped, self.optimizer = fabric.setup(self.model, optimizer)
        self.stepper = Stepper(
            wrapped,
            self.model,
            self.loss_fn,
            fabric.backward,
            self.task,
            cost,
            state.micro_batch,
            self.reporter.say,
            self.team,
            presence,
        )
        self.wrapped = wrapped
        self.raw_optimizer = optimizer

    def _load(self, tensors: dict[str, Tensor], state: TrainingState) -> None:
        assert self.folder is not None
        checkpoint.load_model(self.model, tensors, "model/")
        checkpoint.load_optimizer(self.raw_optimizer, self.model.named_parameters(), tensors)
        if self.average is not None:
            checkpoint.load_model(self.average.model, tensors, "average/")
            self.average.steps = state.average_steps
        if state.watch.best_epoch:
            with self.team.leader_first("best epoch"):
                if self.team.leads:
                    checkpoint.settle_best(self.folder, state.watch.best_epoch)
            self.best = checkpoint.load_tensors(self.folder / checkpoint.BEST)[0]

    def run_epoch(self, state: TrainingState) -> TrainingState:
        """Train and validate once, and make all of it safe on disk.

        Raises:
            ScanwiseError: Diverged before any epoch was good.
        """
        epoch = state.epoch + 1
        self.reporter.start_epoch(epoch)
        began = time.perf_counter()
        loss, accuracy, lr = self._train_epoch(epoch, state.plateau.scale)
        trained_s = time.perf_counter() - began
        scores = self._validate()
        seconds = time.perf_counter() - began
        record = EpochRecord(
            epoch=epoch,
            loss=loss,
            accuracy=accuracy,
            val_loss=scores.loss,
            val_accuracy=scores.accuracy,
            lr=lr,
            seconds=seconds,
            ms_per_step=1000 * seconds / self.train.steps_per_epoch,
            images_per_s=self.train.num_images / trained_s,
            val_auc=scores.auc,
            val_balanced_acc=scores.balanced_accuracy,
        )
        state = self._judge(state, record, scores)
        self._save(state)
        self.reporter.end_epoch(record)
        return state

    def _validate(self) -> Validation:
        """Scores of the first process, in all."""
        scores = None
        if self.team.leads:
            scores = validate(
                self.evaluated_model,
                self.val,
                self.loss_fn,
                self.task,
                self.settings.output_activation,
            )
        numbers = None if scores is None else astuple(scores)
        return Validation(*self.team.leaders(numbers, len(fields(Validation))))

    @property
    def evaluated_model(self) -> nn.Module:
        """The averaged network if there is one, else the trained one."""
        return self.model if self.average is None else self.average.model

    def _train_epoch(self, epoch: int, scale: float) -> tuple[float, float, float]:
        """All steps of an epoch: mean loss, accuracy, and the last learning rate."""
        torch.manual_seed(_epoch_seed(self.settings.seed, epoch, self.team.rank))
        self.wrapped.train()
        step = (epoch - 1) * self.train.steps_per_epoch
        total, hits = _zero(self.train.device), _zero(self.train.device)
        rates = self.schedule.at(step)
        for done, (images, targets, weights) in enumerate(self.train.iterate(epoch), start=1):
            self.warm_up(step)
            rates = self.schedule.at(step)
            rates = replace(rates, lr=rates.lr * scale)
            set_rates(self.raw_optimizer, rates)
            whole = None if self.step_images is None else self.step_images[done - 1]
            images, partners = mix_batch(self.settings.mix, images, targets, weights)
            result = self.stepper.run(images, targets, weights, whole, partners)
            self.optimizer.step()
            for parameter in self.parameters:  # as zero_grad, without its bookkeeping
                parameter.grad = None
            if self.average is not None:
                self.average.update()
            # Summed on the device: .item() here would make a GPU wait at every step.
            total += result.loss
            hits += result.hits
            step += 1
            self.reporter.step(epoch, done, result.loss, len(images))
            if done % DIVERGENCE_CHECK_STEPS == 0 and not self._is_finite(total):
                break
        count = self.train.num_images
        total, hits = self.team.sum(total), self.team.sum(hits)
        return total.item() / count, hits.item() / count, rates.lr

    def _is_finite(self, total: Tensor) -> bool:
        """Whether the running loss of all processes is; they have to leave an epoch together."""
        return math.isfinite(self.team.sum(total).item())

    def _judge(
        self, state: TrainingState, record: EpochRecord, scores: Validation
    ) -> TrainingState:
        """The state after an epoch: is it the best, does the rate fall, is it time to stop?"""
        monitor = self.settings.monitor
        value = scores.value(monitor)
        diverged = not math.isfinite(record.loss) or not math.isfinite(record.val_loss)
        if diverged and state.watch.best_epoch == 0:
            raise ScanwiseError(_diverged(record))
        if math.isnan(value) and not diverged:
            raise ConfigError(
                f"{monitor} can't be computed on this validation split: no class has both images "
                "of it and of others. Use --monitor val_loss, or a larger validation split."
            )
        watch = state.watch.after(record.epoch, math.nan if diverged else value)
        improved = watch.best_epoch == record.epoch
        if improved:
            self._remember_best()
        reason = watch.stop_reason() or ""
        if diverged:
            reason = _diverged(record)
        elif not reason and record.epoch == self.settings.epochs:
            count = self.settings.epochs
            reason = f"all {count} epochs done" if count > 1 else "1 epoch done"
        plateau = state.plateau
        if self.settings.scheduler == "plateau":
            plateau = plateau.after(improved)
        return replace(
            state,
            epoch=record.epoch,
            watch=watch,
            plateau=plateau,
            history=(*state.history, record),
            micro_batch=self.stepper.micro_batch,
            average_steps=0 if self.average is None else self.average.steps,
            stop_reason=reason,
        )

    def _remember_best(self) -> None:
        self.best = {
            name: tensor.detach().to("cpu", copy=True)
            for name, tensor in checkpoint.model_tensors(self.evaluated_model).items()
        }

    def _save(self, state: TrainingState) -> None:
        """Put the epoch on disk; see `checkpoint` for the order."""
        if self.run_dir is None or self.folder is None or not self.team.leads:
            return
        tensors = checkpoint.model_tensors(self.model, "model/")
        tensors |= checkpoint.optimizer_tensors(self.raw_optimizer, self.model.named_parameters())
        if self.average is not None:
            tensors |= checkpoint.model_tensors(self.average.model, "average/")
        best_epoch = state.watch.best_epoch
        if best_epoch == state.epoch:
            next_best = self.folder / checkpoint.NEXT_BEST
            checkpoint.save_tensors(next_best, self.best, {"epoch": best_epoch})
        identity = {
            "settings": self.identity,
            "threads": torch.get_num_threads(),
        }
        checkpoint.save_tensors(self.folder / checkpoint.LAST, tensors, state.to_json() | identity)
        checkpoint.settle_best(self.folder, best_epoch)
        append_history(self.run_dir / "history.csv", state.history[-1])

    def restore_best(self, state: TrainingState) -> None:
        """Load the weights of the best epoch into the model, and leave it in eval mode."""
        self.put_back()
        checkpoint.load_model(self.model, self.best)
        self.model.eval()


def _epoch_seed(seed: int, epoch: int, rank: int = 0) -> int:
    """A seed of torch's generator for one epoch, far from those of its neighbours.

    Each process draws other numbers for dropout, since each has other images.
    """
    entropy = [seed, epoch] if rank == 0 else [seed, epoch, rank]
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> 1)


def _step_images(train: BatchStream) -> list[int]:
    """Images of each step in all processes.

    Raises:
        ConfigError: If the stream can't be divided among processes.
    """
    if not isinstance(train, Batches):
        raise ConfigError("several processes can train on images only, not on stored features.")
    return train.step_images


def _nothing() -> None:
    pass


def _zero(device: torch.device) -> Tensor:
    """A sum that starts at nothing; float64 where the device has it."""
    dtype = torch.float32 if device.type == "mps" else torch.float64
    return torch.zeros((), dtype=dtype, device=device)


def _diverged(record: EpochRecord) -> str:
    which = "training" if not math.isfinite(record.loss) else "validation"
    value = record.loss if which == "training" else record.val_loss
    return (
        f"training diverged in epoch {record.epoch}: the {which} loss is {value} at a learning "
        f"rate of {record.lr:.1e}; use a lower --lr"
    )

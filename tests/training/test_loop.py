"""The loop: it learns, exactly and repeatably, keeps the best epoch, and goes on after a crash."""

from __future__ import annotations

import ast
import inspect
import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import scanwise.training.loop as loop
from scanwise.core import runtime
from scanwise.core.config import TrainConfig
from scanwise.core.errors import ConfigError, RunError, ScanwiseError
from scanwise.models.losses import make_loss
from scanwise.training import checkpoint
from scanwise.training.history import EpochRecord, read_history
from scanwise.training.loop import FitResult, LoopSettings, fit, predict_logits
from scanwise.training.settings import loop_settings

TIMES = ("seconds", "ms_per_step", "images_per_s")


def without_times(history: tuple[EpochRecord, ...]) -> list[dict[str, Any]]:
    rows = [record.to_json() for record in history]
    return [{name: row[name] for name in row if name not in TIMES} for row in rows]


@pytest.fixture
def train_tiny(tiny_data: Any) -> Callable[..., FitResult]:
    """`fit` on the tiny data; settings, and `data=` for Batches."""

    def train(
        model: nn.Module,
        *,
        task: str = "multiclass",
        data: dict[str, Any] | None = None,
        val: Any = None,
        loss_fn: Any = None,
        run_dir: Path | None = None,
        resume: bool = False,
        on_epoch: Any = None,
        stream: Any = None,
        **settings: Any,
    ) -> FitResult:
        return fit(
            model,
            tiny_data.train(task, **(data or {})),
            val or tiny_data.val(task),
            loss_fn=loss_fn or make_loss(task=task),
            task=task,
            settings=LoopSettings(**{"epochs": 3, "lr": 0.01} | settings),
            run_dir=run_dir,
            resume=resume,
            on_epoch=on_epoch,
            stream=stream,
        )

    return train


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_learns_to_see_the_bar(
    train_tiny: Callable[..., FitResult], tiny_net: Callable[..., nn.Module], optimizer: str
) -> None:
    result = train_tiny(tiny_net(), epochs=12, optimizer=optimizer, scheduler="cosine", warmup=1)
    assert max(record.val_accuracy for record in result.history) > 0.9
    assert result.history[-1].loss < result.history[0].loss / 2
    assert result.stop_reason == "all 12 epochs done"


def test_learns_labels_that_hold_together(
    train_tiny: Callable[..., FitResult], tiny_net: Callable[..., nn.Module]
) -> None:
    result = train_tiny(tiny_net(), task="multilabel", epochs=12, monitor="val_balanced_acc")
    assert result.history[-1].accuracy > 0.75
    assert result.best_value > 0.6


def test_is_the_plain_loop(
    train_tiny: Callable[..., FitResult], tiny_net: Callable[..., nn.Module], tiny_data: Any
) -> None:
    """The same numbers as plain torch (no dropout: its seeding is the loop's own)."""
    model, plain = tiny_net(dropout=0.0), tiny_net(dropout=0.0)
    result = train_tiny(model, epochs=2, optimizer="sgd", momentum=0.8, monitor="val_loss")
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.01, momentum=0.8)
    val_losses, states, step = [], [], 0
    for epoch in (1, 2):
        plain.train()
        total, hits = 0.0, 0
        for images, targets, _ in tiny_data.train().iterate(epoch):
            plain[1].momentum = max(0.1, 1 / (step + 1))  # BatchNormWarmup
            step += 1
            logits = plain(images)
            loss = F.cross_entropy(logits, targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(images)
            hits += int((logits.argmax(1) == targets).sum())
        assert result.history[epoch - 1].loss == pytest.approx(total / 48, rel=1e-5)
        assert result.history[epoch - 1].accuracy == hits / 48
        plain.eval()
        with torch.no_grad():
            parts = [(plain(images), targets) for images, targets, _ in tiny_data.val().iterate(0)]
        logits, targets = (torch.cat(column) for column in zip(*parts, strict=True))
        val_losses.append(F.cross_entropy(logits, targets).item())
        states.append({name: tensor.clone() for name, tensor in plain.state_dict().items()})
        assert result.history[epoch - 1].val_loss == pytest.approx(val_losses[-1], rel=1e-5)
    best = states[result.best_epoch - 1]
    assert val_losses[result.best_epoch - 1] == min(val_losses)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, best[name])


def test_same_seed_same_bits_another_seed_others(
    train_tiny: Callable[..., FitResult],
    tiny_net: Callable[..., nn.Module],
    same_weights: Callable[..., bool],
) -> None:
    settings = {"ema": True, "scheduler": "onecycle", "weight_decay": 0.05}
    models = [tiny_net() for _ in range(3)]
    torch.manual_seed(111)  # the caller's random state must not matter ...
    first = train_tiny(models[0], **settings)
    torch.manual_seed(222)
    state = torch.get_rng_state()
    second = train_tiny(models[1], **settings)
    assert torch.equal(torch.get_rng_state(), state)  # ... nor be changed
    train_tiny(models[2], **settings, seed=1)
    assert same_weights(models[0], models[1])
    assert without_times(first.history) == without_times(second.history)
    assert not same_weights(models[0], models[2])  # the seed is dropout's
    assert "bit-identical" in first.reproducibility


def test_the_best_epoch_is_restored_and_both_checkpoints_are_kept(
    train_tiny: Callable[..., FitResult], tiny_net: Callable[..., nn.Module], tmp_path: Path
) -> None:
    seen: list[dict[str, Tensor]] = []
    model = tiny_net()

    def remember(record: EpochRecord) -> None:
        seen.append({name: tensor.clone() for name, tensor in model.state_dict().items()})

    # So high a rate that validation gets worse again.
    result = train_tiny(model, epochs=6, lr=0.3, run_dir=tmp_path, on_epoch=remember)
    val_losses = [record.val_loss for record in result.history]
    assert result.best_epoch == val_losses.index(min(val_losses)) + 1 < 6
    best, state = checkpoint.load_tensors(tmp_path / "checkpoints" / checkpoint.BEST)
    last, _ = checkpoint.load_tensors(tmp_path / "checkpoints" / checkpoint.LAST)
    assert state["epoch"] == result.best_epoch
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, seen[result.best_epoch - 1][name])
        assert torch.equal(tensor, best[name])
        assert torch.equal(last[f"model/{name}"], seen[-1][name])
    names = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert names == {checkpoint.BEST, checkpoint.LAST}
    assert not model.training


def test_history_and_log_are_on_disk_before_the_next_epoch(
    train_tiny: Callable[..., FitResult], tiny_net: Callable[..., nn.Module], tmp_path: Path
) -> None:
    def on_epoch(record: EpochRecord) -> None:
        assert read_history(tmp_path / "history.csv")[-1] == record
        assert len(read_history(tmp_path / "history.csv")) == record.epoch

    stream = io.StringIO()
    result = train_tiny(tiny_net(), run_dir=tmp_path, on_epoch=on_epoch, stream=stream)
    assert read_history(tmp_path / "history.csv") == result.history
    log = (tmp_path / "log.txt").read_text()
    assert log == stream.getvalue()
    assert "Epoch 3/3" in log
    assert "3/3 - 0s - loss: " in log
    for record in result.history:
        assert record.ms_per_step == pytest.approx(1000 * record.seconds / 3)
        assert record.images_per_s > 48 / record.seconds


def test_nothing_is_written_without_a_folder_nor_said_without_a_stream(
    train_tiny: Callable[..., FitResult],
    tiny_net: Callable[..., nn.Module],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    train_tiny(tiny_net())
    assert not list(tmp_path.iterdir())
    assert capfd.readouterr() == ("", "")


def test_early_stopping_says_why(
    train_tiny: Callable[..., FitResult], tiny_net: Callable[..., nn.Module]
) -> None:
    frozen = tiny_net()
    result = train_tiny(frozen, epochs=9, lr=1e-12, patience=2, monitor="val_accuracy")
    assert result.epochs_run == 3
    assert "no improvement from epoch 1 (val_accuracy" in result.stop_reason
    assert result.best_epoch == 1


def test_plateau_lowers_the_recorded_rate(
    train_tiny: Callable[..., FitResult], tiny_net: Callable[..., nn.Module]
) -> None:
    result = train_tiny(tiny_net(), epochs=8, lr=1e-9, scheduler="plateau", monitor="val_accuracy")
    assert [record.lr for record in result.history] == pytest.approx(
        [1e-9] * 4 + [5e-10] * 3 + [2.5e-10]
    )


def test_validation_and_best_weights_are_the_averaged_ones(
    train_tiny: Callable[..., FitResult], tiny_net: Callable[..., nn.Module], tiny_data: Any
) -> None:
    plain_model, model = tiny_net(), tiny_net()
    plain = train_tiny(plain_model, epochs=2)
    averaged = train_tiny(model, epochs=2, ema=True)
    assert [r.loss for r in plain.history] == [r.loss for r in averaged.history]
    assert [r.val_loss for r in plain.history] != [r.val_loss for r in averaged.history]
    logits = torch.from_numpy(predict_logits(model, tiny_data.val()))
    targets = torch.cat([targets for _, targets, _ in tiny_data.val().iterate(0)])
    assert F.cross_entropy(logits, targets).item() == pytest.approx(averaged.best_value)


def test_divergence_at_the_start_is_an_error_with_the_way_out(
    train_tiny: Callable[..., FitResult], tiny_net: Callable[..., nn.Module], tmp_path: Path
) -> None:
    def explode(logits: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(logits, targets, reduction="none") * math.nan

    with pytest.raises(ScanwiseError, match=r"diverged in epoch 1: the training loss is nan.*--lr"):
        train_tiny(tiny_net(), loss_fn=explode, run_dir=tmp_path)


def test_divergence_later_keeps_the_best_epoch(
    train_tiny: Callable[..., FitResult], tiny_net: Callable[..., nn.Module], tmp_path: Path
) -> None:
    model = tiny_net()
    calls = 0

    def later(logits: Tensor, targets: Tensor) -> Tensor:
        nonlocal calls
        calls += 1  # 3 training and 2 validation batches an epoch, 0 before the first
        return F.cross_entropy(logits, targets, reduction="none") * (math.nan if calls > 11 else 1)

    result = train_tiny(model, loss_fn=later, epochs=9, run_dir=tmp_path)
    assert result.epochs_run == 3
    assert result.best_epoch < 3
    assert result.stop_reason.startswith("training diverged in epoch 3")
    assert all(torch.isfinite(tensor).all() for tensor in model.state_dict().values())
    assert math.isnan(read_history(tmp_path / "history.csv")[-1].loss)


def test_a_measure_that_can_not_be_computed_is_refused(
    train_tiny: Callable[..., FitResult], tiny_net: Callable[..., nn.Module], tiny_data: Any
) -> None:
    val = tiny_data.val()
    one_class = type(val)(
        val._source._pixels.numpy()[:8],
        torch.zeros(8, dtype=torch.int64).numpy(),
        val.preprocessing,
    )
    with pytest.raises(ConfigError, match=r"val_auc can't be computed.*--monitor val_loss"):
        train_tiny(tiny_net(), val=one_class, monitor="val_auc")


def test_out_of_memory_goes_on_with_smaller_parts(
    train_tiny: Callable[..., FitResult], tiny_net: Callable[..., nn.Module], tmp_path: Path
) -> None:
    class FillsUp(nn.Sequential):
        def forward(self, images: Tensor) -> Tensor:
            if self.training and len(images) > 5:
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory: 12 bytes")
            return super().forward(images)

    result = train_tiny(FillsUp(tiny_net()), run_dir=tmp_path, epochs=2, precision="32")
    assert result.micro_batch == 4
    assert (tmp_path / "log.txt").read_text().count("going on with") == 2


@pytest.mark.parametrize(
    "settings",
    [
        {"scheduler": "plateau", "optimizer": "adam", "lr": 0.1},
        {"scheduler": "onecycle", "optimizer": "adamw", "ema": True, "weight_decay": 0.1},
        {"scheduler": "step", "optimizer": "sgd", "patience": 3, "monitor": "val_auc"},
    ],
)
@pytest.mark.parametrize("crash_after", [1, 3, 5])
def test_resume_ends_with_the_same_bits(
    train_tiny: Callable[..., FitResult],
    tiny_net: Callable[..., nn.Module],
    same_weights: Callable[..., bool],
    tmp_path: Path,
    settings: dict[str, Any],
    crash_after: int,
) -> None:
    class Crash(Exception):
        pass

    def crash(record: EpochRecord) -> None:
        if record.epoch == crash_after:
            raise Crash

    settings = {"epochs": 6, "data": {"channels_last": True}, "channels_last": True} | settings
    whole, parts = tiny_net(), tiny_net()
    expected = train_tiny(whole, run_dir=tmp_path / "whole", **settings)
    with pytest.raises(Crash):
        train_tiny(parts, run_dir=tmp_path / "parts", on_epoch=crash, **settings)
    again = tiny_net(seed=9)  # its own first weights must not matter
    result = train_tiny(again, run_dir=tmp_path / "parts", resume=True, **settings)
    assert same_weights(whole, again)
    assert without_times(result.history) == without_times(expected.history)
    assert result.best_epoch == expected.best_epoch
    assert result.stop_reason == expected.stop_reason
    assert read_history(tmp_path / "parts" / "history.csv") == result.history
    for name in (checkpoint.BEST, checkpoint.LAST):
        mine, _ = checkpoint.load_tensors(tmp_path / "whole" / "checkpoints" / name)
        theirs, _ = checkpoint.load_tensors(tmp_path / "parts" / "checkpoints" / name)
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[key], theirs[key]) for key in mine)


def test_resuming_a_finished_training_trains_no_more(
    train_tiny: Callable[..., FitResult],
    tiny_net: Callable[..., nn.Module],
    same_weights: Callable[..., bool],
    tmp_path: Path,
) -> None:
    first, second = tiny_net(), tiny_net(seed=4)
    before = train_tiny(first, run_dir=tmp_path)
    after = train_tiny(second, run_dir=tmp_path, resume=True)
    assert after == before
    assert same_weights(first, second)


def test_resume_without_a_checkpoint_starts_anew_and_other_settings_are_refused(
    train_tiny: Callable[..., FitResult],
    tiny_net: Callable[..., nn.Module],
    same_weights: Callable[..., bool],
    tmp_path: Path,
) -> None:
    first, second = tiny_net(), tiny_net()
    train_tiny(first)
    train_tiny(second, run_dir=tmp_path, resume=True)
    assert same_weights(first, second)
    with pytest.raises(RunError, match=r"lr was 0\.01, is 0\.02; seed was 0, is 5"):
        train_tiny(tiny_net(), run_dir=tmp_path, resume=True, lr=0.02, seed=5)


def test_resume_with_another_number_of_threads_says_so(
    train_tiny: Callable[..., FitResult],
    tiny_net: Callable[..., nn.Module],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Nothing that another test tuned in this process shall set the number again.
    monkeypatch.setattr(runtime._state, "threads", None)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        train_tiny(tiny_net(), run_dir=tmp_path)
        torch.set_num_threads(1)
        train_tiny(tiny_net(), run_dir=tmp_path, resume=True)
    finally:
        torch.set_num_threads(threads)
    assert "began with 2 threads and goes on with 1" in (tmp_path / "log.txt").read_text()


def test_bf16_trains_and_evaluates_in_float32(
    train_tiny: Callable[..., FitResult], tiny_net: Callable[..., nn.Module], tiny_data: Any
) -> None:
    model = tiny_net()
    result = train_tiny(model, precision="bf16", epochs=8)
    assert result.precision == "bf16-mixed"
    assert result.history[-1].val_accuracy > 0.8
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    assert model[1].running_mean.dtype == torch.float32
    logits = torch.from_numpy(predict_logits(model, tiny_data.val()))
    targets = torch.cat([targets for _, targets, _ in tiny_data.val().iterate(0)])
    assert F.cross_entropy(logits, targets).item() == pytest.approx(result.best_value)


def test_the_test_split_can_not_get_in() -> None:
    """P5: no parameter of fit takes it, and the package can't reach a Dataset or a Split."""
    assert not [name for name in inspect.signature(fit).parameters if "test" in name]
    for path in Path(loop.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert not str(node.module).startswith(("scanwise.data", "scanwise.pipeline"))
                assert not {alias.name for alias in node.names} & {"Dataset", "Split"}


def test_the_loops_settings_are_those_of_the_command() -> None:
    config = TrainConfig(epochs=7, lr=0.5, monitor="val_auc", warmup=2, seed=3, precision="32")
    settings = loop_settings(config, channels_last=True)
    assert (settings.epochs, settings.lr, settings.monitor) == (7, 0.5, "val_auc")
    assert (settings.warmup, settings.seed, settings.channels_last) == (2, 3, True)
    own = {"channels_last", "ema_decay", "micro_batch"}
    assert LoopSettings.model_fields.keys() - TrainConfig.model_fields.keys() == own
    with pytest.raises(ValueError, match="warmup=7 must be below epochs=7"):
        LoopSettings(epochs=7, warmup=7)

"""Several processes train one network: the same images, the same weights, the same history as one.

Real processes, connected by gloo on this machine. Everything that needs them is one start of them.
"""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from scanwise.core.errors import ConfigError
from scanwise.core.processes import Start, check_start, started_by
from scanwise.training.team import ALONE, join_team

# Three processes and batches of 16, 16 and 2 images: in an epoch's last step the third has none.
SCRIPT = r"""
import copy, json, sys
from pathlib import Path

import numpy as np, torch
from safetensors.torch import save_file
from torch import nn

from scanwise.data.load import from_arrays
from scanwise.models.losses import make_loss
from scanwise.prepare.augment import parse_augmentation
from scanwise.prepare.batches import Batches
from scanwise.prepare.preprocessing import fit_preprocessing
from scanwise.training.loop import LoopSettings, fit
from scanwise.training.team import join_team

torch.set_num_threads(1)
folder, size = Path(sys.argv[1]), int(sys.argv[2])
SEEN = []


class Watched(Batches):
    def iterate(self, epoch=0, **options):
        for step, batch in enumerate(super().iterate(epoch, **options)):
            if epoch and self.training:
                # Each row has a weight of its own; 0 is of an image that does not count.
                rows = ((batch[2][batch[2] > 0] - 0.5) / 1.5 * 57).round().long()
                SEEN.append([epoch, step, rows.tolist()])
            yield batch


class Double(nn.Sequential):
    "In float64 rounding is far below anything that a wrong weight would do."

    def forward(self, images):
        return super().forward(images.double())


def convolutional():
    return Double(nn.Conv2d(1, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
                  nn.Flatten(), nn.Linear(288, 16, bias=False), nn.BatchNorm1d(16), nn.ReLU(),
                  nn.Linear(16, 3)).double()


def perceptron():
    return nn.Sequential(nn.Flatten(), nn.Linear(144, 16), nn.ReLU(), nn.Linear(16, 3))


def train(team, name, make, stop_after=0, resume=False, **settings):
    rng = np.random.default_rng(3)
    targets = np.arange(58) % 3
    images = rng.integers(0, 120, (58, 12, 12, 1)).astype(np.uint8)
    for image, target in zip(images, targets):
        image[4 * target : 4 * target + 4] += 60
    dataset = from_arrays(images, targets)
    prepared = fit_preprocessing(dataset, np.arange(34))
    weights = np.linspace(0.5, 2, 58).astype(np.float32)
    train = Watched(prepared.to_pixels(images), targets, prepared, rows=np.arange(34),
                    batch_size=16, training=True, weights=weights, share=team.share,
                    augmentation=parse_augmentation("medium"))
    val = Batches(prepared.to_pixels(images), targets, prepared, rows=np.arange(34, 58))
    torch.manual_seed(0)
    net = make()
    kinds = [type(layer).__name__ for layer in net]

    class Stop(Exception):
        pass

    def on_epoch(record):
        if record.epoch == stop_after:
            raise Stop

    run_dir = folder / name
    if team.leads:
        run_dir.mkdir(exist_ok=True)
    SEEN.clear()
    try:
        result = fit(net, train, val, loss_fn=make_loss(task="multiclass"), task="multiclass",
                     settings=LoopSettings(epochs=4, **settings), run_dir=run_dir, resume=resume,
                     on_epoch=on_epoch, team=team)
    except Stop:
        team.sum(torch.zeros(1))  # the first has saved the epoch when all are here
        return
    assert [type(layer).__name__ for layer in net] == kinds
    times = {"seconds", "ms_per_step", "images_per_s"}
    history = [{k: v for k, v in r.to_json().items() if k not in times} for r in result.history]
    stem = folder / f"{name}-{team.rank}"
    save_file({k: v.contiguous() for k, v in net.state_dict().items()}, f"{stem}.safetensors")
    stem.with_suffix(".json").write_text(json.dumps({
        "history": history, "seen": SEEN, "best": result.best_epoch, "why": result.stop_reason}))


team = join_team(size, 1, torch.device("cpu"))
train(team, "perceptron", perceptron, lr=0.02)
recipe = dict(lr=0.02, scheduler="onecycle", ema=True, weight_decay=0.1)
train(team, "convolutional", convolutional, **recipe)
if size > 1:
    train(team, "resumed", convolutional, stop_after=2, **recipe)
    train(team, "resumed", convolutional, resume=True, **recipe)
team.finish()
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Folders of what one process and what three wrote."""
    script = tmp_path_factory.mktemp("script") / "several.py"
    script.write_text(SCRIPT)
    folders = {size: tmp_path_factory.mktemp(f"by-{size}") for size in (1, 3)}
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(script), str(folders[1]), "1"])
        runpy.run_path(str(script))
    torch.set_num_threads(threads)
    torchrun = "torch.distributed.run --standalone --local-addr 127.0.0.1 --nproc-per-node 3"
    done = subprocess.run(
        [sys.executable, "-m", *torchrun.split(), str(script), str(folders[3]), "3"],
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return folders


def results(folder: Path, name: str, rank: int = 0) -> tuple[dict[str, Any], dict[str, Any]]:
    stem = folder / f"{name}-{rank}"
    return json.loads(stem.with_suffix(".json").read_text()), load_file(f"{stem}.safetensors")


def gap(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    assert first.keys() == second.keys()
    return max(float((first[name].double() - second[name]).abs().max()) for name in first)


@pytest.mark.parametrize(
    ("name", "tolerance"),
    # A perceptron in float32, and in float64 (but for the loss) BatchNorm, averaged weights and
    # one-cycle: where rounding is small, so that a wrong weight would show.
    [("perceptron", 1e-5), ("convolutional", 1e-6)],
)
def test_three_processes_train_as_one(trained: dict[int, Path], name: str, tolerance: float):
    alone, weights = results(trained[1], name)
    for rank in range(3):
        facts, found = results(trained[3], name, rank)
        assert gap(found, weights) < tolerance
        assert (facts["best"], facts["why"]) == (alone["best"], alone["why"])
        for mine, theirs in zip(facts["history"], alone["history"], strict=True):
            assert mine == pytest.approx(theirs, abs=tolerance)


def test_every_process_ends_with_the_same_bits(trained: dict[int, Path]):
    facts, weights = results(trained[3], "convolutional")
    for rank in (1, 2):
        others, theirs = results(trained[3], "convolutional", rank)
        assert gap(theirs, weights) == 0
        assert others["history"] == facts["history"]


def test_the_processes_divide_the_batches_of_one(trained: dict[int, Path]):
    def seen(size: int, rank: int) -> dict[tuple[int, int], list[int]]:
        rows = results(trained[size], "perceptron", rank)[0]["seen"]
        return {(epoch, step): which for epoch, step, which in rows}

    alone, parts = seen(1, 0), [seen(3, rank) for rank in range(3)]
    assert len(alone) == 4 * 3
    for key, whole in alone.items():
        assert [part[key] for part in parts] == [whole[rank::3] for rank in range(3)]
    assert parts[2][1, 2] == []  # the batch of two
    for epoch in range(1, 5):
        rows = [row for part in parts for step in range(3) for row in part[epoch, step]]
        assert sorted(rows) == list(range(34))  # each image once


def test_resumed_by_three_processes_ends_with_the_same_bits(trained: dict[int, Path]):
    facts, weights = results(trained[3], "convolutional")
    resumed, found = results(trained[3], "resumed", 1)
    assert gap(found, weights) == 0
    assert resumed["history"] == facts["history"]


def test_only_the_first_process_writes(trained: dict[int, Path]):
    def files(size: int) -> list[str]:
        run = trained[size] / "convolutional"
        return sorted(str(path.relative_to(run)) for path in run.rglob("*"))

    assert files(3) == files(1)
    log = (trained[3] / "convolutional" / "log.txt").read_text()
    assert log.count("Epoch 1/4") == 1
    assert len((trained[3] / "convolutional" / "history.csv").read_text().splitlines()) == 5


def test_who_started_the_processes():
    elastic = {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "4", "RANK": "3"}
    assert started_by(elastic) == Start("torchrun", 4, 3)
    task = {"SLURM_STEP_NUM_TASKS": "8", "SLURM_PROCID": "5", "SLURM_NTASKS": "8"}
    assert started_by(task) == Start("srun", 8, 5)
    # A batch script of eight tasks, and in it scanwise without srun: one process.
    assert started_by({"SLURM_NTASKS": "8", "SLURM_PROCID": "0"}) is None


@pytest.mark.parametrize(
    ("devices", "nodes", "start", "words"),
    [
        (2, 1, None, ["needs 2", "torchrun --nproc-per-node 2"]),
        (4, 2, None, ["needs 8", "torchrun --nnodes 2 --nproc-per-node 4", "srun --nodes 2"]),
        (1, 1, Start("torchrun", 2, 0), ["--devices 2"]),
        (4, 1, Start("torchrun", 2, 0), ["started 2", "asks for 4"]),
        (2, 1, Start("srun", 8, 0), ["started 8", "asks for 2"]),
    ],
)
def test_processes_that_were_not_asked_for_are_refused(devices, nodes, start, words):
    with pytest.raises(ConfigError) as caught:
        check_start(devices, nodes, start)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("devices", "nodes", "start"),
    [
        (1, 1, None),
        (1, 1, Start("torchrun", 1, 0)),
        (1, 1, Start("srun", 8, 3)),  # eight trainings of their own
        (4, 2, Start("torchrun", 8, 0)),
    ],
)
def test_processes_that_fit(devices, nodes, start):
    check_start(devices, nodes, start)


def test_alone_unless_asked():
    assert join_team(1, 1, torch.device("cpu")) is ALONE
    with pytest.raises(ConfigError, match="torchrun --nproc-per-node 3"):
        join_team(3, 1, torch.device("cpu"))


def test_stored_features_are_not_divided():
    from scanwise.models.losses import make_loss
    from scanwise.training.features import FeatureBatches
    from scanwise.training.loop import LoopSettings, fit
    from scanwise.training.team import Team

    class Two(Team):
        size = 2

    stream = FeatureBatches(
        np.zeros((8, 1, 4), np.float32), np.arange(8) % 2, batch_size=4, training=True
    )
    with pytest.raises(ConfigError, match="features"):
        fit(
            nn.Linear(4, 2),
            stream,
            stream,
            loss_fn=make_loss(task="multiclass"),
            task="multiclass",
            settings=LoopSettings(epochs=1),
            team=Two(),
        )

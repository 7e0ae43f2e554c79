"""kill -9 at any moment, several times, then --resume: the same bits as without."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

# One process loads torch and computes nothing; each training is a fork of it, so that a kill costs
# milliseconds. A timer in the fork kills it at a random moment within an epoch and a half of some
# epoch's end: in a step, in validation, while a checkpoint is written.
SCRIPT = r"""
import hashlib, json, os, signal, sys, threading
from pathlib import Path
import numpy as np, torch
from torch import nn
from scanwise.data.load import from_arrays
from scanwise.models.losses import make_loss
from scanwise.prepare.augment import parse_augmentation
from scanwise.prepare.batches import Batches
from scanwise.prepare.preprocessing import fit_preprocessing
from scanwise.training.history import read_history
from scanwise.training.loop import LoopSettings, fit

torch.set_num_threads(2)
folder = Path(sys.argv[1])
rng = np.random.default_rng()  # other moments each time

EPOCHS = 12

def train(run_dir, kill_after_epoch, share):
    def on_epoch(record):
        if record.epoch == kill_after_epoch:
            delay = share * record.seconds
            threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL)).start()

    targets = np.arange(160) % 3
    images = np.random.default_rng(1).integers(0, 256, (160, 16, 16, 3)).astype(np.uint8)
    dataset = from_arrays(images, targets)
    prepared = fit_preprocessing(dataset, np.arange(120))
    pixels = prepared.to_pixels(images)
    train = Batches(pixels, targets, prepared, rows=np.arange(120), batch_size=16, training=True,
                    augmentation=parse_augmentation("gentle"), channels_last=True)
    val = Batches(pixels, targets, prepared, rows=np.arange(120, 160), channels_last=True)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU(),
                        nn.Conv2d(32, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU(),
                        nn.Flatten(), nn.Dropout(0.3), nn.Linear(512, 3))
    settings = LoopSettings(epochs=EPOCHS, lr=0.01, scheduler="onecycle", ema=True,
                            weight_decay=0.1, channels_last=True, monitor="val_auc")
    fit(net, train, val, loss_fn=make_loss(task="multiclass"), task="multiclass",
        settings=settings, run_dir=run_dir, resume=True, on_epoch=on_epoch)
    digest = hashlib.sha256()
    for name, tensor in sorted(net.state_dict().items()):
        digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
    (run_dir / "weights.sha256").write_text(digest.hexdigest())

def forked(run_dir, kill_after_epoch=None, share=0.0):
    child = os.fork()
    if child == 0:
        try:
            train(run_dir, kill_after_epoch, share)
        except BaseException as error:
            sys.stderr.write(repr(error))
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1]

def result(run_dir):
    times = {"seconds", "ms_per_step", "images_per_s"}
    rows = [record.to_json() for record in read_history(run_dir / "history.csv")]
    return {"weights": (run_dir / "weights.sha256").read_text(),
            "history": [{k: v for k, v in row.items() if k not in times} for row in rows],
            "files": sorted(path.name for path in (run_dir / "checkpoints").iterdir()
                            if not path.name.endswith(".part"))}

whole = folder / "whole"; whole.mkdir()
assert forked(whole) == 0
killed = folder / "killed"; killed.mkdir()
epochs_at_kill, done = [], 0
while done < EPOCHS - 2:
    status = forked(killed, done + int(rng.integers(1, 3)), rng.uniform(0, 1.5))
    if os.WIFEXITED(status):  # it was done before the timer was
        assert os.WEXITSTATUS(status) == 0
        break
    done = len(read_history(killed / "history.csv"))
    epochs_at_kill.append(done)
assert forked(killed) == 0
print(json.dumps({"whole": result(whole), "killed": result(killed), "epochs": epochs_at_kill}))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="uses fork and SIGKILL")
def test_killed_at_random_moments_ends_with_the_same_bits(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["epochs"], found
    assert found["killed"] == found["whole"]

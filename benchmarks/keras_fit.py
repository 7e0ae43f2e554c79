"""Our training loop beside Keras `fit` with augmentation layers, images/s.

    python benchmarks/keras_fit.py [CASE ...] [--rounds 3]

Makes .venv-keras (TensorFlow for CPUs and Keras; 1.5 GB) at the first run. Both train the same
layers on the same synthetic pictures with the same augmentation (flip, rotation ±5°, zoom ±5 %,
contrast ±5 %), Adam and batch size, each in a process of its own with its own defaults. They
alternate; medians of the rounds; the first epoch (which traces and compiles) is left out.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv-keras"
AIMS = {"mlp": 2.5, "simple_cnn": 1.0}


def train_with_keras(name: str) -> None:
    """Runs in .venv-keras: print the images/s of `fit`."""
    import time

    import keras
    import numpy as np
    from keras import layers

    import workload

    case = workload.CASES[name]
    shape = (workload.SIZE_PX, workload.SIZE_PX, workload.CHANNELS)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (case.images, *shape), dtype=np.uint8)
    targets = (np.arange(case.images) % workload.CLASSES).astype("int64")
    prepare = [
        layers.Rescaling(1 / 127.5, offset=-1.0),
        layers.RandomFlip("horizontal"),
        layers.RandomRotation(5 / 360),
        layers.RandomZoom(0.05),
        layers.RandomContrast(0.05),
    ]
    if name == "mlp":
        body = [layers.Flatten(), *(layers.Dense(n, activation="relu") for n in (512, 256, 128))]
    else:
        body = []
        for width in (32, 64, 128):
            body += [
                layers.Conv2D(width, 3, padding="same", use_bias=False),
                layers.BatchNormalization(),
                layers.MaxPooling2D(padding="same"),
                layers.ReLU(),
            ]
        body += [layers.Flatten(), layers.Dense(512, activation="relu"), layers.Dropout(0.3)]
    model = keras.Sequential([layers.Input(shape), *prepare, *body, layers.Dense(workload.CLASSES)])
    model.compile(
        optimizer=keras.optimizers.Adam(1e-4),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    speeds: list[float] = []

    class Clock(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch: int, logs: object = None) -> None:
            self.began = time.perf_counter()

        def on_epoch_end(self, epoch: int, logs: object = None) -> None:
            speeds.append(case.images / (time.perf_counter() - self.began))

    model.fit(images, targets, batch_size=case.batch, epochs=5, verbose=0, callbacks=[Clock()])
    print(statistics.median(speeds[1:]), model.count_params())


def ensure_venv() -> Path:
    """The Python of .venv-keras, made if need be."""
    python = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    done = VENV / "keras.stamp"
    if not done.exists():
        print("installing TensorFlow and Keras in .venv-keras ...", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True)
        install = [str(python), "-m", "pip", "install", "--quiet", "tensorflow-cpu", "keras"]
        subprocess.run(install, check=True)
        done.touch()
    return python


def images_per_s(command: list[str]) -> float:
    environ = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow"}
    done = subprocess.run(command, env=environ, capture_output=True, text=True)
    if done.returncode:  # TensorFlow says much on stderr when all is well, too
        raise SystemExit(done.stderr)
    return float(done.stdout.split()[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", default=list(AIMS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--worker", metavar="CASE", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        train_with_keras(given.worker)
        return
    import workload

    python = ensure_venv()
    print(workload.machine())
    busy_core = Path(__file__).with_name("busy_core.py")
    for name in given.cases:
        ours, keras = [], []
        for _ in range(given.rounds):
            ours.append(images_per_s([sys.executable, str(busy_core), "--worker", name]))
            keras.append(images_per_s([str(python), __file__, "--worker", name]))
        ratio = statistics.median(a / b for a, b in zip(ours, keras, strict=True))
        print(
            f"{name:<11} scanwise {statistics.median(ours):>8.0f} images/s   "
            f"Keras fit {statistics.median(keras):>8.0f} images/s   "
            f"ratio {ratio:.2f} (aim {AIMS[name]})",
            flush=True,
        )


if __name__ == "__main__":
    main()

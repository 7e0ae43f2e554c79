"""One transfer-learning job in Keras, in a plain PyTorch loop and in scanwise: whole processes.

    python benchmarks/transfer.py [--rounds 3] [--epochs 15]

287 JPEGs of 600×450 in classes of 36, 91 and 160; EfficientNet-B0, frozen, 224 px, batch 32; head:
dropout, 256 units, BatchNorm, dropout. Weights are random, since nothing here is about accuracy.
Keras: its standard recipe (image_dataset_from_directory, augmentation layers, frozen application)
in .venv-keras. PyTorch: a DataLoader that decodes with Pillow, one worker a core. scanwise: the
command line with everything it does besides (checks, intervals, report), with empty caches and one
or four views, then with full caches. The tools alternate; medians of the rounds. "Without imports"
is the process's time less that of a process that only imports.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

COUNTS = {"a": 36, "b": 91, "c": 160}
SIZE_PX, BATCH = 224, 32
ROOT = Path(__file__).resolve().parents[1]
AIMS = {"views 1": (12, 40), "views 4": (6, 15)}


def write_pictures(folder: Path, counts: dict[str, int] = COUNTS) -> None:
    """Blurred blobs on noise, so that JPEG decoding costs what it costs on photographs."""
    import cv2
    import numpy as np

    rng = np.random.default_rng(0)
    for number, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            small = rng.integers(40, 216, (30, 40, 3), dtype=np.uint8)
            image = cv2.resize(small, (600, 450), interpolation=cv2.INTER_CUBIC)
            centre = (int(rng.integers(150, 450)), int(rng.integers(120, 330)))
            cv2.circle(image, centre, 40 + 30 * number, (90, 40, 160), -1)
            noise = rng.integers(0, 24, image.shape, dtype=np.uint8)
            cv2.imwrite(str(folder / name / f"{i:03d}.jpg"), cv2.add(image, noise))


def write_weights(path: Path) -> None:
    """EfficientNet-B0 with random weights."""
    import torch
    from safetensors.torch import save_file

    from scanwise.models.build import build_model

    torch.manual_seed(0)
    network = build_model(
        "efficientnet_b0", num_outputs=1, channels=3, size_px=(224, 224), published=True
    )
    save_file(
        {name: value.contiguous() for name, value in network.body.state_dict().items()}, str(path)
    )


def keras_worker(folder: str, epochs: int) -> None:
    """Keras's recipe, as its guide on transfer learning writes it."""
    import keras
    from keras import layers

    common = {
        "directory": folder, "image_size": (SIZE_PX, SIZE_PX), "batch_size": BATCH,
        "validation_split": 0.3, "seed": 0, "verbose": False,
    }  # fmt: skip
    train = keras.utils.image_dataset_from_directory(subset="training", **common)
    val = keras.utils.image_dataset_from_directory(subset="validation", **common)
    base = keras.applications.EfficientNetB0(include_top=False, weights=None, pooling="avg")
    base.trainable = False
    inputs = layers.Input((SIZE_PX, SIZE_PX, 3))
    x = layers.RandomFlip("horizontal")(inputs)
    x = layers.RandomRotation(5 / 360)(x)
    x = layers.RandomZoom(0.05)(x)
    x = layers.RandomContrast(0.05)(x)
    x = base(x, training=False)
    x = layers.Dropout(0.2)(x)
    x = layers.Dense(256, activation="relu")(x)
    x = layers.BatchNormalization()(x)
    x = layers.Dropout(0.2)(x)
    model = keras.Model(inputs, layers.Dense(len(COUNTS), activation="softmax")(x))
    model.compile(
        keras.optimizers.Adam(1e-4), loss="sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    prefetch = -1  # tf.data.AUTOTUNE
    model.fit(train.prefetch(prefetch), validation_data=val.prefetch(prefetch), epochs=epochs,
              verbose=0)  # fmt: skip


def torch_worker(folder: str, weights: str, epochs: int) -> None:
    """The loop that tutorials write: decode, transform and run the frozen network every epoch."""
    import numpy as np
    import torch
    from PIL import Image
    from safetensors.torch import load_file
    from torch import nn

    from scanwise.models.build import build_model

    files = [
        (path, label)
        for label, name in enumerate(sorted(COUNTS))
        for path in sorted((Path(folder) / name).iterdir())
    ]

    class Pictures(torch.utils.data.Dataset):
        def __init__(self, rows: list, training: bool) -> None:
            self.rows, self.training = rows, training
            self.rng = np.random.default_rng(0)

        def __len__(self) -> int:
            return len(self.rows)

        def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
            path, label = self.rows[index]
            image = Image.open(path).convert("RGB").resize((SIZE_PX, SIZE_PX))
            if self.training:
                image = image.rotate(self.rng.uniform(-5, 5), Image.Resampling.BILINEAR)
                if self.rng.random() < 0.5:
                    image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            tensor = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float() / 255
            return (tensor - 0.45) / 0.225, label

    order = np.random.default_rng(0).permutation(len(files))
    cut = int(0.7 * len(files))
    workers = {"batch_size": BATCH, "num_workers": os.cpu_count() or 1}
    train = torch.utils.data.DataLoader(
        Pictures([files[i] for i in order[:cut]], True), shuffle=True, **workers
    )
    val = torch.utils.data.DataLoader(Pictures([files[i] for i in order[cut:]], False), **workers)
    network = build_model(
        "efficientnet_b0", num_outputs=1, channels=3, size_px=(224, 224), published=True
    )
    network.body.load_state_dict(load_file(weights))
    network.eval()
    head = nn.Sequential(
        nn.Dropout(0.2), nn.Linear(1280, 256), nn.ReLU(), nn.BatchNorm1d(256), nn.Dropout(0.2),
        nn.Linear(256, len(COUNTS)),
    )  # fmt: skip
    optimizer = torch.optim.Adam(head.parameters(), 1e-4)
    for _ in range(epochs):
        head.train()
        for images, labels in train:
            with torch.no_grad():
                features = network.features(images)
            optimizer.zero_grad()
            nn.functional.cross_entropy(head(features), labels).backward()
            optimizer.step()
        head.eval()
        with torch.no_grad():
            for images, _ in val:
                head(network.features(images))


def seconds(command: list[str], environ: dict[str, str]) -> float:
    began = time.perf_counter()
    done = subprocess.run(command, env=os.environ | environ, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--worker", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker and given.worker[0] == "keras":
        keras_worker(given.worker[1], given.epochs)
    elif given.worker:
        torch_worker(given.worker[1], given.worker[2], given.epochs)
    else:
        compare(given.rounds, given.epochs)


def compare(rounds: int, epochs: int) -> None:
    import workload
    from keras_fit import ensure_venv

    keras_python = str(ensure_venv())
    print(workload.machine())
    with tempfile.TemporaryDirectory() as scratch:
        folder, weights = Path(scratch) / "pictures", Path(scratch) / "b0.safetensors"
        write_pictures(folder)
        write_weights(weights)
        me, keep = str(Path(__file__)), ["--epochs", str(epochs)]
        quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow"}
        scanwise = [
            sys.executable, "-m", "scanwise", "train", str(folder), "--model", "efficientnet_b0",
            "--weights", str(weights), "--batch-size", str(BATCH), "--epochs", str(epochs),
            "--patience", "0", "--preset", "auto", "--force",
            "--output", str(Path(scratch) / "run"),
        ]  # fmt: skip
        cache = {"SCANWISE_CACHE": str(Path(scratch) / "cache")}
        jobs = {
            "Keras": ([keras_python, me, "--worker", "keras", str(folder), *keep], quiet),
            "PyTorch loop": (
                [sys.executable, me, "--worker", "torch", str(folder), str(weights), *keep], {},
            ),
            "views 1": ([*scanwise, "--views", "1"], cache),
            "views 4": ([*scanwise, "--views", "4"], cache),
            "views 4, warm": ([*scanwise, "--views", "4"], cache),
        }  # fmt: skip
        imports = {
            "Keras": ([keras_python, "-c", "import keras"], quiet),
            "PyTorch loop": ([sys.executable, "-c", "import torch, PIL.Image, numpy"], {}),
            "views 1": ([sys.executable, "-c", "import scanwise.pipeline.train"], {}),
        }
        times: dict[str, list[float]] = defaultdict(list)
        for _ in range(rounds):
            for name, (command, environ) in imports.items():
                times[f"import {name}"].append(seconds(command, environ))
            for name, (command, environ) in jobs.items():
                if name in ("views 1", "views 4"):
                    shutil.rmtree(cache["SCANWISE_CACHE"], ignore_errors=True)
                times[name].append(seconds(command, environ))
                print(f"  {name}: {times[name][-1]:.1f} s", flush=True)
    report(times)


def report(times: dict[str, list[float]]) -> None:
    middle = {name: statistics.median(values) for name, values in times.items()}
    net = {
        name: middle[name]
        - middle[f"import {name if name in ('Keras', 'PyTorch loop') else 'views 1'}"]
        for name in middle
        if not name.startswith("import ")
    }
    rival = min(("Keras", "PyTorch loop"), key=middle.__getitem__)
    rival_net = min(("Keras", "PyTorch loop"), key=net.__getitem__)
    for name in net:
        line = f"{name:<14} {middle[name]:7.1f} s, without imports {net[name]:7.1f} s"
        if name in AIMS:
            whole, bare = AIMS[name]
            line += (
                f"; {middle[rival] / middle[name]:.1f} times faster than {rival} (aim {whole}), "
                f"without imports {net[rival_net] / net[name]:.1f} times than {rival_net} "
                f"(aim {bare})"
            )
        elif "warm" in name:
            line += f"; {middle[rival] / middle[name]:.1f} times faster than {rival}"
        print(line)
    print(json.dumps({name: [round(v, 2) for v in values] for name, values in times.items()}))


if __name__ == "__main__":
    main()

"""A folder of JPEGs to a CSV of probabilities: scanwise, Keras's script and a plain PyTorch script.

    python benchmarks/predict.py [--images 1000] [--rounds 3] [--write docs/performance.md]

JPEGs of 600×450; EfficientNet-B0 at 224 px with random weights, since nothing here is about
accuracy. Keras: image_dataset_from_directory and `predict`, in .venv-keras. PyTorch: a DataLoader
that decodes with Pillow, one worker a core, batches of 32. scanwise: `scanwise predict`, with an
empty cache (the network is exported and compared with torch's) and with a full one (the exported
network is opened, and torch is not loaded). Whole
processes, alternating, medians of the rounds; "without imports" is less the time of a process that
only imports. The bare network runs on prepared pixels that lie in memory, by the engine that
predict chose, in a process that does nothing else.

CPU seconds count both cores, imports too; a busy neighbour changes them less than it changes time.

Then PNGs of 28 px by a small network, beside decoding them alone in as many threads, and beside
the network alone.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import transfer

SIZE_PX, BATCH, CLASSES = 224, 32, ("a", "b", "c")
BARE_IMAGES = 160
SMALL_IMAGES = 5000
START, END = "<!-- predict: start -->", "<!-- predict: end -->"


def write_bundle(folder: Path, spec: str, size_px: int) -> None:
    """A bundle of a network with random weights."""
    import torch

    from scanwise.deploy.bundle import Bundle, BundleConfig, random_network
    from scanwise.prepare.preprocessing import Preprocessing

    torch.manual_seed(0)
    config = BundleConfig(
        architecture=spec, task="multiclass", class_names=CLASSES, size_px=(size_px, size_px),
        channels=3,
    )  # fmt: skip
    preprocessing = Preprocessing(
        size_px=(size_px, size_px), channels=3, source_channels=3,
        mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225),
    )  # fmt: skip
    Bundle(random_network(config), preprocessing, config).save_pretrained(folder)


def keras_worker(folder: str, output: str) -> None:
    """Runs in .venv-keras: what Keras's guides write."""
    import keras

    images = keras.utils.image_dataset_from_directory(
        folder, labels=None, image_size=(SIZE_PX, SIZE_PX), batch_size=BATCH, shuffle=False,
        verbose=False,
    )  # fmt: skip
    model = keras.applications.EfficientNetB0(weights=None, classes=len(CLASSES))
    write_csv(output, images.file_paths, model.predict(images.prefetch(-1), verbose=0).tolist())


def torch_worker(folder: str, bundle: str, output: str) -> None:
    """What tutorials write: a Dataset that decodes with Pillow, a DataLoader, a loop."""
    import numpy as np
    import torch
    from PIL import Image

    from scanwise.deploy.bundle import Bundle

    files = sorted(str(path) for path in Path(folder).rglob("*.jpg"))

    class Pictures(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(files)

        def __getitem__(self, index: int) -> torch.Tensor:
            image = Image.open(files[index]).convert("RGB").resize((SIZE_PX, SIZE_PX))
            tensor = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float() / 255
            return (tensor - 0.45) / 0.225

    network = Bundle.from_pretrained(bundle).model.eval()
    rows: list[list[float]] = []
    loader = torch.utils.data.DataLoader(
        Pictures(), batch_size=BATCH, num_workers=os.cpu_count() or 1
    )
    with torch.inference_mode():
        for images in loader:
            rows += network(images).softmax(dim=1).tolist()
    write_csv(output, files, rows)


def write_csv(output: str, files: list[str], rows: list[list[float]]) -> None:
    with open(output, "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", *CLASSES])
        writer.writerows([file, *row] for file, row in zip(files, rows, strict=True))


def bare_worker(bundle: str, engine: str, cache: str) -> None:
    """Print the images/s of the network alone, on pixels that are ready."""
    os.environ["SCANWISE_CACHE"] = cache
    from scanwise.core.runtime import tune_process

    tune_process()
    import numpy as np

    from scanwise.deploy.fast import use_engine
    from scanwise.deploy.opening import open_model

    opened = open_model(bundle, lazily=True)
    use_engine(opened, "onnxruntime" if engine == "onnxruntime" else "torch")
    shape = (BARE_IMAGES, SIZE_PX, SIZE_PX, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    opened.outputs_of(pixels[:BATCH])
    began = time.perf_counter()
    opened.outputs_of(pixels)
    print(BARE_IMAGES / (time.perf_counter() - began))


def run(command: list[str], environ: dict[str, str]) -> tuple[float, float, str]:
    """Seconds of a process, its CPU seconds, and what it printed."""
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, env=os.environ | environ, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - began, cpu, done.stdout


def measure(num_images: int, rounds: int) -> dict[str, list[float]]:
    """Seconds of each tool, of its imports, and images/s of the bare network, round by round."""
    from keras_fit import ensure_venv

    keras_python, me = str(ensure_venv()), str(Path(__file__))
    found: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as scratch:
        folder, bundle, out = (Path(scratch) / name for name in ("pictures", "bundle", "out.csv"))
        third = num_images // 3
        transfer.write_pictures(folder, {"a": third, "b": third, "c": num_images - 2 * third})
        write_bundle(bundle, "efficientnet_b0", SIZE_PX)
        quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow"}
        cache = {"SCANWISE_CACHE": str(Path(scratch) / "cache")}
        predict = [
            sys.executable, "-m", "scanwise", "predict", str(bundle), str(folder), "-o", str(out),
            "--device", "cpu", "--force", "--json",
        ]  # fmt: skip
        theirs = [sys.executable, me, "--worker", "torch", str(folder), str(bundle), str(out)]
        jobs = {
            "scanwise, empty cache": (predict, cache),
            "scanwise": (predict, cache),
            "Keras": ([keras_python, me, "--worker", "keras", str(folder), str(out)], quiet),
            "PyTorch": (theirs, {}),
        }
        imports = {
            "scanwise": [sys.executable, "-c", "import scanwise.pipeline.predict, onnxruntime"],
            "Keras": [keras_python, "-c", "import keras"],
            "PyTorch": [sys.executable, "-c", "import torch, PIL.Image, numpy"],
        }
        for _ in range(rounds):
            shutil.rmtree(cache["SCANWISE_CACHE"], ignore_errors=True)
            for name, (command, environ) in jobs.items():
                seconds, cpu, said = run(command, environ)
                found[name].append(seconds)
                found[f"CPU {name}"].append(cpu)
                if name == "scanwise":
                    print(f"  network by {json.loads(said)['engine']}")
                    engine = "onnxruntime" if "ONNX" in json.loads(said)["engine"][:5] else "torch"
                print(f"  {name}: {num_images / seconds:.1f} images/s", flush=True)
            for name, command in imports.items():
                found[f"import {name}"].append(run(command, quiet)[0])
            bare = [sys.executable, me, "--worker", "bare", str(bundle), engine, *cache.values()]
            found["bare"].append(float(run(bare, {})[2]))
            print(f"  bare network: {found['bare'][-1]:.1f} images/s", flush=True)
    return found


def measure_small(rounds: int) -> tuple[float, float, float]:
    """Images/s of predict, of decoding alone and of the network alone, PNGs of 28 px."""
    import cv2
    import numpy as np

    from scanwise.core.runtime import tune_process

    tune_process()
    from scanwise.data.cache import in_threads
    from scanwise.deploy.opening import open_model
    from scanwise.pipeline.predict import Job, predict

    rng = np.random.default_rng(0)
    whole, alone, network = [], [], []
    with tempfile.TemporaryDirectory() as scratch:
        folder, bundle = Path(scratch) / "pictures", Path(scratch) / "bundle"
        folder.mkdir()
        for i in range(SMALL_IMAGES):
            image = rng.integers(0, 256, (28, 28, 3), dtype=np.uint8)
            cv2.imwrite(str(folder / f"{i:04d}.png"), image)
        write_bundle(bundle, "small_resnet:32", 28)
        files, opened = sorted(folder.iterdir()), open_model(bundle)
        for turn in range(rounds):
            out = str(Path(scratch) / f"{turn}.csv")
            whole.append(predict(Job(bundle, (str(folder),), output=out)).images_per_s)
            began = time.perf_counter()
            prepared = list(in_threads(opened.prepare, files))
            alone.append(SMALL_IMAGES / (time.perf_counter() - began))
            pixels = np.stack([one for (one,) in prepared])
            began = time.perf_counter()
            opened.outputs_of(pixels)
            network.append(SMALL_IMAGES / (time.perf_counter() - began))
    return tuple(statistics.median(rates) for rates in (whole, alone, network))


def table(
    found: dict[str, list[float]],
    small: tuple[float, float, float],
    num_images: int,
    machine: str,
) -> str:
    middle = {name: statistics.median(values) for name, values in found.items()}
    tools = ("scanwise", "scanwise, empty cache", "Keras", "PyTorch")
    rates = {name: num_images / middle[name] for name in tools}
    net = {
        name: num_images / (middle[name] - middle[f"import {name.partition(',')[0]}"])
        for name in tools
    }
    rival, rival_net = (max(of["Keras"], of["PyTorch"]) for of in (rates, net))
    lines = [
        "| | images/s | ratio | without imports | ratio | of the bare network | CPU seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {name} | {rates[name]:.1f} | {rates[name] / rival:.2f} | {net[name]:.1f} "
        f"| {net[name] / rival_net:.2f} | {net[name] / middle['bare']:.2f} "
        f"| {middle[f'CPU {name}']:.0f} |"
        for name in tools
    ]
    rounds = len(found["scanwise"])
    return "\n".join(
        [
            *lines,
            "",
            f"{num_images:,} JPEGs, {rounds} round{'' if rounds == 1 else 's'}; bare network "
            f"{middle['bare']:.1f} images/s. The ratios are to the faster of the two scripts. "
            f"Aims: 2, and 0.9 of the bare network. {machine}.",
            "",
            f"{SMALL_IMAGES:,} PNGs of 28 px, small_resnet:32, without imports: {small[0]:,.0f} "
            f"images/s; decoding and preparing them alone {small[1]:,.0f}, the network alone "
            f"{small[2]:,.0f}.",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", type=Path, help="page whose table is to be written")
    parser.add_argument("--worker", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        workers: dict[str, Any] = {"keras": keras_worker, "torch": torch_worker}
        (workers | {"bare": bare_worker})[given.worker[0]](*given.worker[1:])
        return
    import workload
    from pages import write_between

    machine = workload.machine()
    print(machine)
    found = measure(given.images, given.rounds)
    text = table(found, measure_small(given.rounds), given.images, machine)
    print(text)
    print(json.dumps({name: [round(value, 2) for value in found[name]] for name in found}))
    if given.write:
        write_between(given.write, START, END, text)


if __name__ == "__main__":
    main()

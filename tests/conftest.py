"""Shared fixtures: where the real images are, and small real files that tests make themselves."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import settings
from numpy.typing import NDArray

# In CI the same examples every time; on a developer's machine new ones, to find new faults.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")

ROOT = Path(__file__).resolve().parents[1]


def _shared_folder() -> Path:
    given = os.environ.get("SCANWISE_SHARED")
    return Path(given) if given else ROOT.parent / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder that holds data/ and weights/; skips where there is none.

    With SCANWISE_REQUIRE_SHARED=1 (set where the folder must be there) its absence is a failure.
    """
    folder = _shared_folder()
    if (folder / "data" / "medmnist").is_dir():
        return folder
    reason = f"real images not found at {folder} (set SCANWISE_SHARED)"
    if os.environ.get("SCANWISE_REQUIRE_SHARED") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="module")
def browser():
    """Debian's Chromium, driven by Playwright; skips where there is none.

    For a module only: Playwright keeps an event loop running, beside which asyncio.run fails.

    With SCANWISE_REQUIRE_BROWSER=1 (set where it must be there) its absence is a failure.
    """
    from playwright.sync_api import sync_playwright

    path = os.environ.get("SCANWISE_CHROMIUM") or shutil.which("chromium")
    if path is None:
        reason = "no Chromium found (install Debian's chromium, or set SCANWISE_CHROMIUM)"
        if os.environ.get("SCANWISE_REQUIRE_BROWSER") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    with sync_playwright() as playwright:
        # No sandbox: as root, in a container, Chromium has none to offer.
        opened = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tests never read or fill the user's cache, and never use the network."""
    os.environ["SCANWISE_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    os.environ["SCANWISE_OFFLINE"] = "1"


@pytest.fixture(scope="session")
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def load_script(path: str) -> ModuleType:
    """A program of docs/ or benchmarks/ as a module, by its path in the repository."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def run_main(arguments: list[str]) -> int:
    """The exit code of a command line, run in this process."""
    from scanwise.cli import main

    try:
        main(arguments)
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def disc_images(
    n: int, rng: np.random.Generator, size: int = 16
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Noisy grey images (n, size, size); class 1 has a bright disc somewhere."""
    targets = np.arange(n) % 2
    images = rng.normal(90, 25, (n, size, size))
    rows, columns = np.mgrid[:size, :size]
    for image, target in zip(images, targets, strict=True):
        if target:
            y, x = rng.uniform(4, size - 4, 2)
            image[(rows - y) ** 2 + (columns - x) ** 2 < 9] += 110
    return images.clip(0, 255).astype(np.uint8), targets.astype(np.int64)


@pytest.fixture(scope="session")
def discs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real .npz in MedMNIST's layout: 240 train, 80 val and 80 test images."""
    rng = np.random.default_rng(3)
    arrays = {}
    for name, n in (("train", 240), ("val", 80), ("test", 80)):
        images, targets = disc_images(n, rng)
        arrays[f"{name}_images"], arrays[f"{name}_labels"] = images, targets[:, None]
    path = tmp_path_factory.mktemp("discs") / "discs.npz"
    np.savez(path, **arrays)
    return path


@pytest.fixture(scope="session")
def disc_run(discs: Path, tmp_path_factory: pytest.TempPathFactory):
    """One finished run of the small network on the discs. Read it; never change it."""
    import scanwise as sw

    folder = tmp_path_factory.mktemp("runs") / "discs"
    return sw.train(
        discs, model="small_resnet:8", epochs=8, batch_size=32, seed=1, output=str(folder)
    )


@pytest.fixture
def copied_run(disc_run, tmp_path: Path):
    """A copy of the finished run that a test may change."""
    from scanwise import Run

    target = tmp_path / "run"
    shutil.copytree(disc_run.path, target)
    return Run.open(target)


@pytest.fixture(scope="session")
def tiny_hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder of a small convolutional network with BatchNorm, random weights."""
    from transformers import ResNetConfig, ResNetModel

    return save_hub_folder(
        tmp_path_factory.mktemp("hub") / "tiny-resnet",
        ResNetModel,
        ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"),
    )


def save_hub_folder(folder: Path, model_class, config, size: int = 32) -> Path:
    """Write a network with random weights and uneven BatchNorm statistics as the hub would."""
    import json
    import warnings

    import torch

    torch.manual_seed(5)
    model = model_class(config)
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_mean.uniform_(-0.2, 0.2)
            layer.running_var.uniform_(0.5, 1.5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(folder)
    form = {
        "do_center_crop": True,
        "crop_size": {"height": size, "width": size},
        "size": {"shortest_edge": size + 4},
        "image_mean": [0.5, 0.4, 0.3],
        "image_std": [0.2, 0.25, 0.3],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(form))
    return folder

"""Shared fixtures: where the real images are, and small real files that tests make themselves."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

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


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tests never read or fill the user's cache, and never use the network."""
    os.environ["SCANWISE_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    os.environ["SCANWISE_OFFLINE"] = "1"


@pytest.fixture(scope="session")
def rng() -> np.random.Generator:
    return np.random.default_rng(7)

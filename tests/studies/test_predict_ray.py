"""Predicting on a real Ray cluster of this machine writes the bytes that one process writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scanwise.pipeline.predict import Job
from scanwise.studies.predict_workers import predict_on

pytest.importorskip("ray")


# Ray's own code opens sockets and files that it leaves to the collector.
@pytest.mark.filterwarnings("ignore")
def test_blocks_come_back_in_order(disc_run, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(30):
        picture = Image.fromarray(rng.integers(0, 255, (16, 16), dtype=np.uint8))
        picture.save(tmp_path / f"{number:02}.png")
    (tmp_path / "11.png").write_text("no image")
    for backend in ("local", "ray"):
        job = Job(
            disc_run.path, (str(tmp_path),), output=str(tmp_path / f"{backend}.csv"), batch_size=4
        )
        found = predict_on(job, backend)
        assert (found.tally.n, found.tally.errors) == (30, 1)
    assert (tmp_path / "ray.csv").read_bytes() == (tmp_path / "local.csv").read_bytes()

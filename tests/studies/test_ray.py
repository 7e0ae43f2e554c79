"""A study on a real Ray cluster of this machine gives what it gives without; a dead one is told."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from scanwise.core.config import make_config
from scanwise.core.errors import ConfigError, ScanwiseError
from scanwise.studies.compare import Asked, compare
from scanwise.studies.workers import connect

DATA = "demo:cells?n=200&slides=40&size=24"


# Ray's own code opens sockets and files that it leaves to the collector.
@pytest.mark.filterwarnings("ignore")
def test_a_study_on_ray_trains_the_same_models(tmp_path: Path) -> None:
    texts = []
    for backend in ("local", "ray"):
        said = {"data": DATA, "model": "mlp:16", "epochs": 1, "output": str(tmp_path / backend)}
        config = make_config(said | {"threads": 1})
        asked = Asked((DATA,), vary=("lr=0.01",), jobs="1", backend=backend)
        lines: list[str] = []
        found = compare(config, asked, lines.append)
        assert not found.failed
        runs = sorted((found.folder / "members").iterdir())
        texts.append([(run / "predictions.csv").read_text(encoding="utf-8") for run in runs])
    assert texts[0] == texts[1]
    assert "on Ray (this machine)" in lines[0]


def test_a_cluster_that_does_not_answer_is_told_within_seconds() -> None:
    began = time.monotonic()
    with pytest.raises(ScanwiseError, match=r"no Ray cluster answers at 127\.0\.0\.1:9.*ray start"):
        connect("127.0.0.1:9")
    assert time.monotonic() - began < 20
    with pytest.raises(ConfigError, match="must be HOST:PORT"):
        connect("somewhere")

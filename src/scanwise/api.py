"""`scanwise.train`: the command's settings as keyword arguments."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from scanwise.core.config import TrainConfig, env_settings, make_config
from scanwise.core.errors import ConfigError, ScanwiseError
from scanwise.core.types import Dataset
from scanwise.pipeline import train as main_path
from scanwise.pipeline.runs import Run


def train(data: str | Path | Dataset, *, model: Any = None, **settings: Any) -> Run:
    """Train on `data` and write a run folder with an honest report.

    Args:
        data: What `scanwise train` takes (folder, .csv, .npz, medmnist:NAME, demo:NAME), or a
            Dataset from `scanwise.load`.
        model: A network spec such as "resnet18", or an nn.Module of one's own that maps images
            float (b, c, h, w) to logits (b, k).
        settings: The flags of `scanwise train` in snake_case (epochs, batch_size, lr, ...).

    Returns:
        The run (with preset="best" that of the networks' vote): `run.path`, `run.metrics`,
        `run.report`, `run.bundle`.

    Raises:
        ScanwiseError: One of its kinds, with a message that says how to mend it.
    """
    own_module = model is not None and not isinstance(model, str)
    values = env_settings(os.environ) | settings
    if isinstance(data, Dataset):
        values["data"] = data.provenance.source
    else:
        values["data"] = str(data)
    if model is not None and not own_module:
        values["model"] = model
    config = make_config(values)
    if config.preset == "best":
        return _train_best(config, data, own_module)
    return main_path.train(
        config,
        data=data if isinstance(data, Dataset) else None,
        model=model if own_module else None,
    )


def _train_best(config: TrainConfig, data: object, own_module: bool) -> Run:
    """The run of the networks' mean vote; their own runs lie beside it."""
    if isinstance(data, Dataset) or own_module:
        raise ConfigError(
            "preset='best' trains several networks in processes of their own, which read the data "
            "from its path and build the network by its name; give both, or another preset."
        )
    from scanwise.studies.cross_validation import train_best

    found = train_best(config)
    if found.findings.failed:
        raise ScanwiseError(f"a training failed: {found.findings.failed[0].error}")
    return Run.open(Path(found.deployed))

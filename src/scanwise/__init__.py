"""scanwise: train, judge and ship classifiers of medical images.

Research software, not a medical device.

>>> import scanwise as sw                                      # doctest: +SKIP
>>> run = sw.train("demo:cells", epochs=5)                     # doctest: +SKIP
>>> run.metrics["splits"]["test"]["accuracy"]                  # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Bundle", "Dataset", "ImageClassifier", "Run", "load", "train"]

if TYPE_CHECKING:
    from scanwise.api import train
    from scanwise.core.types import Dataset
    from scanwise.data.load import load
    from scanwise.deploy.bundle import Bundle
    from scanwise.pipeline.estimator import ImageClassifier
    from scanwise.pipeline.runs import Run

# Where each public name lives; loaded at first use, so that `import scanwise` costs nothing.
_HOMES = {
    "Bundle": "scanwise.deploy.bundle",
    "Dataset": "scanwise.core.types",
    "ImageClassifier": "scanwise.pipeline.estimator",
    "Run": "scanwise.pipeline.runs",
    "load": "scanwise.data.load",
    "train": "scanwise.api",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'scanwise' has no attribute '{name}'")
    from importlib import import_module

    from scanwise.core.runtime import tune_process

    tune_process()
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__

"""`scanwise errors RUN`: the error analysis anew, from the run's files and images."""

from __future__ import annotations

from pathlib import Path

from scanwise.core.errors import RunError
from scanwise.core.types import SplitName
from scanwise.metrics.predictions import read_predictions
from scanwise.pipeline.errors import write_errors
from scanwise.pipeline.runs import Run
from scanwise.pipeline.train import reload_data
from scanwise.report.build import build_report
from scanwise.report.gallery import GalleryFiles


def rewrite_errors(path: Path) -> GalleryFiles:
    """Write errors/, confusions.json and the report anew; no network runs, test is not opened.

    Raises:
        RunError: If the run was never evaluated.
        SplitError: If its data changed since.
    """
    run = Run.open(path)
    if not (run.path / "predictions.csv").is_file():
        raise RunError(
            f"{run.path} has no predictions.csv: it was not evaluated; "
            "`scanwise evaluate RUN` does it."
        )
    dataset, split = reload_data(run, run.config)
    predictions = read_predictions(
        run.path / "predictions.csv", run.path / "splits.csv", dataset.task
    )
    shown: SplitName = "test" if "test" in predictions.split else "val"
    files = write_errors(run, dataset, split, predictions, shown)
    build_report(run.path)
    return files

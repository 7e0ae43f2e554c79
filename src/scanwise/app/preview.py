"""A first look at data: how many images a class has, and some of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scanwise.app.thumbnails import Source
from scanwise.core.errors import DataError
from scanwise.core.types import Dataset
from scanwise.data.load import load
from scanwise.report.plots import evenly

SAMPLES = 8  # pictures of each class


@dataclass(frozen=True)
class ClassPreview:
    """One class: its name, its images, and a few of them, evenly spaced."""

    name: str
    images: int
    samples: tuple[tuple[str, Source], ...]  # name and picture


@dataclass(frozen=True)
class Preview:
    """What a data source holds."""

    source: str
    images: int
    task: str
    classes: tuple[ClassPreview, ...]
    notes: tuple[str, ...]
    unreadable: int

    @property
    def sentence(self) -> str:
        noun = "labels" if self.task == "multilabel" else "classes"
        bad = f", {self.unreadable:,} files could not be read" if self.unreadable else ""
        return f"{self.images:,} images in {len(self.classes)} {noun}{bad}."


def preview(source: str) -> Preview:
    """Read a data source as training will; what is decoded stays in the cache.

    Raises:
        DataError: As `scanwise check` says it.
        ConfigError: A MedMNIST or demo name that can't be read.
    """
    if not source.strip():
        raise DataError("name the data: a folder, .csv, .npz, medmnist:NAME or demo:NAME.")
    dataset = load(source.strip())
    counts = dataset.class_counts()
    classes = tuple(
        ClassPreview(name, int(counts[index]), _samples(dataset, index))
        for index, name in enumerate(dataset.class_names)
    )
    notes = tuple(note.evidence for note in dataset.notes)
    return Preview(
        source.strip(), len(dataset), dataset.task, classes, notes, len(dataset.unreadable)
    )


def _samples(dataset: Dataset, index: int) -> tuple[tuple[str, Source], ...]:
    of_class = dataset.targets[:, index] if dataset.task == "multilabel" else None
    rows = np.flatnonzero(dataset.targets == index if of_class is None else of_class)
    found: list[tuple[str, Source]] = []
    for row in evenly(rows, SAMPLES).tolist():
        where = dataset.paths[row] if dataset.paths is not None else None
        picture: Source = Path(where) if where is not None else np.array(dataset.images[row])
        found.append((dataset.sample_ids[row], picture))
    return tuple(found)

"""`scanwise ood RUN --against PATH…`: how well foreign images are told from the run's own."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from scanwise.core.errors import DataError, RunError
from scanwise.core.types import Interval
from scanwise.data.folders import is_junk
from scanwise.data.images import is_image_name, read_image
from scanwise.deploy.bundle import Bundle
from scanwise.metrics.inputs import Floats
from scanwise.metrics.intervals import group_numbers
from scanwise.metrics.predictions import read_predictions
from scanwise.metrics.shares import share_interval
from scanwise.metrics.unknown import separation
from scanwise.pipeline.runs import Run, command_line
from scanwise.pipeline.surroundings import read_scores
from scanwise.pipeline.tables import aligned
from scanwise.prepare.preprocessing import Preprocessing
from scanwise.report.build import build_report
from scanwise.report.unknown_blocks import few_mark

DOCUMENT = "ood.json"
NUM_MADE = 200  # noise and blank images


@dataclass(frozen=True, eq=False)
class ForeignSet:
    """Images of another kind, ready for the network."""

    name: str
    pixels: NDArray[np.uint8]  # (n, h, w, c) as the bundle prepares them
    note: str = ""  # what was done to them, or how many could not be used


def measure_foreign(path: Path, against: Sequence[Path], seed: int = 0) -> dict[str, Any]:
    """Score foreign sets with the run's network, beside the run's own test (or validation) images.

    The scores of the run's own images are those of unknown_scores.csv: test is not opened again.
    Writes ood.json and the report anew.

    Args:
        path: The run.
        against: Folders of images (searched below) and npz files with a key `images`. Noise and
            blank images are always added.
        seed: Of the noise.

    Returns:
        What ood.json holds.

    Raises:
        RunError: If the run has no unknown-input score.
        DataError: If a path holds no image that can be used.
    """
    run = Run.open(path)
    bundle = Bundle.from_pretrained(run.path)
    task = bundle.config.task
    predictions = read_predictions(run.path / "predictions.csv", run.path / "splits.csv", task)
    scores = read_scores(run, predictions)
    if bundle.reference is None or scores is None:
        raise RunError(
            f"{run.path} has no unknown-input score: "
            f"{_why_none(run)}. Train anew with validation images (20 or more)."
        )
    split = "test" if "test" in predictions.split else "val"
    own = np.array([name == split for name in predictions.split])
    known = predictions.of_split(split)
    prepare = bundle.preprocessing
    made = made_sets(prepare, seed)
    sets = [*(open_set(place, bundle) for place in against), *made]
    entries = []
    for each in sets:
        foreign = bundle.unknown_scores(bundle.outputs_of(each.pixels).features, len(each.pixels))
        entries.append(_entry(each, scores[own], foreign, known.groups, bundle))
    flagged = ~(scores[own] <= bundle.reference.threshold)
    found = {
        "schema": 1,
        "command": command_line(),
        "split_sha256": run.metrics.get("split_sha256"),
        "threshold": bundle.reference.threshold,
        "known": {
            "split": split,
            "n": len(known),
            "share_flagged": share_interval(flagged, groups=group_numbers(known.groups)).to_json(),
        },
        "sets": entries,
    }
    run.write(DOCUMENT, found)
    if (run.path / "report.json").is_file():
        build_report(run.path)
    return found


def _why_none(run: Run) -> str:
    if not (run.path / "unknown.json").is_file():
        return "it was made before there was one"
    return str(run.read_json("unknown.json", "").get("reason") or "its bundle has none")


def _entry(
    each: ForeignSet,
    known: Floats,
    foreign: Floats,
    groups: tuple[str, ...] | None,
    bundle: Bundle,
) -> dict[str, Any]:
    assert bundle.reference is not None
    finite = np.where(np.isnan(foreign), np.inf, foreign)
    # Infinite scores have a rank like any other: above all.
    ranked = np.minimum(finite, np.finfo(np.float64).max)
    flagged = ~(finite <= bundle.reference.threshold)
    return {
        "name": each.name,
        "n": len(foreign),
        "auroc": separation(known, ranked, groups).to_json(),
        "flagged": int(flagged.sum()),
        "share_flagged": share_interval(flagged).to_json(),
        "note": each.note,
    }


def made_sets(prepare: Preprocessing, seed: int) -> tuple[ForeignSet, ForeignSet]:
    """Uniform noise, and blank images of every brightness, in the model's size and channels."""
    shape = (NUM_MADE, *prepare.size_px, prepare.channels)
    noise = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    levels = np.linspace(0, 255, NUM_MADE).round().astype(np.uint8)
    blank = np.broadcast_to(levels[:, None, None, None], shape).copy()
    return (
        ForeignSet("noise", noise, "made: uniform noise"),
        ForeignSet("blank", blank, "made: one grey level each, from 0 to 255"),
    )


def open_set(path: Path, bundle: Bundle) -> ForeignSet:
    """The images of an npz or a folder, prepared as for prediction.

    Colour images for a grey model, which prediction refuses, are turned grey, and the note says so.

    Raises:
        DataError: If there is none that can be used.
    """
    if not path.exists():
        raise DataError(f"{path} does not exist; name a folder of images or an .npz.")
    if path.is_dir():
        files = sorted(
            file
            for file in path.rglob("*")
            if file.is_file() and is_image_name(file.name) and not is_junk(file.name)
        )
        pictures = [_read_file(file, bundle) for file in files]
    elif path.suffix == ".npz":
        pictures = list(_npz_images(path))
    else:
        pictures = [_read_file(path, bundle)]
    if not pictures:
        raise DataError(f"{path} holds no image.")
    return _prepared(path.stem, pictures, bundle.preprocessing)


def _read_file(file: Path, bundle: Bundle) -> NDArray[Any] | DataError:
    try:
        return read_image(file, page=bundle.config.page, project=bundle.config.project).pixels
    except DataError as error:
        return error


def _npz_images(path: Path) -> NDArray[Any]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            if "images" not in archive.files:
                raise DataError(
                    f"{path} has no key 'images'; it has {', '.join(archive.files)}. Save the "
                    "foreign images, (n, h, w) or (n, h, w, c), under that key."
                )
            images: NDArray[Any] = archive["images"]
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"can't read {path}: {error}.") from error
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4:
        raise DataError(f"{path}: images must be (n, h, w) or (n, h, w, c), got {images.shape}.")
    return images


def _prepared(
    name: str, pictures: Sequence[NDArray[Any] | DataError], prepare: Preprocessing
) -> ForeignSet:
    rows, greyed, refused = [], 0, []
    for picture in pictures:
        try:
            if isinstance(picture, DataError):
                raise picture
            grey = prepare.channels == 1 and picture.shape[2] == 3
            coloured = grey and bool((picture != picture[..., :1]).any())
            if coloured:
                picture = cv2.cvtColor(np.ascontiguousarray(picture), cv2.COLOR_RGB2GRAY)[..., None]
            rows.append(prepare.from_image(picture))
            greyed += coloured
        except DataError as error:
            refused.append(str(error))
    if not rows:
        raise DataError(f"{name}: none of {len(pictures)} images can be used: {refused[0]}")
    notes = []
    if greyed:
        notes.append(f"{greyed:,} colour images, which prediction refuses, were turned grey")
    if refused:
        notes.append(f"{len(refused):,} left out ({refused[0]})")
    return ForeignSet(name, np.stack(rows), "; ".join(notes))


def foreign_summary(found: dict[str, Any]) -> str:
    """The table for the terminal."""
    known = found["known"]
    rows = [("foreign set", "n", "AUROC", "share flagged")]
    rows += [
        (
            each["name"],
            f"{each['n']:,}",
            str(Interval.from_json(each["auroc"])),
            str(Interval.from_json(each["share_flagged"])) + few_mark(each),
        )
        for each in found["sets"]
    ]
    few = any(few_mark(each) for each in found["sets"])
    notes = [f"  {each['name']}: {each['note']}" for each in found["sets"] if each["note"]]
    own = Interval.from_json(known["share_flagged"])
    return "\n".join(
        [
            f"against {known['n']:,} {known['split']} images of the run, of which {own} are "
            "flagged (95 % intervals):",
            aligned(rows),
            *(["  * under 30 images: too few to conclude"] if few else []),
            *notes,
        ]
    )

"""A study: data loaded and split once, variants of one base, and the folder that holds it all."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from scanwise.core.config import TrainConfig
from scanwise.core.errors import ConfigError, RunError
from scanwise.core.files import sha256_bytes, write_yaml
from scanwise.core.types import Split
from scanwise.data.duplicates import duplicate_groups, find_duplicates
from scanwise.data.folds import make_folds
from scanwise.data.splits import write_splits
from scanwise.models.backbones import is_pretrained
from scanwise.pipeline.plan import make_plan
from scanwise.pipeline.runs import check_output_free
from scanwise.pipeline.train import (
    Checked,
    check_fitted_settings,
    check_settings,
    data_facts,
    load_data,
    split_and_check,
)
from scanwise.studies.jobs import Probe
from scanwise.studies.members import Member
from scanwise.studies.variants import Variant

QUESTION = "study.yaml"


@dataclass(frozen=True, eq=False)
class Place:
    """Where a training of a study happens: which seed, which fold, on which split."""

    seed: int
    fold: int | None
    split: Split


@dataclass(frozen=True, eq=False)
class Ground:
    """One data set of a study with the splits that all variants share."""

    data: str  # as given
    slug: str  # for the names of files
    checked: Checked
    places: tuple[Place, ...]

    def split_file(self, place: Place) -> str:
        """Name of a place's split below splits/; seeds that share a split share the file."""
        if place.fold is None:
            return f"{self.slug}.csv"
        return f"{self.slug}-seed{place.seed}-fold{place.fold + 1}.csv"

    @property
    def name(self) -> str:
        return self.checked.dataset.name


def load_ground(config: TrainConfig, data: str, seeds: int, cv: int | None) -> Ground:
    """Load, check and split one data set.

    Without folds all seeds share one split, so that they are scored on the same images; with
    folds each seed draws its own (repeated cross-validation).

    Raises:
        ScanwiseError: As `train`; SplitError if there can't be so many folds.
    """
    config = config.model_copy(update={"data": data})
    check_settings(config.model_copy(update={"output": None}), own_model=False)
    checked = split_and_check(load_data(config), config)
    dataset = checked.dataset
    numbers = range(config.seed, config.seed + seeds)
    slug = re.sub(r"[^\w.]+", "-", dataset.name).strip("-").lower()
    if cv is None:
        return Ground(data, slug, checked, tuple(Place(n, None, checked.split) for n in numbers))
    if config.splits:
        raise ConfigError("--cv makes its own folds; leave --splits out.")
    # Copies of an image stay in one fold, as if they were of one group.
    copies = find_duplicates(dataset.images, dataset.targets)
    joined = dataset
    if copies.clusters:
        joined = dataset.with_groups(duplicate_groups(copies, len(dataset), dataset.groups))
    places = []
    for number in numbers:
        folds = make_folds(joined, cv, seed=number, val_fraction=config.val_fraction)
        places += [Place(number, fold, split) for fold, split in enumerate(folds)]
    return Ground(data, slug, checked, tuple(places))


def resolve(config: TrainConfig, ground: Ground) -> TrainConfig:
    """What the plan makes of these settings on these data, all settings checked.

    Raises:
        ScanwiseError: If the settings are wrong or do not go with the data.
    """
    config = config.model_copy(update={"data": ground.data, "output": None})
    check_settings(config, own_model=False)
    dataset, split = ground.checked.dataset, ground.places[0].split
    pretrained = is_pretrained(config.model, config.weights)
    resolved, _, _ = make_plan(config, data_facts(dataset, split, pretrained=pretrained))
    check_fitted_settings(resolved, dataset, split)
    return resolved


def probe_of(resolved: TrainConfig, ground: Ground) -> Probe | None:
    """What a measurement of side-by-side speed trains; None for frozen networks."""
    dataset = ground.checked.dataset
    if is_pretrained(resolved.model, resolved.weights):
        return None
    return Probe(
        str(resolved.model),
        dataset.num_classes,
        dataset.channels,
        dataset.size_px,
        int(resolved.batch_size or 64),
    )


def make_members(
    config: TrainConfig, planned: Sequence[tuple[Ground, Sequence[Variant]]], folder: Path
) -> tuple[Member, ...]:
    """Every variant on every place of its data set, in the order of the table."""
    return tuple(
        _member(config, ground, variant, place, folder, named=len(planned) > 1)
        for ground, variants in planned
        for variant in variants
        for place in ground.places
    )


def _member(
    config: TrainConfig, ground: Ground, variant: Variant, place: Place, folder: Path, named: bool
) -> Member:
    fold = "" if place.fold is None else f", fold {place.fold + 1}"
    end = "" if place.fold is None else f"-fold{place.fold + 1}"
    run = f"{ground.slug}-{variant.slug}-seed{place.seed}{end}"
    settings = config.model_dump(exclude_unset=True) | variant.changes
    settings |= {
        "data": ground.data,
        "seed": place.seed,
        "splits": str(folder / "splits" / ground.split_file(place)),
        "output": str(folder / "members" / run),
        "force": True,
        "report": False,
    }
    return Member(
        name=f"{ground.slug + ': ' if named else ''}{variant.name}, seed {place.seed}{fold}",
        variant=variant.name,
        data=ground.data,
        seed=place.seed,
        fold=place.fold,
        settings=settings,
        split_origin=place.split.origin,
        split_note=place.split.note,
    )


def open_study(output: str | None, name: str, question: dict[str, Any], force: bool) -> Path:
    """The folder of a study: a new one, or the one where the same study was interrupted.

    Args:
        output: Folder asked for; None takes runs/NAME-NNN with the next free number.
        name: For the numbered folder.
        question: What is asked: data, settings, variants, seeds, folds.
        force: Replace a study that asks something else.

    Raises:
        RunError: If the folder holds something else, and `force` is off or it is not a study.
    """
    folder = _numbered(name) if output is None else Path(output)
    if (folder / QUESTION).is_file():
        before = yaml.safe_load((folder / QUESTION).read_text(encoding="utf-8"))
        if before == question:
            return folder
        if not force:
            differ = [key for key in question if (before or {}).get(key) != question[key]]
            raise RunError(
                f"{folder} holds another study (it differs in {', '.join(differ)}); choose another "
                "--output, or --force to replace it."
            )
        shutil.rmtree(folder)
    else:
        check_output_free(folder, force=False)
    folder.mkdir(parents=True, exist_ok=True)
    write_yaml(folder / QUESTION, question)
    return folder


def _numbered(name: str) -> Path:
    slug = re.sub(r"[^\w.]+", "-", name).strip("-").lower()
    taken = [int(path.name[-3:]) for path in Path("runs").glob(f"{slug}-[0-9][0-9][0-9]")]
    return Path("runs") / f"{slug}-{max(taken, default=0) + 1:03d}"


def write_study_splits(folder: Path, grounds: Sequence[Ground]) -> None:
    """splits/: each split once, by name."""
    for ground in grounds:
        for file, place in {ground.split_file(place): place for place in ground.places}.items():
            write_splits(folder / "splits" / file, ground.checked.dataset, place.split)


def load_grounds(
    config: TrainConfig, data: Sequence[str], seeds: int, cv: int | None
) -> tuple[Ground, ...]:
    """Load, check and split the data sets of a study.

    Raises:
        ConfigError: If one is named twice.
        ScanwiseError: As `load_ground`.
    """
    twice = sorted({name for name in data if list(data).count(name) > 1})
    if twice:
        raise ConfigError(f"{', '.join(twice)} is named more than once.")
    grounds = [load_ground(config, name, seeds, cv) for name in data]
    slugs = [ground.slug for ground in grounds]
    return tuple(
        ground
        if slugs.count(ground.slug) == 1
        else replace(ground, slug=f"{ground.slug}-{sha256_bytes(ground.data.encode())[:6]}")
        for ground in grounds
    )

"""`scanwise relabel suggest`: labels to look at again, by answers of models that never saw them."""

from __future__ import annotations

import csv
import io
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scanwise.core.commands import CHECK_SETTINGS, command_line, said_settings
from scanwise.core.config import TrainConfig
from scanwise.core.errors import DataError, RunError
from scanwise.core.files import write_json, write_text
from scanwise.core.types import Dataset, Interval
from scanwise.metrics.intervals import group_numbers, wilson_interval
from scanwise.metrics.label_errors import MIN_IMAGES, TOO_FEW, LabelErrors, find_label_errors
from scanwise.metrics.predictions import Predictions, read_predictions
from scanwise.pipeline.label_journal import counted, default_folder, latest, path_in, read_journal
from scanwise.pipeline.pretrained_features import pretrained_features
from scanwise.pipeline.quick_folds import WORDS, quick_out_of_fold
from scanwise.pipeline.relabel import label_text
from scanwise.pipeline.runs import Run
from scanwise.pipeline.tables import aligned
from scanwise.pipeline.train import load_data
from scanwise.pipeline.transfer import with_backbone
from scanwise.report.label_pages import Suspect, write_suspects_page
from scanwise.studies.cross_validation import OUT_OF_FOLD

FILES = ("suspects.csv", "suspects.html", "suspects.json")
SHOWN_HERE = 10  # suspects that the terminal lists


@dataclass(frozen=True, eq=False)
class Found:
    """Suspected labels of a data set, and how they were found."""

    dataset: Dataset
    source: str  # what the data set is loaded from
    rows: NDArray[np.int64]  # row in the data set of each prediction
    predictions: Predictions  # out of fold
    errors: LabelErrors
    how: str  # which models answered
    folder: Path
    decided: int  # images left out, since the journal has a decision
    listed: NDArray[np.int64]  # predictions in suspects.csv, most suspicious first
    flags: list[str]  # with which the data set is read: --group-regex and the like

    @property
    def accuracy(self) -> Interval:
        """Share of images whose given label the out-of-fold answer repeats."""
        same = self.predictions.predicted == self.predictions.targets
        right = same.reshape(len(same), -1).all(axis=1)
        return wilson_interval(int(right.sum()), len(right))

    @property
    def num_suspects(self) -> int:
        return int(self.errors.suspected.sum())

    def too_few(self) -> list[str]:
        """A sentence for each class that is not ranked."""
        counts = self.dataset.class_counts(self.rows)
        return [
            f"{self.dataset.class_names[i]}: {int(counts[i])} images, {TOO_FEW} "
            f"({MIN_IMAGES} are needed)"
            for i in self.errors.too_few
        ]

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": 1,
            "dataset": self.dataset.name,
            "source": self.source,
            "split": "out of fold",
            "n": len(self.rows),
            "how": self.how,
            "agreement": self.accuracy.to_json(),
            "share_wrong": self.errors.share.to_json(),
            "suspects": self.num_suspects,
            "listed": len(self.listed),
            "decided_before": self.decided,
            "too_few": self.too_few(),
        }

    def text(self) -> str:
        """What the terminal shows."""
        lines = [*self.facts(), *self.too_few()]
        rows = [("image", "given", "suggested", "score")]
        for row in self.listed[:SHOWN_HERE]:
            given, suggested = self.labels(int(row))
            score = f"{self.errors.score[row]:.3f}"
            rows.append((self.predictions.sample[row], given, suggested, score))
        if len(rows) > 1:
            lines.append(aligned(rows))
        if len(self.listed) > SHOWN_HERE:
            lines.append(f"  … {len(self.listed) - SHOWN_HERE} more in the files")
        lines.append(f"page: {self.folder / 'suspects.html'}")
        listed = self.folder / "suspects.csv"
        if self.dataset.paths is None:
            lines.append(
                f"list: {listed}; decisions about arrays can't be applied, save image files"
            )
        else:
            lines.append(f"list: {listed}; fill in its column 'decision', then")
            lines.append(f"next: {self.next_command()}")
        return "\n".join(lines)

    def facts(self) -> list[str]:
        """What was looked at, in a few lines."""
        before = f"; {self.decided} decided before are left out" if self.decided else ""
        return [
            f"{self.dataset.name}: {len(self.rows):,} labels looked at, out of fold, by {self.how}",
            f"the answers repeat {self.accuracy} of the labels (n={len(self.rows):,})",
            f"listed: {counted(len(self.listed), 'label')} that the answers contradict, least "
            f"probable first{before}; confident learning suspects {self.num_suspects:,}",
            f"share of wrong labels, confident learning: {self.errors.share} "
            f"(n={len(self.rows):,}); mistakes of these models count too, so rather less",
            "no label was changed",
        ]

    def next_command(self) -> str:
        if self.dataset.paths is None:
            return "scanwise relabel apply suspects.csv --data FOLDER-OF-IMAGE-FILES"
        file = str(self.folder / "suspects.csv")
        words = ["scanwise", "relabel", "apply", file, "--data", self.source]
        return shlex.join(words + self.flags)

    def labels(self, row: int) -> tuple[str, str]:
        """Given and suggested label of a prediction."""
        given = label_text(self.dataset, self.predictions.targets[row])
        return given, label_text(self.dataset, self.errors.suggested[row])


def suggest(
    config: TrainConfig,
    *,
    folds: int = 5,
    how_many: int = 50,
    output: Path | None = None,
    force: bool = False,
    tell: Any = None,
) -> Found:
    """Find suspected labels, and write suspects.csv, suspects.html and suspects.json.

    Args:
        config: `data` names the data, or the folder of a `train --cv` study. A quick classifier
            answers, with the features of a pretrained `model` if one is named; any other `model`,
            and one that is to be fine-tuned, is cross-validated.
        folds: Of that cross-validation.
        how_many: Suspects to list.
        output: The labels folder; `label_journal.default_folder` if None.
        force: Replace a suspects.csv that is there.
        tell: Gets the lines of a cross-validation; stderr if None.

    Raises:
        DataError: A number out of range, or a suspects.csv that may hold decisions.
        RunError: A folder of one training, which has no out-of-fold answers.
        SplitError: If there can't be so many folds.
    """
    if how_many < 1:
        raise DataError(f"n={how_many}: at least one suspect must be asked for.")
    given = Path(config.data)
    if (given / OUT_OF_FOLD).is_dir():
        saved = next(iter(sorted((given / "members").glob("*/config.yaml"))), None)
        if saved is None:
            raise RunError(f"{given} lacks its members' folders; name the data instead.")
        settings = Run.open(saved.parent).config
        dataset = load_data(settings)
        folder = _free(output or default_folder(settings.data, dataset), force)
        return _finish(dataset, settings, *_of_study(given), folder, how_many)
    if (given / "plan.yaml").is_file():
        raise RunError(
            f"{given} is one training, whose answers on its own training images say nothing of "
            "their labels; give the data, or the folder of `scanwise train DATA --cv 5`."
        )
    config, backbone = (config, None) if config.finetune else with_backbone(config)
    dataset = load_data(config)
    folder = _free(output or default_folder(config.data, dataset), force)
    if backbone is not None or (config.model is None and config.weights is None):
        extra, how = None, WORDS
        if backbone is not None:
            extra, how = pretrained_features(dataset, backbone), f"{WORDS}, {backbone.spec.name}"
        answers = quick_out_of_fold(dataset, seed=config.seed, extra=extra)
        return _finish(dataset, config, answers, how, folder, how_many)
    from scanwise.studies.compare import Asked
    from scanwise.studies.cross_validation import cross_validate

    study = str(folder / "study")
    cross_validate(
        config.model_copy(update={"output": study}), Asked((config.data,), cv=folds), tell=tell
    )
    return _finish(dataset, config, *_of_study(Path(study)), folder, how_many)


def _free(folder: Path, force: bool) -> Path:
    """A folder without a suspects.csv, which may hold someone's decisions."""
    file = folder / FILES[0]
    if file.exists() and not force:
        raise DataError(
            f"{file} is there and may hold decisions; apply them, or name another --output "
            "(--force replaces it)."
        )
    return folder


def _of_study(folder: Path) -> tuple[Predictions, str]:
    """Out-of-fold answers of a study, averaged over its seeds, and how they came about.

    Raises:
        RunError: If there are none.
    """
    seeds = sorted((folder / OUT_OF_FOLD).glob("seed*"))
    if not seeds:
        raise RunError(f"{folder / OUT_OF_FOLD} is empty; train with --cv again.")
    members = sorted((folder / "members").glob("*/metrics.json"))
    task = Run.open(members[0].parent).metrics["dataset"]["task"] if members else None
    parts = [
        read_predictions(seed / "predictions.csv", seed / "splits.csv", task) for seed in seeds
    ]
    if any(part.sample != parts[0].sample for part in parts):
        raise RunError(f"{folder}: its seeds answered different images; train it again.")
    mean = np.mean([part.probabilities for part in parts], axis=0)
    models = {Run.open(file.parent).config.model for file in members}
    how = f"cross-validated {', '.join(sorted(str(model) for model in models))}"
    return replace(parts[0], probabilities=mean), f"{how}, {len(members)} trainings"


def _finish(
    dataset: Dataset,
    settings: TrainConfig,
    answers: Predictions,
    how: str,
    folder: Path,
    how_many: int,
) -> Found:
    """Judge the labels as they are in the data, and write the files."""
    source = settings.data
    place = {name: row for row, name in enumerate(dataset.sample_ids)}
    if lost := [name for name in answers.sample if name not in place]:
        raise DataError(f"{source} has no image '{lost[0]}' any more; train the study again.")
    rows = np.array([place[name] for name in answers.sample], np.int64)
    if answers.class_names != dataset.class_names:
        raise DataError(
            f"the answers know the classes {', '.join(answers.class_names)}, {source} has "
            f"{', '.join(dataset.class_names)}; train the study again."
        )
    answers = replace(answers, targets=dataset.targets[rows])
    groups = group_numbers(answers.groups)
    errors = find_label_errors(answers.probabilities, answers.targets, answers.task, groups=groups)
    known = latest(read_journal(folder))
    changed = errors.suggested != answers.targets
    doubtful = errors.ranking[changed.reshape(len(changed), -1).any(axis=1)[errors.ranking]]
    done = {row for row in doubtful.tolist() if _path(dataset, int(rows[row]), folder) in known}
    listed = np.array([row for row in doubtful if row not in done][:how_many], np.int64)
    said = said_settings(settings.model_dump())
    reading = {name: value for name, value in said.items() if name in CHECK_SETTINGS}
    flags = shlex.split(command_line("relabel", source, reading))[3:]
    found = Found(dataset, source, rows, answers, errors, how, folder, len(done), listed, flags)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "suspects.json", found.to_json())
    write_suspects_page(folder / "suspects.html", found.facts() + found.too_few(), _tiles(found),
                        dataset.name, found.num_suspects, found.next_command())  # fmt: skip
    write_text(folder / "suspects.csv", _csv(found))
    return found


def _path(dataset: Dataset, row: int, folder: Path) -> str:
    """A file's path from the folder; for arrays the sample's name."""
    return dataset.sample_ids[row] if dataset.paths is None else path_in(folder, dataset.paths[row])


def _csv(found: Found) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [f"prob_{name}" for name in found.dataset.class_names]
    columns = ["rank", "sample", "path", "given", "suggested", "score", "suspected"]
    writer.writerow([*columns, "decision", "reason", *names])
    for rank, row in enumerate(found.listed.tolist(), start=1):
        path = _path(found.dataset, int(found.rows[row]), found.folder)
        cells = [f"{value:.6f}" for value in found.predictions.probabilities[row]]
        score = f"{found.errors.score[row]:.6f}"
        sample = found.predictions.sample[row]
        suspected = "yes" if found.errors.suspected[row] else "no"
        labels = found.labels(row)
        writer.writerow([rank, sample, path, *labels, score, suspected, "", "", *cells])
    return text.getvalue()


def _tiles(found: Found) -> Sequence[Suspect]:
    return [
        Suspect(
            np.asarray(found.dataset.images[found.rows[row]]),
            found.predictions.sample[row],
            *found.labels(row),
            float(found.errors.score[row]),
        )
        for row in found.listed.tolist()
    ]

"""One verdict a patient (slide, lesion) of a finished run, from predictions.csv."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scanwise.core.errors import DataError
from scanwise.metrics.grouped import Aggregate, group_predictions, grouped_scores
from scanwise.metrics.intervals import NUM_RESAMPLES
from scanwise.metrics.predictions import Predictions
from scanwise.pipeline.runs import Run
from scanwise.pipeline.slices import facts_of, judged_part, run_predictions
from scanwise.pipeline.tables import aligned
from scanwise.report.slices_words import GROUP_METRICS, mixed_sentence, score_cell

GROUPS = "groups.json"


def measure_groups(run: Run, how: Aggregate = "mean") -> dict[str, Any]:
    """What groups.json says: one verdict a group of the judged split (test, else val).

    Raises:
        DataError: If the run's images have no groups, or none has several images of one label.
        RunError: If the run was not evaluated.
    """
    part = judged_part(run_predictions(run))
    if part.groups is None:
        raise DataError(
            f"{run.path} has no groups: name the patient, lesion or slide of each image when "
            "training (--group COLUMN or --group-regex)."
        )
    return facts_of(run) | groups_document(part, how)


def groups_document(part: Predictions, how: Aggregate, **bootstrap: int) -> dict[str, Any]:
    """The numbers of groups.json, of one split."""
    settings = {"num_resamples": NUM_RESAMPLES, "seed": 0} | bootstrap
    scores = grouped_scores(group_predictions(part, how), **settings)
    return {
        "split": part.split[0],
        "task": part.task,
        "aggregate": how,
        **scores,
        "bootstrap": {"resamples": settings["num_resamples"], "seed": settings["seed"]},
    }


def groups_text(document: Mapping[str, Any]) -> str:
    """groups.json as a table for the terminal."""
    images, groups = document["images"], document["groups"]
    rows = [("", f"each image, n={images['n']:,}", f"each group, n={groups['n']:,}")]
    for key, words in GROUP_METRICS.items():
        if key in groups:
            rows.append((words, score_cell(images[key]), score_cell(groups[key])))
    several = f"{document['groups_of_several']:,} of {groups['n']:,} groups have several images"
    title = (
        f"{document['split']} by group ({document['aggregate']}; {several}), with 95 % intervals "
        "over groups"
    )
    return "\n".join([title, aligned(rows), mixed_sentence(document)])

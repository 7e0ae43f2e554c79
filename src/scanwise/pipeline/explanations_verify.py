"""What of a run's explanations.json can be computed again without its images."""

from __future__ import annotations

from typing import Any

from scanwise.metrics.faithfulness import MapScores, judge_maps
from scanwise.metrics.predictions import Predictions
from scanwise.metrics.verify import TOLERANCE, Mismatch, differences
from scanwise.pipeline.runs import Run

# The gallery's probabilities are computed anew, in other batches than predictions.csv's.
SAME_PROBABILITY = 1e-5


def verify_explanations(run: Run, predictions: Predictions) -> list[Mismatch]:
    """Compare the gallery's probabilities with predictions.csv, and its verdict with its scores.

    Nothing where the run has no gallery.
    """
    file = run.path / "explanations" / "explanations.json"
    if not file.is_file():
        return []
    document = run.read_json("explanations/explanations.json", "")
    row_of = {
        sample: row
        for row, (sample, split) in enumerate(
            zip(predictions.sample, predictions.split, strict=True)
        )
        if split == document["split"]
    }
    found: list[Mismatch] = []
    for index, entry in enumerate(document["images"]):
        where = f"explanations.images.{index}"
        row = row_of.get(entry["sample"])
        if row is None:
            found.append(Mismatch(f"{where}.sample", entry["sample"], "not in predictions.csv"))
            continue
        values = predictions.probabilities[row].tolist()
        truth = dict(zip(predictions.class_names, values, strict=True))
        stated = entry["probabilities"]
        found += differences(f"{where}.probabilities", stated, truth, SAME_PROBABILITY)
    truth = recomputed_faithfulness(document)
    found += differences("explanations.faithfulness", document["faithfulness"], truth, TOLERANCE)
    return found


def recomputed_faithfulness(document: dict[str, Any]) -> dict[str, Any]:
    """`faithfulness` of explanations.json from the scores of its images."""
    shown = [each for each in document["images"] if each["status"] == "ok"]
    units = [each["unit"] for each in shown]
    return judge_maps(MapScores.from_rows(shown), units, no_skill=document["no_skill"]).to_json()

"""What is known of public data sets, said when one of them is met; unknown data get no word."""

from __future__ import annotations

from scanwise.core.types import Dataset, Finding
from scanwise.data.medmnist_table import MEDMNIST

# Sources. DermaMNIST: Abhishek et al., Sci Data 12:196 (2025). ChestMNIST: the share of negative
# labels, and the published accuracies of 0.947-0.948 (Yang et al., Sci Data 10:41, 2023). OCTMNIST,
# PneumoniaMNIST: class counts of the published files. BreastMNIST, RetinaMNIST: half of the Wilson
# interval at the best published 28-px accuracy. TissueMNIST: Yang et al. (2023), cells were cut out
# at 32x32x7 px.
ADVISORIES: dict[str, tuple[str, str]] = {
    "dermamnist": (
        "the official split shares 641 lesions between train and test (332 train and val, 113 val "
        "and test): 10,015 images show 7,470 lesions",
        "Read the score on the clean part of test beside the official one.",
    ),
    "octmnist": (
        "val is 47 % normal, like train, but test 25 %: a score on one does not carry over",
        "Compare balanced accuracy; naming one class alone gives 25.0 % on test.",
    ),
    "chestmnist": (
        "an accuracy of 0.947 over labels is what predicting no disease at all gives",
        "Read AUROC, and exact matches beside the all-negative baseline.",
    ),
    "breastmnist": (
        "test has 156 images: accuracy is known to about ±5.4 points",
        "Don't rank methods by accuracy on this split; cross-validate.",
    ),
    "retinamnist": (
        "test has 400 images: accuracy is known to about ±4.9 points",
        "Don't rank methods by accuracy on this split.",
    ),
    "pneumoniamnist": (
        "62.5 % of test are pneumonia, but 74 % of train: naming one class gives 0.625 on test",
        "Read balanced accuracy and AUROC beside accuracy.",
    ),
    "tissuemnist": (
        "images of 64 px and more are enlarged from 32x32 px and hold no more detail than that",
        "Use 28 px.",
    ),
}


def advisories(dataset: Dataset) -> tuple[Finding, ...]:
    """K001: what is known of this public set; () for data that are not known.

    A set is known by the reader's word (`provenance.benchmark`), or by its numbers of train, val
    and test images with its number of classes, whatever its name.
    """
    flag = dataset.provenance.benchmark or known_by_counts(dataset)
    if flag not in ADVISORIES or (flag == "tissuemnist" and dataset.size_px[0] <= 32):
        return ()
    evidence, advice = ADVISORIES[flag]
    return (Finding("K001", "info", f"{flag}: {evidence}.", advice),)


def known_by_counts(dataset: Dataset) -> str | None:
    """The MedMNIST flag whose official counts these are, or None."""
    if dataset.given_split is None:
        return None
    counts = tuple(int((dataset.given_split == name).sum()) for name in ("train", "val", "test"))
    for flag, known in MEDMNIST.items():
        if counts == known.num_images and dataset.num_classes == len(known.class_names):
            return flag
    return None

"""What is known of public data sets, said when one of them is met; unknown data get no word."""

from __future__ import annotations

from scanwise.core.types import Dataset, Finding

# Sources: Abhishek et al., Sci Data 12:196 (2025) for DermaMNIST; split counts of the published files
# for the others (Yang et al., Sci Data 10:41, 2023); half-widths are Wilson intervals at the best
# published accuracy.
ADVISORIES: dict[str, tuple[str, str]] = {
    "dermamnist": (
        "the official split shares 641 lesions between train and test (332 train-val, 113 val-test)",
        "Read the score on the clean part of test beside the official one.",
    ),
    "octmnist": (
        "validation is 47 % normal, test is 25 %: a score on one does not carry over to the other",
        "Compare balanced accuracy; one class alone gives 25.0 % on test.",
    ),
    "chestmnist": (
        "label-wise accuracy of 0.947 is what predicting no disease at all gives",
        "Read AUROC and the exact match beside the all-negative baseline.",
    ),
    "breastmnist": (
        "test has 156 images: accuracy is known to about ±5.4 points",
        "Do not rank methods by accuracy on this split; cross-validate.",
    ),
    "retinamnist": (
        "test has 400 images: accuracy is known to about ±4.9 points",
        "Do not rank methods by accuracy on this split.",
    ),
    "pneumoniamnist": (
        "62.5 % of test are pneumonia, 74 % of train: predicting one class gives 0.625",
        "Read balanced accuracy and AUROC beside accuracy.",
    ),
    "tissuemnist": (
        "the 224-px version is enlarged from 32x32 px; it holds no more detail than that",
        "Use 28 or 64 px.",
    ),
}


def advisories(dataset: Dataset) -> tuple[Finding, ...]:
    """K001: what is known of this public set, by its name or by its official counts."""
    flag = dataset.provenance.benchmark
    if flag not in ADVISORIES:
        return ()
    if flag == "tissuemnist" and dataset.size_px[0] < 224:
        return ()
    evidence, advice = ADVISORIES[flag]
    return (Finding("K001", "info", f"{flag}: {evidence}.", advice),)

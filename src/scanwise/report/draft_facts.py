"""Sentences about a run for a paper: each from its files, or None where the run does not say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from scanwise.core.types import SPLIT_NAMES
from scanwise.report.data_words import data_facts
from scanwise.report.pages import interval_text
from scanwise.report.run_files import RunFiles
from scanwise.report.scores import METRICS, calibration_text
from scanwise.report.verdict import SPLIT_WORDS, as_interval, has_test_set, verdict

HEADLINE = ("accuracy", "balanced_accuracy", "f1_macro", "auroc_macro", "mcc", "brier", "ece")
OF_A_CLASS = ("sensitivity", "specificity", "ppv", "npv", "auroc")
UNREADABLE = "D001"
LIBRARIES = ("torch", "scikit-learn", "numpy", "monai", "opencv-python-headless")


def method(run: RunFiles) -> str | None:
    """What kind of study of artificial intelligence it is."""
    model, k = _model(run), len(run.class_names)
    if not model or not k:
        return None
    what = "labels each image may carry" if run.task == "multilabel" else "classes"
    return f"Supervised image classification by a neural network ({model}) into {k} {what}."


def sources(run: RunFiles) -> str | None:
    """Where the images come from, their number, licence and citation."""
    if not run.dataset:
        return None
    facts = dict(data_facts(run.dataset, run.split_sha256))
    words = [f"Data: {facts['Data']}; images: {facts['Images']}."]
    words.append(f"Licence: {facts['Licence of the data']}.")
    if "Cite" in facts:
        words.append(f"Cite: {facts['Cite']}")
    if run.dataset.get("synthetic"):
        words.append("The images are synthetic: nothing here is about patients.")
    return " ".join(words)


def preprocessing(run: RunFiles) -> str | None:
    """Size, intensity mapping, contrast, normalisation."""
    steps = run.training.get("preprocessing")
    if not steps:
        return None
    height, width = steps["size_px"]
    words = [f"Images were brought to {height}×{width} px ({steps.get('fit', 'stretch')})"]
    kind = (steps.get("intensity") or {}).get("kind")
    words.append("intensities were used as stored" if kind == "none" else f"intensities: {kind}")
    contrast = (steps.get("contrast") or {}).get("kind", "none")
    if contrast != "none":
        words.append(f"contrast: {run.config.get('contrast')}")
    words.append(
        f"and normalised by mean and standard deviation of {steps.get('num_images', '?'):,} "
        "training images; nothing was fitted on validation or test"
    )
    return "; ".join(words) + "."


def partitions(run: RunFiles) -> str | None:
    """How the images were divided."""
    if not run.dataset.get("split"):
        return None
    facts = dict(data_facts(run.dataset, run.split_sha256))
    return f"{facts['Split'].rstrip('.')}."


def disjoint(run: RunFiles) -> str | None:
    """At what level the partitions share nothing."""
    if not run.dataset:
        return None
    facts = dict(data_facts(run.dataset, run.split_sha256))
    leaky = " Scores are stamped 'leaky': splits share images." if run.metrics.get("leaky") else ""
    return f"Groups: {facts['Groups']}. Copies: {facts['Leaks between splits']}.{leaky}"


def excluded(run: RunFiles) -> str | None:
    """Images that could not be read and were left out."""
    if not run.checks:
        return None
    found = [f.evidence for f in run.data_findings() if f.code == UNREADABLE]
    return " ".join(found) or "Every image could be read; none was left out."


def test_size(run: RunFiles) -> str | None:
    """Images of the test set by class."""
    counts = run.counts.get("test")
    if not counts or not sum(counts):
        return None
    parts = ", ".join(f"{name} {n:,}" for name, n in zip(run.class_names, counts, strict=False))
    return f"The test set has {_images(run, 'test'):,} images: {parts}."


def sizes(run: RunFiles) -> str | None:
    """Images of each class in each partition."""
    rows = []
    for split in SPLIT_NAMES:
        counts = run.counts.get(split)
        if counts and sum(counts):
            named = ", ".join(
                f"{name} {n:,}" for name, n in zip(run.class_names, counts, strict=False)
            )
            rows.append(f"{SPLIT_WORDS[split]} {_images(run, split):,} ({named})")
    return f"Images: {'; '.join(rows)}." if rows else None


def model(run: RunFiles) -> str | None:
    """Architecture, size, input and output."""
    name, steps = _model(run), run.training.get("preprocessing") or {}
    if not name:
        return None
    total = (run.training.get("parameters") or {}).get("total")
    size = f", {total:,} parameters" if total else ""
    given = steps.get("size_px")
    channels = steps.get("channels")
    entry = f"; input {channels}×{given[0]}×{given[1]} pixels" if given and channels else ""
    last = "a probability of each label" if run.task == "multilabel" else "class probabilities"
    return f"{name}{size}{entry}; output: {last} of {', '.join(run.class_names)}."


def software(run: RunFiles) -> str | None:
    """scanwise, Python and the main libraries."""
    packages = run.env.get("packages")
    if not packages:
        return None
    named = ", ".join(f"{name} {packages[name]}" for name in LIBRARIES if name in packages)
    machine = ", ".join(str(run.env[key]) for key in ("device", "cpu") if run.env.get(key))
    return (
        f"scanwise {packages.get('scanwise')} on Python {run.env.get('python')}"
        f"{f' ({named})' if named else ''}{f'; {machine}' if machine else ''}. All versions: "
        "env.json."
    )


def initialisation(run: RunFiles) -> str | None:
    """Random or pretrained weights."""
    name = _model(run)
    if not name:
        return None
    pretrained = run.config.get("weights") or (name if ":" in name and _is_backbone(name) else None)
    start = f"from pretrained weights ({pretrained})" if pretrained else "with random weights"
    return f"The network started {start}; seed {run.config.get('seed')}."


def training(run: RunFiles) -> str | None:
    """Optimiser, rate, schedule, epochs, augmentation, class weights."""
    facts, config = run.training, run.config
    if not facts:
        return None
    if facts.get("fitted"):
        words = [f"The head was fitted in one go: {facts.get('stop_reason')}"]
    else:
        words = [
            f"{facts.get('epochs_run')} epochs in batches of {config.get('batch_size')} by "
            f"{config.get('optimizer')} (learning rate {config.get('lr')}, schedule "
            f"{config.get('scheduler')}, weight decay {config.get('weight_decay')})",
            f"stopped: {facts.get('stop_reason')}",
        ]
    words.append(f"augmentation of training images: {facts.get('augmentation') or 'none'}")
    words.append(f"class weights: {config.get('class_weights') or 'none'}")
    if config.get("balance") not in (None, "none"):
        words.append(f"balancing of the training split: {config['balance']}")
    words.append("every setting with its reason: plan.yaml")
    return "; ".join(words) + "."


def selection(run: RunFiles) -> str | None:
    """How the final model was picked."""
    facts = run.training
    if not facts.get("best_epoch"):
        return None
    return (
        f"The weights of epoch {facts['best_epoch']} were kept, by {facts.get('monitor')} on "
        "validation. The test split could not be read before training was over."
    )


def ensembling(run: RunFiles) -> str | None:
    """Members of an ensemble, or that there are none."""
    if not run.metrics:
        return None
    if "ensemble" in run.metrics:
        return "The model averages the probabilities of several networks (see metrics.json)."
    averaged = " Weights were averaged over steps (EMA)." if run.config.get("ema") else ""
    return f"No ensemble: one network.{averaged}"


def metric_names(run: RunFiles) -> str | None:
    """Which scores there are."""
    split = _judged(run)
    if split is None:
        return None
    names = [METRICS[key] for key in HEADLINE if key in run.splits[split]]
    return (
        f"{', '.join(names)}, sensitivity, specificity, predictive values and AUROC of each class; "
        "beside them the scores of trivial answers and of simple models on the same images."
    )


def statistics(run: RunFiles) -> str | None:
    """How the intervals were made."""
    split = _judged(run)
    if split is None:
        return None
    bootstrap = run.splits[split].get("bootstrap") or {}
    unit = bootstrap.get("unit", "image")
    plain = "Wilson for proportions, for the rest " if unit == "image" else ""
    return (
        f"95 % intervals: {plain}t intervals of the logit with the spread of a bootstrap over "
        f"{unit}s ({bootstrap.get('resamples'):,} resamples, seed {bootstrap.get('seed')}). Models "
        "were compared on the same images, paired."
    )


def performance(run: RunFiles) -> str | None:
    """Headline scores of every evaluated split."""
    rows = []
    for split in ("test", "val"):
        result = run.splits.get(split)
        if result:
            scores = "; ".join(
                f"{METRICS[key].removesuffix(' ↓')} {interval_text(as_interval(result[key]))}"
                for key in HEADLINE
                if key in result
            )
            rows.append(f"{SPLIT_WORDS[split].capitalize()} (n={result['n']:,}): {scores}.")
    return " ".join(rows) or None


def diagnostic(run: RunFiles) -> str | None:
    """Rates of each class, with intervals."""
    split = _judged(run)
    if split is None:
        return None
    rows = []
    for entry in run.splits[split].get("per_class") or ():
        rates = ", ".join(f"{key} {interval_text(as_interval(entry[key]))}" for key in OF_A_CLASS)
        rows.append(f"{entry['name']} (n={entry['n']:,}): {rates}")
    return f"On {SPLIT_WORDS[split]}: {'; '.join(rows)}." if rows else None


def failures(run: RunFiles) -> str | None:
    """How many images were answered wrongly, and where they are shown."""
    split = _judged(run)
    if split is None or run.predictions is None:
        return None
    rows = run.predictions.of_split(split)
    wrong = rows.predicted != rows.targets
    number = int(wrong.any(axis=1).sum() if wrong.ndim == 2 else wrong.sum())
    return (
        f"{number:,} of {len(rows):,} {SPLIT_WORDS[split]} images were answered wrongly; errors/ "
        "shows them, most confident first, and metrics.json has the confusion matrix."
    )


def conclusion(run: RunFiles) -> str | None:
    """The report's verdict."""
    if not run.splits:
        return None
    found = verdict(run.facts())
    leaky = "Splits share images, so these scores are too good."
    words = [f"{found.headline}. {found.sentence}", *([leaky] if run.metrics.get("leaky") else [])]
    return " ".join(words)


def limitations(run: RunFiles) -> str | None:
    """What the checks and rules found, in their own words."""
    troubles = [f for f in run.data_findings() if f.severity != "info"]
    words = [f"{finding.evidence} ({finding.code})" for finding in troubles]
    if not has_test_set(run.counts):
        words.append("there is no test set")
    looks = len(run.looks)
    if looks > 1:
        words.append(f"the test split was looked at {looks} times")
    if not words:
        return None
    return "Found by the checks: " + "; ".join(words)


def calibration(run: RunFiles) -> str | None:
    """Temperature, and the calibration error before and after."""
    split = _judged(run)
    return None if split is None else calibration_text(run, split)


def imbalance(run: RunFiles) -> str | None:
    """How unequal the classes are, and what was done about it."""
    ratio = run.dataset.get("imbalance_ratio")
    if not isinstance(ratio, int | float):
        return None
    weights = run.config.get("class_weights") or "none"
    return (
        f"The largest class has {ratio:.1f} times the images of the smallest. Class weights: "
        f"{weights}; sampler: {run.config.get('sampler')}; balancing: {run.config.get('balance')}."
        " Temperature scaling on validation came after training."
    )


def output(run: RunFiles) -> str | None:
    """What the model says, and how a decision is made of it."""
    if not run.class_names:
        return None
    if run.task == "multilabel":
        return "A probability of each label; a label is named from 0.5 on, or its own threshold."
    return "A probability of each class; the decision is the class with the largest one."


def specification(run: RunFiles) -> str | None:
    """Where the whole model is."""
    if not (run.path / "bundle").is_dir():
        return None
    return (
        "The trained model is bundle/: weights (model.safetensors), architecture and classes "
        "(config.json), fitted preprocessing (preprocess.json), with SHA-256 sums. "
        f"scanwise reproduce {run.name} trains it again."
    )


def looks(run: RunFiles) -> str | None:
    """How often the test split was opened."""
    if not run.looks:
        return None
    times = len(run.looks)
    return f"The test split was opened {times} time{'' if times == 1 else 's'} (test_ledger.csv)."


def _judged(run: RunFiles) -> str | None:
    return next((name for name in ("test", "val") if run.splits.get(name)), None)


def _model(run: RunFiles) -> str:
    return str(run.training.get("model") or run.config.get("model") or "")


def _is_backbone(name: str) -> bool:
    return name.split(":")[0] in ("hf", "timm", "run")


def _images(run: RunFiles, split: str) -> int:
    sizes: Mapping[str, Any] = (run.dataset.get("split") or {}).get("n") or {}
    counts: Sequence[int] = run.counts.get(split) or ()
    return int(sizes.get(split) or sum(counts))

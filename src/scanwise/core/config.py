"""Settings: one flat model whose field names are the flags, the YAML keys and the Python arguments.

None means "not said": the preset decides (pipeline.plan) and plan.yaml tells what and why.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_serializer,
    field_validator,
    model_validator,
)

from scanwise.core.errors import ConfigError, nearest

Optimizer = Literal["adam", "adamw", "sgd"]
Scheduler = Literal["plateau", "cosine", "step", "onecycle", "none"]
Loss = Literal["auto", "ce", "focal", "logit_adjust"]
Monitor = Literal["val_loss", "val_accuracy", "val_auc", "val_balanced_acc"]
Preset = Literal[
    "quick", "default", "best", "auto", "small", "medium", "large", "transfer", "reference"
]
Balance = Literal["none", "smote", "smote-pixels"]
Sampler = Literal["shuffle", "balanced", "sqrt"]
Fit = Literal["stretch", "pad", "crop"]
Mix = Literal["none", "mixup", "cutmix"]
Tta = Literal["none", "flip", "shift", "flip+shift"]
Device = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["auto", "32", "bf16"]
TRACKERS = ("tensorboard", "mlflow")


class Settings(BaseModel):
    """Immutable; an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class TrainConfig(Settings):
    """All that `scanwise train` can be told."""

    # What and where
    data: str = Field(
        default="demo:cells",
        description="Class folder, .csv manifest, .npz, medmnist:NAME[@SIZE] or demo:NAME.",
    )
    output: str | None = Field(
        default=None, description="New folder for all the run writes [runs/DATA-MODEL-NNN]."
    )
    force: bool = Field(default=False, description="Replace an existing --output folder.")
    # Data
    size: int | None = Field(
        default=None, ge=8, le=1024, description="Side in px that image files are resized to."
    )
    fit: Fit = Field(default="stretch", description="How image files reach a square.")
    group: str | None = Field(
        default=None, description="Manifest column whose values no split may cut (patient, slide)."
    )
    group_regex: str | None = Field(
        default=None, description="Regular expression; its first group in the path is the group."
    )
    splits: str | None = Field(default=None, description="Reuse the splits.csv of another run.")
    meta: str | None = Field(
        default=None,
        description="CSV of further columns (sex, site, age), joined by path, or split and index.",
    )
    task: Literal["multiclass", "ordinal"] | None = Field(
        default=None, description="ordinal: the classes are grades with an order [by the data]."
    )
    class_order: str | None = Field(
        default=None, description="Grades from lowest to highest, NAME,NAME,…; makes it ordinal."
    )
    val_fraction: float = Field(default=0.15, gt=0, lt=1, description="Share of validation.")
    test_fraction: float = Field(default=0.15, gt=0, lt=1, description="Share of test.")
    page: int | None = Field(default=None, ge=0, description="Page of multi-page TIFFs to read.")
    project: Literal["max"] | None = Field(
        default=None, description="Project multi-page TIFFs over their pages."
    )
    skip_unreadable: bool = Field(
        default=False, description="Leave unreadable files out (at most 5 %)."
    )
    accept_leak: bool = Field(
        default=False, description="Go on although splits share images; results are stamped."
    )
    no_test: bool = Field(default=False, description="Do not open the test split.")
    report: bool = Field(
        default=True, description="Figures and report pages; studies leave them to `report RUN`."
    )
    # Preparation
    contrast: str = Field(
        default="none", description="none, clahe[:clip=1.5,grid=8] or percentile[:1,99]."
    )
    augment: str | None = Field(
        default=None, description="none, gentle, medium, strong, auto or a YAML file."
    )
    flip: bool | None = Field(
        default=None, description="Mirror images in training [off for left/right classes]."
    )
    mix: Mix | None = Field(
        default=None, description="Train on mixtures of two images: mixup adds, cutmix pastes."
    )
    balance: Balance = Field(default="none", description="SMOTE on the training split.")
    sampler: Sampler = Field(default="shuffle", description="Order in which images are drawn.")
    class_weights: str | None = Field(
        default=None, description="none, balanced, sqrt or NAME=W,NAME=W: weights in the loss."
    )
    # Model
    model: str | None = Field(
        default=None,
        description="Network, such as small_resnet:32, resnet18, mlp:512,256,128; pretrained: "
        "hf:ID-OR-FOLDER, timm:NAME, run:RUN.",
    )
    weights: str | None = Field(
        default=None, description="Published weights (imagenet) or a file, for our own networks."
    )
    finetune: str | None = Field(
        default=None, description="Pretrained networks: head, last:K, full or gradual."
    )
    views: int | None = Field(
        default=None, ge=1, le=64, description="Views of each image that a frozen network sees."
    )
    levels: Literal["last", "all"] | None = Field(
        default=None, description="Pretrained networks: features of the last layer or of all."
    )
    head: str | None = Field(
        default=None,
        description="linear or mlp:256 (hidden units); pretrained networks: logistic too.",
    )
    activation: Literal["relu", "gelu", "tanh", "sigmoid", "silu", "leaky_relu"] = Field(
        default="relu", description="Hidden activation of the MLP."
    )
    output_activation: Literal["auto", "softmax", "sigmoid"] = Field(
        default="auto", description="Output activation; sigmoid trains one-vs-rest."
    )
    dropout: float | None = Field(default=None, ge=0, lt=1, description="Dropout before the head.")
    tta: Tta | None = Field(
        default=None,
        description="Test-time augmentation: views of each image whose mean is the answer.",
    )
    # Training
    preset: Preset | None = Field(
        default=None,
        description="quick (seconds), default (minutes), best (several networks that vote), "
        "auto (by number of images), small, medium, large, transfer, reference.",
    )
    epochs: int | None = Field(default=None, ge=1, le=10_000, description="Passes over train.")
    batch_size: int | None = Field(default=None, ge=1, le=65_536, description="Images a step.")
    lr: float | None = Field(default=None, gt=0, le=10, description="(Peak) learning rate.")
    optimizer: Optimizer | None = Field(default=None, description="Optimiser.")
    weight_decay: float | None = Field(default=None, ge=0, le=1, description="Weight decay.")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="Momentum of SGD.")
    scheduler: Scheduler | None = Field(default=None, description="Learning-rate schedule.")
    warmup: int | None = Field(default=None, ge=0, description="Epochs of linear warm-up.")
    loss: Loss = Field(default="auto", description="auto: cross-entropy (BCE for multi-label).")
    label_smoothing: float | None = Field(default=None, ge=0, lt=1, description="Smoothing.")
    focal_gamma: float = Field(default=2.0, ge=0, le=10, description="Gamma of the focal loss.")
    ema: bool | None = Field(default=None, description="Average the weights over steps.")
    patience: int | None = Field(
        default=None, ge=0, description="Epochs without improvement before stopping; 0 = never."
    )
    monitor: Monitor | None = Field(default=None, description="What picks the best epoch.")
    seed: int = Field(default=0, ge=0, le=2**31 - 1, description="Seed of everything random.")
    time_limit: float | None = Field(
        default=None,
        description="Time for the whole run, such as 10m, 90s, 2m30s or 1h: as many of the epochs "
        "as fit, chosen before the schedule starts.",
        json_schema_extra={"metavar": "TIME"},
    )
    # Machine
    device: Device = Field(default="auto", description="Where to compute.")
    devices: int = Field(
        default=1,
        ge=1,
        le=1024,
        description="Processes a machine (one a GPU) that train one network, dividing each batch.",
    )
    nodes: int = Field(
        default=1, ge=1, le=4096, description="Machines, started by torchrun or SLURM."
    )
    precision: Precision = Field(default="auto", description="Arithmetic of forward and backward.")
    threads: int | None = Field(default=None, ge=1, le=1024, description="CPU threads.")
    deterministic: bool = Field(default=False, description="Deterministic kernels on GPUs.")
    explain: bool = Field(default=False, description="Gloss each term of the epoch line.")
    track: str | None = Field(
        default=None, description="Also log to tensorboard, mlflow or both (tensorboard,mlflow)."
    )

    @field_validator("track")
    @classmethod
    def _known_trackers(cls, value: str | None) -> str | None:
        names = [name.strip() for name in (value or "").split(",")]
        unknown = [name for name in names if name not in TRACKERS]
        if value is not None and unknown:
            raise ValueError(f"unknown tracker '{unknown[0]}'; {nearest(unknown[0], TRACKERS)}")
        return None if value is None else ",".join(dict.fromkeys(names))

    @field_validator("finetune")
    @classmethod
    def _known_finetune(cls, value: str | None) -> str | None:
        if value is None or re.fullmatch(r"head|full|gradual|last:[1-9]\d?", value):
            return value
        raise ValueError("write head, last:K (K blocks from the end, 1 to 99), full or gradual.")

    @field_validator("time_limit", mode="before")
    @classmethod
    def _time_in_seconds(cls, value: object) -> float | None:
        return None if value is None else parse_duration(value)

    @field_serializer("time_limit")
    def _time_in_words(self, value: float | None) -> str | None:
        return None if value is None else duration_text(value)

    @field_validator("monitor", mode="before")
    @classmethod
    def _never_select_on_test(cls, value: object) -> object:
        if isinstance(value, str) and value.startswith("test"):
            raise ValueError(
                f"'{value}' would choose by the test split, which is opened once, after training; "
                "monitor val_loss, val_accuracy, val_auc or val_balanced_acc."
            )
        return value

    @model_validator(mode="after")
    def _fractions_leave_a_training_split(self) -> Self:
        if self.val_fraction + self.test_fraction >= 0.9:
            raise ValueError(
                f"val_fraction ({self.val_fraction}) + test_fraction ({self.test_fraction}) leave "
                "under 10 % for training; lower them."
            )
        return self

    @model_validator(mode="after")
    def _only_grades_have_an_order(self) -> Self:
        if self.class_order and self.task == "multiclass":
            raise ValueError("--class-order is for --task ordinal; leave one of them out.")
        return self

    @model_validator(mode="after")
    def _one_group_source(self) -> Self:
        if self.group and self.group_regex:
            raise ValueError("give --group or --group-regex, not both.")
        return self


def parse_duration(value: object) -> float:
    """Seconds of a text such as "90s", "10m", "2m30s" or "1h".

    Raises:
        ValueError: If there is no number with its unit, or the time is 0.

    >>> parse_duration("2m30s")
    150.0
    """
    text = value.replace(" ", "").lower() if isinstance(value, str) else ""
    found = re.fullmatch(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?", text)
    if not text or found is None:
        raise ValueError("write numbers with their units h, m or s, such as 10m, 90s or 2m30s.")
    hours, minutes, seconds = (float(part or 0) for part in found.groups())
    total = 3600 * hours + 60 * minutes + seconds
    if total <= 0:
        raise ValueError("the time must be above 0, such as 10m.")
    return total


def duration_text(seconds: float) -> str:
    """The inverse of `parse_duration`.

    >>> duration_text(150.0)
    '2m30s'
    """
    if seconds != int(seconds):
        return f"{seconds!r}s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = ((hours, "h"), (minutes, "m"), (rest, "s"))
    return "".join(f"{number}{unit}" for number, unit in parts if number)


def make_config(values: Mapping[str, Any]) -> TrainConfig:
    """Check settings from any door and build the config.

    Raises:
        ConfigError: Unknown key (with the nearest one) or a value out of range; all offenders in
            one message.
    """
    known = TrainConfig.model_fields
    complaints = [unknown_key(key, known) for key in values if key not in known]
    try:
        if not complaints:
            return TrainConfig(**values)
    except ValidationError as error:
        complaints = [complaint(item) for item in error.errors()]
    raise ConfigError(" ".join(complaints))


def unknown_key(key: str, known: Mapping[str, object]) -> str:
    """'unknown setting 'x'; did you mean 'y'?'"""
    close = difflib.get_close_matches(key.replace("-", "_"), known, n=1, cutoff=0.4)
    hint = f"did you mean '{close[0]}'?" if close else "see `scanwise train --help`."
    return f"unknown setting '{key}'; {hint}"


def complaint(item: Any) -> str:
    """One pydantic error in our words: which setting, the value, what is allowed."""
    where = ".".join(str(part) for part in item["loc"])
    message = str(item["msg"]).removeprefix("Value error, ")
    if not where:
        return message
    known = re.findall(r"'([^']+)'", item.get("ctx", {}).get("expected", ""))
    close = difflib.get_close_matches(str(item["input"]), known, n=1, cutoff=0.5)
    hint = f" Did you mean '{close[0]}'?" if close else ""
    return f"{where}={item['input']!r}: {message[0].lower()}{message[1:].rstrip('.')}.{hint}"


def read_yaml_settings(path: Path) -> dict[str, Any]:
    """Settings of a YAML file, unchecked.

    Raises:
        ConfigError: If it can't be read or is not a mapping.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"can't read settings from {path}: {reason}.") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold 'key: value' lines, not {type(values).__name__}.")
    return {str(key): value for key, value in values.items()}


def env_settings(environ: Mapping[str, str]) -> dict[str, Any]:
    """Settings from SCANWISE_* variables (SCANWISE_EPOCHS=5), parsed as YAML scalars.

    SCANWISE_CACHE, SCANWISE_OFFLINE, SCANWISE_SHARED and other names that are no settings are
    left alone.
    """
    found: dict[str, Any] = {}
    for key, text in environ.items():
        name = key.removeprefix("SCANWISE_").lower()
        if key.startswith("SCANWISE_") and name in TrainConfig.model_fields:
            found[name] = yaml.safe_load(text) if text else None
    return found

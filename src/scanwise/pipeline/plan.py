"""The plan: every setting that the user left open, chosen with its reason.

Flag > SCANWISE_* > YAML > preset > default. `auto`, `small`, `medium` and `large` are the rows of
the training guide's table by data set size, written for a frozen pretrained backbone with a new
head; `transfer` is our recipe for such backbones, `default` the one for networks that start from
random weights; `reference` is the MedMNIST protocol (Yang et al., Sci Data 10:41, 2023): Adam 1e-3,
batch 128, 100 epochs, x0.1 at 50 % and 75 %, best epoch by validation AUC, no augmentation.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from scanwise.core.config import TrainConfig
from scanwise.core.errors import ConfigError

DEFAULT_MODEL = "small_resnet:32"
FEW = 500  # training images below which a frozen network sees augmented views too


@dataclass(frozen=True)
class DataFacts:
    """What the plan may look at: sizes and counts of the training split, no pixels."""

    n_images: int  # in all splits together, as the guide's table counts
    n_train: int
    smallest_class: int  # images of the rarest class in train
    from_files: bool
    pretrained: bool = False
    mirrors: bool = True  # no class name tells left from right
    own_model: bool = False  # a network of the user's own


@dataclass(frozen=True)
class Decision:
    """One setting of the resolved plan: its value, who chose it and why."""

    setting: str
    value: Any
    source: str  # "you", "preset auto (medium)", "default"
    reason: str

    def to_json(self) -> dict[str, Any]:
        return {
            "setting": self.setting,
            "value": self.value,
            "source": self.source,
            "reason": self.reason,
        }


Choices = dict[str, tuple[Any, str]]  # setting -> (value, reason)


def make_plan(
    config: TrainConfig, facts: DataFacts
) -> tuple[TrainConfig, tuple[Decision, ...], str]:
    """Fill every open setting.

    Args:
        config: What the user said; None where nothing was said.
        facts: Counts of the data.

    Returns:
        The resolved config (no None among the planned settings), the decisions in order, and one
        line that says which row of which preset fired.

    Raises:
        ConfigError: If the resolved settings contradict each other.
    """
    preset, why = _which_preset(config, facts)
    label, choices = _preset_choices(preset, config, facts)
    if facts.pretrained and preset != "transfer":
        choices |= _guide_transfer(facts)
    line = f"preset {preset}{label}: {why}"
    decisions, filled = [], {}
    for setting, (value, reason) in choices.items():
        said = getattr(config, setting)
        if said is not None:
            decisions.append(Decision(setting, said, "you", f"given; the preset's was {value}"))
        else:
            filled[setting] = value
            decisions.append(Decision(setting, value, f"preset {preset}{label}", reason))
    resolved = config.model_copy(update=filled | {"preset": preset})
    for setting in ("loss", "contrast", "balance", "sampler", "seed"):
        value = getattr(resolved, setting)
        default = TrainConfig.model_fields[setting].default
        source = "default" if value == default else "you"
        decisions.append(
            Decision(setting, value, source, "the default" if source != "you" else "given")
        )
    _check_resolved(resolved)
    _check_views(resolved, facts)
    return resolved, tuple(decisions), line


def _which_preset(config: TrainConfig, facts: DataFacts) -> tuple[str, str]:
    if config.preset == "auto":
        row, rule = _size_row(facts.n_images)
        return "auto", f"row '{row}' fired: {facts.n_images} images, {rule}"
    if config.preset:
        return config.preset, "you asked for it"
    if facts.pretrained:
        return "transfer", "the network is pretrained; the guide's table is --preset auto"
    return (
        "default",
        "the network starts from random weights; the table by data set size (--preset auto) was "
        "made for frozen pretrained backbones",
    )


def _size_row(n_images: int) -> tuple[str, str]:
    """The guide's three rows: under 100, 100 to 1000, over 1000 images in total."""
    if n_images < 100:
        return "small", "under 100"
    if n_images <= 1000:
        return "medium", "100 to 1000"
    return "large", "over 1000"


def _preset_choices(preset: str, config: TrainConfig, facts: DataFacts) -> tuple[str, Choices]:
    if preset == "auto":
        row = _size_row(facts.n_images)[0]
        return f" ({row})", _guide_row(row, facts)
    if preset in ("small", "medium", "large"):
        return "", _guide_row(preset, facts)
    if preset == "reference":
        return "", _reference(facts)
    if preset == "transfer":
        return "", _transfer_recipe(facts)
    return "", _recipe(preset, config, facts)


def _guide_row(row: str, facts: DataFacts) -> Choices:
    """The guide's "Handling Different Dataset Sizes", value by value."""
    few = facts.smallest_class < 100
    batch = {
        "small": (8, "very small data set: smaller batches (8)"),
        "medium": (16, "under 100 images in a class: 8 to 16")
        if few
        else (32, "100 images or more in every class: start with 32"),
        "large": (64, "large data set: larger batches (64)"),
    }[row]
    return {
        "model": (DEFAULT_MODEL, "small residual network; learns from few images on a CPU"),
        "epochs": (15, "start with 15; more only if validation still improves at the end"),
        "batch_size": batch,
        "lr": {
            "small": (5e-5, "very small data set: lower learning rate (0.00005)"),
            "medium": (1e-4, "the guide's conservative default (0.0001)"),
            "large": (1e-3, "large data set: higher learning rate (0.001)"),
        }[row],
        "dropout": {
            "small": (0.35, "very small data set: more dropout (0.3 to 0.4)"),
            "medium": (0.2, "the guide's default"),
            "large": (0.15, "large data set: less dropout (0.1 to 0.2)"),
        }[row],
        "augment": {
            "small": ("strong", "very small data set: more augmentation"),
            "medium": ("gentle", "the guide's default (±5°, ±5 %)"),
            "large": ("medium", "larger data sets bear 10 to 20 %"),
        }[row],
        "class_weights": ("balanced", "rare classes count as much as common ones"),
        "optimizer": ("adam", "the guide's optimiser"),
        "weight_decay": (0.0, "the guide uses none"),
        "scheduler": ("plateau", "lower the rate when validation loss stalls"),
        "warmup": (0, "not in the guide"),
        "label_smoothing": (0.0, "not in the guide"),
        "ema": (False, "not in the guide"),
        "patience": (5, "stop after 5 epochs without a better validation loss"),
        "monitor": ("val_loss", "the guide's measure of a good run"),
        "head": ("linear", "one layer from features to classes"),
        "mix": ("none", "not in the guide"),
        "tta": ("none", "not in the guide"),
    }


def _transfer_recipe(facts: DataFacts) -> Choices:
    """Logistic regression on what all levels of a frozen network see; docs/results.md has why.

    What only training step by step needs is for `--finetune` and the other heads.
    """
    few = facts.n_train < FEW
    batch = 16 if few else 64
    return {
        "head": ("logistic", "no rate, no epochs: the best linear classifier for each penalty"),
        "levels": ("all", "texture and colour of early blocks beside the last one's objects"),
        "finetune": ("head", "the backbone stays frozen: its features are computed once"),
        "views": (
            (4, f"{facts.n_train} training images: three augmented views beside each")
            if few
            else (1, f"{facts.n_train} training images: each as it is")
        ),
        "augment": ("strong", "of the views beside each image"),
        "class_weights": ("none", "probabilities stay those of the data; see --class-weights"),
        "epochs": (15, "of fine-tuning, if it is asked for"),
        "batch_size": (batch, f"{facts.n_train} training images"),
        "lr": (1e-3, "of a head trained by steps; fine-tuning takes a tenth"),
        "dropout": (0.2, "before the head"),
        "optimizer": ("adamw", "decoupled weight decay"),
        "weight_decay": (0.05, "with AdamW"),
        "scheduler": ("onecycle", "one rise, one fall"),
        "warmup": (0, "one-cycle warms up by itself"),
        "label_smoothing": (0.0, "validation picks the penalty by plain log-loss"),
        "ema": (False, "of steps, which the logistic head has not"),
        "patience": (0, "one-cycle must run to its end; the best epoch is kept all the same"),
        "monitor": ("val_loss", "picks what fits validation's labels best"),
        "mix": ("none", "of steps, which the logistic head has not"),
        "tta": ("none", "features are cached of the image alone"),
    }


def _guide_transfer(facts: DataFacts) -> Choices:
    """What the guide's table has for pretrained networks only."""
    return {
        "levels": ("last", "the guide's: the network's own feature vector"),
        "head": ("mlp:256", "the guide's head: dropout, 256 units, BatchNorm, dropout"),
        "finetune": ("head", "the backbone stays frozen: its features are computed once"),
        "views": (
            (4, f"{facts.n_train} training images: three augmented views beside each")
            if facts.n_train < FEW
            else (1, f"{facts.n_train} training images: each as it is")
        ),
    }


def _reference(facts: DataFacts) -> Choices:
    """The MedMNIST v2 protocol."""
    why = "MedMNIST reference protocol"
    return {
        "model": ("resnet18", why),
        "epochs": (100, why),
        "batch_size": (128, why),
        "lr": (1e-3, why),
        "dropout": (0.0, why),
        "augment": ("none", why),
        "class_weights": ("none", why),
        "optimizer": ("adam", why),
        "weight_decay": (0.0, why),
        "scheduler": ("step", why + ": x0.1 at 50 % and 75 %"),
        "warmup": (0, why),
        "label_smoothing": (0.0, why),
        "ema": (False, why),
        "patience": (0, why + ": no early stopping"),
        "monitor": ("val_auc", why + ": best epoch by validation AUC"),
        "head": ("linear", why),
        "mix": ("none", why),
        "tta": ("none", why),
    }


@dataclass(frozen=True)
class Recipe:
    """How large a network, and how long it is trained; docs/recipes.md has the measurements."""

    model: str
    shown: int  # images shown to the network in a whole training
    epochs: tuple[int, int]  # at least, at most
    why: str  # this network


RECIPES = {
    "quick": Recipe("small_resnet:16", 40_000, (5, 30), "half as wide as the default: seconds"),
    "default": Recipe(
        DEFAULT_MODEL, 150_000, (15, 60), "small residual network made for small images and CPUs"
    ),
    "best": Recipe(DEFAULT_MODEL, 150_000, (15, 60), "each member is the default's network"),
}


def _recipe(preset: str, config: TrainConfig, facts: DataFacts) -> Choices:
    """One-cycle AdamW with smoothing, averaging and strong geometric augmentation."""
    recipe = RECIPES[preset]
    name = (config.model or recipe.model).split(":")[0]
    least, most = recipe.epochs
    epochs = min(most, max(least, math.ceil(recipe.shown / facts.n_train)))
    batch = 32 if facts.n_train < 500 else 64 if facts.n_train < 2000 else 128
    steps = math.ceil(facts.n_train / (config.batch_size or batch))
    lr = 4e-3 if name == "small_resnet" else 1e-3
    return {
        "model": (recipe.model, recipe.why),
        "epochs": (
            epochs,
            f"about {recipe.shown:,} images shown in all, at least {least} and at most {most} "
            "epochs",
        ),
        "batch_size": (
            batch,
            f"{facts.n_train:,} training images: {steps} step{'' if steps == 1 else 's'} an epoch",
        ),
        "lr": (lr, f"peak of the one-cycle schedule for {name}"),
        "dropout": (0.2, "before the last layer"),
        "augment": (
            "gentle" if name == "mlp" else "strong",
            "pixels of an MLP must stay in place"
            if name == "mlp"
            else "trained from random weights; weaker ones bear worse pictures less well",
        ),
        "class_weights": ("none", "probabilities stay those of the data; see --class-weights"),
        "optimizer": ("adamw", "decoupled weight decay"),
        "weight_decay": (0.05, "with AdamW"),
        "scheduler": ("onecycle", "one rise, one fall: most quality for a fixed number of steps"),
        "warmup": (0, "one-cycle warms up by itself"),
        "label_smoothing": (0.1, "less over-confident"),
        "ema": (True, "the average of the weights over steps generalises better"),
        "patience": (0, "one-cycle must run to its end; the best epoch is kept all the same"),
        "monitor": ("val_loss", "picks the epoch whose probabilities fit validation best"),
        "head": ("linear", "one layer from features to classes"),
        "mix": ("none", "mixup and cutmix brought nothing on small images"),
        "tta": _views(config, facts)
        if preset == "best"
        else ("none", "one view an image; --preset best takes several"),
    }


def _views(config: TrainConfig, facts: DataFacts) -> tuple[str, str]:
    """Test-time views that go with the network and with mirroring.

    Not with `augment`: a comparison with other augmentation shall change one thing.
    """
    if facts.own_model or facts.pretrained or _is_mlp(config):
        return "none", "for our convolutional networks only"
    mirrored = facts.mirrors if config.flip is None else config.flip
    if mirrored:
        return "flip+shift", "the mean over ten views, mirrored or moved by 1/28 of the side"
    return "shift", "the mean over five views, moved by 1/28 of the side; mirroring is off"


def _check_resolved(config: TrainConfig) -> None:
    warmup, epochs = config.warmup or 0, config.epochs or 1
    if warmup >= epochs:
        raise ConfigError(f"warmup={warmup} must be below epochs={epochs}.")
    if config.head == "logistic":
        _check_logistic(config)


def _check_views(config: TrainConfig, facts: DataFacts) -> None:
    """Views are averaged inside of our own convolutional networks."""
    if config.tta == "none" or not (facts.pretrained or facts.own_model or _is_mlp(config)):
        return
    what = (
        "a pretrained network" if facts.pretrained
        else "a network of your own" if facts.own_model
        else str(config.model)
    )  # fmt: skip
    raise ConfigError(
        f"tta={config.tta} averages views inside of our own convolutional networks, and this is "
        f"{what}; leave --tta out."
    )


def _is_mlp(config: TrainConfig) -> bool:
    return str(config.model).split(":")[0] == "mlp"


def _check_logistic(config: TrainConfig) -> None:
    """What a logistic regression can't do by its nature."""
    unfit = {
        f"--loss {config.loss}": config.loss not in ("auto", "ce"),
        f"--sampler {config.sampler}": config.sampler != "shuffle",
        f"--label-smoothing {config.label_smoothing}": bool(config.label_smoothing),
        f"--output-activation {config.output_activation}": config.output_activation != "auto",
        f"--mix {config.mix}": config.mix != "none",
    }
    for flag, wrong in unfit.items():
        if wrong:
            raise ConfigError(
                f"{flag} does not go with --head logistic (the choice for pretrained networks); "
                "add --head linear or --head mlp:256."
            )


def explicit_settings(config: TrainConfig, defaults: Collection[str] = ()) -> dict[str, Any]:
    """The settings that differ from the model's defaults, for commands and messages."""
    return {
        name: value
        for name, value in config.model_dump().items()
        if name not in defaults and value != TrainConfig.model_fields[name].default
    }

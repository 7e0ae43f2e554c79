"""What a search may change: ranges with their reasons, the user's own, and what is refused."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from scanwise.core.config import Monitor, TrainConfig, make_config, unknown_key
from scanwise.core.errors import ConfigError, ModelError
from scanwise.models.backbones import is_pretrained
from scanwise.models.build import check_model_spec

Value = str | int | float | bool

_SAME_IMAGES = "trials must be compared on the same images, and these are read and split once"
_NO_LEARNING = "it changes nothing that is learned"
# Settings that no search may change, and why.
REFUSED: dict[str, str] = {
    **dict.fromkeys(
        ("data", "size", "fit", "group", "group_regex", "splits", "val_fraction", "test_fraction",
         "page", "project", "skip_unreadable", "accept_leak"),
        _SAME_IMAGES,
    ),
    **dict.fromkeys(
        ("output", "force", "report", "time_limit", "device", "precision", "threads",
         "deterministic", "explain", "devices", "nodes", "track"),
        _NO_LEARNING,
    ),
    "seed": "all trials share one seed; to choose a seed is to choose luck",
    "monitor": "it is what trials are judged by; name it by --monitor",
    "no_test": "a search may not read test",
    "preset": "it decides many settings at once; search those",
    "weights": "each file is another network; search one at a time",
}  # fmt: skip
# Settings that change how the loss itself is computed, so that losses of trials can't be compared.
_IN_THE_LOSS = ("loss", "label_smoothing", "focal_gamma", "class_weights", "output_activation")


@dataclass(frozen=True)
class Parameter:
    """One setting that is searched: a range of numbers, or choices."""

    setting: str
    reason: str
    low: float | None = None
    high: float | None = None
    log: bool = False
    whole: bool = False  # whole numbers only
    choices: tuple[Value, ...] = ()

    def suggest(self, trial: Any) -> Value:
        """Ask an Optuna trial for a value."""
        if self.choices:
            chosen: Value = trial.suggest_categorical(self.setting, list(self.choices))
            return chosen
        if self.whole:
            return int(trial.suggest_int(self.setting, self.low, self.high, log=self.log))
        return float(trial.suggest_float(self.setting, self.low, self.high, log=self.log))

    def holds(self, value: object) -> bool:
        """True if `value` could be suggested."""
        if self.choices:
            return value in self.choices
        if self.low is None or self.high is None or not isinstance(value, int | float):
            return False
        return self.low <= value <= self.high

    @property
    def spelling(self) -> str:
        """As `--search` reads it."""
        if self.choices:
            return "|".join(_text(choice) for choice in self.choices)
        low, high = (_text(end) for end in self.ends())
        return f"{low}..{high}{':log' if self.log else ''}"

    def ends(self) -> tuple[Value, ...]:
        """The values that decide whether all are allowed: each choice, or both ends."""
        if self.choices or self.low is None or self.high is None:
            return self.choices
        return (int(self.low), int(self.high)) if self.whole else (self.low, self.high)


def _text(value: Value) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value)


def value_text(value: object) -> str:
    """A setting's value for people: three digits of a float."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def combinations(space: tuple[Parameter, ...]) -> Iterator[dict[str, Value]] | None:
    """All combinations of a space of choices only; None where one is a range."""
    if not all(parameter.choices for parameter in space):
        return None
    names = [parameter.setting for parameter in space]
    product = itertools.product(*(parameter.choices for parameter in space))
    return (dict(zip(names, values, strict=True)) for values in product)


# --- the user's space -------------------------------------------------------------------------


def parse_search(text: str, monitor: Monitor | None) -> tuple[Parameter, ...]:
    """Read `lr=1e-5..1e-2:log,batch_size=16|32|64`.

    `monitor` is what trials are judged by, None where the plan has yet to say.

    Raises:
        ConfigError: Unknown settings (with the nearest one), settings that no search may change
            (with the reason), or values that the setting does not take.
    """
    # A comma parts settings only where the next one begins: mlp:512,256 has one inside.
    found: dict[str, Parameter] = {}
    for part in re.split(r",(?=\s*[\w-]+\s*=)", text):
        name, equals, values = (cell.strip() for cell in part.partition("="))
        name = name.replace("-", "_")
        if not equals or not name or not values:
            raise ConfigError(
                f"--search {part.strip()!r}: write SETTING=VALUES, such as lr=1e-5..1e-2:log or "
                "batch_size=16|32|64, with commas between settings."
            )
        refuse(name, monitor)
        if name in found:
            raise ConfigError(f"--search names {name} twice; give it one range.")
        found[name] = _range(name, values) if ".." in values else _choices(name, values)
    return tuple(found.values())


def refuse(name: str, monitor: Monitor | None) -> None:
    """Refuse a setting that no search may change.

    Raises:
        ConfigError: With the reason.
    """
    if name.startswith("test") and name not in TrainConfig.model_fields:
        raise ConfigError(f"--search {name}: a search may not read test; leave it out.")
    if name not in TrainConfig.model_fields:
        known = {key: None for key in TrainConfig.model_fields if key not in REFUSED}
        raise ConfigError(f"--search: {unknown_key(name, known)}")
    if name in REFUSED:
        raise ConfigError(f"--search {name}: {REFUSED[name]}; leave it out.")
    if name in _IN_THE_LOSS and monitor == "val_loss":
        raise ConfigError(
            f"--search {name}: it changes how val_loss is computed, so that trials could not be "
            "compared; add --monitor val_balanced_acc, val_accuracy or val_auc."
        )


def _range(name: str, text: str) -> Parameter:
    kind = _number_type(name)
    words, colon, scale = text.partition(":")
    first, _, last = words.partition("..")
    if kind is None:
        raise ConfigError(f"--search {name}={text}: {name} is no number; write {name}=A|B|C.")
    if colon and scale != "log":
        raise ConfigError(f"--search {name}={text}: after the colon only 'log' can stand.")
    low, high = (_value(name, word) for word in (first, last))
    if not isinstance(low, int | float) or not isinstance(high, int | float) or low >= high:
        raise ConfigError(f"--search {name}={text}: the range must rise, as in {name}=A..B.")
    if scale == "log" and low <= 0:
        raise ConfigError(f"--search {name}={text}: a log range must begin above 0.")
    return Parameter(name, "you asked for it", low, high, scale == "log", kind is int)


def _choices(name: str, text: str) -> Parameter:
    choices = tuple(dict.fromkeys(_value(name, word) for word in text.split("|")))
    if len(choices) < 2:
        raise ConfigError(
            f"--search {name}={text} has one value; fix it by --{name.replace('_', '-')}, or give "
            "several: A|B|C or A..B."
        )
    return Parameter(name, "you asked for it", choices=choices)


def _value(name: str, text: str) -> Value:
    """One value of a setting, as the settings model reads it.

    Raises:
        ConfigError: If the setting does not take it.
    """
    try:
        value: Value | None = getattr(make_config({name: text.strip()}), name)
    except ConfigError as error:
        raise ConfigError(f"--search: {error}") from None
    if value is None:
        raise ConfigError(f"--search {name}: '{text}' is no value.")
    return value


def _number_type(name: str) -> type | None:
    """int or float of a numeric setting, else None."""
    annotation = TrainConfig.model_fields[name].annotation
    inside = {annotation, *get_args(annotation)}  # of `int | None` int; of Literal its words
    return next((kind for kind in (int, float) if kind in inside), None)


# --- the space by default ---------------------------------------------------------------------


def default_space(said: TrainConfig, planned: TrainConfig, num_train: int) -> tuple[Parameter, ...]:
    """What is worth searching for this network, without what the user fixed.

    Args:
        said: What the user said.
        planned: The same with all that the plan chose; each default range holds its values.
        num_train: Training images.

    Raises:
        ConfigError: If all of it is fixed.
    """
    every = _ranges(planned, num_train)
    free = tuple(parameter for parameter in every if not _is_fixed(said, parameter.setting))
    if not free:
        names = ", ".join(parameter.setting for parameter in every)
        raise ConfigError(
            f"nothing is left to search: {names} are all fixed. Leave one out, or name ranges by "
            "--search."
        )
    return free


def _is_fixed(said: TrainConfig, setting: str) -> bool:
    return bool(getattr(said, setting) != TrainConfig.model_fields[setting].default)


def _ranges(planned: TrainConfig, num_train: int) -> tuple[Parameter, ...]:
    if not is_pretrained(planned.model, planned.weights):
        return (*_steps(planned, num_train), _augment(planned), *_head(planned))
    seen = (_levels(), _views(planned))
    if planned.head != "logistic":
        return (*_steps(planned, num_train), *_head(planned), *seen)
    frozen = (*seen, _contrast(planned))
    return frozen if planned.finetune in (None, "head") else (*frozen, _rate(planned))


def _steps(planned: TrainConfig, num_train: int) -> tuple[Parameter, ...]:
    """What training by steps depends on."""
    batch = int(planned.batch_size or 32)
    sizes = sorted({max(2, batch // 2), batch, min(2 * batch, max(num_train, batch))})
    dropout = Parameter(
        "dropout",
        "none to the half of Srivastava et al. (JMLR 15, 2014)",
        0.0,
        max(0.5, planned.dropout or 0.0),
    )
    sizes_of_batch = Parameter(
        "batch_size",
        f"half to twice the plan's {batch}: noise of the steps against their number",
        choices=tuple(sizes),
    )
    return _rate(planned), _decay(planned), sizes_of_batch, dropout


def _rate(planned: TrainConfig) -> Parameter:
    low, high = (1e-3, 0.5) if planned.optimizer == "sgd" else (1e-4, 2e-2)
    rate = float(planned.lr or low)
    return Parameter(
        "lr",
        "the setting that matters most, over two decades or more, by ratio (Bengio 2012, "
        "arXiv:1206.5533)",
        min(low, rate),
        max(high, rate),
        log=True,
    )


def _decay(planned: TrainConfig) -> Parameter:
    decay = float(planned.weight_decay or 0.0)
    if planned.optimizer == "adamw" and decay > 0:
        return Parameter(
            "weight_decay",
            "around AdamW's usual 0.01 to 0.1 (Loshchilov and Hutter 2019, arXiv:1711.05101)",
            min(1e-3, decay),
            max(0.3, decay),
            log=True,
        )
    return Parameter(
        "weight_decay",
        "none to ten times the usual 1e-4 of an L2 penalty",
        choices=tuple(sorted({0.0, 1e-5, 1e-4, 1e-3, decay})),
    )


def _augment(planned: TrainConfig) -> Parameter:
    names = ("none", "gentle", "medium", "strong")
    own = [] if planned.augment in (None, *names) else [str(planned.augment)]
    return Parameter(
        "augment",
        "how much a picture may change and keep its class differs between kinds of images",
        choices=(*names, *own),
    )


def _head(planned: TrainConfig) -> tuple[Parameter, ...]:
    """The head, for networks that can have another one."""
    if not is_pretrained(planned.model, planned.weights):
        try:
            check_model_spec(str(planned.model), head="mlp:256")
        except ModelError:
            return ()
    choices = tuple(dict.fromkeys(("linear", "mlp:256", planned.head or "linear")))
    return (Parameter("head", "one layer, or one hidden layer before it", choices=choices),)


def _levels() -> Parameter:
    return Parameter(
        "levels", "texture of early blocks beside the last one's objects", choices=("last", "all")
    )


def _views(planned: TrainConfig) -> Parameter:
    own = int(planned.views or 1)
    return Parameter(
        "views",
        "augmented views beside each image; the backbone's time grows with them",
        choices=tuple(sorted({1, 4, 8, own})) if own > 1 else (1, 2, 4),
    )


def _contrast(planned: TrainConfig) -> Parameter:
    return Parameter(
        "contrast",
        "whether local or global contrast helps differs between kinds of images",
        choices=tuple(dict.fromkeys(("none", "clahe", "percentile", planned.contrast))),
    )


# --- all of it together -----------------------------------------------------------------------


def defaults_of(space: tuple[Parameter, ...], planned: TrainConfig) -> dict[str, Value]:
    """The plan's values of the searched settings."""
    return {parameter.setting: getattr(planned, parameter.setting) for parameter in space}


def is_inside(space: tuple[Parameter, ...], settings: Mapping[str, object]) -> bool:
    """True if a search of this space could find these settings."""
    return all(parameter.holds(settings[parameter.setting]) for parameter in space)

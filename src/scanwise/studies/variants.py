"""Variants of a base: which settings each changes, and whether one or several differ."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scanwise.core.config import TrainConfig, make_config, unknown_key
from scanwise.core.errors import ConfigError

BASE = "base"
# What a variant may not change, and why.
_SHARED = {
    "data": "name several data sets instead",
    "output": "the study has one folder",
    "force": "the study has one folder",
    "seed": "all variants share their seeds; use --seeds N",
    "splits": "all variants are scored on the same images",
    "group": "all variants are scored on the same images",
    "group_regex": "all variants are scored on the same images",
    "val_fraction": "all variants are scored on the same images",
    "test_fraction": "all variants are scored on the same images",
    "skip_unreadable": "all variants are scored on the same images",
    "accept_leak": "all variants are scored on the same images",
    "no_test": "all variants are scored on the same images",
    "report": "`scanwise report MEMBER` makes the pages of a member",
    "explain": "members are silent",
    "device": "it is no property of a model",
    "devices": "it is no property of a model",
    "nodes": "it is no property of a model",
    "threads": "it is no property of a model; see --jobs",
}
# Settings that may differ between a base and a variant without making another model.
_NOT_A_FACTOR = {*_SHARED, "preset", "track"}


@dataclass(frozen=True)
class Variant:
    """One row of a comparison: the base, or the base with some settings changed."""

    name: str  # "base", or the changes as typed
    changes: dict[str, Any]
    differs: tuple[str, ...] = ()  # settings that differ from the base after planning

    @property
    def slug(self) -> str:
        words = re.sub(r"[^\w.=,+-]+", "_", self.name.replace("/", "-")).strip("_")
        return words.replace("=", "-")[:60]

    @property
    def confounded(self) -> bool:
        return len(self.differs) > 1

    def label(self) -> str:
        """What a reader must know of the row; '' for a clean one."""
        if self.name == BASE:
            return ""
        if not self.differs:
            return "equals the base"
        if self.confounded:
            return f"confounded: differs in {', '.join(self.differs)}"
        return ""


def read_variants(config: TrainConfig, texts: Sequence[str]) -> tuple[Variant, ...]:
    """The base and a variant for each text, "key=value" or "key=value key=value".

    Raises:
        ConfigError: If a text is not of that form, names an unknown or shared setting, a value is
            out of range, or a variant is named twice.
    """
    found = [Variant(BASE, {})]
    for text in texts:
        changes = _parse(text)
        make_config(config.model_dump(exclude_unset=True) | changes)
        name = " ".join(f"{key}={value}" for key, value in changes.items())
        if any(name == variant.name for variant in found):
            raise ConfigError(f"--vary {name} is given twice.")
        found.append(Variant(name, changes))
    return tuple(found)


def _parse(text: str) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ConfigError(f"--vary {text!r} can't be read: {error}.") from error
    for word in words:
        key, equals, value = word.partition("=")
        name = key.strip().replace("-", "_")
        if not equals or not name or not value:
            raise ConfigError(
                f"--vary {text!r} must be SETTING=VALUE (several with a space between them), such "
                "as lr=1e-4 or 'optimizer=sgd momentum=0.9'."
            )
        if name not in TrainConfig.model_fields:
            raise ConfigError(f"--vary {word}: {unknown_key(name, TrainConfig.model_fields)}")
        if name in _SHARED:
            raise ConfigError(f"--vary {word}: {name} can't vary: {_SHARED[name]}.")
        if name in changes:
            raise ConfigError(f"--vary {text!r} changes {name} twice.")
        changes[name] = _typed(name, value)
    if not changes:
        raise ConfigError("--vary is empty; write SETTING=VALUE, such as lr=1e-4.")
    return changes


def _typed(name: str, text: str) -> Any:
    """true and false of switches as such; all else is read by the settings model."""
    return {"true": True, "false": False}.get(text.lower(), text)


def differing(base: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[str, ...]:
    """Settings, as planned, in which two trainings differ."""
    return tuple(
        name
        for name in TrainConfig.model_fields
        if name not in _NOT_A_FACTOR and base.get(name) != other.get(name)
    )

"""Command lines that run as they are printed: the user's data and flags, and what is to change.

The floors that find something know neither the data's name nor the user's flags. They name the verb
and the flags to change ("train --no-flip"); `completed` makes a whole command of it.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from scanwise.core.config import TrainConfig

if TYPE_CHECKING:  # it needs numpy, and the command line must start without
    from scanwise.core.types import Finding

# The settings that `check` shares with `train`.
CHECK_SETTINGS = (
    "size", "fit", "group", "group_regex", "splits", "val_fraction", "test_fraction",
    "page", "project", "meta", "task", "class_order", "seed", "force", "skip_unreadable",
    "accept_leak",
)  # fmt: skip

# Where the run went and how it was computed: a command to try out says nothing of these.
_NOT_REPEATED = {
    "data", "output", "force", "explain", "threads", "device", "devices", "nodes", "precision",
}  # fmt: skip


def said_settings(
    config: Mapping[str, Any], plan: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Any]:
    """The settings that the user chose: no defaults, and nothing that the plan filled in."""
    said = {row.get("setting") for row in plan if row.get("source") == "you"}
    chosen_by_plan = {row.get("setting") for row in plan} - said
    return {
        name: config[name]
        for name, field in TrainConfig.model_fields.items()
        if name not in _NOT_REPEATED | chosen_by_plan
        and config.get(name) not in (None, field.default)
        and (name, config[name]) != ("preset", "default")  # the plan's own word for none given
    }


def command_line(verb: str, data: str, settings: Mapping[str, Any]) -> str:
    """`scanwise VERB DATA --flag value …`, quoted for a POSIX shell."""
    words = ["scanwise", verb, data]
    for name, value in settings.items():
        flag = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            words.append(flag if value else f"--no-{flag[2:]}")
        else:
            words += [flag, str(value)]
    return shlex.join(words)


def completed(
    command: str, config: Mapping[str, Any], plan: Sequence[Mapping[str, Any]] = ()
) -> str:
    """A whole command line of "VERB --flag value …", with the user's data and flags.

    >>> completed("train --no-flip", {"data": "my cells", "group_regex": "(p.)", "epochs": 9})
    "scanwise train 'my cells' --group-regex '(p.)' --epochs 9 --no-flip"
    """
    if not command or command.startswith("scanwise "):
        return command
    verb, *words = shlex.split(command)
    settings = said_settings(config, plan)
    if verb == "check":
        settings = {name: value for name, value in settings.items() if name in CHECK_SETTINGS}
    return command_line(verb, str(config.get("data") or "DATA"), settings | _changes(words))


def with_commands(
    findings: Sequence[Finding],
    config: Mapping[str, Any],
    plan: Sequence[Mapping[str, Any]] = (),
) -> tuple[Finding, ...]:
    """The findings with `completed` commands."""
    return tuple(
        replace(finding, command=completed(finding.command, config, plan)) for finding in findings
    )


def _changes(words: Sequence[str]) -> dict[str, Any]:
    """Settings from flags: `--no-x` is False, a flag without a value True."""
    changes: dict[str, Any] = {}
    for word, following in zip(words, [*words[1:], "--"], strict=True):
        if not word.startswith("--"):
            continue
        name = word[2:].replace("-", "_")
        if name.startswith("no_") and name not in TrainConfig.model_fields:
            changes[name[3:]] = False
        else:
            changes[name] = True if following.startswith("--") else following
    return changes

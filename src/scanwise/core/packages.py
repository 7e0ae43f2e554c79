"""Are the packages here that scanwise, or one of its extras, needs? Imports none of them."""

from __future__ import annotations

import importlib.metadata
import re

from scanwise.core.runtime import PACKAGES


def missing_packages(extra: str | None = None) -> dict[str, str]:
    """What is absent or too old, as "torch 2.1 is older than 2.6": the pip requirement to get it.

    Args:
        extra: One of scanwise's extras; None: what it can't do without.
    """
    found = {}
    for name, least in _requirements(extra).items():
        if why := _lacking(name, least):
            found[why] = f"{name}>={least}"
    return found


def pip_line(missing: dict[str, str]) -> str:
    """The command that installs what `missing_packages` found."""
    return "pip install " + " ".join(f"'{each}'" for each in missing.values())


def _requirements(extra: str | None) -> dict[str, str]:
    """Names and least versions of what scanwise, or one of its extras, needs."""
    try:
        stated = importlib.metadata.requires("scanwise") or []
    except importlib.metadata.PackageNotFoundError:  # run from its source folder
        return dict.fromkeys(PACKAGES[1:], "0") if extra is None else {}
    wanted = {}
    for line in stated:
        name, least, condition = _parsed(line)
        if condition == extra and name != "scanwise":
            wanted[name] = least
        elif condition == extra and (inner := re.search(r"\[(.+?)\]", line)):
            for other in inner.group(1).split(","):
                wanted |= _requirements(other)
    return wanted


def _parsed(line: str) -> tuple[str, str, str | None]:
    """'ray>=2.40; extra == "ray"' → ('ray', '2.40', 'ray')"""
    name = re.match(r"[\w.-]+", line)
    least = re.search(r">=\s*([\d.]+)", line)
    extra = re.search(r"extra\s*==\s*['\"](.+?)['\"]", line)
    return (
        name.group() if name else line,
        least.group(1) if least else "0",
        extra.group(1) if extra else None,
    )


def _lacking(name: str, least: str) -> str:
    """'torch is not installed', 'torch 2.1 is older than 2.6', or ''."""
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return f"{name} is not installed"
    if _numbers(version) < _numbers(least):
        return f"{name} {version} is older than {least}"
    return ""


def _numbers(version: str) -> tuple[int, ...]:
    """
    >>> _numbers("2.13.0+cpu")
    (2, 13, 0)
    """
    plain = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in plain.group().split(".")) if plain else ()

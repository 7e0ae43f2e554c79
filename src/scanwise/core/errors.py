"""Errors that a user can mend: what is wrong, where, the value and the way out, in one message.

The command line turns each into one line on stderr and `exit_code`; anything else is a bug and
keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ScanwiseError(Exception):
    """Any mistake that the message explains; exit code 2."""

    exit_code = 2


class ConfigError(ScanwiseError, ValueError):
    """A setting is unknown, out of range or contradicts another one."""


class DataError(ScanwiseError, ValueError):
    """Images, labels or a manifest can't be used as they are."""


class SplitError(DataError):
    """A split can't be made, or the given one does not fit the data."""


class ModelError(ScanwiseError, ValueError):
    """A model is unknown or can't be built for these images."""


class WeightsError(ModelError):
    """Pretrained weights are missing, damaged or of another architecture."""


class DeviceError(ScanwiseError):
    """The requested device does not exist here."""


class RunError(ScanwiseError):
    """A run folder is missing, incomplete or in the way."""


class IntegrityError(ScanwiseError):
    """Data integrity is broken: a leak between splits or a file whose hash changed; exit code 3."""

    exit_code = 3


class PartialError(ScanwiseError):
    """Some of the work was done and some was not; exit code 1."""

    exit_code = 1


def one_line(error: Exception) -> str:
    """What an error says, in one line of at most 160 characters."""
    return " ".join(str(error).split())[:160] or type(error).__name__


def nearest(word: str, known: Iterable[str], how_many: int = 3) -> str:
    """Say which known names are closest to `word`, for the end of an error message.

    Returns:
        "did you mean 'a' or 'b'?", or "choose one of a, b, c." where nothing is close.
    """
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=how_many, cutoff=0.5)
    if close:
        return "did you mean " + " or ".join(f"'{name}'" for name in close) + "?"
    return f"choose one of {', '.join(names)}."

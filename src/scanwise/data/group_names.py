"""Do file names tell which images belong together? A guess, with its evidence, or none.

`slide03_0012.png` says slide 3, image 12. Names are read from left to right, since people write the
patient before the picture: what stands before the last number is a group if it repeats. Nothing is
grouped by a guess: it is printed with the flag that uses it, and the report states the risk.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np

from scanwise.core.types import Dataset

MIN_IMAGES = 20  # fewer show no pattern
MIN_GROUPS = 5
LARGEST = 0.3  # share of the images that one group may hold; more is a batch, not a patient
REPEATED = 0.3  # share of the images that share their group with another image
CROSSED = 0.9  # share of the cells filled from which two numbers form a grid, not a hierarchy

_TOKEN = re.compile(  # a hexadecimal name, letters with a number, letters
    r"(?=[0-9a-f]*[0-9])(?=[0-9a-f]*[a-f])[0-9a-f]{8,}(?![0-9a-z])|[^\W\d_]*\d+|[^\W\d_]+", re.I
)
_DATE = re.compile(r"(19|20)\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])(\d{4}|\d{6})?")
_LETTERS = re.compile(r"[^\W\d_]\(")  # letters right before the captured number
_YEAR = re.compile(r"(19|20)\d\d")


@dataclass(frozen=True)
class GroupGuess:
    """A way to read groups from the names: the pattern, and what follows from it."""

    regex: str  # as `--group-regex` takes it
    groups: tuple[str, ...]  # of each image

    @property
    def number(self) -> int:
        return len(set(self.groups))

    def sizes(self) -> tuple[int, int]:
        """Images of the smallest and of the largest group."""
        counts = Counter(self.groups).values()
        return min(counts), max(counts)

    def __str__(self) -> str:
        low, high = self.sizes()
        images = f"{low}" if low == high else f"{low} to {high}"
        return f"{self.number} groups of {images} images: `{self.regex}`"


@dataclass(frozen=True)
class GroupGuesses:
    """All plausible readings, the one with the fewest groups first; `doubt` says why not to trust.

    `doubt` is '' where there is one reading and nothing speaks against it.
    """

    guesses: tuple[GroupGuess, ...]
    doubt: str = ""


def guess_groups(dataset: Dataset) -> GroupGuesses | None:
    """Read groups from the names of image files that came without any.

    Returns:
        None where groups are known, rows are no files, or no part of the names repeats as patients
        would: at least 5 groups, none with over 30 % of the images, and at least 30 % of the images
        in groups of two or more.
    """
    if dataset.groups is not None or not dataset.provenance.files:
        return None
    return guess_from_names(
        dataset.sample_ids,
        dataset.class_names,
        folders={"folder": 1, "split-folder": 2}.get(dataset.provenance.kind),
    )


def guess_from_names(
    names: Sequence[str], class_names: Sequence[str], *, folders: int | None = None
) -> GroupGuesses | None:
    """`guess_groups` of paths with '/'; `folders` is how many folders say class and split."""
    if len(names) < MIN_IMAGES:
        return None
    found: list[GroupGuess] = []
    below = _sub_folder(names, folders)
    if below is not None:
        found.append(below)
    parsed = [_tokens(name, class_names) for name in names]
    shortest = min(len(tokens) for tokens in parsed)
    dated = False
    for level in range(1, shortest + 1):
        keys = [tuple(tokens[:level]) for tokens in parsed]
        if all(len(tokens) == level for tokens in parsed) and len(set(keys)) == len(keys):
            break  # the whole name: every image stands alone
        if not _plausible(keys) or any(_same_partition(keys, guess.groups) for guess in found):
            continue
        if _dates(parsed, level):
            dated = True
            continue
        regex = _regex(names, parsed, level, keys)
        if regex is not None:
            found.append(GroupGuess(regex, _apply(regex, names)))
    if not found:
        return None
    found.sort(key=lambda guess: guess.number)
    return GroupGuesses(tuple(found), _doubt(found, parsed, dated))


def _doubt(found: Sequence[GroupGuess], parsed: list[list[str]], dated: bool) -> str:
    if len(found) > 1:
        return f"the names can be read in {len(found)} ways"
    if dated:
        return "the names carry dates, which many patients may share"
    if not _LETTERS.search(found[0].regex) and _crossed(found[0].groups, parsed):
        return "each number goes with nearly each other one, as in a grid of tiles or wells"
    return ""


def _tokens(name: str, class_names: Sequence[str]) -> list[str]:
    """Words and numbers of the file's name, without those of its classes: 'p017_03' -> p017, 03."""
    known = {word.casefold() for each in class_names for word in _TOKEN.findall(each)}
    known = {word for word in known if not word.isdecimal()}
    tokens = [token.casefold() for token in _TOKEN.findall(_stem(name))]
    return [token for token in tokens if token not in known]


def _stem(name: str) -> str:
    return PurePosixPath(name).name.partition(".")[0]


def _plausible(keys: Sequence[object]) -> bool:
    """Whether a partition looks like patients: several, none too large, many with repeats."""
    sizes = np.array(list(Counter(keys).values()))
    return bool(
        len(sizes) >= MIN_GROUPS
        and sizes.max() <= LARGEST * len(keys)
        and sizes[sizes > 1].sum() >= REPEATED * len(keys)
    )


def _dates(parsed: list[list[str]], level: int) -> bool:
    """Whether the first `level` tokens differ by a date: 20230412, or 2023, 04, 12."""
    for position in range(level):
        column = {tokens[position] for tokens in parsed}
        if len(column) > 1 or position == level - 1:
            digits = {re.sub(r"^\D+", "", token) for token in column}
            if all(_DATE.fullmatch(each) for each in digits):
                return True
    years = {tokens[p] for tokens in parsed for p in range(level) if _YEAR.fullmatch(tokens[p])}
    return (
        level >= 2
        and bool(years)
        and all(any(_YEAR.fullmatch(token) for token in tokens[:level]) for tokens in parsed)
    )


def _crossed(groups: Sequence[str], parsed: list[list[str]]) -> bool:
    """Whether the last number of the names could be the group as well as the one that was taken.

    Letters right before the taken one (`p017`, `slide3`) say what it is (they are not asked here),
    and so do few values of the last: five pictures of each of forty patients.
    """
    last = [tokens[-1] for tokens in parsed]
    if not all(group.isdecimal() for group in groups) or not _plausible(last):
        return False
    cells = len(set(zip(groups, last, strict=True)))
    if 2 * len(set(last)) < len(set(groups)):
        return False
    return cells >= CROSSED * len(set(groups)) * len(set(last))


def _sub_folder(names: Sequence[str], folders: int | None) -> GroupGuess | None:
    """Folders below the class folders, where every image lies in one."""
    if folders is None or any(len(PurePosixPath(name).parts) < folders + 2 for name in names):
        return None
    regex = "^" + "[^/]+/" * folders + "([^/]+)/"
    groups = _apply(regex, names)
    return GroupGuess(regex, groups) if _plausible(groups) else None


def _regex(
    names: Sequence[str], parsed: list[list[str]], level: int, keys: Sequence[object]
) -> str | None:
    """The simplest pattern that divides the names as the first `level` tokens do, or None."""
    for make in (_after_letters, _after_word, _all_but_last, _first_part):
        regex = make(names, parsed, level)
        if regex is None:
            continue
        found = [re.search(regex, name) for name in names]
        if all(found) and _same_partition(keys, [m.group(1) if m else "" for m in found]):
            return regex
    return None


def _after_letters(names: Sequence[str], parsed: list[list[str]], level: int) -> str | None:
    r"""p(\d+), where the token is a number after letters that all names share."""
    heads = {re.sub(r"\d+$", "", tokens[level - 1]) for tokens in parsed}
    letters = heads.pop() if len(heads) == 1 else ""
    if not letters:
        return None
    written = re.search(rf"{re.escape(letters)}(?=\d)", _stem(names[0]), re.I)
    return None if written is None else _anchored(rf"{re.escape(written[0])}(\d+)", names)


def _after_word(names: Sequence[str], parsed: list[list[str]], level: int) -> str | None:
    r"""BloodImage_(\d+), where the token is a number after a word that all names share."""
    if level < 2 or len({tokens[level - 2] for tokens in parsed}) > 1:
        return None
    if not all(tokens[level - 1].isdecimal() for tokens in parsed):
        return None
    word = re.escape(parsed[0][level - 2])
    written = re.search(rf"{word}[\W_]+(?=\d)", _stem(names[0]), re.I)
    return None if written is None else _anchored(rf"{re.escape(written[0])}(\d+)", names)


def _anchored(regex: str, names: Sequence[str]) -> str:
    """The pattern, bound to the file's name where it also fits a folder's or inside a word."""
    once = all(len(re.findall(regex, name)) == 1 for name in names)
    return regex if once else rf"(?:/|^|[\W_]){regex}[^/]*$"


def _all_but_last(names: Sequence[str], parsed: list[list[str]], level: int) -> str | None:
    r"""([^/]+)_[^/_]*$, where images of a group differ after the last separator only."""
    signs = {re.sub(r"[^\W_]", "", _stem(name))[-1:] for name in names}
    if len(signs) > 1 or "" in signs:
        return None
    sign = signs.pop()
    return rf"([^/]+){_literal(sign)}[^/{_in_set(sign)}]*$"


def _first_part(names: Sequence[str], parsed: list[list[str]], level: int) -> str | None:
    r"""([^/_]+)_[^/]*$, where what stands before the first separator is the group."""
    signs = {re.sub(r"[^\W_]", "", _stem(name))[:1] for name in names}
    if len(signs) > 1 or "" in signs:
        return None
    sign = signs.pop()
    return rf"(?:^|/)([^/{_in_set(sign)}]+){_literal(sign)}[^/]*$"


def _literal(sign: str) -> str:
    return sign if sign in "-_ " else re.escape(sign)


def _in_set(sign: str) -> str:
    """The sign as the last of a set [^/…]: only these four mean something there."""
    return f"\\{sign}" if sign in "^]\\[" else sign


def _apply(regex: str, names: Sequence[str]) -> tuple[str, ...]:
    found = [re.search(regex, name) for name in names]
    return tuple(match.group(1) if match else "" for match in found)


def _same_partition(first: Sequence[object], second: Sequence[object]) -> bool:
    """Whether two columns put the same rows together."""
    both = len(set(zip(first, second, strict=True)))
    return both == len(set(first)) == len(set(second))

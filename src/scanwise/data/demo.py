"""demo:cells, the built-in data: synthetic pictures of stained cells in four look-alike classes.

They are made, not photographed, and named by the form of the nucleus, so that nobody takes them for
a diagnosis. Every slide has its own stain and light, one class is four times as common as another,
the classes overlap, and a few labels are wrong: what real collections are like.
"""

from __future__ import annotations

import io
import os
import shlex
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from scanwise.core.errors import DataError, nearest
from scanwise.core.files import sha256_bytes
from scanwise.core.types import Dataset, Finding, Provenance, Unreadable
from scanwise.data.smear import KINDS, SHARES, objectives, paint_cells

_MAX_BYTES = 2 * 2**30
_MIN_CELLS_A_SLIDE = 5
# Key: type, least, most.
_RANGES: dict[str, tuple[type[int] | type[float], float, float]] = {
    "n": (int, 60, 100_000),
    "noise": (float, 0.0, 0.5),
    "slides": (int, 1, 1000),
    "size": (int, 16, 512),
    "seed": (int, 0, 2**31 - 1),
    "broken": (int, 0, 1000),
}
_BROKEN_REASONS = (
    "is truncated (the end of the PNG is missing)",
    "is empty (0 bytes)",
    "is a text file, not an image",
)
_README = """These pictures are synthetic: scanwise made them ({spec}).
They show no real cells, come from no patient and mean nothing medically.
The folder names the class; the file name begins with the slide, so group by it:
    scanwise train {folder} --group-regex '(slide\\d+)'
"""


@dataclass(frozen=True)
class DemoSpec:
    """What "demo:cells?key=value&…" asks for; these are the keys and their defaults."""

    n: int = 1500  # readable images
    noise: float = 0.02  # share of wrong labels
    slides: int = 250  # fewer where n is small: at least 5 cells a slide
    size: int = 48  # side in px
    seed: int = 0
    broken: int = 0  # files besides the n that can't be read

    def __str__(self) -> str:
        return "demo:cells?" + "&".join(f"{key}={getattr(self, key):.10g}" for key in _RANGES)


def parse_demo(spec: str) -> DemoSpec:
    """Read "demo:cells" or "demo:cells?n=1200&noise=0.02&slides=12&size=48&seed=0&broken=3".

    Raises:
        DataError: If the name or a key is unknown, a key comes twice, or a value is out of range.
    """
    name, _, query = spec.removeprefix("demo:").partition("?")
    if name != "cells":
        raise DataError(f"there is no demo '{name}'; {nearest(name, ['cells'])}")
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError as error:
        raise DataError(f"'{spec}' must read demo:cells?key=value&key=value.") from error
    values: dict[str, int | float] = {}
    for key, text in pairs:
        if key not in _RANGES:
            raise DataError(f"demo:cells has no '{key}'; {nearest(key, _RANGES)}")
        if key in values:
            raise DataError(f"'{spec}' gives '{key}' twice.")
        values[key] = _value(key, text)
    values.setdefault(
        "slides", min(DemoSpec.slides, int(values.get("n", DemoSpec.n)) // _MIN_CELLS_A_SLIDE)
    )
    parsed = DemoSpec(**values)  # type: ignore[arg-type]  # _value gives each key its type
    if parsed.slides * _MIN_CELLS_A_SLIDE > parsed.n:
        raise DataError(
            f"{parsed.n} cells on {parsed.slides} slides are under {_MIN_CELLS_A_SLIDE} a slide; "
            f"use slides={parsed.n // _MIN_CELLS_A_SLIDE} at most, or a larger n."
        )
    num_bytes = parsed.n * parsed.size**2 * 3
    if num_bytes > _MAX_BYTES:
        raise DataError(
            f"n={parsed.n} pictures of size={parsed.size} take {num_bytes / 2**30:.1f} GiB; at "
            f"this size use n={_MAX_BYTES // (parsed.size**2 * 3)} at most."
        )
    return parsed


def _value(key: str, text: str) -> int | float:
    kind, least, most = _RANGES[key]
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not least <= value <= most:
        what = "a whole number" if kind is int else "a number"
        raise DataError(f"demo:cells: {key}={text} is not {what} from {least:g} to {most:.10g}.")
    return value


# --- In memory ------------------------------------------------------------------------------------


def load_demo(spec: str = "demo:cells") -> Dataset:
    """Make the demo data; the same spec gives the same pixels.

    Args:
        spec: See `parse_demo` and `DemoSpec`.

    Returns:
        RGB images, uint8 (n, size, size, 3), grouped by slide, of the classes folded 17 %,
        granular 10 %, round 28 % and segmented 45 % (before labels were made wrong).

    Raises:
        DataError: If the spec is wrong.
    """
    asked = parse_demo(spec)
    layout = _lay_out(asked)
    images = paint_cells(layout.kinds, layout.slides, size_px=asked.size, seed=asked.seed)
    slide_names = _slide_names(asked)
    of_slide = objectives(asked.slides, asked.seed)
    return Dataset(
        name="cells",
        images=images,
        targets=layout.targets,
        class_names=KINDS,
        sample_ids=tuple(f"cells#{row}" for row in range(asked.n)),
        sha256=tuple(sha256_bytes(image.data) for image in images),
        groups=tuple(slide_names[i] for i in layout.slides),
        metadata={
            "slide": tuple(slide_names[i] for i in layout.slides),
            "objective": tuple(of_slide[i] for i in layout.slides),
        },
        original_sizes=np.full((asked.n, 2), asked.size, np.int64),
        unreadable=tuple(
            Unreadable(path, path.partition("/")[0], _BROKEN_REASONS[i % len(_BROKEN_REASONS)])
            for i, path in enumerate(_broken_paths(asked))
        ),
        notes=(_note(asked),),
        provenance=Provenance(
            source=spec,
            kind="demo",
            licence="synthetic (made by scanwise)",
            citation="None: the pictures were generated and show no real cells.",
            synthetic=True,
        ),
    )


def demo_truth(spec: str = "demo:cells") -> NDArray[np.int64]:
    """True classes of the demo's images, before some labels were made wrong; int (n,)."""
    return _lay_out(parse_demo(spec)).kinds


def _note(asked: DemoSpec) -> Finding:
    return Finding(
        code="N001",
        severity="info",
        evidence=f"these {asked.n} images are synthetic: scanwise painted them ({asked}). About "
        f"{100 * asked.noise:g} % of the labels are wrong on purpose.",
        advice="Use them to try scanwise and to compare methods; no score on them says anything "
        "about real cells.",
    )


@dataclass(frozen=True, eq=False)
class _Layout:
    """What each picture shows and is said to show; int (n,) each."""

    kinds: NDArray[np.int64]
    slides: NDArray[np.int64]
    targets: NDArray[np.int64]


def _lay_out(asked: DemoSpec) -> _Layout:
    """Deal classes, slides and wrong labels, in random order."""
    rng = np.random.default_rng([asked.seed, 0])
    counts = _class_counts(asked.n)
    kinds = np.repeat(np.arange(len(KINDS)), counts)
    busy = _spread(rng, asked.slides, 0.25)
    slides = np.concatenate(
        [_over_slides(count, busy * _spread(rng, asked.slides, 0.2), rng) for count in counts]
    )
    order = rng.permutation(asked.n)
    kinds, slides = kinds[order], slides[order]
    wrong = rng.permutation(asked.n)[: round(asked.noise * asked.n)]
    targets = kinds.copy()
    targets[wrong] = (targets[wrong] + rng.integers(1, len(KINDS), len(wrong))) % len(KINDS)
    return _Layout(kinds, slides, targets)


def _class_counts(n: int) -> NDArray[np.int64]:
    """n divided by `SHARES`, the remainder going to the largest fractions."""
    exact = np.array(SHARES) * n
    counts = np.floor(exact + 1e-9).astype(np.int64)
    counts[np.argsort(counts - exact, kind="stable")[: n - counts.sum()]] += 1
    return counts


def _spread(rng: np.random.Generator, num: int, sigma: float) -> NDArray[np.float64]:
    """Log-normal factors around 1, cut at two sigma so that no slide is left empty."""
    factors: NDArray[np.float64] = np.exp(sigma * np.clip(rng.standard_normal(num), -2, 2))
    return factors


def _over_slides(
    count: int, weights: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Systematic sampling: `count` slide numbers, each slide in proportion to its weight."""
    edges = np.cumsum(weights / weights.sum())
    at = (np.arange(count) + rng.random()) / count
    return np.minimum(np.searchsorted(edges, at, side="right"), len(weights) - 1)


def _slide_names(asked: DemoSpec) -> list[str]:
    """Names slide01 and so on: as many digits as the last one has, two at least."""
    digits = max(2, len(str(asked.slides)))
    return [f"slide{i + 1:0{digits}}" for i in range(asked.slides)]


def _broken_paths(asked: DemoSpec) -> list[str]:
    """Relative paths of the unreadable files, numbered after the readable ones."""
    rng = np.random.default_rng([asked.seed, 2])
    names, digits = _slide_names(asked), _row_digits(asked)
    return [
        f"{KINDS[rng.integers(len(KINDS))]}/{names[rng.integers(asked.slides)]}_{row:0{digits}}.png"
        for row in range(asked.n, asked.n + asked.broken)
    ]


def _row_digits(asked: DemoSpec) -> int:
    return max(4, len(str(asked.n + asked.broken - 1)))


# --- As a folder ----------------------------------------------------------------------------------


def write_demo_folder(
    directory: Path, spec: str = "demo:cells", *, force: bool = False
) -> dict[str, int | str]:
    """Write the demo as class folders of PNG files, pixels and labels as `load_demo` gives them.

    File names begin with the slide (`round/slide03_0012.png`). The folder appears when it is
    complete, or not at all.

    Args:
        directory: New or empty folder.
        spec: See `parse_demo`; `broken` files are truncated, empty or text.
        force: Replace a demo that was written here before; anything else is never deleted.

    Returns:
        What was written: images, classes, slides, broken files, side in px, spec.

    Raises:
        DataError: If the spec is wrong or the folder holds something else.
    """
    asked = parse_demo(spec)
    _refuse_occupied(directory, force)
    dataset = load_demo(spec)
    with _new_folder(directory) as folder:
        for name in KINDS:
            (folder / name).mkdir()
        (folder / "README.txt").write_text(
            _README.format(spec=asked, folder=shlex.quote(directory.name)),
            encoding="utf-8",
            newline="\n",
        )
        digits = _row_digits(asked)
        for row, image in enumerate(dataset.images):
            slide, label = dataset.metadata["slide"][row], KINDS[dataset.targets[row]]
            (folder / label / f"{slide}_{row:0{digits}}.png").write_bytes(_png(image))
        for i, path in enumerate(_broken_paths(asked)):
            (folder / path).write_bytes(_broken_bytes(i, dataset.images[i % asked.n]))
    return {
        "images": asked.n,
        "classes": len(KINDS),
        "slides": len(set(dataset.metadata["slide"])),
        "broken": asked.broken,
        "size_px": asked.size,
        "spec": str(asked),
    }


def _png(image: NDArray[np.uint8]) -> bytes:
    """The picture as PNG bytes that say where it came from."""
    info = PngInfo()
    info.add_text("Comment", "Synthetic picture made by scanwise; shows no real cell.")
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, format="PNG", pnginfo=info)
    return stream.getvalue()


def _broken_bytes(i: int, image: NDArray[np.uint8]) -> bytes:
    """Contents of the i-th unreadable file, in the order of `_BROKEN_REASONS`."""
    whole = _png(image)
    return (whole[: len(whole) // 3], b"", b"This file was meant to be a picture.\n")[i % 3]


def _refuse_occupied(directory: Path, force: bool) -> None:
    """DataError unless the folder is free, or holds an earlier demo and may be replaced."""
    if not directory.exists():
        return
    if not directory.is_dir():
        raise DataError(f"{directory} is a file; name a new folder for the demo.")
    found = sorted(entry.name for entry in directory.iterdir())
    if not found:
        return
    if not force:
        raise DataError(f"{directory} is not empty; name a new folder, or replace it with --force.")
    readme = directory / "README.txt"
    ours = readme.is_file() and readme.read_bytes().startswith(_README.encode()[:28])
    foreign = sorted(set(found) - {*KINDS, readme.name})
    if foreign or not ours:
        raise DataError(
            f"{directory} holds other things than a demo ({', '.join((foreign or found)[:5])}), "
            "which are not deleted; name a new folder."
        )


@contextmanager
def _new_folder(directory: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `directory` that takes its place when the block succeeds."""
    directory = directory.absolute()
    directory.parent.mkdir(parents=True, exist_ok=True)
    workplace = Path(tempfile.mkdtemp(dir=directory.parent, prefix=f".{directory.name}."))
    new, old = workplace / "new", workplace / "old"
    try:
        new.mkdir()
        yield new
        if directory.exists():
            os.replace(directory, old)
        os.replace(new, directory)
    finally:
        shutil.rmtree(workplace, ignore_errors=True)

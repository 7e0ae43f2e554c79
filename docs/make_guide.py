"""Regenerate what the guide and the tutorials show: `make docs`, or `make_guide.py --check`.

A block of a page is an HTML comment that names its source, and what follows it:

    <!-- run: scanwise train ...      the command, run in a scratch folder; then a fence
    show: REGEX                       only the output's lines that match; gaps become "…"
    about -->                         learned numbers: other CPUs may differ a little
                                      (or `form`: only the words must be the same, no number;
                                      of Python the number of lines)
    <!-- file: runs/x/report.md       lines of a file that an earlier block made; then a fence
    show: REGEX -->
    <!-- table: NAME -->              made by the function of that name, up to <!-- end -->
    <!-- python -->                   a fence of Python, run after what stands above it; then a
                                      fence of what it prints

Blocks of a page run in order in one folder, a command once. A block whose new output agrees with
the old (`differences`) is left as it is, so that times and last digits do not change the file on
every machine (`--anew` writes all). Folders that only some machines have are linked into the
scratch folder; blocks that need an absent one are kept.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

GUIDE = Path(__file__).with_name("guide.md")
PAGES = (GUIDE, *sorted(GUIDE.with_name("tutorials").glob("*.md")))
# Name in the guide -> place under the folder of real images (SCANWISE_SHARED).
LINKS = {
    "bccd_287": "data/folders/bccd_287",
    "mobilenet_v2_imagenet": "weights/mobilenet_v2_imagenet",
}
BLOCK = re.compile(
    r"<!-- (?P<kind>run|file|table|python)(?:: (?P<what>[^\n]*?))?(?P<more>(?:\n[^\n]*?)*?) -->\n"
    r"(?:```console\n(?P<fence>.*?)\n```\n"
    r"|```python\n(?P<code>.*?)\n```\n```text\n(?P<said>.*?)\n```\n"
    r"|(?P<table>(?:(?!<!--).)*?)<!-- end -->\n)",
    re.DOTALL,
)
EPOCH_LINE = re.compile(
    r"\d+/\d+ - \S+ - loss: \S+ - accuracy: \S+ - val_loss: \S+ - val_accuracy: \S+ - lr: \S+"
    r" - \S+/epoch - \S+ms/step"
)
NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e[-+]?\d+)?")
# What depends on the machine and the hour: times, and the device.
TIMED = re.compile(r"ETA: [\dhms ]+|- \d+s(?:/epoch)?|\d+ms/step|, on (?:cpu|cuda|mps).*")
NEAR = 0.3  # learned scores lie between 0 and 1; losses of these runs near 1
SCORES = re.compile(r"On \d|  (?:accuracy|balanced accuracy) ")
FINDING = re.compile(r"\*\*([A-Z]\d{3}) ")


@dataclass(frozen=True)
class Block:
    """One generated part of a page."""

    kind: str
    what: str  # the command, file or table; of Python its source
    show: str
    about: bool
    text: str  # between the fence's lines, or the table
    form: bool = False

    @property
    def needs(self) -> tuple[str, ...]:
        """Linked folders that the command reads."""
        return tuple(name for name in LINKS if name in self.what)


def read_block(match: re.Match[str]) -> Block:
    more = match["more"].split("\n")[1:]
    show = next((line[6:] for line in more if line.startswith("show: ")), "")
    text = next(text for text in map(match.group, ("fence", "said", "table")) if text is not None)
    what = match["code"] or match["what"]
    return Block(match["kind"], what, show, "about" in more, text, "form" in more)


def blocks(guide: str) -> list[Block]:
    """The generated blocks of a page, in order."""
    return [read_block(match) for match in BLOCK.finditer(guide)]


@dataclass
class Maker:
    """Makes blocks in one scratch folder; remembers the output of every command."""

    folder: Path
    shared: Path | None = None
    outputs: dict[str, str] = field(default_factory=dict)
    names: dict[str, object] = field(default_factory=dict)  # of the page's Python

    def __post_init__(self) -> None:
        for name, place in LINKS.items():
            if self.shared is not None and (self.shared / place).is_dir():
                (self.folder / name).symlink_to(self.shared / place)

    def can_make(self, block: Block) -> bool:
        return all((self.folder / name).exists() for name in block.needs)

    def make(self, block: Block) -> str:
        """The block's text as the tool gives it now."""
        if block.kind == "table":
            return TABLES[block.what]()
        if block.kind == "file":
            lines = (self.folder / block.what).read_text(encoding="utf-8")
            return f"{block.what}:\n{chosen_lines(lines, block.show)}"
        if block.kind == "python":
            return run_python(block.what, self.folder, self.names)
        if block.what not in self.outputs:
            self.outputs[block.what] = run(block.what, self.folder)
        return f"$ {block.what}\n{chosen_lines(self.outputs[block.what], block.show)}"


def run(command: str, folder: Path) -> str:
    """What `command` prints in `folder`, both streams together; an exit code other than 0 too."""
    from scanwise.cli import main

    program, *words = shlex.split(command)
    if program != "scanwise":
        raise ValueError(f"a page may only run scanwise, not {program}")
    said = io.StringIO()
    with (
        contextlib.chdir(folder),
        contextlib.redirect_stdout(said),
        contextlib.redirect_stderr(said),
    ):
        try:
            main(words)
        except SystemExit as done:
            if done.code:
                said.write(f"exit code {done.code}\n")
    return said.getvalue()


def run_python(source: str, folder: Path, names: dict[str, object]) -> str:
    """What the code writes to stdout; names that it defines are kept for the next block."""
    said = io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(said):
        exec(compile(source, "<page>", "exec"), names)
    return said.getvalue().strip("\n")


def chosen_lines(text: str, pattern: str) -> str:
    """The lines that match, with "…" for those left out between them.

    The line of an epoch is chosen by its heading: "^Epoch 5/" shows both.
    """
    kept: list[str] = []
    gap, before = False, ""
    for line in text.strip("\n").split("\n"):
        if re.search(pattern, f"{before} {line}" if EPOCH_LINE.fullmatch(line) else line):
            if gap and kept:
                kept.append("…")
            kept.append(line.rstrip())
            gap = False
        elif line.strip():
            gap = True
        before = line
    return "\n".join(kept)


def differences(block: Block, new: str) -> list[str]:
    """Lines that no longer say what the guide says; times are never compared.

    All must be equal; in `form` blocks but for numbers. In `about` blocks losses and scores may
    differ by NEAR, the kept epoch at will, and of the findings at least one must be found again.
    """
    old_lines, new_lines = ([TIMED.sub("", x) for x in t.split("\n")] for t in (block.text, new))
    if block.form and block.kind == "python":
        old_lines, new_lines = ([""] * len(lines) for lines in (old_lines, new_lines))
    elif block.form:
        old_lines, new_lines = (_words(lines) for lines in (old_lines, new_lines))
    if not block.about:
        return [] if old_lines == new_lines else [f"{block.what}:\n{block.text}\n  is now\n{new}"]
    old_left, new_left = (
        [line for line in lines if line != "…" and not line.startswith("all ")]
        for lines in (old_lines, new_lines)
    )
    codes = set(FINDING.findall(block.text))
    if codes and not codes & set(FINDING.findall(new)):
        return [f"{block.what}: none of {sorted(codes)} is found any more:\n{new}"]
    old_left, new_left = (
        [line for line in lines if not FINDING.search(line)] for lines in (old_left, new_left)
    )
    if len(old_left) != len(new_left):
        return [f"{block.what}: other lines:\n{block.text}\n  are now\n{new}"]
    pairs = zip(old_left, new_left, strict=True)
    return [f"{a}\n  is now\n{b}" for a, b in pairs if not agree(a, b)]


def _words(lines: list[str]) -> list[str]:
    """Lines without their numbers, but the command's; cautions come and go with the numbers."""
    return [
        line if line.startswith("$ ") else _without_numbers(line)
        for line in lines
        if not re.match(r"\s*(?:\* under|caution:)", line)
    ]


def _without_numbers(line: str) -> str:
    line = re.sub(r"(copied into \w+): .* \(", r"\1 (", line)  # which folders is learned
    return " ".join(re.sub(r"[-+<]?#|[*±]", " ", NUMBER.sub("#", line)).split())


def agree(old: str, new: str) -> bool:
    """True if two lines are equal, or of one form with learned numbers that are near."""
    if old == new:
        return True
    learned = " - loss: " in old or SCORES.match(old)
    if not learned or NUMBER.sub("#", old) != NUMBER.sub("#", new):
        return False
    return all(
        abs(float(a) - float(b)) <= (NEAR if "." in a else 0)
        for a, b in zip(NUMBER.findall(old), NUMBER.findall(new), strict=True)
    )


def regenerate(guide: str, maker: Maker, *, anew: bool = False) -> tuple[str, list[str]]:
    """The page with its stale blocks (or all, `anew`) made again, and what was stale."""
    stale: list[str] = []

    def renew(match: re.Match[str]) -> str:
        block = read_block(match)
        if not maker.can_make(block):
            return match[0]
        new = maker.make(block)
        found = differences(block, new)
        if not found and not anew:
            return match[0]
        stale.extend(found)
        head = match[0][: match[0].index(" -->\n") + 5]
        if block.kind == "table":
            return f"{head}{new}<!-- end -->\n"
        if block.kind == "python":
            return f"{head}```python\n{block.what}\n```\n```text\n{new}\n```\n"
        return f"{head}```console\n{new}\n```\n"

    return BLOCK.sub(renew, guide), stale


# Tables


def presets() -> str:
    """The plan's choices by size of the data set, from make_plan itself."""
    from scanwise.core.config import TrainConfig
    from scanwise.pipeline.plan import DataFacts, make_plan

    columns = {
        "under 100 images": DataFacts(90, 63, 10, True, pretrained=True),
        "100 to 1000, a class has under 100": DataFacts(500, 350, 60, True, pretrained=True),
        "100 to 1000, every class has 100": DataFacts(1000, 700, 150, True, pretrained=True),
        "over 1000": DataFacts(5000, 3500, 500, True, pretrained=True),
        "pretrained, no preset, 500 images": DataFacts(500, 350, 60, True, pretrained=True),
        "from random weights, 500 images": DataFacts(500, 350, 60, True),
    }
    auto, plain = TrainConfig(preset="auto"), TrainConfig()
    wanted = [auto] * 4 + [plain] * 2
    plans = [make_plan(*each)[0] for each in zip(wanted, columns.values(), strict=True)]
    settings = (
        "epochs", "batch_size", "lr", "dropout", "augment", "class_weights", "scheduler",
        "patience", "head", "levels", "finetune", "views",
    )  # fmt: skip
    rows = [f"| Setting | {' | '.join(columns)} |", "|---|" + "---|" * len(columns)]
    for name in settings:
        values = [getattr(plan, name) for plan in plans]
        cells = ["–" if value is None else str(value) for value in values]
        rows.append(f"| `--{name.replace('_', '-')}` | {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def augmentation() -> str:
    """Each strength with the ranges that it applies."""
    from scanwise.prepare.augment import PRESETS

    rows = ["| `--augment` | What each training image may get |", "|---|---|"]
    rows += [f"| `{name}` | {preset.describe()} |" for name, preset in PRESETS.items()]
    return "\n".join(rows) + "\n"


def class_weights() -> str:
    """The two lines that a training prints for 36, 91 and 160 training images."""
    import numpy as np

    from scanwise.prepare.balance import class_weights as weights_of
    from scanwise.prepare.balance import describe_class_weights

    counts = np.array([36, 91, 160])
    lines = describe_class_weights(counts, weights_of(counts, "balanced", ("a", "b", "c")))
    return "```text\n" + "\n".join(lines) + "\n```\n"


TABLES: dict[str, Callable[[], str]] = {
    "presets": presets,
    "augmentation": augmentation,
    "class weights": class_weights,
}


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder with a cache of its own, no network, no settings from the environment."""
    for name in [name for name in os.environ if name.startswith("SCANWISE_")]:
        if name != "SCANWISE_SHARED":
            del os.environ[name]
    with tempfile.TemporaryDirectory() as name:
        os.environ |= {"SCANWISE_OFFLINE": "1", "SCANWISE_CACHE": str(Path(name) / "cache")}
        work = Path(name) / "work"
        work.mkdir()
        yield work


def main() -> None:
    """`make_guide.py [--check | --anew] [PAGE…]`: all pages, or those named."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # sums depend on the number of threads
    shared = os.environ.get("SCANWISE_SHARED", str(GUIDE.parents[2] / "shared"))
    named = [Path(word).resolve() for word in sys.argv[1:] if not word.startswith("--")]
    found = False
    for page in named or PAGES:
        with scratch() as folder:
            made, stale = regenerate(
                page.read_text(encoding="utf-8"),
                Maker(folder, Path(shared)),
                anew="--anew" in sys.argv[1:],
            )
        found = found or bool(stale)
        for item in stale:
            sys.stdout.write(f"{page.name}: stale: {item}\n")
        if "--check" not in sys.argv[1:]:
            page.write_text(made, encoding="utf-8", newline="\n")
    if "--check" in sys.argv[1:]:
        sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()

"""`scanwise benchmark`: our runs beside published results, on the official split and nowhere else.

✔ stands only where the whole 95 % interval lies above the published value, ✘ where it lies below,
= where neither can be said. A model without skill gets no mark, whatever its score.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from scanwise.core import downloads
from scanwise.core.config import TrainConfig
from scanwise.core.errors import ConfigError, DataError, RunError
from scanwise.core.types import Interval
from scanwise.data.medmnist import fetch, find_medmnist, medmnist_download
from scanwise.data.medmnist_table import MEDMNIST, SIZES_PX
from scanwise.data.published import Published, published_results, published_sources
from scanwise.metrics.seeds import seed_spread
from scanwise.pipeline.tables import aligned
from scanwise.report.verdict import as_interval, trivial_value, trivial_words
from scanwise.studies.comparing import mean_score
from scanwise.studies.run_set import Method, RunEntry, group_runs

Mark = Literal["✔", "✘", "=", ""]
METRICS: tuple[Literal["ACC", "AUC"], ...] = ("ACC", "AUC")
SAME = 1e-6  # two ways to compute one number; they sum in another order


@dataclass(frozen=True)
class Line:
    """One published method on one data set, beside ours."""

    source: str
    method: str
    data_px: int | None
    values: dict[str, Published]  # by "ACC" and "AUC"
    marks: dict[str, Mark]


@dataclass(frozen=True, eq=False)
class Board:
    """One of our methods on one official test split."""

    flag: str
    size_px: int
    method: Method
    scores: dict[str, Interval]  # by "ACC" and "AUC"
    lines: tuple[Line, ...]

    @property
    def run(self) -> RunEntry:
        return self.method.runs[0]

    @property
    def n(self) -> int:
        return len(self.run.test_rows())

    def to_json(self) -> dict[str, Any]:
        facts = self.run.files.dataset
        return {
            "dataset": self.flag,
            "size_px": self.size_px,
            "split": "test",
            "split_origin": "official",
            "verified": facts.get("verified"),
            "n": self.n,
            "method": self.method.name,
            "runs": [run.name for run in self.method.runs],
            "seeds": len(self.method.runs),
            "verdict": worst_verdict(self.method),
            "leaky": bool(self.run.files.metrics.get("leaky")),
            "majority_accuracy": trivial_value(self.run.test or {}, "accuracy"),
            **{metric: self.scores[metric].to_json() for metric in METRICS},
            "published": [_line_json(line) for line in self.lines],
        }


@dataclass(frozen=True, eq=False)
class Leaderboard:
    """Every comparison that may be made, and why others may not."""

    boards: tuple[Board, ...]
    refused: tuple[tuple[str, str], ...]  # run, reason
    missing: tuple[str, ...] = ()  # data sets that are not at hand

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": 1,
            "medical_device": False,
            "boards": [board.to_json() for board in self.boards],
            "not_compared": [{"run": run, "reason": why} for run, why in self.refused],
            "missing_data": list(self.missing),
        }


def leaderboard(runs: Sequence[RunEntry], missing: Sequence[str] = ()) -> Leaderboard:
    """Put runs beside what was published on the same data at the same size.

    Raises:
        RunError: If none of the runs may be compared; with the reason of each.
    """
    reasons = {run.name: why_not(run) for run in runs}
    refused = tuple((name, why) for name, why in reasons.items() if why)
    usable = [run for run in runs if not reasons[run.name]]
    if not usable:
        listed = "; ".join(f"{name}: {why}" for name, why in refused)
        raise RunError(f"nothing can be compared with published results. {listed}.")
    boards = tuple(
        _board(method)
        for data in group_runs(usable)
        for part in data.test_sets
        for method in part.methods
    )
    return Leaderboard(boards, refused, tuple(missing))


def why_not(run: RunEntry) -> str:
    """Why a run may not stand beside published results; '' where it may."""
    facts = run.files.dataset
    flag, split = facts.get("benchmark"), facts.get("split") or {}
    if not run.is_finished:
        return "the run was interrupted; `scanwise train --resume RUN` finishes it"
    if flag not in MEDMNIST:
        name = facts.get("name") or "its data"
        return f"{name} is not one of the official MedMNIST sets (a subset is another test)"
    if split.get("origin") != "official":
        return f"it was split anew ({split.get('origin')}); only the official split counts"
    if run.test is None:
        return "test was not opened; `scanwise evaluate RUN` scores it"
    expected = MEDMNIST[flag].num_images[2]
    if len(run.test_rows()) != expected:
        return f"{len(run.test_rows()):,} test images, the official split has {expected:,}"
    return ""


def _board(method: Method) -> Board:
    run = method.runs[0]
    facts = run.files.dataset
    flag, size_px = str(facts["benchmark"]), int(facts["image"]["height"])
    scores: dict[str, Interval] = {m: official_score(method, m) for m in METRICS}
    lines = tuple(_lines(flag, size_px, scores, marked_metrics(method)))
    return Board(flag, size_px, method, scores, lines)


def marked_metrics(method: Method) -> tuple[str, ...]:
    """The metrics for which a mark may stand: none without skill.

    Of several rare labels nearly all models say 'none' at 0.5 (collapsed); their ACC is that of the
    answer 'none', but their ranking is judged by itself.
    """
    if method.is_sound:
        return METRICS
    multilabel = method.runs[0].test_rows().task == "multilabel"
    lows = [run.score("auroc_macro").low or 0.0 for run in method.runs]
    only_ranks = {run.verdict for run in method.runs} <= {"ok", "collapsed"} and min(lows) > 0.5
    return ("AUC",) if multilabel and only_ranks else ()


def official_score(method: Method, metric: Literal["ACC", "AUC"]) -> Interval:
    """MedMNIST's own number with the interval of ours, where both are one quantity.

    ACC of several labels is the share of right labels. Without an interval where the two numbers
    differ (of two classes a probability of exactly 0.5, say).
    """
    multilabel = method.runs[0].test_rows().task == "multilabel"
    ours = "auroc_macro" if metric == "AUC" else "label_accuracy" if multilabel else "accuracy"
    theirs = [
        as_interval((run.test or {}).get(f"medmnist_{metric.lower()}")) for run in method.runs
    ]
    values = [score.value for score in theirs if score.value is not None]
    if len(values) < len(theirs):
        return Interval(None, reason=theirs[0].reason or "not measured")
    official = sum(values) / len(values)
    found = mean_score(method, ours)
    if found.value is None or not math.isclose(found.value, official, abs_tol=SAME):
        return Interval(official, reason=f"no interval: {ours} is {found}, another quantity here")
    return found


def _lines(
    flag: str, size_px: int, scores: dict[str, Interval], marked: tuple[str, ...]
) -> Iterator[Line]:
    """Published methods on this set at this size, or of a size that their source does not say."""
    methods: dict[tuple[str, str, int | None], dict[str, Published]] = {}
    for row in published_results():
        if row.dataset == flag and row.data_px in (size_px, None):
            methods.setdefault((row.source, row.method, row.data_px), {})[row.metric] = row
    for (source, method, data_px), values in methods.items():
        marks = {
            metric: mark(scores[metric], row) if metric in marked else ""
            for metric, row in values.items()
        }
        yield Line(source, method, data_px, values, marks)


def mark(ours: Interval, published: Published) -> Mark:
    """✔ where our whole interval lies above the published value, ✘ below, = neither; '' not told.

    The published value is taken as it is printed; its own uncertainty is not published.
    """
    if not published.is_comparable or ours.low is None or ours.high is None:
        return ""
    if ours.low > published.value:
        return "✔"
    return "✘" if ours.high < published.value else "="


def worst_verdict(method: Method) -> str:
    """The worst `skill` among the seeds."""
    order = ("collapsed", "no_skill", "not measured", "ok")
    return min((run.verdict for run in method.runs), key=order.index)


def _line_json(line: Line) -> dict[str, Any]:
    source = published_sources()[line.source]
    return {
        "source": line.source,
        "reference": source.reference,
        "method": line.method,
        "data_px": line.data_px,
        "seeds": source.seeds,
        "selected_on": source.selected_on,
        **{
            metric: {"value": row.value, "sd": row.sd, "mark": line.marks[metric], "note": row.note}
            for metric, row in line.values.items()
        },
    }


# What to train.


@dataclass(frozen=True)
class Asked:
    """What the command line asks for: finished runs, data to train on, and what is not at hand."""

    runs: tuple[Path, ...]
    data: tuple[str, ...]
    missing: tuple[str, ...]


def sort_out(words: Sequence[str], size_px: int | None) -> Asked:
    """Tell runs from data, and see that all data are there before anything is trained.

    "medmnist:*" stands for the official sets in the cache; the others are named as missing.

    Raises:
        DataError: An unknown name, or a set that is neither in the cache nor can be downloaded.
        ConfigError: A size that MedMNIST does not have.
    """
    size = 28 if size_px is None else size_px
    if size not in SIZES_PX:
        raise ConfigError(f"size={size}: MedMNIST has {', '.join(map(str, SIZES_PX))} px.")
    runs, data, missing = [], [], []
    for word in words:
        scheme, _, name = word.partition(":")
        if scheme == "medmnist" and name.partition("@")[0] == "*":
            side = _side(word, size_px)
            there = [flag for flag in MEDMNIST if _in_cache(flag, side)]
            data += [f"medmnist:{flag}@{side}" for flag in there]
            missing += [f"{flag}@{side}" for flag in MEDMNIST if flag not in there]
        elif scheme == "medmnist":
            side, entry = _side(word, size_px), find_medmnist(name.partition("@")[0])
            fetch(entry, side)
            data.append(f"medmnist:{entry.flag}@{side}")
        elif word.lower().endswith(".npz"):
            if not Path(word).is_file():
                raise DataError(f"{word} does not exist; give an official file, or medmnist:NAME.")
            data.append(word)
        else:
            runs.append(Path(word))
    if not runs and not data:
        raise DataError(
            f"no MedMNIST set at {size} px is in the cache; name one (medmnist:breastmnist) to "
            "download it."
        )
    return Asked(tuple(runs), tuple(data), tuple(missing))


def _side(word: str, size_px: int | None) -> int:
    """The size that "medmnist:NAME@SIZE" or --size asks for."""
    _, at, side = word.partition("@")
    if not at:
        return size_px or 28
    if not side.isdecimal() or int(side) not in SIZES_PX:
        sizes = ", ".join(map(str, SIZES_PX))
        raise DataError(f"{word}: '@{side}' is no size of MedMNIST; choose one of {sizes}.")
    if size_px is not None and int(side) != size_px:
        raise ConfigError(f"{word} asks for {side} px, but --size is {size_px}.")
    return int(side)


def _in_cache(flag: str, side: int) -> bool:
    return downloads.cached(medmnist_download(MEDMNIST[flag], side)) == "verified"


def train_all(data: Sequence[str], config: TrainConfig, seeds: int) -> tuple[Path, ...]:
    """Train every data set under `seeds` seeds from the config's; the runs' folders."""
    from scanwise.pipeline.train import train

    folders = []
    for source in data:
        for turn in range(seeds):
            sys.stderr.write(f"\n{source}, seed {config.seed + turn} ({turn + 1} of {seeds})\n")
            own = {"data": source, "seed": config.seed + turn, "output": None}
            folders.append(train(config.model_copy(update=own)).path)
    return tuple(folders)


# The terminal.


def board_text(found: Leaderboard) -> str:
    """One table a method and data set, then the footnotes that its rows need."""
    blocks = [_board_block(board) for board in found.boards]
    if found.refused:
        listed = "\n".join(f"  {name}: {why}" for name, why in found.refused)
        blocks.append(f"Not compared:\n{listed}")
    if found.missing:
        blocks.append(f"Not at hand: {', '.join(found.missing)}")
    return "\n\n".join([*blocks, "\n".join(_footnotes(found))])


def _board_block(board: Board) -> str:
    title = MEDMNIST[board.flag].title
    facts = board.run.files.dataset
    hashed = (
        "verified by its MD5"
        if facts.get("verified")
        else "unverified: the file has another MD5 than the official one"
    )
    head = (
        f"{title} at {board.size_px} px, official test split, n = {board.n:,} ({hashed})\n"
        f"ours: {board.method.title}{_caution(board)}"
    )
    rows: list[tuple[str, ...]] = [("method", "px", "seeds", "ACC", "", "AUC", "", "source")]
    rows.append(
        (
            board.method.name,
            str(board.size_px),
            str(len(board.method.runs)),
            score_text(board.scores["ACC"]),
            "",
            score_text(board.scores["AUC"]),
            "",
            "ours",
        )
    )
    rows += [_published_cells(line) for line in board.lines]
    if not board.lines:
        head += f"\n(no published values at {board.size_px} px are shipped)"
    return "\n".join([head, aligned(rows), *_board_notes(board)])


def score_text(score: Interval) -> str:
    if score.value is None:
        return "not measured"
    return str(score) if score.low is not None else f"{score} (no interval)"


def _published_cells(line: Line) -> tuple[str, ...]:
    source = published_sources()[line.source]
    cells = []
    for metric in METRICS:
        row = line.values.get(metric)
        doubtful = "†" if row is not None and not row.is_comparable else ""
        cells += ["-" if row is None else f"{row.value:.3f}{doubtful}", line.marks.get(metric, "")]
    return (
        f"{line.method}{source.mark and ' ' + source.mark}",
        "?" if line.data_px is None else str(line.data_px),
        "?" if source.seeds is None else str(source.seeds),
        *cells,
        source.title,
    )


def _caution(board: Board) -> str:
    verdict, marked = worst_verdict(board.method), marked_metrics(board.method)
    if verdict == "ok":
        return ""
    return f" - {verdict.upper()}: no mark for {'ACC' if marked else 'it'}"


def _board_notes(board: Board) -> Iterator[str]:
    """Majority, spread over seeds, leaks, and test sets that changed since."""
    result, multilabel = board.run.test or {}, board.run.test_rows().task == "multilabel"
    if multilabel:
        negative = result["trivial"]["all_negative"]["label_accuracy"]
        yield f"  ACC of saying 'none' to every image: {negative:.3f} (share of right labels)"
    else:
        value = trivial_value(result, "accuracy")
        yield f"  ACC of {trivial_words(board.run.files.task, result)}: {value:.3f}"
    if len(board.method.runs) > 1:
        for metric in METRICS:
            key = f"medmnist_{metric.lower()}"
            spread = seed_spread(board.method.values(key))
            yield f"  {metric} over {len(board.method.runs)} seeds: SD {spread}"
    clean = board.run.files.clean_test
    if board.run.files.metrics.get("leaky") and clean:
        yield (
            f"  test shares images with train or val; without them (n = {clean['n']:,}, run "
            f"{board.run.name}) accuracy {as_interval(clean['accuracy'])}, AUROC "
            f"{as_interval(clean['auroc_macro'])}"
        )
    for metric in METRICS:
        if "another quantity" in (board.scores[metric].reason or ""):
            yield f"  {metric}: {board.scores[metric].reason}"


def _footnotes(found: Leaderboard) -> Iterator[str]:
    """What the marks mean, and what to mind about the sources that are shown."""
    yield (
        "✔ our whole 95 % interval lies above the published value, ✘ below, = not distinguishable. "
        "The published value is taken as printed: its own uncertainty is not known here."
    )
    lines = [line for board in found.boards for line in board.lines]
    if any(len(board.method.runs) > 1 for board in found.boards):
        yield "Several seeds: mean over seeds, interval over test images."
    if lines:
        yield "px: side of the data that were used; ? stands where a source does not say."
    for key in dict.fromkeys(line.source for line in lines):
        source = published_sources()[key]
        mark = f"{source.mark} " if source.mark else ""
        yield (
            f"{mark}{source.title}: {source.reference}. Checkpoint chosen on: "
            f"{source.selected_on}. {source.note}"
        )
    rows = [row for line in lines for row in line.values.values() if row.note]
    yield from dict.fromkeys(
        f"{'' if row.is_comparable else '† '}{published_sources()[row.source].title}: {row.note}."
        for row in rows
    )

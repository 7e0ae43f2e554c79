"""What a comparison says: on the terminal, and as comparison.{html,md,json,csv,png}."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from scanwise.core.files import write_json, write_text
from scanwise.core.types import Interval
from scanwise.metrics.compare import p_words
from scanwise.pipeline.members import read_ensemble
from scanwise.pipeline.runs import Run
from scanwise.pipeline.summary import run_summary
from scanwise.pipeline.tables import aligned
from scanwise.report import blocks
from scanwise.report.comparison_plot import Line, plot_comparison
from scanwise.report.figures import existing_picture
from scanwise.report.pages import NOT_A_DEVICE, render, seconds_text
from scanwise.report.style import save_figure
from scanwise.studies.compare import Findings, Row, Table
from scanwise.studies.cross_validation import Repeated
from scanwise.studies.variants import BASE

NAMES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "auroc_macro": "AUROC (macro)",
    "cross_entropy_loss": "loss (log-loss)",
}
FACTS = (
    ("model", "model"),
    ("activation", "activation"),
    ("output_activation", "output"),
    ("lr", "learning rate"),
    ("optimizer", "optimiser"),
    ("parameters", "parameters"),
)
STEM = "comparison"


def write_study(
    found: Findings, more: Sequence[blocks.Section] = (), notes: Sequence[str] = ()
) -> None:
    """Write the page, its figure and the table as JSON and CSV into the study's folder."""
    figures = {}
    for place, table in enumerate(found.tables):
        stem = STEM if len(found.tables) == 1 else f"{STEM}-{place + 1}"
        figure = plot_comparison(
            [_line(row, table) for row in table.rows if row.scores],
            title=table.data,
            metric=NAMES[table.metric],
            scored_on=table.scored_on(),
        )
        save_figure(figure, found.folder / stem, sentence(table))
        figures[table.data] = existing_picture(found.folder, stem, folder="")
    page = _page(found, figures, more, notes)
    write_json(found.folder / f"{STEM}.json", found.to_json())
    write_text(found.folder / f"{STEM}.csv", _csv(found))
    write_text(found.folder / f"{STEM}.md", render("page.md.j2", {"page": page}))
    write_text(found.folder / f"{STEM}.html", render("page.html.j2", {"page": page}))


def study_text(found: Findings) -> str:
    """What the terminal shows."""
    lines = []
    for table in found.tables:
        lines += ["", f"{table.data}, scored on {table.scored_on()} [95 %]", ""]
        lines.append(aligned(_verdict_rows(table)))
        lines += ["", sentence(table)]
    lines += ["", *found.notes]
    lines += [f"FAILED {one.member.name}: {one.error}" for one in found.failed]
    lines.append(f"page: {found.folder / STEM}.html")
    return "\n".join(lines)


def _verdict_rows(table: Table) -> list[tuple[str, ...]]:
    """What came of each row, and the metric that it rests on."""
    compared = any(row.against_base is not None for row in table.rows)
    rows: list[tuple[str, ...]] = [
        ("", "verdict", NAMES[table.metric], "difference to the base, corrected p")
    ]
    for row in table.rows:
        score = _score(row, table.metric)
        rows.append((_name(row, compared), _verdict(row), score, _difference(row)))
    return rows if compared else [(row[0], row[2]) for row in rows]


def _name(row: Row, compared: bool) -> str:
    return "this recipe" if row.name == BASE and not compared else row.name


def _score_rows(table: Table) -> list[tuple[str, ...]]:
    """The other scores, validation, and the time."""
    compared = any(row.against_base is not None for row in table.rows)
    others = [name for name in _shown(table) if name != table.metric]
    chosen = any(row.validation is not None for row in table.rows)
    head = ["", *(NAMES[name] for name in others)]
    head += [f"validation {NAMES[table.metric]}"] if chosen else []
    rows = [(*head, "training")]
    for row in table.rows:
        if row.scores:
            cells = [_score(row, name) for name in others]
            cells += ["-" if row.validation is None else str(row.validation)] if chosen else []
            rows.append((_name(row, compared), *cells, _seconds(row)))
    return rows


def _shown(table: Table) -> tuple[str, ...]:
    return tuple(dict.fromkeys((table.metric, "accuracy", "auroc_macro", "cross_entropy_loss")))


def _score(row: Row, name: str) -> str:
    return str(row.scores[name]) if name in row.scores else "-"


def _seconds(row: Row) -> str:
    return seconds_text(row.facts["seconds"]) if row.facts else "-"


def _verdict(row: Row) -> str:
    """The verdict, or what else the row is."""
    if row.against_base is None:
        return "the base" if row.name == BASE and row.scores else row.label
    return row.verdict + (" (confounded)" if row.label else "")


def _difference(row: Row) -> str:
    """Difference to the base with its interval, and the corrected p."""
    one = row.against_base
    if one is None:
        return "-"
    p = "" if one.corrected_p is None else f", {p_words(one.corrected_p)}"
    return one.difference.signed() + p


def _sentences(table: Table) -> list[str]:
    """One sentence a variant, with all that it rests on."""
    return [
        f"{row.name}: {row.against_base}" + (f" ({row.label})" if row.label else "")
        for row in table.rows
        if row.against_base is not None
    ]


def sentence(table: Table) -> str:
    """The finding of a table in one sentence; what was, not because of what."""
    compared = [row for row in table.rows if row.against_base is not None]
    if not compared:
        base = next((row for row in table.rows if row.name == BASE and row.scores), None)
        if base is None:
            return f"{table.data}: nothing was measured."
        return f"{table.data}: {NAMES[table.metric]} was {base.scores[table.metric]}."
    better = [row.name for row in compared if row.verdict == "better"]
    worse = [row.name for row in compared if row.verdict == "worse"]
    rest = len(compared) - len(better) - len(worse)
    parts = [f"better than the base was {_listed(better)}"] if better else []
    parts += [f"worse was {_listed(worse)}"] if worse else []
    if rest:
        none = "none of" if rest == len(compared) and rest > 1 else f"{rest} of"
        parts.append(
            f"{none} {len(compared)} variants was distinguishable from the base"
            if none == "none of"
            else f"{rest} of {len(compared)} variants not distinguishable from the base"
        )
    return f"{table.data}, by {NAMES[table.metric]}: {'; '.join(parts)}."


def parts_table(found: Repeated) -> list[tuple[str, ...]]:
    """A line for each training, and mean ± SD of all."""
    table = found.findings.tables[0]
    head = ["training", "n", *(NAMES[name] for name in _shown(table))]
    rows = [tuple(head)]
    for part in found.parts:
        fold = "" if part.fold is None else f", fold {part.fold + 1}"
        cells = [str(part.scores[name]) for name in _shown(table)]
        rows.append((f"seed {part.seed}{fold}", f"{part.n:,}", *cells))
    spreads = [found.spread_of(name) for name in _shown(table)]
    cells = [
        "-" if one is None or one.sd is None else f"{one.mean:.3f} ± {one.sd:.3f}"
        for one in spreads
    ]
    rows.append(("mean ± SD", "", *cells))
    return rows


def repeated_text(found: Repeated) -> str:
    """What the terminal shows of a recipe over folds and seeds."""
    study = found.findings
    lines = ["", aligned(parts_table(found)), ""] if found.parts else []
    for table in study.tables:
        how = "All out-of-fold answers together" if table.folds else "All seeds together"
        lines += [f"{how}, {table.scored_on()} [95 %]", aligned(_verdict_rows(table))]
    lines += ["", *study.notes, *found.notes]
    lines += [f"FAILED {one.member.name}: {one.error}" for one in study.failed]
    lines += [f"model to use: {found.deployed}", *_scored(found)] if found.deployed else []
    lines.append(f"page: {study.folder / STEM}.html")
    return "\n".join(lines)


def _scored(found: Repeated) -> list[str]:
    """Scores of the model to use, where it has any of its own."""
    run = Run.open(Path(found.deployed))
    if read_ensemble(run).get("folds", True):
        return []
    return ["", run_summary(run), ""]


def write_repeated(found: Repeated) -> None:
    """As `write_study`, with the table of the single trainings."""
    head, *rows = parts_table(found)
    caption = "Each training on its own test images, with 95 % intervals"
    section = blocks.Section("Single trainings", (blocks.Table(caption, head, tuple(rows)),))
    write_study(found.findings, more=(section,), notes=found.notes)
    write_json(found.findings.folder / f"{STEM}.json", found.to_json())


def _listed(names: Sequence[str]) -> str:
    return " and ".join(f"'{name}'" for name in names)


def _line(row: Row, table: Table) -> Line:
    score = row.scores[table.metric]
    one = row.against_base
    return Line(
        row.name,
        score.interval,
        score.by_seed,
        None if one is None else one.difference,
        row.verdict,
    )


def _page(
    found: Findings,
    figures: dict[str, blocks.Picture | None],
    more: Sequence[blocks.Section],
    said: Sequence[str],
) -> blocks.Page:
    sections: list[blocks.Section] = []
    for table in found.tables:
        picture = figures[table.data]
        several = f"{table.data}: " if len(found.tables) > 1 else ""
        verdicts, scores = _tables(table)
        sections += [
            blocks.Section(
                f"{several}What was found",
                blocks.without_nothing(
                    [
                        blocks.Paragraph(sentence(table)),
                        None if picture is None else blocks.Pictures((picture,)),
                        verdicts,
                        *(blocks.Paragraph(text) for text in _sentences(table)),
                        scores,
                    ]
                ),
            ),
            blocks.Section(f"{several}What was trained", (_facts_table(table),)),
        ]
    sections += more
    notes = tuple(blocks.Paragraph(note) for note in (*found.notes, *said))
    failed = tuple(
        blocks.Paragraph(f"Failed: {one.member.name}: {one.error}") for one in found.failed
    )
    sections.append(blocks.Section("How to read this", (*notes, *failed)))
    data = ", ".join(table.data for table in found.tables)
    shown = {row.verdict for table in found.tables for row in table.rows}
    return blocks.Page(
        title="Comparison" if shown - {""} else "Repeated training",
        subtitle=data,
        level="ok" if "better" in shown else "unsure",
        headline=_headline(shown),
        sentence=" ".join(sentence(table) for table in found.tables),
        banners=(blocks.Banner("note", "RESEARCH USE", NOT_A_DEVICE),),
        sections=tuple(sections),
        chips=(f"{found.num_seeds} seed{'' if found.num_seeds == 1 else 's'}",),
    )


def _headline(verdicts: set[str]) -> str:
    if "better" in verdicts:
        return "A variant was better than the base"
    if "worse" in verdicts:
        return "No variant was better than the base"
    if "not distinguishable" in verdicts:
        return "No difference was shown"
    return "Measured, with nothing to compare"


def _tables(table: Table) -> tuple[blocks.Table, blocks.Table]:
    """Verdicts, and the other scores."""
    several = any(len(score.by_seed) > 1 for row in table.rows for score in row.scores.values())
    spread = "; ± is the SD between seeds" if several else ""
    head, *rows = _verdict_rows(table)
    others, *lines = _score_rows(table)
    return (
        blocks.Table(
            caption=f"Scored on {table.scored_on()}, with 95 % intervals{spread}",
            columns=("variant", *head[1:]),
            rows=tuple(rows),
        ),
        blocks.Table(
            caption="Other scores, with 95 % intervals",
            columns=("variant", *others[1:]),
            rows=tuple(lines),
        ),
    )


def _facts_table(table: Table) -> blocks.Table:
    rows = [
        (
            row.name,
            *(_fact(row.facts[key]) for key, _ in FACTS),
            ", ".join(str(number) for number in row.facts["epochs"]),
        )
        for row in table.rows
        if row.facts
    ]
    return blocks.Table(
        caption="From the resolved settings of each run",
        columns=("variant", *(words for _, words in FACTS), "epochs run"),
        rows=tuple(rows),
    )


def _fact(value: object) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _csv(found: Findings) -> str:
    """A line for each row; intervals in columns of their own."""
    text = io.StringIO()
    names = tuple(dict.fromkeys(name for table in found.tables for name in _shown(table)))
    header = ["data", "variant", "label", *(key for key, _ in FACTS), "epochs", "seconds", "n"]
    for name in names:
        header += [name, f"{name}_low", f"{name}_high"]
    header += ["metric", "difference", "difference_low", "difference_high", "p", "p_corrected"]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*header, "verdict"])
    for table in found.tables:
        for row in table.rows:
            line: list[object] = [table.data, row.name, row.label]
            line += [row.facts.get(key, "") for key, _ in FACTS]
            line.append(" ".join(str(number) for number in row.facts.get("epochs", ())))
            line += [row.facts.get("seconds", ""), table.n]
            for name in names:
                line += _bounds(row.scores[name].interval if name in row.scores else None)
            one = row.against_base
            line += [table.metric, *_bounds(None if one is None else one.difference)]
            line += ["", ""] if one is None else [one.p_value, one.corrected_p]
            writer.writerow([*("" if cell is None else cell for cell in line), row.verdict])
    return text.getvalue()


def _bounds(interval: Interval | None) -> list[object]:
    if interval is None:
        return ["", "", ""]
    return [interval.value, interval.low, interval.high]

"""Drafts of the reporting checklists of a paper, filled from a run: CLAIM 2024 and TRIPOD+AI.

Each item is filled from the run's files, filled in part, or left to the author with what to write.
The words for the items are ours; the checklists themselves are to be read at their source.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from scanwise.core.errors import RunError
from scanwise.core.files import write_text
from scanwise.report import draft_facts as fact
from scanwise.report.pages import NOT_A_DEVICE, markdown_text
from scanwise.report.run_files import RunFiles, read_run

AUTHOR = "[AUTHOR]"
Fill = Callable[[RunFiles], "str | None"]


@dataclass(frozen=True)
class Item:
    """One item of a checklist: what the run can say, and what only the author knows.

    An item whose `fills` all say something and that asks for nothing more is filled.
    """

    number: str
    topic: str
    ask: str = ""
    fills: tuple[Fill, ...] = ()


@dataclass(frozen=True)
class Checklist:
    """A reporting guideline: sections of items."""

    title: str
    file: str
    source: str
    sections: tuple[tuple[str, tuple[Item, ...]], ...]


CLAIM = Checklist(
    "CLAIM (2024 update)",
    "CLAIM.md",
    "Tejani et al., Radiology: Artificial Intelligence 6(4), 2024, e240300",
    (
        ("Title and abstract", (
            Item("1", "Named as a study of AI, with the kind of method",
                 "Put it into the title or abstract.", (fact.method,)),
            Item("2", "Structured abstract",
                 "Design, methods, results, conclusions; these sentences may serve.",
                 (fact.method, fact.sizes, fact.conclusion)),
        )),
        ("Introduction", (
            Item("3", "Background, intended use and clinical role",
                 "Say whom the model is for, in which decision, and what is done today."),
            Item("4", "Aims and hypotheses", "State them as they stood before the results."),
        )),
        ("Methods: design", (
            Item("5", "Prospective or retrospective", "Say which."),
            Item("6", "Goal of the study", "Feasibility, development, validation or comparison.",
                 (fact.method,)),
        )),
        ("Methods: data", (
            Item("7", "Sources of the data", "Institutions, dates, how cases were found.",
                 (fact.sources,)),
            Item("8", "Inclusion and exclusion", "Criteria, at the level of patients and images.",
                 (fact.excluded,)),
            Item("9", "Preprocessing", "", (fact.preprocessing,)),
            Item("10", "Selection of parts of the data",
                 "Cropping, chosen slices or regions before the data reached scanwise."),
            Item("11", "De-identification", "How, and by whom."),
            Item("12", "Missing data", "How they were handled.", (fact.excluded,)),
            Item("13", "Image acquisition", "Devices, protocols, staining, magnification."),
        )),
        ("Methods: reference standard", (
            Item("14", "How the labels were defined", "Definition, and version of any grading."),
            Item("15", "Why this reference standard", "And its known weaknesses."),
            Item("16", "Who labelled", "Number of readers, training, experience, tools."),
            Item("17", "Labels of the test set", "If made otherwise than those of training."),
            Item("18", "Agreement within and between readers", "Measured how, with what result."),
        )),
        ("Methods: partitions", (
            Item("19", "How the data were divided", "", (fact.partitions,)),
            Item("20", "Level at which the partitions share nothing",
                 "Say what a group is (patient, slide, lesion).", (fact.disjoint,)),
            Item("21", "Size of the test set", "How it was chosen, before the results.",
                 (fact.test_size,)),
        )),
        ("Methods: model and training", (
            Item("22", "Model", "", (fact.model,)),
            Item("23", "Software", "", (fact.software,)),
            Item("24", "Initial weights", "", (fact.initialisation,)),
            Item("25", "Training", "", (fact.training,)),
            Item("26", "How the final model was chosen",
                 "Name other models and settings that you tried.", (fact.selection,)),
            Item("27", "Ensembles", "", (fact.ensembling,)),
        )),
        ("Methods: evaluation", (
            Item("28", "Scores", "Which one is primary, and why.", (fact.metric_names,)),
            Item("29", "Uncertainty and significance", "", (fact.statistics,)),
            Item("30", "Robustness", "`scanwise robustness RUN` measures it for corrupted images."),
            Item("31", "Explainability", "`scanwise explain RUN` draws maps and tests them."),
            Item("32", "Evaluation on internal data", "", (fact.partitions, fact.looks)),
            Item("33", "Testing on external data",
                 "Another site or time; without it, say that there was none."),
            Item("34", "Registration of a clinical trial", "Number, or 'none'."),
        )),
        ("Results", (
            Item("35", "Cases in and out", "A flow diagram of patients and examinations.",
                 (fact.sizes,)),
            Item("36", "Patients of each partition", "Age, sex, disease, site of each partition.",
                 (fact.sizes,)),
            Item("37", "Scores with their uncertainty", "", (fact.performance,)),
            Item("38", "Diagnostic rates and their precision", "", (fact.diagnostic,)),
            Item("39", "Failures", "Look at them, and say what they have in common.",
                 (fact.failures,)),
        )),
        ("Discussion and other information", (
            Item("40", "Limitations", "Add those of the design and of the labels.",
                 (fact.limitations,)),
            Item("41", "Implications for practice", "What would have to be shown before use.",
                 (fact.conclusion,)),
            Item("42", "Protocol", "Where it can be read."),
            Item("43", "Availability of software, model and data", "Where, under which licence.",
                 (fact.specification, fact.software)),
            Item("44", "Funding", "Sources, and the role of the funders."),
        )),
    ),
)  # fmt: skip

TRIPOD = Checklist(
    "TRIPOD+AI",
    "TRIPOD_AI.md",
    "Collins et al., BMJ 385, 2024, e078378",
    (
        ("Title and abstract", (
            Item("1", "Title", "Development or evaluation, the target population, the outcome.",
                 (fact.method,)),
            Item("2", "Abstract", "See TRIPOD+AI for abstracts.",
                 (fact.method, fact.sizes, fact.conclusion)),
        )),
        ("Introduction", (
            Item("3a", "Health-care context and reason for the model", "With existing models."),
            Item("3b", "Target population and intended purpose", "And the intended users."),
            Item("3c", "Known inequalities in health", "Between groups of the population."),
            Item("4", "Objectives", "Development, evaluation, or both."),
        )),
        ("Methods: data and participants", (
            Item("5a", "Sources of the data", "Why these, and whom they represent.",
                 (fact.sources,)),
            Item("5b", "Dates", "Of collection and follow-up."),
            Item("6a", "Setting", "Level of care, number and place of centres."),
            Item("6b", "Eligibility", "Of participants."),
            Item("6c", "Treatments", "That could change the images or the outcome."),
            Item("7", "Preparation of the data", "", (fact.preprocessing,)),
            Item("8a", "Outcome", "What is predicted, over which horizon.", (fact.output,)),
            Item("8b", "Who judged the outcome", "Training and number of readers."),
            Item("8c", "Blinding", "Of those who judged the outcome."),
            Item("9a", "Choice of predictors", "Here the pixels; say why these images."),
            Item("9b", "Definition of predictors", "How and when the images were taken.",
                 (fact.preprocessing,)),
            Item("9c", "Who judged predictors", "If a person chose regions or images."),
            Item("10", "Size of the study", "How it was arrived at.", (fact.sizes,)),
            Item("11", "Missing data", "How they were handled.", (fact.excluded,)),
        )),
        ("Methods: analysis", (
            Item("12a", "Use of the data", "", (fact.partitions, fact.disjoint)),
            Item("12b", "Handling of predictors", "", (fact.preprocessing,)),
            Item("12c", "Model, its building and tuning",
                 "Name other models and settings that you tried.",
                 (fact.model, fact.initialisation, fact.training, fact.selection)),
            Item("12d", "Differences between clusters", "Hospitals, scanners; or 'not examined'."),
            Item("12e", "Measures of performance", "", (fact.metric_names, fact.statistics)),
            Item("12f", "Updating of the model", "", (fact.calibration,)),
            Item("12g", "How predictions are computed", "", (fact.specification,)),
            Item("13", "Class imbalance", "", (fact.imbalance,)),
            Item("14", "Fairness", "What was done, and why; `scanwise evaluate RUN --slices`."),
            Item("15", "Output of the model", "Thresholds, and how they were chosen.",
                 (fact.output,)),
            Item("16", "Training against evaluation data", "How the two differ.",
                 (fact.partitions,)),
            Item("17", "Ethical approval", "Board and number, consent."),
        )),
        ("Open science", (
            Item("18a", "Funding", "Sources, and the role of the funders."),
            Item("18b", "Conflicts of interest", "Of all authors."),
            Item("18c", "Protocol", "Where it can be read, or that there is none."),
            Item("18d", "Registration", "Register and number, or that there is none."),
            Item("18e", "Sharing of the data", "Where, on what terms.", (fact.sources,)),
            Item("18f", "Sharing of the code", "Where.", (fact.specification, fact.software)),
            Item("19", "Patients and public", "Any part that they had, or that they had none."),
        )),
        ("Results", (
            Item("20a", "Flow of participants", "A diagram.", (fact.sizes,)),
            Item("20b", "Characteristics of participants", "Overall and by centre."),
            Item("20c", "Evaluation data beside development data", "Distribution of predictors.",
                 (fact.sizes,)),
            Item("21", "Participants and outcomes in each analysis", "", (fact.sizes,)),
            Item("22", "The full model", "", (fact.specification,)),
            Item("23a", "Performance, with intervals", "Also of key subgroups.",
                 (fact.performance, fact.diagnostic)),
            Item("23b", "Differences between clusters", "Or that they were not examined."),
            Item("24", "Result of updating", "", (fact.calibration,)),
        )),
        ("Discussion", (
            Item("25", "Interpretation", "Beside earlier studies, and fairness.",
                 (fact.conclusion,)),
            Item("26", "Limitations", "Add those of the design and of the labels.",
                 (fact.limitations,)),
            Item("27a", "Poor or missing input", "What the user must do then."),
            Item("27b", "What the user must know and do", "Expertise, and interaction."),
            Item("27c", "Next steps", "What would have to be shown before use."),
        )),
    ),
)  # fmt: skip
CHECKLISTS = (CLAIM, TRIPOD)


def write_drafts(run_dir: Path, folder: Path, *, force: bool = False) -> tuple[Path, ...]:
    """Write CLAIM.md and TRIPOD_AI.md of a run into a folder.

    Raises:
        RunError: If it is no run folder, or a draft is there already (authors write into them) and
            `force` is not given; then nothing is written.
    """
    run = read_run(run_dir)
    files = [folder / checklist.file for checklist in CHECKLISTS]
    taken = [str(file) for file in files if file.exists()]
    if taken and not force:
        raise RunError(
            f"{', '.join(taken)} is there already, perhaps with your own words; name another "
            "folder with --paper, or --force to write it anew."
        )
    for checklist, file in zip(CHECKLISTS, files, strict=True):
        write_text(file, draft(checklist, run))
    return tuple(files)


def draft(checklist: Checklist, run: RunFiles) -> str:
    """The checklist in Markdown, every item filled or marked for the author."""
    items = [(item, _said(item, run)) for _, part in checklist.sections for item in part]
    filled = sum(is_filled(item, said) for item, said in items)
    lines = [
        f"# {checklist.title}: draft for run {markdown_text(run.name)}",
        "",
        f"**{NOT_A_DEVICE}** This is a draft, made from the run's files. {filled} of {len(items)} "
        f"items are filled; {len(items) - filled} need you and are marked {AUTHOR}. Read every "
        f"sentence before you use it. Checklist: {checklist.source}.",
    ]
    for title, part in checklist.sections:
        lines += ["", f"## {title}", ""]
        lines += [_line(item, _said(item, run)) for item in part]
    return "\n".join(lines) + "\n"


def is_filled(item: Item, said: tuple[str, ...]) -> bool:
    return bool(item.fills) and len(said) == len(item.fills) and not item.ask


def _said(item: Item, run: RunFiles) -> tuple[str, ...]:
    return tuple(text for fill in item.fills if (text := fill(run)) is not None)


def _line(item: Item, said: tuple[str, ...]) -> str:
    words = [markdown_text(text) for text in said]
    if not is_filled(item, said):
        missing = "the run does not say." if len(said) < len(item.fills) else ""
        words.append(" ".join(part for part in (AUTHOR, item.ask, missing) if part))
    return f"- **{item.number} {item.topic}.** {' '.join(words)}"

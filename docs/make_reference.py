"""Writes docs/reference/ from the code: `make docs`, or `make_reference.py --check`.

Nothing is copied by hand: commands come from the command line itself, settings from the settings
model, codes and messages from the source (code_messages.py), words from the glossary.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import typer.main
from code_messages import SEVERITIES, CodeUse, code_uses, messages

import scanwise
from scanwise.cli.commands import app
from scanwise.cli.options import PANELS, setting_values
from scanwise.core import errors
from scanwise.core.config import TrainConfig
from scanwise.core.glossary import terms
from scanwise.data import assemble
from scanwise.data.advisories import ADVISORIES
from scanwise.pipeline.runs import CONTENTS

FOLDER = Path(__file__).with_name("reference")
SOURCE = Path(scanwise.__file__).parent
MADE = "<!-- Made by docs/make_reference.py from the code; `make docs` renews it. -->"
FAMILIES = {
    "D": "Checks of the data",
    "K": "Known public data sets",
    "R": "Notes of the readers",
    "N": "The demo",
    "P": "Augmentation",
    "B": "Balance",
    "L": "Loss",
    "T": "Diagnosis of a training",
    "A": "Recommendations",
    "M": "Ensembles",
}
FLOORS = {
    "cli": "Command line",
    "core": "Settings and files",
    "data": "Reading, checking and splitting data",
    "prepare": "Preparation, balance, augmentation",
    "models": "Networks and weights",
    "training": "Training",
    "deploy": "Bundles and answers",
    "metrics": "Scores",
    "report": "Reports",
    "pipeline": "Runs",
    "studies": "Studies",
    "server": "Service",
    "app": "Workbench",
}

# What stands at the head of a page.
COMMANDS = """`scanwise VERB --help` shows the same. Results go to stdout, progress to stderr. A
command ends with exit code 0, 1 (partly done), 2 (a mistake that the message explains) or 3 (the
integrity of data or files is broken). `--debug` shows where a mistake was noticed."""
SETTINGS = """One setting has one name everywhere: the flag `--batch-size 16`, the line
`batch_size: 16` of a file given by `--config`, the variable `SCANWISE_BATCH_SIZE=16`, and in Python
`sw.train("my_images/", batch_size=16)`. A flag wins over the variable, that over the file. What
nobody says is chosen by the plan, which prints its reasons and keeps them in `plan.yaml`; in the
table it is `(plan)`."""
VARIABLES = """## Variables of the machine

`SCANWISE_CACHE` names the one folder for decoded images, features and downloaded weights (otherwise
the platform's cache folder). `SCANWISE_OFFLINE=1` forbids every use of the network."""
CODES = """Each finding in a report, in `check` or in `report.json` has a code that stays the same.
{Words in braces} stand for what was found. An `error` forbids the training or its use, a `warning`
wants to be looked at, an `info` is a fact. How often the diagnosis is right was measured:
[diagnosis](../diagnosis.md); what the checks find and miss: [audit](../audit.md)."""
ERRORS = """Search for yours (press `/` on the site). A message says what is wrong, where, the
value, and the way out. {Words in braces} stand for values. On the screen it begins with `error: `;
in Python the class is raised, and all classes are a `scanwise.core.errors.ScanwiseError`. Anything
else that ends with a traceback is a bug of scanwise: please report it."""
RUN_FOLDER = """What `runs/NAME/` may hold; not every run has all of it. Programs may rely on names
and columns. `scanwise verify-report RUN` recomputes every number from `predictions.csv`;
`scanwise runs rm RUN` removes the folder, and refuses if it holds anything else."""
PYTHON = """These names are public; everything else may change. Arguments of `sw.train` are the
[settings](settings.md)."""


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    made = pages()
    stale = [name for name, text in made.items() if text != _read(FOLDER / name)]
    if "--check" in sys.argv[1:]:
        sys.exit(f"stale: {', '.join(stale)}; run make docs" if stale else 0)
    for name in stale:
        (FOLDER / name).write_text(made[name], encoding="utf-8", newline="\n")
        sys.stdout.write(f"renewed: docs/reference/{name}\n")


def pages() -> dict[str, str]:
    """Every page of the reference by its file name."""
    return {name: f"{MADE}\n{make().rstrip()}\n" for name, make in PAGES.items()}


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; a "|" within a cell is escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in line) + " |"
        for line in lines
    )


def code(text: object) -> str:
    """A code span that may itself hold backticks."""
    return f"`` {text} ``" if "`" in str(text) else f"`{text}`"


# Commands


def commands_page() -> str:
    """Every verb with its arguments and flags."""
    verbs = list(verb_commands())
    rows = [[f"[`{name}`](#scanwise-{name.replace(' ', '-')})", verb.help] for name, verb in verbs]
    return "\n\n".join(
        [
            "# Commands",
            COMMANDS,
            table(["verb", "what it does"], rows),
            *(_verb(name, verb) for name, verb in verbs),
        ]
    )


def verb_commands() -> Iterator[tuple[str, Any]]:
    """("train", its command), …, ("runs list", its command), …"""
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        inner = getattr(command, "commands", None)
        if inner is None:
            yield name, command
        else:
            yield from ((f"{name} {verb}", each) for verb, each in inner.items())


def _verb(name: str, verb: Any) -> str:
    arguments = [each for each in verb.params if each.param_type_name == "argument"]
    settings = [each.name for each in verb.params if is_setting(each)]
    own = [each for each in verb.params if each not in arguments and each.name not in settings]
    usage = " ".join(_argument(each) for each in arguments)
    parts = [f"## scanwise {name}", verb.help, f"```text\nscanwise {name} {usage} [flags]\n```"]
    rows = [[f"`{_argument(each)}`", each.help or "", _default(each)] for each in arguments]
    rows += [[_flag(each), each.help or "", _default(each)] for each in own]
    if rows:
        parts.append(table(["argument or flag", "what it is", "default"], rows))
    if settings:
        parts.append(f"And these [settings](settings.md) as flags: {_settings_words(settings)}.")
    return "\n\n".join(parts)


def is_setting(parameter: Any) -> bool:
    """True for a flag made from the settings model."""
    return getattr(parameter, "rich_help_panel", None) in PANELS.values()


def _settings_words(names: Sequence[str]) -> str:
    every = [name for name in TrainConfig.model_fields if name != "data"]
    missing = [name for name in every if name not in names]
    if len(missing) < len(names):
        but = f" but {', '.join(map(_flag_name, missing))}" if missing else ""
        return f"all{but}"
    return ", ".join(map(_flag_name, names))


def _flag_name(name: str) -> str:
    return f"`--{name.replace('_', '-')}`"


def _argument(parameter: Any) -> str:
    word = parameter.metavar or parameter.name.upper()
    word = word.replace("...", "…")
    word += "…" if parameter.nargs == -1 and not word.endswith("…") else ""
    return word if parameter.required else f"[{word}]"


def _flag(parameter: Any) -> str:
    names = "`, `".join([*parameter.opts, *parameter.secondary_opts])
    value = "" if parameter.is_flag else f" {parameter.metavar or _type_word(parameter)}"
    return f"`{names}{value}`"


def _type_word(parameter: Any) -> str:
    kind = parameter.type_descriptor.annotation
    return {Path: "PATH", int: "INT", float: "FLOAT"}.get(kind, "TEXT")


def _default(parameter: Any) -> str:
    if parameter.required:
        return "must be given"
    empty = parameter.default in (None, False, (), [], "")
    return "" if empty or callable(parameter.default) else f"`{parameter.default}`"


# Settings


def settings_page() -> str:
    """Every setting: flag, YAML key, variable, values, default."""
    parts = [
        "# Settings",
        SETTINGS,
    ]
    panel, rows = "Run", []
    for name, field in TrainConfig.model_fields.items():
        if PANELS.get(name, panel) != panel:
            parts.append(_settings_table(panel, rows))
            panel, rows = PANELS[name], []
        rows.append(_setting(name, field))
    return "\n\n".join([*parts, _settings_table(panel, rows), VARIABLES])


def _settings_table(panel: str, rows: list[list[str]]) -> str:
    return f"## {panel}\n\n" + table(
        ["setting", "what it is", "values", "default", "flag, variable"], rows
    )


def _setting(name: str, field: Any) -> list[str]:
    flag = _flag_name(name) if name != "data" else "DATA (the argument)"
    if setting_values(field) == "yes, no":
        flag += f", `--no-{name.replace('_', '-')}`" if field.default is not False else ""
    unset = "" if name in NOT_PLANNED else "(plan)"
    default = unset if field.default is None else f"`{_plain(field.default)}`"
    limits = [str(each) for each in map(_limit, field.metadata) if each]
    values = ", ".join([setting_values(field), *limits])
    return [
        f"`{name}`",
        field.description or "",
        values,
        default,
        f"{flag}, `SCANWISE_{name.upper()}`",
    ]


# Left open, these mean "none"; the plan fills in the others.
NOT_PLANNED = {
    "output", "size", "group", "group_regex", "splits", "meta", "task", "class_order", "page",
    "project", "weights", "time_limit", "threads", "track", "preset",
}  # fmt: skip


def _plain(value: object) -> str:
    return (
        {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else str(value)
    )


def _limit(rule: Any) -> str:
    for attribute, word in (("ge", "from"), ("gt", "above"), ("le", "up to"), ("lt", "below")):
        if hasattr(rule, attribute):
            return f"{word} {getattr(rule, attribute)}"
    return ""


# Codes


def codes_page() -> str:
    """Every code with its severity, meaning, evidence and advice."""
    uses = [*code_uses(SOURCE), *_listed_codes()]
    parts = [
        "# Codes",
        CODES,
    ]
    for letter, title in FAMILIES.items():
        names = sorted({use.code for use in uses if use.code.startswith(letter)})
        rows = [_code_row(name, [use for use in uses if use.code == name]) for name in names]
        parts.append(
            f"## {title}\n\n" + table(["code", "severity", "what it says", "advice"], rows)
        )
    return "\n\n".join(parts)


def _listed_codes() -> Iterator[CodeUse]:
    """Codes whose words stand in tables of the source."""
    for name, (evidence, advice) in ADVISORIES.items():
        yield CodeUse("K001", ("info",), (f"{name}: {evidence}.",), (advice,), "", "")
    where = "{topic}: {number} images, first '{name}'"
    for topic, (code_name, severity) in assemble._FILE_NOTES.items():
        yield CodeUse(
            code_name,
            (severity,),
            (where.format(topic=topic, number="{n}", name="{name}"),),
            (),
            "",
            "",
        )
    yield CodeUse(
        "R008",
        ("info",),
        ("{what the reader saw in a file}: {n} images, first '{name}'",),
        (),
        "",
        "",
    )
    yield CodeUse(
        "R014", ("info",), ("DICOM {what was applied}: {n} images, first '{name}'",), (), "", ""
    )


def _code_row(name: str, uses: Sequence[CodeUse]) -> list[str]:
    severities = [each for each in SEVERITIES if any(each in use.severities for use in uses)]
    meaning = next((found for use in uses if (found := _meaning(name, use.about))), "")
    says = _unique(text for use in uses for text in use.evidence)
    advice = _unique(text for use in uses for text in use.advice)
    first = [f"*{_text(meaning)}*"] if meaning else []
    return [
        f"**{name}**",
        ", ".join(severities),
        "<br>".join([*first, *map(_text, says)]),
        "<br>".join(map(_text, advice)),
    ]


def _meaning(name: str, about: str) -> str:
    """What a rule's docstring says of its code: "D001: files that …", "D007 and D010: groups …"."""
    first = " ".join(about.partition("\n\n")[0].split())
    found = re.search(rf"\b{name}(?: and [A-Z]\d{{3}})*: (.+?)(?:; [A-Z]\d{{3}}: |$)", first)
    second = re.search(rf"[A-Z]\d{{3}} and {name}: (.+)", first)
    either = found or second
    return either[1][0].upper() + either[1][1:] if either else ""


def _text(text: str) -> str:
    """A template as Markdown text; only what stands between two backticks is markup."""
    parts = re.split(r"(`[^`{}]+`)", text.strip())
    return "".join(p if p.startswith("`") else re.sub(r"([*_<>`\[\]])", r"\\\1", p) for p in parts)


def _unique(texts: Iterable[str]) -> list[str]:
    return [text for text in dict.fromkeys(texts) if re.search(r"[a-z]", text)]


# Errors


def errors_page() -> str:
    """Every message of every kind of error, by kind and place."""
    kinds = _kinds()
    found = messages(SOURCE, frozenset(kinds))
    parts = [
        "# Error messages",
        f"There are {len(found)} of them. {ERRORS}",
        table(
            ["class", "exit code", "when"],
            [
                [f"[`{name}`](#{name.lower()})", str(kind.exit_code), kind.__doc__ or ""]
                for name, kind in kinds.items()
            ],
        ),
    ]
    for name, kind in kinds.items():
        parts.append(f"## {name}\n\n{kind.__doc__}")
        for floor, title in FLOORS.items():
            texts = [
                t
                for m in found
                if (m.kind, m.module.partition("/")[0]) == (name, floor)
                for t in m.texts
            ]
            if texts:
                listed = "\n".join(
                    f"- {_text(text)}" for text in sorted(dict.fromkeys(texts), key=str.lower)
                )
                parts.append(f"### {name}: {title.lower()}\n\n{listed}")
    return "\n\n".join(parts)


def _kinds() -> dict[str, Any]:
    """The error classes by name, those of everyday use first."""
    return {
        name: kind
        for name, kind in vars(errors).items()
        if inspect.isclass(kind) and issubclass(kind, errors.ScanwiseError)
    }


# The rest


def run_folder_page() -> str:
    """The files of a run."""
    return "\n\n".join(
        [
            "# Files of a run",
            RUN_FOLDER,
            table(
                ["file or folder", "what it holds"],
                [[f"`{name}`", what] for name, what in CONTENTS.items()],
            ),
        ]
    )


def glossary_page() -> str:
    """Every term."""
    parts = ["# Words", "`scanwise explain-term WORD` prints the same, also for the other names."]
    for term in sorted(terms().values(), key=lambda each: each.name.lower()):
        lines = [f"## {term.name}", f"{term.means} {term.more}".strip()]
        if term.also:
            lines.append(f"*Other names:* {', '.join(term.also)}")
        links = [f"[{name}](#{_anchor(name)})" for name in term.beside]
        links += [f"[more on it](../{term.page})"] if term.page else []
        if links:
            lines.append(f"*See also:* {', '.join(links)}")
        parts.append("\n\n".join(lines))
    return "\n\n".join(parts)


def _anchor(title: str) -> str:
    """As GitHub and the site make it of a heading."""
    return re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-")


def python_page() -> str:
    """The public names of the package with their docstrings."""
    parts = [
        "# Python",
        "```python\nimport scanwise as sw\n```",
        PYTHON,
    ]
    for name in scanwise.__all__:
        parts += _documented(f"sw.{name}", getattr(scanwise, name), "##")
    return "\n\n".join(parts)


def _documented(name: str, thing: Any, level: str) -> list[str]:
    parts = [f"{level} {name}"]
    if callable(thing) or inspect.isclass(thing):
        signature = re.sub(r" at 0x[0-9a-f]+", "", str(inspect.signature(thing)))
        parts.append(f"```python\n{name}{_wrapped(signature)}\n```")
    first, _, more = (inspect.getdoc(thing) or "").partition("\n\n")
    parts.append(_text(" ".join(first.split())))
    if more.strip():
        parts.append(f"```text\n{more.strip()}\n```")
    if inspect.isclass(thing):
        for member_name, member in _members(thing):
            parts += _documented(f"{name}.{member_name}", member, "###")
    return parts


def _members(thing: type) -> Iterator[tuple[str, Any]]:
    """Public methods and properties that the class itself defines and describes."""
    for name, member in vars(thing).items():
        known = isinstance(member, property | classmethod | staticmethod) or inspect.isfunction(
            member
        )
        if known and not name.startswith("_") and inspect.getdoc(member):
            yield name, getattr(thing, name)


def _wrapped(signature: str) -> str:
    """A long signature with one argument a line, without the quotes and homes of its types."""
    plain = re.sub(r"(: |-> )'([^']*)'", r"\1\2", signature)
    plain = re.sub(r"\b(?:scanwise|numpy|collections|pathlib)\.(?:\w+\.)*", "", plain)
    if len(plain) < 80:
        return plain
    inside, _, after = plain[1:].rpartition(")")
    arguments = re.split(r", (?=[\w*]+(?::|=|,|$)|\*)", inside)
    return "(\n" + "".join(f"    {each},\n" for each in arguments) + ")" + after


PAGES: dict[str, Callable[[], str]] = {
    "commands.md": commands_page,
    "settings.md": settings_page,
    "codes.md": codes_page,
    "error-messages.md": errors_page,
    "run-folder.md": run_folder_page,
    "python.md": python_page,
    "glossary.md": glossary_page,
}

if __name__ == "__main__":
    main()

"""Answers as a grid of pictures: filters, a closer look, labels, sorting, the table."""

from __future__ import annotations

import shlex
from html import escape
from pathlib import Path
from typing import Any

from nicegui import run, ui

from scanwise.app import widgets as w
from scanwise.app.answers import AnswerSet, command_of, confidence, sort_answers
from scanwise.app.folders import ClassFolders
from scanwise.app.labelling import (
    Clash,
    LabelBook,
    Relabelled,
    add_to_classes,
    relabel_training,
    training_labels,
)
from scanwise.app.pages.answer_dialog import AnswerDialog
from scanwise.app.widgets import Bench
from scanwise.app.workspace import data_name
from scanwise.core.errors import ScanwiseError
from scanwise.deploy.answers import Answer
from scanwise.pipeline.runs import Run

PAGE = 60  # pictures at a time
KEYS = 9  # labels that have a key
SURENESS = {
    "": "all",
    "sure": "sure (0.9 or more)",
    "likely": "likely (0.6 to 0.9)",
    "unsure": "unsure (under 0.6)",
    "unknown": "unlike the training images",
    "error": "can't be read",
}
ORDERS = {"": "as given", "up": "least sure first", "down": "most sure first"}
# Arrow keys move the focus; what changes something is told to the server.
ON_KEY = """(e) => {
  const tile = e.target.closest('[data-key]');
  if (!tile) return;
  const tiles = [...e.currentTarget.querySelectorAll('[data-key]')];
  const wide = tiles.filter(t => t.offsetTop === tiles[0].offsetTop).length;
  const move = {ArrowRight: 1, ArrowLeft: -1, ArrowDown: wide, ArrowUp: -wide}[e.key];
  if (move) { e.preventDefault(); tiles[tiles.indexOf(tile) + move]?.focus(); return; }
  const control = e.ctrlKey || e.metaKey;
  const letter = control ? 'c' + e.key.toLowerCase() : e.key;
  if (!/^([0-9]| |Enter|cz|ca)$/.test(letter)) return;
  e.preventDefault();
  emit({key: letter, tile: tile.dataset.key, shift: e.shiftKey});
}"""
ON_CLICK = """(e) => {
  const tile = e.target.closest('[data-key]');
  if (tile) emit({key: e.target.closest('.pick') || e.shiftKey ? ' ' : 'Enter',
                  tile: tile.dataset.key, shift: e.shiftKey});
}"""
BORDERS = (
    '<ul class="key" aria-label="What the borders mean">'
    '<li class="sure"><i></i>solid: sure</li><li class="likely"><i></i>dashed: likely</li>'
    '<li class="unsure"><i></i>dotted: unsure</li>'
    '<li class="unknown"><i></i>double: unlike the training images</li></ul>'
)
HELP = (
    "<kbd>1</kbd>–<kbd>9</kbd> label, <kbd>0</kbd> no label, <kbd>Space</kbd> select, "
    "<kbd>Enter</kbd> look closer, <kbd>Ctrl</kbd>+<kbd>A</kbd> all, "
    "<kbd>Ctrl</kbd>+<kbd>Z</kbd> undo, arrows move"
)


class Gallery:
    """One set of answers on a page."""

    def __init__(self, bench: Bench, found: AnswerSet) -> None:
        self.bench, self.space, self.found = bench, bench.workspace, found
        self.model = self.space.place(str(found.about.get("model") or ""))
        known = training_labels(self.model, found.class_names)
        self.book = LabelBook(found.folder / "labels", known)
        given = [label for label in self.book.labels().values() if label not in found.class_names]
        self.names = [*found.class_names, *dict.fromkeys(given)]
        self.selected: set[int] = set()
        self.anchor = 0
        self.first = 0
        self.filters = {"class": "", "sure": "", "order": "", "label": ""}
        self.tiles: dict[int, Any] = {}

    def path(self, row: int) -> Path:
        return self.space.place(self.found.answers[row].sample)

    def build(self) -> None:
        self._summary()
        with w.panel("Answers"):
            self._filter_row()
            w.html(BORDERS)
            self._tools()
            self.place = w.element("div")
        self._after()
        self.show()

    # --- what is shown -------------------------------------------------------------------------

    def _summary(self) -> None:
        about = self.found.about
        level = "ok" if all(answer.ok for answer in self.found.answers) else "unsure"
        with w.panel(self.found.headline, f"hero {level}"):
            w.text("p", f"by {about.get('model')}, from {about.get('source')}", "muted small")
            w.stats(self.found.counts())
            w.stats(self.found.summary())
            with w.element("div", "line"):
                w.link("Download the table (CSV)", f"/download/{self.found.folder.name}")
            w.command_box(command_of(about))

    def _filter_row(self) -> None:
        with w.element("div", "line"):
            classes = {"": "all", **{name: name for name in self.found.class_names}}
            for key, words, options in (
                ("class", "Answer", classes),
                ("sure", "How sure", SURENESS),
                ("label", "Label", {"": "all", "with": "has one", "without": "has none"}),
                ("order", "Order", ORDERS),
            ):
                field = ui.select(options, label=words, value="").props("outlined dense")
                field.classes("grow").style("flex-basis:170px")
                field.on_value_change(lambda event, key=key: self.filter(key, event.value))

    def filter(self, key: str, value: str) -> None:
        self.filters[key] = value or ""
        self.first = 0
        self.show()

    def rows(self) -> list[int]:
        """Numbers of the answers that pass the filters, in the order asked for."""
        wanted = self.filters
        shown = [
            row
            for row, answer in enumerate(self.found.answers)
            if wanted["class"] in ("", answer.predicted)
            and wanted["sure"] in ("", confidence(answer)[0])
            and wanted["label"] in ("", "with" if self.book.label_of(self.path(row)) else "without")
        ]
        if wanted["order"]:
            sign = 1 if wanted["order"] == "up" else -1
            shown.sort(key=lambda row: sign * (self.found.answers[row].probability or 0.0))
        return shown

    def show(self) -> None:
        """Make the grid anew."""
        rows = self.rows()
        part = rows[self.first : self.first + PAGE]
        self.place.clear()
        self.tiles = {}
        with self.place:
            if not part:
                w.text("p", "No picture passes these filters.", "muted")
            grid = w.element("div", "grid").props(
                'role="listbox" aria-multiselectable="true" aria-label="Pictures"'
            )
            grid.on("keydown", self._event, js_handler=ON_KEY)
            grid.on("click", self._event, js_handler=ON_CLICK)
            with grid:
                for row in part:
                    self.tiles[row] = self._tile(row)
            self._pager(len(rows))
        self._tell()

    def _pager(self, total: int) -> None:
        if total <= PAGE:
            return
        last = min(self.first + PAGE, total)
        with w.element("div", "line"):
            before = w.button("Earlier", lambda: self.turn(-PAGE))
            w.text("span", f"{self.first + 1:,} to {last:,} of {total:,}", "muted")
            after = w.button("Later", lambda: self.turn(PAGE))
        before.set_enabled(self.first > 0)
        after.set_enabled(last < total)

    def turn(self, by: int) -> None:
        self.first = max(0, self.first + by)
        self.show()

    def _tile(self, row: int) -> Any:
        answer = self.found.answers[row]
        key, _ = confidence(answer)
        tile = w.html(self._tile_html(row, answer), f"tile {key}")
        return tile.props(self._tile_props(row, answer))

    def _tile_props(self, row: int, answer: Answer) -> str:
        what, how = _words(answer)
        label = self.book.label_of(self.path(row))
        words = f"{Path(answer.sample).name}: {what}, {how}{f', label {label}' if label else ''}"
        chosen = "true" if row in self.selected else "false"
        quoted = escape(words).replace("\\", "\\\\")
        return (
            f'role="option" tabindex="0" data-key="{row}" aria-selected="{chosen}" '
            f'aria-label="{quoted}"'
        )

    def _tile_html(self, row: int, answer: Answer) -> str:
        what, how = _words(answer)
        if answer.ok:
            source = self.bench.thumb(self.bench.thumbnails.add(self.path(row)))
            picture = f'<img loading="lazy" src="{source}" alt="">'
        else:
            picture = f'<span class="noimg">{escape(answer.reason)}</span>'
        label = self.book.label_of(self.path(row))
        given = f'<span class="given">label: {escape(label)}</span>' if label else ""
        mark = "✓" if row in self.selected else ""
        return (
            f'<span class="pick" aria-hidden="true" title="select">{mark}</span>{picture}'
            f'<span class="what">{escape(what)}</span><span class="how">{escape(how)}</span>'
            f'<span class="file">{escape(Path(answer.sample).name)}</span>{given}'
        )

    def renew(self, rows: set[int]) -> None:
        """Show some tiles anew, in place: the focus stays."""
        for row in rows & self.tiles.keys():
            answer = self.found.answers[row]
            self.tiles[row].content = self._tile_html(row, answer)
            self.tiles[row].props(self._tile_props(row, answer))
        self._tell()

    # --- selecting and labelling ---------------------------------------------------------------

    def _tools(self) -> None:
        with w.element("div", "tools gap").props('role="toolbar" aria-label="Labels"'):
            self.count = w.text("span", "", "small").props('role="status"')
            self.labels = w.element("div", "line").style("margin:0")
            self.undoer = w.button("Undo", self.undo, "tiny")
            w.button("Select all shown", self.select_all, "tiny")
            w.button("Select none", self.select_none, "tiny")
        self._label_buttons()
        with w.element("div", "line"):
            name = ui.input("Another label").props("outlined dense")
            w.button("Add label", lambda: self.add_label(name), "tiny")
            w.html(HELP, "muted small")

    def _label_buttons(self) -> None:
        self.labels.clear()
        with self.labels:
            for number, name in enumerate(self.names[:KEYS], start=1):
                w.button(f"{number}: {name}", lambda name=name: self.give(name), "tiny")
            w.button("0: no label", lambda: self.give(""), "tiny")

    def add_label(self, field: Any) -> None:
        name = str(field.value or "").strip()
        if not name or "|" in name or name in self.names:
            w.say("Give a name that is not there yet, without '|'.")
            return
        self.names.append(name)
        field.value = ""
        self._label_buttons()

    async def _event(self, event: Any) -> None:
        key, row = str(event.args["key"]), int(event.args["tile"])
        if key == " ":
            self.toggle(row, bool(event.args.get("shift")))
        elif key == "Enter" and row in self.tiles:
            AnswerDialog(self.bench, self.found, tuple(self.tiles), row).open()
        elif key == "cz":
            self.undo()
        elif key == "ca":
            self.select_all()
        elif key.isdecimal():
            number = int(key)
            if number <= len(self.names):
                await self.give("" if number == 0 else self.names[number - 1], row)

    def toggle(self, row: int, through: bool) -> None:
        """Select a picture, or with Shift all from the last one on."""
        order = list(self.tiles)
        changed = {row}
        if through and self.anchor in order:
            ends = sorted((order.index(self.anchor), order.index(row)))
            changed = set(order[ends[0] : ends[1] + 1])
            self.selected |= changed
        else:
            self.selected ^= changed
        self.anchor = row
        self.renew(changed)

    def select_all(self) -> None:
        self.selected |= set(self.tiles)
        self.renew(set(self.tiles))

    def select_none(self) -> None:
        before, self.selected = self.selected, set()
        self.renew(before)

    async def give(self, name: str, focused: int | None = None) -> None:
        """Label the selected pictures, or the one with the focus; conflicts are asked about."""
        rows = self.selected or ({focused} if focused is not None else set())
        if not rows:
            w.say("Select pictures first: click the box in their corner, or press Space.")
            return
        wanted = {self.path(row): name for row in sorted(rows)}
        clashes = await run.io_bound(self.book.clashes, list(wanted), name) if name else []
        if clashes:
            answer = await ask_clash(clashes)
            if answer is None:
                return
            if answer == "known":
                wanted |= {clash.path: clash.known for clash in clashes}
        changed = self.book.give(wanted, "by hand" if not clashes else "by hand, conflict settled")
        w.say(f"{changed} label{'' if changed == 1 else 's'} changed.")
        self.renew(set(rows))

    def undo(self) -> None:
        changed = self.book.undo()
        w.say(f"Undone: {changed} label{'' if changed == 1 else 's'}." if changed else "No step.")
        self.renew(set(self.tiles))

    def _tell(self) -> None:
        w.set_words(self.count, f"{len(self.selected):,} selected")
        self.undoer.set_enabled(self.book.can_undo)

    # --- what follows --------------------------------------------------------------------------

    def _after(self) -> None:
        with w.panel("What next?"):
            with w.element("div", "line"):
                target = ui.input("New folder", value=f"sorted/{self.found.folder.name}")
                target.props("outlined dense").classes("grow")
                least = ui.number("Least probability", value=0.9, min=0, max=1, step=0.05)
                least.props("outlined dense")
                w.button(
                    "Sort copies into folders",
                    lambda: self.sort(target.value, 0.9 if least.value is None else least.value),
                )
            with w.element("div", "line"):
                w.button("Add labelled pictures to class folders", self.add)
                w.button("Correct the training labels (relabel)", self.relabel)
            w.text(
                "p",
                "Sorting copies each picture into a folder named by its answer, less sure ones "
                "into _review; originals stay. "
                "Labels are kept beside the answers, with a journal of who decided what when.",
                "muted small",
            )
            self.told = w.element("div").props('aria-live="polite"')

    def _report(self, words: str, command: str = "") -> None:
        self.told.clear()
        with self.told:
            w.text("p", words)
            if command:
                w.command_box(command)

    def _fail(self, message: str) -> None:
        self.told.clear()
        with self.told:
            w.problem(message)

    async def sort(self, target: str, least: float) -> None:
        def work() -> str:
            bundle, _ = self.bench.models.open(self.model)
            return sort_answers(self.space, self.found, bundle, target, least).text()

        said, message = await w.attempt(work)
        if said is None:
            self._fail(message)
        else:
            # `target` is there now: the command needs a folder of its own
            asked = shlex.join(["--sort-into", "NAME", "--min-prob", f"{least:g}"])
            self._report(said, f"{command_of(self.found.about)} {asked}")

    async def add(self) -> None:
        """Copy labelled pictures into class folders of the workspace."""
        data = self.space.place(self.space.read().data or "images/labelled")
        inside = data.is_relative_to(self.space.root / "images")
        root = data if inside else self.space.root / "images" / "labelled"
        done, message = await w.attempt(add_to_classes, self.book, ClassFolders(root))
        if done is None:
            self._fail(message)
            return
        added = sum(each.path is not None for each in done)
        left = [f"{each.name}: {each.reason}" for each in done if each.path is None]
        more = f" Left out: {'; '.join(left[:5])}." if left else ""
        self._report(f"{added:,} pictures added to {root}.{more}")

    async def relabel(self, choices: dict[str, str] | None = None) -> None:
        """Bring the labels into the data that the model was trained on."""
        try:
            source = Run.open(self.model).config.data
        except ScanwiseError as error:
            self._fail(str(error))
            return
        output = self.space.root / "labels" / f"{data_name(source)}-labels"
        found, message = await w.attempt(relabel_training, source, self.book, output, choices)
        if found is None:
            self._fail(message)
        elif found.applied is None:
            await self._settle(found)
        else:
            name = self.space.name_of
            command = (
                f"scanwise relabel apply {name(found.decisions)} --data {source} --output "
                f"{name(output)}"
            )
            self._report(found.applied.text(), command)

    async def _settle(self, found: Relabelled) -> None:
        choices: dict[str, str] = {}
        for conflict in found.conflicts:
            options = [*conflict.answers]
            if conflict.earlier is not None:
                options.append(conflict.earlier.new)
            said = await ask(f"Which label is right? {conflict}", dict.fromkeys(options))
            if said is None:
                self._fail("no label was changed: a conflict was left open.")
                return
            choices[conflict.path] = said
        await self.relabel(choices)


def _words(answer: Answer) -> tuple[str, str]:
    """Two short lines below a picture: the answer, and how sure it is."""
    key, words = confidence(answer)
    if key == "error":
        return "no answer", words
    name = answer.predicted or "none of them"
    return f"{name} {answer.probability or 0.0:.3f}", words


async def ask_clash(clashes: list[Clash]) -> str | None:
    """'known', 'new', or None for neither."""
    more = f" … and {len(clashes) - 3} more." if len(clashes) > 3 else ""
    words = " ".join(str(clash) for clash in clashes[:3]) + more
    options = {"known": "Keep the label that is known", "new": "Use the new label all the same"}
    return await ask(words, options, "One picture, two labels (conflict)")


async def ask(words: str, options: dict[str, Any], title: str = "Conflict") -> str | None:
    """A question with buttons; None where it is left."""
    with ui.dialog().props('aria-label="Question"') as dialog, ui.card().classes("dialog"):
        w.text("h2", title)
        w.text("p", words)
        with w.element("div", "line"):
            for value, shown in options.items():
                w.button(str(shown or value), lambda value=value: dialog.submit(value))
            w.button("Cancel", lambda: dialog.submit(None), "quiet")
    answer = await dialog
    dialog.delete()
    return None if answer is None else str(answer)

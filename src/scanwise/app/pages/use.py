"""Step 5: ask the model about new pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nicegui import run, ui

from scanwise.app import widgets as w
from scanwise.app.answers import IMAGES, AnswerSet, answer_inputs, new_set_folder, read_set
from scanwise.app.folders import DATA_FILES, free_name, safe_name
from scanwise.app.pages.data import MOST_BYTES, browse
from scanwise.app.pages.gallery import Gallery
from scanwise.app.widgets import Bench
from scanwise.core.errors import DataError, ScanwiseError
from scanwise.core.files import atomic_path
from scanwise.pipeline.find_inputs import find_inputs
from scanwise.pipeline.runs import Run

LEAD = (
    "Drop new pictures, or choose a folder of them. The model answers with a probability for each "
    "class, and says so where a picture is unlike anything it was trained on."
)


async def build(bench: Bench) -> None:
    with w.frame(bench, "/use", "Use it on new pictures", LEAD):
        page = Use(bench)
        page.build()
        request = ui.context.client.request
        wanted = request.query_params.get("answers", "") if request is not None else ""
        if wanted:
            await page.open(bench.workspace.predictions / Path(wanted).name)


@dataclass
class Work:
    """How far a prediction is; written by a thread, read by the page."""

    done: int = 0
    total: int = 0
    cancelled: bool = False

    def told(self, done: int, total: int) -> None:
        self.done, self.total = done, total


class Use:
    """Which model, which pictures; then the gallery of answers."""

    def __init__(self, bench: Bench) -> None:
        self.bench, self.space = bench, bench.workspace
        self.work: Work | None = None

    def build(self) -> None:
        models = self.space.models()
        state = self.space.read()
        chosen = state.model or state.run
        if chosen and chosen not in models and (self.space.place(chosen) / "bundle").is_dir():
            models.insert(0, chosen)
        if not models:
            w.hint("There is no model yet.", "/train", "Train one first")
        else:
            self._ask_panel(models, chosen)
        self.place = w.element("div").props('aria-live="polite"')

    def _ask_panel(self, models: list[str], chosen: str) -> None:
        with w.panel("Ask"):
            with w.element("div", "line"):
                self.model = ui.select(
                    models, label="Model", value=chosen if chosen in models else models[0]
                )
                self.model.props("outlined dense").classes("grow")
                self.model.on_value_change(lambda event: self.space.change(model=event.value))
            ui.upload(
                label="Drop pictures here, or press + to choose some",
                multiple=True,
                auto_upload=True,
                max_file_size=MOST_BYTES,
                on_multi_upload=self.dropped,
                on_rejected=lambda: w.say(f"Files over {MOST_BYTES >> 20} MB are not taken."),
            ).props("flat")
            with w.element("div", "line"):
                self.folder = ui.input("… or the path of a folder of pictures")
                self.folder.props("outlined dense").classes("grow")
                self.folder.on("keydown.enter", self.asked)
                w.button("Browse …", lambda: browse(self._browsed))
                w.button("Ask about this folder", self.asked, "primary")
                w.button("The training images", self.training, "quiet")

    async def _browsed(self, path: Path) -> None:
        self.folder.value = str(path)
        await self.asked()

    async def dropped(self, event: Any) -> None:
        """Keep the dropped files in a new set, and ask about them."""
        folder, message = await w.attempt(new_set_folder, self.space)
        if folder is None:
            self._problem(message)
            return
        refused = []
        for file in event.files:
            try:
                name = picture_name(file.name)
            except DataError as error:
                refused.append(str(error))
                continue
            target = free_name(folder / IMAGES / name)
            await run.io_bound(_save, target, await file.read())
        if refused:
            w.say(" ".join(refused[:3]))
        if len(refused) < len(event.files):
            await self.ask(folder, f"{self.space.name_of(folder / IMAGES)}/*")

    async def asked(self) -> None:
        given = str(self.folder.value or "").strip()
        if not given:
            self._problem("name a folder of pictures first.")
            return
        await self.ask(None, self.space.name_of(given))

    async def training(self) -> None:
        """Ask about the images that the model was trained on: to find and mend wrong labels."""
        try:
            data = Run.open(self.space.place(self.model.value)).config.data
        except ScanwiseError as error:
            self._problem(str(error))
            return
        self.folder.value = data
        await self.asked()

    async def ask(self, folder: Path | None, source: str) -> None:
        """Predict in a thread, show how far it is, then the gallery."""
        if self.work is not None:
            w.say("One set is being answered already; wait for it or cancel it.")
            return
        self.work = work = Work()
        self.place.clear()
        with self.place:
            self._progress(work)
        found, message = await w.attempt(self._predict, self.model.value, folder, source)
        self.work = None
        if self.place.is_deleted:
            return
        if found is None:
            self._problem(message)
        else:
            self._show(found)

    def _predict(self, model: str, folder: Path | None, source: str) -> AnswerSet:
        work = self.work or Work()
        # Names are as commands in the workspace have them; the server runs there.
        inputs = find_inputs([source])
        opened = self.bench.models.open(self.space.place(model))
        return answer_inputs(
            self.space,
            folder or new_set_folder(self.space),
            model,
            opened,
            source,
            inputs,
            work.told,
            lambda: work.cancelled,
        )

    def _progress(self, work: Work) -> None:
        def cancel() -> None:
            work.cancelled = True

        with w.panel("Looking …"):
            words = w.text("p", "Opening the model …").props('role="status"')
            bar = ui.linear_progress(0.0, show_value=False, color=None)
            bar.props('size="10px" aria-label="Share of the pictures answered"')
            with w.element("div", "line"):
                w.button("Cancel", cancel)

            def look() -> None:
                if work.total:
                    w.set_words(words, f"{work.done:,} of {work.total:,} pictures answered")
                    bar.set_value(work.done / work.total)

            ui.timer(0.4, look)

    def _problem(self, message: str) -> None:
        self.place.clear()
        with self.place:
            w.problem(message)

    async def open(self, folder: Path) -> None:
        """Show answers that were given before."""
        found, message = await w.attempt(read_set, folder)
        if found is None:
            self._problem(message)
        else:
            self._show(found)

    def _show(self, found: AnswerSet) -> None:
        self.place.clear()
        with self.place:
            Gallery(self.bench, found).build()
        self.place.run_method("scrollIntoView")


def picture_name(name: str) -> str:
    """The name under which a dropped file is kept.

    Raises:
        DataError: If it can't be a file name, or is that of a table or an array.
    """
    clean = safe_name(Path(name.replace("\\", "/")).name, "name of a file")
    if Path(clean).suffix.lower() in DATA_FILES:
        raise DataError(f"{clean} is a list or an array, not a picture: give its path instead.")
    return clean


def _save(path: Path, data: bytes) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)

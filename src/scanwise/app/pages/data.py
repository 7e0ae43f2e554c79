"""Step 1: which images?"""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

from nicegui import run, ui

from scanwise.app import widgets as w
from scanwise.app.folders import ClassFolders, Listing, list_folder, safe_name
from scanwise.app.jobs import command_text
from scanwise.app.plans import check_words
from scanwise.app.preview import Preview, preview
from scanwise.app.widgets import Bench
from scanwise.app.workspace import data_name, is_named, is_run
from scanwise.core.errors import ScanwiseError
from scanwise.data.medmnist_table import MEDMNIST

MOST_BYTES = 200 * 2**20  # of one dropped file
LEAD = (
    "Show scanwise your pictures: one folder for each kind (class), such as ill/ and well/. "
    "Nothing leaves this computer, and your files are never changed."
)


async def build(bench: Bench) -> None:
    with w.frame(bench, "/data", "Which images?", LEAD):
        chosen = w.element("div")
        ways = Ways(bench, chosen)
        ways.build()
        await ways.show_chosen()


class Ways:
    """The ways to name data, and what is chosen."""

    def __init__(self, bench: Bench, chosen: Any) -> None:
        self.bench, self.chosen = bench, chosen
        self.target = ""  # class folders that are being filled

    def build(self) -> None:
        with w.panel("Where are they?"):
            with ui.tabs().props("align=left no-caps mobile-arrows outside-arrows") as tabs:
                folder = ui.tab("folder", "A folder")
                drop = ui.tab("drop", "Drop images")
                other = ui.tab("other", "Public set or file")
                demo = ui.tab("demo", "Demo")
            with ui.tab_panels(tabs, value=folder, animated=False).classes("w-full"):
                with ui.tab_panel(folder):
                    self._folder()
                with ui.tab_panel(drop):
                    self._drop()
                with ui.tab_panel(other):
                    self._other()
                with ui.tab_panel(demo):
                    w.text(
                        "p",
                        "Synthetic pictures that look a little like blood smears: for a first walk "
                        "through all five steps. They are made up, and say so everywhere.",
                    )
                    w.button("Use the demo", lambda: self.choose("demo:cells"), "primary")

    # --- a folder ------------------------------------------------------------------------------

    def _folder(self) -> None:
        w.text(
            "p",
            "The folder that holds one sub-folder for each class. Sub-folders called train, val "
            "and test are taken as the split.",
        )
        with w.element("div", "line"):
            typed = ui.input("Path of the folder").props("outlined dense").classes("grow")
            typed.on("keydown.enter", lambda: self.choose(typed.value))
            w.button("Browse …", lambda: browse(lambda path: self.choose(str(path))))
            w.button("Use this folder", lambda: self.choose(typed.value), "primary")

    # --- pictures dropped into classes ---------------------------------------------------------

    def _drop(self) -> None:
        w.text(
            "p",
            "No folders yet? Name the classes, and drop pictures into each. They are copied into "
            "the workspace, one folder for each class.",
        )
        with w.element("div", "line"):
            name = ui.input("Name of the set", value="my images").props("outlined dense")
            klass = ui.input("New class, such as ill").props("outlined dense").classes("grow")
            klass.on("keydown.enter", lambda: add())
            w.button("Add class", lambda: add())
        shown = w.element("div")

        def folders() -> ClassFolders:
            return ClassFolders(self.bench.workspace.root / "images" / safe_name(name.value))

        def add() -> None:
            try:
                folders().add_class(klass.value)
                klass.value = ""
            except ScanwiseError as error:
                w.say(str(error))
            refresh()

        def refresh() -> None:
            shown.clear()
            with shown:
                self._class_boxes(folders)

        name.on("change", refresh)
        refresh()

    def _class_boxes(self, folders: Any) -> None:
        try:
            target: ClassFolders = folders()
        except ScanwiseError as error:
            w.problem(str(error))
            return
        with w.element("ul", "classes"):
            for name, images in target.classes().items():
                with w.element("li", "class"):
                    self._class_box(target, name, images)
        if len(target.classes()) >= 2:
            with w.element("div", "line"):
                w.button("Use these images", lambda: self.choose(str(target.root)), "primary")

    def _class_box(self, target: ClassFolders, name: str, images: int) -> None:
        with w.element("div", "head"):
            w.text("span", name, "name")
            count = w.text("span", f"{images:,} images", "n")

        async def received(event: Any) -> None:
            data = await event.file.read()
            added = await run.io_bound(target.add_image, name, event.file.name, data)
            if added is not None and added.path is None:
                w.say(f"{added.name} was not added: {added.reason}.")
            w.set_words(count, f"{target.classes().get(name, 0):,} images")

        ui.upload(
            label=f"Drop images of '{name}' here, or press +",
            multiple=True,
            auto_upload=True,
            max_file_size=MOST_BYTES,
            on_upload=received,
            on_rejected=lambda: w.say(f"Files over {MOST_BYTES >> 20} MB are not taken."),
        ).props("flat").classes("gap")

    # --- public sets and files -----------------------------------------------------------------

    def _other(self) -> None:
        w.text(
            "p",
            "A MedMNIST set by its name (downloaded once, then kept), or the path of an .npz file "
            "or of a table (.csv) with the columns path and label.",
        )
        with w.element("div", "line"):
            names = {f"medmnist:{flag}": f"{flag}" for flag in sorted(MEDMNIST)}
            picked = ui.select(names, label="MedMNIST set").props("outlined dense").classes("grow")
            w.button("Use this set", lambda: self.choose(picked.value or ""))
        with w.element("div", "line"):
            typed = ui.input("Path of a .csv or .npz file, or medmnist:NAME@SIZE")
            typed.props("outlined dense").classes("grow")
            typed.on("keydown.enter", lambda: self.choose(typed.value))
            w.button("Browse …", lambda: browse(lambda path: self.choose(str(path)), files=True))
            w.button("Use this file", lambda: self.choose(typed.value))

    # --- what is chosen ------------------------------------------------------------------------

    async def choose(self, source: str) -> None:
        """Read the data; take them if that works, else say why not."""
        source = str(source or "").strip()
        if source and not is_named(source):
            source = str(self.bench.workspace.place(source))
        self.chosen.clear()
        with self.chosen, w.panel(), w.element("div", "line"):
            ui.spinner(size="28px", color=None)
            w.text("p", "Reading the images …").props('role="status"')
        found, message = await w.attempt(preview, source)
        if self.chosen.is_deleted:
            return
        if found is None:
            await self.show_chosen()
            with self.chosen:
                w.problem(message)
            self.chosen.run_method("scrollIntoView")
            return
        state = self.bench.workspace.read()
        if source != state.data:
            self.bench.workspace.change(data=source, check="", settings={})
        self.bench.previews[source] = found
        await self.show_chosen()
        w.say(f"{data_name(source)}: {found.sentence}")

    async def show_chosen(self) -> None:
        """The chosen data: counts and some pictures of each class."""
        source = self.bench.workspace.read().data
        if not source:
            self.chosen.clear()
            return
        found: Preview | None = self.bench.previews.get(source)
        if found is None:
            found, message = await w.attempt(preview, source)
        if self.chosen.is_deleted:
            return
        self.chosen.clear()
        with self.chosen:
            if found is None:
                w.problem(message, "The images chosen before can't be read any more")
                return
            self.bench.previews[source] = found
            self._chosen_panel(found)

    def _chosen_panel(self, found: Preview) -> None:
        with w.panel(f"Your data: {data_name(found.source)}"):
            w.text("p", found.sentence)
            w.text("p", found.source, "muted small")
            most = max((each.images for each in found.classes), default=1) or 1
            with w.element("ul", "classes"):
                for each in found.classes:
                    share = 100 * each.images / most
                    with w.element("li", "class"):
                        w.html(
                            f'<div class="head"><span class="name">{escape(each.name)}</span>'
                            f'<span class="n">{each.images:,} images</span></div>'
                            f'<div class="bar" aria-hidden="true"><span style="width:{share:.1f}%">'
                            "</span></div>"
                        )
                        self._samples(each.samples)
            with w.element("div", "line"):
                w.link("Next: check them", "/check", "primary")
            w.command_box(
                command_text(
                    check_words(self.bench.workspace.source_name(found.source), "checks/NAME")
                )
            )

    def _samples(self, samples: Any) -> None:
        pictures = "".join(
            f'<img loading="lazy" src="{self.bench.thumb(self.bench.thumbnails.add(source))}" '
            f'alt="{escape(name)}">'
            for name, source in samples
        )
        w.html(pictures, "thumbs")


def browse(chosen: Any, *, files: bool = False) -> None:
    """A dialog that walks through the folders of this computer."""
    with ui.dialog() as dialog, ui.card().classes("dialog"):
        w.text("h2", "Choose a folder" if not files else "Choose a file")
        place = w.element("div")
    state = {"path": Path.home()}

    def show(path: Path) -> None:
        try:
            listing = list_folder(path)
        except ScanwiseError as error:
            w.say(str(error))
            return
        state["path"] = listing.path
        place.clear()
        with place:
            _listing(listing, show, pick if files else None)

    async def pick(path: Path) -> None:
        dialog.close()
        await chosen(path)

    with dialog, place.parent_slot.parent, w.element("div", "line end"):
        w.button("Cancel", dialog.close)
        if not files:
            w.button("Use this folder", lambda: pick(state["path"]), "primary")
    show(Path.home())
    dialog.open()


def _listing(listing: Listing, show: Any, pick: Any) -> None:
    w.text("p", str(listing.path), "muted small").props('aria-live="polite"')
    what = "a run of scanwise, " if is_run(listing.path) else ""
    w.text(
        "p",
        f"{what}{listing.images:,} images and {len(listing.folders):,} folders in here",
        "small",
    )
    with w.element("ul", "folders"):
        if listing.parent is not None:
            _entry("↑ up to " + (listing.parent.name or "/"), lambda: show(listing.parent))
        for name in listing.folders:
            _entry(f"{name}/", lambda name=name: show(listing.path / name))
        for name in listing.files if pick is not None else ():
            _entry(name, lambda name=name: pick(listing.path / name))


def _entry(words: str, action: Any) -> None:
    with w.element("li"):
        w.text("button", words).props('type="button"').on("click", action)

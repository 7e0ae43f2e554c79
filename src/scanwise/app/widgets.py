"""Pieces that every page is made of: the frame with its steps, texts, buttons, command boxes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

from nicegui import run, ui

from scanwise.app import jobs
from scanwise.app.preview import Preview
from scanwise.app.progress import Progress, read_progress
from scanwise.app.thumbnails import Thumbnails
from scanwise.app.workspace import THEMES, State, Workspace
from scanwise.core.errors import ScanwiseError
from scanwise.report.pages import NOT_A_DEVICE

if TYPE_CHECKING:
    from scanwise.app.answers import Models

T = TypeVar("T")

STEPS = (
    ("/data", "Data"), ("/check", "Check"), ("/train", "Train"),
    ("/results", "Results"), ("/use", "Use"),
)  # fmt: skip
MORE = (("/runs", "Runs"), ("/history", "History"), ("/system", "System"))
THEME_WORDS = {"auto": "Colours: system", "light": "Colours: light", "dark": "Colours: dark"}
THEME_VALUES = {"auto": None, "light": False, "dark": True}


@dataclass
class Bench:
    """What all pages share."""

    workspace: Workspace
    thumbnails: Thumbnails = field(default_factory=Thumbnails)
    previews: dict[str, Preview] = field(default_factory=dict)

    @functools.cached_property
    def models(self) -> Models:
        """Opened models; torch is imported with the first."""
        from scanwise.app.answers import Models

        return Models()

    def thumb(self, key: str, side_px: int = 200) -> str:
        return f"/thumb/{quote(key)}?px={side_px}"

    def file_url(self, path: Path) -> str:
        """Address of a file of the workspace that pages may embed."""
        return f"/files/{quote(self.workspace.name_of(path))}"


def done_steps(workspace: Workspace, state: State) -> set[str]:
    """Steps whose result is there."""
    done = set()
    if state.data:
        done.add("/data")
    if state.check and (workspace.place(state.check) / "dataset.json").is_file():
        done.add("/check")
    if state.run and (workspace.place(state.run) / "report.html").is_file():
        done |= {"/train", "/results"}
    if workspace.predictions.is_dir() and any(workspace.predictions.iterdir()):
        done.add("/use")
    return done


@contextmanager
def frame(bench: Bench, path: str, title: str, lead: str) -> Iterator[None]:
    """A whole page: skip link, head with the steps, main with its title, foot."""
    state = bench.workspace.read()
    ui.page_title(f"{title} – scanwise workbench")
    dark = ui.dark_mode(THEME_VALUES[state.theme if state.theme in THEMES else "auto"])
    text("a", "Skip to the content", "skip").props('href="#main"')
    with element("header", "top"), element("div", "top-in"):
        with ui.element("a").classes("brand").props('href="/data"'):
            html("scanwise <i>workbench</i>", tag="span")
        with element("div", "more"):
            with element("nav", "links").props('aria-label="More pages"'):
                for address, words in MORE:
                    current = ' aria-current="page"' if address == path else ""
                    text("a", words).props(f'href="{address}"{current}')
            _theme_button(bench, dark, state.theme)
        with element("nav").props('aria-label="Steps"').style("width:100%"):
            _steps(path, done_steps(bench.workspace, state))
    with element("main", "page").props('id="main" tabindex="-1"'):
        text("h1", title)
        text("p", lead, "lead")
        yield
    with element("footer", "foot"):
        text("p", f"{NOT_A_DEVICE} Everything stays on this computer: {bench.workspace.root}")


def _steps(path: str, done: set[str]) -> None:
    with element("ol", "steps"):
        for number, (address, words) in enumerate(STEPS, start=1):
            current = ' aria-current="step"' if address == path else ""
            finished = address in done and address != path
            mark = "✓" if finished else str(number)
            state = '<span class="sr"> (done)</span>' if address in done else ""
            with element("li", "done" if finished else ""):
                ui.html(
                    f'<a href="{address}"{current}><span class="dot" aria-hidden="true">{mark}'
                    f"</span>{words}{state}</a>",
                    sanitize=False,
                )


def _theme_button(bench: Bench, dark: Any, theme: str) -> None:
    def turn() -> None:
        now = bench.workspace.read().theme
        after = THEMES[(THEMES.index(now) + 1) % len(THEMES)] if now in THEMES else "auto"
        bench.workspace.change(theme=after)
        dark.value = THEME_VALUES[after]
        shown.set_text(THEME_WORDS[after])

    shown = button(THEME_WORDS.get(theme, THEME_WORDS["auto"]), turn, "quiet tiny")


def element(tag: str, classes: str = "") -> Any:
    return ui.element(tag).classes(classes)


def text(tag: str, words: str, classes: str = "") -> Any:
    """An element that holds just these words, whatever is in them."""
    return ui.html(escape(words), sanitize=False, tag=tag).classes(classes)


def set_words(element: Any, words: str) -> None:
    """Change the words of a `text`; nothing is sent where they are the same."""
    if element.content != escape(words):
        element.content = escape(words)


def html(markup: str, classes: str = "", tag: str = "div") -> Any:
    """Markup of our own making, its values escaped already."""
    return ui.html(markup, sanitize=False, tag=tag).classes(classes)


def button(words: str, action: Callable[..., Any], kind: str = "") -> Any:
    return (
        ui.button(words, on_click=action, color=None)
        .props("no-caps unelevated no-wrap")
        .classes(f"b {kind}")
    )


def link(words: str, address: str, kind: str = "", *, new_tab: bool = False) -> Any:
    found = text("a", words, f"b {kind}").props(f'href="{address}"')
    if new_tab:
        found.props('target="_blank" rel="noopener"')
    return found


def panel(title: str = "", classes: str = "") -> Any:
    """A card with a heading; use it as a context."""
    box = element("section", f"panel {classes}")
    if title:
        with box:
            text("h2", title)
    return box


def hint(words: str, address: str = "", link_words: str = "") -> None:
    with element("div", "hint"):
        link_html = f' <a href="{address}">{escape(link_words)}</a>' if address else ""
        html(f"{escape(words)}{link_html}", tag="p")


def problem(message: str, title: str = "That did not work") -> None:
    """The command line's own message, which says the way out."""
    with element("div", "problem").props('role="alert"'):
        text("strong", title)
        text("p", f"error: {message}")


def command_box(command: str, caption: str = "The same in a terminal:") -> Any:
    """The equivalent command, to be copied; returns what `set_command` changes."""
    with element("div", "command"):
        text("p", caption, "cap")
        with element("div", "box"):
            shown = text("pre", command).props('tabindex="0" aria-label="Command"')
            copy = button("Copy", lambda: _copied(copy), "tiny")
            copy.on(
                "click",
                js_handler="(e) => navigator.clipboard.writeText("
                "e.currentTarget.parentElement.querySelector('pre').innerText)",
            )
    return shown


def _copied(copy: Any) -> None:
    copy.set_text("Copied")
    ui.timer(2.0, lambda: copy.set_text("Copy"), once=True)


def table(head: Sequence[str], rows: Sequence[Sequence[str]], classes: str = "") -> Any:
    """A plain table; a cell that begins with '<' is markup of our own."""
    cells = "".join(f'<th scope="col">{escape(word)}</th>' for word in head)
    body = "".join(f"<tr>{''.join(f'<td>{_cell(c)}</td>' for c in row)}</tr>" for row in rows)
    return html(
        f'<table class="t {classes}"><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table>',
        "tablewrap",
    ).props('tabindex="0" role="region" aria-label="Table"')


def _cell(cell: str) -> str:
    return str(cell) if isinstance(cell, Markup) else escape(str(cell))


class Markup(str):
    """Markup of our own making that a table must not escape."""


def facts(rows: Sequence[tuple[str, str]], head: tuple[str, str] = ("", "")) -> Any:
    return table(head, rows)


def stats(rows: Sequence[tuple[str, str]]) -> Any:
    """Numbers with a word each, side by side."""
    cells = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in rows)
    return html(cells, "stats", "dl")


async def attempt(work: Callable[..., T], *arguments: Any) -> tuple[T | None, str]:
    """Run blocking work in a thread; its value, or the message of what went wrong."""
    try:
        return await run.io_bound(work, *arguments), ""
    except ScanwiseError as error:
        return None, str(error)
    except OSError as error:
        return None, f"{error.strerror or error} ({error.filename or ''})"


def say(words: str) -> None:
    """A short message that goes by itself; screen readers say it."""
    ui.notify(words, type=None, position="bottom", timeout=4000, close_button="Close")


def live(bench: Bench, run_name: str) -> Progress:
    """Progress of a run of the workspace."""
    workspace = bench.workspace
    if not run_name:
        return read_progress(None, None, workspace.jobs)
    job = jobs.newest(workspace.jobs, "train", run_name)
    return read_progress(workspace.place(run_name), job, workspace.jobs)

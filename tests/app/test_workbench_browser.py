"""The workbench in a real browser: all five steps with real images, a killed server, keys only."""

from __future__ import annotations

import csv
import re
import shutil
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from scanwise.app import jobs
from scanwise.deploy.opening import open_model

EPOCHS = 40


def wait_for(condition, what: str, patience_s: float = 120.0) -> None:
    until = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < until, f"waited too long for {what}"
        time.sleep(0.2)


@pytest.mark.slow
def test_five_steps_with_real_images(workbench, watched, some_cells):
    served, page = workbench(), watched.page
    choose_data(page, served.url, some_cells)
    check(page, served.url)
    run = train_through_a_crash(page, served)
    results(page, served.url)
    use(page, served, run, some_cells)
    other_pages(page, served.url)
    assert watched.foreign == []
    # The browser says that the server was gone when it was killed; nothing else may be said.
    gone = ("ERR_CONNECTION_REFUSED", "WebSocket connection to", "ERR_CONNECTION_RESET")
    assert [text for text in watched.errors if not any(word in text for word in gone)] == []


def choose_data(page, url: str, cells: Path) -> None:
    page.goto(url)
    page.wait_for_url("**/data")
    page.get_by_label("Path of the folder").fill("/nowhere/at all")
    page.get_by_role("button", name="Use this folder").click()
    alert = page.get_by_role("alert")
    alert.get_by_text("error: /nowhere/at all does not exist").wait_for()
    page.get_by_label("Path of the folder").fill(str(cells))
    page.get_by_role("button", name="Use this folder").click()
    page.get_by_role("heading", name="Your data: blood cells").wait_for()
    assert page.get_by_text("78 images in 3 classes.").count() >= 1
    pictures = page.locator(".thumbs img")
    assert pictures.count() == 24
    wait_for(lambda: pictures.first.evaluate("e => e.naturalWidth") > 0, "a thumbnail")
    assert page.locator(".command pre").inner_text() == (
        f"scanwise check '{cells}' --output checks/NAME"
    )


def check(page, url: str) -> None:
    page.get_by_role("link", name="Next: check them").click()
    page.get_by_role("button", name="Check the images").click()
    page.get_by_role("heading", name="What was found").wait_for()
    assert page.get_by_text("Ready to train").count()
    assert page.locator(".finding").count() >= 1
    shown = page.locator(".pics img").first
    wait_for(lambda: shown.evaluate("e => e.naturalWidth") > 0, "a picture of the check")
    address = page.get_by_role("link", name="Open the whole check page").get_attribute("href")
    answer = httpx.get(url + address)
    assert "Data check" in answer.text
    assert "sandbox" in answer.headers["content-security-policy"]
    assert httpx.get(f"{url}/files/../workbench/state.json").status_code in (400, 404)
    assert httpx.get(f"{url}/data", headers={"host": "evil.example"}).status_code == 403
    evil = {"origin": "https://evil.example"}
    assert httpx.get(f"{url}/_nicegui_ws/socket.io/", headers=evil).status_code == 403


def train_through_a_crash(page, served) -> Path:
    """Start, kill the server, find the training again, stop, resume, finish."""
    page.get_by_role("link", name="Next: train").click()
    page.get_by_label("Passes over the images (epochs)").fill(str(EPOCHS))
    page.get_by_role("button", name="More settings").click()
    page.get_by_label("Side in pixels (size)").fill("32")
    page.get_by_label("Network (model), such as resnet18").fill("small_resnet:8")
    page.get_by_text("--model small_resnet:8").first.wait_for()
    page.get_by_role("button", name="Start training").click()
    folder = served.root / "workbench" / "jobs"
    wait_for(lambda: jobs.newest(folder, "train") is not None, "the training's start")
    job = jobs.newest(folder, "train")
    run = served.root / job.output
    page.get_by_text(re.compile(r"Learning: [1-9]\d* of 40 epochs done")).wait_for()
    assert page.get_by_label("Epoch line").inner_text().count(" - ") >= 8
    assert "train" in page.locator("svg.curve").first.get_attribute("aria-label")
    served.kill()
    assert jobs.is_running(job), "the training must outlive the server"
    served.start()
    page.goto(f"{served.url}/train")
    live = page.get_by_text(re.compile(r"Learning: \d+ of 40|Scoring the images|Finished\."))
    live.first.wait_for()
    stop = page.get_by_role("button", name="Stop", exact=True)
    if stop.count():  # on a fast machine it may be over
        stop.click()
        wait_for(lambda: not jobs.is_running(job), "the training's end")
        page.get_by_text(re.compile(r"Stopped\.|Finished\.")).first.wait_for()
        if page.get_by_role("button", name="Resume").count():
            page.get_by_role("button", name="Resume").click()
    page.get_by_role("link", name="Next: results").wait_for()
    with (run / "history.csv").open() as stream:
        assert [int(row["epoch"]) for row in csv.DictReader(stream)] == list(range(1, EPOCHS + 1))
    return run


def results(page, url: str) -> None:
    page.get_by_role("link", name="Next: results").click()
    page.get_by_role("heading", name="How good is it?").wait_for()
    assert page.get_by_text("test images", exact=False).count()
    report = page.frame_locator("iframe[title='The report']")
    report.get_by_text("Medical Image Classification Training Report").wait_for()
    page.get_by_label("Share, such as 0.95").fill("0.9")
    page.get_by_role("button", name="Choose the threshold").click()
    page.get_by_text("asked for: sensitivity of at least 0.9").wait_for()


def use(page, served, run: Path, cells: Path) -> None:
    """Drop pictures, one of them broken; compare every probability; label, undo, conflict."""
    new = served.root.parent / "new"
    new.mkdir()
    for number, file in enumerate(sorted((cells / "WBC").iterdir())[:5]):
        shutil.copy(file, new / f"{number}.png")
    (new / "5.png").write_bytes(b"not a picture")
    page.get_by_role("link", name="Next: use it").click()
    page.get_by_text("Drop pictures here").wait_for()
    page.locator("input[type=file]").set_input_files(sorted(new.iterdir()))
    page.get_by_role("heading", name="5 of 6 answered, 1 could not be read").wait_for()
    tiles = page.get_by_role("option")
    assert tiles.count() == 6
    assert "no answer" in tiles.nth(5).inner_text()
    folder = served.root / "predictions" / "set-001"
    with (folder / "predictions.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["status"] for row in rows] == ["ok"] * 5 + ["error"]
    bundle = open_model(run)
    direct = bundle.predict([served.root / row["path"] for row in rows])
    for number, (row, answer) in enumerate(zip(rows[:5], list(direct)[:5], strict=True)):
        tiles.nth(number).click()
        dialog = page.get_by_role("dialog")
        dialog.get_by_role("heading", name=f"{number}.png").wait_for()
        for name in bundle.class_names:
            shown = float(dialog.locator(f"[data-class='{name}']").inner_text())
            assert shown == pytest.approx(float(row[f"prob_{name}"]), abs=1e-6)
            np.testing.assert_allclose(answer.probabilities[name], shown, atol=1e-5)
        assert row["pred"] == answer.predicted
        if number == 0:
            dialog.get_by_role("button", name="Show where it looked").click()
            dialog.get_by_alt_text("The picture beside a map of the evidence").wait_for()
        dialog.get_by_role("button", name="Close").click()
        dialog.wait_for(state="hidden")
    with page.expect_download() as download:
        page.get_by_role("link", name="Download the table").click()
    assert Path(download.value.path()).read_bytes() == (folder / "predictions.csv").read_bytes()
    label_with_keys(page, folder)


def label_with_keys(page, folder: Path) -> None:
    tiles, journal = page.get_by_role("option"), folder / "labels" / "journal.csv"
    tiles.nth(0).focus()
    page.keyboard.press("3")  # WBC, as the class folders say: no conflict
    page.get_by_text("label: WBC").wait_for()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Space")
    page.locator('[role=option][aria-selected="true"]').wait_for()
    page.keyboard.press("1")  # Platelets: the training images know it as WBC
    dialog = page.get_by_role("dialog")
    dialog.get_by_text("is the same picture as WBC/").wait_for()
    assert len(journal.read_text().splitlines()) == 2, "nothing is written before it is settled"
    dialog.get_by_role("button", name="Use the new label all the same").click()
    page.get_by_text("label: Platelets").wait_for()
    page.get_by_role("button", name="Undo").click()
    page.get_by_text("label: Platelets").wait_for(state="detached")
    assert "undone" in journal.read_text()


def other_pages(page, url: str) -> None:
    page.goto(f"{url}/runs")
    page.get_by_text("Accuracy [95 %]").first.wait_for()
    page.goto(f"{url}/history")
    page.get_by_role("heading", name="predictions/set-001: 6 pictures").wait_for()
    page.get_by_role("link", name="Open", exact=True).click()
    page.get_by_role("heading", name="5 of 6 answered, 1 could not be read").wait_for()
    page.goto(f"{url}/system")
    page.get_by_text("Memory (RAM)").wait_for()


@pytest.mark.slow
def test_by_keyboard_on_a_narrow_dark_screen(workbench, watched, disc_run, tmp_path):
    """Every main button is reached with Tab, has a name, and works with Enter or Space."""

    def prepare(root: Path) -> None:
        shutil.copytree(disc_run.path, root / "runs" / "discs-001")
        (root / "new").mkdir()
        for number in range(3):
            image = np.random.default_rng(number).integers(0, 255, (16, 16), dtype=np.uint8)
            Image.fromarray(image).save(root / "new" / f"{number}.png")

    served, page = workbench(prepare), watched.page
    page.set_viewport_size({"width": 390, "height": 844})
    page.emulate_media(color_scheme="dark")
    page.goto(f"{served.url}/use")
    page.get_by_text("Drop pictures here").wait_for()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    names = tab_through(page, until="… or the path of a folder of pictures")
    assert {"Data", "Check", "Train", "Results", "Use", "Runs", "History", "System"} <= names
    page.keyboard.type("new")
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="3 pictures answered").wait_for()
    tab_through(page, until=re.compile(r"^0\.png"))
    page.keyboard.press("1")
    page.get_by_text("label: ").first.wait_for()
    page.keyboard.press("Control+z")
    page.get_by_text("label: ").first.wait_for(state="detached")
    page.keyboard.press("Enter")
    page.get_by_role("dialog").get_by_role("heading", name="0.png").wait_for()
    page.keyboard.press("Escape")
    page.get_by_role("dialog").wait_for(state="hidden")
    assert page.evaluate("document.body.classList.contains('body--dark')")
    pages = (
        "data",
        "check",
        "train",
        "results",
        "use?answers=set-001",
        "runs",
        "history",
        "system",
    )
    for scheme in ("dark", "light"):
        page.emulate_media(color_scheme=scheme)
        for path in pages:
            page.goto(f"{served.url}/{path}")
            page.locator("main h1").wait_for()
            page.wait_for_timeout(300)
            wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
            assert wide <= 0, f"/{path} is {wide} px wider than the screen"
            assert unnamed(page) == [], f"/{path}"
            assert pale(page) == [], f"/{path}, {scheme}"
    assert (watched.errors, watched.foreign) == ([], [])


ACCESSIBLE_NAME = """e => (e.getAttribute('aria-label') || (e.labels && e.labels[0]?.innerText)
  || e.closest('label')?.innerText || e.innerText || e.title || '').trim()"""


def tab_through(page, until) -> set[str]:
    """Names of what has the focus on the way."""
    names: set[str] = set()
    for _ in range(80):
        page.keyboard.press("Tab")
        name = page.evaluate(f"({ACCESSIBLE_NAME})(document.activeElement)")
        names.update(line.strip() for line in name.splitlines())
        if name.startswith(until) if isinstance(until, str) else until.search(name):
            return names
    pytest.fail(f"{until} was not reached with Tab; passed {sorted(names)}")


def unnamed(page) -> list[str]:
    """Things to press or fill in that a screen reader could not name."""
    return page.evaluate(
        f"""() => [...document.querySelectorAll('button, a[href], input, [role=option], img')]
        .filter(e => e.getClientRects().length && e.type !== 'hidden')
        .filter(e => e.tagName === 'IMG' ? e.getAttribute('alt') === null
                                         : !({ACCESSIBLE_NAME})(e) && e.tabIndex >= 0)
        .map(e => e.outerHTML.slice(0, 200))"""
    )


def pale(page) -> list[str]:
    """Texts whose contrast with what is behind them is under 4.5 (WCAG AA)."""
    return page.evaluate(
        r"""() => {
      const parse = c => (c.match(/[\d.]+/g) || []).map(Number);
      const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
        .map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
      const behind = e => { for (; e; e = e.parentElement) {
        const c = parse(getComputedStyle(e).backgroundColor);
        if (c.length === 3 || c[3] > .99) return c; } return [255, 255, 255]; };
      return [...document.querySelectorAll('main *, header *, footer *')]
        .filter(e => e.getClientRects().length && !e.closest('[aria-hidden=true]')
          && [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim()))
        .filter(e => !e.closest('.disabled, [disabled], iframe, svg'))
        .map(e => { const a = light(parse(getComputedStyle(e).color)), b = light(behind(e));
          return [(Math.max(a, b) + .05) / (Math.min(a, b) + .05), e]; })
        .filter(([ratio]) => ratio < 4.5)
        .map(([ratio, e]) => `${ratio.toFixed(2)} ${e.textContent.trim().slice(0, 60)}`);
    }"""
    )

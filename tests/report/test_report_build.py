"""The report is made from the run's files: every number is theirs, and nothing is invented."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from markdown_it import MarkdownIt

from scanwise.core.errors import RunError
from scanwise.report.build import build_report

SEED_ORDER = [
    "Overview",
    "Training Performance",
    "Evaluation",
    "Optimisation Recommendations",
    "Sample Outputs",
    "Conclusion",
]
INTERVAL = re.compile(r"\d\.\d{3} \[-?\d\.\d{3}, \d\.\d{3}\]")


def intervals_of(tree: Any) -> set[str]:
    """Every number with an interval in metrics.json, as it is printed."""
    found: set[str] = set()
    if isinstance(tree, dict):
        if tree.get("ci95"):
            low, high = tree["ci95"]
            found.add(f"{tree['value']:.3f} [{low:.3f}, {high:.3f}]")
        for part in tree.values():
            found |= intervals_of(part)
    if isinstance(tree, list):
        for part in tree:
            found |= intervals_of(part)
    return found


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports without figures, for tests that only read the words: ten times faster."""
    monkeypatch.setattr("scanwise.report.build.draw_figures", lambda run, diagnoses: {})


class Page(HTMLParser):
    """Tags, ids, links and the text outside of figures."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br", "i"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("i",) and self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def read(folder: Path, name: str) -> str:
    return (folder / name).read_text(encoding="utf-8")


def test_sections_stand_in_the_seeds_order(good_run: Path) -> None:
    markdown = read(good_run, "report.md")
    headings = re.findall(r"^## (.+)$", markdown, flags=re.MULTILINE)
    assert headings[:6] == SEED_ORDER
    html = read(good_run, "report.html")
    places = [html.index(f"<h2>{name}</h2>") for name in SEED_ORDER]
    assert places == sorted(places)
    for words in ("Epochs", "Batch size", "Learning rate", "Training loss", "Validation accuracy"):
        assert words in markdown.split("## Evaluation")[0]


def test_every_interval_printed_is_one_of_metrics_json(good_run: Path) -> None:
    stated = intervals_of(json.loads(read(good_run, "metrics.json")))
    printed = set(INTERVAL.findall(read(good_run, "report.md")))
    assert len(printed) > 40
    assert printed <= stated


def test_headline_numbers_have_interval_n_split_and_trivial_answer(good_run: Path) -> None:
    metrics = json.loads(read(good_run, "metrics.json"))
    test = metrics["splits"]["test"]
    html = read(good_run, "report.html")
    low, high = test["accuracy"]["ci95"]
    first_screen = html[: html.index("<h2>Overview</h2>")]
    assert f"{test['accuracy']['value']:.3f} [{low:.3f}, {high:.3f}]" in first_screen
    assert f"{test['trivial']['majority']['accuracy']:.3f}" in first_screen
    assert "test, n=400" in first_screen
    assert "test looked at 1 time" in first_screen
    assert "SYNTHETIC DATA" in first_screen
    assert "not a medical device" in first_screen
    assert metrics["split_sha256"][:12] in html
    assert "0 groups shared between splits (checked; 24 groups)" in html


def test_history_numbers_are_those_of_the_file(good_run: Path) -> None:
    lines = read(good_run, "history.csv").splitlines()
    last = dict(zip(lines[0].split(","), lines[-1].split(","), strict=True))
    markdown = read(good_run, "report.md")
    for name in ("loss", "val_loss", "accuracy", "val_accuracy"):
        assert f"{float(last[name]):.4f}" in markdown


def test_page_is_self_contained_valid_and_described(good_run: Path) -> None:
    html = read(good_run, "report.html")
    page = Page(html)
    assert page.open == []  # every element is closed
    assert "<script" not in html
    assert "url(http" not in html
    for tag, attributes in page.tags:
        for name in ("src", "href", "xlink:href"):
            target = attributes.get(name) or ""
            assert not re.match(r"(https?:)?//", target), (tag, target)
        if tag == "svg":
            assert len(attributes["aria-label"] or "") > 30
            assert attributes["role"] == "img"
        if tag == "img":
            assert attributes["alt"]
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    anchors = [a["href"][1:] for tag, a in page.tags if tag == "a" and (a["href"] or "")[0] == "#"]
    assert len(anchors) >= 8
    assert set(anchors) <= set(ids)
    assert page.tags[1] == ("html", {"lang": "en"}) or page.tags[0] == ("html", {"lang": "en"})
    assert "prefers-color-scheme: dark" in html
    assert "@media print" in html


def test_six_plots_as_png_and_svg_and_each_in_the_page(good_run: Path) -> None:
    document = json.loads(read(good_run, "report.json"))
    figures = document["files"]["figures"]
    for name in (
        "history",
        "confusion_matrix",
        "roc",
        "precision_recall",
        "samples_predicted",
        "mistakes",
        "reliability",
        "per_class",
        "samples",
    ):
        assert (good_run / figures[name]["png"]).is_file()
        assert (good_run / figures[name]["svg"]).is_file()
        assert len(figures[name]["alt"]) > 30
        assert f"](plots/{name}.png)" in read(good_run, "report.md")
    assert read(good_run, "report.html").count("<figure") >= 9


def test_markdown_parses_with_its_tables(good_run: Path) -> None:
    html = MarkdownIt("commonmark").enable("table").render(read(good_run, "report.md"))
    assert html.count("<table>") >= 5
    assert html.count("<h2>") == 7
    for line in read(good_run, "report.md").splitlines():
        if line.startswith("|"):
            assert line.endswith("|")


def test_report_json_holds_findings_numbers_and_steps(good_run: Path) -> None:
    document = json.loads(read(good_run, "report.json"))
    assert document["metrics"] == json.loads(read(good_run, "metrics.json"))
    for finding in document["findings"]:
        assert set(finding) == {"code", "severity", "evidence", "advice", "command"}
    assert {"T001", "D002"} <= {finding["code"] for finding in document["findings"]}
    assert 0 < len(document["recommendations"]) <= 5
    assert document["verdict"]["level"] == "ok"
    assert document["medical_device"] is False
    assert document["test_looks"] == 1
    assert document["split_sha256"] == document["metrics"]["split_sha256"]


def test_building_again_gives_the_same_files(good_run: Path, tmp_path: Path) -> None:
    copy = tmp_path / good_run.name
    shutil.copytree(good_run, copy)
    build_report(copy)
    for name in ("report.html", "report.md", "report.json"):
        assert (copy / name).read_bytes() == (good_run / name).read_bytes(), name
    assert not list(copy.rglob("*.part"))


@pytest.mark.usefixtures("undrawn")
def test_no_skill_is_a_red_banner_and_no_praise(
    make_run: Callable[..., Path], sim: SimpleNamespace
) -> None:
    folder = make_run(sim.Simulated(skill=0.0, synthetic=False))
    build_report(folder)
    html = read(folder, "report.html")
    assert 'class="banner stop"' in html
    assert "NO SKILL" in html
    assert 'class="hero bad"' in html
    assert "SYNTHETIC" not in html
    assert "Better than" not in html
    assert "**NO SKILL**" in read(folder, "report.md")


@pytest.mark.usefixtures("undrawn")
def test_collapse_is_named(make_run: Callable[..., Path], sim: SimpleNamespace) -> None:
    folder = make_run(sim.Simulated())
    metrics = json.loads(read(folder, "metrics.json"))
    metrics["splits"]["test"] |= {"skill": "collapsed", "skill_reason": "99.0% are 'blast'"}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    build_report(folder)
    assert "COLLAPSED" in read(folder, "report.html")
    document = json.loads(read(folder, "report.json"))
    assert document["verdict"]["level"] == "collapsed"
    assert "T009" in {finding["code"] for finding in document["findings"]}


@pytest.mark.usefixtures("undrawn")
def test_a_leak_is_stamped_and_the_clean_score_stands_beside(
    make_run: Callable[..., Path], sim: SimpleNamespace
) -> None:
    folder = make_run(sim.Simulated(leaked=60))
    build_report(folder)
    html, markdown = read(folder, "report.html"), read(folder, "report.md")
    metrics = json.loads(read(folder, "metrics.json"))
    clean = metrics["clean_test"]
    low, high = clean["accuracy"]["ci95"]
    assert "LEAKY" in html
    assert f"clean part: {clean['accuracy']['value']:.3f} [{low:.3f}, {high:.3f}]" in html
    assert f"on the clean part (n={clean['n']:,})" in markdown
    assert f"{clean['trivial']['majority']['accuracy']:.3f}" in markdown
    assert json.loads(read(folder, "report.json"))["leaky"] is True


@pytest.mark.usefixtures("undrawn")
def test_without_a_test_split_nothing_is_said_of_test(
    make_run: Callable[..., Path], sim: SimpleNamespace
) -> None:
    folder = make_run(sim.Simulated(test=False))
    build_report(folder)
    markdown = read(folder, "report.md")
    assert "Test: not measured." in markdown
    assert "no test set" in markdown
    assert "on validation only" in markdown
    assert "test images" not in markdown.split("## Training")[0].replace("has 0 test images", "")


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("metrics.json", "Evaluation: not measured"),
        ("history.csv", "Training performance: not available"),
        ("dataset.json", "Data: not available"),
        ("plan.yaml", "Plan: not available"),
        ("predictions.csv", "Sample images: not available"),
        ("training.json", "not recorded"),
        ("test_ledger.csv", "looks at test not recorded"),
    ],
)
def test_what_is_missing_is_said_to_be(
    missing: str, said: str, make_run: Callable[..., Path]
) -> None:
    folder = make_run()
    (folder / missing).unlink()
    build_report(folder)
    assert said in read(folder, "report.md")
    if missing == "metrics.json":
        assert not INTERVAL.search(read(folder, "report.md"))
        assert json.loads(read(folder, "report.json"))["metrics"] is None


def test_only_a_config_gives_a_report_without_a_number(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("data: x\n")
    build_report(tmp_path)
    markdown = read(tmp_path, "report.md")
    assert "Not measured" in markdown
    assert not re.search(r"\d\.\d{3}", markdown)


def test_no_run_folder_and_broken_files_are_named(
    tmp_path: Path, make_run: Callable[..., Path]
) -> None:
    with pytest.raises(RunError, match=r"no config\.yaml"):
        build_report(tmp_path)
    folder = make_run()
    (folder / "metrics.json").write_text("{not json")
    with pytest.raises(RunError, match=r"metrics\.json"):
        build_report(folder)
    assert not (folder / "report.html").exists()


def test_hostile_names_stay_text(make_run: Callable[..., Path], sim: SimpleNamespace) -> None:
    names = ("<script>alert(1)</script>", "腺癌", "a$b$|c", "*x* `y` [z](http://e)")
    folder = make_run(sim.Simulated(class_names=names, name="<img src=x onerror=1>"))
    build_report(folder)
    html = read(folder, "report.html")
    page = Page(html)
    assert "script" not in {tag for tag, _ in page.tags}
    assert all("onerror" not in attributes for _, attributes in page.tags)
    assert "腺癌" in html
    parsed = MarkdownIt("commonmark").enable("table").render(read(folder, "report.md"))
    assert "<script" not in parsed
    assert "<em>x</em>" not in parsed
    assert "http://e" not in re.findall(r'href="([^"]*)"', parsed)
    rows = [line for line in read(folder, "report.md").splitlines() if line.startswith("| a\\$b")]
    assert rows


@pytest.mark.parametrize(
    ("k", "task"), [(2, "multiclass"), (40, "multiclass"), (14, "multilabel"), (40, "multilabel")]
)
def test_any_number_of_classes_or_labels(
    k: int, task: str, make_run: Callable[..., Path], sim: SimpleNamespace
) -> None:
    shares = tuple(np.linspace(0.1, 0.5, k))
    what = sim.Simulated(tuple(f"c{i}" for i in range(k)), shares, 120, 150, task=task)
    folder = make_run(what)
    files = build_report(folder)
    html = files.html.read_text(encoding="utf-8")
    assert "AUC-ROC (macro)" in html
    if task == "multilabel":
        assert "Exact-match accuracy" in html
        assert "Always &#39;none&#39;" in html
        assert "Accuracy by label" in html
    if task == "multiclass" and k == 40:
        assert "The most frequent confusions" in html


@pytest.mark.usefixtures("undrawn")
def test_absent_class_reads_not_evaluable_never_zero(
    make_run: Callable[..., Path], sim: SimpleNamespace
) -> None:
    what = sim.Simulated(("a", "b", "never"), (0.6, 0.4, 1e-9))
    folder = make_run(what)
    build_report(folder)
    row = next(
        line
        for line in read(folder, "report.md").splitlines()
        if line.startswith("| never | 0 |") and "n=0" in line
    )
    assert "0.000" not in row


@pytest.mark.usefixtures("undrawn")
def test_few_images_are_said_beside_every_score(
    make_run: Callable[..., Path], sim: SimpleNamespace
) -> None:
    folder = make_run(sim.Simulated(n_test=25, skill=4.0))
    build_report(folder)
    html, markdown = read(folder, "report.html"), read(folder, "report.md")
    first_screen = html[: html.index("<h2>Overview</h2>")]
    assert "Too few images to conclude" in first_screen
    assert first_screen.count("too few to conclude (n=25)") >= 3
    assert "Too few to conclude (n=25)." in markdown.split("## Evaluation")[1]
    assert "T014" in markdown


@pytest.mark.usefixtures("undrawn")
def test_nested_settings_are_flat_rows(make_run: Callable[..., Path]) -> None:
    folder = make_run()
    training = json.loads(read(folder, "training.json"))
    training["preprocessing"] = {"contrast": {"kind": "clahe", "clip": 1.5}, "mean": [0.123456789]}
    (folder / "training.json").write_text(json.dumps(training))
    build_report(folder)
    markdown = read(folder, "report.md")
    assert "| contrast.kind | clahe |" in markdown
    assert "| mean | 0.123457 |" in markdown


def test_metrics_md_holds_every_metric_of_both_splits(good_run: Path) -> None:
    text = (good_run / "metrics.md").read_text(encoding="utf-8")
    metrics = json.loads((good_run / "metrics.json").read_text(encoding="utf-8"))
    for split in ("val", "test"):
        for name in ("accuracy", "specificity_macro", "recall_weighted", "mcc", "kappa"):
            entry = metrics["splits"][split][name]
            low, high = entry["ci95"]
            assert f"{entry['value']:.3f} [{low:.3f}, {high:.3f}]" in text, (split, name)
    for words in ("n=400", "Sensitivity (recall)", "discocyte", "(macro)", "(weighted)"):
        assert words in text


def test_labels_that_are_never_named_are_a_red_banner(make_run, sim) -> None:
    folder = make_run(sim.Simulated(task="multilabel", shares=(0.3, 0.2, 0.1, 0.1)))
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    for part in metrics["splits"].values():
        part |= {"skill": "collapsed", "skill_reason": "no label is ever named"}
    (folder / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    page = build_report(folder).html.read_text(encoding="utf-8")
    assert "COLLAPSED" in page
    assert "the same labels for nearly every image" in page
    assert "Do not use its yes and no" in page

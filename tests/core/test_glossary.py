"""The glossary explains every word that reports and the screen show, and each word once."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from scanwise.cli import main
from scanwise.core.errors import ConfigError
from scanwise.core.glossary import find_term, terms

ROOT = Path(__file__).resolve().parents[2]
NOT_WORDS = {"n", "num_groups", "task", "macro_over", "per_class", "trivial", "skill_reason",
             "accuracy_above_trivial", "too_few_to_conclude", "ece_bins", "bootstrap"}  # fmt: skip


def test_no_name_means_two_things_and_every_neighbour_exists() -> None:
    names = Counter(name for term in terms().values() for name in (term.name, *term.also))
    assert [name for name, count in names.items() if count > 1] == []
    assert {name for term in terms().values() for name in term.beside} <= set(terms())


def test_every_page_exists() -> None:
    pages = {term.page.partition("#")[0] for term in terms().values() if term.page}
    assert [page for page in pages if not (ROOT / "docs" / page).is_file()] == []


def test_the_words_of_the_epoch_line_mean_what_the_line_says() -> None:
    from scanwise.training.progress import GLOSSARY

    for word in ("loss", "val_loss", "val_accuracy", "lr"):
        said = re.search(rf"^  {word} +(.*)$", GLOSSARY, re.MULTILINE)
        assert said is not None
        assert said[1].removeprefix("learning rate: ").lower() in find_term(word).means.lower()


def test_every_score_of_a_run_is_explained(disc_run) -> None:
    scores = set(disc_run.metrics["splits"]["test"]) - NOT_WORDS
    of_a_class = set(disc_run.metrics["splits"]["test"]["per_class"][0]) - {"name"}
    for name in scores | of_a_class:
        base = name.removesuffix("_macro").removesuffix("_micro").removesuffix("_weighted")
        find_term(base)


def test_other_names_capitals_and_underscores_find_the_term() -> None:
    assert find_term("ROC-AUC").name == "auroc"
    assert find_term("Prediction_Set").name == "prediction set"


def test_an_unknown_term_is_answered_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="did you mean 'calibration'"):
        find_term("callibration")
    with pytest.raises(ConfigError, match="--list"):
        find_term("zzzz")
    with pytest.raises(SystemExit) as ended:
        main(["explain-term", "lss"])
    assert ended.value.code == 2
    assert "'loss'" in capsys.readouterr().err


def test_the_command_prints_one_term_or_all(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["prediction", "set"], ["conformal"]):
        with pytest.raises(SystemExit) as ended:
            main(["explain-term", *words])
        assert ended.value.code in (0, None)
        assert capsys.readouterr().out.startswith("prediction set: All classes")
    with pytest.raises(SystemExit):
        main(["explain-term", "--list", "--json"])
    assert [row["term"] for row in json.loads(capsys.readouterr().out)] == list(terms())
    with pytest.raises(SystemExit) as ended:
        main(["explain-term"])
    assert ended.value.code == 2

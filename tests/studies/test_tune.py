"""A search: its space, its honesty about test, going on where it stopped, and what it writes."""

from __future__ import annotations

import csv
import json
import math
import sys
from dataclasses import replace

import numpy as np
import pytest
import yaml

from scanwise.cli import main
from scanwise.cli.shared import gather_settings
from scanwise.core.config import TrainConfig
from scanwise.core.errors import ConfigError, ScanwiseError
from scanwise.core.types import Dataset
from scanwise.data.folds import divide_rows
from scanwise.metrics.selection import Answers
from scanwise.pipeline.plan import DataFacts, make_plan
from scanwise.pipeline.train import train
from scanwise.studies import search as engine
from scanwise.studies import tune as study
from scanwise.studies import tune_page
from scanwise.studies.parts import copies_together, inner_parts, part_of
from scanwise.studies.search_space import default_space, is_inside, parse_search
from scanwise.training.history import EpochRecord

pytest.importorskip("optuna")

FLAGS = ("--model", "mlp:8", "--epochs", "2", "--batch-size", "32", "--seed", "5")
SPACE = "lr=1e-4..1e-1:log,dropout=0..0.5,augment=none|gentle"


@pytest.fixture(autouse=True)
def _no_figures(monkeypatch):
    """Figures are drawn once, by the searches that all tests of this file share."""
    monkeypatch.setattr(tune_page, "save_figure", lambda *_: None)


def run(capsys, *words: str) -> tuple[int, str, str]:
    code = 0
    try:
        main(["tune", *words])
    except SystemExit as stop:
        code = int(stop.code or 0)
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def command(data, folder, *more: str) -> tuple[str, ...]:
    return (str(data), *FLAGS, "--search", SPACE, "--output", str(folder), *more)


def read(folder) -> dict:
    return json.loads((folder / "tune.json").read_text())


def essence(found: dict) -> list[tuple]:
    """What must repeat of a search's trials: all but the clock."""
    return [(t["number"], t["settings"], t["state"], t["value"]) for t in found["trials"]]


@pytest.fixture(scope="module")
def tuned(discs, tmp_path_factory):
    """A finished search of five trials. Read it; never change it."""
    folder = tmp_path_factory.mktemp("tuned") / "search"
    main_ended(command(discs, folder, "--trials", "5"))
    return folder


def main_ended(words) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["tune", *words])
    assert not stop.value.code


# --- the space --------------------------------------------------------------------------------


def test_ranges_and_choices_are_read_as_settings():
    lr, epochs, batch, flip, model = parse_search(
        "lr=1e-5..1e-2:log,epochs=5..20,batch_size=16|32,flip=on|off,model=mlp:64,32|simple_cnn",
        "val_loss",
    )
    assert (lr.low, lr.high, lr.log, lr.whole) == (1e-5, 1e-2, True, False)
    assert (epochs.low, epochs.high, epochs.log, epochs.whole) == (5, 20, False, True)
    assert batch.choices == (16, 32)
    assert flip.choices == (True, False)
    assert model.choices == ("mlp:64,32", "simple_cnn")
    assert lr.spelling == "1e-05..0.01:log"
    assert parse_search(f"lr={lr.spelling},flip={flip.spelling}", "val_loss")[0] == lr


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("weight_dcay=1..2", "did you mean 'weight_decay'"),
        ("batchsize=1|2", "did you mean 'batch_size'"),
        ("lr", "SETTING=VALUES"),
        ("lr=1e-3", "one value"),
        ("lr=1e-2..1e-3", "must rise"),
        ("lr=0..1:log", "greater than 0"),
        ("dropout=0..0.5:log", "above 0"),
        ("lr=1e-4..1e-2:ln", "'log'"),
        ("lr=1e-4..20", "less than or equal to 10"),
        ("optimizer=adam..sgd", "no number"),
        ("optimizer=adam|sdg", "Did you mean 'sgd'"),
        ("lr=1e-4..1e-2,lr=1|2", "twice"),
        ("seed=1|2", "luck"),
        ("val_fraction=0.1..0.3", "same images"),
        ("monitor=val_loss|val_auc", "--monitor"),
        ("no_test=on|off", "may not read test"),
        ("test_accuracy=0..1", "may not read test"),
        ("label_smoothing=0..0.2", "--monitor val_balanced_acc"),
        ("threads=1|2", "changes nothing that is learned"),
    ],
)
def test_what_can_not_be_searched_is_refused_with_the_reason(text, expected):
    with pytest.raises(ConfigError, match="--search") as caught:
        parse_search(text, "val_loss")
    assert expected in str(caught.value)


def test_settings_of_the_loss_may_be_searched_where_it_is_not_the_judge():
    (found,) = parse_search("class_weights=none|balanced", "val_auc")
    assert found.choices == ("none", "balanced")


@pytest.mark.parametrize("model", ["mlp:8", "small_resnet:8", "resnet18"])
@pytest.mark.parametrize("preset", [None, "auto", "reference"])
def test_the_space_by_default_holds_the_plan_and_not_what_is_fixed(model, preset):
    facts = DataFacts(n_images=400, n_train=280, smallest_class=40, from_files=False)
    said = TrainConfig(model=model, preset=preset, lr=3e-3)
    planned, *_ = make_plan(said, facts)
    space = default_space(said, planned, facts.n_train)
    names = [parameter.setting for parameter in space]
    assert "lr" not in names
    assert {"weight_decay", "batch_size", "augment", "dropout"} <= set(names)
    assert ("head" in names) == (not model.startswith("mlp"))
    assert is_inside(space, {name: getattr(planned, name) for name in names})
    assert all(parameter.reason for parameter in space)
    fixed = said.model_copy(update={name: getattr(planned, name) for name in names})
    with pytest.raises(ConfigError, match="nothing is left to search"):
        default_space(fixed, planned, facts.n_train)


# --- what it writes ---------------------------------------------------------------------------


def test_a_search_writes_its_result(tuned):
    names = {path.name for path in tuned.iterdir()}
    assert names == {
        "best.yaml", "config.yaml", "history.png", "history.svg", "study.db", "trials.csv",
        "tune.json", "tune.md", "validation",
    }  # fmt: skip
    found = read(tuned)
    assert [trial["number"] for trial in found["trials"]] == [0, 1, 2, 3, 4]
    assert found["trials"][0]["settings"] == {"lr": 1e-3, "dropout": 0.2, "augment": "gentle"}
    assert found["importance"] == "not measured: 5 complete trials, 10 are needed"
    assert (found["scored_on"], found["images"], found["test_opened"]) == ("val", 80, False)
    complete = [t for t in found["trials"] if t["state"] == "complete"]
    best = min(complete, key=lambda t: t["value"])
    assert found["best"]["trial"] == best["number"]
    with (tuned / "trials.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [float(row["val_loss"]) for row in rows] == [t["value"] for t in found["trials"]]
    page = (tuned / "tune.md").read_text()
    assert "warning: 80 validation images are few to choose among 5 trials by" in page
    assert "not measured: 5 complete trials" in page.replace("Not", "not")


def test_scores_follow_from_the_stored_answers(tuned):
    found = read(tuned)
    losses = []
    for trial in found["trials"]:
        with np.load(tuned / "validation" / f"tune-{trial['number']:03d}.npz") as arrays:
            losses.append(arrays["losses"].mean())
            np.testing.assert_allclose(arrays["probabilities"].sum(axis=1), 1)
    np.testing.assert_allclose(losses, [t["value"] for t in found["trials"]], rtol=1e-5)
    best = found["best"]
    assert best["score"]["value"] == pytest.approx(best["value"], rel=1e-5)
    assert best["score"]["ci95"][0] < best["value"] < best["score"]["ci95"][1]
    expected = losses[0] - losses[best["trial"]]
    assert found["gain"]["value"] == pytest.approx(expected)
    assert best["optimism"] == pytest.approx(
        best["corrected_for_choosing"]["value"] - best["value"], abs=1e-6
    )


def test_the_best_settings_train_as_they_did(tuned, tmp_path):
    """best.yaml goes into `train --config`; only this opens test, once."""
    assert read(tuned)["command"] == f"scanwise train --config {tuned / 'best.yaml'}"
    flags = {"output": str(tmp_path / "run"), "report": False}
    done = train(gather_settings(None, flags, tuned / "best.yaml"))
    assert done.read_json("training.json", "")["best_value"] == read(tuned)["best"]["value"]
    assert len(done.test_looks()) == 1


# --- test is never read -----------------------------------------------------------------------


def test_test_images_and_targets_are_never_used(tuned, discs, tmp_path, capsys, monkeypatch):
    """After the checks, test rows are noise with wrong targets: nothing may change by a bit."""
    real = study.split_and_check

    def poisoned(dataset, config):
        dataset, split, report = real(dataset, config)
        images, targets = dataset.images.copy(), dataset.targets.copy()
        noise = np.random.default_rng(1).integers(0, 255, images[split.test].shape)
        images[split.test] = noise
        targets[split.test] = 1 - targets[split.test]
        return type(real(dataset, config))(
            replace(dataset, images=images, targets=targets), split, report
        )

    monkeypatch.setattr(study, "split_and_check", poisoned)
    code, out, err = run(capsys, *command(discs, tmp_path / "poisoned", "--trials", "5"))
    assert code == 0, err
    assert essence(read(tmp_path / "poisoned")) == essence(read(tuned))
    assert "No model was trained, chosen or scored on test (80 images)" in out


def test_no_training_gets_a_test_row(discs, tmp_path, capsys, monkeypatch):
    seen = []
    real = engine.fit_model

    def watching(config, dataset, split, **rest):
        seen.append(split)
        return real(config, dataset, split, **rest)

    monkeypatch.setattr(engine, "fit_model", watching)
    flags = ("--trials", "2", "--nested", "2", "--pruner", "none")
    code, _, err = run(capsys, *command(discs, tmp_path / "t", *flags))
    assert code == 0, err
    test = set(range(320, 400))
    assert len(seen) >= 2 + 2 * 2
    for split in seen:
        assert not len(split.test)
        assert not test & {*split.train.tolist(), *split.val.tolist()}


# --- going on ---------------------------------------------------------------------------------


def test_a_killed_search_goes_on_as_if_it_had_not_stopped(
    tuned, discs, tmp_path, capsys, monkeypatch
):
    folder = tmp_path / "killed"
    real, calls = engine._train_parts, []

    def killed_in_the_third(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(engine, "_train_parts", killed_in_the_third)
    code, _, err = run(capsys, *command(discs, folder, "--trials", "5"))
    assert code == 130
    assert not (folder / "tune.json").exists()
    monkeypatch.undo()
    code, _, err = run(capsys, *command(discs, folder, "--trials", "4"))
    assert code == 0, err
    assert err.count("\ntrial ") == 2
    assert essence(read(folder)) == essence(read(tuned))[:4]
    code, _, err = run(capsys, *command(discs, folder, "--trials", "5"))
    assert essence(read(folder)) == essence(read(tuned))


def test_another_question_is_refused(tuned, discs, capsys):
    before = (tuned / "tune.json").read_bytes()
    for words, expected in (
        (("--lr", "0.01"), "settings.lr was 0.001, is 0.01"),
        (("--cv", "2"), "cv was None, is 2"),
        (("--pruner", "none"), "pruner was 'median', is 'none'"),
    ):
        code, _, err = run(capsys, *command(discs, tuned, "--trials", "5", *words))
        assert code == 2
        assert expected in err
        assert "another --output" in err
    assert (tuned / "tune.json").read_bytes() == before


# --- how trials end ---------------------------------------------------------------------------


@pytest.fixture
def made_up(monkeypatch):
    """Trainings without training: the loss is a parabola of the rate, told over four epochs."""

    def made_up_training(search, config, watch):
        loss = (math.log10(config.lr) + 2) ** 2 + 0.1
        if loss > 3.5:
            raise ScanwiseError("training diverged in epoch 1: the training loss is nan")
        for epoch in range(1, 5):
            told = loss + 1 / epoch
            watch.epoch(EpochRecord(epoch, told, 0.5, told, 0.5, config.lr, 0.1, 1.0, 1.0))
        targets = search.judge.targets
        shares = np.full((len(targets), 2), 0.5)
        return loss, Answers(shares, np.full(len(targets), loss) + 0.01 * targets)

    monkeypatch.setattr(engine, "_train_parts", made_up_training)


def test_hopeless_trials_are_pruned_and_diverged_ones_fail(made_up, discs, tmp_path, capsys):
    folder = tmp_path / "made-up"
    words = (str(discs), *FLAGS[:2], "--epochs", "4", "--search", "lr=1e-4..10:log,dropout=0..0.5")
    code, out, err = run(capsys, *words, "--trials", "12", "--output", str(folder))
    assert code == 0, err
    found = read(folder)
    states = [trial["state"] for trial in found["trials"]]
    assert {"complete", "pruned", "failed"} == set(states)
    failed = found["trials"][states.index("failed")]
    assert "diverged" in failed["reason"]
    assert failed["value"] is None
    pruned = found["trials"][states.index("pruned")]
    assert pruned["number"] >= engine.STARTUP_TRIALS
    assert pruned["reason"].startswith("pruned at epoch")
    assert pruned["value"] > found["best"]["value"]
    assert found["best"]["settings"]["lr"] == pytest.approx(1e-2, rel=3)
    assert "better than the default settings on the images that chose it" in out


def test_the_setting_that_decides_is_told_from_one_that_does_not():
    import optuna

    space = parse_search("lr=1e-4..1:log,dropout=0..0.5,augment=none|gentle", "val_loss")
    sampler = optuna.samplers.RandomSampler(seed=1)
    found = optuna.create_study(direction="minimize", sampler=sampler)
    for done in range(30):
        if done == 9:
            assert "9 complete trials, 10 are needed" in engine.importance(found, space, 0)
        trial = found.ask()
        settings = {parameter.setting: parameter.suggest(trial) for parameter in space}
        found.tell(trial, (math.log10(settings["lr"]) + 2) ** 2)
    shares = engine.importance(found, space, 0)
    assert next(iter(shares)) == "lr"
    assert shares["lr"].low > shares["dropout"].value
    assert sum(share.value for share in shares.values()) == pytest.approx(1)
    assert "only one setting" in engine.importance(found, space[:1], 0)


def test_hyperband_prunes_too(made_up, discs, tmp_path, capsys):
    folder = tmp_path / "hyperband"
    words = (str(discs), *FLAGS[:2], "--epochs", "4", "--search", "lr=1e-3..1:log", "--trials", "9")
    code, _, err = run(capsys, *words, "--pruner", "hyperband", "--output", str(folder))
    assert code == 0, err
    assert "pruned" in {trial["state"] for trial in read(folder)["trials"]}


def test_time_that_is_up_leaves_a_result_that_can_be_gone_on_with(made_up, discs, tmp_path, capsys):
    folder = tmp_path / "short"
    words = command(discs, folder, "--trials", "3")
    code, out, err = run(capsys, *words, "--time-limit", "0.001s")
    assert code == 0, err
    assert "time is up after 1 of 3" in err
    assert "the default settings were the best" in out
    assert read(folder)["gain"] is None
    assert run(capsys, *words)[0] == 0
    assert len(read(folder)["trials"]) == 3


def test_default_settings_outside_of_the_ranges_are_tried_all_the_same(
    made_up, discs, tmp_path, capsys
):
    folder = tmp_path / "outside"
    words = (str(discs), *FLAGS, "--search", "lr=1e-2..1e-1:log", "--trials", "3")
    code, _, err = run(capsys, *words, "--output", str(folder))
    assert code == 0, err
    trials = read(folder)["trials"]
    assert trials[0]["settings"] == {"lr": 1e-3}
    assert all(1e-2 <= trial["settings"]["lr"] <= 1e-1 for trial in trials[1:])


def test_each_combination_of_choices_is_tried_once(made_up, discs, tmp_path, capsys):
    folder = tmp_path / "choices"
    words = (str(discs), *FLAGS[:2], "--search", "lr=0.001|0.01,augment=none|gentle")
    code, _, err = run(capsys, *words, "--trials", "20", "--output", str(folder))
    assert code == 0, err
    assert "all 4 combinations of the choices were tried" in err
    tried = {tuple(trial["settings"].values()) for trial in read(folder)["trials"]}
    assert len(tried) == len(read(folder)["trials"]) == 4


def test_default_settings_that_can_not_be_trained_are_one_message(
    discs, tmp_path, capsys, monkeypatch
):
    def broken(*_):
        raise ConfigError("val_auc can't be computed on this validation split.")

    monkeypatch.setattr(engine, "_train_parts", broken)
    code, _, err = run(capsys, *command(discs, tmp_path / "t"))
    assert code == 2
    assert "val_auc can't be computed" in err


# --- folds ------------------------------------------------------------------------------------


def grouped(n: int = 120) -> Dataset:
    rng = np.random.default_rng(2)
    images = rng.integers(0, 255, (n, 16, 16, 1)).astype(np.uint8)
    groups = tuple(f"g{i // 4}" for i in range(n))
    ids = tuple(f"{i:04d}" for i in range(n))
    targets = (np.arange(n) // 4 % 2).astype(np.int64)
    return Dataset("tiny", images, targets, ("a", "b"), ids, ("",) * n, groups=groups)


def test_folds_stay_within_their_rows_and_cut_no_group():
    dataset, rows = grouped(), np.arange(0, 100)
    assert dataset.groups is not None
    for rest, held in divide_rows(dataset, rows, 4, seed=1):
        for part in (*inner_parts(dataset, rest, 3, 1), part_of(dataset, rest, 0.2, 1)):
            inside = [*part.train.tolist(), *part.val.tolist()]
            assert sorted(inside) == rest.tolist()
            assert not len(part.test)
            of_train = {dataset.groups[row] for row in part.train}
            assert not of_train & {dataset.groups[row] for row in [*part.val, *held]}


def test_copies_are_kept_together_but_test_is_not_looked_at():
    dataset = grouped()
    images = dataset.images.copy()
    images[10], images[119] = images[50], images[20]  # 119 is outside of the rows
    found = copies_together(replace(dataset, images=images), np.arange(100))
    assert found.groups is not None
    assert found.groups[8:12] == (found.groups[50],) * 4
    assert found.groups[119] != found.groups[20]


def test_inner_folds_judge_by_their_mean_on_every_image(discs, tmp_path, capsys):
    folder = tmp_path / "cv"
    words = command(discs, folder, "--trials", "2", "--cv", "2")
    code, out, err = run(capsys, *words)
    assert code == 0, err
    found = read(folder)
    assert found["images"] == 320
    with np.load(folder / "validation" / "tune-000.npz") as arrays:
        assert found["trials"][0]["value"] == pytest.approx(arrays["losses"].mean(), rel=1e-3)
    assert "ranked by the mean val_loss of 2 inner folds" in out


@pytest.fixture(scope="module")
def nested(discs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("nested") / "search"
    main_ended(command(discs, folder, "--trials", "3", "--nested", "2"))
    return folder


def test_outer_folds_are_scored_once_on_images_that_chose_nothing(nested):
    found = read(nested)["nested"]
    assert [fold["images"] for fold in found["folds"]] == [160, 160]
    with (nested / "nested_predictions.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len({row["sample"] for row in rows}) == 320
    right = np.mean([row["target"] == row["predicted"] for row in rows])
    assert found["pooled"]["accuracy"]["value"] == pytest.approx(right)
    means = [fold["scores"]["accuracy"] for fold in found["folds"]]
    assert np.mean(means) == pytest.approx(right)
    default = np.mean([fold["default_scores"]["accuracy"] for fold in found["folds"]])
    assert found["accuracy_gain"]["value"] == pytest.approx(right - default)


def test_finished_outer_folds_are_not_opened_again(nested, discs, capsys, monkeypatch):
    before = essence(read(nested)), read(nested)["nested"]

    def forbidden(*_, **__):
        raise AssertionError("trained again")

    monkeypatch.setattr(engine, "fit_model", forbidden)
    code, out, err = run(capsys, *command(discs, nested, "--trials", "3", "--nested", "2"))
    assert code == 0, err
    assert (essence(read(nested)), read(nested)["nested"]) == before
    assert "pooled out-of-fold (n=320 images, none of which chose its model)" in out


def test_unfinished_outer_folds_claim_nothing(discs, tmp_path, capsys):
    words = command(discs, tmp_path / "t", "--trials", "2", "--nested", "3")
    code, out, err = run(capsys, *words, "--time-limit", "0.001s")
    assert code == 0, err
    assert "pooled: not measured, 0 of 3 outer folds are done" in out
    assert read(tmp_path / "t")["nested"]["pooled"] is None


# --- pretrained networks ----------------------------------------------------------------------


def test_a_logistic_head_searches_its_own_settings(discs, tiny_hub, tmp_path, capsys):
    folder = tmp_path / "hub"
    words = (str(discs), "--model", f"hf:{tiny_hub}", "--views", "1", "--trials", "3")
    code, _, err = run(capsys, *words, "--output", str(folder))
    assert code == 0, err
    found = read(folder)
    assert list(found["search"]) == ["levels", "contrast"]
    assert "nothing is pruned" in err
    assert yaml.safe_load((folder / "best.yaml").read_text())["head"] == "logistic"
    for trial in found["trials"]:
        with np.load(folder / "validation" / f"tune-{trial['number']:03d}.npz") as arrays:
            assert arrays["losses"].mean() == pytest.approx(trial["value"], rel=1e-4)


# --- mistakes ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--trials", "0"], "trials=0"),
        (["--trials", "many"], "trials='many'"),
        (["--cv", "1"], "cv=1"),
        (["--nested", "200"], "nested=200"),
        (["--cv", "100", "--nested", "2"], "too few for 100 folds"),
        (["--pruner", "medain"], "median, hyperband, none"),
        (["--search", "lrr=1|2"], "did you mean 'lr'"),
        (["--search", "head=linear|mlp:8"], "mlp"),
        (["--search", "model=mlp:8|hf:x"], "pretrained"),
        (["--search", "model=mlp:8|resnet19"], "resnet18"),
        (["--search", "label_smoothing=0|0.1"], "val_loss"),
        (["--monitor", "test_accuracy"], "test split"),
        (["--time-limit", "soon"], "time_limit"),
        (["--model", "resnet19"], "resnet18"),
    ],
)
def test_a_mistake_is_one_message_and_leaves_nothing(discs, tmp_path, capsys, words, expected):
    base = [str(discs), "--model", "mlp:8", "--epochs", "2", "--output", str(tmp_path / "new")]
    code, _, err = run(capsys, *base, *words)
    assert code == 2
    assert expected in err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_without_optuna_the_extra_is_named(discs, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    code, _, err = run(capsys, *command(discs, tmp_path / "t"))
    assert code == 2
    assert 'pip install "scanwise[tune]"' in err
    assert not (tmp_path / "t").exists()


def test_a_folder_of_something_else_is_left_alone(discs, tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("x")
    code, _, err = run(capsys, *command(discs, tmp_path))
    assert code == 2
    assert "another --output" in err
    (tmp_path / "study.db").write_text("no database")
    code, _, err = run(capsys, *command(discs, tmp_path))
    assert code == 2
    assert "can't read" in err
    assert sorted(path.name for path in tmp_path.iterdir())[-2:] == ["mine.txt", "study.db"]

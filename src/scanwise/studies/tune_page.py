"""What a search found, in words and files: terminal, tune.md, tune.json, trials.csv, best.yaml."""

from __future__ import annotations

import csv
import io
import math
import shlex
from collections.abc import Sequence
from typing import Any

import numpy as np
import yaml

from scanwise.core.files import write_json, write_text
from scanwise.core.types import Interval, finite_or_none
from scanwise.metrics.predictions import write_predictions
from scanwise.pipeline.plan import explicit_settings
from scanwise.pipeline.tables import aligned
from scanwise.report.style import save_figure
from scanwise.report.tune_plot import TrialPoint, plot_importance, plot_search_history
from scanwise.studies.nested import SCORES, Nested, fold_scores
from scanwise.studies.search import Trial, record_json
from scanwise.studies.search_space import value_text
from scanwise.studies.tuned import Tuned

_Rows = list[tuple[str, ...]]
BEST = "best.yaml"
FEW_TO_CHOOSE = 100  # validation images below which the luck of choosing is warned about


def write_tuned(tuned: Tuned) -> None:
    """Every file of the result but study.db, which is there already."""
    folder = tuned.folder
    write_text(folder / BEST, _best_yaml(tuned))
    write_text(folder / "trials.csv", _trials_csv(tuned))
    if tuned.nested is not None and tuned.nested.tuned is not None:
        write_predictions(folder / "nested_predictions.csv", tuned.nested.tuned)
    judge = tuned.search.judge
    figure = plot_search_history(
        [TrialPoint(trial.number, trial.state, trial.value) for trial in tuned.trials],
        monitor=judge.monitor,
        higher=judge.higher,
        data_name=tuned.dataset.name,
        num_val=tuned.num_val,
    )
    save_figure(figure, folder / "history", _history_alt(tuned))
    if not isinstance(tuned.importance, str):
        figure = plot_importance(
            tuned.importance, data_name=tuned.dataset.name, num_trials=_count(tuned, "complete")
        )
        save_figure(figure, folder / "importance", _importance_alt(tuned.importance))
    write_json(folder / "tune.json", tuned_json(tuned))
    write_text(folder / "tune.md", _page(tuned))


def train_command(tuned: Tuned) -> str:
    """The command that trains the best settings, and opens test once."""
    return shlex.join(["scanwise", "train", "--config", str(tuned.folder / BEST)])


def _best_yaml(tuned: Tuned) -> str:
    """The best trial's whole settings, as `train --config` reads them."""
    config = tuned.search.resolved(tuned.best.settings)
    settings = {name: _plain(value) for name, value in explicit_settings(config).items()}
    settings = {"data": config.data} | settings
    head = (
        f"# The best of {len(tuned.trials)} trials (trial {tuned.best.number}) by "
        f"{tuned.search.judge.monitor} on {tuned.num_val} validation images.\n"
        f"# {train_command(tuned)}\n"
    )
    return head + yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _trials_csv(tuned: Tuned) -> str:
    names = [parameter.setting for parameter in tuned.search.space]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    monitor = tuned.search.judge.monitor
    writer.writerow(["trial", "state", monitor, *names, "epochs", "seconds", "reason"])
    for trial in tuned.trials:
        value = "" if trial.value is None else repr(trial.value)
        cells = [trial.settings[name] for name in names]
        end = [trial.epochs, f"{trial.seconds:.3f}", trial.reason]
        writer.writerow([trial.number, trial.state, value, *cells, *end])
    return stream.getvalue()


def tuned_json(tuned: Tuned) -> dict[str, Any]:
    """tune.json, and what `--json` prints."""
    judge, options = tuned.search.judge, tuned.options
    shares = tuned.importance
    return {
        "schema": 1,
        "dataset": tuned.dataset.name,
        "synthetic": tuned.dataset.provenance.synthetic,
        "scored_on": "val" if options.cv is None else f"{options.cv} inner folds of train and val",
        "monitor": judge.monitor,
        "higher_is_better": judge.higher,
        "images": tuned.num_val,
        "seed": tuned.search.said.seed,
        "pruner": options.pruner,
        "search": {
            parameter.setting: {"values": parameter.spelling, "reason": parameter.reason}
            for parameter in tuned.search.space
        },
        "best": {
            "trial": tuned.best.number,
            "settings": tuned.best.settings,
            "value": tuned.best.value,
            "score": tuned.score.to_json(),
            "corrected_for_choosing": tuned.chosen.value.to_json(),
            "optimism": finite_or_none(tuned.chosen.optimism),
        },
        "default": None if tuned.default is None else tuned.default.to_json(),
        "gain": None if tuned.gain is None else tuned.gain.to_json() | {"verdict": verdict(tuned)},
        "importance": shares
        if isinstance(shares, str)
        else {name: share.to_json() for name, share in shares.items()},
        "nested": None if tuned.nested is None else _nested_json(tuned),
        "test_images": tuned.num_test,
        "test_opened": False,
        "trials": [record_json(trial) for trial in tuned.trials],
        "notes": notes(tuned),
        "folder": str(tuned.folder),
        "command": train_command(tuned),
    }


def verdict(tuned: Tuned) -> str:
    """How the best trial stands to the default settings, on the images that chose it."""
    if tuned.best.number == 0:
        return "the default settings were the best"
    gain = tuned.gain
    if gain is None:
        return "not measured: the default settings could not be trained to their end"
    if gain.low is not None and gain.low > 0:
        return "better than the default settings on the images that chose it"
    return "not distinguishable from the default settings"


def notes(tuned: Tuned) -> list[str]:
    """What a reader must know before believing the numbers."""
    seed = tuned.search.said.seed
    n, monitor = tuned.num_val, tuned.search.judge.monitor
    complete = _count(tuned, "complete")
    said = [
        f"No model was trained, chosen or scored on test ({tuned.num_test:,} images).",
        f"All trials shared seed {seed}: they differ by their settings alone, and another seed "
        "may order close ones otherwise.",
        "The best trial's score and its gain were measured on the images that chose it: both are "
        "too good.",
    ]
    if n < FEW_TO_CHOOSE:
        way_out = "Use --cv 5, or --nested 5 for an honest estimate."
        if tuned.nested is not None:
            way_out = "Believe the outer folds above, which chose nothing."
        said.append(
            f"warning: {n} validation images are few to choose among {complete} trials by; under "
            f"{FEW_TO_CHOOSE} the winner is often the luckiest. {way_out}"
        )
    if tuned.options.cv is not None:
        said.append(
            f"Trials were ranked by the mean {monitor} of {tuned.options.cv} inner folds; "
            "intervals are of the folds' answers pooled."
        )
    if _count(tuned, "pruned"):
        said.append(
            "Pruned trials have the value of their last epoch; they are left out of the estimate "
            "of what choosing costs, and of the importance."
        )
    if tuned.dataset.provenance.synthetic:
        said.append("The images are synthetic; nothing here says anything about real ones.")
    return said


def _count(tuned: Tuned, state: str) -> int:
    return sum(trial.state == state for trial in tuned.trials)


# --- words ------------------------------------------------------------------------------------


def tune_summary(tuned: Tuned) -> str:
    """What the terminal shows."""
    parts = [_headline(tuned), aligned(_settings_table(tuned)), "", *_score_lines(tuned), ""]
    parts += _importance_lines(tuned)
    if tuned.nested is not None:
        parts += ["", *_nested_lines(tuned, tuned.nested)]
    parts += ["", *notes(tuned), f"page: {tuned.folder / 'tune.md'}"]
    parts.append(f"next, which opens test once: {train_command(tuned)}")
    return "\n".join(parts)


def _headline(tuned: Tuned) -> str:
    states = ", ".join(
        f"{count} {state}"
        for state in ("complete", "pruned", "failed")
        if (count := _count(tuned, state))
    )
    seconds = sum(trial.seconds for trial in tuned.trials)
    return (
        f"{tuned.dataset.name}: {tuned.search.judge.monitor} on {tuned.num_val:,} validation "
        f"images, {len(tuned.trials)} trials ({states}), {seconds:.0f} s"
    )


def _settings_table(tuned: Tuned) -> _Rows:
    rows: _Rows = [("setting", "searched", "default", f"best (trial {tuned.best.number})")]
    for parameter in tuned.search.space:
        default = getattr(tuned.search.planned, parameter.setting)
        best = tuned.best.settings[parameter.setting]
        rows.append((parameter.setting, parameter.spelling, value_text(default), value_text(best)))
    return rows


def _score_lines(tuned: Tuned) -> list[str]:
    monitor, n = tuned.search.judge.monitor, tuned.num_val
    where = f"n={n:,}{_groups(tuned)}, validation"
    default = "not measured: it failed" if tuned.default is None else str(tuned.default)
    lines = [
        f"best (trial {tuned.best.number}): {monitor} {tuned.score} ({where}; it was chosen on "
        "these images)",
        f"default (trial 0): {monitor} {default} ({where})",
    ]
    gain = "" if tuned.gain is None else f" {tuned.gain.signed()}, paired on the same images:"
    lines.append(f"gain over the default:{gain} {verdict(tuned)}")
    lines.append(_choosing_line(tuned))
    return lines


def _groups(tuned: Tuned) -> str:
    """' in 12 groups' where whole groups were resampled."""
    units = tuned.search.judge.units
    return "" if units == tuned.num_val else f" in {units:,} groups"


def _choosing_line(tuned: Tuned) -> str:
    complete, value = _count(tuned, "complete"), tuned.chosen.value
    if value.value is None:
        return f"cost of choosing: not measured ({value.reason})"
    optimism = tuned.chosen.optimism
    words = f"looks {optimism:.3f} too good" if optimism > 0 else "does not look too good"
    where = f"n={tuned.num_val:,}{_groups(tuned)}, validation"
    return (
        f"corrected for choosing: {tuned.search.judge.monitor} {value} ({where}; bootstrap, scored "
        f"on the images that each choice left out): the best of {complete} complete trials {words}"
    )


def _importance_lines(tuned: Tuned) -> list[str]:
    if isinstance(tuned.importance, str):
        return [f"Which settings decided: {tuned.importance}."]
    rows: _Rows = [("setting", "share of importance [95 %]")]
    rows += [(name, str(share)) for name, share in tuned.importance.items()]
    return [f"Which settings decided ({_count(tuned, 'complete')} trials):", aligned(rows)]


def _nested_table(tuned: Tuned, nested: Nested) -> _Rows:
    rows: _Rows = [
        ("fold", "images", "accuracy", "balanced accuracy", "AUROC", "default: accuracy", "best")
    ]
    for fold in nested.folds:
        scores = fold_scores(tuned.dataset, fold)
        plain = fold_scores(tuned.dataset, fold, default=True)
        settings = ", ".join(f"{k} {value_text(v)}" for k, v in fold.best.settings.items())
        rows.append(
            (
                str(fold.number),
                f"{len(fold.rows):,}",
                *(_cell(scores[name]) for name in SCORES),
                _cell(plain["accuracy"]),
                settings,
            )
        )
    if len(nested.folds) > 1:
        spread = [_mean_sd(tuned, nested, name) for name in SCORES]
        rows.append(("mean ± SD", "", *spread, _mean_sd(tuned, nested, "accuracy", True), ""))
    return rows


def _cell(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def _mean_sd(tuned: Tuned, nested: Nested, name: str, default: bool = False) -> str:
    values = np.array(
        [fold_scores(tuned.dataset, fold, default=default)[name] for fold in nested.folds]
    )
    known = values[~np.isnan(values)]
    if len(known) < 2:
        return "-"
    return f"{known.mean():.3f} ± {known.std(ddof=1):.3f}"


def _nested_lines(tuned: Tuned, nested: Nested) -> list[str]:
    return [
        "Tuning and training together, each outer fold scored once:",
        aligned(_nested_table(tuned, nested)),
        *_pooled_lines(nested),
    ]


def _pooled_lines(nested: Nested) -> list[str]:
    if nested.tuned is None or nested.accuracy_gain is None or nested.log_loss_gain is None:
        return [
            f"pooled: not measured, {len(nested.folds)} of {nested.wanted} outer folds are done; "
            "the same command goes on."
        ]
    n = len(nested.tuned)
    pooled = ", ".join(
        f"{name.replace('_', ' ')} {Interval.from_json(nested.metrics[name])}" for name in SCORES
    )
    return [
        f"pooled out-of-fold (n={n:,} images, none of which chose its model): {pooled}",
        f"gain of tuning over the default settings on them: accuracy "
        f"{nested.accuracy_gain.signed()} ({_distinguished(nested.accuracy_gain)}), log-loss falls "
        f"by {nested.log_loss_gain.signed()} ({_distinguished(nested.log_loss_gain)})",
        "This estimates the procedure, not best.yaml itself, which was searched for on all of "
        "these images.",
    ]


def _distinguished(gain: Interval) -> str:
    if gain.low is None or gain.high is None:
        return "no interval"
    if gain.low > 0:
        return "better"
    return "worse" if gain.high < 0 else "not distinguishable"


def _nested_json(tuned: Tuned) -> dict[str, Any]:
    nested = tuned.nested
    assert nested is not None
    gains = (nested.accuracy_gain, nested.log_loss_gain)
    return {
        "wanted": nested.wanted,
        "folds": [
            {
                "fold": fold.number,
                "images": len(fold.rows),
                "trial": fold.best.number,
                "settings": fold.best.settings,
                "inner_value": fold.best.value,
                "scores": _finite(fold_scores(tuned.dataset, fold)),
                "default_scores": _finite(fold_scores(tuned.dataset, fold, default=True)),
            }
            for fold in nested.folds
        ],
        "pooled": nested.metrics or None,
        "accuracy_gain": None if gains[0] is None else gains[0].to_json(),
        "log_loss_gain": None if gains[1] is None else gains[1].to_json(),
    }


def _finite(scores: dict[str, float]) -> dict[str, float | None]:
    return {name: finite_or_none(value) for name, value in scores.items()}


# --- tune.md ----------------------------------------------------------------------------------


def _page(tuned: Tuned) -> str:
    parts = [
        f"# Which settings? {tuned.dataset.name}",
        _headline(tuned) + ".",
        _markdown(_settings_table(tuned)),
        "\n".join(f"- {line}" for line in _score_lines(tuned)),
        f"![{_history_alt(tuned)}](history.png)",
        "## Which settings decided",
    ]
    if isinstance(tuned.importance, str):
        parts.append(f"{tuned.importance[0].upper()}{tuned.importance[1:]}.")
    else:
        rows: _Rows = [("setting", "share of importance [95 %]")]
        rows += [(name, str(share)) for name, share in tuned.importance.items()]
        parts += [f"![{_importance_alt(tuned.importance)}](importance.png)", _markdown(rows)]
    if tuned.nested is not None:
        parts += ["## Tuning and training together", _markdown(_nested_table(tuned, tuned.nested))]
        parts.append("\n".join(f"- {line}" for line in _pooled_lines(tuned.nested)))
    parts += ["## What was searched", _markdown(_space_table(tuned))]
    parts += ["## Trials", _markdown(_trials_table(tuned))]
    parts += ["## Notes", "\n".join(f"- {note}" for note in notes(tuned))]
    parts += [f"To train the best settings and open test once:\n\n    {train_command(tuned)}"]
    parts += ["**Research software, not a medical device.**"]
    return "\n\n".join(parts) + "\n"


def _space_table(tuned: Tuned) -> _Rows:
    rows: _Rows = [("setting", "values", "reason")]
    rows += [(p.setting, p.spelling, p.reason) for p in tuned.search.space]
    return rows


def _trials_table(tuned: Tuned) -> _Rows:
    names = [parameter.setting for parameter in tuned.search.space]
    rows: _Rows = [("trial", tuned.search.judge.monitor, "state", *names, "seconds")]
    return rows + [_trial_row(trial, names) for trial in tuned.trials]


def _trial_row(trial: Trial, names: Sequence[str]) -> tuple[str, ...]:
    value = "-" if trial.value is None else f"{trial.value:.4f}"
    state = f"{trial.state}: {trial.reason}" if trial.state == "failed" else trial.state
    settings = (value_text(trial.settings[name]) for name in names)
    return (str(trial.number), value, state, *settings, f"{trial.seconds:.1f}")


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    cells = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    lines = [" | ".join(row) for row in cells]
    lines.insert(1, " | ".join("---" for _ in rows[0]))
    return "\n".join(f"| {line} |" for line in lines)


def _history_alt(tuned: Tuned) -> str:
    return (
        f"{tuned.search.judge.monitor} of {len(tuned.trials)} trials on {tuned.num_val} validation "
        f"images; the best was trial {tuned.best.number} with {tuned.best.value:.4f}."
    )


def _importance_alt(shares: dict[str, Interval]) -> str:
    return "Share of importance: " + ", ".join(f"{name} {share}" for name, share in shares.items())

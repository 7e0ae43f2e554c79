"""The report's section on an ensemble: its members, their weights, the gain over one of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scanwise.report.blocks import Findings, Paragraph, Table
from scanwise.report.pages import interval_text
from scanwise.report.run_files import RunFiles
from scanwise.report.verdict import SPLIT_WORDS, as_interval

METHODS = {
    "soft": "soft vote: the plain mean of the members' calibrated probabilities",
    "greedy": "greedy selection: members were added, repeats allowed, while the log-loss on "
    "validation fell",
}


def ensemble_blocks(run: RunFiles) -> tuple[Any, ...]:
    """What was averaged and what it brought, in place of how training went."""
    facts = run.metrics["ensemble"]
    return (
        Paragraph(f"Nothing was trained here. {len(facts['members'])} trained runs were averaged "
                  f"by {METHODS[facts['method']]}."),
        members_table(facts),
        Paragraph(f"{gain_sentence(facts, run.task)} {looks_sentence(facts)}"),
        Findings(run.setting_findings(), empty="No rule fired."),
    )  # fmt: skip


def members_table(facts: Mapping[str, Any]) -> Table:
    """Each member with its weight and its own scores on validation."""
    rows = tuple(
        (
            str(each["run"]),
            str(each["model"]),
            f"{each['weight']:.3f}",
            f"{each['val']['n']:,}",
            interval_text(as_interval(each["val"]["cross_entropy_loss"])),
            interval_text(as_interval(each["val"]["accuracy"])),
        )
        for each in facts["members"]
    )
    whose = "of its own validation images" if facts["folds"] else "of the same validation images"
    return Table(
        "The members, each with its own scores on validation",
        ("Run", "Model", "Weight", "n", "Log-loss ↓", "Accuracy"),
        rows,
        f"95 % intervals, {whose}, as each run's metrics.json has them. "
        f"{facts['weights_from'][0].upper()}{facts['weights_from'][1:]}.",
    )


def gain_sentence(facts: Mapping[str, Any], task: str = "multiclass") -> str:
    """What the ensemble gains on test over one member, in words with intervals."""
    return paired_gain_sentence(facts["gain"], facts["compared_with"]["words"], task)


def views_sentence(tta: Mapping[str, Any], split: str, task: str = "multiclass") -> str:
    """What the mean over several views gains over the image alone, on one split."""
    return (
        f"Each answer is the mean over {tta['n_views']} views of the image ({tta['views']}). "
        + paired_gain_sentence(tta["gain"][split], "the image alone", task)
    )


def paired_gain_sentence(gain: Mapping[str, Any], compared: str, task: str) -> str:
    """A gain of metrics.members.gain_over in words with intervals."""
    if gain.get("value", 0) is None:
        return f"Gain over {compared}: not measured ({gain['reason']})."
    what = "share of right labels" if task == "multilabel" else "accuracy"
    parts = [
        f"{words} {as_interval(gain[key]).signed()}, {gain[key + '_is']}"
        for words, key in ((what, "accuracy"), ("log-likelihood in nats", "log_likelihood"))
    ]
    caution = as_interval(gain["accuracy"]).reason
    return (
        f"Gain over {compared}, on {gain['n']:,} {SPLIT_WORDS[gain['split']]} images, paired: "
        f"{'; '.join(parts)}.{f' Caution: {caution}.' if caution else ''}"
    )


def looks_sentence(facts: Mapping[str, Any]) -> str:
    """How often the members had looked at test before; none of it chose anything here."""
    looks = sum(int(each["test_looks"]) for each in facts["members"])
    return (
        f"The members' own runs had looked at test {looks} time{'' if looks == 1 else 's'}; "
        "nothing was chosen by it here."
    )

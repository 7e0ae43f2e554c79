"""What a run says on the way, to stderr and to log.txt."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass, field

from scanwise.core.types import Dataset, Finding, Split
from scanwise.data.checks import CheckReport
from scanwise.models.build import ModelInfo
from scanwise.pipeline.plan import Decision
from scanwise.pipeline.prepared import Prepared
from scanwise.pipeline.runs import Run
from scanwise.pipeline.tables import class_table

# Settings whose reasons are worth a line; plan.yaml has all.
TOLD = ("model", "epochs", "batch_size", "lr", "augment", "class_weights")


@dataclass
class Messages:
    """Lines said so far; kept until the run folder exists, then written to its log."""

    said: list[str] = field(default_factory=list)
    run: Run | None = None
    silent: bool = False  # of several processes only the first speaks

    def say(self, line: str) -> None:
        if self.silent:
            return
        sys.stderr.write(line + "\n")
        if self.run is None:
            self.said.append(line)
        else:
            self.run.log(line)

    def write_to(self, run: Run) -> None:
        """From now on lines go to the run's log.txt too, those said before first."""
        self.run = run
        for line in self.said:
            run.log(line)
        self.said.clear()

    def data(self, dataset: Dataset, split: Split, report: CheckReport) -> None:
        """The data in a few lines: what, how split, warnings."""
        height, width = dataset.size_px
        synthetic = " (synthetic)" if dataset.provenance.synthetic else ""
        self.say(
            f"Data: {dataset.name}{synthetic}, {len(dataset):,} images of "
            f"{height}x{width}x{dataset.channels} in {dataset.num_classes} classes"
        )
        self.say(f"Split: {split.note or split.origin}")
        self.say(class_table(dataset, split))
        if dataset.provenance.licence:
            self.say(f"Licence: {dataset.provenance.licence}")
        findings = [*dataset.notes, *report.findings]
        for finding in findings:
            if finding.severity != "info":
                self.say(f"{finding.severity}: {finding.code} {finding.evidence}")
        notes = sum(finding.severity == "info" for finding in findings)
        if notes:
            self.say(f"{notes} more notes on the data are in the report.")

    def plan(self, decisions: tuple[Decision, ...], fired: str) -> None:
        """The preset that fired, and the choices that matter most with their reasons."""
        self.say(f"Plan: {fired}")
        for decision in decisions:
            if decision.setting in TOLD:
                self.say(f"  {decision.setting} {decision.value}: {decision.reason}")

    def training(self, prepared: Prepared, info: ModelInfo, device: str) -> None:
        """The network, the class weights in the guide's two lines, the augmentation as applied."""
        self.say(
            f"Model: {info.spec}, {info.parameters_total:,} parameters "
            f"({info.parameters_trainable:,} trainable), on {device}"
        )
        for note in info.notes:
            self.say(f"  {note}")
        for line in prepared.messages:
            self.say(line)
        self.say(f"Preprocessing: {prepared.preprocessing.describe()}")
        described = prepared.augmentation.augmentation.describe()
        self.say(f"Augmentation ({prepared.augmentation.name}): {described}")
        self.findings(prepared.findings)

    def findings(self, findings: Iterable[Finding]) -> None:
        """Each with its advice, on one line."""
        for finding in findings:
            self.say(f"{finding.severity}: {finding.code} {finding.evidence} {finding.advice}")

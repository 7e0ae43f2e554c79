"""The machine, the versions and the models' hashes."""

from __future__ import annotations

from scanwise.app import jobs
from scanwise.app import widgets as w
from scanwise.app.machine import machine_rows, model_rows, version_rows
from scanwise.app.widgets import Bench

LEAD = "What computes here, with which versions, and which models there are. Nothing of it is sent."


async def build(bench: Bench) -> None:
    with w.frame(bench, "/system", "System", LEAD):
        space = bench.workspace
        with w.panel("This computer"):
            rows, message = await w.attempt(machine_rows, space.root)
            w.facts(rows or [("Not known", message)], ("What", "Now"))
        with w.panel("Running now"):
            running = jobs.running(space.jobs)
            if not running:
                w.text("p", "No check and no training is running.")
            for job in running:
                w.text("p", f"Process {job.pid}, since {job.when[:16].replace('T', ' ')} UTC:")
                w.command_box(job.command, "")
        with w.panel("Models"):
            models = model_rows(space)
            if models:
                w.text("p", "One hash stands for all files of a model: it is that of SHA256SUMS.")
                w.facts([(name, digest) for name, digest in models], ("Model", "SHA-256"))
            else:
                w.text("p", "No model was trained in this workspace yet.")
        with w.panel("Versions"):
            w.facts(version_rows(), ("Package", "Version"))

"""The map behind one answer, as `scanwise explain` draws it."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from scanwise.core.errors import DataError
from scanwise.deploy.bundle import Bundle
from scanwise.deploy.explain import explain, find_way
from scanwise.deploy.subject import subject_of_files
from scanwise.report.explanations import plot_explanation
from scanwise.report.plots import to_display
from scanwise.report.style import DRAWING, save_png


def explain_file(bundle: Bundle, path: Path, class_name: str | None = None) -> tuple[bytes, str]:
    """Where in a picture the evidence for a class lies.

    Args:
        bundle: The model.
        path: An image file.
        class_name: Whose evidence [the most probable class's].

    Returns:
        A PNG, and what it shows in words.

    Raises:
        DataError: If the file can't be read.
        ModelError: If the network can't be explained.
    """
    subject, _, reasons = subject_of_files(bundle, [path])
    if subject is None:
        raise DataError(f"{path.name}: {reasons[0]}.")
    way = find_way(subject, "auto")
    chosen = None if class_name is None else np.array([bundle.class_names.index(class_name)])
    found = explain(subject, way, chosen)
    name = bundle.class_names[int(found.explained[0])]
    probability = float(found.probabilities[0, int(found.explained[0])])
    heading = f"'{name}', probability {probability:.3f}"
    words = f"{found.method_text()}: {way.why}. {' '.join(way.notes)}".strip()
    with DRAWING, tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "map.png"
        figure = plot_explanation(
            to_display(found.pixels)[0],
            found.maps[0],
            heading=heading,
            right=None,
            subject=f"evidence for '{name}'",
            how=found.method_text(),
            watermark=False,
        )
        save_png(figure, target, f"evidence for {name}", dpi=130)
        return target.read_bytes(), words

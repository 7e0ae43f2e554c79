"""One door for everything that answers: whatever a model was saved as, it predicts alike."""

from __future__ import annotations

from pathlib import Path

from scanwise.deploy.bundle import Bundle


def open_model(path: str | Path) -> Bundle:
    """Open what `predict`, `serve` and `app` are given.

    Args:
        path: A bundle folder, or a run folder that holds one.

    Raises:
        RunError: If there is none.
        IntegrityError: If a file is missing or changed, or the format is newer.
        ModelError: If the network is a user's own module.
    """
    return Bundle.from_pretrained(path)

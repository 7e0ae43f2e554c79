"""One door for everything that answers: whatever a model was saved as, it predicts alike."""

from __future__ import annotations

from pathlib import Path

from scanwise.core.errors import RunError
from scanwise.deploy.bundle import Bundle


def open_model(path: str | Path, *, lazily: bool = False) -> Bundle:
    """Open what `predict`, `serve` and `app` are given.

    Args:
        path: A bundle folder, a run folder that holds one, or an .onnx file that `scanwise export`
            wrote.
        lazily: Load the network when it is first asked for (`Bundle.from_pretrained`).

    Raises:
        RunError: If there is none.
        IntegrityError: If a file is missing or changed, or the format is newer.
        ModelError: If the network is a user's own module, or the .onnx file is another program's.
    """
    place = Path(path)
    ending = place.suffix.lower()
    if ending == ".onnx" and not place.is_dir():
        from scanwise.deploy.onnx_bundle import OnnxBundle  # it needs ONNX Runtime

        return OnnxBundle.from_file(place)
    if place.is_file():
        why = " (torch may unpickle such files)" if ending in (".pt2", ".pt", ".pth") else ""
        raise RunError(
            f"{place} can't be opened here{why}; name a run, a bundle folder or an .onnx file that "
            "`scanwise export` wrote."
        )
    return Bundle.from_pretrained(place, lazily=lazily)

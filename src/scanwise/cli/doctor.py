"""`scanwise doctor`."""

from __future__ import annotations

from scanwise.cli.shared import JsonOption, show, start
from scanwise.core.errors import PartialError


def doctor(as_json: JsonOption = False) -> None:
    """Is this installation sound? Versions, devices, folders, and a 20-second training."""
    start(None)
    try:
        from scanwise.pipeline.doctor import examine
    except ImportError as error:
        raise PartialError(f"packages failed: {error}. To mend it: {_install()}.") from error

    found = examine()
    show(found.to_json() if as_json else found.text(), as_json)
    if found.failed is not None:
        step = found.failed
        raise PartialError(f"{step.name} failed: {step.detail}. To mend it: {step.fix}.")


def _install() -> str:
    from scanwise.core.packages import missing_packages, pip_line

    missing = missing_packages()
    return pip_line(missing) if missing else "pip install --force-reinstall scanwise"

"""The workbench's style: the report's colours, and the few rules that its own pages need."""

from __future__ import annotations

import re
from importlib.resources import files


def stylesheet() -> str:
    """CSS with the report's colour variables, for light and dark pages."""
    report = files("scanwise.report").joinpath("templates/page.css").read_text(encoding="utf-8")
    own = files("scanwise.app").joinpath("workbench.css").read_text(encoding="utf-8")
    blocks = re.findall(r":root \{(.*?)\}", report, flags=re.DOTALL)
    light, dark = (block.replace("color-scheme: light dark;", "") for block in blocks[:2])
    return (
        f":root {{{light} color-scheme: light; }}\n"
        f":root:has(body.body--dark) {{{dark} color-scheme: dark; }}\n{own}"
    )

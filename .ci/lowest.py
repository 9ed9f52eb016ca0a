"""Prints the lowest versions of the dependencies that pyproject.toml allows, as pins; with a name, that one's alone."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
pins = dict(
    match.groups()
    for line in project["dependencies"]
    if (match := re.fullmatch(r"([\w.-]+)>=([\w.]+).*", line)) is not None
)
print(pins[sys.argv[1]] if len(sys.argv) > 1 else "\n".join(f"{name}=={version}" for name, version in pins.items()))

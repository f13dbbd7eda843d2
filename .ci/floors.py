"""Prints the lowest versions that pyproject.toml's ranges name, as constraints for pip."""

from __future__ import annotations

import re
from pathlib import Path

TEXT = (Path(__file__).resolve().parent.parent / "pyproject.toml").read_text(encoding="utf-8")

# One requirement a line, so that no TOML reader is needed (tomllib is Python 3.11's).
for name, floor in sorted(set(re.findall(r'^    "([A-Za-z0-9-]+)>=([0-9.]+)', TEXT, flags=re.M))):
    print(f"{name}=={floor}.*" if floor.count(".") < 2 else f"{name}=={floor}")

"""Manifests changed on purpose, as builds before they had a checksum would have written them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path


def rewrite_manifest(root: Path, change: Callable[[str], str] = lambda text: text) -> None:
    """Change the text of a folder's manifest; its checksum over itself goes."""
    path = root / "manifest.json"
    raw = json.loads(path.read_text(encoding="utf-8"))
    raw.pop("checksum", None)
    path.write_text(change(json.dumps(raw, ensure_ascii=False, indent=1) + "\n"), encoding="utf-8")

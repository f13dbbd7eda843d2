"""The documentation builds, names every setting, and quotes messages that exist."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from dataclasses import fields
from html.parser import HTMLParser
from pathlib import Path

import pytest

from distill.recipe.files import load_settings, plain_settings
from distill.recipe.recipe import Recipe

ROOT = Path(__file__).resolve().parent.parent


def keys(settings: dict, prefix: str = "") -> set[str]:
    """Dotted names of all settings of a recipe, sections included."""
    found = set()
    for name, value in settings.items():
        found.add(prefix + name)
        if isinstance(value, dict):
            found |= keys(value, f"{prefix}{name}.")
    return found


class Codes(HTMLParser):
    """Texts of a page's code elements, and its links and images."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.codes: set[str] = set()
        self.files: set[str] = set()
        self._inside = False
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        self._inside = tag == "code"
        if tag in ("img", "script", "link", "a"):
            self.files |= {value for name, value in attributes if name in ("src", "href") and value}

    def handle_data(self, data):
        if self._inside:
            self.codes.add(data)

    def handle_endtag(self, tag):
        self._inside = False


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    if importlib.util.find_spec("material") is None:
        pytest.skip("mkdocs-material is not installed: pip install 'optical-distill[docs]'")
    folder = tmp_path_factory.mktemp("site")
    # Without --quiet, under which mkdocs counts no warning and strict means nothing.
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return folder


def test_every_setting_has_its_line(site, tiny_world):
    codes = Codes(site / "settings/index.html").codes
    recipe = load_settings(Recipe, tiny_world.recipe)
    wanted = keys(plain_settings(recipe)) - {
        "data.mixing.weights.sw-en",
        "data.mixing.weights.so-en",
    }
    assert {name.split(".")[0] for name in wanted} == {item.name for item in fields(Recipe)}
    assert wanted <= codes
    # Sections that may be left out, too, and those of the teacher's recipe.
    assert {"student.lora.rank", "text.query_length", "embedding_dimension"} <= codes


def test_pages_load_nothing_from_elsewhere(site):
    pages = list(site.rglob("index.html"))
    assert len(pages) == 8
    for page in pages:
        for name in Codes(page).files:
            assert not re.match(r"(https?:)?//(?!squidfunk\.github\.io)", name), (page, name)


def messages() -> list[str]:
    """What the page of troubleshooting quotes."""
    text = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")
    return re.findall(r"^`(.+)`\n:   ", text, flags=re.M)


def test_quoted_messages_are_in_the_code():
    assert len(messages()) > 10
    source = "".join(
        path.read_text(encoding="utf-8")
        for folder in ("distill", "data_shards")
        for path in (ROOT / folder).rglob("*.py")
    )
    # A message may be written over several lines, and in parts.
    joined = re.sub(r'"\s*f?"', "", source)
    assert [message for message in messages() if message not in joined] == []

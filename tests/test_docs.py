"""The documentation builds, names every setting, and quotes messages and files that exist."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from dataclasses import Field, fields, is_dataclass
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from data_shards.build import BuildSettings
from distill.__main__ import COMMANDS
from distill.encoders.student_settings import LoraSettings
from distill.recipe.files import load_settings, plain_settings
from distill.recipe.recipe import Recipe
from distill.recipe.teacher import TeacherRecipe
from distill.studies.settings import Study

ROOT = Path(__file__).resolve().parent.parent
#: Types of defaults that a sentence can state as they are.
PLAIN = (bool, int, float, str, Path)


def settings_reference() -> ModuleType:
    """The hook that makes the page of settings."""
    spec = importlib.util.spec_from_file_location("hook", ROOT / "docs/settings_reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
        pytest.skip("mkdocs-material is not installed: pip install mkdocs-material")
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
    assert len(pages) == len(list((ROOT / "docs").glob("*.md")))
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


def test_commands_are_those_of_the_front_door():
    """What is started in a code block is ``distill COMMAND``, or a script in the clone."""
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        text = page.read_text(encoding="utf-8")
        assert "python -m" not in text, page
        for name in re.findall(r"^distill ([\w-]+)", text, flags=re.M):
            assert name in COMMANDS, (page, name)
        for name in re.findall(r"\b(?:distill|launch|benchmarks|docs)/[\w/.-]+\.\w+", text):
            # The reader's own: a copy of an example, and a study in capitals.
            own = name == "launch/slurm/site.env" or Path(name).stem.isupper()
            assert own or (ROOT / name).exists(), (page, name)


def recipe_parts() -> list[tuple[str, str]]:
    """(page, text) of the blocks that are parts of a recipe."""
    return [
        (page.stem, block)
        for page in sorted((ROOT / "docs").glob("*.md"))
        for block in re.findall(r"^```yaml\n(.*?)^```", page.read_text("utf-8"), flags=re.S | re.M)
    ]


@pytest.mark.parametrize(("page", "block"), recipe_parts())
def test_parts_of_recipes_are_valid(page, block, tiny_world):
    overrides = [f"{key}={json.dumps(value)}" for key, value in yaml.safe_load(block).items()]
    load_settings(Recipe, tiny_world.recipe, ["max_steps=400", *overrides])


def plain_fields() -> list[tuple[type, Field]]:
    """Fields of all settings whose default is a number, a word or a path."""
    found, waiting = [], [Recipe, TeacherRecipe, Study, BuildSettings, LoraSettings]
    while waiting:
        kind = waiting.pop()
        found += [(kind, item) for item in fields(kind) if isinstance(item.default, PLAIN)]
        waiting += [part for part in map(default_of, fields(kind)) if isinstance(part, type)]
    return found


def default_of(item: Field) -> object:
    factory = item.default_factory
    return factory if is_dataclass(factory) else None


def says(stated: str, default: object) -> bool:
    if isinstance(default, bool):
        return stated == str(default).lower()
    if isinstance(default, (int, float)):
        return float(stated) == default
    return stated.strip('"') == str(default)


def test_stated_defaults_are_those_of_the_code():
    """The text under a setting ends with its default, which a change of the code must follow."""
    reference = settings_reference()
    wrong = {}
    for kind, item in plain_fields():
        text = reference.documented(kind)[item.name][1]
        stated = re.search(r"Default: (.+?)[.,](?: |$)", text)
        if stated is None or not says(stated[1], item.default):
            wrong[f"{kind.__name__}.{item.name}"] = text
    assert not wrong


def test_nothing_is_installed_from_where_it_is_not():
    """No registry has this package: it is installed from a clone or a git address."""
    texts = [ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("distill/**/*.py")]
    wrong = re.compile(r"pip install[^\n`]*['\" ]optical-distill")
    assert [path for path in texts if wrong.search(path.read_text(encoding="utf-8"))] == []

"""The page of all recipe keys, from the dataclasses themselves, when the documentation is built."""

from __future__ import annotations

import ast
import inspect
import json
import sys
import typing
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from distill.recipe.recipe import Recipe
from distill.recipe.teacher import TeacherRecipe

MARKS = {"<!-- recipe -->": Recipe, "<!-- teacher recipe -->": TeacherRecipe}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """mkdocs' hook: put the tables where a page asks for them."""
    for mark, kind in MARKS.items():
        if mark in markdown:
            markdown = markdown.replace(mark, "\n\n".join(sections(kind)))
    return markdown


def sections(kind: type, prefix: str = "") -> Iterator[str]:
    """A heading and a table for a dataclass of settings, then for those inside it."""
    types, described = typing.get_type_hints(kind), documented(kind)
    lines, nested = [], []
    for item in fields(kind):
        inner = _settings_in(types[item.name])
        if inner is not None:
            nested.append((f"{prefix}{item.name}.", inner))
        name, default = f"{prefix}{item.name}", _default(item, inner)
        annotation, meaning = described.get(item.name, ("", ""))
        lines.append(f"| `{name}` | {annotation} | {default} | {meaning} |")
    title = f"`{prefix[:-1]}`" if prefix else "At the top"
    yield f"### {title}\n\n{_one_line(inspect.getdoc(kind) or '')}"
    yield "\n".join(["| key | type | default | meaning |", "|---|---|---|---|", *lines])
    for inner_prefix, inner in nested:
        yield from sections(inner, inner_prefix)


def documented(kind: type) -> dict[str, tuple[str, str]]:
    """Field → (its type as written, the sentence under it), bases' fields included."""
    found: dict[str, tuple[str, str]] = {}
    for base in reversed(kind.__mro__):
        if not is_dataclass(base):
            continue
        (definition,) = ast.parse(inspect.cleandoc(inspect.getsource(base))).body
        assert isinstance(definition, ast.ClassDef)
        for field_node, below in zip(definition.body, [*definition.body[1:], None], strict=True):
            if not isinstance(field_node, ast.AnnAssign):
                continue
            text = ""
            if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
                text = str(below.value.value)
            name = ast.unparse(field_node.target)
            found[name] = (_cell(ast.unparse(field_node.annotation)), _one_line(text))
    return found


def _settings_in(annotation: Any) -> type | None:
    """The dataclass of a section, also of one that may be left out."""
    for candidate in (annotation, *typing.get_args(annotation)):
        if isinstance(candidate, type) and is_dataclass(candidate):
            return candidate
    return None


def _default(item: Field[Any], inner: type | None) -> str:
    if item.default is not MISSING:
        value = item.default
    elif inner is not None:
        return "see below"
    elif item.default_factory is not MISSING:
        value = item.default_factory()
    else:
        return "required"
    return _cell(json.dumps(value, default=str))


def _cell(text: str) -> str:
    # A bar would end the table's cell.
    return f"`{text.replace('|', 'or')}`"


def _one_line(text: str) -> str:
    return " ".join(text.split()).replace("``", "`").replace("|", "\\|")

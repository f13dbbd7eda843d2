"""Writes the model card (`model_card`): languages, data, licences, MAP, use, how to remake it."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from data_shards.format import MANIFEST_NAME, read_manifest
from distill.evaluation.results import Result, read_results
from distill.languages import parse_pair
from distill.recipe.recipe import Recipe

_TITLES = {
    "teacher_zero_shot": "teacher, zero-shot",
    "student": "this model",
    "teacher_english": "English queries",
}
_GROUPS = {
    "all": "**mean, all pairs**",
    "low_resource": "mean, low-resource",
    "higher_resource": "mean, higher-resource",
}
_PACKAGES = ("optical-distill", "torch", "transformers", "accelerate", "deepspeed")


@dataclass(frozen=True)
class DataRow:
    """One source of bitext of one language pair."""

    pair: str
    name: str
    licence: str
    num_pairs: int


def data_rows(recipe: Recipe) -> list[DataRow]:
    """What the manifests of the recipe's shards say of each pair's sources; local folders only."""
    rows = []
    for root in recipe.data.shards:
        if not (Path(root) / MANIFEST_NAME).is_file():
            rows.append(DataRow("", Path(root).name, "no manifest here", 0))
            continue
        manifest = read_manifest(root)
        for pair in recipe.pairs:
            entry = manifest.pairs.get(pair)
            split = entry.splits.get(recipe.data.split) if entry else None
            if entry is None or split is None:
                continue
            for source in entry.sources:
                rows.append(
                    DataRow(
                        pair,
                        source.name or source.path,
                        source.licence or "not stated",
                        split.num_pairs,
                    )
                )
    return rows


def last_results(run: Path, step: int | None = None) -> dict[str, list[Result]]:
    """Collection → results of the run's last evaluation with a student, or of `step`."""
    found: dict[str, list[Result]] = {}
    for folder in sorted((run / "evaluation").glob("*")):
        steps = sorted(
            (int(path.parent.name.removeprefix("step-")), path)
            for path in folder.glob("step-*/results.json")
        )
        if step is not None:
            steps = [entry for entry in steps if entry[0] == step]
        if steps:
            found[folder.name] = read_results(steps[-1][1])
    return found


def model_card(
    recipe: Recipe, results: dict[str, list[Result]], dimension: int, checks: list[str]
) -> str:
    """The text of README.md.

    Args:
        recipe: resolved settings of the run.
        results: see `last_results`.
        dimension: D of a token vector.
        checks: lines of the export's own checks.
    """
    rows = data_rows(recipe)
    parts = [
        _front_matter(recipe, rows),
        f"# {recipe.name}",
        _introduction(recipe, dimension),
        "## Use\n\n" + _use(),
        "## Data\n\n" + _data(rows),
        "## Evaluation\n\n" + _evaluation(results),
        "## Make it again\n\n" + _reproduction(results),
        "## Checks made when it was written\n\n" + "\n".join(f"- {line}" for line in checks),
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(recipe: Recipe, rows: list[DataRow]) -> str:
    licences = sorted({row.licence for row in rows})
    fields: dict[str, Any] = {
        "language": list(dict.fromkeys([*(parse_pair(c).source for c in recipe.pairs), "en"])),
        "library_name": "PyLate",
        "pipeline_tag": "sentence-similarity",
        "tags": [
            "ColBERT",
            "PyLate",
            "sentence-transformers",
            "multi-vector",
            "cross-lingual-retrieval",
            "optimal-transport",
        ],
        # The model's own licence is its makers' choice; the data's stand beside it.
        "license": "other",
        "license_name": "see-data-licences",
        "data_licences": licences,
    }
    return "---\n" + yaml.safe_dump(fields, sort_keys=False, allow_unicode=True) + "---"


def _introduction(recipe: Recipe, dimension: int) -> str:
    languages = ", ".join(f"`{parse_pair(code).source}`" for code in recipe.pairs)
    return (
        f"A late-interaction query encoder ({dimension} dimensions per token) for {languages}.\n"
        "It searches documents that its English teacher encoded: the index of English documents\n"
        "stays as it is. It was distilled from the teacher by token-level optimal transport over\n"
        "translated sentence pairs (OPTICAL; Huang, Yu, Allan, WSDM 2023); no relevance judgments\n"
        "were used."
    )


def _use() -> str:
    return """```python
from sentence_transformers import MultiVectorEncoder  # 6 or later

queries = MultiVectorEncoder("DIRECTORY").encode_query(["mto mrefu zaidi"])
```

```python
from pylate import models

queries = models.ColBERT("DIRECTORY").encode(["mto mrefu zaidi"], is_query=True)
```

Documents are the teacher's: encode them with the teacher, or keep the index you have. Readers of
Stanford ColBERT's checkpoints find `artifact.metadata` and `linear.weight`."""


def _data(rows: list[DataRow]) -> str:
    if not rows:
        return "The shards this was trained on were not at hand when the card was written."
    lines = [
        "| pair | sentence pairs | source | licence |",
        "|---|---:|---|---|",
        *(f"| {row.pair} | {row.num_pairs or ''} | {row.name} | {row.licence} |" for row in rows),
    ]
    return "\n".join(lines) + "\n\nWhat may be done with the model depends on these licences."


def _evaluation(results: dict[str, list[Result]]) -> str:
    if not results:
        return "The run has no evaluation."
    blocks = []
    for name, systems in results.items():
        names = [str(system["system"]) for system in systems]
        titles = [_TITLES.get(name, name) for name in names]
        lines = [
            f"Mean average precision on `{name}`, step {systems[0]['step']}:",
            "",
            f"| pair | {' | '.join(titles)} |",
            "|---|" + "---:|" * len(titles),
        ]
        for pair in systems[0]["pairs"]:
            lines.append(_row(pair, [system["pairs"][pair]["AP"] for system in systems]))
        for group, title in _GROUPS.items():
            if systems[0]["means"].get(group):
                lines.append(_row(title, [system["means"][group]["AP"] for system in systems]))
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def _row(title: str, values: list[float]) -> str:
    return f"| {title} | " + " | ".join(f"{value:.3f}" for value in values) + " |"


def _reproduction(results: dict[str, list[Result]]) -> str:
    first = next(iter(results.values()), [{}])[0]
    processes = f" --num_processes {first['world_size']}" if first.get("world_size") else ""
    sharded = " --config_file accelerate_config.yaml" if first.get("zero_stage") else ""
    versions = ", ".join(f"{name} {_version(name)}" for name in _PACKAGES if _version(name))
    return f"""`recipe.yaml` beside this card holds every setting; its paths are names: put yours.

```
accelerate launch{sharded}{processes} distill/train.py recipe.yaml
```

Written with {versions}, Python {platform.python_version()}."""


def _version(name: str) -> str:
    """Version of an installed package, "" where it is not installed."""
    try:
        return str(metadata.version(name))
    except metadata.PackageNotFoundError:
        return ""

"""A report against numbers computed by hand, from run directories written here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from distill.errors import InputError
from distill.evaluation.measures import macro_means, mean_over_queries
from distill.evaluation.results import per_query_name, write_per_query, write_results
from distill.recipe.files import save_settings
from distill.studies.__main__ import main
from distill.studies.comparison import Comparisons, stratified_half_width
from distill.studies.grid import cells_of
from distill.studies.records import Record, changed_settings, write_record
from distill.studies.settings import load_study
from distill.studies.values import read_values

NUM_QUERIES = 12
#: Per-query AP of each system, by pair: the variant "good" is .3 above "transport" on sw-en.
AP = {
    "transport": {"sw-en": 0.4, "so-en": 0.2, "fi-en": 0.5},
    "good": {"sw-en": 0.7, "so-en": 0.3, "fi-en": 0.5},
    "teacher_zero_shot": {"sw-en": 0.25, "so-en": 0.15, "fi-en": 0.5},
    "teacher_english": {"sw-en": 0.9, "so-en": 0.9, "fi-en": 0.9},
}
#: What a seed adds; the mean over seeds 0 and 1 is that of the table above.
OF_SEED = {0: -0.05, 1: 0.05}


def write_step(folder: Path, step: int, systems: dict[str, dict[str, float]]) -> None:
    """An evaluation as training runs write it; so-en's queries differ by ±.1."""
    folder.mkdir(parents=True)
    results = []
    for system, pairs in systems.items():
        means = {}
        for pair, value in pairs.items():
            spread = 0.1 if pair == "so-en" else 0.0
            values = {
                f"q{number}": {"AP": value + spread * (-1) ** number, "BitextF1": value / 2}
                for number in range(NUM_QUERIES)
            }
            write_per_query(folder / per_query_name(system, pair), values)
            means[pair] = mean_over_queries(values, ["AP", "BitextF1"])
        entry = {"collection": "colours", "step": step, "system": system, "pairs": means}
        results.append({**entry, "means": macro_means(means, ["AP", "BitextF1"])})
    write_results(folder / "results.json", results)


@pytest.fixture
def study_file(tiny_world, tmp_path):
    path = tmp_path / "made.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "name": "made",
                "question": "Is good better?",
                "recipe": str(tiny_world.recipe),
                "overrides": {"evaluation.every_steps": 3},
                "seeds": [0, 1],
                "variants": {
                    "transport": {"description": "plain OT"},
                    "good": {"objectives": {"contrastive": {"weight": 1}}},
                    "late": {"max_steps": 7, "seeds": [0]},
                },
                "default": "good",
                "test_collections": ["colours"],
                "baselines": False,
                "runs": str(tmp_path / "runs"),
            },
            sort_keys=False,
        )
    )
    return path


@pytest.fixture
def finished(study_file):
    """The study's cells; those of transport and good have run."""
    cells = cells_of(load_study(study_file))
    for cell in cells:
        if cell.variant == "late":
            continue
        for step in (0, 3, 6):
            # Curves rise to the last step's values by .1 a step of evaluation.
            lift = OF_SEED[cell.seed] - (6 - step) / 30
            student = {pair: value + lift for pair, value in AP[cell.variant].items()}
            systems = {name: AP[name] for name in ("teacher_zero_shot", "teacher_english")}
            folder = cell.directory / "evaluation/colours" / f"step-{step}"
            write_step(folder, step, {**systems, "student": student})
        save_settings(cell.recipe, cell.directory / "config.yaml")
        record = Record("finished", 100.0 + 20 * cell.seed, 48, 1, "2 cores, torch 2")
        write_record(cell.directory, record)
    return cells


def test_numbers_of_the_report(study_file, finished, tmp_path):
    output = tmp_path / "results"
    study_file.with_name("made.reading.md").write_text("## Reading\n\nGood wins.\n")
    with pytest.raises(SystemExit) as caught:
        main(["report", str(study_file), "--output", str(output)])
    assert caught.value.code == 0
    summary = json.loads((output / "summary.json").read_text())
    assert summary["default"] == "good"
    # (.7 + .3) / (.25 + .15) - 1
    assert summary["low_resource_gain_over_zero_shot"] == pytest.approx(1.5)
    assert summary["low_resource_gain_over_query_translation"] is None
    assert summary["alternatives"] == ["transport"]
    # 12 queries, all better by the same amount: p = 2 / 2^12 on both pairs.
    assert summary["pairs_better_than_every_alternative_p05"] == ["sw-en", "so-en"]
    test = summary["tests"]["so-en"]["transport"]
    assert test["difference"] == pytest.approx(0.1)
    assert test["p"] == pytest.approx(2 * 2 / 2**NUM_QUERIES)
    assert summary["seconds"] == 440
    assert summary["missing"] == ["late-s0"]
    rows = json.loads((output / "results.json").read_text())
    good = [row for row in rows if row["system"] == "good"]
    assert [row["seed"] for row in good] == [0, 1]
    assert good[0]["pairs"]["sw-en"] == pytest.approx(0.65)
    assert good[1]["means"]["low_resource"] == pytest.approx((0.75 + 0.35) / 2)
    assert good[1]["pair_encodings"] == 48
    assert {row["seed"] for row in rows if row["system"] == "teacher_zero_shot"} == {None}
    report = (output / "report.md").read_text()
    assert "Good wins." in report
    assert "Not finished, and left out: late-s0." in report
    assert "0.12 hours" in report
    line = next(line for line in report.splitlines() if line.startswith("| good (default)"))
    cells = [cell.strip() for cell in line.split("|")]
    assert cells[2:5] == ["**0.700** ▲", "**0.300** ▲", "**0.500**"]
    assert cells[-2] == "2"
    assert "| transport | 0.167 | 0.267 | 0.367 |" in report
    assert "| good | 48 | 110 | 2291.7 |" in report


def test_a_collection_is_reported_in_a_measure_of_its_own(study_file, finished, tmp_path):
    output = tmp_path / "results"
    with pytest.raises(SystemExit) as caught:
        main(["report", str(study_file), "measures={colours: BitextF1}", "--output", str(output)])
    assert caught.value.code == 0
    report = (output / "report.md").read_text()
    assert "| BitextF1 | sw-en | so-en | fi-en |" in report
    assert "| colours, BitextF1, step | 0 | 3 | 6 |" in report
    line = next(line for line in report.splitlines() if line.startswith("| good (default)"))
    assert [cell.strip() for cell in line.split("|")][2:4] == ["**0.350** ▲", "**0.150** ▲"]
    summary = json.loads((output / "summary.json").read_text())
    assert summary["measure"] == "BitextF1"
    assert summary["tests"]["so-en"]["transport"]["difference"] == pytest.approx(0.05)


def test_a_variant_with_fewer_seeds_is_compared_by_these(study_file, finished):
    study = load_study(study_file)
    cells = [cell for cell in finished if cell.name != "good-s1"]
    comparisons = Comparisons(read_values(study, cells, []))
    found = comparisons.against("transport", "good", "colours")
    # Seed 0 of both, not seed 0 against the mean of 0 and 1.
    assert found["sw-en"].difference == pytest.approx(0.3)
    assert found["low_resource"].difference == pytest.approx(0.2)
    assert found["all"].difference == pytest.approx(0.4 / 3)
    assert found["fi-en"].p_value == 1
    assert found["low_resource"].is_better
    assert not found["fi-en"].is_better


def test_interval_of_a_mean_of_strata():
    import numpy as np

    generator = np.random.default_rng(0)
    first, second = generator.random(300), generator.random(100)
    # 1.96 standard errors of (mean + mean) / 2.
    expected = 1.96 * np.sqrt(first.var() / 300 + second.var() / 100) / 2
    assert stratified_half_width([first, second]) == pytest.approx(expected, rel=0.1)


def test_a_finished_run_of_other_settings_is_refused(study_file, finished):
    changed = cells_of(load_study(study_file, ["variants.good.optimizer.learning_rate=0.5"]))
    cell = next(cell for cell in changed if cell.name == "good-s0")
    assert changed_settings(cell) == ["optimizer"]
    with pytest.raises(InputError, match="other settings of optimizer"):
        read_values(load_study(study_file), changed, [])


def test_a_setting_that_an_older_run_did_not_know_counts_as_its_default(finished):
    cell = finished[0]
    path = cell.directory / "config.yaml"
    tree = yaml.safe_load(path.read_text())
    del tree["objectives"]["sentence_mse"]
    path.write_text(yaml.safe_dump(tree))
    assert changed_settings(cell) == []
    del tree["optimizer"]["learning_rate"]  # not the default in this world
    path.write_text(yaml.safe_dump(tree))
    assert changed_settings(cell) == ["optimizer"]

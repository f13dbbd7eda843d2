"""One and two processes and ZeRO-3 give the same runs and numbers to the last digit."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from distill.evaluation.collection_loading import load_collection

PROGRAM = Path(__file__).with_name("world_program.py")


def load_program():
    specification = importlib.util.spec_from_file_location("world_program", PROGRAM)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def files(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.glob("animals/step-*/*"))
        if path.name != "results.json"
    }


@pytest.mark.slow
def test_two_processes_and_zero3_equal_one_process(collection_directory, tmp_path):
    launched = subprocess.run(
        [
            *(sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch"),
            *("--use_deepspeed", "--zero_stage", "3", "--num_processes", "2"),
            *("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"),
            *("--main_process_port", "0"),
            *(str(PROGRAM), str(collection_directory), str(tmp_path)),
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    reports = [tmp_path / f"rank-{rank}.json" for rank in (0, 1)]
    assert all(report.is_file() for report in reports), launched.stdout + launched.stderr
    first, second = (json.loads(report.read_text()) for report in reports)
    assert first == second  # every rank has the results
    assert first["world_size"] == 2
    assert first["stop"] == "EvaluationStoppedError"
    assert first["error"] == "InputError"
    assert 0.5 <= first["resident_share"] < 0.55

    program, support = load_program(), load_program().load_support()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    encoder = support.build_encoder()
    single = program.evaluate(
        lambda tokens: encoder(tokens.input_ids, tokens.attention_mask),
        support.build_text_encoder(),
        load_collection(collection_directory),
        tmp_path / "single",
        1,
        0,
    )
    torch.set_num_threads(threads)
    for world in ("replica", "zero3"):
        for ours, theirs in zip(single, first[world], strict=True):
            assert ours["pairs"] == theirs["pairs"]
            assert ours["means"] == theirs["means"]
        expected = files(tmp_path / "single")
        assert len(expected) == 2 * 2 * 2 * 2  # steps, systems, pairs, run and values
        assert files(tmp_path / world) == expected

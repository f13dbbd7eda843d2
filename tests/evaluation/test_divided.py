"""Four processes that each hold a part of the documents give one process's runs, byte for byte."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from distill.errors import InputError
from distill.evaluation.settings import EvaluationSettings

PROGRAM = Path(__file__).with_name("divided_program.py")
WAYS = ["memory", "file", "single", "cache", "passages", "rerank"]


def load_program():
    specification = importlib.util.spec_from_file_location("divided_program", PROGRAM)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def files(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.glob("*/drawn/step-0/*"))
        if path.name != "results.json"
    }


@pytest.mark.slow
def test_four_processes_equal_one(tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    single = load_program().evaluate_all_ways(tmp_path / "single", tmp_path / "cache of one")
    torch.set_num_threads(threads)
    expected = files(tmp_path / "single")
    assert len(expected) == 2 * 2 * len(WAYS)
    launched = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc_per_node=4", str(PROGRAM), str(tmp_path)),
        ],
        cwd=Path(__file__).resolve().parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert launched.returncode == 0, launched.stdout + launched.stderr
    reports = [json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in range(4)]
    for part, folder in (("figures", "ranks"), ("again", "again"), ("theirs", "theirs")):
        assert files(tmp_path / folder) == expected
        for way in WAYS:
            held = [report[part][f"{way} texts"] for report in reports]
            assert sum(held) == single[f"{way} texts"]
            assert max(held) < sum(held)
            for report in reports:
                assert report[part][way]["pairs"] == single[way]["pairs"]
    # Reranking encoded the candidates alone.
    assert 0 < single["rerank texts"] < 18 < single["memory texts"]
    assert {report["failed"] for report in reports} == {"InputError"}
    assert {report["stopped"] for report in reports} == {"EvaluationStoppedError"}
    # The files that hold vectors meanwhile have no names, and leave nothing behind.
    assert {path.name for path in (tmp_path / "ranks").iterdir()} == set(WAYS)


@pytest.mark.parametrize(("name", "value"), [("memory_mib", 8), ("depth", 0)])
def test_settings_that_leave_no_room_are_refused(name, value):
    with pytest.raises(InputError, match=f"evaluation.{name}: {value}"):
        EvaluationSettings(**{name: value})


def test_an_encoder_whose_vectors_are_not_finite_is_refused_with_its_documents():
    program = load_program()
    encoder, text = program.SUPPORT.build_encoder(), program.SUPPORT.build_text_encoder()
    with pytest.raises(InputError, match="document embeddings that are not finite"):
        program.index_documents(
            program.drawn_collection(),
            lambda tokens: 1e6 * encoder(tokens.input_ids, tokens.attention_mask),
            text,
        )


def test_a_file_of_vectors_that_cannot_be_written_is_an_input_error(tmp_path):
    program = load_program()
    encoder, text = program.SUPPORT.build_encoder(), program.SUPPORT.build_text_encoder()
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="a disk with room"):
        program.index_documents(
            program.drawn_collection(),
            lambda tokens: encoder(tokens.input_ids, tokens.attention_mask),
            text,
            memory_mib=0,
            folder=tmp_path / "file",
        )

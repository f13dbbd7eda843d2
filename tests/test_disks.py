"""A file-size limit met in the middle of any file: one line, the old one kept, no partial left."""

from __future__ import annotations

import errno
import resource
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from data_shards.__main__ import main as shards
from distill.checkpoints.checkpoint import TrainState, checkpoints_in, save_checkpoint
from distill.disks import disk_problem
from distill.encoders.directory import load_encoder
from distill.encoders.written import write_encoder
from distill.errors import EXIT_BAD_INPUT, InputError, one_line_errors
from distill.evaluation.results import replace_text, write_per_query, write_results
from distill.evaluation.runs import rank, write_run
from distill.lexicons.lexicon import Lexicon, write_lexicon
from distill.recipe.files import load_settings
from distill.recipe.recipe import Recipe


@contextmanager
def file_limit(num_bytes: int):
    """No file of this process grows beyond it: EFBIG, also in what libraries write."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


WRITERS = {
    "text": lambda path: replace_text(path, "x" * 9000),
    "results": lambda path: write_results(path, [{"a": "x" * 9000}]),
    "per-query": lambda path: write_per_query(path, {f"q{n}": {"AP": n / 7} for n in range(900)}),
    "run": lambda path: write_run(
        path, {f"q{n}": rank({"d1": 0.5, "d2": 0.25}) for n in range(900)}, "tag"
    ),
    "lexicon": lambda path: write_lexicon(
        Lexicon({f"neno{n}": [("word", 0.5)] for n in range(900)}), path
    ),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_results_runs_and_lexicons(kind, tmp_path):
    (path := tmp_path / "file").write_text("old")
    with file_limit(4096), pytest.raises(InputError, match=r"file: File too large.*free space"):
        WRITERS[kind](path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    WRITERS[kind](path)
    assert path.stat().st_size > 4096


@pytest.mark.parametrize("limit", [3_000, 70_000, 100_000])
def test_checkpoints(tmp_path, limit):
    """Met in the weights (57 kB), in the optimizer's file (115 kB) and its last part."""
    accelerator = Accelerator(cpu=True)
    model = torch.nn.Linear(120, 120)
    model, optimizer = accelerator.prepare(model, torch.optim.AdamW(model.parameters()))
    model(torch.ones(1, 120)).sum().backward()
    optimizer.step()
    save_checkpoint(tmp_path, accelerator, TrainState(step=1), keep_last=9)
    with file_limit(limit), pytest.raises(InputError, match="free space"):
        save_checkpoint(tmp_path, accelerator, TrainState(step=2), keep_last=9)
    assert [path.name for path in checkpoints_in(tmp_path)] == ["step-1"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "step-1"]
    save_checkpoint(tmp_path, accelerator, TrainState(step=2), keep_last=9)
    assert [path.name for path in checkpoints_in(tmp_path)] == ["step-1", "step-2"]


@pytest.mark.parametrize("limit", [200, 2_000, 40_000])
def test_models(tmp_path, tiny_world, limit):
    encoder, text = load_encoder(str(tiny_world.teacher))
    weights = dict(encoder.state_dict())
    write_encoder(tmp_path / "student", encoder, text, weights)
    with file_limit(limit), pytest.raises(InputError, match=r"student: .*free space"):
        write_encoder(tmp_path / "student", encoder, text, weights)
    assert [path.name for path in tmp_path.iterdir()] == ["student"]
    load_encoder(str(tmp_path / "student"))


def test_tokenizers(tmp_path, tiny_world):
    """Their library has no class of its own for it."""
    _, text = load_encoder(str(tiny_world.teacher))
    with file_limit(500), pytest.raises(Exception, match="os error") as caught:
        text.tokenizer.backend_tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert "os error 27" in str(disk_problem(caught.value))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_what_a_command_meets_anywhere_is_a_line(number, capsys):
    with pytest.raises(SystemExit) as ended, one_line_errors():
        raise OSError(number, "no more", "/some/file")
    assert ended.value.code == EXIT_BAD_INPUT
    line = capsys.readouterr().err
    assert line.startswith("error: /some/file: no more, expected ")
    with pytest.raises(OSError, match="gone"), one_line_errors():
        raise OSError(errno.ENOENT, "gone")


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), ValueError("x"), Exception("y")])
def test_other_errors_are_defects(error):
    assert disk_problem(error) is None


def test_a_url_is_no_folder_of_this_machine(tmp_path, monkeypatch, capsys):
    """`Path` makes `s3:/bucket` of it: results would lie in a folder named after the scheme."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        shards(["verify", "s3://bucket/shards"])
    assert ended.value.code == EXIT_BAD_INPUT
    said = capsys.readouterr().err
    assert "s3://…: a place elsewhere, expected a path of this machine: copy it here" in said
    Path("recipe.yaml").write_text("{name: x, runs: 'gs://bucket/runs'}", encoding="utf-8")
    with pytest.raises(InputError, match="gs://…: a place elsewhere"):
        load_settings(Recipe, Path("recipe.yaml"))
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]

"""Bad input to every command: one line with value, expectation and remedy, and exit status 2."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from bad_input.broken_inputs import copied
from bad_input.command_cases import EXPORT_CASES, SHARD_CASES, STUDY_CASES, TEACHER_CASES
from bad_input.training_cases import TRAIN_CASES

from data_shards.__main__ import main as data_shards_main
from distill.errors import EXIT_BAD_INPUT
from distill.export.__main__ import main as export_main
from distill.studies.__main__ import main as studies_main
from distill.train import main as train_main
from distill.train_teacher import main as train_teacher_main

CASES = [
    (f"{command}: {name}", main, make, message)
    for command, main, cases in (
        ("train", train_main, TRAIN_CASES),
        ("train_teacher", train_teacher_main, TEACHER_CASES),
        ("data_shards", data_shards_main, SHARD_CASES),
        ("export", export_main, EXPORT_CASES),
        ("studies", studies_main, STUDY_CASES),
    )
    for name, (make, message) in cases.items()
]


@pytest.fixture(autouse=True)
def signal_handlers():
    """What a training run listens to is not left to the tests that follow."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("main", "make", "message"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_one_line_and_a_status(main, make, message, tiny_world, tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        main(make(tiny_world, tmp_path))
    assert caught.value.code == EXIT_BAD_INPUT
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert len(lines) == 1
    assert message in lines[0]
    # Value, expectation and remedy.
    assert ", expected " in lines[0]
    assert ": " in lines[0].split(", expected ", 1)[1]


def test_corrupt_shard_is_found_by_verify(tiny_world, tmp_path, capsys):
    shards = copied(tiny_world.shards, tmp_path / "shards")
    tar = next((shards / "sw-en").glob("train-*.tar"))
    content = bytearray(tar.read_bytes())
    content[600] ^= 1
    tar.write_bytes(content)
    with pytest.raises(SystemExit) as caught:
        data_shards_main(["verify", str(shards)])
    assert caught.value.code not in (0, None)
    output = capsys.readouterr()
    assert tar.name in output.err + output.out


@pytest.mark.slow
def test_every_rank_of_a_launch_refuses_in_seconds(tiny_world):
    root = Path(__file__).resolve().parents[2]
    accelerate = str(Path(sys.executable).parent / "accelerate")
    launch = [accelerate, "launch", "--config_file", "accelerate_config.yaml"]
    result = subprocess.run(
        [*launch, "distill/train.py", str(tiny_world.recipe), "launch.num_processes=3"],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode != 0
    lines = [line for line in result.stderr.splitlines() if line.startswith("error (rank")]
    assert any("(rank 0 of 2): launched with 2 processes" in line for line in lines)
    assert not [line for line in result.stderr.splitlines() if "InputError" in line]

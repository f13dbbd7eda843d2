"""Variables that a launch or a forgotten export left behind: one line that names them."""

from __future__ import annotations

import pytest

from distill.distributed.environment import check_environment
from distill.errors import InputError

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
LAUNCHED = {
    "RANK": "1",
    "WORLD_SIZE": "2",
    "LOCAL_RANK": "1",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500",
}


@pytest.fixture
def environment(monkeypatch):
    for name in (*NAMES, "ACCELERATE_USE_DEEPSPEED"):
        monkeypatch.delenv(name, raising=False)

    def given(**values: str) -> None:
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return given


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"WORLD_SIZE": ""}, "WORLD_SIZE=''"),
        ({"RANK": "first"}, "RANK='first'"),
        ({"LOCAL_RANK": "3"}, "LOCAL_RANK without RANK"),
        ({"RANK": "0", "WORLD_SIZE": "2"}, "without MASTER_ADDR"),
        ({**LAUNCHED, "RANK": "2"}, "RANK=2 with WORLD_SIZE=2"),
        ({**LAUNCHED, "MASTER_PORT": "0x7"}, "MASTER_PORT='0x7'"),
        ({**LAUNCHED, "MASTER_ADDR": "node0.invalid"}, "MASTER_ADDR=node0.invalid"),
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "ACCELERATE_USE_DEEPSPEED=true without a launcher"),
    ],
)
def test_left_over_variables_are_named(environment, values, message):
    environment(**values)
    with pytest.raises(InputError, match=message):
        check_environment()


@pytest.mark.parametrize("values", [{}, LAUNCHED, {"RANK": "0", "WORLD_SIZE": "1"}])
def test_a_launch_and_none_pass(environment, values):
    environment(**values)
    check_environment()

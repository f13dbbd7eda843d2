"""Checks what a launcher, or a forgotten export, left in the environment: `check_environment`."""

from __future__ import annotations

import os
import socket

from distill.errors import InputError

_ADVICE = "accelerate launch --config_file accelerate_config.yaml distill/train.py RECIPE.yaml"
_NUMBERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_PORT")


def uses_deepspeed() -> bool:
    """Whether the launcher asked for DeepSpeed."""
    return os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true"


def check_environment() -> None:
    """Refuse variables of a launch that no launcher has set in this form; nothing connects.

    Raises:
        InputError: naming the variable.
    """
    given = {name: os.environ[name] for name in _NUMBERS if name in os.environ}
    for name, value in given.items():
        if not value.isdecimal():
            raise _wrong(f"{name}={value!r}", "a whole number, as a launcher sets it", name)
    num_ranks, rank = int(given.get("WORLD_SIZE", "1")), int(given.get("RANK", "0"))
    if "LOCAL_RANK" in given and "RANK" not in given:
        raise _wrong("LOCAL_RANK without RANK", "all variables of a launcher or none", "LOCAL_RANK")
    if rank >= max(num_ranks, 1):
        raise _wrong(f"RANK={rank} with WORLD_SIZE={num_ranks}", "a rank below it", "RANK")
    if num_ranks > 1:
        _check_address()
    if uses_deepspeed() and "RANK" not in given:
        raise _wrong(
            "ACCELERATE_USE_DEEPSPEED=true without a launcher",
            "processes started by accelerate",
            "ACCELERATE_USE_DEEPSPEED",
        )


def _check_address() -> None:
    address = os.environ.get("MASTER_ADDR", "")
    if not address or "MASTER_PORT" not in os.environ:
        raise _wrong(
            "WORLD_SIZE above 1 without MASTER_ADDR and MASTER_PORT",
            "the address of rank 0",
            "WORLD_SIZE",
        )
    try:
        socket.getaddrinfo(address, int(os.environ["MASTER_PORT"]))
    except (OSError, OverflowError) as error:
        raise _wrong(
            f"MASTER_ADDR={address}: {error}", "a host that is there", "MASTER_ADDR"
        ) from error


def _wrong(found: str, expected: str, name: str) -> InputError:
    return InputError(
        f"environment: {found}", expected, f"unset {name} and the like, and run {_ADVICE}"
    )

"""Of two launches that write to one run directory, the first notices."""

from __future__ import annotations

import os

import pytest

from distill.checkpoints.ownership import Ownership
from distill.errors import InputError


def test_a_launch_that_was_thought_dead_stops_before_it_writes(tmp_path):
    first = Ownership(tmp_path)
    first.require()
    second = Ownership(tmp_path)
    second.require()
    with pytest.raises(InputError, match=f"taken over by .* process {os.getpid()}, expected one"):
        first.require()
    second.require()

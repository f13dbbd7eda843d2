"""Every objective on two processes: loss, gradient and what it learns are one process's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from objectives import two_ranks

from distill.objectives.combination import OBJECTIVES


@pytest.mark.slow
def test_two_ranks_equal_one_process(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    result = subprocess.run(
        [*command, str(Path(two_ranks.__file__)), str(tmp_path)],
        cwd=Path(__file__).resolve().parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    first, second = (torch.load(tmp_path / f"rank-{rank}.pt") for rank in (0, 1))
    covered = {name for case in two_ranks.CASES.values() for name in case}
    assert covered == set(OBJECTIVES)
    for name, case in two_ranks.CASES.items():
        expected = two_ranks.train(case, slice(0, 8))
        assert expected["gradients"].abs().max() > 1e-3, name
        for key in ("losses", "gradients"):
            # Solvers and the discriminator work in single precision.
            torch.testing.assert_close(
                first[name][key],
                expected[key],
                rtol=1e-5,
                atol=1e-6,
                msg=lambda text, name=name, key=key: f"{name}, {key}: {text}",
            )
        # Every rank must make the same step of what learns beside the student, to the last bit.
        torch.testing.assert_close(second[name]["state"], first[name]["state"], rtol=0, atol=0)
        torch.testing.assert_close(first[name]["state"], expected["state"], rtol=1e-5, atol=1e-5)
    assert first["adversarial"]["state"]

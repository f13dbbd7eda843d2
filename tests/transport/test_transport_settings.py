"""Settings: what is refused, and how epsilon falls."""

from __future__ import annotations

import subprocess
import sys

import pytest

from distill.errors import InputError
from distill.transport.settings import TransportSettings


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"solver": "sinkhorm"}, "solver=sinkhorm, expected one of sinkhorn"),
        ({"cost": "dot"}, "cost=dot"),
        ({"epsilon": 0}, "epsilon=0, expected a positive number"),
        ({"epsilon": float("nan")}, "epsilon=nan"),
        ({"num_iterations": 0}, "num_iterations=0"),
        ({"tolerance": -1}, "tolerance=-1"),
        ({"plan_source": "blend", "plan_blend": 2}, "plan_blend=2"),
        ({"plan_blend": 0.3}, "plan_blend=0.3, expected plan_source=blend"),
        ({"marginal_relaxation": 2.0}, "expected solver=unbalanced"),
        ({"epsilon_start": 0.01}, "epsilon_start=0.01, expected at least epsilon"),
        ({"epsilon_start": 1.0}, "epsilon_decay_steps=0"),
        ({"epsilon_decay_steps": 5}, "epsilon_decay_steps=5"),
        ({"solver": "ipot", "value": "entropic"}, "no entropic value"),
        ({"solver": "greedy", "value": "debiased"}, "no entropic value"),
        ({"plan_source": "teacher", "value": "entropic"}, "plan_source=student"),
        ({"backend": "numba", "solver": "exact"}, "use backend=auto"),
        ({"backend": "triton", "solver": "greedy"}, "use backend=auto"),
    ],
)
def test_refuses(values, says):
    with pytest.raises(InputError, match="transport") as raised:
        TransportSettings(**values)
    assert says in str(raised.value)


def test_epsilon_falls_geometrically_to_its_end():
    settings = TransportSettings(epsilon=0.01, epsilon_start=1.0, epsilon_decay_steps=100)
    assert settings.epsilon_at(0) == 1.0
    assert settings.epsilon_at(50) == pytest.approx(0.1)
    assert settings.epsilon_at(100) == settings.epsilon_at(10**6) == 0.01
    assert settings.epsilon_at(None) == 0.01
    assert TransportSettings(epsilon=0.2).epsilon_at(0) == 0.2


def test_is_importable_without_torch_numba_and_triton():
    code = (
        "import sys, distill.transport.settings\n"
        "assert not {'torch', 'numba', 'triton', 'ot'} & set(sys.modules)\n"
        "import distill.transport.loss\n"
        "assert not {'numba', 'ot', 'geomloss'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

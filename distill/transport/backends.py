"""Which way of computing a batch takes.

The compiled ones are imported where they are chosen, so that a machine without numba, Triton
or a GPU misses nothing but speed.
"""

from __future__ import annotations

from collections.abc import Callable

from distill.transport.bucketed import bucketed_route
from distill.transport.reference import reference_route
from distill.transport.route import PairResults, Request

Route = Callable[[Request], PairResults]


def choose_route(request: Request) -> Route:
    """The settings' backend, or the fastest that is installed and does these settings."""
    backend = request.settings.backend
    if backend == "reference":
        return reference_route
    return reference_route if request.a_BN.is_cuda else bucketed_route

"""MUVERA's vectors against its definition, written out token by token, and what it promises."""

from __future__ import annotations

import numpy as np

from distill.export.engines.fixed_vectors import FixedVectors


def clouds(number: int, seed: int, dimension: int = 24) -> list[np.ndarray]:
    """Unit vectors around a few directions of each cloud's own, as tokens of one text are."""
    draw = np.random.default_rng(seed)
    found = []
    for _ in range(number):
        centres = draw.standard_normal((4, dimension))
        rows = centres[draw.integers(0, 4, 12)] + 0.3 * draw.standard_normal((12, dimension))
        found.append((rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32))
    return found


def by_definition(fixed: FixedVectors, vectors: np.ndarray, is_query: bool) -> np.ndarray:
    """Section 2 of the paper, one repetition, cell and token at a time."""
    out = np.zeros(fixed.final_dimension)
    place = 0
    for planes, projection in zip(fixed._planes_RDK, fixed._projections_RDP, strict=True):
        sides = [tuple((vector @ planes > 0).astype(int)) for vector in vectors]
        for cell in range(fixed.num_cells):
            code = tuple((cell >> bit) & 1 for bit in range(planes.shape[1]))
            inside = [
                v @ projection for v, side in zip(vectors, sides, strict=True) if side == code
            ]
            if is_query:
                block = np.sum(inside, axis=0) if inside else np.zeros(projection.shape[1])
            elif inside:
                block = np.mean(inside, axis=0)
            else:
                away = [sum(a != b for a, b in zip(side, code, strict=True)) for side in sides]
                block = vectors[int(np.argmin(away))] @ projection
            for value in block:
                out[fixed._places[place]] += fixed._signs[place] * value
                place += 1
    assert place == len(fixed._places)
    return out


def test_equal_to_the_definition():
    fixed = FixedVectors(24, 50, num_repetitions=3, num_hyperplanes=4, projected=5, seed=4)
    for vectors in clouds(3, 0):
        for is_query in (True, False):
            found = fixed.query(vectors) if is_query else fixed.document(vectors)
            np.testing.assert_allclose(found, by_definition(fixed, vectors, is_query), atol=1e-4)


def test_without_cells_or_repetitions_it_is_a_mean_and_a_sum():
    # One cell and no sketch worth the name: every number keeps a place of its own or shares it.
    fixed = FixedVectors(24, 10_000, num_repetitions=1, num_hyperplanes=0, projected=4)
    (vectors,) = clouds(1, 3)
    total, mean = fixed.query(vectors), fixed.document(vectors)
    np.testing.assert_allclose(total, mean * len(vectors), atol=1e-4)


def test_the_dot_product_follows_maxsim():
    documents, queries = clouds(60, 1), clouds(60, 2)
    # Each query is near one document's tokens.
    queries = [0.7 * d[:6] + 0.3 * q[:6] for d, q in zip(documents, queries, strict=True)]
    exact = np.array([[(q @ d.T).max(axis=1).sum() for d in documents] for q in queries])
    fixed = FixedVectors(24, 2048)
    encoded = np.array([fixed.document(d) for d in documents])
    found = np.array([fixed.query(q) for q in queries]) @ encoded.T
    assert (exact.argmax(axis=1) == np.arange(60)).all()
    ranks = (found > found[np.arange(60), np.arange(60)][:, None]).sum(axis=1)
    assert (ranks < 5).mean() > 0.95
    # Twenty repetitions: the estimate of MaxSim itself is near.
    best = found[np.arange(60), np.arange(60)] / 20
    assert abs(best / exact.max(axis=1) - 1).mean() < 0.25


def test_the_same_numbers_in_every_process():
    (vectors,) = clouds(1, 5)
    first = FixedVectors(24, 64).document(vectors)
    again = FixedVectors(24, 64).document(vectors)
    assert np.array_equal(first, again)
    # Written down once: an index that was filled with these must go on to be searched by these.
    drawn = FixedVectors(2, 8, num_repetitions=1, num_hyperplanes=1, projected=1)
    np.testing.assert_allclose(drawn._planes_RDK.ravel(), [1.76405235, 0.40015721], atol=1e-8)

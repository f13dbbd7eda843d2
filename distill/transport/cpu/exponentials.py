"""Computes exponentials and logarithms of many numbers in vector instructions (numba).

numba calls the C library for each number of its own `exp` and `log`, some ten times slower. In
float32 these are polynomials that the compiler turns into vector code, right to 1e-7; in
float64, which is for tests, they are the C library's. A call costs some 70 ns, so it wants a
matrix, flat, and not a row.
"""

from __future__ import annotations

import numpy as np
from numba import types
from numba.extending import overload


def exponentials(values, bits):
    """values[j] = exp(values[j]), 0 from -87 down in float32; `bits` is int32 scratch."""
    raise NotImplementedError("compiled by numba")


# Without reordering, which would join the two parts of log 2 into one again.
@overload(exponentials, jit_options={"fastmath": {"contract"}})
def _exponentials(values, bits):
    if values.dtype != types.float32:

        def precise(values, bits):
            for j in range(values.shape[0]):
                values[j] = np.exp(values[j])

        return precise

    def vectorised(values, bits):
        # e^x = 2^n e^r with |r| <= log(2) / 2: n into the exponent's bits, a Taylor polynomial
        # in r = x - n log 2, log 2 in two parts so that n times the first is exact.
        powers = bits.view(np.float32)
        for j in range(values.shape[0]):
            x = min(max(values[j], np.float32(-87)), np.float32(87))
            n = np.floor(x * np.float32(1.4426950408889634) + np.float32(0.5))
            r = (x - n * np.float32(0.693359375)) - n * np.float32(-2.12194440e-4)
            p = np.float32(1 / 5040)
            p = p * r + np.float32(1 / 720)
            p = p * r + np.float32(1 / 120)
            p = p * r + np.float32(1 / 24)
            p = p * r + np.float32(1 / 6)
            p = p * r + np.float32(0.5)
            p = p * r + np.float32(1)
            power = (np.int32(n) + np.int32(127)) << np.int32(23)
            # What would be smaller than the smallest normal number is nothing.
            bits[j] = power if values[j] > np.float32(-87) else np.int32(0)
            values[j] = p * r + np.float32(1)
        for j in range(values.shape[0]):
            values[j] *= powers[j]

    return vectorised


def logarithms(values, out, bits):
    """out[j] = log(values[j]) for values >= 0; about -88 for 0 in float32. `bits`: scratch."""
    raise NotImplementedError("compiled by numba")


@overload(logarithms, jit_options={"fastmath": {"contract"}})
def _logarithms(values, out, bits):
    if values.dtype != types.float32:

        def precise(values, out, bits):
            for j in range(values.shape[0]):
                out[j] = np.log(max(values[j], 1e-300))

        return precise

    def vectorised(values, out, bits):
        # x = 2^e m with m in [2/3, 4/3); log m = 2 artanh s = 2 (s + s^3 / 3 + ...), |s| <= 1/5.
        patterns, mantissas = values.view(np.int32), bits.view(np.float32)
        for j in range(values.shape[0]):
            bits[j] = (patterns[j] & np.int32(0x7FFFFF)) | np.int32(0x3F800000)
        for j in range(values.shape[0]):
            m, e = mantissas[j], np.float32((patterns[j] >> np.int32(23)) - np.int32(127))
            halved = m >= np.float32(4 / 3)
            m = np.float32(0.5) * m if halved else m
            e = e + np.float32(1) if halved else e
            s = (m - np.float32(1)) / (m + np.float32(1))
            q = s * s
            p = np.float32(2 / 9)
            p = p * q + np.float32(2 / 7)
            p = p * q + np.float32(2 / 5)
            p = p * q + np.float32(2 / 3)
            p = p * q + np.float32(2)
            out[j] = e * np.float32(0.6931471805599453) + p * s

    return vectorised

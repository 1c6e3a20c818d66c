"""Winograd's algorithm F(m, 3) as matrices, and what it becomes after doubling the size.

Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2015.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtimes.onnx.rewrites.upsample_conv import TAPS

_OVERLAP = 2  # of windows, for 3 taps
# Points at which polynomials are evaluated, and infinity: with 1/2 and -2 the error is a third of
# that with 2 and -2 (Barabasz et al., "Error Analysis and Improving the Accuracy of Winograd
# Convolution for Deep Neural Networks", 2020).
_POINTS = (0, 1, -1, -2, 0.5)


@dataclass(frozen=True)
class Algorithm:
    """Results of a window are `back` @ ((`weigh` @ the kernel) * (`cut` @ the window)).

    Window, kernel and results are square and flat; matrices are [products, pixels of the window],
    [products, taps] and [pixels of the results, products], float64.
    """

    cut: NDArray[Any]
    weigh: NDArray[Any]
    back: NDArray[Any]

    @property
    def products(self) -> int:
        """How many for a window."""
        return len(self.cut)

    @property
    def window(self) -> int:
        """Its side."""
        return math.isqrt(self.cut.shape[1])

    @property
    def stride(self) -> int:
        """By how many pixels a window begins after the one before: what 3 taps need is shared."""
        return self.window - _OVERLAP

    @property
    def side(self) -> int:
        """Of the results."""
        return math.isqrt(len(self.back))


def _winograd(results: int, taps: int) -> tuple[NDArray[Any], ...]:
    """The three matrices of F(results, taps), for a row."""
    points = taps + results - 1
    cut = np.linalg.inv(_evaluations(points, points)).T
    return cut, _evaluations(taps, points), _evaluations(results, points).T


def _after_doubling(results: int) -> tuple[NDArray[Any], ...]:
    """Even and odd ones, each by F(results, 2), from windows of which one begins a pixel later."""
    half_cut, half_weigh, half_back = _winograd(results, 2)
    points = len(half_cut)
    cut, back = np.zeros((2 * points, points + 1)), np.zeros((2 * results, 2 * points))
    for odd in (0, 1):
        rows = slice(odd * points, (odd + 1) * points)
        cut[rows, odd : odd + points] = half_cut
        back[odd::2, rows] = half_back
    return cut, np.vstack([half_weigh @ taps for taps in TAPS]), back


def _evaluations(coefficients: int, points: int) -> NDArray[Any]:
    """[points, coefficients], the values of polynomials at the points, infinity the last."""
    finite = np.vander(np.array(_POINTS[: points - 1]), coefficients, increasing=True)
    return np.vstack([finite, np.eye(1, coefficients, coefficients - 1)])


def _planar(row: tuple[NDArray[Any], ...]) -> Algorithm:
    """Of matrices [a, b] each, [a * a, b * b]: rows and columns are treated alike."""
    cut, weigh, back = (np.kron(matrix, matrix) for matrix in row)
    return Algorithm(cut, weigh, back)


SMALL, SAME, DOUBLE = map(_planar, (_winograd(2, 3), _winograd(4, 3), _after_doubling(4)))

"""Winograd's algorithm F(4, 3) as matrices, and what it becomes after doubling the size.

Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2015.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtimes.onnx.upsampling import TAPS

WINDOW, STRIDE = 6, 4  # of what is cut
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
    def side(self) -> int:
        """Of the results."""
        return math.isqrt(len(self.back))


def _winograd(taps: int) -> tuple[NDArray[Any], ...]:
    """The three matrices of F(4, taps), for a row."""
    points = taps + STRIDE - 1
    cut = np.linalg.inv(_evaluations(points, points)).T
    return cut, _evaluations(taps, points), _evaluations(STRIDE, points).T


def _after_doubling() -> tuple[NDArray[Any], ...]:
    """Even and odd results, each by F(4, 2), from windows of which one begins a pixel later."""
    half_cut, half_weigh, half_back = _winograd(2)
    points = len(half_cut)
    cut, back = np.zeros((2 * points, WINDOW)), np.zeros((2 * STRIDE, 2 * points))
    for odd in (0, 1):
        rows = slice(odd * points, (odd + 1) * points)
        cut[rows, odd : odd + points] = half_cut
        back[odd::2, rows] = half_back
    return cut, np.vstack([half_weigh @ taps for taps in TAPS]), back


def _evaluations(coefficients: int, points: int) -> NDArray[Any]:
    """[points, coefficients], the values of polynomials at the points, infinity the last."""
    finite = np.vander(np.array(_POINTS[: points - 1]), coefficients, increasing=True)
    return np.vstack([finite, np.eye(1, coefficients, coefficients - 1)])


def _planar(matrices: tuple[NDArray[Any], ...]) -> Algorithm:
    """Of [a, b] each, [a * a, b * b]: rows and columns are treated alike."""
    return Algorithm(*(np.kron(matrix, matrix) for matrix in matrices))


SAME, DOUBLE = _planar(_winograd(3)), _planar(_after_doubling())

"""The transforms of Winograd's F(2x2, 3x3) and F(4x4, 3x3), and of F(4x4) after upsampling.

F(m x m, r x r) computes m x m results of a convolution by an r x r filter with (m + r - 1)^2
multiplications:

    results = output_transform @ ((filter_transform @ filter) * (input_transform @ tile))

Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2015, where these matrices are
A^T, G and B^T.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from lcmcore.util.arrays import Array
from runtimes.onnx.rewrites.upsample_conv import TAPS

_OVERLAP = 2  # pixels that a tile shares with the next one, for a filter of 3
# Where polynomials are evaluated, then at infinity: with 1/2 and -2 the error is a third of that
# with 2 and -2 (Barabasz et al., "Error Analysis and Improving the Accuracy of Winograd
# Convolution for Deep Neural Networks", 2020).
_POINTS = (0, 1, -1, -2, 0.5)


@dataclass(frozen=True)
class Algorithm:
    """The three matrices, float64; tiles, filters and results are flattened squares.

    `input_transform` is [multiplications, pixels of a tile], `filter_transform` [multiplications,
    taps], `output_transform` [pixels of the results, multiplications].
    """

    input_transform: Array
    filter_transform: Array
    output_transform: Array

    @property
    def multiplications(self) -> int:
        """For a tile."""
        return len(self.input_transform)

    @property
    def tile(self) -> int:
        """The side of an input tile, in pixels."""
        return math.isqrt(self.input_transform.shape[1])

    @property
    def stride(self) -> int:
        """From a tile to the next, in pixels of the input."""
        return self.tile - _OVERLAP

    @property
    def output_tile(self) -> int:
        """The side of a tile's results, in pixels of the output."""
        return math.isqrt(len(self.output_transform))


def _winograd(results: int, taps: int) -> tuple[Array, ...]:
    """Input, filter and output transform of F(results, taps) in one dimension."""
    points = taps + results - 1
    input_transform = np.linalg.inv(_evaluations(points, points)).T
    return input_transform, _evaluations(taps, points), _evaluations(results, points).T


def _after_upsampling(results: int) -> tuple[Array, ...]:
    """The same for a filter of 3 after doubling, 2 * results from a tile of the size before.

    Even and odd results are each a filter of 2, by F(results, 2), of which the odd ones' tile
    begins a pixel later.
    """
    half_input, half_filter, half_output = _winograd(results, 2)
    points = len(half_input)
    input_transform = np.zeros((2 * points, points + 1))
    output_transform = np.zeros((2 * results, 2 * points))
    for odd in (0, 1):
        rows = slice(odd * points, (odd + 1) * points)
        input_transform[rows, odd : odd + points] = half_input
        output_transform[odd::2, rows] = half_output
    filter_transform = np.vstack([half_filter @ taps for taps in TAPS])
    return input_transform, filter_transform, output_transform


def _evaluations(coefficients: int, points: int) -> Array:
    """[points, coefficients]: evaluates polynomials at the points, the last of them infinity."""
    finite = np.vander(np.array(_POINTS[: points - 1]), coefficients, increasing=True)
    return np.vstack([finite, np.eye(1, coefficients, coefficients - 1)])


def _in_two_dimensions(matrices: tuple[Array, ...]) -> Algorithm:
    """Of matrices for a row, those for a square: rows and columns are transformed alike."""
    return Algorithm(*(np.kron(matrix, matrix) for matrix in matrices))


F2X2 = _in_two_dimensions(_winograd(2, 3))
F4X4 = _in_two_dimensions(_winograd(4, 3))
UPSAMPLE_F4X4 = _in_two_dimensions(_after_upsampling(4))

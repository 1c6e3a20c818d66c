"""The runtime for the NPU keeps the contract, on the double of a board."""

from pathlib import Path

from lcmcore.conformance import breaches
from runtimes.rknn import RknnRuntime


def test_it_keeps_the_contract(tiny: Path, lites: list[object]) -> None:
    assert list(breaches(RknnRuntime(), tiny, tolerance=1e-2)) == []
    assert lites

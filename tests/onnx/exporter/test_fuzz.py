"""Files of weights, changed: the target `weights` of tests/fuzz, which needs torch."""

from pathlib import Path

import pytest

from tests.fuzz import seeds
from tests.fuzz.run import lines, run_target

pytestmark = pytest.mark.host  # memory and time of processes are measured


def test_nothing_is_found(tmp_path: Path) -> None:
    """`python -m tests.fuzz weights` runs longer."""
    outcome = run_target("weights", tmp_path / "kept", count=300)
    assert outcome.items >= len(seeds.weights()) + 300
    assert not outcome.failures, "\n".join(lines([outcome]))

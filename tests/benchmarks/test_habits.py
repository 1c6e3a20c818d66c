"""An image is generated without each habit; what the habit is worth, no test asserts."""

import pytest

from benchmarks.habits import HABITS, measured
from lcmcore.util.memory import anonymous_bytes
from tests.parity.bundles import TINY


@pytest.mark.slow
@pytest.mark.parametrize("habit", HABITS)
def test_an_image_without_it(habit, tmp_path, monkeypatch):
    """What a habit hangs on is looked for by name; if that has gone, this fails."""
    monkeypatch.setenv("LCM_CACHE", str(tmp_path))
    first, again, resident, anonymous = measured(habit, TINY / "lcm", 64)
    assert 0 < again < first
    assert anonymous_bytes() == 0 or 0 < anonymous <= resident

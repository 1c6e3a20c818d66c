"""The tests here run inside of the emulated board only: `make test-board`."""

import pytest

from tests.board.machine import HERE

collect_ignore_glob = [] if HERE else ["test_*.py"]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """On the board leave out what runs the demo model on ONNX Runtime: minutes an image there."""
    slow = [item for item in items if HERE and "demo" in getattr(item, "fixturenames", ())]
    if slow:
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if item not in slow]

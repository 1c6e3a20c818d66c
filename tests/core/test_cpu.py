"""The cores of this process."""

import os

import pytest

from lcmcore.util.cpu import usable_cores


def test_the_cores_are_those_that_the_process_may_use(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 1} if pid == 0 else set())
    assert usable_cores() == [1, 3]


@pytest.mark.parametrize(("count", "cores"), [(3, [0, 1, 2]), (None, [0])])
def test_where_that_is_unknown_all_are(count, cores, monkeypatch):
    """As on macOS and Windows."""
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: count)
    assert usable_cores() == cores

"""The suite finds what is planted, and a few kills leave nothing; `make kill-test` kills more."""

import sys

import pytest

from tests.kill.run import KINDS, Finding, duration, kill_once, lines, plan
from tests.kill.scenarios import SCENARIOS, Scenario, broken_images, names

# Half a file, a lock, and a process that keeps it and does not end with its parent.
BAD = """
import fcntl, subprocess, sys, time
from pathlib import Path
root = Path(sys.argv[1])
(root / "out").mkdir(exist_ok=True)
(root / "out" / "image.png").write_bytes(b"half")
lock = open(root / "x.lock", "w")
fcntl.flock(lock, fcntl.LOCK_EX)
subprocess.Popen(["sleep", "60"], pass_fds=[lock.fileno()])
(root / "ready").touch()
time.sleep(60)
"""


@pytest.mark.slow
@pytest.mark.host  # the emulator's processes are found under other names
def test_everything_planted_is_found(monkeypatch):
    planted = Scenario(
        lambda root: None,
        lambda root: [(sys.executable, "-c", BAD, str(root))],
        lambda root: (sys.executable, "-c", ""),
        lambda root: broken_images(root / "out"),
        lambda root: names(root / "out"),
        ("process",), True, 0.1, 100,
    )  # fmt: skip
    monkeypatch.setitem(SCENARIOS, "planted", planted)
    found = kill_once("planted", 0, 0, duration("planted"))
    assert {each.kind for each in found} == set(KINDS)
    assert {each.scenario for each in found} == {"planted"}
    text = "\n".join(lines([("planted", 0)], found))
    assert "image.png is left" in text and "x.lock is held" in text
    assert text.splitlines()[-1].split()[:2] == ["all", "1"]


@pytest.mark.slow
@pytest.mark.host  # by the clock
@pytest.mark.parametrize("name", SCENARIOS)
def test_a_kill_leaves_nothing(name):
    """One for each way; the moments are those of `make kill-test SEED=1`."""
    seconds = duration(name)
    for number, _ in enumerate(SCENARIOS[name].ways):
        assert kill_once(name, number, 1, seconds) == []


def test_a_plan_kills_each_scenario_by_its_share():
    assert sum(scenario.share for scenario in SCENARIOS.values()) == 100
    assert len(plan(165)) == 165
    assert {name for name, _ in plan(1)} == set(SCENARIOS)
    assert plan(100)[:2] == [("write", 0), ("write", 1)]


def test_findings_are_counted_by_kind_and_scenario():
    found = [Finding("orphans", "batch", 1, "process 7 is left")] * 2
    *_, batch, _, _, everything = lines([("batch", 0), ("batch", 1), ("stage", 0)], found)
    assert batch.split() == ["batch", "2", "0", "2", "0", "0"]
    assert everything.split() == ["all", "3", "0", "2", "0", "0"]

"""Starts processes, kills them at random moments, and counts what is wrong afterwards."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from tests.jobs.fakes import children
from tests.kill.scenarios import ROOT, SCENARIOS, Command, environment, names

GRACE = 2.0  # seconds in which workers end by themselves; longer where they take longer to start
PATIENCE = 60.0  # for what is not killed, and for the next run
KINDS = ("half files", "orphans", "locks", "leftovers")


class Finding(NamedTuple):
    """Something wrong, of one of KINDS."""

    kind: str
    scenario: str
    number: int
    text: str


def duration(name: str) -> float:
    """Seconds in which a scenario may be killed: if it ends by itself, those until then."""
    scenario = SCENARIOS[name]
    if scenario.waits_for_ready:
        return scenario.seconds
    with _prepared(name) as root:
        start = time.monotonic()
        process = _start(scenario.commands(root)[0], root)
        process.wait(PATIENCE)
        return time.monotonic() - start


@contextmanager
def _prepared(name: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="lcm-kill-", ignore_cleanup_errors=True) as folder:
        root = Path(folder)
        for each in ("home", "tmp"):
            (root / each).mkdir()
        SCENARIOS[name].prepare(root)
        yield root


def kill_once(name: str, number: int, seed: int, seconds: float) -> list[Finding]:
    """Kill the scenario once, within so many seconds; the number decides the moment and the way."""
    scenario, rng = SCENARIOS[name], random.Random(f"{seed} {name} {number}")
    way = scenario.ways[number % len(scenario.ways)]
    found: list[tuple[str, str]] = []
    with _prepared(name) as root:
        processes = [_start(command, root) for command in scenario.commands(root)]
        try:
            if scenario.waits_for_ready:
                _wait_until((root / "ready").exists, PATIENCE)
            moment = rng.uniform(0, seconds)
            time.sleep(moment)
            _kill(processes[0], way, rng)
            for process in processes[way != "child" :]:
                if not _ended(process, PATIENCE):
                    found.append(("locks", "a process that was not killed did not end"))
                elif (
                    process.returncode not in (0, 1) or b"Traceback" in (root / "log").read_bytes()
                ):
                    found.append(("half files", f"the other ended with {process.returncode}"))
            _ended(processes[0], PATIENCE)
            grace = max(GRACE, 0 if scenario.waits_for_ready else seconds)
            found += [("orphans", text) for text in _orphans(processes, grace)]
            found += [("half files", text) for text in scenario.half(root)]
            found += [("locks", text) for text in _locks(root)]
            following = _start(scenario.again(root), root)
            processes.append(following)
            if not _ended(following, PATIENCE):
                found.append(("locks", "the next run did not end"))
            elif following.returncode:
                found.append(("half files", f"the next run failed: {_log(root)[-300:]}"))
            found += [("half files", text) for text in scenario.half(root)]
            found += [("leftovers", text) for text in scenario.left(root)]
            found += [("leftovers", text) for text in names(root / "tmp") if ".ses " not in text]
        finally:
            for process in processes:
                _kill_group(process)
                process.wait()
    how = f"{way} after {moment:.3f} s"
    return [Finding(kind, name, number, f"{text} ({how})") for kind, text in found]


def _log(root: Path) -> str:
    return (root / "log").read_text("utf-8", "replace").strip()


def _start(command: Command, root: Path) -> subprocess.Popen[bytes]:
    """In a session of its own, by which what it started is found again."""
    with (root / "log").open("ab") as log:
        return subprocess.Popen(
            command, cwd=ROOT, env=environment(root), stdin=subprocess.DEVNULL, stdout=log,
            stderr=log, start_new_session=True,
        )  # fmt: skip


def _kill(process: subprocess.Popen[bytes], way: str, rng: random.Random) -> None:
    if way == "child":
        pids = sorted(children(process.pid))
        if pids:
            with suppress(ProcessLookupError):  # it has just ended
                os.kill(rng.choice(pids), signal.SIGKILL)
        return
    if way == "group":
        _kill_group(process)
    else:
        process.kill()
    process.wait()


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    for pid in _session(process.pid):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def _session(leader: int) -> list[int]:
    """Processes of a session that still run."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, _, _, session = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(session) == leader and state not in "ZX":
            found.append(int(folder.name))
    return found


def _orphans(processes: list[subprocess.Popen[bytes]], grace: float) -> list[str]:
    def left() -> list[int]:
        return [pid for process in processes for pid in _session(process.pid)]

    _wait_until(lambda: not left(), grace)
    return [f"process {pid} is left" for pid in left()]


def _locks(root: Path) -> list[str]:
    import fcntl

    held = []
    for path in root.rglob("*.lock"):
        with path.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                held.append(f"{path.name} is held")
    return held


def _ended(process: subprocess.Popen[bytes], seconds: float) -> bool:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def _wait_until(condition: Any, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    return True


def plan(kills: int) -> list[tuple[str, int]]:
    """Scenario and number of each kill, by the scenarios' shares; each has one at least."""
    return [
        (name, number)
        for name, scenario in SCENARIOS.items()
        for number in range(max(1, round(kills * scenario.share / 100)))
    ]


def lines(done: list[tuple[str, int]], found: list[Finding]) -> Iterator[str]:
    """A table of counts, and before it each finding."""
    for each in found:
        yield f"{each.kind}: {each.scenario} {each.number}: {each.text}"
    yield f"{'':8} {'kills':>6}" + "".join(f"{kind:>12}" for kind in KINDS)
    for name in [*SCENARIOS, "all"]:
        kills = sum(name in (scenario, "all") for scenario, _ in done)
        of_kind = [
            sum(each.kind == kind and name in (each.scenario, "all") for each in found)
            for kind in KINDS
        ]
        yield f"{name:8} {kills:6}" + "".join(f"{count:12}" for count in of_kind)

"""Runs targets, each in a process of its own, and keeps the items that fail."""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.fuzz.items import Item, read, write

ROOT = Path(__file__).parents[2]
MAX_WAIT = 30.0  # seconds of an item, if it computes or not; a busy machine is slow
_START = 120.0
_PROGRAMS = ("gs", "sh", "git", "convert", "gv", "display", "xv", "rsvg-convert", "ffmpeg")


@dataclass
class Outcome:
    """How many items of a target ran, and what was wrong: reason and folder of each failure."""

    target: str
    items: int = 0
    seconds: float = 0.0
    failures: list[tuple[str, Path | None]] = field(default_factory=list)


@contextmanager
def sandbox() -> Iterator[Path]:
    """A folder for a child, with what items may name and must not change."""
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # in memory: no disk waits
    with tempfile.TemporaryDirectory(prefix="lcm-fuzz-", dir=place) as name:
        root = Path(name)
        for folder in ("canary", "cwd", "home", "item", "cache", "tmp", "out", "programs"):
            (root / folder).mkdir()
        for folder in ("canary", "home"):
            (root / folder / "secret").write_text("kept as it is\n" * 1000)  # could be weights
        os.mkfifo(root / "fifo")
        (root / "loop").symlink_to("loop")
        with (root / "sparse").open("wb") as file:
            file.truncate(40 * 2**30)
        for program in _PROGRAMS:
            path = root / "programs" / program
            path.write_text(f"#!/bin/sh\necho {program} $* >> '{root}/canary/started'\n")
            path.chmod(0o755)
        yield root


class _Child:
    """The process: its reports, and what it wrote on stderr."""

    def __init__(self, target: str, root: Path, words: list[str]) -> None:
        ours, theirs = os.pipe()
        environment = {
            "PATH": str(root / "programs"), "HOME": str(root / "home"),
            "TMPDIR": str(root / "tmp"), "LCM_CACHE": str(root / "cache"),
            "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)]),
            "LCM_TRACEBACK": "1", "LANG": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1",
        }  # fmt: skip
        self._log = (root / "log").open("wb")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.fuzz.child", target, str(root), str(theirs), *words],
            cwd=root / "cwd", env=environment, pass_fds=[theirs], stdin=subprocess.DEVNULL,
            stdout=self._log, stderr=self._log,
        )  # fmt: skip
        os.close(theirs)
        self._pipe = os.fdopen(ours, "rb", buffering=0)
        self._left = b""
        self._root = root

    def reports(self, patience: float) -> Iterator[dict[str, Any]]:
        """Until the pipe is closed; {"hung": True} if nothing came for so long."""
        wait = _START  # imports, and the fixed items are made
        while select.select([self._pipe], [], [], wait)[0]:
            data, wait = self._pipe.read(65536), patience
            if not data:
                return
            *whole, self._left = (self._left + data).split(b"\n")
            yield from map(json.loads, whole)
        yield {"hung": True}

    def end(self) -> tuple[int, str]:
        """Exit status, and the end of what was written on stderr; kills what still runs."""
        if self.process.poll() is None:
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.send_signal(signal.SIGABRT)  # its stack is written
                time.sleep(0.5)
                self.process.kill()
        status = self.process.wait()
        self._pipe.close()
        self._log.close()
        return status, (self._root / "log").read_text("utf-8", "replace")[-3000:]


def run_target(
    target: str,
    out: Path,
    seed: int = 0,
    count: int = 10**9,
    generated: int = 200,
    seconds: float = 1e9,
    max_seconds: float = 5.0,
    patience: float = MAX_WAIT,
) -> Outcome:
    """Run items until there are `count` changed ones, or the time is over.

    An item fails if it takes more than `max_seconds` of CPU time, or gives no answer for
    `patience` seconds. A process that dies or hangs is replaced, and the next item runs.
    """
    outcome, start, seen = Outcome(target), time.monotonic(), set[str]()

    def failed(reason: str, item: Item) -> None:
        if signature(reason) not in seen:
            seen.add(signature(reason))
            outcome.failures.append((reason, keep(out, target, reason, item)))

    with sandbox() as root:
        fixed, first, over = 0, 0, False
        while not over and (left := seconds - (time.monotonic() - start)) > 0:
            words = [f"--fixed={fixed}", f"--first={first}", f"--count={count - first}"]
            words += [f"--seed={seed}", f"--seconds={left}", f"--generated={generated}"]
            words += [f"--max-seconds={max_seconds}"]
            child, last, hung = _Child(target, root, words), {}, False
            for report in child.reports(patience):
                last = report if "begin" in report else last
                outcome.items += "begin" in report
                over = over or "done" in report
                hung = hung or "hung" in report
                if "failed" in report:
                    failed(report["failed"], read(Path(report["kept"])))
                    shutil.rmtree(report["kept"])
            status, log = child.end()
            if over:
                break
            how = f"no answer for {patience:g} s" if hung else f"the process ended with {status}"
            failed(f"{how}\n{log}", read(root / "item"))
            if last.get("begin") == "fixed":
                fixed = last["number"] + 1
            else:  # those of hypothesis cannot be gone on with
                fixed, generated = 10**9, 0
                first = last["number"] + 1 if last.get("begin") == "changed" else first
            over = not last  # it did not even start
    outcome.seconds = time.monotonic() - start
    return outcome


def signature(reason: str) -> str:
    """What failures with the same cause have in common: the kind, and the last of our lines."""
    ours = re.findall(r'File "[^"]*/((?:lcmcore|runtimes)/[^"]+)", line \d+, in (\w+)', reason)
    head = re.sub(r"\d+|'[^']*'|\"[^\"]*\"", "#", reason.splitlines()[0])[:60]
    return f"{head.split(':')[0]} {ours[-1]}" if ours else head


def keep(out: Path, target: str, reason: str, item: Item) -> Path:
    """Write a failing item where it can be replayed from, and the reason beside it."""
    out = out / target
    out.mkdir(parents=True, exist_ok=True)
    number = sum(1 for path in out.iterdir() if path.is_dir())
    write(item, out / f"{number:03}")
    (out / f"{number:03}.txt").write_text(reason, "utf-8", "replace")
    return out / f"{number:03}"


def replay(target: str, folder: Path) -> str | None:
    """Run a kept item; returns what is wrong with it, None if nothing is any more."""
    with sandbox() as root:
        child = _Child(target, root, [f"--item={folder.resolve()}"])
        reasons, over = [], False
        for report in child.reports(MAX_WAIT):
            over = over or "done" in report
            reasons += [report["failed"]] if "failed" in report else []
        status, log = child.end()
    if not over:
        return f"the process ended with {status}, or did not answer\n{log}"
    return reasons[0] if reasons else None


def run_all(targets: list[str], out: Path, workers: int, **options: Any) -> list[Outcome]:
    """Run targets, `workers` at a time."""
    for target in targets:
        shutil.rmtree(out / target, ignore_errors=True)
    with ThreadPoolExecutor(workers) as executor:
        return list(executor.map(lambda target: run_target(target, out, **options), targets))


def lines(outcomes: list[Outcome]) -> Iterator[str]:
    """A table of what ran, then each failure with the command that replays it."""
    for each in outcomes:
        yield f"{each.target:12} {each.items:7} items {each.seconds:6.1f} s" + (
            f" {len(each.failures):3} FAILED" if each.failures else ""
        )
    for each in outcomes:
        for reason, folder in each.failures:
            yield f"\n{each.target}: {reason.strip()}"
            yield f"  again: python -m tests.fuzz {each.target} --replay {folder}"
    total, failures = sum(e.items for e in outcomes), sum(len(e.failures) for e in outcomes)
    yield f"\n{total} items, {failures} failures"

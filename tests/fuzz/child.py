"""The process in which the items of one target run: `python -m tests.fuzz.child ...`.

It reports on a pipe, a line of JSON for each item that begins or fails. Before an item runs, its
files lie in ROOT/item: whatever ends this process, its parent finds them there.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import logging
import os
import random
import resource
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from functools import cache
from importlib import metadata
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

from tests.fuzz import regressions
from tests.fuzz.items import Item, read, write
from tests.fuzz.mutate import mutate
from tests.fuzz.planted import PLANTED
from tests.fuzz.targets import TARGETS, Fault, Target

MAX_BYTES = 2**30
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = frozenset({
    "os.chmod", "os.chown", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir",
    "os.symlink", "os.truncate", "os.utime", "shutil.move",
})  # fmt: skip
_FORBIDDEN = frozenset({
    "os.exec", "os.fork", "os.forkpty", "os.kill", "os.posix_spawn", "os.spawn", "os.startfile",
    "os.system", "pickle.find_class", "pty.spawn", "socket.bind", "socket.connect",
    "subprocess.Popen", "urllib.Request",
})  # fmt: skip


class Watch:
    """An audit hook: while an item runs, which processes it starts and which files it changes.

    It may write below `allowed` alone. What code below Python does is found by `contents`.
    """

    def __init__(self, allowed: list[Path]) -> None:
        self.on = False
        self.found: list[str] = []
        self._allowed = [os.fspath(path) for path in allowed]
        sys.addaudithook(self._hook)

    def _hook(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event in _FORBIDDEN:
            self._note(f"{event} {args!r:.200}")
        elif event in _CHANGES:
            for name, folder in _changed(event, args):
                self._check(event, os.path.join(folder, name))  # noqa: PTH118 - of a descriptor
        elif event == "open":
            path, mode, flags = args
            if isinstance(path, int):
                return
            if (mode and set(mode) & set("wxa+")) or (mode is None and (flags or 0) & _WRITES):
                self._check(event, os.fsdecode(path))

    def _check(self, event: str, name: str) -> None:
        folder, _, last = os.path.abspath(name).rpartition("/")  # noqa: PTH100
        whole = os.path.realpath(name if event == "open" else folder)
        whole = whole if event == "open" else f"{whole}/{last}"
        if name != os.devnull and not whole.startswith(tuple(self._allowed)):
            self._note(f"{event} {name!r}")

    def _note(self, what: str) -> None:
        self.on = False
        self.found.append(what)
        self.on = True


def _changed(event: str, args: tuple[Any, ...]) -> Iterator[tuple[str, str]]:
    """The paths that an event changes, and the folders to which they are relative."""
    count = 2 if event in ("os.link", "os.rename", "os.symlink", "shutil.move") else 1
    paths = [each for each in args[:count] if not isinstance(each, int)]
    folders = [each for each in args[count:] if type(each) is int and each > 2]
    if event in ("os.link", "os.symlink"):
        paths = paths[1:]  # the other is only named
    for path in paths:
        yield os.fsdecode(path), f"/proc/self/fd/{folders[-1]}" if folders else ""


def contents(folders: list[Path]) -> list[tuple[str, int, int]]:
    """Every file of the folders that nothing may change, with size and time."""
    found = []
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            status = path.lstat()
            found.append((str(path), status.st_size, status.st_mtime_ns))
    return found


def peak_bytes() -> int:
    """The most memory that this process has held since `reset_peak`."""
    with open("/proc/self/status") as lines:  # noqa: PTH123 - quicker
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))


def reset_peak() -> None:
    """Forget the peak."""
    with open("/proc/self/clear_refs", "w") as file:  # noqa: PTH123
        file.write("5")


def data_bytes() -> int:
    """What RLIMIT_DATA counts."""
    with open("/proc/self/status") as lines:  # noqa: PTH123
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmData"))


def limit_memory() -> None:
    """Let an allocation fail that would take this process MAX_BYTES beyond what it has."""
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    resource.setrlimit(resource.RLIMIT_DATA, (data_bytes() + MAX_BYTES, hard))


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An exception and those that led to it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


class Child:
    """Runs items of a target and reports on them."""

    def __init__(
        self, name: str, root: Path, report: Callable[..., None], max_seconds: float
    ) -> None:
        self.target = {**TARGETS, **PLANTED}[name]
        self._max_seconds = max_seconds
        self.root = root
        self.count = 0
        self._report = report
        self._guarded = [root / "canary", root / "cwd", root / "home", root / "item"]
        writable = [root / "cache", root / "tmp", root / "out", root / "model"]
        self._watch = Watch(writable)

    def run(self, item: Item, kind: str, number: int = 0) -> str | None:
        """What is wrong with an item, None if nothing is."""
        folder = self.root / "item"
        write(item, folder)
        self.count += 1
        self._report(begin=kind, number=number)
        before = contents(self._guarded)
        limit_memory()
        reset_peak()
        start_bytes, start = peak_bytes(), time.process_time()
        reason = self._outcome(folder)
        seconds, grown = time.process_time() - start, peak_bytes() - start_bytes
        if self._watch.found:
            reason = "; ".join(self._watch.found)
            self._watch.found.clear()
        elif contents(self._guarded) != before:
            changed = set(contents(self._guarded)) ^ set(before)
            reason = f"changed {sorted(changed)[:4]}"
        elif reason is None and seconds > self._max_seconds:
            reason = f"took {seconds:.1f} s"
        elif reason is None and grown > MAX_BYTES:
            reason = f"took {grown / 2**20:.0f} MiB"
        if reason:
            kept = self.root / "failed" / str(self.count)
            write(item, kept)
            self._report(failed=reason, kept=str(kept))
        return reason

    def _outcome(self, folder: Path) -> str | None:
        self._watch.on = True
        try:
            self.target.check(folder)
        except Fault as error:
            return f"Fault: {error}"
        except BaseException as error:
            if any(isinstance(each, MemoryError) for each in chain(error)):
                return f"took more than {MAX_BYTES >> 20} MiB: {error!r:.300}\n{_trace(error)}"
            if not isinstance(error, self.target.errors):
                return f"{type(error).__name__}: {str(error)[:300]}\n{_trace(error)}"
        finally:
            self._watch.on = False
        return None


def _trace(error: BaseException) -> str:
    return "".join(traceback.format_exception(error)[-12:])[-4000:]


def generated(target: Target, seed: int, count: int, run: Callable[[Item], Any]) -> None:
    """Run `count` items of the target's strategy."""
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import seed as seeded

    assert target.strategy is not None

    @seeded(seed)
    @settings(
        max_examples=count, deadline=None, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(target.strategy())
    def examples(item: Item) -> None:
        run(item)

    examples()


def mutated(name: str, target: Target, seed: int, first: int) -> Iterator[Item]:
    """Changed seeds of the target, endlessly, the same for the same seed and number."""
    seeds, number = target.seeds(), first
    while True:
        yield mutate(seeds, random.Random(f"{seed} {name} {number}"), target.links)
        number += 1


def main() -> NoReturn:
    """Run what the arguments ask for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("target")
    parser.add_argument("root", type=Path)
    parser.add_argument("pipe", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first changed item")
    parser.add_argument("--fixed", type=int, default=0, help="number of the first fixed one")
    parser.add_argument("--generated", type=int, default=0, help="items of the strategy")
    parser.add_argument("--count", type=int, default=0, help="changed items at most")
    parser.add_argument("--seconds", type=float, default=1e9)
    parser.add_argument("--max-seconds", type=float, default=5.0, help="of CPU time, of an item")
    parser.add_argument("--item", type=Path, help="run this item alone")
    args = parser.parse_args()
    faulthandler.enable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    pipe = os.fdopen(args.pipe, "w")

    def report(**words: Any) -> None:
        pipe.write(json.dumps(words) + "\n")
        pipe.flush()

    from lcmcore.util.logs import log_to_stderr

    log_to_stderr(logging.WARNING)
    # Each `lcm info` and `lcm doctor` looks up the installed packages again: half of their time.
    metadata.entry_points = cache(metadata.entry_points)
    end = time.monotonic() + args.seconds
    child = Child(args.target, args.root, report, args.max_seconds)
    if args.item is not None:
        child.run(read(args.item), "kept")
    else:
        fixed = [*child.target.seeds(), *regressions.of(args.target)]
        for number, item in enumerate(fixed[args.fixed :], start=args.fixed):
            child.run(item, "fixed", number)
        del fixed  # some are large
        if child.target.strategy is not None and args.generated:
            generated(
                child.target, args.seed, args.generated, lambda item: child.run(item, "generated")
            )
        items = mutated(args.target, child.target, args.seed, args.first)
        for number, item in enumerate(islice(items, args.count), start=args.first):
            if time.monotonic() > end:
                break
            child.run(item, "changed", number)
    report(done=child.count)
    pipe.close()
    os._exit(0)


if __name__ == "__main__":
    main()

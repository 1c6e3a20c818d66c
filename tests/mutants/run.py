"""Mutation testing: small faults put into the code, which the tests of the same module must find.

    python -m tests.mutants.run --count 220 --seed 1

draws places in the core, the jobs and the RKNN runtime at random, and at each of them one of the
mutations of Cosmic Ray. Each mutant runs in a copy of the tree, against the tests of its own module
alone (own_tests.toml); it is killed if one of them fails or the time is up.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple

import parso  # before cosmic_ray, which imports its parts in an order that fails
from cosmic_ray.ast import ast_nodes
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

from lcmcore.util.configfile import read_table

ROOT = Path(__file__).resolve().parents[2]
CONVERTER = ("tests/rknn/converter", ROOT / ".venv-rknn/bin/python")  # tests with their own Python
ROOMS = {  # and their tests'
    "lcmcore": "core",
    "lcmcore/image_files": "core",
    "lcmcore/tokenizer": "core",
    "lcmcore/util": "core",
    "lcmcore/jobs": "jobs",
    "runtimes/rknn": "rknn",
}
_TIMES = 5  # as long as without a mutation, and
_GRACE = 20  # seconds, a mutant may take


class Mutant(NamedTuple):
    """The `occurrence`-th place in a module where an operator of Cosmic Ray applies."""

    module: str
    operator: str
    occurrence: int

    def code(self) -> str:
        """The mutated module."""
        source = (ROOT / self.module).read_text()
        return str(mutate_code(source, get_operator(self.operator)(), self.occurrence))


def main() -> None:
    """Print each mutant that its module's own tests let live, and counts for each module."""
    args = _arguments()
    files = sorted(path for room in ROOMS for path in ROOT.glob(f"{room}/*.py"))
    modules = args.module or [path.relative_to(ROOT).as_posix() for path in files]
    mutants = draw(modules, args.count, args.seed)
    used = sorted({mutant.module for mutant in mutants})
    alive = []
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copies: SimpleQueue[Path] = SimpleQueue()
        for number in range(args.jobs):
            copies.put(_copy_of_tree(Path(folder) / str(number)))
        with ThreadPoolExecutor(args.jobs) as pool:
            limits = dict(
                zip(used, pool.map(lambda each: _time_limit(each, copies), used), strict=True)
            )
            lives = pool.map(lambda each: survives(each, copies, limits[each.module]), mutants)
            for mutant, lived in zip(mutants, lives, strict=True):
                if lived:
                    alive.append(mutant)
                    print(_difference(mutant), flush=True)
    _print_table(mutants, alive)


def draw(modules: list[str], count: int, seed: int) -> list[Mutant]:
    """`count` mutants at different places, each place as likely as any other; see `--seed`."""
    places = [list(place) for module in modules for place in _places(module)]
    choice = random.Random(seed)
    drawn = choice.sample(places, min(count, len(places)))
    return sorted(choice.choice(place) for place in drawn)


def survives(mutant: Mutant, copies: SimpleQueue[Path], limit: float) -> bool:
    """Whether all tests of the module pass with the mutation."""
    copy = copies.get()
    target = copy / mutant.module
    original = target.read_text()
    try:
        target.write_text(mutant.code())
        return _tests_pass(mutant.module, copy, limit)
    finally:
        target.write_text(original)
        copies.put(copy)


def own_tests(module: str) -> list[str]:
    """The files of a module's own tests, from own_tests.toml or by its name."""
    path = Path(module)
    table: dict[str, Any] = read_table(Path(__file__).with_name("own_tests.toml"))
    for part in path.parent.parts:
        table = table.get(part, {})
    room = ROOMS[path.parent.as_posix()]
    return list(table.get(path.stem, [f"tests/{room}/test_{path.stem}.py"]))


def _places(module: str) -> Iterator[list[Mutant]]:
    """For each place in the module, the mutants there; what only type checkers read is none."""
    tree = parso.parse((ROOT / module).read_text())
    found: dict[Any, list[Mutant]] = {}
    for name in operator_names():
        operator = get_operator(name)
        if operator.arguments():
            continue
        positions = (
            (node, position)
            for node in ast_nodes(tree)
            for position in operator().mutation_positions(node)
        )
        for occurrence, (node, position) in enumerate(positions):
            if not _only_for_types(node) and not _has_dotted_exception(node):
                found.setdefault(position, []).append(Mutant(module, name, occurrence))
    yield from found.values()


def _has_dotted_exception(node: Any) -> bool:
    """Whether it is `except struct.error`, or the like: Cosmic Ray 8.7 fails there."""
    return node.type == "except_clause" and "." in node.get_code()


def _only_for_types(node: Any) -> bool:
    """Whether a node of the syntax tree does nothing at run time: an annotation, @overload."""
    code = node.get_code().strip()
    if code == "@overload" or code.startswith(("TYPE_CHECKING", "if TYPE_CHECKING")):
        return True
    if node.type == "operator" and node.parent.type == "parameters":  # the * before keywords
        return True
    while node.parent is not None:
        parent, children = node.parent, node.parent.children
        position = children.index(node)
        if parent.type in ("tfpdef", "annassign") and position == 1 + (parent.type == "tfpdef"):
            return True
        if parent.type == "funcdef" and position and children[position - 1] == "->":
            return True
        node = parent
    return False


def _time_limit(module: str, copies: SimpleQueue[Path]) -> float:
    """Seconds that a mutant of a module may take; exits where its tests fail without a mutation."""
    copy = copies.get()
    start = time.monotonic()
    try:
        if not _tests_pass(module, copy, None):
            sys.exit(f"{module}: its tests fail without a mutation: {' '.join(own_tests(module))}")
    finally:
        copies.put(copy)
    return _GRACE + _TIMES * (time.monotonic() - start)


def _tests_pass(module: str, copy: Path, limit: float | None) -> bool:
    """Run in a session of their own, so that what a mutant leaves behind ends with it."""
    tests = own_tests(module)
    python = CONVERTER[1] if tests[0].startswith(CONVERTER[0]) else sys.executable
    command = [str(python), "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    environment = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    process = subprocess.Popen(
        command, cwd=copy, env=environment, start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        return process.wait(limit) == 0
    except subprocess.TimeoutExpired:
        return False
    finally:
        _kill_session(process)


def _kill_session(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _copy_of_tree(target: Path) -> Path:
    files = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout.splitlines()  # fmt: skip
    for name in files:
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    return target


def _difference(mutant: Mutant) -> str:
    before = (ROOT / mutant.module).read_text().splitlines()
    lines = difflib.unified_diff(before, mutant.code().splitlines(), n=1, lineterm="")
    head = f"-- alive: {mutant.module}, {mutant.operator} {mutant.occurrence}"
    return "\n".join([head, *list(lines)[2:]])


def _print_table(mutants: list[Mutant], alive: list[Mutant]) -> None:
    total, lived = (Counter(each.module for each in some) for some in (mutants, alive))
    for module in sorted(total):
        print(f"{total[module] - lived[module]:4} of {total[module]:4} killed  {module}")
    killed = len(mutants) - len(alive)
    print(f"{killed:4} of {len(mutants):4} killed, {killed / max(1, len(mutants)):.1%}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--count", type=int, default=220, help="mutants (220)")
    parser.add_argument("--seed", type=int, default=1, help="of the choice of mutants (1)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="at a time")
    parser.add_argument("--module", action="append", help="only of this file; may be repeated")
    return parser.parse_args()


if __name__ == "__main__":
    main()

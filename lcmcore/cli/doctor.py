"""`lcm doctor`: checks this machine, the installed runtimes and a model directory."""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path

import lcmcore
from lcmcore.bundle import COMPONENTS, Bundle, demo_dir
from lcmcore.cli.progress import count_of
from lcmcore.errors import LcmError
from lcmcore.runtime import Finding, find_runtime, installed_runtimes
from lcmcore.runtime_choice import choose_runtime
from lcmcore.util.memory import available_bytes
from lcmcore.util.terminal import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `lcm doctor`."""
    parser.add_argument(
        "--model", type=Path, metavar="DIR", help="default: $LCM_MODEL, else the demo model"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Print every finding with its remedy; raises LcmError if one of them is an error."""
    root = Path(args.model or os.environ.get("LCM_MODEL") or demo_dir())
    errors = 0
    for level, text, remedy in findings(root):
        say(f"{level:8} {text}")
        if remedy:
            say(f"         -> {remedy}")
        errors += level == "error"
    if errors:
        raise LcmError(f"{count_of(errors, 'error')} found (see above)")


def findings(root: Path) -> Iterator[Finding]:
    """Findings about the machine, the runtimes and the model directory, in this order."""
    yield from _machine()
    yield from _runtimes(root)
    yield from _model(root)


def _machine() -> Iterator[Finding]:
    yield "ok", f"lcmcore {lcmcore.__version__}, Python {platform.python_version()}", ""
    yield "ok", f"{platform.machine()}, {os.cpu_count()} cores, {sys.platform}", ""
    for package in ("numpy", "Pillow"):
        yield "ok", f"{package} {metadata.version(package)}", ""
    free = available_bytes()
    if free is not None:
        yield "ok", f"{free / 2**30:.1f} GiB of memory free", ""


def _runtimes(root: Path) -> Iterator[Finding]:
    for name in installed_runtimes():
        try:
            runtime = find_runtime(name)
        except LcmError as error:
            yield "warning", str(error), "install or remove it"
            continue
        reason = runtime.available()
        yield "ok", f"runtime {name}: {'available' if reason is None else reason}", ""
        yield from _guarded(runtime.diagnose(root))


def _guarded(found: Iterable[Finding]) -> Iterator[Finding]:
    """A runtime's findings; its failure to diagnose must not hide those of the others."""
    try:
        yield from found
    except LcmError as error:
        yield "error", str(error), ""


def _model(root: Path) -> Iterator[Finding]:
    try:
        bundle = Bundle.open(root)
    except LcmError as error:
        yield "error", str(error), "set one with --model DIR or $LCM_MODEL"
        return
    yield "ok", f"model {root}", ""
    for component in COMPONENTS:
        try:
            runtime = choose_runtime(bundle, component, bundle.settings.runtime_of(component))
            yield "ok", f"{component} would run on {runtime.name}", ""
        except LcmError as error:
            # Files for another machine are no error here, nor is a missing encoder (txt2img works).
            elsewhere = any(bundle.folder(component).glob("model.*"))
            harmless = elsewhere or component == "vae_encoder"
            yield "warning" if harmless else "error", str(error), ""
    for piece in ("scheduler", "tokenizer"):
        try:
            getattr(bundle, piece)
        except LcmError as error:
            yield "error", str(error), ""

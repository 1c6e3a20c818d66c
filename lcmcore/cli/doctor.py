"""`lcm doctor`: checks this machine, the installed runtimes and a model directory."""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path

import lcmcore
from lcmcore.bundle import COMPONENTS, Bundle, demo_dir
from lcmcore.cli.generate import model_dir
from lcmcore.cli.progress import count_of
from lcmcore.errors import LcmError, first_line
from lcmcore.hub import how_to_fetch
from lcmcore.runtime import (
    Finding,
    Runtime,
    find_runtime,
    importable_runtimes,
    installed_runtimes,
)
from lcmcore.runtime_choice import choose_runtime
from lcmcore.util.files import is_file, is_folder
from lcmcore.util.memory import available_bytes
from lcmcore.util.placeholder import EMPTY, Placeholder, is_unread, placeholder_at, placeholders
from lcmcore.util.terminal import say


def run(args: argparse.Namespace) -> None:
    """Print every finding with its remedy; raises LcmError if one of them is an error."""
    root = Path(model_dir(args) or demo_dir())
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
    errors: list[str] = []
    for finding in _runtimes(root):
        if finding[0] == "error":
            errors.append(finding[1])
        yield finding
    yield from _model(root, errors)


def _machine() -> Iterator[Finding]:
    yield "ok", f"lcmcore {lcmcore.__version__}, Python {platform.python_version()}", ""
    yield "ok", f"{platform.machine()}, {os.cpu_count()} cores, {sys.platform}", ""
    for package in ("numpy", "Pillow"):
        yield "ok", f"{package} {metadata.version(package)}", ""
    free = available_bytes()
    if free is not None:
        yield "ok", f"{free / 2**30:.1f} GiB of memory free", ""


def _runtimes(root: Path) -> Iterator[Finding]:
    """Each runtime, and what it finds; an error if none of those that "auto" takes can work."""
    usable: list[str] = []
    for name in installed_runtimes():
        try:
            runtime = find_runtime(name)
        except LcmError as error:
            yield "warning", str(error), "install or remove it"
            continue
        reason = _reason(runtime)
        yield "ok", f"runtime {name}: {'available' if reason is None else reason}", ""
        if reason is None and runtime.priority >= 0:
            usable.append(name)
        yield from _guarded(runtime, root)
    if not usable:
        yield "error", "no runtime can work here", "pip install 'lcmcore[onnx]'"


def _reason(runtime: Runtime) -> str | None:
    """Why the runtime cannot work here, else None."""
    try:
        return runtime.available()
    except Exception as error:  # a third party's
        return first_line(error)


def _guarded(runtime: Runtime, root: Path) -> Iterator[Finding]:
    """A runtime's findings; its failure to diagnose must not hide those of the others."""
    try:
        yield from runtime.diagnose(root)
    except Exception as error:  # a third party's
        yield "error", f"runtime {runtime.name}: {first_line(error)}", ""


def _model(root: Path, named: Sequence[str]) -> Iterator[Finding]:
    """What is wrong with the model directory, but for the errors that runtimes have named."""
    if not is_folder(root):
        remedy = how_to_fetch(str(root)) or "set one with --model DIR or $LCM_MODEL"
        yield "error", f"no model directory at {root}", remedy
        return
    unfetched = dict(_unfetched(root))
    for path, found in unfetched.items():
        if (text := f"{path}: {found.what}") not in named:
            yield "error", text, found.remedy
    for finding in _opened(root, [*map(str, unfetched), *named]):
        if not any(str(path) in finding[1] for path in unfetched):  # those were named above
            yield finding


def _unfetched(root: Path) -> Iterator[tuple[Path, Placeholder]]:
    """The files of a model that are there in name only."""
    for name in (*COMPONENTS, "scheduler", "tokenizer"):
        yield from placeholders(root / name)
    for path in (root / "model_index.json", root / "lcm.toml"):
        found = placeholder_at(path)
        if found not in (None, EMPTY):  # an empty lcm.toml says nothing, which is allowed
            yield path, found


def _opened(root: Path, named: Sequence[str]) -> Iterator[Finding]:
    """What becomes of a model directory when it is loaded; `named` begin with the bad files."""
    try:
        bundle = Bundle.open(root)
    except LcmError as error:
        yield "error", str(error), ""
        return
    yield "ok", f"model {root}", ""
    yield from _choices(bundle, named)
    for piece in ("scheduler", "tokenizer", "vae", "unet"):
        try:
            getattr(bundle, piece)
        except LcmError as error:
            yield "error", str(error), ""


def _choices(bundle: Bundle, named: Sequence[str]) -> Iterator[Finding]:
    """The runtime that each network would run on; an error if none of them can run."""
    running: list[str] = []
    for component in COMPONENTS:
        folder = bundle.folder(component)
        if any(text.startswith(f"{folder}{os.sep}") for text in named):
            running.append(component)  # once its files are right
            continue
        try:
            runtime = choose_runtime(bundle, component, bundle.settings.runtime_of(component))
            running.append(component)
            yield "ok", f"{component} would run on {runtime.name}", ""
        except LcmError as error:
            if (other := _on_request(folder)) is not None:
                running.append(component)
                named = f'--runtime {other.name}, or runtime = "{other.name}" in lcm.toml'
                remedy = f"name it: {named}"
                yield "warning", str(error), remedy
                continue
            level, remedy = _without_runtime(component, folder)
            yield level, str(error), remedy
    if not set(running) - {"vae_encoder"}:
        remedy = "take it to the machine that it was built for, or one that has model.onnx"
        yield "error", f"no network of {bundle.paths.root} can run on this machine", remedy


def _on_request(folder: Path) -> Runtime | None:
    """The runtime that "auto" does not take, and that opens a file here which no other does."""
    runtimes = [each for each in importable_runtimes() if each.filename]
    automatic = {each.model_file(folder) for each in runtimes if each.priority >= 0}
    for runtime in runtimes:
        path = runtime.model_file(folder)
        if path not in automatic and is_file(path) and _reason(runtime) is None:
            return runtime
    return None


def _without_runtime(component: str, folder: Path) -> tuple[str, str]:
    """How bad it is that no runtime takes a component's files here, and what to do."""
    if any(is_file(path) and _is_of_a_runtime(path.name) for path in folder.glob("model.*")):
        return "warning", ""  # files for another machine are no error
    path = folder / "model.onnx"
    if os.path.lexists(path):
        return "error", f"{path} is no regular file: remove it, and copy or download the model's"
    if component == "vae_encoder":
        return "warning", ""  # txt2img works
    return "error", "copy or download it, or name another model directory"


def _is_of_a_runtime(name: str) -> bool:
    """Whether a runtime may open it; weights beside a model.onnx are nothing without that."""
    return name == "model.onnx" or not (name.startswith("model.onnx") or is_unread(name))

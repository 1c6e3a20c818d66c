"""Which runtime runs a component: the caller's choice, else lcm.toml's, else automatic."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeAlias

from lcmcore.bundle import COMPONENTS, Bundle
from lcmcore.errors import ArgumentError, NetworkError, RuntimeUnavailableError
from lcmcore.runtime import (
    NO_RUNTIME,
    Runtime,
    breach_of_contract,
    find_runtime,
    foreign_errors,
    installed_runtimes,
    require_available,
    require_file,
)
from lcmcore.util.files import is_file
from lcmcore.util.validate import shown

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

RuntimeChoice: TypeAlias = "str | Runtime | Mapping[str, str | Runtime]"


def choice_per_component(bundle: Bundle, runtime: RuntimeChoice) -> dict[str, str | Runtime]:
    """The caller's choice for each component; where it is "auto", lcm.toml's.

    `runtime` is a name or a Runtime for all, or a mapping from component (or "default") to one.
    Raises ArgumentError.
    """
    if not isinstance(runtime, Mapping):
        runtime = {"default": runtime}
    for key, choice in runtime.items():
        if key not in ("default", *COMPONENTS):
            raise ArgumentError(f"runtime for {key!r}: components are {', '.join(COMPONENTS)}")
        reason = None if isinstance(choice, str) else breach_of_contract(choice)
        if reason == NO_RUNTIME:
            raise ArgumentError(f"runtime must be a name or a Runtime, not {shown(choice)}")
        if reason is not None:
            raise ArgumentError(f"runtime {shown(choice)} {reason}")
    choices: dict[str, str | Runtime] = {}
    for component in COMPONENTS:
        choice = runtime.get(component, runtime.get("default", "auto"))
        choices[component] = bundle.settings.runtime_of(component) if choice == "auto" else choice
    return choices


def choose_runtime(
    bundle: Bundle,
    component: str,
    choice: str | Runtime,
    entries: Mapping[str, EntryPoint] | None = None,
) -> Runtime:
    """The runtime for a component, by name or "auto".

    `entries` are the installed runtimes, if the caller has asked already. Raises
    RuntimeUnavailableError, or NetworkError if the runtime's file is missing.
    """
    entries = installed_runtimes() if entries is None else entries
    if choice == "auto":
        return _automatic(bundle, component, entries)
    runtime = find_runtime(choice, entries) if isinstance(choice, str) else choice
    require_available(runtime)
    if runtime.filename:
        folder = bundle.folder(component)
        with foreign_errors(runtime.name, component):
            filename = runtime.model_file(folder).name
        require_file(component, folder, filename)
    return runtime


def _automatic(bundle: Bundle, component: str, entries: Mapping[str, EntryPoint]) -> Runtime:
    """Of the runtimes whose file is there and that work here, the one of highest priority."""
    folder = bundle.folder(component)
    usable: list[Runtime] = []
    candidates: list[str] = []
    others: list[str] = []
    refused: list[str] = []
    for name in entries:
        try:
            runtime = find_runtime(name, entries)
            with foreign_errors(name):
                path = runtime.model_file(folder)
                if runtime.priority < 0:
                    if runtime.filename and is_file(path):
                        others.append(f"--runtime {name} opens {path.name}")
                    continue
                candidates.append(runtime.filename)
                if is_file(path):
                    require_available(runtime)
                    usable.append(runtime)
        except RuntimeUnavailableError as error:
            refused.append(str(error))
    if usable:
        return max(usable, key=lambda runtime: runtime.priority)
    if not any(is_file(folder / filename) for filename in candidates):
        files = " or ".join(sorted(candidates)) or "file that an installed runtime takes"
        hint = " or ".join(others) or f"is {bundle.paths.root} a model directory?"
        refused.insert(0, f"no {files} in {folder}; {hint}")
    raise NetworkError(component, "; ".join(refused))

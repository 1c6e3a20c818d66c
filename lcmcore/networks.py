"""The four networks of a bundle: chosen, opened when first used, and called with checks."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lcmcore import runtime as runtimes
from lcmcore.bundle import COMPONENTS, Bundle
from lcmcore.errors import ArgumentError, LcmError, NetworkError, RuntimeUnavailableError
from lcmcore.residency import AllOpen, OneOpen
from lcmcore.runtime import Array, Network, Runtime, TensorSpec
from lcmcore.util.files import is_file
from lcmcore.util.memory import MEMORIES, available_bytes, file_bytes
from lcmcore.util.validate import one_of

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

Floats = NDArray[np.float32]
RuntimeChoice: TypeAlias = "str | Runtime | Mapping[str, str | Runtime]"

# What tells one network from another: its inputs, and the channels of the image-like one.
_UNET_INPUTS = ("sample", "timestep", "encoder_hidden_states")
_CHANNELS = {"unet": 4, "vae_encoder": 3, "vae_decoder": 4}


class Networks:
    """Opens each component on its own runtime, and runs it with every array checked.

    `runtime` is a name or a Runtime for all, or a mapping from component (or "default") to one.
    Options go to every runtime that declares them. Nothing is opened before it is needed; choices
    that cannot work are refused at once, but for vae_encoder, which text-to-image can do without.
    """

    def __init__(
        self,
        bundle: Bundle,
        runtime: RuntimeChoice,
        options: Mapping[str, Any],
        memory: str = "auto",
    ) -> None:
        self._bundle = bundle
        self._options = dict(options)
        self._inputs: dict[str, Sequence[TensorSpec]] = {}
        self.opening = dict.fromkeys(COMPONENTS, 0.0)  # seconds so far
        self.running = dict.fromkeys(COMPONENTS, 0.0)
        wanted = _per_component(bundle, runtime)
        entries = runtimes.installed()
        self._check_options(entries, wanted.values())
        self.runtimes: dict[str, Runtime] = {}
        self._missing: dict[str, LcmError] = {}
        for component in COMPONENTS:
            try:
                choice = wanted[component]
                self.runtimes[component] = choose_runtime(bundle, component, choice, entries)
            except (NetworkError, RuntimeUnavailableError) as error:
                if component != "vae_encoder":
                    raise
                self._missing[component] = error
        self.memory = self._choose_memory(memory)  # "low" or "high"
        self._residency = (OneOpen if self.memory == "low" else AllOpen)(self._open)

    def close(self) -> None:
        """Close what was opened; no network can be used any more."""
        self._residency.close()
        self._give_back()

    def expect(self, components: Sequence[str]) -> None:
        """Get ready for a call's networks, in the order of their turns; none when it has ended.

        To be asked between turns, too: it raises NetworkError as soon as one cannot be used.
        """
        for component in self._missing.keys() & components:
            self._open(component)
        self._residency.expect(components)
        if not components:
            self._give_back()

    def inputs(self, component: str) -> Sequence[TensorSpec]:
        """What the network takes, remembered; if its runtime cannot tell by the file, it is opened.

        Raises NetworkError.
        """
        if component not in self._inputs:
            tell = getattr(self.runtimes[component], "inputs", None)
            if tell is not None:
                self._inputs[component] = tell(*self._where(component))
            else:
                with self._residency.use(component) as network:
                    self._inputs[component] = network.inputs
        return self._inputs[component]

    def run(self, component: str, **inputs: Array) -> Floats:
        """The first output for a batch; a network compiled for fewer items is called repeatedly.

        Raises NetworkError when an input does not fit, the network fails, or returns something
        other than finite numbers of the shape that it declares.
        """
        with self._residency.use(component) as network:
            specs = network.inputs
            if len(specs) == len(inputs) == 1:  # whatever an exporter called it
                inputs = dict(zip([specs[0].name], inputs.values(), strict=True))
            parts = [self._call(component, network, part) for part in _parts(specs, inputs)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _call(self, component: str, network: Network, inputs: Mapping[str, Array]) -> Floats:
        runtimes.check_inputs(component, network.inputs, inputs)
        start = time.perf_counter()
        outputs = network.run(inputs)
        self.running[component] += time.perf_counter() - start
        runtimes.check_outputs(component, network.outputs, outputs)
        name = network.outputs[0].name
        expected = TensorSpec(name, self._result_shape(component, inputs), "float32")
        if not expected.fits(outputs[name]):
            got = TensorSpec(name, outputs[name].shape, "float32")
            raise NetworkError(component, f"returned {got}: expected {expected}")
        return outputs[name]

    def _result_shape(self, component: str, inputs: Mapping[str, Array]) -> tuple[int | None, ...]:
        """What the component must return for these inputs; most files declare no sizes."""
        if component == "unet":
            return inputs["sample"].shape
        shape = next(iter(inputs.values())).shape
        if component == "text_encoder":
            return (*shape, None)
        factor = self._bundle.vae.factor
        if component == "vae_encoder":
            return (shape[0], None, shape[2] // factor, shape[3] // factor)
        return (shape[0], 3, shape[2] * factor, shape[3] * factor)

    def _open(self, component: str) -> Network:
        if component in self._missing:
            hint = " (without it only text-to-image works)" if component == "vae_encoder" else ""
            raise NetworkError(component, f"{_bare(self._missing[component], component)}{hint}")
        start = time.perf_counter()
        network = self.runtimes[component].open(*self._where(component))
        self.opening[component] += time.perf_counter() - start
        try:
            _check_signature(component, network)
        except NetworkError:
            network.close()
            raise
        return network

    def _give_back(self) -> None:
        """Have runtimes return what their runs have left, where they keep any."""
        for runtime in {runtime.name: runtime for runtime in self.runtimes.values()}.values():
            give_back = getattr(runtime, "give_back", None)
            if give_back is not None:
                give_back()

    def _where(self, component: str) -> tuple[str, Path, dict[str, Any]]:
        """What its runtime is asked with: component, folder, and the options that it knows."""
        settings = {**self._bundle.settings.options_of(component), **self._options}
        known = self.runtimes[component].options
        options = {key: value for key, value in settings.items() if key in known}
        return component, self._bundle.folder(component), options

    def _choose_memory(self, memory: str) -> str:
        """By the size of the networks' files where neither the caller nor lcm.toml says."""
        if one_of("memory", memory, MEMORIES) == "auto":
            memory = self._bundle.settings.memory
        if memory != "auto":
            return memory
        free = available_bytes()
        files = sum(
            file_bytes(self._bundle.folder(component), runtime.filename)
            for component, runtime in self.runtimes.items()
        )
        return "low" if free is not None and 2 * files > free else "high"

    def _check_options(
        self, entries: Mapping[str, EntryPoint], wanted: Iterable[str | Runtime]
    ) -> None:
        """Every option must be one that some runtime knows, whichever is chosen here."""
        given = [choice for choice in wanted if not isinstance(choice, str)]
        known: set[str] = set()
        for runtime in (*runtimes.importable(entries), *given):
            known |= runtime.options
        for key in self._options:
            if key not in known:
                raise ArgumentError(f"unknown option {key!r}; runtimes know {_listed(known)}")
        for component in COMPONENTS:
            for key in self._bundle.settings.options_of(component):
                if key not in known:
                    raise ArgumentError(
                        f"lcm.toml: unknown key {component}.{key}; known are"
                        f" runtime, sha256, build, {_listed(known)}"
                    )


def _per_component(bundle: Bundle, runtime: RuntimeChoice) -> dict[str, str | Runtime]:
    """The caller's choice for each component; where it is "auto", lcm.toml's."""
    if not isinstance(runtime, Mapping):
        runtime = {"default": runtime}
    for key, choice in runtime.items():
        if key not in ("default", *COMPONENTS):
            raise ArgumentError(f"runtime for {key!r}: components are {', '.join(COMPONENTS)}")
        if not isinstance(choice, (str, Runtime)):
            raise ArgumentError(f"runtime must be a name or a Runtime, not {choice!r}")
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
    RuntimeUnavailableError, or NetworkError if the runtime's file is not there.
    """
    entries = runtimes.installed() if entries is None else entries
    if choice == "auto":
        return _automatic(bundle, component, entries)
    runtime = runtimes.find(choice, entries) if isinstance(choice, str) else choice
    runtimes.require_available(runtime)
    if runtime.filename:
        runtimes.require_file(component, bundle.folder(component), runtime.filename)
    return runtime


def _automatic(bundle: Bundle, component: str, entries: Mapping[str, EntryPoint]) -> Runtime:
    """Of the runtimes whose file is there and that work here, the one of highest priority."""
    folder = bundle.folder(component)
    usable: list[Runtime] = []
    sought: list[str] = []
    refused: list[str] = []
    for name in entries:
        try:
            runtime = runtimes.find(name, entries)
            if runtime.priority < 0:
                continue
            sought.append(runtime.filename)
            if is_file(folder / runtime.filename):
                runtimes.require_available(runtime)
                usable.append(runtime)
        except RuntimeUnavailableError as error:
            refused.append(str(error))
    if usable:
        return max(usable, key=lambda runtime: runtime.priority)
    if not any(is_file(folder / filename) for filename in sought):
        files = " or ".join(sorted(sought)) or "file that an installed runtime takes"
        missing = f"no {files} in {folder}; is {bundle.paths.root} a model directory?"
        refused.insert(0, missing)
    raise NetworkError(component, "; ".join(refused))


def _check_signature(component: str, network: Network) -> None:
    """Catch a file that is another network, e.g. two folders swapped."""
    if not network.inputs or not network.outputs:
        raise NetworkError(component, "the file holds a network without inputs or outputs")
    names = [spec.name for spec in network.inputs]
    first = network.inputs[0]
    if component == "unet":
        looks_right = set(_UNET_INPUTS) <= set(names) <= {*_UNET_INPUTS, "timestep_cond"}
        first = next((spec for spec in network.inputs if spec.name == "sample"), first)
    else:
        looks_right = len(names) == 1 and len(first.shape) == (
            2 if component == "text_encoder" else 4
        )
    if looks_right and component in _CHANNELS:
        looks_right = first.shape[1] in (None, _CHANNELS[component])
    if not looks_right:
        found = ", ".join(map(str, network.inputs))
        raise NetworkError(component, f"the file holds another network: it takes {found}")


def _parts(specs: Sequence[TensorSpec], inputs: Mapping[str, Array]) -> Iterator[dict[str, Array]]:
    """Cut a batch to what the network was compiled for; a timestep serves all items."""
    batched = {name: array for name, array in inputs.items() if name != "timestep"}
    total = len(next(iter(batched.values())))
    fixed = (spec.shape[0] for spec in specs if spec.name in batched and spec.shape)
    size = next((count for count in fixed if count is not None), None) or total
    for start in range(0, total, size):
        cut = {name: array[start : start + size] for name, array in batched.items()}
        yield {**inputs, **cut}


def _bare(error: LcmError, component: str) -> str:
    return str(error).removeprefix(f"{component}: ")


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names)) or "none"

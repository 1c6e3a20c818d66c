"""The four networks of a bundle: chosen, opened when first used, and called with checks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lcmcore.bundle import COMPONENTS, MEMORY_MODES, RESERVED_KEYS, TILED, Bundle
from lcmcore.errors import ArgumentError, LcmError, NetworkError, RuntimeUnavailableError
from lcmcore.instances import Instances
from lcmcore.residency import KeepLoaded, OneAtATime
from lcmcore.runtime import (
    Network,
    Runtime,
    TensorSpec,
    check_inputs,
    check_outputs,
    check_specs,
    foreign_errors,
    importable_runtimes,
    installed_runtimes,
)
from lcmcore.runtime_choice import RuntimeChoice, choice_per_component, choose_runtime
from lcmcore.tile_choice import TileChoice
from lcmcore.tiling import (
    UNET_OVERLAP,
    VAE_OVERLAP,
    Grid,
    Sides,
    TiledNetwork,
    is_free,
    smallest_tile,
    tile_size,
)
from lcmcore.util.arrays import Array, Floats
from lcmcore.util.memory import available_bytes
from lcmcore.util.validate import one_of

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint


# What distinguishes the networks: the ranks of their inputs, by name or for the only one, and the
# channels of the image-like one.
_UNET_RANKS = {"sample": 4, "timestep": 1, "encoder_hidden_states": 3}
_GUIDED_UNET_RANKS = {**_UNET_RANKS, "timestep_cond": 2}
_RANKS = {"text_encoder": 2, "vae_encoder": 4, "vae_decoder": 4}
_CHANNELS = {"unet": 4, "vae_encoder": 3, "vae_decoder": 4}
# Exporters add outputs (pooler_output, hidden_states.0) in any order; else the first is taken.
_OUTPUTS = {
    "text_encoder": "last_hidden_state",
    "unet": "out_sample",
    "vae_encoder": "latent_parameters",
    "vae_decoder": "sample",
}
_EXPLAINED = {"low": "one network is open at a time", "high": "networks stay open"}


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
        tile: int | None = None,
    ) -> None:
        self._bundle = bundle
        self._options = dict(options)
        self._inputs: dict[str, Sequence[TensorSpec]] = {}
        self.opening = dict.fromkeys(COMPONENTS, 0.0)  # seconds so far
        self.running = dict.fromkeys(COMPONENTS, 0.0)
        self.on_turn: Callable[[str, str], None] = lambda what, component: None  # see `run`
        wanted = choice_per_component(bundle, runtime)
        entries = installed_runtimes()
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
        automatic = memory == bundle.settings.memory == "auto"
        self.tiles = TileChoice(bundle.settings.tile if tile is None else tile, automatic)
        self._residency = (OneAtATime if self.memory == "low" else KeepLoaded)(self._open)
        _log("memory %s: %s", self.memory, _EXPLAINED[self.memory])

    def close(self) -> None:
        """Close what was opened; no network can be used any more."""
        self._residency.close()
        self._release_memory()

    def prefetch(self, components: Sequence[str]) -> None:
        """Open a call's networks ahead, in the order of their turns, while others work.

        Raises NetworkError at once for one whose file or runtime is missing.
        """
        for component in self._missing.keys() & components:
            self._open(component)
        self._residency.prefetch(components)

    def raise_failures(self, components: Sequence[str]) -> None:
        """Raise the NetworkError of one of these that was met while it was opened ahead."""
        self._residency.raise_failures(components)

    def release(self) -> None:
        """A call has ended: keep only what the memory mode keeps."""
        self._residency.release()
        self._release_memory()

    def names(self, components: Sequence[str]) -> dict[str, str]:
        """The name of the runtime of each component."""
        return {component: self.runtimes[component].name for component in components}

    def inputs(self, component: str) -> Sequence[TensorSpec]:
        """What the network takes, remembered; opened to know, if its runtime cannot say without.

        Raises NetworkError.
        """
        if component not in self._inputs:
            runtime = self.runtimes[component]
            with foreign_errors(runtime.name, component):
                specs = runtime.inputs(*self._where(component))
            if specs is None:
                with self._residency.use(component):
                    pass  # opening it, if it is not open, told
            else:
                _check_signature(component, specs)
                self._inputs[component] = specs
        return self._inputs[component]

    def is_compiled(self, component: str) -> bool:
        """Whether the network takes images of one size only; raises NetworkError."""
        image = next((spec for spec in self.inputs(component) if len(spec.shape) == 4), None)
        return image is not None and None not in image.shape[2:]

    def run(self, component: str, **inputs: Array) -> Floats:
        """The output for a batch; a network compiled for fewer items is called repeatedly.

        Of several outputs it is the one of the usual name, else the first. Raises NetworkError
        when an input does not fit, the network fails, or returns something other than finite
        numbers of the shape that it declares. `on_turn` is called with "opening", and once the
        network is open with "running", and the component.
        """
        self.on_turn("opening", component)
        with self._residency.use(component) as network:
            self.on_turn("running", component)
            specs = network.inputs
            if len(specs) == len(inputs) == 1:  # the only input, whatever its name
                inputs = dict(zip([specs[0].name], inputs.values(), strict=True))
            parts = [self._call(component, network, part) for part in _parts(specs, inputs)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _call(self, component: str, network: Network, inputs: Mapping[str, Array]) -> Floats:
        check_inputs(component, network.inputs, inputs)
        start = time.perf_counter()
        outputs = network.run(inputs)
        self.running[component] += time.perf_counter() - start
        check_outputs(component, network.outputs, outputs)
        name = _output_name(component, network)
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
        bindings = self._bindings(component)
        instances = Instances(component)
        network = instances.open(
            bindings[0].label, partial(self._open_instance, component, bindings[0])
        )
        self._inputs[component] = network.inputs
        if component not in TILED:
            return network
        grid = self._grid(component)
        compiled = tile_size(network.inputs, network.outputs, grid)
        if compiled is None and not is_free(network.inputs, network.outputs):
            return network
        if compiled or self.tiles.tile:  # else other instances would mostly have nothing to do
            for binding in bindings[1:]:
                instances.open(binding.label, partial(self._open_instance, component, binding))
        tile_at = partial(self._chosen_tile, component) if compiled is None else lambda _: compiled
        return TiledNetwork(component, instances, _output_name(component, network), grid, tile_at)

    def _grid(self, component: str) -> Grid:
        factor = self._bundle.vae.factor
        return {
            "unet": Grid(1, 1, UNET_OVERLAP),
            "vae_encoder": Grid(factor, 1, VAE_OVERLAP),
            "vae_decoder": Grid(1, factor, VAE_OVERLAP),
        }[component]

    def _chosen_tile(self, component: str, whole: Sides) -> Sides:
        """The tiles of a network that is free in size: the VAE's are as small as they can be.

        The UNet's are as large as was asked for: it makes better images near its trained size.
        """
        factor, overlap = self._bundle.vae.factor, self._grid(component).overlap
        side = self.tiles.chosen((whole[1] * factor, whole[0] * factor))
        if side is None:
            return whole
        largest = max(1, side // factor)
        if component == "unet":
            return min(whole[0], largest), min(whole[1], largest)
        height, width = (smallest_tile(each, largest, overlap) for each in whole)
        return height, width

    def _open_instance(self, component: str, binding: _Binding) -> Network:
        runtime = self.runtimes[component]
        name, folder, options = self._where(component)
        start = time.perf_counter()
        with foreign_errors(runtime.name, component):
            opened = runtime.open(name, folder, {**binding.options, **options})
            network = _GuardedNetwork(runtime.name, component, opened)
        seconds = time.perf_counter() - start
        self.opening[component] += seconds
        what = f"{component}, {binding.label}" if binding.label else component
        path = runtime.model_file(folder)
        _log("%s: %s opened %s in %.2f s", what, runtime.name, path, seconds)
        try:
            check_specs(component, network.outputs)
            _check_signature(component, network.inputs, bool(network.outputs))
        except NetworkError:
            with suppress(NetworkError):  # the first error tells more
                network.close()
            raise
        return network

    def _bindings(self, component: str) -> list[_Binding]:
        """One for each instance that lcm.toml asks for, which gets its part of the machine.

        There is one where the caller has bound the networks to a part, as a pool does. What
        lcm.toml says for the component goes for each instance.
        """
        count = self._bundle.settings.instances_of(component)
        if count == 1:
            return [_Binding()]
        runtime, options = self.runtimes[component], self._bundle.settings.options_of(component)
        bindings = []
        for index in range(count):
            with foreign_errors(runtime.name, component):
                part = dict(runtime.worker_options(index, count))
            if part.keys() & self._options.keys():
                return [_Binding()]
            place = ", ".join(f"{key} {options.get(key, part[key])}" for key in part)
            label = f"instance {index + 1} of {count}" + (f" ({place})" if place else "")
            bindings.append(_Binding(label, part))
        return bindings

    def _release_memory(self) -> None:
        """Have each runtime free what its runs have left."""
        for runtime in {runtime.name: runtime for runtime in self.runtimes.values()}.values():
            with foreign_errors(runtime.name):
                runtime.release_memory()

    def _where(self, component: str) -> tuple[str, Path, dict[str, Any]]:
        """A runtime's arguments: component, folder, and those of the options that it knows."""
        settings = {**self._bundle.settings.options_of(component), **self._options}
        known = self.runtimes[component].options
        options = {key: value for key, value in settings.items() if key in known}
        return component, self._bundle.folder(component), options

    def _choose_memory(self, memory: str) -> str:
        """By the size of the networks' files where neither the caller nor lcm.toml says."""
        if one_of("memory", memory, MEMORY_MODES) == "auto":
            memory = self._bundle.settings.memory
        if memory != "auto":
            return memory
        free = available_bytes()
        files = sum(
            self._file_bytes(component) * len(self._bindings(component))
            for component in self.runtimes
        )
        return "low" if free is not None and 2 * files > free else "high"

    def _file_bytes(self, component: str) -> int:
        runtime = self.runtimes[component]
        if not runtime.filename:
            return 0
        path = runtime.model_file(self._bundle.folder(component))
        return self._bundle.file_bytes(component, path.name)

    def _check_options(
        self, entries: Mapping[str, EntryPoint], wanted: Iterable[str | Runtime]
    ) -> None:
        """Every option must be one that some runtime knows, whichever is chosen here."""
        given = [choice for choice in wanted if not isinstance(choice, str)]
        known: set[str] = set()
        for runtime in (*importable_runtimes(entries), *given):
            known |= runtime.options
        for key in self._options:
            if key not in known:
                raise ArgumentError(f"unknown option {key!r}; runtimes know {_listed(known)}")
        for component in COMPONENTS:
            for key in self._bundle.settings.options_of(component):
                if key not in known:
                    raise ArgumentError(
                        f"{self._bundle.settings_file}: unknown key {component}.{key};"
                        f" known keys are {', '.join(RESERVED_KEYS)}, {_listed(known)}"
                    )


class _Binding(NamedTuple):
    """The name of an instance, for messages, and the options that bind it to its part."""

    label: str = ""
    options: Mapping[str, Any] = {}


class _GuardedNetwork(Network):
    """A runtime's network; errors of its code name the runtime and the component."""

    def __init__(self, runtime: str, component: str, network: Network) -> None:
        if not isinstance(network, Network):
            raise NetworkError(
                component, f"runtime {runtime!r} returned no subclass of lcmcore.runtime.Network"
            )
        self._names = runtime, component
        self._network = network
        self.inputs, self.outputs = network.inputs, network.outputs

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        with foreign_errors(*self._names):
            return self._network.run(inputs)

    def close(self) -> None:
        with foreign_errors(*self._names):
            self._network.close()

    def trim(self) -> None:
        with foreign_errors(*self._names):
            self._network.trim()


def _check_signature(
    component: str, inputs: Sequence[TensorSpec], has_outputs: bool = True
) -> None:
    """Catch a file that is another network, e.g. two folders swapped."""
    check_specs(component, inputs)
    if not inputs or not has_outputs:
        raise NetworkError(component, "the file holds a network without inputs or outputs")
    ranks = {spec.name: len(spec.shape) for spec in inputs}
    if component == "unet":
        looks_right = ranks in (_UNET_RANKS, _GUIDED_UNET_RANKS)
        first = next((spec for spec in inputs if spec.name == "sample"), inputs[0])
    else:
        looks_right = list(ranks.values()) == [_RANKS[component]]
        first = inputs[0]
    if looks_right and component in _CHANNELS:
        looks_right = first.shape[1] in (None, _CHANNELS[component])
    if not looks_right:
        found = ", ".join(map(str, inputs))
        raise NetworkError(component, f"the file holds another network: it takes {found}")


def _output_name(component: str, network: Network) -> str:
    """The output that is used: the one of the usual name, else the first."""
    names = [spec.name for spec in network.outputs]
    return _OUTPUTS[component] if _OUTPUTS[component] in names else names[0]


def _parts(specs: Sequence[TensorSpec], inputs: Mapping[str, Array]) -> Iterator[dict[str, Array]]:
    """Split a batch into parts of the compiled batch size; all share the timestep."""
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


def _log(message: str, *values: Any) -> None:
    import logging  # takes longer to import than the rest of this file

    logging.getLogger(__name__).info(message, *values)

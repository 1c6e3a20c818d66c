"""Whether a runtime keeps the contract of lcmcore.runtime, for its author's tests.

from lcmcore.conformance import breaches

def test_my_runtime():
    assert list(breaches(MyRuntime(), "model_dir")) == []
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from lcmcore.bundle import COMPONENTS, Bundle
from lcmcore.errors import LcmError, NetworkError, first_line
from lcmcore.runtime import (
    Network,
    Runtime,
    TensorSpec,
    breach_of_contract,
    check_outputs,
    check_specs,
    describe_file,
)
from lcmcore.util.arrays import Array

Inputs = Mapping[str, Array]
_TOKENS, _PIXELS = 77, 64
_SIZE = (128, 64)  # width, height of the hint
_ROUNDING = 0.05  # what two compilers of half precision may differ by
_LEVELS = ("ok", "warning", "error")
_GARBAGE = b"lcmcore.conformance: this is not a model\n"


def breaches(
    runtime: Runtime,
    model_dir: str | Path,
    components: Sequence[str] = COMPONENTS,
    options: Mapping[str, Any] | None = None,
    tolerance: float = 1e-4,
) -> Iterator[str]:
    """A line for each point of the contract that the runtime breaks on a model's networks.

    Networks of free size run at 64x64 pixels, with random numbers. `options` go to `open`. A result
    is the same as another if no value is off by more than `tolerance` of the largest: the rounding
    of threads and batches. A runtime with the option `size` is opened with that, too. Raises
    BundleError.
    """
    bundle = Bundle.open(model_dir)
    try:
        if (reason := breach_of_contract(runtime) or runtime.available()) is not None:
            yield f"runtime: {reason}"
            return
        yield from _of_runtime(runtime, bundle)
    except Exception as error:
        yield f"runtime: raised {_shown(error)}"
        return
    for component in components:
        try:
            folder = bundle.folder(component)
            said = runtime.inputs(component, folder, options or {})
            with closing(runtime.open(component, folder, options or {})) as network:
                if said is not None and list(said) != list(network.inputs):
                    yield f"{component}: inputs has {_listed(said)}, not {_listed(network.inputs)}"
                for line in _of_network(network, component, bundle, tolerance):
                    yield f"{component}: {line}"
            for line in _of_files(runtime, component, folder, options or {}):
                yield f"{component}: {line}"
            if "size" in runtime.options.difference(options or {}):
                for line in _of_size(runtime, component, bundle, options or {}, tolerance):
                    yield f"{component}: {line}"
        except Exception as error:
            yield f"{component}: raised {_shown(error)}"


def _of_runtime(runtime: Runtime, bundle: Bundle) -> Iterator[str]:
    unknown = set(runtime.worker_options(0, 2)) - runtime.options
    if unknown:
        yield f"runtime: worker_options has {', '.join(sorted(unknown))}, not in its options"
    for finding in runtime.diagnose(bundle.paths.root):
        texts = isinstance(finding, tuple) and all(isinstance(each, str) for each in finding)
        if not texts or len(finding) != 3 or finding[0] not in _LEVELS:
            yield f"runtime: diagnose has {finding!r}: not (level, finding, remedy)"
    runtime.release_memory()


def _of_files(
    runtime: Runtime, component: str, folder: Path, options: Mapping[str, Any]
) -> Iterator[str]:
    """What becomes of a model file, of none, and of a broken one."""
    if not runtime.filename:
        return
    path = runtime.model_file(folder)
    if path.parent != folder:
        yield f"model_file is {path}, not in {folder}"
    list(describe_file(runtime, path))
    with tempfile.TemporaryDirectory() as place:
        empty = Path(place)
        yield from _accepted("no file", lambda: runtime.open(component, empty, options))
        (empty / path.name).write_bytes(_GARBAGE)
        yield from _accepted("a broken file", lambda: runtime.open(component, empty, options))


def _of_network(
    network: Network, component: str, bundle: Bundle, tolerance: float
) -> Iterator[str]:
    if not isinstance(network, Network):
        yield "open returned no subclass of lcmcore.runtime.Network"
        return
    for specs in (network.inputs, network.outputs):
        check_specs(component, specs)
    first, second = (_inputs(network.inputs, component, bundle, seed) for seed in (0, 1))
    given = {name: array.copy() for name, array in first.items()}
    results = network.run(first)
    check_outputs(component, network.outputs, results)
    if not _same(given, first, 0):
        yield "run changed its inputs"
    kept = {name: array.copy() for name, array in results.items()}
    others = network.run(second)
    if not _same(kept, results, 0):
        yield "the next run overwrote the arrays that run returned"
    if _same(kept, others, tolerance):
        yield "other inputs give the same outputs"
    if not _same(kept, network.run(first), tolerance):
        yield "the same inputs give other outputs"
    network.trim()
    if not _same(kept, network.run(first), tolerance):
        yield "trim changed the outputs"
    with ThreadPoolExecutor(2) as threads:
        several = list(threads.map(network.run, [first, second] * 3))
    if not all(_same(a, b, tolerance) for a, b in zip(several, [kept, others] * 3, strict=True)):
        yield "runs of two threads at once give other outputs"
    if all(spec.shape[0] is None for spec in network.inputs if spec.name != "timestep"):
        both = {name: np.concatenate([array, second[name]]) for name, array in first.items()}
        both |= {name: array for name, array in first.items() if name == "timestep"}
        again = network.run({**second, **{k: v for k, v in first.items() if k == "timestep"}})
        expected = {name: np.concatenate([kept[name], again[name]]) for name in kept}
        if not _same(expected, network.run(both), tolerance):
            yield "a batch of two gives other outputs than its items"
    network.close()
    network.close()
    yield from _foreign("run after close", lambda: network.run(first))


def _of_size(
    runtime: Runtime,
    component: str,
    bundle: Bundle,
    options: Mapping[str, Any],
    tolerance: float,
) -> Iterator[str]:
    """Whether the hint `size` is followed, or leaves a network as it is."""
    folder, hint = bundle.folder(component), "{}x{}".format(*_SIZE)
    scale = 1 if component == "vae_encoder" else bundle.vae.factor
    sides = tuple(side // scale for side in reversed(_SIZE))
    with (
        closing(runtime.open(component, folder, options)) as plain,
        closing(runtime.open(component, folder, {**options, "size": hint})) as sized,
    ):
        for free, fixed in zip(plain.inputs, sized.inputs, strict=True):
            if len(fixed.shape) == 4 and fixed.shape[2:] not in (sides, free.shape[2:]):
                yield f"opened with size {hint} it takes {fixed}"
        inputs = _inputs(sized.inputs, component, bundle, 0)
        results = sized.run(inputs)
        check_outputs(component, sized.outputs, results)
        if all(spec.fits(inputs[spec.name]) for spec in plain.inputs):
            others = plain.run(inputs)  # names of outputs that the core does not use may differ
            shared = {name: others[name] for name in others.keys() & results.keys()}
            if not _same(shared, results, max(tolerance, _ROUNDING)):
                yield f"opened with size {hint} it gives other outputs"


def _accepted(what: str, open_it: Callable[[], Network]) -> Iterator[str]:
    """What must not open: an error of lcmcore is due."""
    opened: list[Network] = []
    yield from _foreign(what, lambda: opened.append(open_it()))
    for network in opened:
        network.close()
        yield f"{what}: open raised nothing, where NetworkError is due"


def _foreign(what: str, call: Callable[[], object]) -> Iterator[str]:
    """If a call raises, that must be an error of lcmcore, in one line."""
    try:
        call()
    except LcmError as error:
        if "\n" in str(error):
            yield f"{what}: the message has several lines: {_shown(error)}"
    except Exception as error:
        yield f"{what}: raised {_shown(error)}, no NetworkError"


def _inputs(
    specs: Sequence[TensorSpec], component: str, bundle: Bundle, seed: int
) -> dict[str, Array]:
    """Random inputs, of one item where the batch is free."""
    generator = np.random.default_rng(seed)
    side = _PIXELS if component == "vae_encoder" else _PIXELS // bundle.vae.factor
    width = bundle.config("unet").get("cross_attention_dim", 768)
    free = {
        1: (1,),
        2: (1, _TOKENS if component == "text_encoder" else bundle.unet.time_cond_proj_dim),
        3: (1, _TOKENS, width),
        4: (1, 3 if component == "vae_encoder" else 4, side, side),
    }
    arrays: dict[str, Array] = {}
    for spec in specs:
        if spec.name == "timestep":
            if spec.shape != (1,):
                raise NetworkError(component, f"declares {spec}, where the core gives [1]")
            arrays[spec.name] = np.array([499 - 240 * seed], np.int64)
            continue
        shape = [
            size if known is None else known
            for known, size in zip(spec.shape, free[len(spec.shape)], strict=True)
        ]
        if component == "text_encoder":
            arrays[spec.name] = generator.integers(0, bundle.vocab_size or 256, shape)
        else:
            arrays[spec.name] = generator.normal(size=shape).astype(np.float32)
    return arrays


def _same(one: Mapping[str, Array], other: Mapping[str, Array], tolerance: float) -> bool:
    return all(
        array.shape == other[name].shape
        and np.abs(array - other[name]).max() <= tolerance * max(np.abs(array).max(), 1)
        for name, array in one.items()
    )


def _listed(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(map(str, specs))


def _shown(error: BaseException) -> str:
    return f"{type(error).__name__}: {first_line(error)}"

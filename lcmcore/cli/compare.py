"""`lcm bench --compare`: each network on each runtime, and in each precision, that works here.

Every candidate gets the inputs that the network had in one call of the pipeline, and its outputs
are held against those of float32. What is measured is the network alone, open by itself.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lcmcore.bundle import COMPONENTS, Bundle, demo_dir
from lcmcore.cli.bench import AnonymousMemory, measure
from lcmcore.cli.generate import model_dir, runtime_options
from lcmcore.cli.progress import Progress
from lcmcore.errors import ArgumentError, LcmError, NetworkError
from lcmcore.pipeline import Pipeline, load
from lcmcore.runtime import Network, Runtime, foreign_errors, importable_runtimes, require_available
from lcmcore.util.arrays import Array
from lcmcore.util.configfile import set_in_tables
from lcmcore.util.files import is_file, require_writable
from lcmcore.util.memory import anonymous_bytes
from lcmcore.util.terminal import say
from lcmcore.util.validate import read_size, real_number, whole_number

Arrays = Mapping[str, Array]


@dataclass(frozen=True)
class Candidate:
    """A runtime, and the options that it is tried with, beside those of the command."""

    runtime: Runtime
    options: Mapping[str, Any]

    def __str__(self) -> str:
        return " ".join([self.runtime.name, *(f"{k}={v}" for k, v in self.options.items())])


@dataclass(frozen=True)
class Outcome:
    """What a candidate took for one run: seconds, bytes; and the PSNR to float32, in dB."""

    candidate: Candidate
    seconds: float
    opening: float
    memory: int
    psnr: float


def run(args: argparse.Namespace) -> None:
    """Measure, print a table, and write the fastest into lcm.toml if asked; raises LcmError."""
    rounds = whole_number("rounds", args.rounds, 1, 1000)
    least = real_number("psnr", args.psnr, 0, 1000)
    root = model_dir(args)
    if args.write:
        if root is None and args.config is None:
            raise ArgumentError("--write changes lcm.toml: name a model with --model DIR")
        require_writable(args.config or Path(root or "") / "lcm.toml")
    bundle = Bundle.open(root or demo_dir(), args.config, args.tokenizer)
    given = {key: value for key, value in runtime_options(args).items() if key != "memory"}
    found: dict[str, list[Outcome]] = {}
    say("network        runtime                          seconds   opened       MB   dB to float32")
    with Progress() as progress:
        progress.show("an image in float32")
        calls = _recorded(args, bundle)
        for component in COMPONENTS:
            found[component] = []
            for candidate in _candidates(bundle.folder(component), component):
                progress.show(f"{component} on {candidate}")
                try:
                    outcome = _measured(
                        candidate, bundle, component, calls[component], given, rounds
                    )
                except LcmError as error:
                    say(f"{component:14} {candidate!s:30} {error}")
                    continue
                found[component].append(outcome)
                say(_line(component, outcome))
    best = {name: _fastest(outcomes, least) for name, outcomes in found.items() if outcomes}
    for component, outcome in best.items():
        say(f"fastest within {least:g} dB: {component} on {outcome.candidate}")
    if args.write:
        _write(bundle.settings_file, best, found)
        say(f"{bundle.settings_file}: runtimes of {', '.join(best)} written")


def _recorded(args: argparse.Namespace, bundle: Bundle) -> dict[str, _Call]:
    """What each network was given, and returned, in one call of a pipeline in float32."""
    calls: dict[str, _Call] = {}
    runtimes: dict[str, Runtime] = {}
    for component in COMPONENTS:
        reference = _reference(bundle.folder(component), component)
        runtimes[component] = _Recorder(reference, calls)
    options = {**runtime_options(args), "memory": "low"}
    for key in ("device", "precision"):
        options.pop(key, None)
    pipe: Pipeline
    with load(
        bundle.paths.root, runtimes, config=args.config, tokenizer=args.tokenizer, **options
    ) as pipe:
        size = read_size(args.size) if args.size else None
        next(iter(measure(pipe, 1, size, 1)))
    return calls


def _reference(folder: Path, component: str) -> Runtime:
    """The runtime of the lowest priority that "auto" would take: the NPU's has half precision."""
    usable = [each.runtime for each in _candidates(folder, component) if each.runtime.priority >= 0]
    if not usable:
        raise NetworkError(component, f"no runtime that works here opens a file of {folder}")
    return min(usable, key=lambda runtime: runtime.priority)


def _candidates(folder: Path, component: str) -> Iterator[Candidate]:
    for runtime in sorted(importable_runtimes(), key=lambda each: -each.priority):
        with foreign_errors(runtime.name, component):
            if not (runtime.filename and is_file(runtime.model_file(folder))):
                continue
            try:
                require_available(runtime)
            except LcmError:
                continue
            yield from (Candidate(runtime, variant) for variant in runtime.variants())


def _measured(
    candidate: Candidate,
    bundle: Bundle,
    component: str,
    call: _Call,
    given: Mapping[str, Any],
    rounds: int,
) -> Outcome:
    """The median of `rounds` runs after a first one; raises LcmError."""
    runtime = candidate.runtime
    options = {**bundle.settings.options_of(component), **given, **candidate.options}
    known = {key: value for key, value in options.items() if key in runtime.options}
    runtime.release_memory()
    before, seconds = anonymous_bytes(), []
    with AnonymousMemory() as memory, foreign_errors(runtime.name, component):
        start = time.perf_counter()
        with closing(runtime.open(component, bundle.folder(component), known)) as network:
            opening = time.perf_counter() - start
            names = [spec.name for spec in network.inputs]
            inputs = dict(zip(names, call.inputs.values(), strict=True))
            inputs.update({name: call.inputs[name] for name in names if name in call.inputs})
            for spec in network.inputs:
                if not spec.fits(inputs[spec.name]):
                    raise NetworkError(component, f"not compared: it takes {spec}")
            for _ in range(rounds + 1):
                start = time.perf_counter()
                outputs = network.run(inputs)
                seconds.append(time.perf_counter() - start)
    psnr = _psnr(next(iter(call.outputs.values())), next(iter(outputs.values())))
    grown = max(memory.peak - before, 0)
    return Outcome(candidate, float(np.median(seconds[1:])), opening, grown, psnr)


def _psnr(expected: Array, found: Array) -> float:
    """Peak signal to noise in dB, the peak being the range of what is expected; inf if equal."""
    if expected.shape != found.shape:
        return 0.0
    error = float(np.square(expected.astype(np.float64) - found).mean())
    return float(20 * np.log10(np.ptp(expected)) - 10 * np.log10(error)) if error else np.inf


def _fastest(outcomes: list[Outcome], least: float) -> Outcome:
    """The fastest within `least` dB; float32's own is always within."""
    within = [each for each in outcomes if each.psnr >= least]
    return min(within or outcomes, key=lambda each: each.seconds if within else -each.psnr)


def _line(component: str, outcome: Outcome) -> str:
    psnr = f"{outcome.psnr:.1f}" if outcome.psnr < np.inf else "equal"
    return (
        f"{component:14} {outcome.candidate!s:30}{outcome.seconds:10.3f}{outcome.opening:9.3f}"
        f"{outcome.memory / 1e6:9.0f}   {psnr}"
    )


def _write(path: Path, best: Mapping[str, Outcome], found: Mapping[str, list[Outcome]]) -> None:
    """Into lcm.toml, without the options of those that were not chosen."""
    changes: dict[str, dict[str, Any]] = {}
    for component, outcome in best.items():
        tried = {key for each in found[component] for key in each.candidate.options}
        changes[component] = {
            **dict.fromkeys(tried),
            "runtime": outcome.candidate.runtime.name,
            **outcome.candidate.options,
        }
    set_in_tables(path, changes)


@dataclass(frozen=True)
class _Call:
    inputs: Arrays
    outputs: Arrays


class _Recorder(Runtime):
    """Another runtime, whose networks note what they were given last, and returned."""

    def __init__(self, runtime: Runtime, calls: dict[str, _Call]) -> None:
        self.name, self.filename, self.priority = runtime.name, runtime.filename, runtime.priority
        self.options = runtime.options
        self._runtime, self._calls = runtime, calls

    def available(self) -> str | None:
        return self._runtime.available()

    def model_file(self, folder: Path) -> Path:
        return self._runtime.model_file(folder)

    def open(self, component: str, folder: Path, options: Mapping[str, Any]) -> Network:
        return _RecordedNetwork(
            self._runtime.open(component, folder, options), component, self._calls
        )


class _RecordedNetwork(Network):
    def __init__(self, network: Network, component: str, calls: dict[str, _Call]) -> None:
        self.inputs, self.outputs = network.inputs, network.outputs
        self._network, self._component, self._calls = network, component, calls

    def run(self, inputs: Arrays) -> dict[str, Array]:
        outputs = self._network.run(inputs)
        self._calls[self._component] = _Call(dict(inputs), dict(outputs))
        return outputs

    def close(self) -> None:
        self._network.close()

"""`lcm bench --compare`: each network on each runtime, and in each way, that works here.

Every candidate gets the inputs that the network had in one call of the pipeline, and its output is
held against that of float32. What is measured is the network alone, open by itself; one of a fixed
size makes a larger image by tiles, as in a pipeline.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
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
from lcmcore.networks import Networks
from lcmcore.pipeline import Pipeline
from lcmcore.runtime import Runtime, foreign_errors, importable_runtimes, require_available
from lcmcore.util.arrays import Array, Floats
from lcmcore.util.configfile import set_in_tables
from lcmcore.util.files import is_file, require_writable
from lcmcore.util.memory import anonymous_bytes
from lcmcore.util.terminal import say
from lcmcore.util.validate import read_size, real_number, whole_number


@dataclass(frozen=True)
class Candidate:
    """A runtime, and what it is tried with: keys of a network's table in lcm.toml."""

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
    tried = {each: list(_candidates(bundle.folder(each), each)) for each in COMPONENTS}
    references = {each: _reference(each, bundle, tried[each]) for each in COMPONENTS}
    plain = _plain(bundle, tried, runtime_options(args))
    found: dict[str, list[Outcome]] = {component: [] for component in COMPONENTS}
    say("network        runtime                          seconds   opened       MB   dB to float32")
    with Progress() as progress:
        progress.show("an image in float32")
        calls = _recorded(args, plain, references)
        for component in COMPONENTS:
            for candidate in tried[component]:
                progress.show(f"{component} on {candidate}")
                runtimes = {**references, component: candidate.runtime}
                try:
                    outcome = _measured(
                        candidate, plain, runtimes, component, calls[component], rounds
                    )
                except LcmError as error:
                    say(f"{component:14} {candidate!s:30} {error}")
                    continue
                if outcome is not None:
                    found[component].append(outcome)
                    say(_line(component, outcome))
    best = {name: _fastest(outcomes, least) for name, outcomes in found.items() if outcomes}
    for component, outcome in best.items():
        say(f"fastest within {least:g} dB: {component} on {outcome.candidate}")
    if args.write:
        _write(bundle.settings_file, best, tried)
        say(f"{bundle.settings_file}: runtimes of {', '.join(best)} written")


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


def _reference(component: str, bundle: Bundle, candidates: Sequence[Candidate]) -> Runtime:
    """The runtime of the lowest priority that "auto" would take: the NPU's has half precision.

    Where "auto" would take none, one that is for being named; its default is float32, too.
    """
    if not candidates:
        folder = bundle.folder(component)
        raise NetworkError(component, f"no runtime that works here opens a file of {folder}")
    usable = [each.runtime for each in candidates]
    automatic = [runtime for runtime in usable if runtime.priority >= 0]
    return min(automatic or usable, key=lambda runtime: runtime.priority)


def _plain(
    bundle: Bundle, tried: Mapping[str, Sequence[Candidate]], options: Mapping[str, Any]
) -> Bundle:
    """The bundle with the command's options in lcm.toml, and without the keys that are tried."""
    tables = {}
    for component in COMPONENTS:
        table = {**bundle.settings.components.get(component, {}), **options}
        left_out = {"memory", "tile", *_keys(tried[component])}
        tables[component] = {key: table[key] for key in table.keys() - left_out}
    return _changed(bundle, components=tables, tile=options.get("tile", bundle.settings.tile))


def _changed(bundle: Bundle, **settings: Any) -> Bundle:
    """With other settings than those of its lcm.toml."""
    changed = bundle.settings._replace(**settings)
    return Bundle(bundle.paths, changed, bundle.settings_file, bundle.tokenizer_dir)


def _keys(candidates: Sequence[Candidate]) -> set[str]:
    return {key for each in candidates for key in each.options}


def _recorded(
    args: argparse.Namespace, bundle: Bundle, runtimes: Mapping[str, Runtime]
) -> dict[str, _Call]:
    """What each network was given, and returned, in one call of a pipeline in float32."""
    networks = _Recorder(bundle, runtimes, {}, "low")
    with Pipeline(bundle, networks) as pipe:
        next(iter(measure(pipe, 1, read_size(args.size) if args.size else None, 1)))
    return networks.calls


def _measured(
    candidate: Candidate,
    bundle: Bundle,
    runtimes: Mapping[str, Runtime],
    component: str,
    call: _Call,
    rounds: int,
) -> Outcome | None:
    """The median of `rounds` runs after a first one; None for instances without tiles to share.

    Raises LcmError.
    """
    tables = dict(bundle.settings.components)
    tables[component] = {**tables[component], **candidate.options}
    candidate.runtime.release_memory()
    before, seconds = anonymous_bytes(), []
    with (
        AnonymousMemory() as memory,
        closing(Networks(_changed(bundle, components=tables), runtimes, {}, "high")) as networks,
    ):
        if "instances" in candidate.options and not _is_cut(networks, component, call):
            return None
        for _ in range(rounds + 1):
            start = networks.running[component]
            output = networks.run(component, **call.inputs)
            seconds.append(networks.running[component] - start)
    grown = max(memory.peak - before, 0)
    return Outcome(
        candidate,
        float(np.median(seconds[1:])),
        networks.opening[component],
        grown,
        _psnr(call.output, output),
    )


def _is_cut(networks: Networks, component: str, call: _Call) -> bool:
    """Whether the image is larger than the size that the network is made for."""
    sides = [spec.shape[2:] for spec in networks.inputs(component) if len(spec.shape) == 4]
    wholes = [array.shape[2:] for array in call.inputs.values() if array.ndim == 4]
    return any(
        side is not None and whole > side
        for pair in zip(wholes, sides, strict=True)
        for whole, side in zip(*pair, strict=True)
    )


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


def _write(
    path: Path, best: Mapping[str, Outcome], tried: Mapping[str, Sequence[Candidate]]
) -> None:
    """Into lcm.toml, without the keys of those that were not chosen."""
    changes: dict[str, dict[str, Any]] = {}
    for component, outcome in best.items():
        changes[component] = {
            **dict.fromkeys(_keys(tried[component])),
            "runtime": outcome.candidate.runtime.name,
            **outcome.candidate.options,
        }
    set_in_tables(path, changes)


@dataclass(frozen=True)
class _Call:
    inputs: Mapping[str, Array]
    output: Floats


class _Recorder(Networks):
    """Networks that note what each was given last, and returned, in `calls`."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.calls: dict[str, _Call] = {}

    def run(self, component: str, **inputs: Array) -> Floats:
        output = super().run(component, **inputs)
        self.calls[component] = _Call(inputs, output)
        return output

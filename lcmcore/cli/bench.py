"""`lcm bench`: where the time and memory of an image go, on this machine and with this model.

Every image has a prompt and an init image of its own, so that both encoders run: nothing is
taken from the results that a pipeline keeps.
"""

from __future__ import annotations

import argparse
import json
import platform
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np

from lcmcore.bundle import COMPONENTS
from lcmcore.cli.generate import open_pipeline
from lcmcore.cli.pages import page_address
from lcmcore.cli.progress import Progress
from lcmcore.errors import LcmError
from lcmcore.pipeline import Pipeline
from lcmcore.runtime import foreign_errors
from lcmcore.sizes import Size
from lcmcore.util.closeable import Closeable
from lcmcore.util.files import make_folder, require_writable, write_whole
from lcmcore.util.memory import anonymous_bytes, peak_resident_bytes
from lcmcore.util.terminal import say
from lcmcore.util.validate import read_size, whole_number

_POLL_SECONDS = 0.02  # between looks at the memory


@dataclass(frozen=True)
class Round:
    """Seconds of one image: in all, and in opening and running each network."""

    total: float
    opening: dict[str, float]
    running: dict[str, float]

    @property
    def outside(self) -> float:
        """Seconds in no network, unless a thread opened one meanwhile."""
        return self.total - sum(self.opening.values()) - sum(self.running.values())


def run(args: argparse.Namespace) -> None:
    """Measure, print a table, and write a report if asked; raises LcmError."""
    if args.report is not None:
        require_writable(args.report)
    rounds = whole_number("rounds", args.rounds, 1, 1000)
    size = read_size(args.size) if args.size else None
    with Progress() as progress, AnonymousMemory() as anonymous, open_pipeline(args) as pipe:
        progress.show("measuring the first image")
        steps = pipe.default_steps if args.steps is None else args.steps
        measured = []
        for each in measure(pipe, rounds, size, steps):
            measured.append(each)
            progress.item(len(measured), rounds + 1, None, "images")
    say(f"{pipe.bundle.paths.root}: memory {pipe.networks.memory}, {steps} steps an image")
    predictions = _predictions(pipe)
    for line in _table(pipe, measured, steps, predictions):
        say(line)
    peaks = peak_resident_bytes(), anonymous.peak
    say("peak memory: {:.0f} MB resident, {:.0f} MB anonymous".format(*(p / 1e6 for p in peaks)))
    if args.report is not None:
        content = json.dumps(_report(pipe, measured, steps, predictions), indent=2) + "\n"
        make_folder(args.report.parent)
        write_whole(args.report, content.encode())
        where = page_address("docs/npu.md")
        say(f"{args.report}: a report without names of files; where to send it: {where}")


def measure(
    pipe: Pipeline, rounds: int, size: Size | None = None, steps: int | None = None
) -> Iterator[Round]:
    """A first image by a pipeline that has opened nothing, then `rounds` more; every step runs.

    `size` and `steps` are the model's where they are None. Raises as the pipeline does.
    """
    networks, native = pipe.networks, pipe.bundle.unet.sample_size * pipe.bundle.vae.factor
    width, height = size or (None, None)
    shape = (height or native, width or native, 3)
    for number in range(rounds + 1):
        before = dict(networks.opening), dict(networks.running)
        image = np.random.default_rng(number).integers(0, 256, shape, np.uint8)
        start = time.perf_counter()
        pipe(f"a snowy lake, number {number}", image, 1.0, steps, width=width, height=height)
        total = time.perf_counter() - start
        yield Round(total, *map(_since, before, (networks.opening, networks.running)))


def _since(before: Mapping[str, float], now: Mapping[str, float]) -> dict[str, float]:
    return {component: now[component] - before[component] for component in now}


class AnonymousMemory(Closeable):
    """Looks at the anonymous memory of this process again and again until it is closed.

    `peak` is the most that it has seen, in bytes.
    """

    def __init__(self) -> None:
        self.peak = 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def close(self) -> None:
        """Look no more."""
        self._end.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._end.wait(_POLL_SECONDS):
            self.peak = max(self.peak, anonymous_bytes())


def _predictions(pipe: Pipeline) -> dict[str, Mapping[str, Any]]:
    """What the runtimes predict of the networks that they run, where they do.

    A prediction that fails is none: what was measured is worth more.
    """
    found = {}
    for component, runtime in pipe.networks.runtimes.items():
        with suppress(LcmError), foreign_errors(runtime.name, component):
            prediction = runtime.predict(runtime.model_file(pipe.bundle.folder(component)))
            if prediction is not None:
                found[component] = prediction
    return found


def _report(
    pipe: Pipeline,
    measured: list[Round],
    steps: int,
    predictions: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """Machine, measured seconds and predictions; no names of files, prompts or persons."""
    runtimes = pipe.networks.runtimes
    networks = {}
    for component in COMPONENTS:
        seconds = [each.running[component] / _runs(component, steps) for each in measured]
        networks[component] = {
            "runtime": runtimes[component].name,
            "seconds": {"first": seconds[0], "warm": seconds[1:]},
            "predicted": predictions.get(component),
        }
    machine = {each.name: dict(each.machine()) for each in runtimes.values()}
    return {
        "lcmcore": version("lcmcore"),
        "python": platform.python_version(),
        "processor": platform.machine(),
        "machine": machine,
        "steps": steps,
        "networks": networks,
    }


def _runs(component: str, steps: int) -> int:
    """How often a network runs for an image."""
    return steps if component == "unet" else 1


def _table(
    pipe: Pipeline,
    measured: list[Round],
    steps: int,
    predictions: Mapping[str, Mapping[str, Any]],
) -> Iterator[str]:
    warm = measured[1:]

    def row(name: str, seconds: list[float], tail: str = "") -> str:
        return f"{name:22}{seconds[0]:9.3f}{np.median(seconds[1:]):9.3f}   {tail}"

    yield "seconds                   first     warm   runtime"
    for component in COMPONENTS:
        name, parts = component + ", a step" * (component == "unet"), _runs(component, steps)
        runtime = pipe.networks.runtimes[component].name
        tail = f"{runtime}, opened in {measured[0].opening[component]:.3f}"
        if (predicted := predictions.get(component, {}).get("seconds")) is not None:
            tail += f", predicted {predicted:.3f} on one core"
        yield row(name, [each.running[component] / parts for each in measured], tail)
    yield row("opening networks", [sum(each.opening.values()) for each in measured])
    yield row("image", [each.total for each in measured])
    share = np.median([each.outside / each.total for each in warm])
    yield f"{share:.2%} of a warm image is outside the networks; warm: the median of {len(warm)}"
    yield "images, each with a prompt and an init image of its own, so that both encoders run"

"""What is fuzzed: each target reads the files of an item in its way.

A check may raise the exceptions that its target names, LcmError before all. Whatever else it raises
is a fault, `Fault` included, by which a check says that a result is wrong.
"""

from __future__ import annotations

import io
import json
import logging
import os
import shutil
import unicodedata
from collections.abc import Callable
from contextlib import closing, redirect_stderr, redirect_stdout
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import lcmcore
from lcmcore.errors import LcmError
from lcmcore.fake import FakeRuntime
from tests.fuzz import seeds, strategies
from tests.fuzz.items import Item


class Fault(Exception):
    """A result that is wrong."""


class Target(NamedTuple):
    """`seeds` are what is mutated; `strategy` makes items from nothing (hypothesis).

    `links`: whether symbolic links are put in the place of files.
    """

    check: Callable[[Path], None]
    seeds: Callable[[], list[Item]]
    strategy: Callable[[], Any] | None = None
    errors: tuple[type[Exception], ...] = (LcmError,)
    links: bool = True


_INVISIBLE = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # general categories of Unicode
_PHOTO = np.arange(64 * 64 * 3, dtype=np.uint32).reshape(64, 64, 3).astype(np.uint8)


def command(*words: object) -> list[str]:
    """What `lcm` prints; raises Fault for what a terminal would obey, and for a bug of ours."""
    from lcmcore.cli.main import main

    streams = [io.TextIOWrapper(io.BytesIO(), "utf-8", "strict", "\n") for _ in range(2)]
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setStream(streams[1])
    with redirect_stdout(streams[0]), redirect_stderr(streams[1]):
        status = main(list(map(str, words)))
    texts = []
    for stream in streams:
        stream.flush()
        texts.append(stream.buffer.getvalue().decode())  # type: ignore[attr-defined]
    if status not in (0, 1):
        raise Fault(f"exit status {status}")
    if "a bug in lcmcore" in texts[1]:
        raise Fault(texts[1].strip())
    lines = [line for text in texts for line in text.split("\n")]
    for line in lines:
        if any(unicodedata.category(each) in _INVISIBLE for each in line):
            raise Fault(f"not printable: {line[:200]!r}")
    if status == 1 and not texts[1].strip():
        raise Fault("failed without a message")
    return lines


def _only(folder: Path) -> Path:
    return next((path for path in sorted(folder.iterdir())), folder / "missing")


def check_image(folder: Path) -> None:
    """An image becomes RGB pixels, however it is given.

    A large one is fitted once: of the largest each takes a second, and an item has five.
    """
    from lcmcore.image import FITS, fit_image, read_image

    path = _only(folder)
    image = read_image(path)
    if image.mode != "RGB" or not all(image.size):
        raise Fault(f"{image.mode} {image.size}")
    for fit in FITS if image.width * image.height <= 2**24 else FITS[:1]:
        if fit_image(image, (64, 48), fit).size != (64, 48):
            raise Fault(fit)
    del image
    if path.stat().st_size < 2**20:
        read_image(path.read_bytes())


def check_record(folder: Path) -> None:
    """`lcm info` shows a record, and the command once, in the last line."""
    from lcmcore.png import read_record

    path = folder / "image.png"
    lines = [line for line in command("info", path) if line]
    if (heads := [line for line in lines if line.startswith("command to")]) and (
        len(heads) > 1 or not lines[-1].startswith("lcm ")
    ):
        raise Fault(f"another command: {lines}")
    read_record(path)


def check_onnx(folder: Path) -> None:
    """A model.onnx is read by our reader, and by `lcm info`."""
    from runtimes.onnx import OnnxRuntime
    from runtimes.onnx.graph import Graph, GraphIndex
    from runtimes.onnx.graph_cache import external_files

    path = folder / "model.onnx"
    list(OnnxRuntime().describe(path))
    for each in external_files(path):
        if ".." in each.relative_to(folder).parts:
            raise Fault(f"weights outside: {each}")
    graph = Graph(path)
    for node in GraphIndex(graph).graph.nodes:
        for name in node.inputs:
            graph.constant_values(name)


def check_onnx_cache(folder: Path) -> None:
    """A network computes with the cache of graphs what it computes without."""
    from runtimes.onnx import graph_cache

    shutil.rmtree(os.environ["LCM_CACHE"], ignore_errors=True)
    graph_cache.MIN_BYTES = 0
    _compare(_decode(folder), _decode(folder, graph_cache=False))


def check_cache_entry(folder: Path) -> None:
    """A damaged entry of the cache is not used."""
    from runtimes.onnx import graph_cache

    shutil.rmtree(os.environ["LCM_CACHE"], ignore_errors=True)
    graph_cache.MIN_BYTES = 0
    source = _cached_model()
    entry = graph_cache._entry(source / "model.onnx")
    shutil.copytree(folder, entry, symlinks=True)
    _compare(_decode(source), _decode(source, graph_cache=False))


def cache_entries() -> list[Item]:
    """The entry of a network's optimized graph."""
    from runtimes.onnx import graph_cache
    from tests.fuzz.items import read

    graph_cache.MIN_BYTES = 0
    source = _cached_model()
    _decode(source)
    return [read(graph_cache._entry(source / "model.onnx"))]


def _cached_model() -> Path:
    folder = Path(os.environ["LCM_CACHE"]).with_name("model") / "vae_decoder"
    if not folder.exists():
        folder.mkdir(parents=True)
        for name, content in seeds.networks()[1].items():
            assert isinstance(content, bytes)
            (folder / name).write_bytes(content)
        for path in folder.iterdir():  # the entry says of which files it was made
            os.utime(path, (1e9, 1e9))
    return folder


def _decode(folder: Path, **options: Any) -> Any:
    from runtimes.onnx import OnnxRuntime

    latents = np.random.default_rng(0).normal(size=(1, 4, 8, 8)).astype(np.float32)
    with closing(OnnxRuntime().open("vae_decoder", folder, options)) as network:
        return network.run({"latent_sample": latents})["sample"]


def _compare(found: Any, wanted: Any) -> None:
    scale = np.abs(wanted[np.isfinite(wanted)]).max(initial=1e-30)
    if found.shape != wanted.shape or not np.allclose(
        found, wanted, rtol=1e-3, atol=1e-3 * scale, equal_nan=True
    ):
        raise Fault("another result with the cache than without")


def check_openvino(folder: Path) -> None:
    """A model in OpenVINO's own format is described, opened and run, or refused."""
    from lcmcore.runtime import check_inputs, check_specs
    from runtimes.openvino import OpenVINORuntime
    from runtimes.openvino.files import IR

    runtime = OpenVINORuntime()
    list(runtime.describe(folder / IR))
    latents = {"latent_sample": np.zeros((1, 4, 8, 8), np.float32)}
    options = {"threads": 1, "graph_cache": False}
    with closing(runtime.open("vae_decoder", folder, options)) as network:
        for specs in (network.inputs, network.outputs):
            check_specs("vae_decoder", specs)
        check_inputs("vae_decoder", network.inputs, latents)
        network.run(latents)


def check_rknn(folder: Path) -> None:
    """A .rknn file is described, its cost too, and is given a signature for its component."""
    from lcmcore.bundle import COMPONENTS
    from runtimes.rknn import RknnRuntime

    runtime, errors = RknnRuntime(), []
    for component in COMPONENTS:
        path = folder / component / "model.rknn"
        try:
            if path.exists():
                list(runtime.describe(path))
                json.dumps(runtime.predict(path), allow_nan=False)
                list(map(str, runtime.inputs(component, path.parent, {"size": "48x32"})))
        except LcmError as error:
            errors.append(error)
    if any((folder / name / "model.rknn").exists() for name in COMPONENTS):
        command("info", folder, "--cost")
    if errors:
        raise errors[0]


def check_bundle(folder: Path) -> None:
    """A model directory is described, and makes a picture."""
    command("info", folder)
    with lcmcore.load(folder, runtime=FakeRuntime()) as pipe:
        result = pipe(
            "a lake", _PHOTO, num_inference_steps=2, seed=1, width=64, height=64, strength=0.9
        )
        if result.images[0].size != (64, 64):
            raise Fault(f"size {result.images[0].size}")


def check_doctor(folder: Path) -> None:
    """`lcm doctor` says what is wrong with a model directory."""
    command("doctor", "--model", folder)


def check_tokenizer(folder: Path) -> None:
    """A tokenizer's folder makes ids of texts."""
    from lcmcore.tokenizer import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_dir(folder)
    for text in ("a photo of a <cat-toy> EasyNegative! l'été", "", "x" * 500, "<|endoftext|>!!"):
        ids = tokenizer(text)
        if ids.shape[0] != 1 or ids.dtype != np.int64 or (ids < 0).any():
            raise Fault(f"ids {ids.shape} {ids.dtype}")


def check_prompt(folder: Path) -> None:
    """A text, however long, makes 77 ids."""
    path = folder / "prompt.txt"
    text = path.read_bytes().decode("utf-8", "surrogateescape") if path.exists() else ""
    for each in (text, text.upper() * (50 if len(text) < 10**5 else 1)):
        if _tokenizer()(each).shape != (1, 77):
            raise Fault("not 77 ids")


@cache
def _tokenizer() -> Any:
    from lcmcore.tokenizer import CLIPTokenizer

    return CLIPTokenizer.from_dir(seeds.TINY / "lcm" / "tokenizer")


@cache
def _worker() -> Any:
    from lcmcore.jobs.worker import PipelineWorker

    return PipelineWorker(0, runtime=FakeRuntime(size=(64, 64)))


def check_jobs(folder: Path) -> None:
    """A file of jobs: each line makes its image or fails alone."""
    from concurrent.futures import Future

    from lcmcore.cli.batch_jobs import tasks_of_file
    from lcmcore.cli.batch_runner import Backend, Runner
    from lcmcore.cli.progress import Progress
    from lcmcore.jobs.job import Request

    if (folder / "jobs.jsonl").is_fifo():
        return  # it is waited for, until a signal comes: tests/cli/test_batch_lines.py
    out = folder.with_name("out")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    request = Request("a sea", "64x64", 2, seed=1)

    def submit(job: Any) -> Any:
        future: Future[Any] = Future()
        try:
            future.set_result(_worker().run_job(job))
        except LcmError as error:
            future.set_exception(error)
        return future

    tasks = tasks_of_file(folder / "jobs.jsonl", folder, out, request)
    stream = io.StringIO()
    with Progress(False, stream) as progress:
        tally = Runner(tasks, Backend(submit, lambda: 1, {}), progress, lambda: False).run()
    for line in stream.getvalue().replace("\r", "\n").split("\n"):
        if any(unicodedata.category(each) in _INVISIBLE for each in line):
            raise Fault(f"not printable: {line[:200]!r}")
    if tally.remaining:
        raise Fault(f"{tally.remaining} remaining")


def check_request(folder: Path) -> None:
    """A worker answers any job with an image or an LcmError."""
    from types import SimpleNamespace

    try:
        values = json.loads((folder / "request.json").read_bytes())
    except (ValueError, RecursionError, OSError):
        return  # JSON is read elsewhere
    if not isinstance(values, dict):
        return
    plain = seeds.images()[0]["plain.png"]
    image, mask = (plain if values.get(k) is True else values.get(k) for k in ("init", "mask"))
    job = SimpleNamespace(
        req=SimpleNamespace(**values), init_image=image, mask=mask, record=values.get("record")
    )
    png, seed = _worker().run_job(job)
    if not png or not isinstance(seed, int):
        raise Fault("no image")


def check_weights(folder: Path) -> None:
    """A file of weights is told what it is, and every tensor is read, or it is refused."""
    from runtimes.onnx.checkpoint.kinds import checkpoint_kind
    from runtimes.onnx.checkpoint.lora import Lora
    from runtimes.onnx.checkpoint.weight_file import WeightFile

    path = _only(folder)
    file = WeightFile(path)
    if not checkpoint_kind(file.shapes):
        raise Fault("of no kind")
    for name in file.shapes:
        if not np.isfinite(file.read(name).numpy()).all():
            raise Fault(f"{name} is not finite")
    lora = Lora.open(path)
    lora.kind, lora.is_lcm  # noqa: B018 - they read metadata
    for layer, shape in (("lora_unet_a", (8, 8)), ("unet.b", (8, 8))):
        if layer in lora.layers:
            lora.delta(layer, shape)  # type: ignore[arg-type]


TARGETS = {
    "image": Target(check_image, seeds.images, strategies.images, links=False),
    "record": Target(check_record, seeds.records, strategies.records),
    "onnx": Target(check_onnx, seeds.networks, None, (LcmError, ValueError, OSError)),
    "onnx-cache": Target(check_onnx_cache, seeds.networks),
    "cache-entry": Target(check_cache_entry, cache_entries),
    "rknn": Target(check_rknn, seeds.rknn_files),
    "bundle": Target(check_bundle, seeds.bundles, strategies.bundles),
    "doctor": Target(check_doctor, seeds.bundles),
    "tokenizer": Target(check_tokenizer, seeds.tokenizers),
    "prompt": Target(check_prompt, seeds.prompts, strategies.prompts, links=False),
    "jobs": Target(check_jobs, seeds.jobs, strategies.jobs),
    "request": Target(check_request, seeds.requests, strategies.requests, links=False),
}
if find_spec("openvino"):  # `make test-openvino` has it
    TARGETS["openvino"] = Target(check_openvino, seeds.openvino_models)
if find_spec("torch") and find_spec("safetensors"):  # `make test-export` has them
    TARGETS["weights"] = Target(check_weights, seeds.weights, links=False)

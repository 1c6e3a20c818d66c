"""`lcm build onnx`: exports the networks of a checkpoint to ONNX, for both runtimes.

The graphs have the input and output names of optimum's exports, a timestep of shape [1], a VAE
encoder that returns the moments, and an opset that rknn-toolkit2 converts.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lcmcore.bundle import COMPONENTS, require_model_dir
from lcmcore.cli.progress import Progress
from lcmcore.errors import (
    ArgumentError,
    LcmError,
    NetworkError,
    RuntimeUnavailableError,
    first_line,
)
from lcmcore.util.memory import return_freed
from lcmcore.util.validate import read_size
from runtimes.onnx.runtime import OnnxRuntime, open_mapped
from runtimes.staging import COMPANIONS, copy_each, copy_over, read_settings, staged, write_settings

if TYPE_CHECKING:
    from runtimes.onnx.checkpoint.exports import Export, LatentSize
    from runtimes.onnx.checkpoint.modules import Checkpoint
    from runtimes.onnx.checkpoint.source import Source

OPSET = 18  # rknn-toolkit2 takes up to 19
TOLERANCE = 1e-4  # difference of ONNX Runtime from torch, relative to the largest value
HALF_TOLERANCE = 1e-2  # with weights in float16

_FILENAME = "model.onnx"
_IR_VERSION = 8  # the one of opset 18; ONNX Runtime 1.17 reads up to 9
_REQUIRED_PACKAGES = ("torch", "diffusers", "transformers", "onnx", "onnxruntime", "onnxscript")
_STAMP = "lcmcore.source"
_ANY_SIZE = "free"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `lcm build onnx`."""
    parser.usage = "lcm build onnx CHECKPOINT OUT [OPTION ...]"
    parser.epilog = """examples:
  lcm build onnx CHECKPOINT MODEL
  lcm build onnx CHECKPOINT MODEL --size 512x512
  lcm info MODEL"""
    add = parser.add_argument
    layouts = "folder in diffusers' layout, or one .safetensors or .ckpt file in Stability's"
    add("checkpoint", metavar="CHECKPOINT", type=Path, help=layouts)
    add("out", metavar="OUT", type=Path, help="bundle to write")
    add("--size", metavar="WxH",
        help="fix the graphs to this width and height in pixels (default: any)")  # fmt: skip
    add("--lora", metavar="FILE[:SCALE]", action="append", default=[],
        help="merge a LoRA, an LCM-LoRA for one; may be repeated (default: none)")  # fmt: skip
    add("--vae", metavar="PATH", type=Path,
        help="another VAE: a folder, a file, or one of a pair of TAESD (default: that of the"
             " checkpoint)")  # fmt: skip
    add("--embedding", metavar="FILE", type=Path, action="append", default=[],
        help="add the words of a textual inversion; may be repeated (default: none)")  # fmt: skip
    add("--precision", choices=("float32", "float16"), default="float32",
        help="what the weights are stored in: float16 halves the disk that they take; computed in"
             " float32 (default: float32)")  # fmt: skip
    add("--config-from", metavar="DIR", type=Path,
        help="folder with the configs, tokenizer and scheduler of a single file (default: those"
             " of its generation)")  # fmt: skip
    add("--prediction-type", choices=("epsilon", "v_prediction"),
        help="what the UNet of a single file predicts (default: as the file tells)")  # fmt: skip


def run(args: argparse.Namespace) -> None:
    """Export all four networks, unless OUT has them from the same source.

    Raises RuntimeUnavailableError if the extra `build` is not installed, BundleError, NetworkError,
    ArgumentError or OutputError.
    """
    missing = [name for name in _REQUIRED_PACKAGES if find_spec(name) is None]
    if missing:
        raise RuntimeUnavailableError(
            f"not installed: {', '.join(missing)}: pip install 'lcmcore[build,onnx]'"
        )
    if not args.checkpoint.suffix and not args.checkpoint.exists():
        require_model_dir(args.checkpoint)
    from runtimes.onnx.checkpoint.source import open_source

    with Progress() as progress, tempfile.TemporaryDirectory() as stage:
        with _quiet():
            source = open_source(args, Path(stage))
        for note in source.notes:
            progress.say(note)
        checkpoint = source.checkpoint
        for component in COMPONENTS:
            progress.say(f"{component}: {_export(component, checkpoint, args)}")
            OnnxRuntime().open(component, args.out / component, {}).close()  # writes its cache
            copy_each(COMPANIONS.get(component, ()), checkpoint.root, args.out)
        _record(source, args.out)


def _record(source: Source, out: Path) -> None:
    """Write to lcm.toml what the bundle was made from, and the defaults that this brings."""
    from runtimes.onnx.checkpoint.source import LCM_DEFAULTS

    tables = read_settings(out)
    if "lora" in tables.get("source", {}) and tables.get("defaults") == LCM_DEFAULTS:
        del tables["defaults"]  # of a LoRA that may not be merged any more
    if source.defaults:
        tables["defaults"] = {**tables.get("defaults", {}), **source.defaults}
    write_settings(out, {**tables, "source": source.record})


def _export(component: str, checkpoint: Checkpoint, args: argparse.Namespace) -> str:
    """Export one network; returns what was done, for the progress line."""
    from runtimes.onnx.checkpoint.exports import CONFIG_SOURCES, load_export

    start = time.perf_counter()
    network = CONFIG_SOURCES[component]
    config = checkpoint.root / network / "config.json"
    stamp = _stamp(checkpoint, network, args)
    target = args.out / component
    if _stamp_of(target / _FILENAME) == stamp:
        return "already exported, skipped"
    with _quiet(), staged(target, last=_FILENAME) as stage:
        with _network_errors(component, "cannot be loaded"):
            export = load_export(component, checkpoint)
        sizes = _latent_sizes(export, args.size)
        with _network_errors(component, "torch cannot export it"):
            examples = [_example(export, latents) for latents in sizes]
            _write(export, examples[0][0], stage / _FILENAME, args, stamp)
        _free_weights(export.module)  # before ONNX Runtime maps its own
        difference = _largest_difference(stage / _FILENAME, examples)
        tolerance = TOLERANCE if args.precision == "float32" else HALF_TOLERANCE
        if not difference <= tolerance:
            raise NetworkError(
                component, f"ONNX Runtime differs from torch by {difference:.1e} of the largest"
                f" value, more than {tolerance:g}: report this with the versions of both",
            )  # fmt: skip
        copy_over(config, stage / "config.json", checkpoint.root)
    seconds = time.perf_counter() - start
    return f"exported in {seconds:.0f} s, {difference:.1e} of the largest value from torch"


def _free_weights(module: Any) -> None:
    """Give the memory of torch's weights back to the system; the module is of no use then.

    Deleting it would not: torch's exporter keeps a reference to each tensor that it has seen.
    """
    for tensor in (*module.parameters(), *module.buffers()):
        tensor.data = tensor.data.new_empty(0)
    return_freed()


def _latent_sizes(export: Export, size: str | None) -> list[LatentSize]:
    """(batch, height, width) of the latents to trace with, then of others to compare with."""
    unit = export.multiple
    if size is None:
        return [(1, 4 * unit, 4 * unit), (2, 3 * unit, 5 * unit)]
    side = unit * export.factor
    width, height = read_size(size)
    if not width or not height or width % side or height % side:
        raise ArgumentError(
            f"size {size}: width and height must be multiples of {side} for this model"
        )
    return [(1, height // export.factor, width // export.factor)]


def _example(export: Export, size: LatentSize) -> tuple[dict[str, Any], Any]:
    """Random inputs, and torch's output for them."""
    import torch

    inputs = export.example(size)
    with torch.no_grad():
        return inputs, export.module(*inputs.values()).numpy()


def _write(
    export: Export, inputs: dict[str, Any], path: Path, args: argparse.Namespace, stamp: str
) -> None:
    """Export to a .onnx file with the weights in one external file."""
    import torch

    from runtimes.onnx.checkpoint.half_precision import halve_weights

    axes = [{} if args.size else export.axes.get(name, {}) for name in inputs]
    program = torch.onnx.export(
        export.module,
        tuple(inputs.values()),
        input_names=list(inputs),
        output_names=[export.output],
        dynamic_shapes=axes,
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
    )
    program.model.ir_version = _IR_VERSION
    program.model.metadata_props[_STAMP] = stamp
    for node in program.model.graph:
        node.metadata_props.clear()  # it holds paths of torch's source on this machine
    if args.precision == "float16":
        halve_weights(program.model)
    program.save(str(path), external_data=True)


def _largest_difference(path: Path, examples: list[tuple[dict[str, Any], Any]]) -> float:
    """Of ONNX Runtime from torch, relative to the largest value of torch's output."""
    import onnxruntime

    session = open_mapped(onnxruntime, path)  # else it takes the weights' size once more
    differences = []
    for inputs, expected in examples:
        got = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})[0]
        differences.append(np.abs(got - expected).max() / np.abs(expected).max())
    return float(max(differences))


def _stamp(checkpoint: Checkpoint, network: str, args: argparse.Namespace) -> str:
    """A digest that differs where weights, config, size, precision, opset or what is merged do."""
    from runtimes.onnx.checkpoint.source import facts

    found = [*facts(checkpoint, network)]
    how = (args.size or _ANY_SIZE, args.precision, OPSET)
    return hashlib.sha256(repr((found, how)).encode()).hexdigest()


def _stamp_of(path: Path) -> str | None:
    """The stamp in an exported file; None without one, or without the file."""
    import onnx

    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception:  # missing or broken: it is exported again
        return None
    return next((entry.value for entry in model.metadata_props if entry.key == _STAMP), None)


@contextmanager
def _network_errors(component: str, what: str) -> Iterator[None]:
    """Turn foreign exceptions into a NetworkError."""
    try:
        yield
    except LcmError:
        raise
    except Exception as error:
        raise NetworkError(component, f"{what}: {first_line(error)}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the warnings and progress bars of torch, diffusers and transformers."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield

"""`lcm build rknn`: compiles the networks of an ONNX bundle for a Rockchip NPU, and checks them."""

from __future__ import annotations

import argparse
import hashlib
import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lcmcore.bundle import COMPONENTS, require_model_dir
from lcmcore.cli.progress import Progress
from lcmcore.errors import (
    ArgumentError,
    NetworkError,
    RuntimeUnavailableError,
    first_line,
)
from lcmcore.runtime import check_outputs, require_file
from lcmcore.util.arrays import Array
from lcmcore.util.files import sha256
from runtimes.rknn import board, shapes
from runtimes.rknn.calibration import Calibration
from runtimes.rknn.cost import predict_all, report
from runtimes.rknn.network import MASKS_OF_CORES
from runtimes.rknn.onnxfile import OnnxFile
from runtimes.rknn.prepare import DOWNSAMPLE_KEYS, REWRITES, Prepared, prepare
from runtimes.rknn.rewrites.context import Rewrite
from runtimes.rknn.runtime import RknnRuntime
from runtimes.rknn.simulator import RknnSimulator
from runtimes.rknn.toolkit import INSTALL, Toolkit, missing
from runtimes.staging import COMPANIONS, copy_each, read_settings, staged, write_settings

PLATFORMS = ("rk3562", "rk3566", "rk3568", "rk3576", "rk3588")
MIN_COSINE = 0.99  # of half precision to ONNX Runtime; below it the image is another one

_FILENAME = RknnRuntime.filename
_DESCENT = "source"  # the table of lcm.toml: what a model was made from


@dataclass(frozen=True)
class Recipe:
    """What a network was compiled from; a network with the same recipe is not built again."""

    source: str  # SHA-256 of the ONNX file with its weights
    platform: str
    size: str  # of the images, or of the tiles for which it was compiled
    toolkit: str
    dataset: str  # SHA-256 of the list of samples, "" for half precision
    cores: int  # that one run may use
    rewrites: str  # the names and revisions of those that were tried
    calibration: str  # SHA-256 of the images given, "" for those that are drawn


@dataclass(frozen=True)
class Agreement:
    """How close the simulator's output is to ONNX Runtime's, on the calibration's first inputs."""

    cosine: float
    max_difference: float
    snr: float  # of the signal to the difference, in decibels

    @classmethod
    def between(cls, got: Array, expected: Array) -> Agreement:
        """Compare two arrays of one shape."""
        a, b = got.astype(np.float64).ravel(), expected.astype(np.float64).ravel()
        norms = float(np.linalg.norm(a) * np.linalg.norm(b))
        noise = max(float(np.linalg.norm(a - b)), 1e-15 * float(np.linalg.norm(b)), 1e-300)
        snr = 20 * math.log10(max(float(np.linalg.norm(b)), 1e-300) / noise)
        return cls(float(a @ b) / norms if norms else 0.0, float(np.abs(a - b).max()), snr)

    def __str__(self) -> str:
        return (
            f"cosine {self.cosine:.7f}, largest difference {self.max_difference:.2g},"
            f" {self.snr:.1f} dB"
        )


class Target(NamedTuple):
    """What all networks of a bundle are compiled for, and how."""

    platform: str
    size: shapes.Size
    cores: int
    dataset: Path | None
    rewrites: Sequence[Rewrite]  # of all networks
    unet_rewrites: Sequence[Rewrite]  # of the UNet, after them
    calibration: Calibration

    def rewrites_of(self, component: str) -> Sequence[Rewrite]:
        """Those of one network, in their order."""
        return (*self.rewrites, *(self.unet_rewrites if component == "unet" else ()))

    def recipe(self, component: str, path: Path) -> Recipe:
        """How an ONNX file is compiled."""
        return Recipe(
            source=_fingerprint(path),
            platform=self.platform,
            size=f"{self.size[0]}x{self.size[1]}",
            toolkit=metadata.version("rknn-toolkit2"),
            dataset=sha256(self.dataset) if self.dataset else "",
            cores=self.cores,
            rewrites=" ".join(
                f"{each.name}-{each.revision}" for each in self.rewrites_of(component)
            ),
            calibration=self.calibration.digest,
        )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `lcm build rknn`."""
    parser.usage = "lcm build rknn ONNX_DIR OUT --platform SOC --size WxH [OPTION ...]"
    parser.epilog = """examples:
  lcm build rknn MODEL BOARD --platform rk3588 --size 512x512
  lcm build rknn MODEL BOARD --platform rk3588 --size 512x512 --components vae_encoder
  lcm build rknn MODEL BOARD --platform rk3588 --size 512x512 --tile vae_decoder=512x216"""
    add = parser.add_argument
    add("onnx_dir", metavar="ONNX_DIR", type=Path, help="bundle with a model.onnx for each network")
    add("out", metavar="OUT", type=Path, help="bundle to write, or to add to")
    add("--platform", required=True, choices=PLATFORMS, help="the board's SoC")
    add("--size", required=True, metavar="WxH",
        help="width and height of the images in pixels; a bundle has one size")  # fmt: skip
    add("--tile", action="append", default=[], metavar="COMPONENT=WxH",
        help="compile the VAE for tiles of a size, e.g. vae_decoder=512x216; for several components"
             " it is repeated (default: the whole image)")  # fmt: skip
    add("--components", metavar="A,B",
        help="only these networks, e.g. vae_encoder (default: all)")  # fmt: skip
    add("--quantize", type=Path, metavar="DATASET",
        help="int8 for one component: a text file with a line for each sample, the .npy files of"
             " its inputs in their order, NCHW (default: half precision)")  # fmt: skip
    add("--calibrate", type=Path, metavar="DIR",
        help="images on which activations are measured (default: drawn ones)")  # fmt: skip
    add("--cores", type=int, choices=(1, *MASKS_OF_CORES), default=1,
        help="cores of the NPU that one run of a network may use (default: 1)")  # fmt: skip
    add("--downsample-keys", action="store_true",
        help="keys and values of a quarter of the tokens, in the UNet's self-attention of the"
             " highest resolution (ToDo): much faster at 512x512, and another image"
             " (default: no)")  # fmt: skip
    add("--no-rewrites", action="store_true",
        help="compile the graphs as they are, slower and larger (default: no)")  # fmt: skip


def run(args: argparse.Namespace) -> None:
    """Build and check each network, unless OUT has it from the same recipe.

    OUT gets no network that fails. Raises RuntimeUnavailableError if rknn-toolkit2 or ONNX Runtime
    is not installed, else NetworkError, BundleError, ArgumentError or OutputError.
    """
    _require_tools()
    components = _components(args.components, args.onnx_dir)
    size = shapes.parse_size(args.size)
    tiles = shapes.parse_tiles(args.tile, args.onnx_dir, size)
    if args.quantize is not None:
        _check_dataset(args.quantize, components)
    if args.cores > board.cores(args.platform):
        raise ArgumentError(
            f"--cores {args.cores}: {args.platform} has {board.cores(args.platform)}"
        )
    targets = {
        each: Target(
            platform=args.platform,
            size=each,
            cores=args.cores,
            dataset=args.quantize,
            rewrites=() if args.no_rewrites or args.quantize is not None else REWRITES,
            unet_rewrites=(DOWNSAMPLE_KEYS,) if args.downsample_keys else (),
            calibration=Calibration(args.onnx_dir, each, args.calibrate),
        )
        for each in {size, *tiles.values()}
    }
    _inherit_settings(args.onnx_dir, args.out, whole=len(components) == len(COMPONENTS))
    names = (name for component in COMPONENTS for name in _companions(component))
    copy_each((name for name in names if not (args.out / name).exists()), args.onnx_dir, args.out)
    with Progress() as progress:
        for component in components:
            own = targets[tiles.get(component, size)]
            _build(component, args.onnx_dir, args.out, own, progress.say)


def _inherit_settings(source: Path, out: Path, whole: bool) -> None:
    """Copy the settings of the model, but not of its files, to the lcm.toml of a new bundle.

    What the model was made from goes along where all networks do; where it differs from that of the
    networks before, the defaults are those of the new model, too.
    """
    tables, before = read_settings(source), read_settings(out)
    kept = {key: tables[key] for key in tables if key not in {"runtime", *COMPONENTS}}
    descent = dict(kept.pop(_DESCENT, {}))
    after = before or kept
    if whole and descent:
        earlier = {**before.get(_DESCENT, {})}
        earlier.pop("converter", None)
        if earlier != descent:
            after = {**after, "defaults": kept.get("defaults", {})}
        descent["converter"] = f"rknn-toolkit2 {metadata.version('rknn-toolkit2')}"
        after = {**after, _DESCENT: descent}
    if after != before:
        write_settings(out, {key: value for key, value in after.items() if value != {}})


def _require_tools() -> None:
    reason = missing()
    if reason is None and find_spec("onnxruntime") is None:
        reason = f"onnxruntime is not installed, with which networks are compared: {INSTALL}"
    if reason is not None:
        raise RuntimeUnavailableError(reason)


def _components(asked: str | None, source: Path) -> list[str]:
    """The components asked for, default all; raises NetworkError if one has no ONNX file."""
    require_model_dir(source)
    names = asked.split(",") if asked else list(COMPONENTS)
    for name in names:
        if name not in COMPONENTS:
            raise ArgumentError(f"--components: {name!r} is not one of {', '.join(COMPONENTS)}")
        require_file(name, source / name, RknnSimulator.filename)
    return names


def _check_dataset(dataset: Path, components: list[str]) -> None:
    if len(components) != 1:
        raise ArgumentError("--quantize is for one network at a time: name it with --components")
    try:
        lines = dataset.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ArgumentError(f"{dataset}: cannot be read: {first_line(error)}") from error
    names = [name for line in lines for name in line.split()]
    if not names:
        raise ArgumentError(f"{dataset}: contains no samples")
    for name in names:
        if not (dataset.parent / name).is_file():
            raise ArgumentError(f"{dataset}: no file {dataset.parent / name}")


def _build(
    component: str, source: Path, out: Path, target: Target, say: Callable[[str], None]
) -> None:
    """Build and check one network, unless it is there from the same recipe."""
    start = time.perf_counter()
    file = OnnxFile.read(component, source / component / RknnSimulator.filename)
    inputs = file.shapes(shapes.input_shapes(component, source, target.size))
    recipe = target.recipe(component, file.path)
    if _is_built(out, component, recipe):
        copy_each(_companions(component), source, out)
        say(f"{component}: already built, skipped")
        return
    say(f"{component}: converting for {target.platform} at {recipe.size}")
    samples, missing_parts = target.calibration.samples(component, file.at(inputs))
    for part in missing_parts:
        say(f"{component}: measured on noise in place of {part}")
    with tempfile.TemporaryDirectory(prefix="lcm-rknn-") as scratch, Toolkit(component) as toolkit:
        prepared = prepare(file, inputs, samples, Path(scratch), target.rewrites_of(component))
        for line in prepared.lines:
            say(f"{component}: {line}")
        toolkit.build(prepared.path, inputs, target.platform, target.dataset, target.cores == 1)
        agreement = _compare(component, toolkit, file, samples[0], prepared)
        if target.dataset is None and not agreement.cosine >= MIN_COSINE:
            raise NetworkError(
                component, f"half precision is far from ONNX Runtime ({agreement}): run this"
                " network on the CPU, as model.onnx",
            )  # fmt: skip
        _drop_build_record(out, component)
        with staged(out / component, last=_FILENAME) as stage:
            toolkit.export(stage / _FILENAME)
            digest = sha256(stage / _FILENAME)
            predictions = predict_all(stage / _FILENAME)
            copy_each(_companions(component), source, out)
    notes = {"rewritten": list(prepared.lines), **prepared.record}
    _write_build_record(
        out, component, digest, {**asdict(recipe), **asdict(agreement), **notes}, target.cores
    )
    for line in report.lines(predictions, [target.platform]) if predictions else ():
        say(f"{component}: {line}")
    say(f"{component}: {agreement}, in {time.perf_counter() - start:.0f} s")


def _companions(component: str) -> tuple[str, ...]:
    """Files that belong to a network: with those of another model its images are wrong."""
    return (f"{component}/config.json", *COMPANIONS.get(component, ()))


def _fingerprint(path: Path) -> str:
    """SHA-256 over an ONNX file and its external data, in the order of the names."""
    import onnx
    from onnx.external_data_helper import ExternalDataInfo, uses_external_data

    graph = onnx.load(str(path), load_external_data=False).graph
    names = {ExternalDataInfo(t).location for t in graph.initializer if uses_external_data(t)}
    digests = [sha256(path), *(sha256(path.parent / name) for name in sorted(names))]
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def _compare(
    component: str,
    toolkit: Toolkit,
    file: OnnxFile,
    sample: Mapping[str, Array],
    prepared: Prepared,
) -> Agreement:
    """Compare the first outputs of simulator and ONNX Runtime on the same inputs."""
    got = toolkit.run([sample[spec.name] for spec in file.inputs])
    named = {spec.name: array for spec, array in zip(file.outputs, got, strict=True)}
    check_outputs(component, file.outputs, named)
    first = file.outputs[0].name
    return Agreement.between(named[first], prepared.expected[first])


def _is_built(out: Path, component: str, recipe: Recipe) -> bool:
    table = read_settings(out).get(component, {})
    path = out / component / _FILENAME
    same = all(table.get("build", {}).get(key) == value for key, value in asdict(recipe).items())
    return same and path.is_file() and sha256(path) == table.get("sha256")


def _drop_build_record(out: Path, component: str) -> None:
    """Remove the checksum of an older build first, so that it never describes another file."""
    tables = read_settings(out)
    if component in tables:
        for key in ("sha256", "build"):
            tables[component].pop(key, None)
        write_settings(out, tables)


def _write_build_record(
    out: Path, component: str, digest: str, record: Mapping[str, Any], cores: int
) -> None:
    """The checksum, how the network was built, and the cores that run it, if they are several."""
    tables: dict[str, Any] = read_settings(out)
    table = tables.setdefault(component, {})
    if cores > 1:
        table["core_mask"] = MASKS_OF_CORES[cores]
    elif table.get("core_mask") in MASKS_OF_CORES.values():
        del table["core_mask"]  # of an older build: this one has a program for one core only
    table["sha256"] = digest
    table["build"] = dict(record)
    write_settings(out, tables)

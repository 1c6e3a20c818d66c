"""Findings of `lcm doctor` on the NPU, its software, and a bundle's .rknn files."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from lcmcore.bundle import COMPONENTS
from lcmcore.errors import BundleError
from lcmcore.runtime import Finding
from lcmcore.util.files import is_file
from lcmcore.util.memory import available_bytes
from lcmcore.util.placeholder import placeholder_at
from runtimes.rknn import board, device
from runtimes.rknn.file import RknnFile

_FILENAME = "model.rknn"
_TAKES_LATENTS = frozenset({"unet", "vae_decoder"})
_NEWEST_PYTHON = (3, 12)  # for which rknn-toolkit-lite2 has wheels
# With 0.9.3 jobs could not be submitted: https://github.com/airockchip/rknn-toolkit2/issues/38
_OLDEST_DRIVER = "0.9.6"
_IOMMU_DOMAIN = 4 * 2**30  # bytes that the NPU can address at once
_REBUILD = "rebuild it with `lcm build rknn`"

HIDDEN = f"{board.DEVICE_TREE} cannot be read, by which rknn-toolkit-lite2 knows the SoC"
UNMASK = "in a container: docker run --security-opt systempaths=unconfined --device /dev/dri"


def npu_is_hidden() -> bool:
    """Whether this is a board, by its software or driver, whose device tree cannot be read."""
    return board.device_tree_is_hidden() and (_has_lite() or device.is_there())


def diagnose(root: Path | None, here: str | None) -> Iterator[Finding]:
    """Findings about the machine, `here` being its platform, and about the bundle at `root`.

    What keeps the NPU from working is an error where it is meant to: where the bundle has .rknn
    files, or rknn-toolkit-lite2 is installed. Elsewhere ONNX Runtime may do all of the work.
    """
    paths = _model_files(root)
    level = "error" if paths or _has_lite() else "warning"
    hidden = here is None and npu_is_hidden()
    if hidden:
        yield level, HIDDEN, f"{UNMASK}; on another machine: pip uninstall rknn-toolkit-lite2"
    elif here is None:
        yield "ok", "not a Rockchip board: .rknn files can be inspected here, but not run", ""
    else:
        yield "ok", f"SoC {here}", ""
    if hidden or here is not None:
        yield from _software(level)
    files: dict[str, RknnFile] = {}
    for component, path in paths.items():
        if placeholder_at(path) is not None:
            continue  # `lcm doctor` names those of every kind
        try:
            files[component] = RknnFile.read(path)
        except BundleError as error:
            yield "error", f"{component}: {error}", ""
    for component, file in files.items():
        yield from _compatibility(component, file, here)
    yield from _matching_sizes(files)
    if here is not None and files:
        yield from _library_age(files)
        yield from _memory(files)


def _model_files(root: Path | None) -> dict[str, Path]:
    """The bundle's .rknn files by component."""
    paths = {component: root / component / _FILENAME for component in COMPONENTS} if root else {}
    return {component: path for component, path in paths.items() if is_file(path)}


def _has_lite() -> bool:
    return find_spec("rknnlite") is not None


def _software(level: str) -> Iterator[Finding]:
    if _has_lite():
        yield "ok", f"rknn-toolkit-lite2 {version_of('rknn-toolkit-lite2')}", ""
    elif sys.version_info[:2] > _NEWEST_PYTHON:
        newest = ".".join(map(str, _NEWEST_PYTHON))
        yield level, "rknn-toolkit-lite2 has no wheel for this Python", f"use Python {newest}"
    else:
        remedy = "pip install 'lcmcore[rknn]'"
        yield level, "rknn-toolkit-lite2 is not installed", remedy
    fault = device.fault()
    if fault is not None:
        yield level, fault.what, fault.remedy
    driver = board.driver_version()
    if driver is not None and _version_tuple(driver) < _version_tuple(_OLDEST_DRIVER):
        found = f"driver rknpu {driver} is older than {_OLDEST_DRIVER}: runs may fail"
        yield "warning", found, "it is part of the kernel: update that, or boot a newer image"
    elif driver is not None:
        yield "ok", f"driver rknpu {driver}", ""
    elif fault is None:
        remedy = f"run as root, or read {board.DRIVER_VERSION}"
        yield "ok", "version of the NPU driver unknown", remedy
    library = board.library()
    if library is None:
        usual = board.LIBRARY_FOLDERS[0] / board.LIBRARY
        remedy = f"sudo curl -fLo {usual} {board.LIBRARY_ADDRESS}"
        yield level, f"no {board.LIBRARY} in {board.LIBRARY_FOLDERS[0]}", remedy
    else:
        yield "ok", f"{library} {board.library_version(library) or 'of unknown version'}", ""


def _compatibility(component: str, file: RknnFile, here: str | None) -> Iterator[Finding]:
    built_for = ", ".join(file.platforms)
    if not file.inputs:
        remedy = "update lcmcore, or set `size` in lcm.toml"
        yield "warning", f"{component}: file version {file.version} is not supported", remedy
    elif here is not None and not board.runs(file.platforms, here):
        yield "error", f"{component}: built for {built_for}, this board is {here}", _REBUILD
    elif file.too_old:
        yield "error", f"{component}: built by rknn-toolkit2 {file.toolkit}, too old", _REBUILD
    else:
        described = f"{component}: for {built_for}, toolkit {file.toolkit}, input {file.inputs[0]}"
        yield "ok", described, ""


def _matching_sizes(files: Mapping[str, RknnFile]) -> Iterator[Finding]:
    """Whether all networks were compiled for latents of the same size."""
    sizes = {name: _spatial_sizes(file) for name, file in files.items() if file.inputs}
    latents = {name: size[0] for name, size in sizes.items() if name in _TAKES_LATENTS}
    if "vae_encoder" in sizes:
        latents["vae_encoder"] = sizes["vae_encoder"][1]
    flat = [name for name, size in latents.items() if len(size) != 2]
    if flat:
        found = f"{', '.join(flat)}: no latents go in or out, so the files hold other networks"
        yield "error", found, _REBUILD
        return
    if len(set(latents.values())) > 1:
        listed = ", ".join(f"{name} {width}x{height}" for name, (height, width) in latents.items())
        yield (
            "error",
            f"latents have different sizes: {listed}",
            "build all for one --size",
        )
    elif len(sizes.get("vae_decoder", ((), ()))[1]) == 2:
        height, width = sizes["vae_decoder"][1]
        yield "ok", f"images of {width}x{height}", ""


def _spatial_sizes(file: RknnFile) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(height, width) of the first input with four dimensions and of the first output."""
    given = next((tensor.shape for tensor in file.inputs if len(tensor.shape) == 4), ())
    return given[2:], file.outputs[0].shape[2:]


def _library_age(files: Mapping[str, RknnFile]) -> Iterator[Finding]:
    library = board.library()
    version = board.library_version(library) if library else None
    newest = max((file.toolkit for file in files.values()), key=_version_tuple)
    if version is not None and _version_tuple(version) < _version_tuple(newest):
        yield (
            "warning",
            f"{board.LIBRARY} {version} is older than toolkit {newest}, which built the files:"
            ' it may refuse them as "Invalid RKNN model version"',
            f"update {board.LIBRARY} to {newest}",
        )


def _memory(files: Mapping[str, RknnFile]) -> Iterator[Finding]:
    """All files are in memory, and the one being opened is there twice."""
    sizes = [file.size for file in files.values()]
    needed, free = sum(sizes) + max(sizes), available_bytes()
    if free is not None and needed > free:
        text = f"the files need {needed / 2**30:.1f} GiB and {free / 2**30:.1f} GiB is free"
        yield "warning", text, "stop other programs, or build for a smaller size"
    if sum(sizes) > _IOMMU_DOMAIN:
        text = "the files exceed the 4 GiB that the NPU can address"
        yield "warning", text, "run one network on the CPU, e.g. --component-runtime"


def machine() -> dict[str, str]:
    """The SoC, and the versions on which the speed of the NPU depends, as far as they are known."""
    library = board.library()
    found = {
        "soc": board.platform(),
        "driver": board.driver_version(),
        "librknnrt": library and board.library_version(library),
        "rknn-toolkit-lite2": version_of("rknn-toolkit-lite2") if _has_lite() else None,
    }
    return {name: value for name, value in found.items() if value}


def version_of(package: str) -> str:
    """A package's version, for a finding."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "of unknown version"


def _version_tuple(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)[:3]))

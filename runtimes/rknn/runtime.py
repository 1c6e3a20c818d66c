"""Opens model.rknn on a Rockchip board; rknn-toolkit-lite2 is imported only then."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lcmcore.errors import ArgumentError, BundleError, NetworkError, first_line
from lcmcore.runtime import (
    Finding,
    Network,
    Runtime,
    TensorSpec,
    list_specs,
    require_available,
    require_file,
)
from runtimes.rknn import board, diagnosis, signature
from runtimes.rknn.cost import Prediction, predict_all, report
from runtimes.rknn.file import OLDEST_TOOLKIT, RknnFile
from runtimes.rknn.network import CORE_MASKS, MASKS_OF_CORES, RknnNetwork

log = logging.getLogger("lcmcore.runtimes.rknn")


class RknnRuntime(Runtime):
    """Networks on the NPU.

    Options: `core_mask`, one of "auto", "0", "1", "2", "0_1" and "0_1_2"; for a file whose metadata
    cannot be read, also `inputs`, their names in the device's order; `layout`, "nhwc" or "nchw";
    `size`, e.g. "512x384".
    """

    name = "rknn"
    filename = "model.rknn"
    priority = 10
    options = frozenset({"core_mask", *signature.OPTIONS})

    def available(self) -> str | None:
        """None on a Rockchip board with rknn-toolkit-lite2, else the reason and the remedy."""
        if board.platform() is None:
            if diagnosis.npu_is_hidden():
                return f"this is not a Rockchip board, or {diagnosis.HIDDEN}: {diagnosis.UNMASK}"
            return "this machine is not a Rockchip board with an NPU: use the runtime onnx here"
        if find_spec("rknnlite") is None:
            return "rknn-toolkit-lite2 is not installed: pip install 'lcmcore[rknn]'"
        return None

    def variants(self) -> Iterator[Mapping[str, Any]]:
        """What may run a network: one core, all of them together, or an instance on each."""
        cores = board.cores(board.platform())
        if cores == 1:
            yield {}
            return
        yield {"core_mask": "0"}
        yield {"core_mask": MASKS_OF_CORES[cores]}
        yield {"instances": cores}

    def worker_options(self, index: int, count: int) -> dict[str, Any]:
        """One NPU core for each worker, in turn; no option if the NPU has one core."""
        cores = board.cores(board.platform())
        return {"core_mask": str(index % cores)} if cores > 1 else {}

    def open(self, component: str, folder: Path, options: Mapping[str, Any]) -> Network:
        """The network of folder/model.rknn.

        Raises NetworkError, ArgumentError, or RuntimeUnavailableError if this is not a board.
        """
        require_available(self)
        core_mask = _core_mask(options)
        file = self._read(component, folder)
        _require_fit(component, file)
        layout = signature.signature(component, file, folder, options)
        network = RknnNetwork(component, file.path, layout, core_mask, _lite_class(component))
        log.info("%s: %s on %s, core mask %s", component, file.path, board.platform(), core_mask)
        return network

    def inputs(
        self, component: str, folder: Path, options: Mapping[str, Any]
    ) -> Sequence[TensorSpec]:
        """The network's inputs, read from its file; raises NetworkError."""
        file = self._read(component, folder)
        return signature.signature(component, file, folder, options).inputs

    def _read(self, component: str, folder: Path) -> RknnFile:
        try:
            return RknnFile.read(require_file(component, folder, self.filename))
        except BundleError as error:
            raise NetworkError(component, str(error)) from error

    def describe(self, path: Path) -> Iterator[str]:
        """Lines about a model.rknn, for `lcm info`, on any machine; raises BundleError."""
        file = RknnFile.read(path)
        if not file.inputs:
            yield f"file version {file.version} is not supported"
            return
        yield f"built for {', '.join(file.platforms)} by rknn-toolkit2 {file.toolkit}"
        yield from list_specs(file.inputs, file.outputs)
        yield from report.lines(_predictions(file), file.platforms)

    def predict(self, path: Path) -> Mapping[str, Any] | None:
        """Seconds on one core, with what they were computed from; raises BundleError."""
        predictions = _predictions(RknnFile.read(path))
        return report.figures(predictions) if 1 in predictions else None

    def cost(self, path: Path) -> Iterator[str]:
        """A line for each layer, for `lcm info --cost`, on any machine; raises BundleError."""
        predictions = _predictions(RknnFile.read(path))
        if 1 in predictions:
            yield from report.table(predictions[1])

    def machine(self) -> Mapping[str, str]:
        """The SoC, and the versions of driver, library and Python package, for reports."""
        return diagnosis.machine()

    def diagnose(self, root: Path) -> Iterator[Finding]:
        """(level, finding, remedy) about this machine and the bundle, for `lcm doctor`."""
        return diagnosis.diagnose(root, board.platform())


def _predictions(file: RknnFile) -> dict[int, Prediction]:
    """By the number of cores; none for a program of another form, or a file that has gone since."""
    try:
        return predict_all(file.path)
    except OSError:
        return {}


def _core_mask(options: Mapping[str, Any]) -> str:
    core_mask = str(options.get("core_mask", "auto"))
    if core_mask not in CORE_MASKS:
        raise ArgumentError(f"core_mask must be one of {', '.join(CORE_MASKS)}, not {core_mask!r}")
    return core_mask


def _require_fit(component: str, file: RknnFile) -> None:
    here = board.platform()
    if file.platforms and here is not None and not board.runs(file.platforms, here):
        raise NetworkError(
            component,
            f"{file.path} was built for {', '.join(file.platforms)} and this board is {here}:"
            f" rebuild it with `lcm build rknn --platform {here}`",
        )
    if file.too_old:
        oldest = ".".join(map(str, OLDEST_TOOLKIT))
        raise NetworkError(
            component,
            f"{file.path} was built by rknn-toolkit2 {file.toolkit}, whose half-precision"
            f" arithmetic is wrong: rebuild it with {oldest} or newer",
        )


def _lite_class(component: str) -> Callable[[], Any]:
    try:
        from rknnlite.api import RKNNLite
    except Exception as error:  # a broken wheel may raise anything
        raise NetworkError(
            component, f"rknn-toolkit-lite2 cannot be imported: {first_line(error)}"
        ) from error
    return RKNNLite  # type: ignore[no-any-return]

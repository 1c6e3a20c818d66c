"""Runs model.onnx in rknn-toolkit2's simulator of the NPU's half precision, on a host."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lcmcore.errors import LcmError, NetworkError
from lcmcore.runtime import Finding, Network, Runtime, TensorSpec, require_available, require_file
from lcmcore.util.arrays import Array
from runtimes.rknn import diagnosis, shapes, toolkit
from runtimes.rknn.onnxfile import OnnxFile

DEFAULT_PLATFORM = "rk3588"
log = logging.getLogger("lcmcore.runtimes.rknn")


class RknnSimulator(Runtime):
    """Converts each network when it is opened, for the simulator cannot load a .rknn file.

    Options: `size`, e.g. "512x384", default the model's native size; `platform`, default "rk3588".
    It is slow, and runtime "auto" never chooses it.
    """

    name = "rknn-sim"
    filename = "model.onnx"
    priority = -1
    options = frozenset({"size", "platform"})

    def available(self) -> str | None:
        """None if rknn-toolkit2 is installed, else the reason and the remedy."""
        return toolkit.missing()

    def variants(self) -> Iterator[Mapping[str, Any]]:
        """None: what the simulator takes says nothing of the NPU."""
        yield from ()

    def open(self, component: str, folder: Path, options: Mapping[str, Any]) -> Network:
        """Convert folder/model.onnx; raises NetworkError or RuntimeUnavailableError."""
        from runtimes.rknn.calibration import Calibration  # every command imports this file

        require_available(self)
        file = OnnxFile.read(component, require_file(component, folder, self.filename))
        try:
            asked = options.get("size")
            size = shapes.parse_size(asked) if asked else shapes.native_size(folder.parent)
            usual = shapes.input_shapes(component, folder.parent, size)
        except LcmError as error:
            raise NetworkError(component, str(error)) from error
        platform = str(options.get("platform", DEFAULT_PLATFORM))
        calibration = Calibration(folder.parent, size)
        samples, _ = calibration.samples(component, file.at(file.shapes(usual)))
        network = SimulatedNetwork(file, file.shapes(usual), samples, platform)
        log.info("%s: %s in the simulator of %s, size %dx%d", component, file.path, platform, *size)
        return network

    def diagnose(self, root: Path) -> Iterator[Finding]:
        """(level, finding, remedy) for `lcm doctor`."""
        if self.available() is None:
            yield "ok", f"rknn-toolkit2 {diagnosis.version_of('rknn-toolkit2')}", ""


class SimulatedNetwork(Network):
    """A network that is built for the NPU and run in the simulator, in a process of its own."""

    def __init__(
        self,
        file: OnnxFile,
        at: Mapping[str, shapes.Shape],
        samples: Sequence[Mapping[str, Array]],
        platform: str,
    ) -> None:
        from runtimes.rknn.prepare import prepare  # every command imports this file

        self.inputs: Sequence[TensorSpec] = file.at(at)
        self.outputs: Sequence[TensorSpec] = file.outputs
        self._toolkit = toolkit.Toolkit(file.component)
        try:
            with tempfile.TemporaryDirectory(prefix="lcm-rknn-") as folder:
                prepared = prepare(file, at, samples, Path(folder))
                for line in prepared.lines:
                    log.info("%s: %s", file.component, line)
                self._toolkit.build(prepared.path, at, platform)
        except BaseException:
            self.close()
            raise

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """All outputs, float32 NCHW; raises NetworkError."""
        arrays = [inputs[spec.name].astype(spec.dtype, copy=False) for spec in self.inputs]
        names = [spec.name for spec in self.outputs]
        results = self._toolkit.run(arrays)
        return {
            name: np.asarray(array, np.float32) for name, array in zip(names, results, strict=True)
        }

    def close(self) -> None:
        """Stop the process."""
        self._toolkit.close()

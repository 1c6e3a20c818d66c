"""One network on the NPU, through RKNNLite of rknn-toolkit-lite2, with the checks that it lacks.

RKNNLite hardly ever raises: it returns -1 or None and writes the reason to a log, replaces the
elements of the list of inputs, does not check shapes, and returns a list of arrays even if the run
failed. So all inputs and outputs are checked here.
"""

from __future__ import annotations

import gc
import hashlib
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lcmcore.errors import NetworkError, first_line
from lcmcore.runtime import Network, check_inputs, check_outputs
from lcmcore.util.arrays import Array
from runtimes.rknn import device
from runtimes.rknn.signature import Signature
from runtimes.rknn.vendorlog import silence, vendor_log

CORE_MASKS: Mapping[str, int] = {
    "auto": 0,
    "0": 1,
    "1": 2,
    "2": 4,
    "0_1": 3,
    "0_1_2": 7,
}
MASKS_OF_CORES: Mapping[int, str] = {2: "0_1", 3: "0_1_2"}  # for one network on several cores
_RUNS_BETWEEN_COLLECTIONS = 8  # RKNNLite leaves reference cycles of some 40 kB per run


class RknnNetwork(Network):
    """A .rknn file loaded into the NPU; `make_lite` is the class RKNNLite or a test double."""

    def __init__(
        self,
        component: str,
        path: Path,
        signature: Signature,
        core_mask: str,
        make_lite: Callable[[], Any],
    ) -> None:
        self._component = component
        self._signature = signature
        self.inputs = signature.inputs  # in the device's order
        self.outputs = signature.outputs
        self._lock = threading.Lock()
        self._runs = 0
        self._run_code = 0
        self._last = b"", b""  # digests of the inputs and outputs of the last run
        self._log = vendor_log()
        self._lite = self._call("RKNNLite()", make_lite)
        silence()
        try:
            self._require_zero("load_rknn", self._lite.load_rknn, str(path))
            self._require_zero(
                "init_runtime", self._lite.init_runtime, core_mask=CORE_MASKS[core_mask]
            )
            self._watch_runs()
        except BaseException:
            self.close()
            raise
        if hasattr(self._lite, "rknn_data"):
            self._lite.rknn_data = None  # the whole file, which the driver has copied

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """All outputs, float32 NCHW; raises NetworkError, also for failures that RKNNLite hides."""
        check_inputs(self._component, self.inputs, inputs)
        arrays = self._signature.positional(inputs)
        with self._lock:
            if self._lite is None:
                raise NetworkError(self._component, "the network is closed")
            outputs = self._checked(self._infer(arrays))
            given, got = _digest(arrays), _digest(outputs.values())
            if given != self._last[0] and got == self._last[1]:
                outputs = self._rerun(arrays, got)
                got = _digest(outputs.values())
            self._last = given, got
        return outputs

    def _infer(self, arrays: list[Array]) -> Any:
        results = self._call(
            "inference",
            self._lite.inference,
            inputs=list(arrays),
            data_format=self._signature.layout,
        )
        self._runs += 1
        if self._runs % _RUNS_BETWEEN_COLLECTIONS == 0:
            gc.collect()
        return results

    def _rerun(self, arrays: list[Array], stale: bytes) -> dict[str, Array]:
        """The outputs for `arrays`, which were those of the last run, of other inputs.

        Equal outputs can be right, e.g. where inputs differ by less than half precision resolves.
        So very different inputs are run in between: if the outputs stay what they were, now or
        after it, then runs fail silently. Raises NetworkError.
        """
        results = self._infer([_unlike(array) for array in arrays]) or ()
        between = _digest(np.asarray(array, np.float32) for array in results)
        outputs = self._checked(self._infer(arrays))
        if between in (stale, _digest(outputs.values())):
            raise NetworkError(
                self._component,
                "the outputs are those of the last run, which had other inputs: runs fail"
                " silently; see dmesg, restart, or use another runtime",
            )
        return outputs

    def close(self) -> None:
        """Release the NPU's memory."""
        with self._lock:
            lite, self._lite = self._lite, None
            if lite is not None:
                self._call("release", lite.release)

    def _checked(self, results: Any) -> dict[str, Array]:
        if results is None:
            raise self._failure("inference failed")
        if self._run_code != 0:
            raise NetworkError(
                self._component, f"rknn_run failed with code {self._run_code}: see dmesg"
            )
        if len(results) != len(self.outputs):
            raise self._failure(
                f"inference returned {len(results)} outputs instead of {len(self.outputs)}"
            )
        outputs = {
            spec.name: np.asarray(array, dtype=np.float32)
            for spec, array in zip(self.outputs, results, strict=True)
        }
        check_outputs(self._component, self.outputs, outputs)
        for name, array in outputs.items():
            if array.size > 1 and array.min() == array.max():
                raise NetworkError(
                    self._component,
                    f"output {name} is {array.flat[0]:g} throughout: the run failed silently, or"
                    " half precision overflowed; see dmesg, or use another runtime",
                )
        return outputs

    def _watch_runs(self) -> None:
        """Record rknn_run's code: `inference` ignores it and returns the previous run's results."""
        runtime = getattr(self._lite, "rknn_runtime", None)  # not part of the documented API
        if runtime is None or not hasattr(runtime, "run"):
            return
        run = runtime.run

        def watched(*args: Any, **keywords: Any) -> Any:
            result = run(*args, **keywords)
            self._run_code = result[0] if isinstance(result, tuple) else result
            return result

        runtime.run = watched

    def _require_zero(self, what: str, function: Callable[..., Any], *args: Any, **kw: Any) -> None:
        code = self._call(what, function, *args, **kw)
        if code != 0:
            raise self._failure(f"{what} returned {code}")

    def _call(self, what: str, function: Callable[..., Any], *args: Any, **keywords: Any) -> Any:
        self._log.clear()
        try:
            return function(*args, **keywords)
        except Exception as error:
            raise NetworkError(
                self._component, f"rknn-toolkit-lite2's {what} raised {first_line(error)}"
            ) from error

    def _failure(self, what: str) -> NetworkError:
        reason = self._log.reason()
        return NetworkError(
            self._component, f"rknn-toolkit-lite2's {what}: {reason}{device.hint(reason)}"
        )


def _digest(arrays: Iterable[Array]) -> bytes:
    """Of the bytes of arrays; at 512x512 it takes milliseconds, beside seconds for a run."""
    digest = hashlib.blake2b(digest_size=16)
    for array in arrays:
        digest.update(array.tobytes())
    return digest.digest()


def _unlike(array: Array) -> Array:
    """Zeros, or ones in the place of zeros."""
    return np.full_like(array, 0 if array.any() else 1)

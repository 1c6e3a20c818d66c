"""rknn-toolkit2's class RKNN, as far as it is called: its arithmetic is ONNX Runtime's.

Each call becomes a line of JSON in the file that RKNN_CALLS names. RKNN_FAIL="build=-1" makes a
call return that, "inference=None" or "raise=build" too; RKNN_NOISE is added to every output.
"""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch  # which the true one imports, too, but does not need for ONNX files
from torch.nn import Module

assert torch.__name__ == "torch"


@torch.no_grad()  # a decorator of a module that is not there
def decorated() -> str:
    """What its name says."""
    return "decorated"


class Layer(Module):
    """A class of a package that is not there; it takes any arguments."""

    def __init__(self) -> None:
        super().__init__(1, key=2)


class RKNN:
    """One network."""

    def __init__(self) -> None:
        assert decorated() == "decorated"
        Layer()
        self._session: Any = None
        self._inputs: list[str] = []
        self._note("RKNN", tqdm=os.environ.get("TQDM_DISABLE"))

    def config(self, **keywords: Any) -> int:
        """Takes anything."""
        return self._note("config", **keywords)

    def load_onnx(self, model: str, inputs: list[str], input_size_list: list[list[int]]) -> int:
        """Takes an ONNX file."""
        self._session, self._inputs = onnxruntime.InferenceSession(model), inputs
        level = logging.getLogger("rknnLogger").level
        name = Path(model).name
        return self._note("load_onnx", name=name, inputs=inputs, sizes=input_size_list, log=level)

    def build(self, **keywords: Any) -> int:
        """Builds nothing."""
        return self._note("build", **keywords)

    def export_rknn(self, path: str) -> int:
        """Writes the inputs' names."""
        Path(path).write_text(f"compiled {self._inputs}")
        return self._note("export_rknn", name=Path(path).name)

    def init_runtime(self) -> int:
        """The simulator."""
        return self._note("init_runtime")

    def inference(self, inputs: list[Any], data_format: str) -> Any:
        """Runs the file in ONNX Runtime."""
        dtypes = [array.dtype.name for array in inputs]
        if self._note("inference", data_format=data_format, dtypes=dtypes) is None:
            return None
        given = {node.name: node for node in self._session.get_inputs()}
        feed = dict(zip(self._inputs, inputs, strict=True))
        assert given.keys() == feed.keys()
        noise = np.float32(os.environ.get("RKNN_NOISE", "0"))
        return [output + noise for output in self._session.run(None, feed)]

    def _note(self, call: str, **keywords: Any) -> Any:
        with Path(os.environ["RKNN_CALLS"]).open("a") as file:
            file.write(json.dumps([call, keywords]) + "\n")
        name, _, code = os.environ.get("RKNN_FAIL", "").partition("=")
        if name == "raise" and code == call:
            raise RuntimeError if call == "export_rknn" else RuntimeError("no such operator")
        return 0 if name != call else None if code == "None" else int(code)

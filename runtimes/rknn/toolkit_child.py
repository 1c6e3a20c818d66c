"""The process in which rknn-toolkit2 runs: `python -m runtimes.rknn.toolkit_child FD`.

It serves the requests of runtimes.rknn.toolkit.Toolkit until the pipe FD is closed.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import logging
import os
import signal
import sys
import types
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any

# Of 2.5.0's rules one crashes on the sine and cosine of the UNet's time embedding, and one makes
# transpositions of the computed weights of group norms, whose paths another searches for minutes.
_DISABLED_RULES = ["fuse_slice_slice_concat_to_conv", "convert_reshape_to_transpose"]


class _AbsentTorch(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Makes `import torch` succeed: rknn-toolkit2 imports it, but not for ONNX files."""

    def find_spec(
        self, fullname: str, path: Any = None, target: Any = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname.partition(".")[0] != "torch":
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return _EmptyModule(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        pass


class _EmptyModule(types.ModuleType):
    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Nothing


class _Nothing:
    """Stands for a class to derive from, a function to call, or a decorator to apply."""

    def __init__(self, *args: Any, **keywords: Any) -> None:
        pass

    def __call__(self, decorated: Any = None, *args: Any, **keywords: Any) -> Any:
        return decorated


class RefusedError(Exception):
    """A call of rknn-toolkit2 returned a failure."""


class Converter:
    """rknn-toolkit2's class RKNN, with its return codes checked."""

    def __init__(self) -> None:
        from rknn.api import RKNN

        self._rknn = RKNN()
        self._started = False
        logging.getLogger("rknnLogger").setLevel(logging.ERROR)

    def build(
        self,
        model: str,
        shapes: Mapping[str, Sequence[int]],
        platform: str,
        dataset: str | None,
        single_core: bool,
    ) -> None:
        """Convert an ONNX file and make it ready to run in the simulator."""
        rknn = self._rknn
        code = rknn.config(
            target_platform=platform,
            disable_rules=_DISABLED_RULES,
            single_core_mode=single_core,
        )
        _check("config", code)
        sizes = [list(shape) for shape in shapes.values()]
        _check("load_onnx", rknn.load_onnx(model, inputs=list(shapes), input_size_list=sizes))
        _check("build", rknn.build(do_quantization=dataset is not None, dataset=dataset))

    def export(self, path: str) -> None:
        """Write a .rknn file."""
        _check("export_rknn", self._rknn.export_rknn(path))

    def run(self, arrays: list[Any]) -> list[Any]:
        """Run the simulator, which the first call starts."""
        if not self._started:
            _check("init_runtime", self._rknn.init_runtime())
            self._started = True
        outputs = self._rknn.inference(inputs=arrays, data_format="nchw")
        if outputs is None:
            raise RefusedError("inference returned nothing")
        return list(outputs)


def _check(call: str, code: int) -> None:
    if code != 0:
        raise RefusedError(f"{call} returned {code}")


def main() -> None:
    """Answer (verb, arguments) with ("done", result), ("refused", reason) or ("raised", reason)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    os.environ["TQDM_DISABLE"] = "1"
    sys.meta_path.insert(0, _AbsentTorch())
    converter: Converter | None = None
    with Connection(int(sys.argv[1])) as pipe:
        while True:
            try:
                verb, arguments = pipe.recv()
            except EOFError:
                return
            try:
                converter = converter or Converter()
                pipe.send(("done", getattr(converter, verb)(*arguments)))
            except RefusedError as error:
                pipe.send(("refused", str(error)))
            except Exception as error:
                pipe.send(("raised", str(error) or type(error).__name__))


if __name__ == "__main__":
    main()

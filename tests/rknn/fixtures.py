"""Small .rknn files of the true converter, for tests on hosts that have none.

`python -m tests.rknn.fixtures` in the converter's environment makes them again from tests/tiny/lcm
at 48x32 for rk3588. Of the body only the beginning is kept, which is all that a reader looks at;
the rest is zeros, for no test here runs the compiled program. The files group_norm and, for another
platform, group_norm_rk3566 are whole: their programs are read (`group_norm` makes their network).
"""

from __future__ import annotations

import gzip
import tempfile
from pathlib import Path
from typing import Any

SIZE = "48x32"
TINY = Path(__file__).parents[1] / "tiny" / "lcm"
DATA = Path(__file__).parent / "data"
COMPONENTS = ("text_encoder", "unet", "vae_encoder", "vae_decoder")

_BODY = 64
_KEPT = 1 << 14


def read(component: str) -> bytes:
    """A component's .rknn file."""
    return gzip.decompress((DATA / f"{component}.rknn.gz").read_bytes())


def write_bundle(root: Path) -> None:
    """Write the .rknn files where a bundle has them."""
    for component in COMPONENTS:
        (root / component).mkdir(parents=True, exist_ok=True)
        (root / component / "model.rknn").write_bytes(read(component))


def without_program(data: bytes) -> bytes:
    """A .rknn file with zeros for all of the body but its beginning."""
    end = _BODY + int.from_bytes(data[16:24], "little")
    kept = min(_BODY + _KEPT, end)
    return data[:kept] + bytes(end - kept) + data[end:]


def group_norm() -> Any:
    """A convolution and a group norm: 32 channels of 8x8, in 8 groups, as torch exports them."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(0)
    constants = {
        "weight": random.standard_normal((32, 32, 3, 3), np.float32) / 16,
        "bias": random.standard_normal(32, np.float32),
        "ones": np.ones(8, np.float32),
        "zeros": np.zeros(8, np.float32),
        "groups": np.array([0, 8, -1]),
        "shape": np.array([1, 32, 8, 8]),
        "gamma": random.standard_normal((1, 32, 1, 1), np.float32),
        "beta": random.standard_normal((1, 32, 1, 1), np.float32),
    }
    node, value = helper.make_node, helper.make_tensor_value_info
    nodes = [
        node("Conv", ["x", "weight", "bias"], ["conv"], name="conv", pads=[1] * 4),
        node("Reshape", ["conv", "groups"], ["grouped"], name="split"),
        node("InstanceNormalization", ["grouped", "ones", "zeros"], ["normed"], name="norm"),
        node("Reshape", ["normed", "shape"], ["joined"], name="join"),
        node("Mul", ["joined", "gamma"], ["scaled"], name="scale"),
        node("Add", ["scaled", "beta"], ["y"], name="shift"),
    ]
    graph = helper.make_graph(
        nodes,
        "group_norm",
        [value("x", TensorProto.FLOAT, [1, 32, 8, 8])],
        [value("y", TensorProto.FLOAT, [1, 32, 8, 8])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def make() -> None:
    """Build the files with rknn-toolkit2."""
    import onnx

    from lcmcore.cli.main import main
    from runtimes.rknn.toolkit import Toolkit

    for name, platform in (("group_norm", "rk3588"), ("group_norm_rk3566", "rk3566")):
        with tempfile.TemporaryDirectory() as folder, Toolkit(name) as toolkit:
            model, compiled = (Path(folder) / each for each in ("norm.onnx", "norm.rknn"))
            onnx.save_model(group_norm(), model)
            toolkit.build(model, {"x": (1, 32, 8, 8)}, platform)
            toolkit.export(compiled)
            packed = gzip.compress(compiled.read_bytes(), mtime=0)
            (DATA / f"{name}.rknn.gz").write_bytes(packed)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "bundle"
        words = ["build", "rknn", str(TINY), str(out), "--platform", "rk3588", "--size", SIZE]
        if main(words):
            raise SystemExit(1)
        for component in COMPONENTS:
            data = without_program((out / component / "model.rknn").read_bytes())
            packed = gzip.compress(data, mtime=0)
            (DATA / f"{component}.rknn.gz").write_bytes(packed)


if __name__ == "__main__":
    make()

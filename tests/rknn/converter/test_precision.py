"""A bundle with weights in float16, in the converter and its simulator, beside that of float32.

The weights are stored as `lcm build onnx --precision float16` does, by the same function; the
tests' networks are small, and so smaller weights count as large.
"""

from __future__ import annotations

import shutil
from contextlib import closing
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from lcmcore.bundle import COMPONENTS, Settings
from lcmcore.util.arrays import Array
from runtimes.onnx.checkpoint import half_precision
from runtimes.rknn import RknnSimulator, shapes
from runtimes.rknn.build import Agreement
from runtimes.rknn.file import RknnFile
from tests.rknn.converter.test_build import build
from tests.rknn.fixtures import SIZE, TINY

MIN_SNR = 50.0  # decibels; the NPU's half precision by itself is 48 to 60 from float32


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny bundle, its weights in float16."""
    root = Path(shutil.copytree(TINY, tmp_path_factory.mktemp("half") / "bundle"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(half_precision, "_MIN_ELEMENTS", 32)
        for component in COMPONENTS:
            model = ir.load(root / component / "model.onnx")
            half_precision.halve_weights(model)
            ir.save(model, root / component / "model.onnx", external_data="model.onnx.data")
    return root


def inputs(component: str) -> dict[str, Array]:
    random = np.random.default_rng(0)
    wanted = shapes.input_shapes(component, TINY, shapes.parse_size(SIZE))
    found = {name: random.standard_normal(at, np.float32) for name, at in wanted.items()}
    whole = {"input_ids": random.integers(0, 500, (1, 77)), "timestep": np.array([499])}
    return {name: whole.get(name, array) for name, array in found.items()}


def simulated(root: Path, component: str) -> Array:
    with closing(RknnSimulator().open(component, root / component, {"size": SIZE})) as network:
        return next(iter(network.run(inputs(component)).values()))


@pytest.mark.parametrize("component", COMPONENTS)
def test_the_simulator_computes_the_same(half: Path, component: str) -> None:
    model = ir.load(half / component / "model.onnx")
    kinds = [value.const_value.dtype for value in model.graph.initializers.values()]
    assert kinds.count(ir.DataType.FLOAT16) >= len(kinds) // 4
    agreement = Agreement.between(simulated(half, component), simulated(TINY, component))
    print(component, kinds.count(ir.DataType.FLOAT16), len(kinds), agreement)
    assert agreement.snr >= MIN_SNR


def test_it_is_built_as_before(half: Path, tmp_path: Path) -> None:
    """Files of the same size with the same inputs and outputs, as close to ONNX Runtime."""
    build(half, tmp_path / "half")
    build(TINY, tmp_path / "float")
    tables = [Settings.read(tmp_path / each / "lcm.toml").components for each in ("half", "float")]
    for component in COMPONENTS:
        files = [tmp_path / each / component / "model.rknn" for each in ("half", "float")]
        read = [RknnFile.read(path) for path in files]
        assert read[0].inputs == read[1].inputs and read[0].outputs == read[1].outputs
        sizes = [path.stat().st_size for path in files]
        snr = [table[component]["build"]["snr"] for table in tables]
        print(component, sizes, snr)
        assert sizes[0] == pytest.approx(sizes[1], rel=0.01)
        assert snr[0] >= snr[1] - 3

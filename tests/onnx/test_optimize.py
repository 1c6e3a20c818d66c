"""All rewrites between ONNX Runtime's passes: a whole network, optimized."""

import onnxruntime
import pytest

from runtimes.onnx.optimize import _save, optimize
from tests.onnx.rewrites.graphs import assert_same_network, op_types
from tests.parity.bundles import TINY


@pytest.mark.slow
def test_a_whole_network(tmp_path):
    """Optimized, the whole network has nothing left to replace, and returns the same."""
    source = TINY / "lcm" / "unet" / "model.onnx"
    (tmp_path / "entry").mkdir()
    optimize(source, tmp_path / "entry", onnxruntime)
    path = tmp_path / "entry" / "model.onnx"
    assert not {"Softmax", "Resize", "Upsample"} & {*op_types(path)}
    assert_same_network(path, source)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["entry"]


@pytest.mark.host  # minutes of arithmetic under emulation
@pytest.mark.slow
@pytest.mark.parametrize(
    ("free", "level"),
    [(0, "ORT_ENABLE_EXTENDED"), (2**40, "ORT_ENABLE_ALL"), (None, "ORT_ENABLE_ALL")],
)
def test_weights_are_reordered_if_memory_holds_them(free, level, tmp_path, monkeypatch):
    """With less memory than the weights take, reordering them brought the OOM killer."""
    levels = []

    def watched(ort, source, target, level, external):
        levels.append(level)
        _save(ort, source, target, level, external)

    monkeypatch.setattr("runtimes.onnx.optimize._save", watched)
    monkeypatch.setattr("runtimes.onnx.optimize.available_bytes", lambda: free)
    source = TINY / "lcm" / "vae_decoder" / "model.onnx"
    (tmp_path / "entry").mkdir()
    optimize(source, tmp_path / "entry", onnxruntime)
    assert levels[-1] == getattr(onnxruntime.GraphOptimizationLevel, level)
    assert_same_network(tmp_path / "entry" / "model.onnx", source)

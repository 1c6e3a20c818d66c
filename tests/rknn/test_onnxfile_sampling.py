"""What the converter gets of an ONNX file; it is not needed for these tests."""

import numpy as np
import onnx
import onnxruntime
import pytest

from lcmcore.errors import NetworkError
from runtimes.rknn.onnxfile import OnnxFile
from tests.onnx.test_sampling import CHUNK, CLIPPED, FORMS, HALF, OTHERS, PIXELS, SAMPLE, encoder


@pytest.mark.parametrize(
    "saving", [{}, {"save_as_external_data": True, "size_threshold": 0, "location": "weights"}]
)
def test_an_encoder_that_draws_is_converted_without(saving, tmp_path):
    nodes = [*CHUNK, *CLIPPED, *SAMPLE]
    folder = encoder(tmp_path / "drawing", nodes, **saving)
    file = OnnxFile.read("vae_encoder", folder / "model.onnx")
    (spec,) = file.outputs
    assert (spec.name, spec.dtype) == ("moments", "float32")
    assert file.shapes({"sample": (1, 3, 32, 48)}) == {"sample": (1, 3, 32, 48)}
    (tmp_path / "scratch").mkdir()
    converted = file.fold(tmp_path / "scratch", {"sample": PIXELS.shape})
    assert converted.parent == tmp_path / "scratch"
    onnx.checker.check_model(onnx.load(converted))
    plain = encoder(tmp_path / "plain", [], "moments") / "model.onnx"
    got, expected = (
        onnxruntime.InferenceSession(str(path)).run(None, {"sample": PIXELS})[0]
        for path in (converted, plain)
    )
    np.testing.assert_array_equal(got, expected)


def test_half_precision_keeps_its_type(tmp_path):
    folder = encoder(tmp_path, FORMS["square root"], kind=HALF)
    assert OnnxFile.read("vae_encoder", folder / "model.onnx").outputs[0].dtype == "float16"


def test_a_draw_of_another_form_is_refused(tmp_path):
    folder = encoder(tmp_path, OTHERS["scaled"])
    with pytest.raises(NetworkError, match=r"^vae_encoder: .*model\.onnx draws noise .*RandomNorm"):
        OnnxFile.read("vae_encoder", folder / "model.onnx")


def test_a_file_that_is_no_model(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"\xff" * 40)
    with pytest.raises(NetworkError, match=r"^vae_encoder: cannot read .*model\.onnx"):
        OnnxFile.read("vae_encoder", tmp_path / "model.onnx")

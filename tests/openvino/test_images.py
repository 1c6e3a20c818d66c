"""Images of networks on OpenVINO in float32 against the goldens of diffusers.

Golden: tests/goldens/demo.py and pipelines.py, again with `make goldens`.
"""

import numpy as np
import openvino
import pytest
from PIL import Image

import lcmcore
from lcmcore.cli.main import main
from tests.parity import variants
from tests.parity.bundles import assemble
from tests.parity.cases import TOLERANCE, distance, draw
from tests.parity.goldens import DATA, load_json

CASES = load_json("demo/cases.json")
MAX_SHARE_OFF = 0.001  # as of ONNX Runtime, tests/parity/test_demo.py
IMAGE, TEXT = "rescale batch", "text batch"


@pytest.fixture(scope="module")
def pipe():
    with lcmcore.load(lcmcore.demo_dir(), runtime="openvino") as opened:
        yield opened


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_same_image_as_diffusers(pipe, name):
    image, call = CASES[name]
    init = DATA / "demo" / f"{image}.png" if image else None
    (drawn,) = pipe(image=init, **call).images
    golden = Image.open(DATA / "demo" / f"{name}.png")
    off = np.abs(np.asarray(drawn, np.int64) - np.asarray(golden, np.int64))
    assert off.max() <= 1
    assert (off > 0).mean() <= MAX_SHARE_OFF


def to_ir(bundle):
    """In OpenVINO's own format, as optimum's exporter for it leaves a model."""
    for path in bundle.glob("*/model.onnx"):
        model = openvino.Core().read_model(path)
        openvino.save_model(model, path.with_name("openvino_model.xml"), compress_to_fp16=False)
        path.unlink()


FORMS = [*variants.EXACT, to_ir]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_forms_that_exporters_write(form, tmp_path):
    bundle = assemble("lcm", tmp_path / "bundle")
    form(bundle)
    with lcmcore.load(bundle, runtime="openvino", threads=1) as pipe:
        for name in (IMAGE, TEXT):
            assert distance(draw(pipe, name), name) < TOLERANCE


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_forms_that_are_compiled_for_one_size(form, tmp_path):
    """What is free in them is fixed, a timestep of any rank, too; other sizes go by tiles."""
    bundle = assemble("lcm", tmp_path / "bundle")
    form(bundle)
    with lcmcore.load(bundle, runtime="openvino", threads=1, size="32x32") as pipe:
        assert distance(draw(pipe, IMAGE), IMAGE) < TOLERANCE
        for component in ("unet", "vae_encoder", "vae_decoder"):
            assert pipe.networks.is_compiled(component)
        assert pipe("a lake", seed=1, width=48, height=32).images[0].size == (48, 32)


@pytest.mark.parametrize("form", [[], [to_ir]], ids=["onnx", "ir"])
def test_fixed_size_runs_a_batch_one_by_one(form, tmp_path):
    bundle = assemble("lcm", tmp_path / "bundle")
    variants.fixed_size(bundle)
    for change in form:
        change(bundle)
    with lcmcore.load(bundle, runtime="openvino", threads=1) as pipe:
        assert distance(draw(pipe, IMAGE), IMAGE) < TOLERANCE
        assert draw(pipe, TEXT).shape[1:3] != (32, 32)  # by tiles


@pytest.mark.parametrize("form", [[], [to_ir]], ids=["onnx", "ir"])
def test_half_precision_at_the_boundary(form, tmp_path):
    bundle = assemble("lcm", tmp_path / "bundle")
    variants.half_precision(bundle)
    for change in form:
        change(bundle)
    with lcmcore.load(bundle, runtime="openvino", threads=1) as pipe:
        assert TOLERANCE < distance(draw(pipe, IMAGE), IMAGE) < 0.05


def test_the_command_compares_where_only_openvino_has_files(tmp_path, capsys):
    bundle = assemble("lcm", tmp_path / "bundle")
    to_ir(bundle)
    words = ["bench", "--compare", f"--model={bundle}", "--rounds=1", "--size=64x64"]
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split() for line in lines if line.startswith(lcmcore.bundle.COMPONENTS)]
    assert [row[-1] for row in rows if "precision=float32" in row] == ["equal"] * 4

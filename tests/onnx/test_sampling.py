"""VAE encoders that draw inside their graph, as older exporters write them, are cut before it."""

import copy
import logging
import os
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import lcmcore
from lcmcore.cli.info import describe
from runtimes.onnx import OnnxRuntime, graph_cache, sampling
from tests.onnx.test_runtime import tensor
from tests.parity.bundles import TINY

pytestmark = pytest.mark.host  # the same on every processor, and hundreds of tests

FLOAT, HALF, BOOL = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BOOL
PIXELS = np.random.default_rng(0).uniform(-1, 1, (1, 3, 32, 48)).astype(np.float32)
NOT_REPRODUCED = "seeds do not reproduce images"


def node(op_type, inputs, outputs, **attributes):
    return helper.make_node(op_type, inputs.split(), outputs.split(), **attributes)


def constants(**arrays):
    return [numpy_helper.from_array(np.array(array), name) for name, array in arrays.items()]


# What diffusers' DiagonalGaussianDistribution.sample becomes, by exporters of different age.

SAMPLE = [
    node("Exp", "half_logvar", "std"),
    node("RandomNormalLike", "mean", "noise"),
    node("Mul", "std noise", "scaled"),
    node("Add", "mean scaled", "latent_sample"),
]
HALVED = [node("Mul", "logvar half", "half_logvar")]
CLIPPED = [
    node("Clip", "logvar low high", "clipped"),
    node("Mul", "half clipped", "half_logvar"),
]
SPLIT = [node("Split", "moments", "mean logvar", axis=1)]
SIZED_SPLIT = [node("Split", "moments four_four", "mean logvar", axis=-3)]
# torch.onnx's prim::ConstantChunk: the channels are read from the shape, where it is not known.
CHUNK = [
    node("Shape", "moments", "shape"),
    node("Gather", "shape one", "channels", axis=0),
    node("Add", "channels one", "channels_1"),
    node("Div", "channels_1 two", "chunk"),
    node("Mul", "chunk one", "middle"),
    node("Slice", "moments zero middle one", "mean"),
    node("Mul", "chunk two", "end"),
    node("Slice", "moments middle end one", "logvar"),
]
SLICES = [
    node("Slice", "moments zero four one", "mean"),
    node("Slice", "moments four most one", "logvar"),
]
NUMBERS = constants(
    zero=[0], one=[1], two=[2], four=[4], most=[2**63 - 1], four_four=[4, 4],
    half=np.float32(0.5), low=np.float32(-30), high=np.float32(20), scale=np.float32(0.18215),
    tenth=np.float32(0.1), narrow=np.float32(-20), yes=[True],
)  # fmt: skip
TYPED = {"half", "low", "high", "scale", "tenth", "narrow"}


def replaced(nodes, **by_output):
    """The nodes, but for those whose first output is a key, and those that follow."""
    return [new for each in nodes for new in by_output.get(each.output[0], [each])]


def encoder(folder, nodes, output="latent_sample", opset=17, kind=FLOAT, fixed=False, **saving):
    """A VAE encoder of one convolution, and the nodes after it; all that they take is there."""
    random = np.random.default_rng(1)
    weight = random.normal(0, 2, (8, 3, 8, 8)).astype(np.float32)
    weight[4:] *= 0.2  # log-variances that show
    weights = [numpy_helper.from_array(weight.astype(_numpy(kind)), "weight")]
    taken = {name for each in nodes for name in each.input}
    for number in NUMBERS:
        if number.name in taken:
            array = numpy_helper.to_array(number)
            array = array.astype(_numpy(kind)) if number.name in TYPED else array
            weights.append(numpy_helper.from_array(array, number.name))
    size = (1, 4, 6) if fixed else ("b", "h", "w")
    pixels = [1, 3, 32, 48] if fixed else ["b", 3, "height", "width"]
    graph = helper.make_graph(
        [node("Conv", "sample weight", "moments", strides=[8, 8]), *nodes],
        "encoder",
        [tensor("sample", kind, pixels)],
        [tensor(output, kind, [size[0], 8 if output == "moments" else 4, *size[1:]])],
        weights,
    )
    folder.mkdir(parents=True, exist_ok=True)
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", opset)])
    onnx.save_model(model, folder / "model.onnx", **saving)
    return folder


def _numpy(kind):
    return np.float16 if kind == HALF else np.float32


def moments_of(folder, **options):
    """What the runtime makes of the encoder."""
    network = OnnxRuntime().open("vae_encoder", folder, options)
    (output,) = network.outputs
    return network.run({"sample": PIXELS})[output.name]


@pytest.fixture
def expected(tmp_path):
    """The moments by ONNX Runtime alone, of the graph that ends there."""
    folder = encoder(tmp_path / "expected", [], "moments")
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
    return session.run(None, {"sample": PIXELS})[0]


@pytest.fixture(autouse=True)
def warn_anew(caplog):
    caplog.set_level(logging.WARNING)  # tests of Rockchip's package silence pytest's handler
    sampling._warn_once.cache_clear()


FORMS = {
    "split": [*SPLIT, *HALVED, *SAMPLE],
    "split in two fours": [*SIZED_SPLIT, *CLIPPED, *SAMPLE],
    "chunk": [*CHUNK, *CLIPPED, *SAMPLE],
    "slices": [*SLICES, *CLIPPED, *SAMPLE],
    "noise first": [
        *SPLIT,
        *HALVED,
        *replaced(SAMPLE, scaled=[node("Mul", "noise std", "scaled")]),
    ],
    "noise of a computed shape": [
        *SPLIT,
        *CLIPPED,
        node("Shape", "sample", "pixels"),  # not of the moments, but noise is noise
        node("Shape", "mean", "dims"),
        node("ConstantOfShape", "dims", "zeros"),
        *replaced(SAMPLE, noise=[node("RandomNormalLike", "zeros", "noise", dtype=FLOAT)]),
    ],
    "noise that the operator seeds": [
        *SPLIT,
        *HALVED,
        *replaced(SAMPLE, noise=[node("RandomNormalLike", "mean", "noise", seed=7.0)]),
    ],
    "square root": [
        *SPLIT,
        node("Exp", "logvar", "variance"),
        node("Sqrt", "variance", "std"),
        *SAMPLE[1:],
    ],
    "division": [*SPLIT, node("Cast", "two", "two_", to=FLOAT),
                 node("Div", "logvar two_", "half_logvar"), *SAMPLE],
    "named once more": [
        node("Identity", "moments", "again"),
        node("Split", "again", "mean logvar", axis=1),
        *HALVED,
        *replaced(SAMPLE, latent_sample=[
            node("Add", "scaled mean", "sum"), node("Identity", "sum", "latent_sample")
        ]),
    ],
}  # fmt: skip


@pytest.mark.parametrize("nodes", FORMS.values(), ids=FORMS)
def test_the_moments_become_the_output(nodes, tmp_path, expected, caplog):
    folder = encoder(tmp_path, nodes)
    np.testing.assert_array_equal(moments_of(folder), expected)
    assert not caplog.records
    (line,) = [line for line in OnnxRuntime().describe(folder / "model.onnx") if "draws" in line]
    assert line == (
        "draws noise inside the graph (RandomNormalLike): cut before it, so that seeds reproduce"
        " images"
    )


@pytest.mark.parametrize("opset", [11, 13, 18, 20])
def test_opsets(opset, tmp_path, expected):
    """Split took its sizes as an attribute below 13; from 18 on it wants a number of outputs."""
    form = {11: SPLIT, 13: SPLIT, 18: SIZED_SPLIT, 20: SIZED_SPLIT}[opset]
    folder = encoder(tmp_path, [*form, *CLIPPED, *SAMPLE], opset=opset)
    np.testing.assert_array_equal(moments_of(folder), expected)


def test_a_fixed_size(tmp_path, expected):
    """RandomNormal, to which torch.randn of a known shape is exported."""
    drawn = node("RandomNormal", "", "noise", shape=[1, 4, 4, 6])
    folder = encoder(tmp_path, [*SPLIT, *CLIPPED, *replaced(SAMPLE, noise=[drawn])], fixed=True)
    np.testing.assert_array_equal(moments_of(folder), expected)


def test_half_precision(tmp_path, expected):
    folder = encoder(tmp_path, [*SPLIT, *CLIPPED, *SAMPLE], kind=HALF)
    np.testing.assert_allclose(moments_of(folder), expected, atol=0.2)


def test_half_precision_that_samples_in_single(tmp_path, expected):
    """And has no constant from which the moments' type could be known."""
    nodes = [
        node("Cast", "moments", "wide", to=FLOAT),
        node("Split", "wide", "mean logvar", axis=1),
        *FORMS["square root"][1:-1],
        node("Add", "mean scaled", "sum"),
        node("Cast", "sum", "latent_sample", to=HALF),
    ]
    folder = encoder(tmp_path, nodes, kind=HALF)
    np.testing.assert_allclose(moments_of(folder), expected, atol=0.2)


def test_half_precision_without_typed_constants(tmp_path, expected):
    folder = encoder(tmp_path, FORMS["square root"], kind=HALF)
    np.testing.assert_allclose(moments_of(folder), expected, atol=0.2)


@pytest.mark.parametrize("threshold", [0, 1024])
def test_weights_beside_the_file(threshold, tmp_path, expected, monkeypatch):
    folder = encoder(
        tmp_path / "model", [*CHUNK, *CLIPPED, *SAMPLE], save_as_external_data=True,
        location="weights.bin", size_threshold=threshold,
    )  # fmt: skip
    monkeypatch.chdir(tmp_path)
    np.testing.assert_array_equal(moments_of(folder), expected)
    assert sorted(path.name for path in folder.iterdir()) == ["model.onnx", "weights.bin"]


PLACES = [
    {"location": "../weights"},
    {"location": "/etc/passwd"},
    {"location": "pipe"},
    {"location": "nowhere"},
    {"length": str(10**30)},
    {"length": "-1"},
    {"offset": "-1"},
    {"offset": str(10**30)},
    {"offset": "x"},
    {"length": str(2**31)},  # of a sparse file: more than a model can hold
]


@pytest.mark.parametrize("place", PLACES, ids=str)
def test_weights_that_cannot_be_taken_into_the_model(place, tmp_path, caplog):
    """Nothing is read, or waited for; ONNX Runtime gets the file as it is."""
    nodes = [*CHUNK, *CLIPPED, *SAMPLE]
    outside = {"save_as_external_data": True, "location": "weights", "size_threshold": 1024}
    folder = encoder(tmp_path, nodes, **outside)
    path = folder / "model.onnx"
    os.mkfifo(folder / "pipe")
    assert isinstance(sampling.prepared(path, onnxruntime), bytes)
    with (folder / "weights").open("r+b") as file:
        file.truncate(2**33)
    model = onnx.load(path, load_external_data=False)
    (weight,) = (each for each in model.graph.initializer if each.name == "weight")
    for entry in weight.external_data:
        entry.value = place.get(entry.key, entry.value)
    onnx.save(model, path)
    assert sampling.prepared(path, onnxruntime) == path
    assert NOT_REPRODUCED in caplog.text


def test_the_optimized_graph_is_cut_too(tmp_path, expected, caplog, monkeypatch):
    monkeypatch.setattr(graph_cache, "MIN_BYTES", 0)
    monkeypatch.setenv("LCM_CACHE", str(tmp_path / "cache"))
    folder = encoder(tmp_path / "model", [*CHUNK, *CLIPPED, *SAMPLE])
    for _ in range(2):  # the first writes the cache
        np.testing.assert_allclose(moments_of(folder), expected, atol=1e-4)
    (cached,) = (tmp_path / "cache").rglob("model.onnx")
    assert sampling.random_operators(cached) == []
    assert not caplog.records


# What is not a sample as diffusers draws it, or not known to be one.

OTHERS = {
    "scaled": [*SPLIT, *HALVED, *replaced(SAMPLE, latent_sample=[
        node("Add", "mean scaled", "sum"), node("Mul", "sum scale", "latent_sample")])],
    "other noise": [*SPLIT, *HALVED, *replaced(SAMPLE, noise=[
        node("RandomUniformLike", "mean", "noise")])],
    "more noise": [*SPLIT, *HALVED, *replaced(SAMPLE, noise=[
        node("RandomNormalLike", "mean", "noise", scale=2.0)])],
    "noise about 1": [*SPLIT, *HALVED, *replaced(SAMPLE, noise=[
        node("RandomNormalLike", "mean", "noise", mean=1.0)])],
    "two draws": [*SPLIT, *HALVED, *replaced(SAMPLE, latent_sample=[
        node("RandomNormalLike", "mean", "more"), node("Add", "mean more", "sum"),
        node("Add", "sum scaled", "latent_sample")])],
    "noise of another width": [*SPLIT, *HALVED, *replaced(SAMPLE, noise=[
        node("RandomNormal", "", "noise", shape=[1, 1, 4, 6])])],
    "log-variance first": [node("Split", "moments", "logvar mean", axis=1), *HALVED, *SAMPLE],
    "deviations, not log-variances": [*SPLIT, *SAMPLE[1:2], node("Mul", "logvar noise", "scaled"),
                                      SAMPLE[3]],
    "clipped closer": [*SPLIT, node("Clip", "logvar narrow high", "clipped"), CLIPPED[1], *SAMPLE],
    "a little more": [*SPLIT, *HALVED, *replaced(SAMPLE, latent_sample=[
        node("Add", "mean scaled", "sum"), node("Add", "sum tenth", "latent_sample")])],
    "drawn before the network": [node("RandomNormalLike", "moments", "noise"),
                                 node("Add", "moments noise", "noised"),
                                 node("Split", "noised", "latent_sample logvar", axis=1)],
    "pixels beside the moments": [*SPLIT, *HALVED, *replaced(SAMPLE, latent_sample=[
        node("ReduceMean", "sample", "brightness", keepdims=1),
        node("Mul", "brightness tenth", "offset"),
        node("Add", "mean offset", "moved"), node("Add", "moved scaled", "latent_sample")])],
}  # fmt: skip


@pytest.mark.parametrize("nodes", OTHERS.values(), ids=OTHERS)
def test_a_draw_of_another_form_is_warned_of(nodes, tmp_path, caplog):
    folder = encoder(tmp_path, nodes)
    operators = sampling.random_operators(folder / "model.onnx")
    assert len(operators) == 1
    for _ in range(2):
        assert moments_of(folder).shape == (1, 4, 4, 6)
    (record,) = caplog.records  # once, however often it is opened
    assert record.levelno == logging.WARNING
    assert record.name.startswith("lcmcore")
    told = f"draws noise inside the graph ({operators[0]}): {NOT_REPRODUCED}; export it again"
    assert record.getMessage().startswith(f"{folder / 'model.onnx'}: {told}")
    (line,) = [line for line in OnnxRuntime().describe(folder / "model.onnx") if "draws" in line]
    assert line.startswith(told)


def test_an_optimized_graph_that_draws_is_warned_of(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(graph_cache, "MIN_BYTES", 0)
    monkeypatch.setenv("LCM_CACHE", str(tmp_path / "cache"))
    folder = encoder(tmp_path / "model", OTHERS["scaled"])
    for _ in range(2):
        sampling._warn_once.cache_clear()
        moments_of(folder)
    assert [*(tmp_path / "cache").rglob("model.onnx")]
    assert [NOT_REPRODUCED in record.getMessage() for record in caplog.records] == [True, True]


@pytest.mark.parametrize("between", [[], [node("Identity", "moments", "same")]])
def test_outputs_that_are_not_drawn_are_kept(between, tmp_path, expected, caplog):
    """An encoder that returns a sample and the moments: the core takes the latter."""
    nodes = [
        *SPLIT,
        *HALVED,
        *OTHERS["scaled"][2:],
        node("Identity", "moments", "latent_parameters"),
    ]
    folder = encoder(tmp_path, nodes)
    model = onnx.load(folder / "model.onnx")
    model.graph.output.append(tensor("latent_parameters", FLOAT, ["b", 8, "h", "w"]))
    onnx.save(model, folder / "model.onnx")
    np.testing.assert_array_equal(moments_of(folder), expected)
    assert not caplog.records


# What draws.


def branch(*nodes):
    return helper.make_graph(nodes, "branch", [], [tensor(nodes[-1].output[0], FLOAT, None)])


def test_draws_in_branches_and_functions_are_found(tmp_path):
    drawn = branch(node("RandomNormalLike", "mean", "drawn"))
    plain = branch(node("Mul", "mean tenth", "plain"))
    inner = node("If", "yes", "noise", then_branch=drawn, else_branch=plain)
    folder = encoder(tmp_path, [*SPLIT, *HALVED, *replaced(SAMPLE, noise=[inner])])
    assert sampling.random_operators(folder / "model.onnx") == ["RandomNormalLike"]

    folder = encoder(tmp_path, [*SPLIT, *HALVED, *replaced(SAMPLE, noise=[
        helper.make_node("noisy", ["mean"], ["noise"], domain="own")])])  # fmt: skip
    model = onnx.load(folder / "model.onnx")
    opsets = [helper.make_opsetid("", 17)]
    body = [node("Bernoulli", "x", "y")]
    model.functions.append(helper.make_function("own", "noisy", ["x"], ["y"], body, opsets))
    model.opset_import.append(helper.make_opsetid("own", 1))
    onnx.save(model, folder / "model.onnx")
    assert sampling.random_operators(folder / "model.onnx") == ["Bernoulli"]


@pytest.mark.parametrize(
    ("op_type", "attributes"),
    [
        ("RandomNormal", {"shape": [1]}),
        ("RandomUniform", {"shape": [1]}),
        ("RandomNormalLike", {}),
        ("RandomUniformLike", {}),
        ("Multinomial", {}),
        ("Bernoulli", {}),
    ],
)
def test_operators_that_draw(op_type, attributes, tmp_path):
    nodes = [node(op_type, "" if "shape" in attributes else "moments", "drawn", **attributes)]
    folder = encoder(tmp_path, [*nodes, *SPLIT], "logvar")
    assert sampling.random_operators(folder / "model.onnx") == [op_type]


def test_names_that_sound_like_a_draw(tmp_path):
    """Tensors are named after the operators that made them."""
    nodes = [
        node("Identity", "moments", "/RandomNormalLike_output_0"),
        node("Split", "/RandomNormalLike_output_0", "mean latent_sample", axis=1),
    ]
    assert sampling.random_operators(encoder(tmp_path, nodes) / "model.onnx") == []


def training(value):
    return node("Constant", "", "training", value=numpy_helper.from_array(np.array(value), "t"))


@pytest.mark.parametrize(
    ("nodes", "draws"),
    [
        ([node("Dropout", "moments", "kept")], False),
        ([node("Dropout", "moments half", "kept")], False),
        ([training(False), node("Dropout", "moments half training", "kept")], False),
        ([training(True), node("Dropout", "moments half training", "kept")], True),
        ([node("Dropout", "moments half yes", "kept")], True),
        ([node("Not", "yes", "no"), node("Dropout", "moments half no", "kept")], True),  # may
        (
            [
                training(True),
                node(
                    "If", "yes", "kept",
                    then_branch=branch(node("Dropout", "moments half training", "dropped")),
                    else_branch=branch(node("Identity", "moments", "same")),
                ),
            ],
            True,
        ),
    ],
)  # fmt: skip
def test_dropout_draws_where_it_is_told_to(nodes, draws, tmp_path):
    folder = encoder(tmp_path, [*nodes, node("Split", "kept", "mean latent_sample", axis=1)])
    assert sampling.random_operators(folder / "model.onnx") == ["Dropout"] * draws


@pytest.mark.parametrize("stored", ["raw", "typed"])
@pytest.mark.parametrize("value", [False, True])
def test_dropout_with_an_initializer(stored, value, tmp_path):
    nodes = [node("Dropout", "moments half mode", "kept")]
    folder = encoder(tmp_path, [*nodes, node("Split", "kept", "mean latent_sample", axis=1)])
    model = onnx.load(folder / "model.onnx")
    mode = helper.make_tensor("mode", BOOL, [], [value])
    if stored == "raw":
        mode = numpy_helper.from_array(np.array(value), "mode")
    model.graph.initializer.append(mode)
    onnx.save(model, folder / "model.onnx")
    assert sampling.random_operators(folder / "model.onnx") == ["Dropout"] * value


def test_files_that_are_no_models(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ValueError, match="not"):
        sampling.random_operators(tmp_path / "model.onnx")
    assert sampling.prepared(tmp_path / "model.onnx", onnxruntime) == tmp_path / "model.onnx"
    assert [*sampling.state(tmp_path / "model.onnx", onnxruntime)] == []


# The tiny model: its encoder was exported by torch, with the moments as output (tests/goldens).


@pytest.fixture
def drawing(tmp_path):
    """The tiny bundle, its encoder with the sample drawn inside the graph."""
    root = Path(shutil.copytree(TINY / "lcm", tmp_path / "drawing"))
    path = root / "vae_encoder" / "model.onnx"
    model = onnx.load(path)
    moved = copy.deepcopy([*CHUNK, *CLIPPED, *SAMPLE])
    for each in moved:
        for index, name in enumerate(each.input):
            if name == "moments":
                each.input[index] = "latent_parameters"
    model.graph.node.extend(moved)
    taken = {name for each in moved for name in each.input}
    model.graph.initializer.extend(number for number in NUMBERS if number.name in taken)
    model.graph.output[0].CopyFrom(tensor("latent_sample", FLOAT, ["b", 4, "h", "w"]))
    onnx.save(model, path)
    return root


@pytest.mark.parametrize("mode", ["mean", "sample"])
def test_seeds_reproduce_images(mode, drawing, photo):
    def made(root):
        with lcmcore.load(root) as pipe:
            return pipe(
                "a lake", photo, seed=7, width=64, height=64, latent_sampling=mode, output_type="np"
            ).images

    np.testing.assert_array_equal(made(drawing), made(TINY / "lcm"))
    np.testing.assert_array_equal(made(drawing), made(drawing))


def test_info_says_so(drawing):
    lines = [line.strip() for line in describe(drawing)]
    assert sum(line.startswith("draws noise inside the graph") for line in lines) == 1
    encoder_lines = lines[lines.index("model.onnx", lines.index("model.onnx") + 1) :]
    assert "output latent_parameters [?, 8, ?, ?] float32" in encoder_lines

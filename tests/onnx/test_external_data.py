"""Where a model's weights may lie: the same as what ONNX Runtime 1.32 opens, and no more."""

import os
import shutil
import socket
import time

import numpy as np
import onnx
import onnxruntime
import pytest
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper, numpy_helper

from lcmcore import NetworkError
from lcmcore.cli.info import describe
from runtimes.onnx import OnnxRuntime, graph_cache
from runtimes.onnx.model_files import external_files, faults
from runtimes.onnx.protobuf import AttributeProto, GraphProto, ModelProto, NodeProto

pytestmark = pytest.mark.host  # the same on every processor, and hundreds of tests

WEIGHTS = np.arange(768, dtype=np.float32)
NEWEST = tuple(map(int, onnxruntime.__version__.split(".")[:2])) >= (1, 32)


def outside(location, name="w", **other):
    """A tensor of 768 numbers in another file."""
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[768])
    tensor.data_location = TensorProto.EXTERNAL
    places = {"location": location, "offset": 0, "length": WEIGHTS.nbytes, **other}
    for key, value in places.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def save(folder, nodes, initializers=()):
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [768]) for name in "xy"]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], initializers)
    folder.mkdir(parents=True, exist_ok=True)
    opset = helper.make_opsetid("", 17)
    model = helper.make_model(graph, ir_version=8, opset_imports=[opset])
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return folder / "model.onnx"


def write(folder, location="data"):
    """y = x + weights, which the file names."""
    return save(folder, [helper.make_node("Add", ["x", "w"], ["y"])], [outside(location)])


def put(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(WEIGHTS.tobytes())


def link(path, target):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


def hub(root, weights="../../../blobs/weights"):
    """The layout of Hugging Face's cache."""
    folder = root / "snapshots" / "revision" / "unet"
    write(root, "data").rename(root / "graph")
    (root / "blobs").mkdir()
    (root / "graph").rename(root / "blobs" / "graph")
    put(root / "blobs" / "weights")
    link(folder / "model.onnx", "../../../blobs/graph")
    link(folder / "data", weights)
    return folder


def opens(path):
    """Whether ONNX Runtime opens a model."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception:  # they share no base class
        return False
    return True


def plain(root):
    put(root / "unet" / "data")


def below(root):
    write(root / "unet", "sub/data")
    put(root / "unet" / "sub" / "data")


def dotted(root):
    write(root / "unet", "./data")
    put(root / "unet" / "data")


def around(root):
    write(root / "unet", "sub/../data")
    put(root / "unet" / "data")
    (root / "unet" / "sub").mkdir()


def linked_within(root):
    put(root / "unet" / "real")
    link(root / "unet" / "data", "real")


def hard_linked(root):
    put(root / "real")
    os.link(root / "real", root / "unet" / "data")


def above(root):
    write(root / "unet", "../data")
    put(root / "data")


def absolute(root):
    write(root / "unet", str(root / "unet" / "data"))
    put(root / "unet" / "data")


def linked_above(root):
    put(root / "real")
    link(root / "unet" / "data", "../real")


def linked_absolutely(root):
    put(root / "real")
    link(root / "unet" / "data", root / "real")


def linked_folder(root):
    write(root / "unet", "sub/data")
    put(root / "real" / "data")
    link(root / "unet" / "sub", "../real")


def beside_the_folder(root):
    """Whose name begins as the model's folder does."""
    put(root / "unet2" / "data")
    link(root / "unet" / "data", "../unet2/data")


def around_nothing(root):
    write(root / "unet", "sub/../data")
    put(root / "unet" / "data")


def a_folder(root):
    (root / "unet" / "data").mkdir()


def missing(root):
    pass


def a_fifo(root):
    os.mkfifo(root / "unet" / "data")


def a_device(root):
    link(root / "unet" / "data", "/dev/zero")


def named_device(root):
    write(root / "unet", "/dev/zero")


def a_loop(root):
    link(root / "unet" / "data", "data")


ALLOWED = [plain, below, dotted, around, linked_within, hard_linked]
REFUSED = [
    *(above, absolute, linked_above, linked_absolutely, linked_folder, beside_the_folder),
    *(around_nothing, a_folder, missing, a_fifo, a_device, named_device, a_loop),
]


@pytest.mark.parametrize("place", ALLOWED)
def test_what_onnx_runtime_opens_is_opened(place, tmp_path):
    path = write(tmp_path / "unet")
    place(tmp_path)
    assert opens(path)
    assert [file.samefile(path) for file in external_files(path)] == [True, False]
    network = OnnxRuntime().open("unet", path.parent, {})
    np.testing.assert_array_equal(network.run({"x": WEIGHTS})["y"], 2 * WEIGHTS)


@pytest.mark.parametrize("place", REFUSED)
def test_what_onnx_runtime_refuses_is_refused_by_all_releases(place, tmp_path):
    """Within a second: older releases wait for a FIFO."""
    path = write(tmp_path / "unet")
    place(tmp_path)
    if NEWEST:
        assert not opens(path)
    start = time.monotonic()
    with pytest.raises(NetworkError, match=r"cannot open .*(data|/dev/zero)"):
        OnnxRuntime().open("unet", path.parent, {})
    assert time.monotonic() - start < 5


def test_the_layout_of_hugging_face(tmp_path):
    folder = hub(tmp_path)
    assert opens(folder / "model.onnx")
    assert external_files(folder / "model.onnx") == [folder / "model.onnx", folder / "data"]


def test_a_blob_elsewhere(tmp_path):
    put(tmp_path / "secret")
    folder = hub(tmp_path / "hub", "../../../../secret")
    with pytest.raises(ValueError, match="outside of its folder"):
        external_files(folder / "model.onnx")


def test_a_blob_is_allowed_only_beside_the_blob_of_the_graph(tmp_path):
    folder = hub(tmp_path)
    graph = (folder / "model.onnx").read_bytes()
    (folder / "model.onnx").unlink()
    (folder / "model.onnx").write_bytes(graph)
    with pytest.raises(ValueError, match="outside of its folder"):
        external_files(folder / "model.onnx")


def constant(tensor):
    return helper.make_node("Constant", [], ["w"], value=tensor)


def branch(tensor):
    output = helper.make_tensor_value_info("inner", TensorProto.FLOAT, [768])
    node = helper.make_node("Identity", ["w"], ["inner"])
    graph = helper.make_graph([node], "branch", [], [output], [tensor])
    return helper.make_node("If", ["x"], ["w"], then_branch=graph, else_branch=graph)


def sparse(tensor):
    value = onnx.SparseTensorProto(values=tensor, dims=[768])
    return helper.make_node("Constant", [], ["w"], sparse_value=value)


@pytest.mark.parametrize("hide", [constant, branch, sparse])
def test_weights_are_found_wherever_a_tensor_can_be(hide, tmp_path):
    add = helper.make_node("Add", ["x", "w"], ["y"])
    path = save(tmp_path / "unet", [hide(outside("../data")), add])
    put(tmp_path / "data")
    with pytest.raises(ValueError, match=r"outside of its folder, in '\.\./data'"):
        external_files(path)


def test_weights_of_sparse_initializers_and_functions_are_found(tmp_path):
    add = helper.make_node("Add", ["x", "w"], ["y"])
    path = save(tmp_path, [add])
    model = onnx.load(path)
    indices = outside("indices")
    model.graph.sparse_initializer.append(
        onnx.SparseTensorProto(values=outside("values"), indices=indices, dims=[768])
    )
    model.functions.append(onnx.FunctionProto(name="f", node=[constant(outside("inside"))]))
    path.write_bytes(model.SerializeToString())
    for name in ("indices", "values", "inside"):
        put(tmp_path / name)
    names = [file.name for file in external_files(path)]
    assert names == ["model.onnx", "indices", "inside", "values"]


def test_a_tensor_that_has_its_data_reads_no_file(tmp_path):
    """As ONNX Runtime sees it, which asks data_location."""
    tensor = outside("nowhere")
    tensor.data_location = TensorProto.DEFAULT
    tensor.raw_data = WEIGHTS.tobytes()
    path = save(tmp_path, [helper.make_node("Add", ["x", "w"], ["y"])], [tensor])
    assert opens(path)
    assert external_files(path) == [path]
    tensor.data_location = TensorProto.EXTERNAL
    path = save(tmp_path, [helper.make_node("Add", ["x", "w"], ["y"])], [tensor])
    with pytest.raises(FileNotFoundError):
        external_files(path)


def field(number, content):
    return bytes([number << 3 | 2, len(content)]) + content  # of less than 128 bytes


def location(*values):
    return field(13, field(1, b"location") + b"".join(field(2, value) for value in values))


W = b"\x08\x10" + b"\x10\x01" + field(8, b"w")  # 16 floats
EXTERNAL = b"\x70\x01"


def two_values():
    return field(5, W + location(b"inside", b"../outside") + EXTERNAL)


def two_keys():
    entry = field(1, b"other") + field(1, b"location") + field(2, b"../outside")
    return field(5, W + location(b"inside") + field(13, entry) + EXTERNAL)


def two_halves():
    """A constant's tensor twice: protobuf merges them, and only both together are external."""
    halves = W + location(b"../outside") + field(9, bytes(64)), EXTERNAL
    value = field(1, b"value") + b"".join(field(5, half) for half in halves) + b"\xa0\x01\x04"
    node = field(2, b"w") + field(4, b"Constant") + b"\x2a\xff\x01" + value
    node = node.replace(b"\xff\x01", bytes([len(value) & 127 | 128, len(value) >> 7]))
    return b"\x0a" + bytes([len(node) & 127 | 128, len(node) >> 7]) + node


def long_tag():
    """Field 2**29 + 13, whose highest bit protobuf's C++ drops."""
    place = b"\xea\x80\x80\x80\x10" + location(b"../outside")[1:]
    return field(5, W + place + EXTERNAL)


@pytest.mark.parametrize("hide", [two_values, two_keys, two_halves, long_tag])
def test_a_name_that_only_protobuf_sees_is_not_opened(hide, tmp_path):
    """Found with ONNX Runtime 1.22, which read all four, and drew what was in the file."""
    path = save(tmp_path / "unet", [helper.make_node("Add", ["x", "w"], ["y"])])
    (tmp_path / "unet" / "inside").write_bytes(bytes(64))
    (tmp_path / "outside").write_bytes(np.arange(16, dtype=np.float32).tobytes())
    model = onnx.load(path)
    model.ClearField("graph")
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [16]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", [x], [y])
    content, more = graph.SerializeToString(), hide()
    graph = more + content if more.startswith(b"\x0a") else content + more
    size = bytes([len(graph) & 127 | 128, len(graph) >> 7])
    path.write_bytes(model.SerializeToString() + b"\x3a" + size + graph)
    if NEWEST:  # which refuses this name, so it does see it
        with pytest.raises(Exception, match=r"escapes model directory|duplicate 'location'"):
            onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    with pytest.raises(ValueError, match=r"outside of its folder|merge|not a protobuf message"):
        external_files(path)


def test_an_address_in_memory_is_not_read(tmp_path):
    """ONNX Runtime 1.22 reads the bytes at `offset` in its own process, or crashes."""
    name = "*/_ORT_MEM_ADDR_/*"
    put(tmp_path / name)
    with pytest.raises(ValueError, match="an address in memory"):
        external_files(write(tmp_path, name))


def sparse_file(path, size=40 * 2**30):
    with path.open("wb") as file:
        file.truncate(size)


def bound_socket(path):
    with socket.socket(socket.AF_UNIX) as server:
        os.chdir(path.parent)  # the name of a socket is short
        server.bind(path.name)


def replace_by(path, what, monkeypatch):
    path.unlink()
    if what == "fifo":
        os.mkfifo(path)
    elif what == "socket":
        monkeypatch.chdir(path.parent)
        bound_socket(path)
    elif what == "sparse":
        sparse_file(path)
    else:
        path.symlink_to(what)


@pytest.mark.parametrize("what", ["fifo", "socket", "sparse", "/dev/zero", "/dev/null"])
@pytest.mark.parametrize("name", ["model.onnx", "data"])
@pytest.mark.parametrize("cached", [True, False])
def test_endless_files_are_refused_at_once(what, name, cached, tmp_path, monkeypatch):
    monkeypatch.setattr(graph_cache, "MIN_BYTES", 0)
    monkeypatch.setenv("LCM_CACHE", str(tmp_path / "cache"))
    write(tmp_path / "unet")
    put(tmp_path / "unet" / "data")
    replace_by(tmp_path / "unet" / name, what, monkeypatch)
    start = time.monotonic()
    with pytest.raises(NetworkError, match=name):
        OnnxRuntime().open("unet", tmp_path / "unet", {"graph_cache": cached})
    lines = list(describe(tmp_path))
    assert any(name in line and ("cannot open" in line or "no model" in line) for line in lines)
    assert time.monotonic() - start < 10


def test_a_file_of_zeros_is_no_model(tmp_path):
    """Nor does it take minutes to see that: 2 GB would be a billion empty fields."""
    sparse_file(tmp_path / "model.onnx", 2**31 - 1)
    start = time.monotonic()
    with pytest.raises(ValueError, match="not a protobuf message"):
        external_files(tmp_path / "model.onnx")
    assert time.monotonic() - start < 2
    sparse_file(tmp_path / "model.onnx", 2**31)
    with pytest.raises(ValueError, match="larger than 2 GiB"):
        external_files(tmp_path / "model.onnx")


def nested(depth):
    """An If within an If, and so on, with weights in the innermost."""
    graph = GraphProto(node=NodeProto(constant(outside("data")).SerializeToString()))
    for _ in range(depth):
        graph = GraphProto(node=NodeProto(attribute=AttributeProto(g=graph)))
    return bytes(ModelProto(graph=graph))


def test_nesting_is_read_as_deep_as_protobuf_does(tmp_path):
    put(tmp_path / "data")
    path = tmp_path / "model.onnx"
    path.write_bytes(nested(31))
    assert len(onnx.load(path, load_external_data=False).graph.node) == 1
    path.write_bytes(nested(32))  # here the entries of the tensor are one too deep for protobuf
    assert external_files(path)[1:] == [tmp_path / "data"]
    path.write_bytes(nested(33))
    with pytest.raises(DecodeError):
        onnx.load(path, load_external_data=False)
    with pytest.raises(ValueError, match="nested deeper"):
        external_files(path)


def test_a_model_whose_folder_is_a_link(tmp_path):
    write(tmp_path / "real")
    put(tmp_path / "real" / "data")
    (tmp_path / "unet").symlink_to("real")
    assert len(external_files(tmp_path / "unet" / "model.onnx")) == 2
    shutil.rmtree(tmp_path / "real")


def test_tensors_without_elements_may_have_an_empty_file(tmp_path):
    """As `onnx.save_model(..., all_tensors_to_one_file=False)` writes the roi of a Resize."""
    path = tmp_path / "model.onnx"
    roi = numpy_helper.from_array(np.zeros(0, np.float32), "roi")
    scale = numpy_helper.from_array(np.ones(1, np.float32), "scale")
    graph = helper.make_graph([], "g", [], [], [roi, scale])
    onnx.save_model(helper.make_model(graph), path, save_as_external_data=True,
                    all_tensors_to_one_file=False, size_threshold=0)  # fmt: skip
    assert (tmp_path / "roi").read_bytes() == b""
    assert external_files(path) == [path, tmp_path / "roi", tmp_path / "scale"]
    assert list(faults(path)) == []
    (tmp_path / "scale").write_bytes(b"")
    with pytest.raises(
        ValueError, match=f"^{tmp_path / 'scale'}: empty: copy or download it again"
    ):
        external_files(path)
    found = [(f"{tmp_path / 'scale'}: empty", "copy or download it again")]
    assert list(faults(path)) == found

"""The reader, on files of rknn-toolkit2 2.5.0 (see fixtures.py for how they were made)."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lcmcore.errors import BundleError
from runtimes.rknn.file import RknnFile, RknnTensor
from tests.rknn import fixtures


def write(folder: Path, data: bytes) -> Path:
    path = folder / "model.rknn"
    path.write_bytes(data)
    return path


def with_graph(data: bytes, **changes: object) -> bytes:
    """The file with other values in the JSON that follows the body."""
    start = 64 + int.from_bytes(data[16:24], "little")
    graph = json.loads(data[start + 8 :]) | changes
    text = json.dumps(graph).encode()
    return data[:start] + len(text).to_bytes(8, "little") + text


def test_unet(tmp_path: Path) -> None:
    file = RknnFile.read(write(tmp_path, fixtures.read("unet")))
    assert (file.version, file.toolkit, file.platforms) == (6, "2.5.0", ("rk3588",))
    # Latents of a 48x32 image: 4 rows of 6.
    assert [str(tensor) for tensor in file.inputs] == [
        "sample [1, 4, 4, 6] float16 NHWC",
        "timestep [1] int64",
        "encoder_hidden_states [1, 77, 16] float16",
        "timestep_cond [1, 256] float16",
    ]
    assert [str(tensor) for tensor in file.outputs] == ["out_sample [1, 4, 4, 6] float16 NCHW"]


@pytest.mark.parametrize(
    ("component", "takes", "gives"),
    [
        ("text_encoder", "input_ids [1, 77] int64", "last_hidden_state [1, 77, 16] float16"),
        ("vae_encoder", "sample [1, 3, 32, 48] float16 NHWC",
         "latent_parameters [1, 8, 4, 6] float16 NCHW"),
        ("vae_decoder", "latent_sample [1, 4, 4, 6] float16 NHWC",
         "sample [1, 3, 32, 48] float16 NCHW"),
    ],
)  # fmt: skip
def test_other_components(tmp_path: Path, component: str, takes: str, gives: str) -> None:
    file = RknnFile.read(write(tmp_path, fixtures.read(component)))
    assert str(file.inputs[0]) == takes
    assert str(file.outputs[0]) == gives


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b"RKNN\0\0", "cut after 6 bytes"),
        (b"RKCE" + bytes(100), "encrypted"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "git lfs pull"),
        (b"\x08\x08\x12\x07pytorch" + bytes(100), "not an RKNN file"),
        (b"RKNN" + bytes(2000), "damaged"),
    ],
)
def test_no_such_file(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(BundleError, match=rf"model\.rknn: .*{message}"):
        RknnFile.read(write(tmp_path, data))


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="No such file"):
        RknnFile.read(tmp_path / "model.rknn")


@pytest.mark.parametrize("kept", [100, 20_000, -1])
def test_cut_file_reports_the_length_that_it_should_have(tmp_path: Path, kept: int) -> None:
    with pytest.raises(BundleError, match=r"cut: it has \d+ bytes and should have"):
        RknnFile.read(write(tmp_path, fixtures.read("unet")[:kept]))


@given(position=st.integers(0, 2**20), value=st.integers(0, 255))
def test_a_changed_byte_is_read_or_named(
    tmp_path_factory: pytest.TempPathFactory, position: int, value: int
) -> None:
    data = bytearray(fixtures.read("text_encoder"))
    start = 64 + int.from_bytes(data[16:24], "little")
    places = [*range(64), *range(start, len(data))]  # what the reader interprets
    data[places[position % len(places)]] = value
    path = write(tmp_path_factory.mktemp("changed"), bytes(data))
    try:
        RknnFile.read(path)
    except BundleError as error:
        assert str(path) in str(error)


def test_unknown_version_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = fixtures.read("unet")
    data = data[:8] + (7).to_bytes(8, "little") + data[16:]
    with caplog.at_level(logging.WARNING, "lcmcore.runtimes.rknn"):
        file = RknnFile.read(write(tmp_path, data))
    assert [tensor.name for tensor in file.inputs][:2] == ["sample", "timestep"]
    assert "file version 7 is not supported" in caplog.text


def test_unknown_version_that_cannot_be_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = b"RKNN" + bytes(4) + (7).to_bytes(8, "little") + bytes(2000)
    file = RknnFile.read(write(tmp_path, data))
    assert (file.version, file.inputs) == (7, ())


@pytest.mark.parametrize(
    ("toolkit", "too_old"),
    [("1.6.0", True), ("2.2.1b3", True), ("2.3.0", False), ("2.10.0", False), ("odd", False)],
)
def test_too_old(tmp_path: Path, toolkit: str, too_old: bool) -> None:
    data = with_graph(fixtures.read("unet"), version=toolkit)
    assert RknnFile.read(write(tmp_path, data)).too_old is too_old


def test_without_formats_near_the_top(tmp_path: Path) -> None:
    data = fixtures.read("unet").replace(b'"layout"', b'"1ayout"').replace(b'"dtype"', b'"dtyqe"')
    file = RknnFile.read(write(tmp_path, data))
    assert [tensor.dtype for tensor in file.inputs] == [None] * 4
    assert file.inputs[0].shape == (1, 4, 4, 6)


# The files below are written byte by byte, by the layout that file.py describes.

GRAPH: dict[str, Any] = {
    "version": "2.5.0",
    "target_platform": ["rk3588", "rk3576"],
    "graph": [
        {"left": "input", "left_tensor_id": 1, "right_tensor_id": 7},
        {"left": "output", "left_tensor_id": 0, "right_tensor_id": 9},
        {"left": "input", "left_tensor_id": 0, "right_tensor_id": 8},
    ],
    "norm_tensor": [
        {"tensor_id": 9, "url": "c", "size": [1, 5]},
        {"tensor_id": 8, "url": "a", "size": [1, 3, 4, 2]},
        {"tensor_id": 7, "url": "b", "size": [1]},
    ],
}
FORMATS = {"a": {"dtype": "int8", "layout": "NCHW"}, "b": {"dtype": "int64", "layout": "NHWC"}}
INPUTS = (RknnTensor("a", (1, 3, 4, 2), "int8", "NCHW"), RknnTensor("b", (1,), "int64"))
OUTPUTS = (RknnTensor("c", (1, 5)),)


def as_json(value: Any) -> bytes:
    return json.dumps(value).encode()


def file_of(
    body: bytes = as_json(FORMATS), graph: bytes = as_json(GRAPH), version: int = 6, **lengths: int
) -> bytes:
    """Header of 64 bytes, body, 8 bytes of length, JSON; `lengths` are lies about two of them."""
    header = b"RKNN" + bytes(4) + version.to_bytes(8, "little")
    header += lengths.get("body_length", len(body)).to_bytes(8, "little")
    tail = lengths.get("graph_length", len(graph)).to_bytes(8, "little")
    return header.ljust(64, b"\xff") + body + tail + graph


def read(folder: Path, data: bytes) -> RknnFile:
    return RknnFile.read(write(folder, data))


def test_every_field(tmp_path: Path) -> None:
    data = file_of()
    path = write(tmp_path, data)
    assert RknnFile.read(path) == RknnFile(
        path, 6, len(data), "2.5.0", ("rk3588", "rk3576"), INPUTS, OUTPUTS
    )


def test_what_follows_the_graph_is_passed_over(tmp_path: Path) -> None:
    assert read(tmp_path, file_of() + b"more").inputs == INPUTS


@pytest.mark.parametrize("position", [0, 1, 65_535 - len(as_json(FORMATS)) + 1])
def test_formats_are_found_in_the_first_65536_bytes_of_the_body(
    tmp_path: Path, position: int
) -> None:
    body = bytes(position) + as_json(FORMATS) + bytes(1000)
    assert read(tmp_path, file_of(body)).inputs == INPUTS


def test_formats_behind_those_are_not_searched_for(tmp_path: Path) -> None:
    body = bytes(65_536 - len(as_json(FORMATS)) + 1) + as_json(FORMATS)
    assert [tensor.dtype for tensor in read(tmp_path, file_of(body)).inputs] == [None, None]


def test_the_graph_is_not_taken_for_the_body(tmp_path: Path) -> None:
    """Its JSON may hold an object of the inputs' names, too."""
    data = file_of(b"", as_json(GRAPH | {"other": FORMATS}))
    assert [tensor.dtype for tensor in read(tmp_path, data).inputs] == [None, None]


@pytest.mark.parametrize("count", [63, 64])
def test_formats_are_searched_in_64_objects(tmp_path: Path, count: int) -> None:
    """Cut ones count, too: for each of them, what follows would be read once more."""
    found = read(tmp_path, file_of(b'{"' * count + as_json(FORMATS))).inputs
    assert found[0].dtype == ("int8" if count == 63 else None)


@pytest.mark.parametrize(
    "formats",
    [
        {"a": FORMATS["a"]},
        {**FORMATS, "c": {}},
        {"a": FORMATS["a"], "b": "int64"},
        {"a": {"dtype": "object", "layout": "CHWN"}, "b": {"dtype": ["int64"], "layout": 1e999}},
        {"a": {"dtype": "V8", "layout": ["NHWC"]}, "b": {"dtype": None, "layout": {}}},
    ],
)
def test_formats_of_other_tensors_or_unknown_ones_are_none(tmp_path: Path, formats: Any) -> None:
    tensors = read(tmp_path, file_of(as_json(formats))).inputs
    assert tensors == (RknnTensor("a", (1, 3, 4, 2)), RknnTensor("b", (1,)))


def test_dtypes_are_those_of_numpy(tmp_path: Path) -> None:
    """All of a fixed size that a network may take."""
    for code in "?bBhHiIqQefd":
        dtype = np.dtype(code).name
        assert read(tmp_path, dtype_file(dtype)).inputs[0].dtype == dtype


def dtype_file(dtype: str) -> bytes:
    return file_of(as_json({"a": {"dtype": dtype, "layout": "NHWC"}, "b": {}}))


def test_layout_is_that_of_the_formats(tmp_path: Path) -> None:
    dtype = "uint8"
    formats = {"a": {"dtype": dtype, "layout": "NHWC"}, "b": {}}
    tensors = read(tmp_path, file_of(as_json(formats))).inputs
    assert tensors == (RknnTensor("a", (1, 3, 4, 2), dtype, "NHWC"), RknnTensor("b", (1,)))


@pytest.mark.parametrize(
    ("cut", "words"),
    [
        (64, "it has 64 bytes and should have more than 164"),
        (171, "it has 171 bytes and should have more than 164"),
        (172, "it has 172 bytes and should have 272"),
        (271, "it has 271 bytes and should have 272"),
    ],
)
def test_lengths_of_a_cut_file(tmp_path: Path, cut: int, words: str) -> None:
    data = file_of(bytes(100), b"{" + b" " * 98 + b"}")[:cut]
    with pytest.raises(BundleError) as error:
        read(tmp_path, data)
    assert str(error.value) == f"{tmp_path / 'model.rknn'}: cut: {words}: copy or rebuild it"


def test_header_that_is_cut(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"cut after 63 bytes: copy or rebuild it$"):
        read(tmp_path, file_of()[:63])
    with pytest.raises(BundleError, match="cut: it has 64 bytes"):
        read(tmp_path, file_of()[:64])


@pytest.mark.parametrize("place", [8, 15, 16, 23])
def test_header_that_is_empty_has_zeros_from_8_to_23(tmp_path: Path, place: int) -> None:
    header = bytearray(b"RKNN" + bytes(4 + 56))
    with pytest.raises(BundleError, match=r"damaged, its header is empty: copy or rebuild it$"):
        read(tmp_path, bytes(header))
    header[place] = 1
    try:
        read(tmp_path, bytes(header))
    except BundleError as error:
        assert "header is empty" not in str(error)


@pytest.mark.parametrize("start", [b"ONNX", b"rknn", b"RKN\0"])
def test_other_files_are_named_by_their_beginning(tmp_path: Path, start: bytes) -> None:
    with pytest.raises(BundleError) as error:
        read(tmp_path, start + bytes(100))
    words = f"not an RKNN file: it begins with {start!r}"
    assert str(error.value) == f"{tmp_path / 'model.rknn'}: {words}"


def test_encrypted_files(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"ask its author for the plain \.rknn file"):
        read(tmp_path, b"RKCE" + bytes(100))


HUGE = [1e999, float("nan"), -1, 0, 2**63, 2**30 + 1, "1", True, None, [1], {}, 1.0]


@pytest.mark.parametrize("dim", HUGE)
def test_absurd_dimensions(tmp_path: Path, dim: Any) -> None:
    tensors = [dict(each) for each in GRAPH["norm_tensor"]]
    tensors[0]["size"] = [1, dim]
    with pytest.raises(BundleError, match="damaged: 'c' has an impossible shape: copy"):
        read(tmp_path, file_of(graph=as_json(GRAPH | {"norm_tensor": tensors})))


@pytest.mark.parametrize(
    ("shape", "taken"),
    [
        ([1 << 30], True),
        ([1 << 15, 1 << 15], True),
        ([1 << 15, 1 << 15, 2], False),
        ([1] * 8, True),
        ([1] * 9, False),
        ([], True),  # a scalar
    ],
)
def test_largest_shapes(tmp_path: Path, shape: list[int], taken: bool) -> None:
    tensors = [dict(each) for each in GRAPH["norm_tensor"]]
    tensors[0]["size"] = shape
    path = write(tmp_path, file_of(graph=as_json(GRAPH | {"norm_tensor": tensors})))
    if taken:
        assert RknnFile.read(path).outputs[0].shape == tuple(shape)
    else:
        with pytest.raises(BundleError, match="impossible shape"):
            RknnFile.read(path)


def edges(*positions: Any) -> dict[str, Any]:
    """A graph whose inputs have these positions."""
    inputs = [{"left": "input", "left_tensor_id": p, "right_tensor_id": 7} for p in positions]
    return GRAPH | {"graph": [GRAPH["graph"][1], *inputs]}


def changed(**values: Any) -> dict[str, Any]:
    """A graph whose output has other values."""
    tensors = [GRAPH["norm_tensor"][0] | values, *GRAPH["norm_tensor"][1:]]
    return GRAPH | {"norm_tensor": tensors}


@pytest.mark.parametrize(
    ("graph", "words"),
    [
        (edges(), "damaged: it has no input"),
        (edges(*range(65)), "damaged: it has 65 input"),
        (edges(0, 0), "damaged: the positions of its inputs are wrong"),
        (edges(1), "damaged: the positions of its inputs are wrong"),
        (edges(-1, 0), "damaged: the positions of its inputs are wrong"),
        (edges(2**63), "damaged: the positions of its inputs are wrong"),
        (edges(1e999), "damaged: a position is of type float"),
        (edges("0"), "damaged: a position is of type str"),
        (edges(False), "damaged: a position is of type bool"),
        (edges([0]), "damaged: a position is of type list"),
        (changed(url=5), "damaged: a name is no text of at most 1024 characters"),
        (changed(url="c" * 1025), "damaged: a name is no text of at most 1024 characters"),
        (changed(url=["c"]), "damaged: a name is no text of at most 1024 characters"),
        (changed(size="15"), "damaged: no list of at most 64 where one should be"),
        (changed(size={"1": 5}), "damaged: no list of at most 64 where one should be"),
        (changed(size=5), "damaged: no list of at most 64 where one should be"),
        (changed(size=[1] * 65), "damaged: no list of at most 64 where one should be"),
        (changed(tensor_id=[9]), "damaged"),
        (changed(tensor_id=10), "damaged"),
        (GRAPH | {"version": 2.5}, "damaged: a version is no text of at most 1024 characters"),
        (GRAPH | {"version": "2" * 1025}, "damaged: a version is no text of at most 1024 char"),
        (GRAPH | {"target_platform": "rk3588"}, "damaged: no list of at most 64 where one"),
        (GRAPH | {"target_platform": [3588]}, "damaged: a platform is no text of at most 1024"),
        (GRAPH | {"target_platform": ["a"] * 65}, "damaged: no list of at most 64"),
        (GRAPH | {"target_platform": None}, "damaged: no list of at most 64"),
        (GRAPH | {"graph": 5}, "damaged"),
        (GRAPH | {"graph": ["input"]}, "damaged"),
        (GRAPH | {"norm_tensor": [5]}, "damaged"),
        (GRAPH | {"norm_tensor": "c"}, "damaged"),
        ({}, "damaged"),
        ([], "damaged"),
        ("graph", "damaged"),
        (None, "damaged"),
        (1e999, "damaged"),
    ],
)
def test_absurd_graphs(tmp_path: Path, graph: Any, words: str) -> None:
    with pytest.raises(BundleError) as error:
        read(tmp_path, file_of(graph=as_json(graph)))
    message = str(error.value)
    assert message.startswith(f"{tmp_path / 'model.rknn'}: {words}")
    assert message.endswith(": copy or rebuild it")
    assert len(message) < 300
    # Of a version that is not known, such a file is one without metadata.
    assert read(tmp_path, file_of(graph=as_json(graph), version=7)).inputs == ()


@pytest.mark.parametrize("count", [1, 64])
def test_most_inputs(tmp_path: Path, count: int) -> None:
    assert len(read(tmp_path, file_of(graph=as_json(edges(*range(count))))).inputs) == count


def test_longest_texts(tmp_path: Path) -> None:
    long = "x" * 1024
    graph = changed(url=long) | {"version": long, "target_platform": [long] * 64}
    file = read(tmp_path, file_of(graph=as_json(graph)))
    assert (file.outputs[0].name, file.toolkit, file.platforms) == (long, long, (long,) * 64)


@pytest.mark.parametrize(
    "graph",
    [
        b"[" * 100_000,
        b'{"version":' * 50_000,
        b'{"a": ' + b"9" * 5000 + b"}",
        b"\xff\xfe\x00",
        b"",
        as_json(GRAPH)[:-1],
    ],
)
def test_json_that_cannot_be_read(tmp_path: Path, graph: bytes) -> None:
    with pytest.raises(BundleError, match=r"model\.rknn: damaged: copy or rebuild it$"):
        read(tmp_path, file_of(graph=graph))


@pytest.mark.parametrize("length", [2**20 + 1, 2**28])
def test_more_json_than_any_file_has_is_not_read(tmp_path: Path, length: int) -> None:
    path = write(tmp_path, file_of(graph_length=length))
    os.truncate(path, 200 + 2**28 + length)  # sparse
    with pytest.raises(BundleError, match=f"damaged: {length} bytes of JSON announced: copy"):
        RknnFile.read(path)


def test_as_much_json_as_is_read(tmp_path: Path) -> None:
    assert read(tmp_path, file_of(graph=as_json(GRAPH).ljust(2**20))).inputs == INPUTS


@pytest.mark.parametrize("lengths", [{"body_length": 2**64 - 1}, {"graph_length": 2**64 - 1}])
def test_lengths_beyond_the_file(tmp_path: Path, lengths: dict[str, int]) -> None:
    with pytest.raises(BundleError, match="cut: it has"):
        read(tmp_path, file_of(**lengths))


@pytest.mark.parametrize(
    "data",
    [
        file_of(b'{"' * 32_768),
        file_of(b'{"a":' * 13_000),
        file_of(b'{"a":[{"' * 8_000),
        file_of(graph=b"[" + b"[]," * (2**20 // 3 - 10) + b"0]"),
        file_of(graph=b'[{"":0}' + b',{"":0}' * (2**20 // 7 - 10) + b"]"),
        file_of(graph=as_json(GRAPH | {"graph": [{"left": "input"}] * 100_000})),
    ],
)
def test_hostile_files_take_little_time_and_memory(tmp_path: Path, data: bytes) -> None:
    path = write(tmp_path, data)
    start = time.process_time()
    tracemalloc.start()
    try:
        with contextlib.suppress(BundleError):
            RknnFile.read(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 100e6
    assert time.process_time() - start < 5


def test_pipes_and_devices_are_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.rknn")
    for path, words in [
        (tmp_path / "model.rknn", "cannot be read: not a regular file"),
        (Path("/dev/zero"), "cannot be read: not a regular file"),
        (tmp_path, "cannot be read: Is a directory"),
    ]:
        with pytest.raises(BundleError, match=f"{path.name}: {words}$"):
            RknnFile.read(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty: copy or download it again"),
        (b"version https://git-lfs.github.com/spec/v1\n",
         "a Git LFS pointer, not the file itself: run `git lfs pull`"),
        (b"<!DOCTYPE html>", "an HTML or XML page, not the file itself: download it again"),
    ],
)  # fmt: skip
def test_files_that_were_never_fetched(tmp_path: Path, content: bytes, words: str) -> None:
    with pytest.raises(BundleError) as error:
        read(tmp_path, content)
    assert str(error.value) == f"{tmp_path / 'model.rknn'}: {words}"


def test_warning_of_an_unknown_version(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "lcmcore.runtimes.rknn"):
        read(tmp_path, file_of())
        assert caplog.messages == []
        read(tmp_path, file_of(version=2**64 - 1))
    (message,) = caplog.messages
    words = "file version 18446744073709551615 is not supported (only 6 is): its metadata may be"
    assert message == f"{tmp_path / 'model.rknn'}: {words} wrong"


@pytest.mark.parametrize(
    ("toolkit", "too_old"),
    [("2.2.99", True), ("1.9.9", True), ("2.3", False), ("3.0.0", False), ("v2.0.0", False)],
)
def test_age_of_a_toolkit(tmp_path: Path, toolkit: str, too_old: bool) -> None:
    assert read(tmp_path, file_of(graph=as_json(GRAPH | {"version": toolkit}))).too_old is too_old


def test_tensors_as_text() -> None:
    assert str(RknnTensor("a", (1, 2), "int8", "NCHW")) == "a [1, 2] int8 NCHW"
    assert str(RknnTensor("a", (1,), layout="NHWC")) == "a [1] NHWC"
    assert str(RknnTensor("a", ())) == "a []"

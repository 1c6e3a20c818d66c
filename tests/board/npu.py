"""The arithmetic behind the stand-in librknnrt: ONNX Runtime outside of the emulated board.

Every .rknn file it knows belongs to the ONNX file that it was built from; a model arrives as
bytes, is found by its hash, and its runs go to that ONNX network. What crosses the border is
rounded to half precision as on the NPU; the arithmetic in between is float32.

usage: npu.py SOCKET ONNX_DIR RKNN_DIR [ONNX_DIR RKNN_DIR ...]
       ONNX_DIR/unet/model.onnx answers for RKNN_DIR/unet/model.rknn, and so on
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import os
import re
import socketserver
import struct
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

FAIL, MODEL_INVALID, INPUT_INVALID = -1, -6, -7
FORMATS = {"NCHW": 0, "NHWC": 1, "UNDEFINED": 3}
TYPES = [
    "float32", "float16", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "bool",
]  # fmt: skip
PLATFORM = "rk3588"


class TensorAttr(ctypes.Structure):
    """rknn_tensor_attr of the public C interface."""

    _fields_ = (
        ("index", ctypes.c_uint32),
        ("n_dims", ctypes.c_uint32),
        ("dims", ctypes.c_uint32 * 16),
        ("name", ctypes.c_char * 256),
        ("n_elems", ctypes.c_uint32),
        ("size", ctypes.c_uint32),
        ("fmt", ctypes.c_uint32),
        ("type", ctypes.c_uint32),
        ("qnt_type", ctypes.c_uint32),
        ("fl", ctypes.c_int8),
        ("zp", ctypes.c_int32),
        ("scale", ctypes.c_float),
        ("w_stride", ctypes.c_uint32),
        ("size_with_stride", ctypes.c_uint32),
        ("pass_through", ctypes.c_uint8),
        ("h_stride", ctypes.c_uint32),
    )


class ModelError(Exception):
    """The bytes are no model that rknn_init would take; the argument is its return code."""


def attribute(index: int, name: str, shape: list[int], dtype: str, layout: str) -> TensorAttr:
    """How the library describes a tensor whose ONNX shape this is."""
    dims = [shape[0], *shape[2:], shape[1]] if layout == "NHWC" else shape
    layout = layout if len(shape) == 4 else "UNDEFINED"
    count = int(np.prod(shape))
    size = count * np.dtype(dtype).itemsize
    return TensorAttr(
        index=index, n_dims=len(dims), dims=tuple(dims), name=name.encode(), n_elems=count,
        size=size, fmt=FORMATS[layout], type=TYPES.index(dtype), scale=1.0, size_with_stride=size,
    )  # fmt: skip


def layouts(body: bytes) -> dict[str, dict[str, dict[str, str]]]:
    """The two JSON objects in the body, {"input": {name: {dtype, layout}}, "output": {...}}."""
    found = re.findall(rb'\{"[^{}"]+": \{"dtype": [^}]*\}(?:, "[^{}"]+": \{[^}]*\})*\}', body)
    return dict(zip(("output", "input"), (json.loads(text) for text in found), strict=False))


def tensors(model: bytes) -> dict[str, list[TensorAttr]]:
    """The attributes of inputs and outputs as a .rknn file holds them; raises ModelError."""
    try:
        if model[:8] != b"RKNN\0\0\0\0":
            raise ModelError(MODEL_INVALID)
        (body_size,) = struct.unpack_from("<Q", model, 16)
        (tail_size,) = struct.unpack_from("<Q", model, 64 + body_size)
        tail = model[72 + body_size : 72 + body_size + tail_size]
        graph = json.loads(tail.rstrip(b"\0"))
        kinds = layouts(model[64 : 64 + body_size])
        shapes = {tensor["tensor_id"]: tensor for tensor in graph["norm_tensor"]}
        result: dict[str, list[TensorAttr]] = {"input": [], "output": []}
        for edge in graph["graph"]:
            if edge["left"] in result:
                tensor = shapes[edge["right_tensor_id"]]
                kind = kinds[edge["left"]][tensor["url"]]
                result[edge["left"]].append(
                    attribute(edge["left_tensor_id"], tensor["url"], tensor["size"], **kind)
                )
    except (struct.error, ValueError, LookupError) as error:
        raise ModelError(MODEL_INVALID) from error
    if PLATFORM not in graph["target_platform"]:
        raise ModelError(FAIL)
    return {side: sorted(attrs, key=lambda attr: attr.index) for side, attrs in result.items()}


def array(attr: TensorAttr, dtype: str, fmt: int, data: bytes) -> np.ndarray[Any, Any]:
    """What the network's input becomes from the bytes that the caller handed over."""
    values = np.frombuffer(data, dtype)
    shape = list(attr.dims[: attr.n_dims])
    if attr.fmt == FORMATS["NHWC"]:
        channels_last = fmt == FORMATS["NHWC"]
        nchw = [shape[0], shape[3], *shape[1:3]]
        values = (
            values.reshape(shape).transpose(0, 3, 1, 2) if channels_last else values.reshape(nchw)
        )
    else:
        values = values.reshape(shape)
    return values.astype(TYPES[attr.type])


class Networks:
    """The ONNX files by the SHA-256 of the .rknn file that was built from them."""

    def __init__(self, pairs: Iterable[tuple[Path, Path]]) -> None:
        self.sources = {
            hashlib.sha256(model.read_bytes()).digest(): onnx / model.parent.name / "model.onnx"
            for onnx, rknn in pairs
            for model in rknn.glob("*/model.rknn")
        }
        self.sessions: dict[Path, ort.InferenceSession] = {}

    def session(self, model: bytes) -> ort.InferenceSession:
        """The network of these bytes; raises ModelError for an unknown file."""
        source = self.sources.get(hashlib.sha256(model).digest())
        if source is None:
            raise ModelError(MODEL_INVALID)
        if source not in self.sessions:
            self.sessions[source] = ort.InferenceSession(source, providers=["CPUExecutionProvider"])
        return self.sessions[source]


def as_node(node: ort.NodeArg, values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """In the dtype and rank that the ONNX file has: a timestep may be of rank 0 there."""
    if node.type == "tensor(float)":
        values = values.astype("float32")
    return values if node.shape else values.reshape(())


def run(
    session: ort.InferenceSession,
    attrs: dict[str, list[TensorAttr]],
    inputs: list[np.ndarray[Any, Any]],
) -> list[np.ndarray[Any, Any]]:
    """The network's outputs, rounded to what the file declares and back to float32."""
    nodes = {node.name: node for node in session.get_inputs()}
    feed = {
        attr.name.decode(): as_node(nodes[attr.name.decode()], values)
        for attr, values in zip(attrs["input"], inputs, strict=True)
    }
    results = session.run([attr.name.decode() for attr in attrs["output"]], feed)
    return [
        result.astype(TYPES[attr.type]).astype("float32")
        for attr, result in zip(attrs["output"], results, strict=True)
    ]


class Context(socketserver.StreamRequestHandler):
    """One rknn_context: its model, then its runs, until the connection closes."""

    server: Server

    def numbers(self, count: int) -> tuple[int, ...]:
        """So many uint32; raises EOFError at the end."""
        data = self.rfile.read(4 * count)
        if len(data) < 4 * count:
            raise EOFError
        return struct.unpack(f"<{count}I", data)

    def inputs(self, attrs: list[TensorAttr]) -> list[np.ndarray[Any, Any]]:
        """One set of inputs."""
        result = []
        for attr in attrs:
            kind, fmt, size = self.numbers(3)
            result.append(array(attr, TYPES[kind], fmt, self.rfile.read(size)))
        return result

    def handle(self) -> None:
        with contextlib.suppress(EOFError):  # rknn_destroy
            self.serve()

    def serve(self) -> None:
        """Open the model that comes first, then answer runs for ever."""
        (size,) = self.numbers(1)
        model = self.rfile.read(size)
        try:
            attrs = tensors(model)
            session = self.server.networks.session(model)
        except ModelError as error:
            self.wfile.write(struct.pack("<i", error.args[0]))
            return
        del model
        head = struct.pack("<iII", 0, len(attrs["input"]), len(attrs["output"]))
        self.wfile.write(head + b"".join(bytes(a) for a in attrs["input"] + attrs["output"]))
        while True:
            outputs = run(session, attrs, self.inputs(attrs["input"]))
            self.wfile.write(struct.pack("<i", 0))
            for output in outputs:
                self.wfile.write(np.ascontiguousarray(output).tobytes())


class Server(socketserver.ThreadingUnixStreamServer):
    """Hands each connection a Context of its own."""

    daemon_threads = True

    def __init__(self, path: str, networks: Networks) -> None:
        super().__init__(path, Context)
        self.networks = networks


def main(arguments: list[str]) -> None:
    """Serve until killed."""
    path, *folders = (Path(argument).resolve() for argument in arguments)
    networks = Networks(zip(folders[::2], folders[1::2], strict=True))
    os.chdir(path.parent)  # the path of a Unix socket may only have 107 bytes
    path.unlink(missing_ok=True)
    with Server(path.name, networks) as server:
        server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1:])

"""The reader, on files of rknn-toolkit2 2.5.0 (see fixtures.py for how they were made)."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lcmcore.errors import BundleError
from runtimes.rknn.file import RknnFile
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

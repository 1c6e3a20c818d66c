"""In which order, layout and dtype the device takes what the core gives by name."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lcmcore.errors import NetworkError
from lcmcore.runtime import TensorSpec
from runtimes.rknn.file import RknnFile, RknnTensor
from runtimes.rknn.signature import LAYOUTS, OPTIONS, Signature, signature
from tests.rknn import fixtures

SAMPLE = RknnTensor("sample", (1, 4, 8, 6), "float16", "NHWC")
STEP = RknnTensor("timestep", (1,), "int64")
TEXT = RknnTensor("encoder_hidden_states", (1, 77, 16), "float16")
COND = RknnTensor("timestep_cond", (1, 256), "float16")
OUT = RknnTensor("out_sample", (1, 4, 8, 6), "float16", "NCHW")


def of(*inputs: RknnTensor, **options: Any) -> Signature:
    file = RknnFile(Path("m.rknn"), 6, 0, "2.5.0", ("rk3588",), inputs, (OUT,))
    return signature("unet", file, Path("none"), options)


def renamed(*names: str) -> tuple[RknnTensor, ...]:
    tensors = (SAMPLE, STEP, TEXT, COND)
    return tuple(
        RknnTensor(name, tensor.shape, tensor.dtype, tensor.layout)
        for name, tensor in zip(names, tensors, strict=False)
    )


def test_all_of_a_files_own() -> None:
    got = of(STEP, SAMPLE, TEXT, COND)
    assert got == Signature(
        inputs=(
            TensorSpec("timestep", (1,), "int64"),
            TensorSpec("sample", (1, 4, 8, 6), "float16"),
            TensorSpec("encoder_hidden_states", (1, 77, 16), "float16"),
            TensorSpec("timestep_cond", (1, 256), "float16"),
        ),
        outputs=(TensorSpec("out_sample", (1, 4, 8, 6), "float16"),),
        layout="nhwc",
    )


def test_a_unet_without_guidance_input() -> None:
    """timestep_cond is the one input that a UNet may lack."""
    assert [spec.name for spec in of(SAMPLE, STEP, TEXT).inputs] == [
        *("sample", "timestep", "encoder_hidden_states")
    ]
    assert [spec.name for spec in of(*renamed("a", "b", "c")).inputs] == [
        *("sample", "timestep", "encoder_hidden_states")
    ]
    assert [spec.name for spec in of(*renamed("a", "b", "c", "d")).inputs] == [
        *("sample", "timestep", "encoder_hidden_states", "timestep_cond")
    ]


@pytest.mark.parametrize("names", [("a", "b"), ("a", "b", "c", "d", "e")])
def test_as_many_inputs_as_no_unet_has(names: tuple[str, ...]) -> None:
    tensors = [RknnTensor(name, (1,)) for name in names]
    with pytest.raises(NetworkError) as error:
        of(*tensors)
    listed = ", ".join(names)
    assert str(error.value) == f"unet: the file holds another network: it takes {listed}"


@pytest.mark.parametrize(
    ("shape", "seen"),
    [((), (1,)), ((1,), (1,)), ((1, 1), (1,)), ((2,), (2,)), ((1, 4), (1, 4))],
)
def test_a_timestep_of_one_number_is_a_list_of_one(
    shape: tuple[int, ...], seen: tuple[int, ...]
) -> None:
    got = of(SAMPLE, RknnTensor("timestep", shape, "int64"), TEXT)
    assert got.inputs[1].shape == seen
    assert got.inputs[0].shape == (1, 4, 8, 6)


def test_other_inputs_of_one_number_keep_their_shape() -> None:
    assert of(RknnTensor("sample", (1, 1, 1, 1)), STEP, TEXT).inputs[0].shape == (1, 1, 1, 1)


def test_dtypes_that_the_file_does_not_say() -> None:
    tensors = [RknnTensor(tensor.name, tensor.shape) for tensor in (SAMPLE, STEP, TEXT, COND)]
    assert [spec.dtype for spec in of(*tensors).inputs] == [
        *("float16", "int64", "float16", "float16")
    ]
    file = RknnFile(
        Path("m"), 6, 0, "2.5.0", (), (RknnTensor("input_ids", (1, 77)),),
        (RknnTensor("x", (1, 77, 16)),),
    )  # fmt: skip
    got = signature("text_encoder", file, Path(), {})
    assert [spec.dtype for spec in (*got.inputs, *got.outputs)] == ["int64", "float32"]


def test_the_option_inputs_orders_unknown_names() -> None:
    order = ["timestep", "sample", "timestep_cond", "encoder_hidden_states"]
    assert [spec.name for spec in of(*renamed(*"abcd"), inputs=order).inputs] == order
    assert [spec.name for spec in of(*renamed(*"abcd"), inputs=tuple(order)).inputs] == order


def test_the_option_inputs_may_say_what_the_file_says() -> None:
    order = ["sample", "timestep", "encoder_hidden_states"]
    assert [spec.name for spec in of(SAMPLE, STEP, TEXT, inputs=order).inputs] == order
    with pytest.raises(NetworkError) as error:
        of(STEP, SAMPLE, TEXT, inputs=order)
    assert str(error.value) == (
        f"unet: inputs = {order!r} in its options, but the file has"
        " ['timestep', 'sample', 'encoder_hidden_states']"
    )


@pytest.mark.parametrize(
    "inputs",
    [
        ["sample", "timestep"],
        ["sample", "sample", "timestep"],
        ["sample", "timestep", "mask"],
        "abc",
        3,
        [[1], [2], [3]],
        [],
        {"sample": 1, "timestep": 2, "encoder_hidden_states": 3},
    ],
)
def test_options_that_cannot_be_the_inputs(inputs: Any) -> None:
    with pytest.raises(NetworkError) as error:
        of(*renamed(*"abc"), inputs=inputs)
    usual = ("sample", "timestep", "encoder_hidden_states", "timestep_cond")
    words = f"unet: inputs = {inputs!r} in its options: the file has 3 of {usual}"
    assert str(error.value) == words


@pytest.mark.parametrize(
    ("declared", "asked", "layout"),
    [
        ("NHWC", None, "nhwc"),
        ("NCHW", None, "nchw"),
        (None, None, "nhwc"),
        (None, "nchw", "nchw"),
        ("NHWC", "nchw", "nhwc"),
    ],
)
def test_layout(declared: str | None, asked: str | None, layout: str) -> None:
    sample = RknnTensor("sample", (1, 4, 8, 6), "float16", declared)
    options = {} if asked is None else {"layout": asked}
    assert of(STEP, sample, TEXT, **options).layout == layout


@pytest.mark.parametrize("layout", ["NCHW", 5, ["nhwc"], ""])
def test_unknown_layout(layout: Any) -> None:
    with pytest.raises(NetworkError) as error:
        of(SAMPLE, STEP, TEXT, layout=layout)
    assert str(error.value) == f"unet: layout must be nhwc or nchw, not {layout!r}"


def test_names_of_options() -> None:
    assert {"inputs", "layout", "size"} == OPTIONS
    assert LAYOUTS == ("nhwc", "nchw")


@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
def test_arrays_for_the_device(layout: str) -> None:
    specs = [
        TensorSpec("a", (1, 2, 3, 4), "float16"),
        TensorSpec("b", (1,), "int32"),
        TensorSpec("c", (1, 5), "uint8"),
        TensorSpec("d", (1, 2, 3), "float32"),
        TensorSpec("e", (1, 3, 1, 1), "int64"),
    ]
    values: dict[str, Any] = {
        "d": np.arange(6.0).reshape(1, 2, 3),
        "a": np.arange(24.0).reshape(1, 2, 3, 4),
        "c": np.arange(5),
        "b": np.array([7]),
        "e": np.arange(3).reshape(1, 3, 1, 1),
    }
    arrays = Signature(tuple(specs), (), layout).positional(values)
    assert [array.dtype.name for array in arrays] == [
        *("float32", "int32", "uint8", "float32", "int64")
    ]
    assert all(array.flags.c_contiguous for array in arrays)
    if layout == "nhwc":
        assert arrays[0].shape == (1, 3, 4, 2)
        assert arrays[0][0, 2, 1].tolist() == [9, 21]  # row 2, column 1: both channels
        assert arrays[4].shape == (1, 1, 1, 3)
    else:
        np.testing.assert_array_equal(arrays[0], values["a"])
    np.testing.assert_array_equal(arrays[3], values["d"])


def test_layout_by_default() -> None:
    assert Signature((), ()).layout == "nhwc"


UNREAD = RknnFile(Path("m.rknn"), 7, 0)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The configs of the tiny model, whose UNet has width 16 and in_channels 4."""
    for component in fixtures.COMPONENTS:
        (tmp_path / component).mkdir()
        shutil.copy(fixtures.TINY / component / "config.json", tmp_path / component)
    return tmp_path


def test_a_file_of_an_unknown_version_goes_by_size_and_configs(root: Path) -> None:
    got = signature("unet", UNREAD, root / "unet", {"size": "48x32", "layout": "nchw"})
    assert got == Signature(
        inputs=(
            TensorSpec("sample", (1, 4, 4, 6), "float16"),
            TensorSpec("timestep", (1,), "int64"),
            TensorSpec("encoder_hidden_states", (1, 77, 16), "float16"),
            TensorSpec("timestep_cond", (1, 256), "float16"),
        ),
        outputs=(TensorSpec("output", (None, None, None, None), "float16"),),
        layout="nchw",
    )
    text = signature("text_encoder", UNREAD, root / "text_encoder", {"size": "48x32"})
    assert text.inputs == (TensorSpec("input_ids", (1, 77), "int64"),)
    assert text.outputs[0].shape == (None, None, None)


def test_of_an_unknown_version_inputs_may_be_ordered_or_left_out(root: Path) -> None:
    options = {"size": "48x32", "inputs": ["timestep", "sample", "encoder_hidden_states"]}
    got = signature("unet", UNREAD, root / "unet", options)
    assert [spec.name for spec in got.inputs] == options["inputs"]


@pytest.mark.parametrize("inputs", [5, "sample", ["sample"] * 4, [], [[]] * 4, ["sample", "x"]])
def test_of_an_unknown_version_absurd_inputs_are_an_error(root: Path, inputs: Any) -> None:
    with pytest.raises(NetworkError, match=r"^unet: inputs = .* in its options: the file has "):
        signature("unet", UNREAD, root / "unet", {"size": "48x32", "inputs": inputs})


def test_of_an_unknown_version_the_size_is_needed(root: Path) -> None:
    with pytest.raises(NetworkError) as error:
        signature("unet", UNREAD, root / "unet", {})
    assert str(error.value) == (
        "unet: m.rknn: its shapes cannot be read (file version 7); set its size in lcm.toml:"
        ' [unet] size = "512x512"'
    )


@pytest.mark.parametrize(
    ("size", "words"),
    [
        ("50x32", "size 50x32: width and height must be multiples of 8"),
        (512, "size must be WIDTHxHEIGHT"),
        ("0x32", "at most 4096x4096"),
        (1e999, "size must be WIDTHxHEIGHT"),
    ],
)
def test_sizes_that_cannot_be(root: Path, size: Any, words: str) -> None:
    with pytest.raises(NetworkError, match=f"^unet: .*{words}"):
        signature("unet", UNREAD, root / "unet", {"size": size})

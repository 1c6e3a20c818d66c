"""How the class RKNNLite behaves: cases for the real one on the emulated board and for the double.

Each case is a function of a `World`; CASES lists them for pytest.mark.parametrize. The network of
a world must take one image-like input [1, channels, height, width] with height != width first.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pytest import MonkeyPatch

from runtimes.rknn.file import RknnFile

Array = NDArray[Any]
HALF = 2e-2  # what half precision may make of values around one


@dataclass(frozen=True)
class World:
    """A class, a file, what its network should return for NCHW arrays, and a place to write."""

    lite: Callable[[], Any]
    path: Path
    expected: Callable[[Sequence[Array]], Sequence[Array]]
    folder: Path
    patch: MonkeyPatch

    def inputs(self, seed: int = 0) -> list[Array]:
        """Valid inputs, NCHW."""
        random = np.random.default_rng(seed)
        return [
            np.full(tensor.shape, 7, np.int64)
            if tensor.dtype == "int64"
            else random.standard_normal(tensor.shape, np.float32)
            for tensor in RknnFile.read(self.path).inputs
        ]

    @contextmanager
    def opened(self, core_mask: int = 0) -> Iterator[Any]:
        """A network that is ready to run."""
        lite = self.lite()
        assert lite.load_rknn(str(self.path)) == 0
        assert lite.init_runtime(core_mask=core_mask) == 0
        try:
            yield lite
        finally:
            lite.release()

    def assert_right(self, results: Sequence[Array], inputs: Sequence[Array]) -> None:
        """The results are the network's for these NCHW inputs."""
        for got, want in zip(results, self.expected(inputs), strict=True):
            assert got.dtype == np.float32
            assert got.shape == want.shape
            np.testing.assert_allclose(got, want, atol=HALF)


@contextmanager
def errors() -> Iterator[list[str]]:
    """What the vendor's logger says at level ERROR."""
    messages: list[str] = []
    handler = logging.Handler(logging.ERROR)
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("acuityLogger")
    logger.addHandler(handler)
    try:
        yield messages
    finally:
        logger.removeHandler(handler)


def nhwc(arrays: Sequence[Array]) -> list[Array]:
    """Four-dimensional arrays in the other layout."""
    return [
        np.ascontiguousarray(array.transpose(0, 2, 3, 1)) if array.ndim == 4 else array
        for array in arrays
    ]


def missing_file(world: World) -> None:
    with errors() as log:
        assert world.lite().load_rknn(str(world.folder / "none.rknn")) == -1
    assert "Invalid RKNN model path" in " ".join(log)


def corrupt_file_is_loaded_but_not_initialised(world: World) -> None:
    path = world.folder / "corrupt.rknn"
    path.write_bytes(b"RKNN" + bytes(1000))
    lite = world.lite()
    assert lite.load_rknn(str(path)) == 0
    with errors() as log:
        assert lite.init_runtime() == -1
    assert "RKNN_ERR_MODEL_INVALID" in " ".join(log)
    lite.release()


def init_before_load(world: World) -> None:
    with errors() as log:
        assert world.lite().init_runtime() == -1
    assert "not loaded" in " ".join(log)


def inference_before_init(world: World) -> None:
    lite = world.lite()
    lite.load_rknn(str(world.path))
    assert lite.inference(inputs=world.inputs(), data_format="nchw") is None


def failing_init_names_its_code(world: World) -> None:
    world.patch.setenv("NPU_FAULT", "init:-4")
    lite = world.lite()
    lite.load_rknn(str(world.path))
    with errors() as log:
        assert lite.init_runtime() == -1
    assert "RKNN_ERR_MALLOC_FAIL" in " ".join(log)
    lite.release()


def refused_core_mask(world: World) -> None:
    world.patch.setenv("NPU_FAULT", "core:-5")
    lite = world.lite()
    lite.load_rknn(str(world.path))
    assert lite.init_runtime(core_mask=7) == -1
    lite.release()


def every_core_mask(world: World) -> None:
    for core_mask in (0, 1, 2, 4, 3, 7):
        with world.opened(core_mask) as lite:
            inputs = world.inputs()
            world.assert_right(lite.inference(inputs=nhwc(inputs), data_format="nhwc"), inputs)


def both_formats_are_the_same_bytes(world: World) -> None:
    inputs = world.inputs()
    with world.opened() as lite:
        first = lite.inference(inputs=list(inputs), data_format="nchw")
        second = lite.inference(inputs=nhwc(inputs), data_format="nhwc")
    world.assert_right(first, inputs)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


def nchw_replaces_the_elements_of_the_list(world: World) -> None:
    inputs = world.inputs()
    given = list(inputs)
    with world.opened() as lite:
        lite.inference(inputs=given, data_format="nchw")
    assert given[0].shape == nhwc(inputs)[0].shape != inputs[0].shape


def nhwc_leaves_the_list_alone(world: World) -> None:
    given = nhwc(world.inputs())
    before = list(given)
    with world.opened() as lite:
        lite.inference(inputs=given, data_format="nhwc")
    assert all(a is b for a, b in zip(given, before, strict=True))


def no_format_is_nhwc(world: World) -> None:
    inputs = world.inputs()
    with world.opened() as lite:
        right = lite.inference(inputs=nhwc(inputs))
        misread = lite.inference(inputs=list(inputs))
    world.assert_right(right, inputs)
    assert misread is None or np.abs(misread[0] - right[0]).max() > HALF


def refused_inputs(world: World) -> None:
    good = nhwc(world.inputs())
    refused: list[Any] = [
        tuple(good),
        [good[0].astype(np.float64), *good[1:]],
        [np.array(1.0, np.float32), *good[1:]],
        [good[0][0], *good[1:]],
        good[:-1],
        [*good, good[0]],
    ]
    with world.opened() as lite:
        for inputs in refused:
            assert lite.inference(inputs=inputs, data_format="nhwc") is None
        assert lite.inference(inputs=list(good), data_format="NHWC") is None
        assert lite.inference(inputs=list(good), data_format="nhwc") is not None


def half_precision_and_single_are_both_taken(world: World) -> None:
    inputs = world.inputs()
    halves = [a.astype(np.float16) if a.dtype == np.float32 else a for a in nhwc(inputs)]
    with world.opened() as lite:
        world.assert_right(lite.inference(inputs=halves, data_format="nhwc"), inputs)


def results_are_fresh_arrays(world: World) -> None:
    first_inputs, second_inputs = world.inputs(1), world.inputs(2)
    with world.opened() as lite:
        first = lite.inference(inputs=nhwc(first_inputs), data_format="nhwc")
        lite.inference(inputs=nhwc(second_inputs), data_format="nhwc")
        world.assert_right(first, first_inputs)


def failing_run_returns_the_results_of_the_run_before(world: World) -> None:
    with world.opened() as lite:
        first = lite.inference(inputs=nhwc(world.inputs(1)), data_format="nhwc")
        world.patch.setenv("NPU_FAULT", "run:-1")
        second = lite.inference(inputs=nhwc(world.inputs(2)), data_format="nhwc")
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


def failing_first_run_returns_zeros(world: World) -> None:
    world.patch.setenv("NPU_FAULT", "run:-1")
    with world.opened() as lite:
        results = lite.inference(inputs=nhwc(world.inputs()), data_format="nhwc")
    assert not np.any(results[0])


def refused_by_the_driver(world: World) -> None:
    for fault in ("inputs:-5", "outputs:-8"):
        with world.opened() as lite:
            world.patch.setenv("NPU_FAULT", fault)
            assert lite.inference(inputs=nhwc(world.inputs()), data_format="nhwc") is None
            world.patch.delenv("NPU_FAULT")


def useless_values_are_returned(world: World) -> None:
    world.patch.setenv("NPU_FAULT", "nan")
    with world.opened() as lite:
        results = lite.inference(inputs=nhwc(world.inputs()), data_format="nhwc")
    assert np.isnan(results[0]).all()


def model_bytes_are_not_needed_after_init(world: World) -> None:
    inputs = world.inputs()
    with world.opened() as lite:
        assert len(lite.rknn_data) == world.path.stat().st_size
        lite.rknn_data = None
        world.assert_right(lite.inference(inputs=nhwc(inputs), data_format="nhwc"), inputs)


def release_twice(world: World) -> None:
    with world.opened() as lite:
        lite.release()
        assert lite.inference(inputs=nhwc(world.inputs()), data_format="nhwc") is None


CASES = [
    missing_file,
    corrupt_file_is_loaded_but_not_initialised,
    init_before_load,
    inference_before_init,
    failing_init_names_its_code,
    refused_core_mask,
    every_core_mask,
    both_formats_are_the_same_bytes,
    nchw_replaces_the_elements_of_the_list,
    nhwc_leaves_the_list_alone,
    no_format_is_nhwc,
    refused_inputs,
    half_precision_and_single_are_both_taken,
    results_are_fresh_arrays,
    failing_run_returns_the_results_of_the_run_before,
    failing_first_run_returns_zeros,
    refused_by_the_driver,
    useless_values_are_returned,
    model_bytes_are_not_needed_after_init,
    release_twice,
]

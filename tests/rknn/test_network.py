"""Networks on the doubled device: what goes in, what comes out, every silent failure named."""

from __future__ import annotations

import gc
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lcmcore.errors import ArgumentError, NetworkError, RuntimeUnavailableError
from lcmcore.runtime import Network, TensorSpec
from runtimes.rknn import RknnRuntime, board
from runtimes.rknn.file import RknnFile
from runtimes.rknn.network import RknnNetwork
from runtimes.rknn.signature import Signature, signature
from tests.rknn import fixtures
from tests.rknn.conftest import Npu, inputs_of, network_of
from tests.rknn.double import RKNNLiteDouble, double_of
from tests.rknn.lite_semantics import HALF
from tests.rknn.test_file import with_graph

Lites = list[RKNNLiteDouble]


def opened(root: Path, component: str = "vae_encoder", **options: Any) -> Network:
    return RknnRuntime().open(component, root / component, options)


@pytest.mark.parametrize("component", fixtures.COMPONENTS)
def test_results_are_those_of_the_onnx_network(tiny: Path, lites: Lites, component: str) -> None:
    inputs = inputs_of(tiny / component / "model.rknn")
    network = opened(tiny, component)
    got = network.run(inputs)
    expected = network_of(component)(list(inputs.values()))
    for array, want in zip(got.values(), expected, strict=True):
        np.testing.assert_allclose(array, want, atol=HALF)


def test_names_shapes_and_dtypes_are_those_of_the_file(tiny: Path, lites: Lites) -> None:
    network = opened(tiny, "unet")
    assert [str(spec) for spec in network.inputs] == [
        "sample [1, 4, 4, 6] float16",
        "timestep [1] int64",
        "encoder_hidden_states [1, 77, 16] float16",
        "timestep_cond [1, 256] float16",
    ]


def test_inputs_go_by_name_not_by_order(tiny: Path, lites: Lites) -> None:
    inputs = inputs_of(tiny / "unet" / "model.rknn")
    network = opened(tiny, "unet")
    turned = dict(reversed(inputs.items()))
    np.testing.assert_array_equal(network.run(inputs)["out_sample"],
                                  network.run(turned)["out_sample"])  # fmt: skip


def test_device_gets_contiguous_nhwc_and_integers(
    tiny: Path, lites: Lites, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = opened(tiny, "unet")
    given: list[Any] = []
    inference = lites[0].inference

    def spy(inputs: Any, data_format: str) -> Any:
        given.append(([*inputs], data_format))
        return inference(inputs, data_format)

    monkeypatch.setattr(lites[0], "inference", spy)
    inputs = inputs_of(tiny / "unet" / "model.rknn")
    inputs["timestep"] = np.array([999], np.int32)
    network.run(inputs)
    (arrays, data_format), = given  # fmt: skip
    assert data_format == "nhwc"  # the format for which RKNNLite gives no warning
    assert [array.shape for array in arrays] == [(1, 4, 6, 4), (1,), (1, 77, 16), (1, 256)]
    assert [array.dtype.name for array in arrays] == ["float32", "int64", "float32", "float32"]
    assert all(array.flags.c_contiguous for array in arrays)


def test_bytes_of_the_model_are_dropped(tiny: Path, lites: Lites) -> None:
    opened(tiny)
    assert lites[0].rknn_data is None


def test_close_releases_once(tiny: Path, lites: Lites) -> None:
    network = opened(tiny)
    network.close()
    network.close()
    assert lites[0].released
    with pytest.raises(NetworkError, match="closed"):
        network.run(inputs_of(tiny / "vae_encoder" / "model.rknn"))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("init:-6", "init_runtime.*RKNN_ERR_MODEL_INVALID"),
        ("init:-4", "init_runtime.*RKNN_ERR_MALLOC_FAIL"),
        ("core:-5", "init_runtime"),
    ],
)
def test_failing_open_is_named_and_released(
    tiny: Path, lites: Lites, monkeypatch: pytest.MonkeyPatch, fault: str, message: str
) -> None:
    monkeypatch.setenv("NPU_FAULT", fault)
    with pytest.raises(NetworkError, match=f"^vae_encoder: .*{message}"):
        opened(tiny, core_mask="0")
    assert lites[0].released


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("inputs:-5", "RKNN_ERR_PARAM_INVALID"),
        ("outputs:-8", "RKNN_ERR_OUTPUT_INVALID"),
        ("nan", "latent_parameters holds NaN or infinity"),
        ("inf", "latent_parameters holds NaN or infinity"),
        ("constant", "latent_parameters is 0.5 throughout"),
        ("run:-1", "rknn_run failed with code -1: see dmesg"),
        ("missing", "0 outputs instead of 1"),
    ],
)
def test_failing_run_is_named(
    tiny: Path, lites: Lites, monkeypatch: pytest.MonkeyPatch, fault: str, message: str
) -> None:
    network = opened(tiny)
    monkeypatch.setenv("NPU_FAULT", fault)
    inputs = inputs_of(tiny / "vae_encoder" / "model.rknn")
    with pytest.raises(NetworkError, match=f"^vae_encoder: .*{message}"):
        network.run(inputs)
    monkeypatch.delenv("NPU_FAULT")
    network.run(inputs)


def test_outputs_of_the_previous_run_are_an_error(
    tiny: Path, lites: Lites, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiny / "vae_encoder" / "model.rknn"
    network = opened(tiny)
    network.run(inputs_of(path, seed=1))
    network.run(inputs_of(path, seed=1))  # the same twice is no failure
    monkeypatch.setenv("NPU_FAULT", "run:-1")
    for _ in range(2):
        with pytest.raises(NetworkError, match=r"^vae_encoder: rknn_run failed"):
            network.run(inputs_of(path, seed=2))


def test_exception_of_the_library_is_named(
    tiny: Path, lites: Lites, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = opened(tiny)

    def broken(**keywords: Any) -> None:
        raise OSError("the device went away")

    monkeypatch.setattr(lites[0], "inference", broken)
    with pytest.raises(NetworkError, match="inference raised the device went away"):
        network.run(inputs_of(tiny / "vae_encoder" / "model.rknn"))


@pytest.mark.parametrize("shape", [(1, 3, 48, 32), (1, 3, 32, 47), (3, 32, 48)])
def test_wrong_shape_never_reaches_the_driver(
    tiny: Path, lites: Lites, shape: tuple[int, ...]
) -> None:
    network = opened(tiny)
    with pytest.raises(NetworkError, match=r"sample .*expected sample \[1, 3, 32, 48\]"):
        network.run({"sample": np.zeros(shape, np.float32)})


@pytest.mark.slow
def test_no_growth_in_memory(tiny: Path, lites: Lites) -> None:
    network = opened(tiny, "unet")
    inputs = inputs_of(tiny / "unet" / "model.rknn")
    network.run(inputs)

    def growth() -> int:
        gc.collect()
        before = len(gc.get_objects())
        for _ in range(20):
            network.run(inputs)
        gc.collect()
        return len(gc.get_objects()) - before

    # Threads of earlier tests make objects, too, but not in step with the runs.
    assert min(growth() for _ in range(3)) < 20


def test_core_mask_reaches_the_driver(
    tiny: Path, lites: Lites, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    original = RKNNLiteDouble.init_runtime

    def spy(self: RKNNLiteDouble, target: str | None = None, core_mask: int = 0) -> int:
        seen.append(core_mask)
        return original(self, target, core_mask)

    monkeypatch.setattr(RKNNLiteDouble, "init_runtime", spy)
    for name in ("auto", "0", "1", "2", "0_1", "0_1_2"):
        opened(tiny, core_mask=name).close()
    assert seen == [0, 1, 2, 4, 3, 7]  # RKNNLite.NPU_CORE_AUTO, _0, _1, _2, _0_1, _0_1_2


def test_what_is_opened_is_logged(
    tiny: Path, lites: Lites, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The logger is replaced, for pytest attaches its handlers to the vendor's logger too."""
    lines: list[str] = []
    monkeypatch.setattr("runtimes.rknn.runtime.log.info", lambda text, *v: lines.append(text % v))
    opened(tiny, core_mask="0")
    path = tiny / "vae_encoder" / "model.rknn"
    assert lines == [f"vae_encoder: {path} on rk3588, core mask 0"]


def test_unknown_core_mask(tiny: Path, lites: Lites) -> None:
    with pytest.raises(ArgumentError, match=r"core_mask must be one of auto, 0, .*not '3'"):
        opened(tiny, core_mask="3")


def test_other_platform(tiny: Path, lites: Lites, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board, "platform", lambda: "rk3576")
    with pytest.raises(NetworkError, match="built for rk3588 and this board is rk3576"):
        opened(tiny)
    assert not lites


def test_old_toolkit(tiny: Path, lites: Lites) -> None:
    path = tiny / "vae_encoder" / "model.rknn"
    path.write_bytes(with_graph(path.read_bytes(), version="2.2.0"))
    with pytest.raises(NetworkError, match=r"rknn-toolkit2 2\.2\.0.*2\.3\.0 or newer"):
        opened(tiny)
    assert not lites


def test_unknown_input_names_go_by_position(tiny: Path, lites: Lites) -> None:
    path = tiny / "unet" / "model.rknn"
    inputs = inputs_of(path)
    expected = opened(tiny, "unet").run(inputs)
    path.write_bytes(path.read_bytes().replace(b'"timestep"', b'"input.13"')
                     .replace(b'"sample"', b'"inp.1"'))  # fmt: skip
    _fix_length(path)
    network = opened(tiny, "unet")
    assert [spec.name for spec in network.inputs] == [*inputs]
    np.testing.assert_array_equal(network.run(inputs)["out_sample"], expected["out_sample"])


def test_unreadable_version_needs_a_size(
    tiny: Path, lites: Lites, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Unread:
        read = staticmethod(lambda path: RknnFile(path, version=7, size=0))

    monkeypatch.setattr("runtimes.rknn.runtime.RknnFile", Unread)
    with pytest.raises(NetworkError, match=r'\[unet\] size = "512x512"'):
        opened(tiny, "unet")
    expected = network_of("unet")(list(inputs_of(tiny / "unet" / "model.rknn").values()))
    for component in fixtures.COMPONENTS:
        config = fixtures.TINY / component / "config.json"
        (tiny / component / "config.json").write_bytes(config.read_bytes())
    got = opened(tiny, "unet", size="48x32").run(inputs_of(tiny / "unet" / "model.rknn"))
    np.testing.assert_allclose(next(iter(got.values())), expected[0], atol=HALF)


def test_order_of_inputs_that_contradicts_the_file(tiny: Path, lites: Lites) -> None:
    order = ["sample", "encoder_hidden_states", "timestep", "timestep_cond"]
    with pytest.raises(NetworkError, match="but the file has"):
        opened(tiny, "unet", inputs=order)


def test_no_board(tiny: Path) -> None:
    with pytest.raises(RuntimeUnavailableError, match="not a Rockchip board"):
        opened(tiny)


@pytest.fixture
def blind(monkeypatch: pytest.MonkeyPatch) -> None:
    """rknn_run's code is not to be seen, as in a version of RKNNLite that hides it."""
    monkeypatch.setattr(RknnNetwork, "_watch_runs", lambda self: None)


STALE = r"^vae_encoder: the outputs are those of the last run, which had other inputs: runs fail"


def calls_of(lite: RKNNLiteDouble, patch: pytest.MonkeyPatch) -> list[list[Any]]:
    """The inputs of each inference from now on."""
    calls: list[list[Any]] = []
    inference = lite.inference

    def spy(inputs: Any, data_format: str) -> Any:
        calls.append([*inputs])
        return inference(inputs, data_format)

    patch.setattr(lite, "inference", spy)
    return calls


def test_stale_outputs_are_noticed_by_their_bytes(
    tiny: Path, lites: Lites, blind: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiny / "vae_encoder" / "model.rknn"
    network = opened(tiny)
    network.run(inputs_of(path, seed=1))
    monkeypatch.setenv("NPU_FAULT", "run:-1")
    calls = calls_of(lites[0], monkeypatch)
    for _ in range(2):  # it is not forgotten
        with pytest.raises(NetworkError, match=STALE):
            network.run(inputs_of(path, seed=2))
    assert len(calls) == 6
    network.run(inputs_of(path, seed=1))  # for the same inputs they are right
    assert len(calls) == 7
    monkeypatch.delenv("NPU_FAULT")
    expected = network_of("vae_encoder")(list(inputs_of(path, seed=2).values()))
    got = network.run(inputs_of(path, seed=2))["latent_parameters"]
    np.testing.assert_allclose(got, expected[0], atol=HALF)
    assert len(calls) == 8


@pytest.mark.parametrize("component", ["unet", "text_encoder"])
@pytest.mark.parametrize("changed", [0, -1])
def test_any_other_input_makes_stale_outputs_an_error(
    tiny: Path, lites: Lites, blind: None, monkeypatch: pytest.MonkeyPatch,
    component: str, changed: int,
) -> None:  # fmt: skip
    inputs = inputs_of(tiny / component / "model.rknn")
    network = opened(tiny, component)
    network.run(inputs)
    monkeypatch.setenv("NPU_FAULT", "run:-1")
    network.run({name: array.copy() for name, array in inputs.items()})
    name = list(inputs)[changed]
    with pytest.raises(NetworkError, match="those of the last run"):
        network.run(inputs | {name: inputs[name] + inputs[name].dtype.type(1)})


def test_one_run_that_failed_silently_is_made_good(
    tiny: Path, lites: Lites, blind: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiny / "vae_encoder" / "model.rknn"
    network = opened(tiny)
    network.run(inputs_of(path, seed=1))
    inference, calls = lites[0].inference, []

    def failing_once(inputs: Any, data_format: str) -> Any:
        calls.append(inputs[0].copy())
        monkeypatch.setenv("NPU_FAULT", "run:-1" if len(calls) == 1 else "")
        return inference(inputs, data_format)

    monkeypatch.setattr(lites[0], "inference", failing_once)
    got = network.run(inputs_of(path, seed=2))["latent_parameters"]
    expected = network_of("vae_encoder")(list(inputs_of(path, seed=2).values()))
    np.testing.assert_allclose(got, expected[0], atol=HALF)
    assert len(calls) == 3
    np.testing.assert_array_equal(calls[1], 0)  # in between, an input unlike both
    np.testing.assert_array_equal(calls[0], calls[2])
    network.run(inputs_of(path, seed=2))
    assert len(calls) == 4


@pytest.mark.parametrize("failing", [(0, 1), (0, 2), (0, 1, 2)])
def test_runs_that_fail_again_are_an_error(
    tiny: Path, lites: Lites, blind: None, monkeypatch: pytest.MonkeyPatch, failing: tuple[int, ...]
) -> None:
    """Also if the run in between worked: then its outputs are in the place of the last."""
    path = tiny / "vae_encoder" / "model.rknn"
    network = opened(tiny)
    network.run(inputs_of(path, seed=1))
    inference, count = lites[0].inference, iter(range(9))

    def sometimes(inputs: Any, data_format: str) -> Any:
        monkeypatch.setenv("NPU_FAULT", "run:-1" if next(count) in failing else "")
        return inference(inputs, data_format)

    monkeypatch.setattr(lites[0], "inference", sometimes)
    with pytest.raises(NetworkError, match=STALE):
        network.run(inputs_of(path, seed=2))


def test_outputs_may_be_equal_for_inputs_that_half_precision_makes_equal(
    tiny: Path, lites: Lites, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network sees a live image of which a pixel changes by less than it can tell."""

    def coarse(inputs: Any) -> list[Any]:
        return network_of("vae_encoder")([np.round(inputs[0]).astype(np.float32)])

    network = opened(tiny)
    driver: Any = lites[0].rknn_runtime
    monkeypatch.setattr(driver, "_function", coarse)
    image = np.round(inputs_of(tiny / "vae_encoder" / "model.rknn")["sample"])
    first = network.run({"sample": image})["latent_parameters"]
    calls = calls_of(lites[0], monkeypatch)
    second = network.run({"sample": image + np.float32(0.25)})["latent_parameters"]
    np.testing.assert_array_equal(first, second)
    assert len(calls) == 3


def test_in_between_ones_take_the_place_of_zeros(
    tiny: Path, lites: Lites, blind: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = inputs_of(tiny / "unet" / "model.rknn")
    network = opened(tiny, "unet")
    network.run(inputs)
    monkeypatch.setenv("NPU_FAULT", "run:-1")
    calls = calls_of(lites[0], monkeypatch)
    with pytest.raises(NetworkError):
        network.run(inputs | {"sample": np.zeros((1, 4, 4, 6), np.float32)})
    assert [float(np.unique(array).item()) for array in calls[1]] == [1, 0, 0, 0]
    assert [array.dtype for array in calls[1]] == [array.dtype for array in calls[0]]


def test_what_the_caller_does_with_the_outputs_changes_nothing(
    tiny: Path, lites: Lites, blind: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiny / "vae_encoder" / "model.rknn"
    network = opened(tiny)
    network.run(inputs_of(path, seed=1))["latent_parameters"][...] = 0
    monkeypatch.setenv("NPU_FAULT", "run:-1")
    with pytest.raises(NetworkError, match=STALE):
        network.run(inputs_of(path, seed=2))


def test_the_collector_runs_after_every_eighth_run(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RKNNLite leaves cycles of 40 kB a run: collecting at each would cost milliseconds."""
    network, value = doubling(tiny), np.full((1, 1, 1, 1), 3, np.float32)
    collections: list[int] = []
    monkeypatch.setattr("runtimes.rknn.network.gc.collect", lambda: collections.append(run))
    for run in range(1, 99):
        network.run({"sample": value + np.float32(run)})
    assert collections == [*range(8, 99, 8)]


def test_unreachable_driver_is_named_with_its_remedy(
    tiny: Path, lites: Lites, npu: Npu, monkeypatch: pytest.MonkeyPatch
) -> None:
    npu.node.unlink()
    monkeypatch.setenv("NPU_FAULT", "init:-1")
    with pytest.raises(NetworkError) as error:
        opened(tiny)
    assert str(error.value) == (
        "vae_encoder: rknn-toolkit-lite2's init_runtime returned -1: RuntimeError: RKNN init"
        f" failed. error code: RKNN_ERR_FAIL; the NPU's device node {npu.node} is missing:"
        " in a container: docker run --device /dev/dri"
    )
    assert lites[0].released


def test_a_file_that_was_never_fetched(tiny: Path, lites: Lites) -> None:
    path = tiny / "vae_encoder" / "model.rknn"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
    with pytest.raises(NetworkError) as error:
        opened(tiny)
    words = "a Git LFS pointer, not the file itself: run `git lfs pull`"
    assert str(error.value) == f"vae_encoder: cannot open {path}: {words}"


def test_runtime_is_available_where_all_is_there(
    lites: Lites, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert RknnRuntime().available() is None
    monkeypatch.delitem(sys.modules, "rknnlite")
    reason = "rknn-toolkit-lite2 is not installed: pip install 'lcmcore[rknn]'"
    assert RknnRuntime().available() == reason


def test_a_hidden_device_tree_is_named_as_a_reason(
    lites: Lites, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(board, "platform", lambda: None)
    monkeypatch.setattr(board.device_tree_is_hidden, "__defaults__", (tmp_path / "none",))
    assert RknnRuntime().available() == (
        "this is not a Rockchip board, or /proc/device-tree/compatible cannot be read, by which"
        " rknn-toolkit-lite2 knows the SoC: in a container: docker run"
        " --security-opt systempaths=unconfined --device /dev/dri"
    )


@pytest.mark.parametrize(
    ("platform", "index", "options"),
    [
        ("rk3588", 0, {"core_mask": "0"}),
        ("rk3588", 2, {"core_mask": "2"}),
        ("rk3588", 3, {"core_mask": "0"}),
        ("rk3576", 3, {"core_mask": "1"}),
        ("rk3568", 1, {}),
        (None, 1, {}),
    ],
)
def test_workers_take_the_cores_in_turn(
    monkeypatch: pytest.MonkeyPatch, platform: str | None, index: int, options: dict[str, str]
) -> None:
    monkeypatch.setattr(board, "platform", lambda: platform)
    assert RknnRuntime().worker_options(index, 4) == options


def test_description_of_a_file(tiny: Path) -> None:
    assert list(RknnRuntime().describe(tiny / "vae_encoder" / "model.rknn")) == [
        "built for rk3588 by rknn-toolkit2 2.5.0",
        "input sample [1, 3, 32, 48] float16 NHWC",
        "output latent_parameters [1, 8, 4, 6] float16 NCHW",
        "no prediction: the NPU's program in it is of an unknown form",  # the fixture has zeros
    ]
    path = tiny / "model.rknn"
    path.write_bytes(b"RKNN" + bytes(4) + (7).to_bytes(8, "little") + bytes(2000))
    assert list(RknnRuntime().describe(path)) == ["file version 7 is not supported"]


def test_a_package_that_does_not_import_is_named(
    tiny: Path, lites: Lites, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rknnlite.api", None)
    with pytest.raises(NetworkError, match=r"^vae_encoder: rknn-toolkit-lite2 cannot be imported"):
        opened(tiny)


def test_a_class_that_cannot_be_made_is_named(
    tiny: Path, lites: Lites, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise OSError("no space left")

    monkeypatch.setattr(sys.modules["rknnlite.api"], "RKNNLite", broken)
    with pytest.raises(NetworkError, match=r"2's RKNNLite\(\) raised no space left$"):
        opened(tiny)


def test_a_missing_file_of_the_vendors(tiny: Path, lites: Lites) -> None:
    make = sys.modules["rknnlite.api"].RKNNLite  # type: ignore[attr-defined]
    path = tiny / "vae_encoder" / "model.rknn"
    layout = signature("vae_encoder", RknnFile.read(path), path.parent, {})
    with pytest.raises(NetworkError, match="load_rknn returned -1: Invalid RKNN model path"):
        RknnNetwork("vae_encoder", tiny / "none.rknn", layout, "auto", make)
    assert lites[0].released


def test_a_failing_release_is_named_once(
    tiny: Path, lites: Lites, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = opened(tiny)

    def broken() -> None:
        raise OSError("busy")

    monkeypatch.setattr(lites[0], "release", broken)
    with pytest.raises(NetworkError, match="release raised busy"):
        network.close()
    network.close()


def test_a_version_without_a_run_to_watch_works(
    tiny: Path, lites: Lites, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = RKNNLiteDouble.init_runtime

    def hiding(self: RKNNLiteDouble, target: str | None = None, core_mask: int = 0) -> int:
        code = original(self, target, core_mask)
        self.hidden, self.rknn_runtime = self.rknn_runtime, None  # type: ignore[attr-defined]
        return code

    def inference(self: RKNNLiteDouble, inputs: Any, data_format: str) -> Any:
        self.rknn_runtime = self.hidden  # type: ignore[attr-defined]
        return RKNNLiteDouble.inference(self, inputs, data_format)

    monkeypatch.setattr(RKNNLiteDouble, "init_runtime", hiding)
    monkeypatch.setattr(sys.modules["rknnlite.api"].RKNNLite, "inference", inference)
    assert opened(tiny).run(inputs_of(tiny / "vae_encoder" / "model.rknn"))


@pytest.mark.parametrize("result", [0, (0, "more")])
def test_what_a_run_returns_is_passed_on(
    tiny: Path, lites: Lites, monkeypatch: pytest.MonkeyPatch, result: Any
) -> None:
    """RKNNLite itself may look at it, in another version."""
    monkeypatch.setattr("tests.rknn.double._Driver.run", lambda self: result)
    opened(tiny)
    driver: Any = lites[0].rknn_runtime
    assert driver.run() == result


@pytest.mark.parametrize("result", [-7, (-7, "more")])
def test_codes_of_a_run_in_either_form(
    tiny: Path, lites: Lites, monkeypatch: pytest.MonkeyPatch, result: Any
) -> None:
    network = opened(tiny)
    inputs = inputs_of(tiny / "vae_encoder" / "model.rknn")
    monkeypatch.setattr("tests.rknn.double._fault", lambda call: result if call == "run" else 0)
    with pytest.raises(NetworkError, match="rknn_run failed with code -7: see dmesg"):
        network.run(inputs)


def doubling(tiny: Path, width: int = 1) -> RknnNetwork:
    """A network of a few numbers in and as many out, which are twice as large."""
    path = tiny / "vae_encoder" / "model.rknn"
    tensors = [
        {"tensor_id": number, "url": name, "size": [1, 1, 1, width]}
        for number, name in enumerate(("sample", "latent_parameters"))
    ]
    path.write_bytes(with_graph(path.read_bytes(), norm_tensor=tensors))
    spec = TensorSpec("sample", (1, 1, 1, width), "float32")
    form = Signature((spec,), (spec._replace(name="out"),))
    make = double_of(lambda arrays: [arrays[0] * 2])
    return RknnNetwork("vae_encoder", path, form, "auto", make)


def test_an_output_of_one_value_may_be_any(tiny: Path) -> None:
    """Constant outputs are refused; of one value nothing can be said."""
    value = np.full((1, 1, 1, 1), 3, np.float32)
    assert doubling(tiny).run({"sample": value})["out"].item() == 6


def test_two_equal_values_are_a_constant_output(tiny: Path) -> None:
    network = doubling(tiny, width=2)
    assert network.run({"sample": np.float32([[[[3, 4]]]])})["out"].tolist() == [[[[6, 8]]]]
    with pytest.raises(NetworkError) as error:
        network.run({"sample": np.float32([[[[3, 3]]]])})
    assert str(error.value) == (
        "vae_encoder: output out is 6 throughout: the run failed silently, or half precision"
        " overflowed; see dmesg, or use another runtime"
    )


def _fix_length(path: Path) -> None:
    """Adjust the header to names that have grown or shrunk."""
    data = path.read_bytes()
    start = data.rindex(b'{"connection"') - 8
    body, graph = data[64:start], data[start + 8 :]
    header = data[:16] + len(body).to_bytes(8, "little") + data[24:64]
    path.write_bytes(header + body + len(graph).to_bytes(8, "little") + graph)

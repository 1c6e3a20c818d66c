"""Networks on the doubled device: what goes in, what comes out, every silent failure named."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lcmcore.errors import ArgumentError, NetworkError, RuntimeUnavailableError
from lcmcore.runtime import Network
from runtimes.rknn import RknnRuntime, board
from runtimes.rknn.file import RknnFile
from tests.rknn import fixtures
from tests.rknn.conftest import inputs_of, network_of
from tests.rknn.double import RKNNLiteDouble
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
    gc.collect()
    before = len(gc.get_objects())
    for _ in range(20):
        network.run(inputs)
    gc.collect()
    assert len(gc.get_objects()) - before < 50


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


def _fix_length(path: Path) -> None:
    """Adjust the header to names that have grown or shrunk."""
    data = path.read_bytes()
    start = data.rindex(b'{"connection"') - 8
    body, graph = data[64:start], data[start + 8 :]
    header = data[:16] + len(body).to_bytes(8, "little") + data[24:64]
    path.write_bytes(header + body + len(graph).to_bytes(8, "little") + graph)

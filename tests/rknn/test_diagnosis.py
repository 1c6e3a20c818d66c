"""What `lcm doctor` finds on boards with several kinds of faults."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from runtimes.rknn import board, diagnosis
from runtimes.rknn.diagnosis import diagnose
from tests.rknn import fixtures
from tests.rknn.conftest import Npu
from tests.rknn.test_file import with_graph


def reported(root: Path | None, here: str | None, level: str) -> str:
    return "\n".join(
        f"{text} -> {remedy}" for kind, text, remedy in diagnose(root, here) if kind == level
    )


@pytest.fixture
def healthy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, npu: Npu) -> Path:
    """A board with driver, device node and library; the path of the library."""
    library = tmp_path / "librknnrt.so"
    library.write_bytes(b"\x7fELF\0librknnrt version: 2.5.0 (74ea630ce@2026-09-29T14:54:20)\0")
    monkeypatch.setattr(board, "library", lambda: library)
    return library


def test_host_has_no_errors(tiny: Path) -> None:
    findings = list(diagnose(tiny, None))
    assert {level for level, _, _ in findings} == {"ok"}
    assert "not a Rockchip board" in findings[0][1]
    assert ("ok", "images of 48x32", "") in findings


@pytest.mark.parametrize(
    ("newest", "words"),
    [
        (sys.version_info[:2], "is not installed -> pip install 'lcmcore[rknn]'"),
        ((3, 9), "has no wheel for this Python -> use Python 3.9"),
    ],
)
def test_board_without_software(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, newest: tuple[int, int], words: str
) -> None:
    monkeypatch.setattr(board, "library", lambda: None)
    monkeypatch.setattr(diagnosis, "_NEWEST_PYTHON", newest)
    assert diagnosis._IOMMU_DOMAIN == 4 * 2**30
    errors = reported(tiny, "rk3588", "error")
    assert f"rknn-toolkit-lite2 {words}" in errors
    assert "no librknnrt.so in /usr/lib -> sudo curl -fLo /usr/lib/librknnrt.so https://" in errors


def test_healthy_board(tiny: Path, healthy: Path, lites: list[object]) -> None:
    assert reported(tiny, "rk3588", "error") == reported(tiny, "rk3588", "warning") == ""
    assert "librknnrt.so 2.5.0" in reported(tiny, "rk3588", "ok")


def test_old_library(tiny: Path, healthy: Path) -> None:
    healthy.write_bytes(healthy.read_bytes().replace(b"2.5.0", b"1.6.0"))
    assert "librknnrt.so 1.6.0 is older than toolkit 2.5.0" in reported(tiny, "rk3588", "warning")


def test_other_board(tiny: Path, healthy: Path) -> None:
    errors = reported(tiny, "rk3568", "error")
    assert "unet: built for rk3588, this board is rk3568 -> rebuild it" in errors


def test_broken_and_old_files(tiny: Path) -> None:
    path = tiny / "unet" / "model.rknn"
    path.write_bytes(path.read_bytes()[:1000])
    path = tiny / "vae_decoder" / "model.rknn"
    path.write_bytes(with_graph(path.read_bytes(), version="2.1.0"))
    errors = reported(tiny, None, "error")
    assert "unet: " in errors
    assert "cut" in errors
    assert "vae_decoder: built by rknn-toolkit2 2.1.0, too old" in errors


def test_networks_of_different_sizes(tiny: Path) -> None:
    data = fixtures.read("unet").replace(b"[1, 4, 4, 6]", b"[1, 4, 8, 6]")
    data = data.replace(b'"size":[1,4,4,6]', b'"size":[1,4,8,6]')
    (tiny / "unet" / "model.rknn").write_bytes(data)
    assert "unet 6x8, vae_decoder 6x4, vae_encoder 6x4" in reported(tiny, None, "error")


def test_memory(tiny: Path, healthy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtimes.rknn.diagnosis.available_bytes", lambda: 2**20)
    assert "0.0 GiB is free" in reported(tiny, "rk3588", "warning")


def test_a_board_that_is_all_right_says_this(
    tiny: Path, healthy: Path, lites: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    version = healthy.parent / "version"
    version.write_text("RKNPU driver: v0.9.8\n")
    monkeypatch.setattr(board.driver_version, "__defaults__", (version,))
    found = list(diagnose(tiny, "rk3588"))
    files = {
        "text_encoder": "input_ids [1, 77] int64",
        "unet": "sample [1, 4, 4, 6] float16 NHWC",
        "vae_encoder": "sample [1, 3, 32, 48] float16 NHWC",
        "vae_decoder": "latent_sample [1, 4, 4, 6] float16 NHWC",
    }
    assert found == [
        ("ok", "SoC rk3588", ""),
        ("ok", "rknn-toolkit-lite2 of unknown version", ""),
        ("ok", "driver rknpu 0.9.8", ""),
        ("ok", f"{healthy} 2.5.0", ""),
        *(
            ("ok", f"{component}: for rk3588, toolkit 2.5.0, input {given}", "")
            for component, given in files.items()
        ),
        ("ok", "images of 48x32", ""),
    ]


@pytest.mark.parametrize(("version", "old"), [("0.8.2", True), ("0.9.3", True), ("0.9.6", False)])
def test_old_driver(
    tiny: Path, healthy: Path, monkeypatch: pytest.MonkeyPatch, version: str, old: bool
) -> None:
    monkeypatch.setattr(board, "driver_version", lambda: version)
    found = f"driver rknpu {version} is older than 0.9.6: runs may fail -> it is part of the kernel"
    assert (found in reported(tiny, "rk3588", "warning")) is old
    assert (f"driver rknpu {version} -> " in reported(tiny, "rk3588", "ok")) is not old


def test_a_version_that_only_root_may_read_is_no_fault(
    tiny: Path, healthy: Path, lites: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(board, "driver_version", lambda: None)
    healthy.write_bytes(b"\x7fELF")
    found = list(diagnose(tiny, "rk3588"))
    remedy = "run as root, or read /sys/kernel/debug/rknpu/version"
    assert ("ok", "version of the NPU driver unknown", remedy) in found
    assert ("ok", f"{healthy} of unknown version", "") in found
    assert {level for level, _, _ in found} == {"ok"}


@pytest.mark.parametrize("here", ["rk3588", None])
def test_no_access_to_the_node_is_an_error(
    tiny: Path, healthy: Path, lites: list[object], npu: Npu, here: str | None
) -> None:
    """The version of the driver is then not asked for as if nothing else were wrong."""
    npu.node.unlink()
    remedy = "in a container: docker run --device /dev/dri"
    found = list(diagnose(tiny, here))
    assert ("error", f"the NPU's device node {npu.node} is missing", remedy) in found
    assert "version of the NPU driver unknown" not in reported(tiny, here, "ok")


HIDDEN = "/proc/device-tree/compatible cannot be read, by which rknn-toolkit-lite2 knows the SoC"


def hide_device_tree(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(board.device_tree_is_hidden, "__defaults__", (folder / "compatible",))


def test_hidden_device_tree_of_a_container(
    tmp_path: Path, healthy: Path, lites: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """rknn-toolkit-lite2 is installed: the NPU is meant to work, whatever the model."""
    hide_device_tree(monkeypatch, tmp_path)
    (level, text, remedy), *others = diagnose(tmp_path, None)
    assert (level, text) == ("error", HIDDEN)
    assert remedy == (
        "in a container: docker run --security-opt systempaths=unconfined --device /dev/dri;"
        " on another machine: pip uninstall rknn-toolkit-lite2"
    )
    assert others[0][1].startswith("rknn-toolkit-lite2 ")
    assert {level for level, _, _ in others} == {"ok"}


def test_hidden_device_tree_of_a_board_by_its_driver(
    tiny: Path, npu: Npu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With .rknn files an error; without, the model may be ONNX Runtime's alone."""
    monkeypatch.setattr(diagnosis, "_NEWEST_PYTHON", (3, 99))
    hide_device_tree(monkeypatch, tmp_path)
    for root, level in ((tiny, "error"), (tmp_path, "warning")):
        assert HIDDEN in reported(root, None, level)
        assert "rknn-toolkit-lite2 is not installed" in reported(root, None, level)


def test_a_readable_device_tree_of_another_board_is_not_hidden(
    tiny: Path, lites: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "compatible").write_bytes(b"raspberrypi,5-model-b\0")
    hide_device_tree(monkeypatch, tmp_path)
    assert not diagnosis.npu_is_hidden()
    assert "not a Rockchip board" in reported(tiny, None, "ok")
    assert reported(tiny, None, "error") == ""


def test_a_pc_is_no_board_with_a_hidden_device_tree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide_device_tree(monkeypatch, tmp_path)
    monkeypatch.setattr("runtimes.rknn.device.is_there.__defaults__", (tmp_path,))
    assert not diagnosis.npu_is_hidden()


def test_a_board_that_does_not_use_its_npu_has_warnings(
    tmp_path: Path, npu: Npu, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(board, "library", lambda: None)
    monkeypatch.setattr(diagnosis, "_NEWEST_PYTHON", (3, 99))
    npu.node.unlink()
    assert reported(tmp_path, "rk3588", "error") == ""
    warnings = reported(tmp_path, "rk3588", "warning").splitlines()
    assert [line.split(" -> ")[0] for line in warnings] == [
        "rknn-toolkit-lite2 is not installed",
        f"the NPU's device node {npu.node} is missing",
        "no librknnrt.so in /usr/lib",
    ]


def test_without_a_model_directory_the_machine_alone_is_looked_at(
    healthy: Path, lites: list[object]
) -> None:
    assert {level for level, _, _ in diagnose(None, "rk3588")} == {"ok"}
    assert ("ok", "SoC rk3588", "") in diagnose(None, "rk3588")


def test_a_pointer_is_left_to_the_doctor_who_names_those_of_all_kinds(tiny: Path) -> None:
    (tiny / "unet" / "model.rknn").write_text("version https://git-lfs.github.com/spec/v1\n")
    (tiny / "vae_decoder" / "model.rknn").write_bytes(b"RKNN")
    errors = reported(tiny, None, "error")
    assert "unet" not in errors
    assert "vae_decoder: " in errors  # the files after it are looked at


def test_a_file_of_an_unknown_version_is_a_warning(tiny: Path) -> None:
    path = tiny / "unet" / "model.rknn"
    path.write_bytes(b"RKNN" + bytes(4) + (7).to_bytes(8, "little") + bytes(2000))
    words = "unet: file version 7 is not supported -> update lcmcore, or set `size` in lcm.toml"
    assert reported(tiny, None, "warning") == words


def test_remedies_of_files(tiny: Path, healthy: Path, lites: list[object]) -> None:
    rebuild = "rebuild it with `lcm build rknn`"
    found = list(diagnose(tiny, "rk3576"))
    assert ("error", "unet: built for rk3588, this board is rk3576", rebuild) in found
    path = tiny / "unet" / "model.rknn"
    path.write_bytes(with_graph(path.read_bytes(), version="2.2.0"))
    found = list(diagnose(tiny, "rk3588"))
    assert ("error", "unet: built by rknn-toolkit2 2.2.0, too old", rebuild) in found


@pytest.mark.parametrize("component", ["unet", "vae_encoder", "vae_decoder"])
def test_a_file_without_latents_holds_another_network(tiny: Path, component: str) -> None:
    """Its inputs and outputs have no height and width: there is nothing to compare."""
    (tiny / component / "model.rknn").write_bytes(fixtures.read("text_encoder"))
    errors = reported(tiny, None, "error")
    assert f"{component}: no latents go in or out, so the files hold other networks" in errors
    assert "rebuild it with `lcm build rknn`" in errors


def test_a_decoder_alone_tells_the_size_of_images(tiny: Path) -> None:
    for component in ("text_encoder", "unet", "vae_encoder"):
        (tiny / component / "model.rknn").unlink()
    assert "images of 48x32" in reported(tiny, None, "ok")
    (tiny / "vae_decoder" / "model.rknn").unlink()
    assert "images of" not in reported(tiny, None, "ok")


def test_sizes_that_differ_name_what_to_do(tiny: Path) -> None:
    (tiny / "vae_encoder" / "model.rknn").unlink()
    path = tiny / "unet" / "model.rknn"
    data = fixtures.read("unet").replace(b'"size":[1,4,4,6]', b'"size":[1,4,8,6]')
    path.write_bytes(data)
    words = "latents have different sizes: unet 6x8, vae_decoder 6x4 -> build all for one --size"
    assert reported(tiny, None, "error") == words


@pytest.mark.parametrize(
    ("library", "toolkits", "newest"),
    [
        ("2.5.0", ("2.3.0", "2.5.0"), None),
        ("2.10.0", ("2.5.0", "2.5.0"), None),
        ("2.4.9", ("2.3.0", "2.5.0"), "2.5.0"),
        ("2.5.0", ("2.10.0", "2.9.0"), "2.10.0"),
    ],
)
def test_age_of_the_library(
    tiny: Path,
    healthy: Path,
    lites: object,
    library: str,
    toolkits: tuple[str, str],
    newest: str | None,
) -> None:
    healthy.write_bytes(f"librknnrt version: {library} (a)".encode())
    for component in ("text_encoder", "vae_encoder"):
        (tiny / component / "model.rknn").unlink()
    for component, toolkit in zip(("unet", "vae_decoder"), toolkits, strict=True):
        path = tiny / component / "model.rknn"
        path.write_bytes(with_graph(path.read_bytes(), version=toolkit))
    words = (
        f"librknnrt.so {library} is older than toolkit {newest}, which built the files: it may"
        f' refuse them as "Invalid RKNN model version" -> update librknnrt.so to {newest}'
    )
    assert reported(tiny, "rk3588", "warning") == (words if newest else "")


@pytest.mark.parametrize(("free", "warned"), [(0, True), (-1, True), (1, False), (None, False)])
def test_memory_counts_the_largest_file_twice(
    tiny: Path, healthy: Path, lites: object, monkeypatch: pytest.MonkeyPatch,
    free: int | None, warned: bool,
) -> None:  # fmt: skip
    sizes = [(tiny / name / "model.rknn").stat().st_size for name in fixtures.COMPONENTS]
    needed = sum(sizes) + max(sizes)
    available = None if free is None else needed - 1 + free
    monkeypatch.setattr("runtimes.rknn.diagnosis.available_bytes", lambda: available)
    found = reported(tiny, "rk3588", "warning")
    words = (
        "the files need 0.0 GiB and 0.0 GiB is free"
        " -> stop other programs, or build for a smaller size"
    )
    assert found == (words if warned else "")


def test_memory_in_gibibytes(
    tiny: Path, healthy: Path, lites: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sparse files: the graph's JSON is moved to the end of a body of 2 GiB."""
    for component in ("text_encoder", "vae_encoder"):
        (tiny / component / "model.rknn").unlink()
    _grow(tiny / "unet" / "model.rknn", 2 * 2**30)
    _grow(tiny / "vae_decoder" / "model.rknn", 2**30)
    monkeypatch.setattr("runtimes.rknn.diagnosis.available_bytes", lambda: 2**30 + 2**29)
    found = reported(tiny, "rk3588", "warning")
    assert found.startswith("the files need 5.0 GiB and 1.5 GiB is free")
    assert "address" not in found
    _grow(tiny / "vae_decoder" / "model.rknn", 2**31)
    monkeypatch.setattr("runtimes.rknn.diagnosis.available_bytes", lambda: None)
    assert reported(tiny, "rk3588", "warning") == (
        "the files exceed the 4 GiB that the NPU can address"
        " -> run one network on the CPU, e.g. --component-runtime"
    )


def _grow(path: Path, body: int) -> None:
    data = path.read_bytes()
    start = 64 + int.from_bytes(data[16:24], "little")
    with path.open("wb") as file:
        file.write(data[:16] + body.to_bytes(8, "little") + data[24:64])
        file.write(data[64 : min(start, 64 + 2**14)])
        file.seek(64 + body)
        file.write(data[start:])


def test_version_of_a_package() -> None:
    assert diagnosis.version_of("no-such-package") == "of unknown version"
    assert diagnosis.version_of("numpy").count(".") == 2

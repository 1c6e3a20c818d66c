"""Compiled models that are kept: built once, trusted and checked as ONNX Runtime's graphs are."""

import shutil
import time

import numpy as np
import openvino
import pytest

from lcmcore.cli.info import describe
from runtimes.onnx import graph_cache
from runtimes.openvino import OpenVINORuntime
from tests.onnx.test_graph_cache import resident_kilobytes
from tests.openvino.test_images import to_ir
from tests.openvino.test_runtime import HAS_BFLOAT16, LATENTS
from tests.parity.bundles import assemble


@pytest.fixture
def root(tmp_path, monkeypatch):
    """The cache's folder; tiny networks count as large."""
    monkeypatch.setenv("LCM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("runtimes.openvino.runtime.MIN_BYTES", 0)
    monkeypatch.setattr(graph_cache, "_warned", set())
    return tmp_path / "cache"


@pytest.fixture
def bundle(tmp_path):
    return assemble("lcm", tmp_path / "bundle")


@pytest.fixture
def reads(monkeypatch):
    """What OpenVINO compiles: the path, and whether it came from the cache."""
    made = []
    real = openvino.Core.compile_model

    def counting(self, model, *rest):
        compiled = real(self, model, *rest)
        made.append(bool(compiled.get_property("LOADED_FROM_CACHE")))
        return compiled

    monkeypatch.setattr(openvino.Core, "compile_model", counting)
    return made


def decode(bundle, **options):
    network = OpenVINORuntime().open("vae_decoder", bundle / "vae_decoder", options)
    pixels = network.run(LATENTS)["sample"]
    network.close()
    return pixels


def blobs(root):
    return sorted(root.glob("*/*/*.blob"))


@pytest.mark.parametrize("form", [[], [to_ir]], ids=["onnx", "ir"])
def test_a_model_is_compiled_once(form, bundle, root, reads):
    for change in form:
        change(bundle)
    reads.clear()
    plain = decode(bundle, graph_cache=False)
    assert not root.exists()
    for threads in (1, 2, None):  # one entry for any number of them
        options = {} if threads is None else {"threads": threads}
        np.testing.assert_allclose(decode(bundle, **options), plain, atol=1e-5)
    assert reads == [False, False, True, True, True]
    (blob,) = blobs(root)
    assert blob.stat().st_mode & 0o777 == 0o600
    assert blob.parents[1].name == "openvino-cpu-f32"


@pytest.mark.skipif(not HAS_BFLOAT16, reason="this processor has no bfloat16")
def test_each_precision_has_an_entry(bundle, root):
    """OpenVINO's own key does not tell them apart."""
    single, half = decode(bundle), decode(bundle, precision="bfloat16")
    assert np.abs(single - half).max() > 1e-4
    assert len(blobs(root)) == 2
    np.testing.assert_array_equal(decode(bundle), single)
    np.testing.assert_array_equal(decode(bundle, precision="bfloat16"), half)


def test_each_size_has_an_entry(bundle, root, reads):
    to_ir(bundle)
    plain = decode(bundle)
    for size in ("64x64", " 64X64"):
        np.testing.assert_allclose(decode(bundle, size=size), plain, atol=1e-4)
    assert reads == [False, True, False, True, True]
    assert [path.parents[1].name for path in blobs(root)] == [
        "openvino-cpu-f32",
        "openvino-cpu-f32-64x64",
    ]
    text = "\n".join(describe(bundle))
    assert "openvino-cpu-f32-64x64: optimized graph: " in text


def test_a_small_model_gets_no_entry(bundle, root, monkeypatch):
    size = sum(path.stat().st_size for path in (bundle / "vae_decoder").iterdir())
    monkeypatch.setattr("runtimes.openvino.runtime.MIN_BYTES", size + 1)
    decode(bundle)
    assert blobs(root) == []
    monkeypatch.setattr("runtimes.openvino.runtime.MIN_BYTES", size)
    decode(bundle)
    assert len(blobs(root)) == 1


def test_another_model_replaces_the_entry(bundle, root):
    before = decode(bundle)
    shutil.copytree(assemble("taesd", bundle.with_name("other")), bundle, dirs_exist_ok=True)
    after = decode(bundle)
    assert before.shape != after.shape or np.abs(before - after).max() > 1e-3
    assert len(blobs(root)) == 1


def test_a_damaged_entry_is_rebuilt(bundle, root, reads, caplog):
    plain = decode(bundle)
    (blob,) = blobs(root)
    content = bytearray(blob.read_bytes())
    content[len(content) // 2] ^= 255
    blob.write_bytes(content)
    reads.clear()
    np.testing.assert_array_equal(decode(bundle), plain)
    assert "is damaged: it is rebuilt" in caplog.text
    assert reads == [False, True]


def test_an_entry_that_openvino_refuses_is_removed(bundle, root, reads, monkeypatch, caplog):
    """The model itself is opened then."""
    plain = decode(bundle)
    monkeypatch.setattr(
        "runtimes.openvino.runtime.graph_cache._is_stamped", lambda *_: True
    )  # so that nothing but OpenVINO looks at it
    (blob,) = blobs(root)
    blob.write_bytes(blob.read_bytes()[:500])
    reads.clear()
    np.testing.assert_array_equal(decode(bundle), plain)
    assert not any(reads)
    assert "failed: it is removed" in caplog.text
    assert blobs(root) == []


def test_what_others_can_write_to_is_not_used(bundle, root, reads, caplog):
    plain = decode(bundle)
    (root / "openvino-cpu-f32").chmod(0o777)
    reads.clear()
    np.testing.assert_array_equal(decode(bundle), plain)
    assert reads == [False]
    assert "others own it or can write to it" in caplog.text


def test_a_trimmed_network_holds_no_pages_of_the_file_and_runs_again(bundle, root):
    network = OpenVINORuntime().open("vae_decoder", bundle / "vae_decoder", {})
    before = network.run(LATENTS)["sample"]
    (blob,) = blobs(root)
    assert resident_kilobytes(str(blob)) > 0
    network.trim()  # by a thread, while the caller goes on
    deadline = time.monotonic() + 30
    while resident_kilobytes(str(blob)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert resident_kilobytes(str(blob)) == 0
    np.testing.assert_array_equal(network.run(LATENTS)["sample"], before)
    network.close()


def test_info_tells_of_the_entry_and_checks_it(bundle, root):
    to_ir(bundle)
    decode(bundle)
    text = "\n".join(describe(bundle, check=True))
    assert "openvino-cpu-f32: optimized graph: " in text
    assert "current" in text
    assert "openvino-cpu-f32: optimized graph: checked, whole" in text

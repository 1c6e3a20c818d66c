"""The cache of optimized graphs: when an entry is used, rebuilt, or left out."""

import ast
import json
import multiprocessing
import os
import shutil
import stat
import time
from pathlib import Path

import numpy as np
import pytest

from lcmcore import ArgumentError
from lcmcore.cli.info import describe
from runtimes.onnx import OnnxRuntime, cpu, graph_cache
from tests.parity.bundles import TINY

LATENTS = {"latent_sample": np.random.default_rng(0).normal(size=(1, 4, 8, 8)).astype(np.float32)}


@pytest.fixture
def root(tmp_path, monkeypatch):
    """The cache's folder; tiny networks count as large."""
    monkeypatch.setenv("LCM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(graph_cache, "MIN_BYTES", 0)
    return tmp_path / "cache" / "onnx"


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(TINY / "lcm" / "vae_decoder", tmp_path / "vae_decoder")


@pytest.fixture
def builds(monkeypatch):
    """The sources of the entries that were built."""
    from runtimes.onnx import optimize

    made = []
    real = optimize.optimize

    def counting(source, target, ort):
        made.append(source)
        real(source, target, ort)

    monkeypatch.setattr(optimize, "optimize", counting)
    return made


def decode(folder, **options):
    network = OnnxRuntime().open("vae_decoder", folder, options)
    pixels = network.run(LATENTS)["sample"]
    network.close()
    return pixels


def entries(root):
    return [path for path in root.iterdir() if path.is_dir()]


def test_an_entry_is_built_once_and_decodes_the_same(root, folder, builds):
    plain = decode(folder, graph_cache=False)
    assert not root.exists()
    for _ in range(3):
        np.testing.assert_allclose(decode(folder), plain, atol=1e-5 * np.abs(plain).max())
    assert builds == [folder / "model.onnx"]


def resident_kilobytes(name):
    """How much of a mapped file is in memory, as the kernel reports it."""
    total, counts = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first = line.split()[0]
        if not first.endswith(":"):
            counts = line.endswith(name)
        elif first == "Rss:" and counts:
            total += int(line.split()[1])
    return total


def test_a_trimmed_network_holds_no_weights_and_runs_again(root, folder):
    network = OnnxRuntime().open("vae_decoder", folder, {})
    before = network.run(LATENTS)["sample"]
    (entry,) = entries(root)
    weights = str(entry / graph_cache.WEIGHTS)
    assert resident_kilobytes(weights) > 0
    network.trim()  # by a thread, while the caller goes on
    deadline = time.monotonic() + 30
    while resident_kilobytes(weights) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert resident_kilobytes(weights) == 0
    np.testing.assert_array_equal(network.run(LATENTS)["sample"], before)
    network.close()


def test_a_changed_model_replaces_its_entry(root, folder, builds):
    decode(folder)
    shutil.copy(TINY / "taesd" / "vae_decoder" / "model.onnx", folder)
    assert np.array_equal(decode(folder, graph_cache=False).shape, decode(folder).shape)
    assert len(builds) == 2
    assert len(entries(root)) == 1


def test_a_model_with_another_date_keeps_its_entry(root, folder, builds):
    decode(folder)
    os.utime(folder / "model.onnx", (1, 1))
    decode(folder)
    assert len(builds) == 1


@pytest.mark.slow
@pytest.mark.parametrize("what", ["cpu", "ONNX Runtime", "package", "sources"])
def test_another_machine_or_software_replaces_the_entry(
    what, root, folder, builds, tmp_path, monkeypatch
):
    decode(folder)
    if what == "cpu":
        monkeypatch.setattr(graph_cache, "_cpu", lambda: "another")
    elif what == "ONNX Runtime":
        monkeypatch.setattr("onnxruntime.__version__", "0.1")
    elif what == "package":
        monkeypatch.setattr("lcmcore.__version__", "0.0.1")
    else:
        monkeypatch.setattr(graph_cache, "_PACKAGE", changed_package(tmp_path, "graph.py"))
    decode(folder)
    assert len(builds) == 2
    assert len(entries(root)) == 1


PACKAGE = Path(graph_cache.__file__).parent
DECISIVE = sorted(
    {"graph.py", "optimize.py", "protobuf.py", "model_files.py", "checksums.py"}
    | {f"rewrites/{path.name}" for path in (PACKAGE / "rewrites").glob("*.py")}
)


def changed_package(tmp_path, name):
    """A copy of runtimes/onnx in which one file has a character more."""
    copy = shutil.copytree(PACKAGE, tmp_path / "onnx")
    with (copy / name).open("a") as file:
        file.write(" ")
    return copy


@pytest.mark.parametrize("name", DECISIVE)
def test_a_changed_source_gives_another_key(name, tmp_path, monkeypatch):
    """So that nobody has to remember to count up a version."""
    key = graph_cache._build_key("1.0")
    assert graph_cache._build_key("1.0") == key
    monkeypatch.setattr(graph_cache, "_PACKAGE", changed_package(tmp_path, name))
    assert graph_cache._build_key("1.0") != key


def test_other_sources_keep_the_key(tmp_path, monkeypatch):
    key = graph_cache._build_key("1.0")
    monkeypatch.setattr(graph_cache, "_PACKAGE", changed_package(tmp_path, "build.py"))
    assert graph_cache._build_key("1.0") == key


def test_the_key_covers_all_that_optimizing_imports():
    """Of this package: a module that a rewrite begins to use must be in the key, too."""
    found = {path for pattern in graph_cache._SOURCES for path in PACKAGE.glob(pattern)}
    imported = {
        name
        for path in found
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom)
        and (name := node.module or "").startswith("runtimes.onnx")
    }
    assert "runtimes.onnx.rewrites.attention" in imported
    roots = PACKAGE.parents[1]
    assert {roots / f"{name.replace('.', '/')}.py" for name in imported} <= found


def cut(path):
    path.write_bytes(path.read_bytes()[:-9])


def spoil(path):
    path.write_bytes(b"\xff" * path.stat().st_size)


HARMS = [
    (name, harm)
    for name in ("model.onnx", "model.weights", "entry.json")
    for harm in (cut, spoil, os.unlink)
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "harm"), HARMS)
def test_a_broken_entry_is_rebuilt(name, harm, root, folder, builds):
    plain = decode(folder)
    harm(entries(root)[0] / name)
    for _ in range(2):
        np.testing.assert_allclose(decode(folder), plain, atol=1e-5 * np.abs(plain).max())
    assert len(builds) == 2


@pytest.mark.slow
def test_what_a_crash_leaves_behind_is_removed(root, folder, builds):
    decode(folder)
    entry = entries(root)[0]
    remains = entry.with_name(f"{entry.name}.half")
    (remains / "entry").mkdir(parents=True)
    (entry / "entry.json").unlink()
    decode(folder)
    assert not remains.exists()
    assert len(entries(root)) == 1


def test_where_nothing_can_be_written(root, folder, builds):
    root.parent.mkdir()
    root.write_text("a file in the way")
    assert decode(folder).shape == (1, 3, 64, 64)
    assert builds == []


def test_a_full_disk(root, folder, builds, monkeypatch):
    usage = shutil.disk_usage("/")._replace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    assert decode(folder).shape == (1, 3, 64, 64)
    assert builds == []
    assert entries(root) == []


def test_small_models_have_no_entry(root, folder, builds, monkeypatch):
    monkeypatch.setattr(graph_cache, "MIN_BYTES", 10**9)
    decode(folder)
    assert builds == []


def test_weights_beside_the_file(root, tmp_path, builds):
    from tests.onnx.test_runtime import OUTSIDE, write_weighted

    write_weighted(tmp_path / "net", **OUTSIDE)
    plain = decode(tmp_path / "net")
    data = tmp_path / "net" / "model.onnx_data"
    assert data.stat().st_nlink == 1
    data.write_bytes(data.read_bytes()[::-1])
    assert not np.array_equal(decode(tmp_path / "net"), plain)
    assert len(builds) == 2


def test_closing_unmaps_the_weights(root, folder):
    def mapped():
        with Path("/proc/self/maps").open() as lines:
            return any("model.weights" in line for line in lines)

    network = OnnxRuntime().open("vae_decoder", folder, {})
    assert mapped()
    network.close()
    assert not mapped()


def open_one(folder, results):
    graph_cache.MIN_BYTES = 0
    results.put(decode(folder).sum())


@pytest.mark.slow
def test_many_processes_at_once(root, folder):
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    processes = [context.Process(target=open_one, args=(folder, results)) for _ in range(3)]
    for process in processes:
        process.start()
    sums = [results.get(timeout=120) for _ in processes]
    for process in processes:
        process.join()
    assert len({float(total) for total in sums}) == 1
    assert len(entries(root)) == 1
    assert stat.S_ISREG(next(root.glob("*.lock")).stat().st_mode)


@pytest.mark.slow
def test_info_reports_the_entry(root, tmp_path):
    bundle = shutil.copytree(TINY / "lcm", tmp_path / "lcm")
    assert sum("graph: none yet" in line for line in describe(bundle)) == 4
    assert not root.exists()
    decode(bundle / "vae_decoder")
    line = next(line for line in describe(bundle) if "MiB, current" in line)
    assert str(entries(root)[0]) in line
    (entry,) = entries(root)
    made = json.loads((entry / "entry.json").read_text())
    (entry / "entry.json").write_text(json.dumps({**made, "by": []}))
    assert any("outdated" in line for line in describe(bundle))


def test_an_option_that_is_wrong(folder):
    with pytest.raises(ArgumentError, match="graph_cache must be true or false, not 'no'"):
        decode(folder, graph_cache="no")


@pytest.mark.parametrize(
    ("capacities", "affinity", "expected"),
    [
        ([530] * 4 + [1024] * 4, range(8), [4, 5, 6, 7]),
        ([530] * 4 + [1020, 1024] * 2, range(8), [4, 5, 6, 7]),
        ([530] * 4 + [1024] * 4, range(3, 6), [4, 5]),
        ([530] * 4 + [1024] * 4, range(4), []),
        ([1024] * 4, range(4), []),
        ([], range(4), []),
    ],
)
def test_big_cores(capacities, affinity, expected, tmp_path, monkeypatch):
    for core, capacity in enumerate(capacities):
        (tmp_path / f"cpu{core}").mkdir()
        (tmp_path / f"cpu{core}" / "cpu_capacity").write_text(f"{capacity}\n")
    monkeypatch.setattr(cpu, "usable_cores", lambda: list(affinity))
    assert cpu.big(tmp_path) == expected


def test_threads_stay_on_the_big_cores(folder, monkeypatch):
    from runtimes.onnx import runtime

    real, given = runtime._session_options, []
    monkeypatch.setattr(
        runtime, "_session_options", lambda *args: given.append(real(*args)) or given[-1]
    )
    monkeypatch.setattr(cpu, "big", lambda: [0, 1])
    decode(folder)
    assert given[-1].intra_op_num_threads == 2
    assert given[-1].get_session_config_entry("session.intra_op_thread_affinities") == "2"
    decode(folder, threads=1)
    assert given[-1].intra_op_num_threads == 1

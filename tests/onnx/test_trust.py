"""The cache among strangers and power cuts: what is verified, trusted, waited for, cleaned up."""

import errno
import fcntl
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from lcmcore import NetworkError
from lcmcore.cli.main import main
from lcmcore.util import private_folder
from runtimes.onnx import OnnxRuntime, cache_locks, checksums, graph_cache
from tests.onnx.test_graph_cache import LATENTS, builds, decode, entries, folder, root
from tests.onnx.test_optimize import write_weighted
from tests.parity.bundles import TINY

pytestmark = pytest.mark.host  # the same on every processor, and hundreds of tests

__all__ = ["builds", "folder", "root"]  # fixtures


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """As in a new process: what was warned of is forgotten, and short files have chunks."""
    monkeypatch.setattr(graph_cache, "_warned", set())
    monkeypatch.setattr(checksums, "CHUNK", 4096)


@pytest.fixture
def reads(monkeypatch):
    """The files whose checksums were compared, and whether by a sample."""
    made = []
    real = graph_cache.is_intact

    def counting(path, known, sampled):
        made.append((path.name, sampled))
        return real(path, known, sampled)

    monkeypatch.setattr(graph_cache, "is_intact", counting)
    return made


BOTH = ("model.onnx", "model.weights")
WHOLE, SAMPLED = [(name, False) for name in BOTH], [(name, True) for name in BOTH]


def restart(monkeypatch, value="another boot"):
    monkeypatch.setattr(graph_cache, "boot_id", lambda: value)


def zero(path, size=512, offset=4096):
    """Bytes that never reached the disk; its size stays."""
    with path.open("r+b") as file:
        file.seek(offset)
        assert any(file.read(size))
        file.seek(offset)
        file.write(bytes(size))


def warnings(caplog):
    return [each.message for each in caplog.records if each.levelno == logging.WARNING]


def test_checksums_are_those_of_zlib_for_each_chunk(tmp_path):
    """Of "123456789", the value that every description of CRC-32 gives, and of nothing."""
    path = tmp_path / "file"
    path.write_bytes(b"123456789" + bytes(4087) + b"123456789")
    assert checksums.checksums(path)[8:] == "cbf43926"
    assert len(checksums.checksums(path)) == 16
    path.write_bytes(b"")
    assert checksums.checksums(path) == ""
    assert checksums.is_intact(path, "")


def test_a_sample_finds_what_is_in_all_chunks_and_reads_few(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(os.urandom(4096) * 100)
    known = checksums.checksums(path)
    assert checksums.is_intact(path, known, sampled=True)
    monkeypatch.setattr(checksums, "checksums", lambda path: pytest.fail("read whole"))
    assert checksums.is_intact(path, known, sampled=True)
    path.write_bytes(bytes(409600))
    assert not checksums.is_intact(path, known, sampled=True)


def test_a_sample_is_of_all_chunks(tmp_path, monkeypatch):
    """Each is compared with its own checksum."""
    path = tmp_path / "file"
    path.write_bytes(os.urandom(4096 * 40))
    known = checksums.checksums(path)
    for index in range(40):
        monkeypatch.setattr(os, "urandom", lambda _, index=index: (index + 80).to_bytes(8, "big"))
        assert checksums.is_intact(path, known, sampled=True)
        other = known[: 8 * index] + "00000000" + known[8 * index + 8 :]
        assert not checksums.is_intact(path, other, sampled=True)


def test_short_files_are_compared_whole(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(os.urandom(4096 * 32))
    known = checksums.checksums(path)
    monkeypatch.setattr(os, "urandom", lambda _: b"\1")  # the chunk that a sample would be of
    for index in (31, 0):
        zero(path, 4096, 4096 * index)
        assert not checksums.is_intact(path, known, sampled=True)
    assert not checksums.is_intact(path, known[:-8])


def test_the_boot_id_is_the_kernels(tmp_path, monkeypatch):
    assert checksums.boot_id() == Path("/proc/sys/kernel/random/boot_id").read_text()[:-1]
    monkeypatch.setattr(checksums, "_BOOT_ID", tmp_path / "none")
    assert checksums.boot_id() is None
    (tmp_path / "none").write_text("\n")
    assert checksums.boot_id() is None


def test_a_status_changes_whatever_date_is_given(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    before = checksums.status(path)
    time.sleep(0.02)
    path.write_bytes(b"xyz")
    os.utime(path, ns=(before[1], before[1]))
    assert checksums.status(path) != before
    assert checksums.status(path)[:2] == before[:2]


@pytest.mark.slow
def test_an_entry_is_read_once_after_each_boot(root, folder, builds, reads, monkeypatch):
    decode(folder)
    decode(folder)
    assert reads == []  # what was just written
    restart(monkeypatch)
    decode(folder)
    decode(folder)
    assert reads == WHOLE
    os.utime(entries(root)[0] / "model.weights")
    decode(folder)
    decode(folder)
    assert reads == 2 * WHOLE
    os.utime(folder / "model.onnx")
    decode(folder)
    assert reads == 2 * WHOLE
    assert len(builds) == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("date_kept", [True, False])
def test_a_lost_page_is_noticed(name, date_kept, root, folder, builds, caplog):
    """Of the right size, it made another image, or NaN for ever."""
    plain = decode(folder)
    (entry,) = entries(root)
    path = entry / name
    before = path.stat()
    zero(path, 64, path.stat().st_size // 2 if name == "model.weights" else 64)
    if date_kept:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    np.testing.assert_array_equal(decode(folder), plain)
    assert len(builds) == 2
    (line,) = warnings(caplog)
    assert f"{entry} is damaged: it is rebuilt" in line


@pytest.mark.slow
def test_a_page_lost_with_the_power(root, folder, builds, monkeypatch):
    """The status of the file is the one that was stamped, if that page never came to the disk."""
    plain = decode(folder)
    (entry,) = entries(root)
    zero(entry / "model.weights")
    stamp = graph_cache._stamp_path(entry)
    built = json.loads((entry / "entry.json").read_text())
    stamp.write_text(json.dumps(graph_cache._stamp(entry, built, folder / "model.onnx")))
    restart(monkeypatch)
    np.testing.assert_array_equal(decode(folder), plain)
    assert len(builds) == 2


@pytest.mark.slow
def test_without_a_boot_id_a_sample_is_read_each_time(root, folder, reads, monkeypatch):
    restart(monkeypatch, None)
    decode(folder)
    decode(folder)
    decode(folder)
    assert reads == 2 * SAMPLED
    os.utime(entries(root)[0] / "model.weights")
    decode(folder)
    assert reads == 2 * SAMPLED + WHOLE


@pytest.mark.slow
def test_where_no_stamp_can_be_written(root, folder, builds, reads):
    decode(folder)
    (entry,) = entries(root)
    stamp = graph_cache._stamp_path(entry)
    stamp.unlink()
    stamp.mkdir()
    decode(folder)
    decode(folder)
    assert reads == 2 * SAMPLED
    assert len(builds) == 1


@pytest.mark.slow
@pytest.mark.parametrize("content", ["", "{", "[]", "null", "[" * 100000, "{}"])
def test_a_stamp_that_is_none(content, root, folder, builds, reads):
    decode(folder)
    graph_cache._stamp_path(entries(root)[0]).write_text(content)
    decode(folder)
    assert reads == WHOLE
    assert len(builds) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        {"files": [["model.weights", 0, ""]]},
        {"files": 1},
        {"files": [1]},
        {"from": []},
        {"from": [1]},
        {"from": [["model.onnx"]]},
        {"by": None},
    ],
)
def test_an_entry_that_describes_itself_wrongly(change, root, folder, builds):
    plain = decode(folder)
    path = entries(root)[0] / "entry.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    np.testing.assert_array_equal(decode(folder), plain)
    assert len(builds) == 2


@pytest.mark.slow
def test_info_check_reads_all_and_removes_what_is_damaged(root, tmp_path, monkeypatch, capsys):
    bundle = shutil.copytree(TINY / "lcm", tmp_path / "lcm")
    decode(bundle / "vae_decoder")
    (entry,) = entries(root)
    assert main(["info", str(bundle)]) == 0
    assert "checked" not in capsys.readouterr().out
    assert main(["info", "--check", str(bundle)]) == 0
    assert capsys.readouterr().out.count("optimized graph: checked, whole") == 1
    zero(entry / "model.weights")
    assert main(["info", "--check", str(bundle)]) == 0
    assert capsys.readouterr().out.count("optimized graph: DAMAGED; removed") == 1
    assert entries(root) == []
    assert main(["info", "--check", str(bundle)]) == 0
    assert "DAMAGED" not in capsys.readouterr().out


def test_info_check_of_what_others_can_write(root, folder):
    decode(folder)
    (entry,) = entries(root)
    entry.chmod(0o777)
    line = graph_cache.check(folder / "model.onnx")
    assert line.startswith("optimized graph: not checked, ")
    assert str(entry) in line
    assert entry.is_dir()
    assert line.startswith(f"optimized graph: not checked, not used: {entry} is a link, or others")
    line = graph_cache.state(folder / "model.onnx", "1")
    assert line.startswith(f"optimized graph: not used: {entry} is a link, or others own it")


def test_info_on_a_cache_that_others_can_write_to(root, folder):
    decode(folder)
    root.parent.chmod(0o777)
    for line in (
        graph_cache.state(folder / "model.onnx", "1"),
        graph_cache.check(folder / "model.onnx"),
    ):
        assert f"not used: {root.parent} is a link, or others own it or can write to it" in line
        assert "current" not in line
        assert "whole" not in line


def test_info_on_a_cache_that_would_be_refused_before_it_has_an_entry(
    root, folder, builds, monkeypatch
):
    """As the run does, which builds nothing there."""
    source = folder / "model.onnx"
    assert graph_cache.state(source, "1") == "optimized graph: none yet"  # nor a folder
    assert not root.parent.exists()
    root.parent.mkdir()
    assert graph_cache.state(source, "1") == "optimized graph: none yet"
    root.parent.chmod(0o777)
    line = graph_cache.state(source, "1")
    assert line.startswith(f"optimized graph: not used: {root.parent} is a link, or others own it")
    decode(folder)
    assert builds == []
    root.parent.chmod(0o1777)  # others cannot replace what is in it, as in /tmp
    assert graph_cache.state(source, "1") == "optimized graph: none yet"
    root.chmod(0o770)
    line = graph_cache.state(source, "1")
    assert line.startswith(f"optimized graph: not used: {root} is a link, or others own it")
    monkeypatch.setattr(graph_cache, "MIN_BYTES", 2**40)  # then the run does not look at it
    assert graph_cache.state(source, "1") == "optimized graph: none, the model is small"
    monkeypatch.undo()


def test_folders_and_files_are_made_for_one_user(root, folder):
    old = os.umask(0)
    try:
        decode(folder)
    finally:
        os.umask(old)
    (entry,) = entries(root)
    for path in (root.parent, root, entry):
        assert path.stat().st_mode & 0o777 == 0o700
    for path in (*entry.iterdir(), *root.glob("*.lock")):
        assert path.stat().st_mode & 0o777 == 0o600


def group_writable(path):
    path.chmod(path.stat().st_mode | 0o020)


def world_writable(path):
    path.chmod(path.stat().st_mode | 0o002)


def linked(path):
    path.rename(path.with_name(f"{path.name}-real"))
    path.symlink_to(f"{path.name}-real")


@pytest.mark.slow
@pytest.mark.parametrize("plant", [group_writable, world_writable, linked])
@pytest.mark.parametrize("what", ["onnx", "entry", *BOTH, "entry.json"])
def test_a_planted_entry_is_neither_used_nor_removed(plant, what, root, folder, builds, caplog):
    plain = decode(folder, graph_cache=False)
    decode(folder)
    (entry,) = entries(root)
    path = {"onnx": root, "entry": entry}.get(what, entry / what)
    plant(path)
    zero(entry / "model.weights")
    for _ in range(3):
        np.testing.assert_array_equal(decode(folder), plain)
    (line,) = warnings(caplog)
    assert f"{path} is a link, or others own it or can write to it" in line
    assert "LCM_CACHE" in line
    assert len(builds) == 1
    assert (
        sorted(path.name for path in entry.iterdir() if "real" not in path.name)[0] == "entry.json"
    )


@pytest.mark.slow
@pytest.mark.parametrize("what", ["cache", "onnx", "entry", "model.weights"])
def test_what_belongs_to_others_is_neither_used_nor_removed(
    what, root, folder, builds, caplog, monkeypatch
):
    decode(folder)
    (entry,) = entries(root)
    path = {"cache": root.parent, "onnx": root, "entry": entry}.get(what, entry / what)
    inode = path.stat().st_ino
    real = private_folder._is_foreign
    monkeypatch.setattr(
        private_folder, "_is_foreign", lambda status: status.st_ino == inode or real(status)
    )
    decode(folder)
    (line,) = warnings(caplog)
    assert str(path) in line
    assert len(builds) == 1
    assert (entry / "model.weights").exists()


def test_root_and_the_user_are_trusted(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_text("")
    status = path.stat()
    mine = status.st_uid
    monkeypatch.setattr(os, "geteuid", lambda: 1234)
    foreign = os.stat_result([*status[:4], 99, *status[5:]])
    own = os.stat_result([*status[:4], 1234, *status[5:]])
    roots = os.stat_result([*status[:4], 0, *status[5:]])
    assert [private_folder._is_foreign(each) for each in (foreign, own, roots)] == [
        True,
        False,
        False,
    ]
    assert mine == os.getuid()


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "used"), [(0o755, 1), (0o777, 0), (0o770, 0), (0o1777, 1)])
def test_a_shared_folder_around_the_cache(mode, used, root, folder, builds, tmp_path):
    """In one with the sticky bit, as /tmp, nobody can put a folder in the place of ours."""
    root.parent.mkdir()
    root.parent.chmod(mode)
    decode(folder)
    assert len(builds) == used


def test_a_link_to_the_cache_is_the_users(root, folder, builds, tmp_path):
    (tmp_path / "disk").mkdir()
    root.parent.symlink_to("disk")
    decode(folder)
    decode(folder)
    assert len(builds) == 1


def test_a_lock_that_is_a_link_or_a_fifo(root, folder, builds, tmp_path):
    decode(folder)
    (lock,) = root.glob("*.lock")
    lock.unlink()
    lock.symlink_to(tmp_path / "victim")
    decode(folder)
    assert not (tmp_path / "victim").exists()


class Session:
    """A session on a graph that fails, or that returns NaN, from the second run on."""

    def __init__(self, real, failure, first=0):
        self.real, self.failure, self.left = real, failure, first

    def __getattr__(self, name):
        return getattr(self.real, name)

    def run(self, names, feed):
        outputs = self.real.run(names, feed)
        self.left -= 1
        if self.left >= 0:
            return outputs
        if self.failure == "raises":
            raise RuntimeError("Non-zero status code")
        outputs[0].flat[7] = float(self.failure)
        return outputs


@pytest.mark.slow
@pytest.mark.parametrize("failure", ["raises", "nan", "inf"])
@pytest.mark.parametrize("first", [0, 2])
def test_a_run_that_fails_is_repeated_without_the_cache(
    failure, first, root, folder, builds, monkeypatch, caplog
):
    plain = decode(folder, graph_cache=False)
    network = OnnxRuntime().open("vae_decoder", folder, {})
    network._session = Session(network._session, failure, first)
    for _ in range(first):
        network.run(LATENTS)
        assert entries(root)
    for _ in range(2):
        np.testing.assert_array_equal(network.run(LATENTS)["sample"], plain)
    assert entries(root) == []
    assert list(root.glob("*.stamp")) == []
    (line,) = warnings(caplog)
    assert "failed: it is removed, and the model used without it" in line
    network.trim()
    network.close()
    decode(folder)
    assert len(builds) == 2


@pytest.mark.slow
@pytest.mark.parametrize("failure", ["raises", "nan"])
def test_a_model_that_fails_by_itself_keeps_its_entry(failure, root, folder, monkeypatch):
    """Else it would be rebuilt, which takes minutes, with each start."""
    network = OnnxRuntime().open("vae_decoder", folder, {})
    network._session = Session(network._session, failure)
    opened, real = [], network._plain

    def plain():
        opened.append(1)
        return Session(real(), failure)

    network._plain = plain
    for _ in range(2):
        if failure == "nan":
            assert np.isnan(network.run(LATENTS)["sample"]).sum() == 1
        else:
            with pytest.raises(NetworkError, match="Non-zero"):
                network.run(LATENTS)
    assert len(opened) == 1
    assert len(entries(root)) == 1


@pytest.mark.slow
def test_threads_that_fail_together_open_the_model_once(root, folder):
    network = OnnxRuntime().open("vae_decoder", folder, {})
    network._session = Session(network._session, "nan")
    opened, real, results = [], network._plain, []

    def plain():
        time.sleep(0.2)
        opened.append(1)
        return real()

    network._plain = plain
    run = lambda: results.append(network.run(LATENTS)["sample"])  # noqa: E731
    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(opened) == 1
    assert len(results) == 3
    assert all(np.isfinite(each).all() for each in results)


@pytest.mark.slow
def test_a_graph_that_does_not_open_is_removed(root, folder, builds, monkeypatch, caplog):
    from runtimes.onnx import runtime

    plain = decode(folder, graph_cache=False)

    def fails(*_):
        raise RuntimeError("cannot map")

    monkeypatch.setattr(runtime, "open_mapped", fails)
    np.testing.assert_array_equal(decode(folder), plain)
    assert entries(root) == []
    assert len(warnings(caplog)) == 1


HOLDER = """
import fcntl, os, sys, time
lock = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o600)
fcntl.flock(lock, fcntl.LOCK_EX)
if sys.argv[2] == "builds":
    os.pwrite(lock, str(os.getpid()).encode(), 0)
print("locked", flush=True)
time.sleep(float(sys.argv[3]))
"""


@contextmanager
def held(lock, role, seconds=600):
    command = [sys.executable, "-c", HOLDER, lock, role, str(seconds)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    process.stdout.readline()
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize("role", ["builds", "waits"])
def test_a_lock_is_waited_for_with_a_word_and_not_for_ever(role, root, folder, caplog, monkeypatch):
    decode(folder)
    (lock,) = root.glob("*.lock")
    monkeypatch.setattr(cache_locks, "_SILENT_SECONDS", 0.2)
    monkeypatch.setattr(cache_locks, "WAIT_SECONDS", 1.0 if role == "waits" else 0.0)
    monkeypatch.setattr(cache_locks, "BUILD_SECONDS", 1.0 if role == "builds" else 0.0)
    with held(lock, role) as process:
        start = time.monotonic()
        assert decode(folder).shape == (1, 3, 64, 64)
        assert 1.0 < time.monotonic() - start < 8
    first, second = warnings(caplog)
    (entry,) = entries(root)
    if role == "builds":
        assert first == f"waiting for process {process.pid}, which optimizes {entry}"
    else:
        assert first == f"waiting for another process, which uses {entry}"
    assert f"no optimized graph: waited 1 s for {first[12:]}" in second


@pytest.mark.slow
def test_a_lock_that_is_released_in_time(root, folder, builds, caplog):
    decode(folder)
    (lock,) = root.glob("*.lock")
    with held(lock, "builds", 1):
        network = OnnxRuntime().open("vae_decoder", folder, {})
    assert network._graph is not None
    assert warnings(caplog) == []  # it took less than two seconds
    assert len(builds) == 1


def test_who_builds_is_named_while_it_builds(root, folder, monkeypatch):
    from runtimes.onnx import optimize

    seen, real = [], optimize.optimize

    def watching(source, target, ort):
        seen.append(next(root.glob("*.lock")).read_text().strip())
        real(source, target, ort)

    monkeypatch.setattr(optimize, "optimize", watching)
    decode(folder)
    assert seen == [str(os.getpid())]
    assert next(root.glob("*.lock")).read_text() == ""


def test_a_lock_is_shared_while_sessions_open(root, folder):
    """And again after a build, so that others need not wait for the opening."""
    with graph_cache.optimized(folder / "model.onnx", "1", shutil.copy) as entry:
        assert entry == entries(root)[0]
        with next(root.glob("*.lock")).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            with pytest.raises(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_cache_on_a_read_only_disk(root, folder, builds, monkeypatch, reads):
    decode(folder)
    real = os.open

    def read_only(path, flags, *mode, **where):
        if str(path).startswith(str(root)) and flags & (os.O_RDWR | os.O_WRONLY | os.O_CREAT):
            raise OSError(errno.EROFS, "Read-only file system", str(path))
        return real(path, flags, *mode, **where)

    monkeypatch.setattr(os, "open", read_only)
    graph_cache._stamp_path(entries(root)[0]).unlink()
    network = OnnxRuntime().open("vae_decoder", folder, {})
    assert network._graph is not None
    assert reads == SAMPLED
    assert len(builds) == 1


@pytest.mark.parametrize(("missing", "built"), [(0, 1), (1, 0)])
def test_room_for_the_weights_twice_and_more(missing, built, root, tmp_path, builds, monkeypatch):
    source = write_weighted(tmp_path / "net", "sub/data")
    size = source.stat().st_size + (source.parent / "sub" / "data").stat().st_size
    free = shutil.disk_usage("/")._replace(free=-(-5 * size // 2) - missing)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    decode(source.parent)
    assert len(builds) == built


def hugging_face(tmp_path, name):
    """Links to files elsewhere, as in its cache."""
    source = write_weighted(tmp_path / "net", name)
    folder = tmp_path / "hub" / "snapshots" / "revision" / "vae_decoder"
    (tmp_path / "hub" / "blobs").mkdir(parents=True)
    for path in (source, source.parent / name):
        blob = path.rename(tmp_path / "hub" / "blobs" / f"blob-of-{path.name}")
        link = folder / path.relative_to(source.parent)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    return folder


def plain_folder(tmp_path, name):
    return write_weighted(tmp_path / "net", name).parent


@pytest.mark.parametrize("layout", [hugging_face, plain_folder])
@pytest.mark.parametrize("name", ["model.onnx_data", "model.weights", "sub/folded.onnx"])
def test_weights_beside_and_below_with_and_without_the_cache(
    layout, name, root, tmp_path, builds, monkeypatch
):
    folder = layout(tmp_path, name)
    monkeypatch.setattr(graph_cache, "MIN_BYTES", (folder / name).stat().st_size)
    plain = decode(folder, graph_cache=False)
    for _ in range(2):
        np.testing.assert_allclose(decode(folder), plain, atol=1e-5 * np.abs(plain).max())
    assert len(builds) == 1
    path = (folder / name).resolve()
    path.write_bytes(path.read_bytes()[::-1])
    assert not np.allclose(decode(folder), plain)
    assert len(builds) == 2


BUILDER = """
import sys, time
from pathlib import Path
from runtimes.onnx import OnnxRuntime, graph_cache, optimize
graph_cache.MIN_BYTES = 0
real = optimize._save
def save(*args):
    real(*args)
    print("saved", flush=True)
    time.sleep(600)
optimize._save = save
OnnxRuntime().open("vae_decoder", Path(sys.argv[1]), {})
"""


@pytest.mark.slow
def test_what_killed_builds_leave_is_removed_by_builds_of_others(root, folder, tmp_path):
    other = shutil.copytree(folder, tmp_path / "other" / "vae_decoder")
    process = subprocess.Popen([sys.executable, "-c", BUILDER, other], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"saved\n"
    (left,) = entries(root)
    assert any(path.name == "folded.onnx" for path in left.rglob("*"))
    decode(folder)
    assert left.is_dir()
    assert len(entries(root)) == 2
    process.send_signal(signal.SIGKILL)
    process.communicate()
    decode(folder)
    assert not left.exists()
    assert len(entries(root)) == 1
    decode(other)
    assert len(entries(root)) == 2

"""What a killed process leaves is removed by the next that writes there, and nothing else is."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lcmcore.errors import OutputError
from lcmcore.util import files, temporary
from lcmcore.util.files import make_folder, open_solid, sha256, write_whole
from lcmcore.util.temporary import remove_leftovers, temporary_folder

pytestmark = pytest.mark.host  # the same on every processor, and hundreds of tests

FILE, FOLDER = ".lcm-0123456789abcdef.part", ".lcm-fedcba9876543210.part"

WRITER = """
import os, sys, time
from pathlib import Path
from lcmcore.util import files, temporary
folder = Path(sys.argv[1])
def stop(*_):
    print("stopped", flush=True)
    time.sleep(600)
if sys.argv[2] == "file":
    os.fsync = stop
    files.write_whole(folder / "image.png", b"half")
else:
    with temporary.temporary_folder(folder) as stage:
        (stage / "unet").mkdir()
        (stage / "unet" / "model.onnx").write_bytes(b"half")
        stop()
"""


@pytest.fixture(params=["file", "folder"])
def writer(request, tmp_path):
    """A process that writes a file or a folder, and never ends by itself."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, tmp_path, request.param], stdout=subprocess.PIPE
    )
    process.stdout.readline()
    yield process
    process.kill()
    process.communicate()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def write_here(folder):
    files._swept.clear()  # as in a new process
    write_whole(folder / "new", b"x")
    (folder / "new").unlink()


def fill_here(folder):
    with temporary_folder(folder):
        pass


@pytest.mark.parametrize("write", [write_here, fill_here, make_folder, remove_leftovers])
def test_what_a_killed_process_leaves_is_removed(write, writer, tmp_path):
    (left,) = names(tmp_path)
    write(tmp_path)
    assert names(tmp_path) == [left]  # the writer lives
    writer.send_signal(signal.SIGSTOP)
    write(tmp_path)
    assert names(tmp_path) == [left]
    writer.kill()
    writer.wait()
    write(tmp_path)
    assert names(tmp_path) == []


def test_only_what_has_such_a_name_is_removed(tmp_path):
    others = [
        ".lcm-0123456789abcde.part",
        ".lcm-0123456789abcdef0.part",
        ".lcm-0123456789abcdeg.part",
        ".lcm-0123456789abcdef.png",
        "lcm-0123456789abcdef.part",
        ".lcm-.part",
        ".part",
    ]
    for name in [*others, FILE]:
        (tmp_path / name).write_text("")
    (tmp_path / FOLDER / "deep").mkdir(parents=True)
    remove_leftovers(tmp_path)
    assert names(tmp_path) == sorted(others)


def test_links_and_other_kinds_stay(tmp_path):
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "file").write_text("")
    (tmp_path / FOLDER).symlink_to("victim")
    os.mkfifo(tmp_path / FILE)
    remove_leftovers(tmp_path)
    assert names(tmp_path) == sorted([FOLDER, FILE, "victim"])
    assert names(tmp_path / "victim") == ["file"]


def test_a_link_in_a_leftover_is_not_followed(tmp_path):
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "file").write_text("")
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / "link").symlink_to("../victim")
    remove_leftovers(tmp_path)
    assert names(tmp_path) == ["victim"]
    assert names(tmp_path / "victim") == ["file"]


def test_what_belongs_to_others_stays(tmp_path, monkeypatch):
    (tmp_path / FILE).write_text("")
    mine = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: mine + 1)
    remove_leftovers(tmp_path)
    assert names(tmp_path) == [FILE]


def test_where_there_are_no_locks_nothing_is_removed(tmp_path, monkeypatch):
    (tmp_path / FILE).write_text("")
    monkeypatch.setitem(sys.modules, "fcntl", None)
    files._swept.clear()
    write_whole(tmp_path / "image.png", b"x")
    assert names(tmp_path) == sorted([FILE, "image.png"])


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    import fcntl

    def fails(*_):
        raise OSError(95, "Operation not supported")

    (tmp_path / FILE).write_text("")
    monkeypatch.setattr(fcntl, "flock", fails)
    files._swept.clear()
    write_whole(tmp_path / "image.png", b"x")
    with temporary_folder(tmp_path) as folder:
        assert folder.is_dir()
    assert names(tmp_path) == sorted([FILE, "image.png"])


def test_a_name_that_another_process_removes_before_it_is_locked(tmp_path, monkeypatch):
    """It took the lock first, for it saw a file without one."""
    real, made = temporary._lock, []

    def late(path):
        made.append(path)
        if len(made) == 1:
            path.unlink()
        return real(path)

    monkeypatch.setattr(temporary, "_lock", late)
    write_whole(tmp_path / "image.png", b"x")
    assert len(made) == 2
    assert names(tmp_path) == ["image.png"]


def test_a_lock_of_a_file_that_was_replaced_is_none(tmp_path, monkeypatch):
    """Else the new one would be removed, though its process lives."""
    import fcntl

    path = tmp_path / FILE
    path.write_text("old")
    real = fcntl.flock

    def replaced(descriptor, kind):
        real(descriptor, kind)
        (tmp_path / "new").write_text("new")
        (tmp_path / "new").replace(path)

    monkeypatch.setattr(fcntl, "flock", replaced)
    remove_leftovers(tmp_path)
    assert path.read_text() == "new"


def test_a_temporary_folder_is_private_and_goes(tmp_path):
    old = os.umask(0)
    try:
        with pytest.raises(KeyError), temporary_folder(tmp_path) as folder:
            assert folder.parent == tmp_path
            assert folder.stat().st_mode & 0o777 == 0o700
            (folder / "file").write_text("")
            raise KeyError
    finally:
        os.umask(old)
    assert names(tmp_path) == []


def test_files_have_the_modes_of_other_files(tmp_path):
    old = os.umask(0o027)
    try:
        write_whole(tmp_path / "image.png", b"x")
    finally:
        os.umask(old)
    assert (tmp_path / "image.png").stat().st_mode & 0o777 == 0o640


def test_a_folder_is_swept_once_a_process_by_files(tmp_path):
    """It may hold a million images."""
    write_whole(tmp_path / "image.png", b"x")
    (tmp_path / FILE).write_text("")
    write_whole(tmp_path / "image.png", b"y")
    assert names(tmp_path) == sorted([FILE, "image.png"])


def test_an_error_names_the_file_and_leaves_nothing(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match="folder cannot be written"):
        write_whole(tmp_path / "folder", b"x")
    assert names(tmp_path) == ["folder"]
    shutil.rmtree(tmp_path / "folder")
    with pytest.raises(OutputError, match="cannot be written"):
        write_whole(tmp_path / "folder" / "image.png", b"x")


def holes(path, *parts, size):
    """A file of a size that holds data only at these offsets, a MiB each."""
    with path.open("wb") as file:
        file.truncate(size)
        for offset in parts:
            file.seek(offset)
            file.write(b"x" * 2**20)
    return path


@pytest.mark.parametrize(
    ("parts", "size"),
    [
        ([], 2**30 + 1),
        ([0], 2**31),
        ([2**31 - 2**20], 2**31),
        ([2**30 - 2**20, 2**30 + 2**20], 2**31),  # the holes together
        ([], 40 * 2**30),
    ],
)
def test_sparse_files_are_refused_unread(parts, size, tmp_path):
    path = holes(tmp_path / "file", *parts, size=size)
    start = time.monotonic()
    for read in (open_solid, sha256):
        with pytest.raises(OSError, match="a sparse file: most of it was never written"):
            read(path)
    assert time.monotonic() - start < 2


@pytest.mark.parametrize(("parts", "size"), [([], 2**30), ([2**28], 2**30 + 2**20)])
def test_files_with_holes_are_read_from_their_start(parts, size, tmp_path):
    path = holes(tmp_path / "file", *parts, size=size)
    with open_solid(path) as file:
        assert os.fstat(file.fileno()).st_size == size
        assert file.tell() == 0
        assert file.read(4) == b"\0\0\0\0"


def test_a_file_system_that_does_not_tell_where_holes_are(tmp_path, monkeypatch):
    path = holes(tmp_path / "file", size=2**31)
    real = os.lseek

    def fails(descriptor, position, whence):
        if whence == os.SEEK_SET:
            return real(descriptor, position, whence)
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "lseek", fails)
    open_solid(path).close()


def test_a_file_of_absurd_size_is_refused(tmp_path, monkeypatch):
    """As /proc/kcore, which only root can read; there holes are unknown."""
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    monkeypatch.setattr(files, "_MAX_DIGESTED", 3)
    assert sha256(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    monkeypatch.setattr(files, "_MAX_DIGESTED", 2)
    with pytest.raises(OSError, match="sparse"):
        sha256(path)


def test_digests_of_what_is_no_regular_file(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", Path("/dev/zero"), Path("/dev/null")):
        with pytest.raises(OSError, match="not a regular file"):
            sha256(path)

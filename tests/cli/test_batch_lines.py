"""Lines of files and pipes, of a bounded length and number."""

import os
import socket
import threading

import pytest

import lcmcore
from lcmcore.cli import batch_lines
from lcmcore.cli.batch_lines import LineFile, open_lines


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(batch_lines, "MAX_LINE", 10)
    monkeypatch.setattr(batch_lines, "_CHUNK", 4)


def file_of(tmp_path, content):
    path = tmp_path / "jobs"
    path.write_bytes(content)
    return path


def read(tmp_path, content):
    lines = open_lines(file_of(tmp_path, content))
    assert [*lines] == [*lines]
    return [*lines]


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (b"", []),
        (b"\n\n", []),
        (b"a", [(1, b"a")]),
        (b"a\n", [(1, b"a")]),
        (b"\na\r\n \t\r\n  b \n\rc\n", [(2, b"a"), (4, b"b"), (5, b"c")]),
        (b"\xef\xbb\xbfa\n\xef\xbb\xbfb", [(1, b"a"), (2, b"\xef\xbb\xbfb")]),
        (b"\xef\xbb\xbf\nb", [(2, b"b")]),
        (b"a\x0bb\x0cc\x1cd\n", [(1, b"a\x0bb\x0cc\x1cd")]),
        ("a\x85\u2028b\n".encode(), [(1, "a\x85\u2028b".encode())]),
        (b"123456789\n123456789\n", [(1, b"123456789"), (2, b"123456789")]),
        (b"1234567890", [(1, b"1234567890")]),
        (b"12345678901", [(1, None)]),
        (b"1234567890\nb", [(1, None), (2, b"b")]),  # with its end it has 11
        (b"a\n" + b"x" * 50 + b"\nb\n" + b"y" * 50, [(1, b"a"), (2, None), (3, b"b"), (4, None)]),
        (b"x" * 11 + b"\n\nb", [(1, None), (3, b"b")]),
        (b"x" * 15 + b"\n" + b"y" * 15 + b"\nb", [(1, None), (2, None), (3, b"b")]),
    ],
)
def test_lines(tmp_path, content, lines):
    assert read(tmp_path, content) == lines


def test_what_is_appended_meanwhile_is_left_out(tmp_path):
    path = file_of(tmp_path, b"a\nb")
    lines = open_lines(path)
    with path.open("ab") as file:
        file.write(b"c\nd\n")
    assert [*lines] == [(1, b"a"), (2, b"b")]


def test_what_is_cut_meanwhile(tmp_path):
    path = file_of(tmp_path, b"a\nb\nc")
    lines = open_lines(path)
    path.write_bytes(b"a\n")
    assert [*lines] == [(1, b"a")]


def test_file_is_closed_with_its_lines(tmp_path):
    file = file_of(tmp_path, b"a").open("rb")
    lines = LineFile(file)
    assert not file.closed
    del lines
    assert file.closed


def test_size_of_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr(batch_lines, "_MAX_FILE", 2**20)
    path = file_of(tmp_path, b"a")
    os.truncate(path, 2**20)
    assert [*open_lines(path)] == [(1, None)]
    os.truncate(path, 2**20 + 1)
    with pytest.raises(lcmcore.BundleError, match=rf"^{path}: cannot be read: larger than 1 MiB"):
        open_lines(path)


def test_sparse_file_of_many_gigabytes(tmp_path):
    path = file_of(tmp_path, b"a")
    os.truncate(path, 40 * 2**30)
    with pytest.raises(lcmcore.BundleError, match="larger than 1024 MiB: split it into several"):
        open_lines(path)


def written(path, content):
    """A thread that writes to a pipe as soon as it is read, in small pieces."""

    def write():
        with path.open("wb", buffering=0) as pipe:
            for start in range(0, len(content), 7):
                pipe.write(content[start : start + 7])

    os.mkfifo(path)
    thread = threading.Thread(target=write)
    thread.start()
    return thread


def test_pipe_is_read_once_and_kept(tmp_path):
    path = tmp_path / "pipe"
    writer = written(path, b"one\n" * 20)
    lines = open_lines(path)
    writer.join()
    assert [*lines] == [*lines] == [(number, b"one") for number in range(1, 21)]


def test_size_of_what_comes_from_a_pipe(tmp_path, monkeypatch):
    monkeypatch.setattr(batch_lines, "_MAX_FILE", 16)
    path = tmp_path / "pipe"
    writer = written(path, b"a" * 16)
    assert [*open_lines(path)] == [(1, None)]
    writer.join()
    path.unlink()
    writer = written(path, b"a" * 17)
    with pytest.raises(lcmcore.BundleError, match="pipe: cannot be read: larger than 0 MiB"):
        open_lines(path)
    writer.join()


def test_waiting_for_a_pipe_can_be_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(batch_lines, "_POLL_SECONDS", 0.01)
    path = tmp_path / "pipe"
    os.mkfifo(path)
    asked = []
    with pytest.raises(KeyboardInterrupt):
        open_lines(path, lambda: asked.append(0) or len(asked) > 2)
    assert len(asked) == 3


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/null", "/dev/tty"])
def test_devices_are_refused(path, tmp_path):
    with pytest.raises(lcmcore.BundleError, match=rf"^{path}: cannot be read: not a regular file"):
        open_lines(tmp_path / path)


def test_other_things_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a socket's name must be short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        with pytest.raises(lcmcore.BundleError, match="socket: cannot be read: not a regular file"):
            open_lines(tmp_path / "socket")
    with pytest.raises(lcmcore.BundleError, match=rf"^{tmp_path}: cannot be read: Is a directory"):
        open_lines(tmp_path)
    with pytest.raises(lcmcore.BundleError, match=r"^no such file: .*/none$"):
        open_lines(tmp_path / "none")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(lcmcore.BundleError, match="loop: cannot be read: Too many levels of symb"):
        open_lines(tmp_path / "loop")
    with pytest.raises(lcmcore.BundleError, match=r"cannot be read: .*embedded null"):
        open_lines(tmp_path / "a\0b")

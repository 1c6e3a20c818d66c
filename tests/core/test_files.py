"""Files of strangers: only regular ones of a bounded size are read."""

import errno
import os
from pathlib import Path

import pytest

from lcmcore.errors import OutputError
from lcmcore.util.files import (
    is_deleted,
    is_file,
    is_folder,
    is_within,
    make_folder,
    open_regular,
    read_regular,
    regular_files,
    require_writable,
    sha256,
)

pytestmark = pytest.mark.host  # the same on every processor, and hundreds of tests


def test_regular_files_and_links_to_them_are_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    (tmp_path / "link").symlink_to("file")
    assert read_regular(tmp_path / "link", 3) == b"abc"
    with open_regular(tmp_path / "file") as file:
        assert file.read() == b"abc"


@pytest.mark.parametrize("size", [4, 2**40])
def test_a_file_of_more_bytes_is_refused_unread(tmp_path: Path, size: int) -> None:
    os.truncate(os.open(tmp_path / "sparse", os.O_CREAT | os.O_WRONLY), size)
    with pytest.raises(OSError, match="larger than"):
        read_regular(tmp_path / "sparse", 3)


def test_a_file_that_is_longer_than_it_says_is_refused() -> None:
    """Files of /proc have the size 0."""
    with pytest.raises(OSError, match="larger than"):
        read_regular(Path("/proc/self/status"), 100)


def test_a_fifo_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(OSError, match="not a regular file"):
        open_regular(tmp_path / "fifo")


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/null"])
def test_a_device_is_refused(device: str) -> None:
    with pytest.raises(OSError, match="not a regular file"):
        open_regular(Path(device))


def test_a_folder_is_refused_by_its_own_error(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        open_regular(tmp_path)


def test_a_file_that_would_be_waited_for_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As /proc/kmsg is, which says that it is a regular file; Python's read returns None then."""
    (tmp_path / "file").write_bytes(b"")

    class Waiting:
        """Stands for the file object of such a file."""

        def __enter__(self) -> "Waiting":
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def __init__(self) -> None:
            self.file = (tmp_path / "file").open("rb")
            self.fileno = self.file.fileno

        def read(self, _count: int) -> None:
            return None

    monkeypatch.setattr("lcmcore.util.files.open_regular", lambda _path: Waiting())
    with pytest.raises(BlockingIOError, match="nothing to read"):
        read_regular(tmp_path / "file", 9)


def test_regular_files_of_a_folder_and_below_in_a_fixed_order(tmp_path: Path) -> None:
    for name in ("b/2", "b/1", "a/3", "z"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name * 2)
    os.mkfifo(tmp_path / "a" / "fifo")
    (tmp_path / "link").symlink_to("z")
    found = [
        (path.relative_to(tmp_path).as_posix(), size) for path, size in regular_files(tmp_path)
    ]
    assert found == [("link", 2), ("z", 2), ("a/3", 6), ("b/1", 6), ("b/2", 6)]


def test_no_folder_is_entered_twice(tmp_path: Path) -> None:
    (tmp_path / "a" / "inner").mkdir(parents=True)
    (tmp_path / "a" / "inner" / "file").touch()
    (tmp_path / "a" / "loop").symlink_to("..")
    (tmp_path / "b").symlink_to("a/inner")
    assert [path for path, _ in regular_files(tmp_path)] == [tmp_path / "a" / "inner" / "file"]
    assert list(regular_files(tmp_path / "b")) == [(tmp_path / "b" / "file", 0)]


def test_what_cannot_be_read_is_reported_and_passed_over(tmp_path: Path) -> None:
    (tmp_path / "z").touch()
    (tmp_path / "gone").symlink_to("nothing")
    (tmp_path / "itself").symlink_to("itself")
    errors: list[OSError] = []
    assert list(regular_files(tmp_path, errors.append)) == [(tmp_path / "z", 0)]
    assert [error.errno for error in errors] == [errno.ENOENT, errno.ELOOP]
    assert list(regular_files(tmp_path)) == [(tmp_path / "z", 0)]
    assert list(regular_files(tmp_path / "missing", errors.append)) == []
    assert errors[-1].filename == str(tmp_path / "missing")


def test_where_a_file_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_writable(tmp_path / "new.png")
    with pytest.raises(OutputError, match="is a folder: give the name of a file"):
        require_writable(tmp_path)
    require_writable(tmp_path / "missing" / "too" / "new.png")
    (tmp_path / "file").touch()
    (tmp_path / "gone").symlink_to("nothing")
    for name in ("file", "gone"):
        with pytest.raises(OutputError, match=rf"{name} is no folder: new.png cannot be written"):
            require_writable(tmp_path / name / "too" / "new.png")
    monkeypatch.setattr(os, "access", lambda path, mode: (path, mode) != (tmp_path, os.W_OK))
    for name in ("new.png", "missing/too/new.png"):
        with pytest.raises(OutputError, match=f"folder {tmp_path} is not writable"):
            require_writable(tmp_path / name)


def test_a_folder_that_was_deleted_has_no_name(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    assert not is_deleted(gone)
    descriptor = os.open(gone, os.O_RDONLY)
    gone.rmdir()
    assert is_deleted(Path(f"/proc/self/fd/{descriptor}"))
    os.close(descriptor)
    assert not is_deleted(gone)  # it is not there at all


def test_names_too_long_are_neither_files_nor_folders(tmp_path: Path) -> None:
    for check in (is_file, is_folder):
        assert not check(tmp_path / ("a" * 5000))
    assert is_folder(tmp_path)
    assert is_file(Path(__file__))


def test_folders_are_made_with_their_parents(tmp_path: Path) -> None:
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"folder .*below cannot be created: Not a directory"):
        make_folder(tmp_path / "file" / "below")


@pytest.mark.parametrize(("limit", "shown"), [(2**20, "1 MiB"), (2**19, "0.5 MiB")])
def test_the_limit_is_named(limit: int, shown: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(limit + 1))
    with pytest.raises(OSError, match=f"larger than {shown}"):
        read_regular(tmp_path / "file", limit)


def test_a_file_that_was_replaced_meanwhile_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    before = len(list(Path("/proc/self/fd").iterdir()))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fstat", lambda descriptor: fifo.stat())
        with pytest.raises(OSError, match="not a regular file"):
            open_regular(tmp_path / "file")
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_digests_are_those_of_the_standard(tmp_path: Path) -> None:
    """NIST's example for SHA-256, FIPS 180-2, B.1."""
    (tmp_path / "file").write_bytes(b"abc")
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256(tmp_path / "file") == digest


def test_what_lies_in_a_folder_by_links(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    for folder in (inside, outside):
        folder.mkdir()
        (folder / "file").touch()
    (inside / "out").symlink_to(outside / "file")
    (outside / "in").symlink_to(inside / "file")
    (tmp_path / "alias").symlink_to(inside)
    assert is_within(inside / "file", [outside, inside])
    assert is_within(outside / "in", [inside])
    assert is_within(tmp_path / "alias" / "missing", [inside])
    assert not is_within(inside / "out", [inside])
    assert not is_within(inside / "file", [tmp_path / "alias"])  # whose links are not resolved
    assert not is_within(inside / "file", [])

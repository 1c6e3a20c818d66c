"""Files of strangers: only regular ones of a bounded size are read."""

import errno
import os
from pathlib import Path

import pytest

from lcmcore.util.files import open_regular, read_regular, regular_files


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

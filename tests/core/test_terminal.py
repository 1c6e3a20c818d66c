"""The one place where text reaches a person, and that there is no other."""

import ast
import fcntl
import io
import logging
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

import lcmcore
import runtimes
from lcmcore import LcmError
from lcmcore.errors import OutputError
from lcmcore.util import terminal
from lcmcore.util.logs import log_to_stderr
from lcmcore.util.terminal import is_terminal, redraw, replace_closed_descriptors, say, tell

pytestmark = pytest.mark.host  # the same on every processor, and hundreds of tests

BAD = "one\nlcm: info: forged\r\x1b[2J\u202e"
SHOWN = r"one\nlcm: info: forged\r\x1b[2J\u202e"


@pytest.mark.parametrize(
    ("write", "out", "err"),
    [
        (say, f"{SHOWN}\n", ""),
        (tell, "", f"{SHOWN}\n"),
        (redraw, "", f"\r{SHOWN}\x1b[K"),
    ],
)
def test_whatever_the_text_holds_it_is_one_line(write, out, err, capsys):
    write(BAD)
    reported = capsys.readouterr()
    assert (reported.out, reported.err) == (out, err)


def test_messages_to_another_stream(capsys):
    stream = io.StringIO()
    tell(BAD, stream)
    redraw("bar", stream)
    assert stream.getvalue() == f"{SHOWN}\n\rbar\x1b[K"
    assert capsys.readouterr() == ("", "")
    assert not is_terminal(stream)


def test_a_message_takes_the_place_of_a_bar():
    """Such as a warning in the log; one on another stream does not."""
    stream, other = io.StringIO(), io.StringIO()
    redraw("bar", stream)
    tell("elsewhere", other)
    redraw("bar", stream)
    tell("warning", stream)
    tell("another", stream)
    redraw("bar", stream)
    redraw("", stream)
    tell("done", stream)
    bar = "\rbar\x1b[K"
    assert stream.getvalue() == f"{bar}{bar}\r\x1b[Kwarning\nanother\n{bar}\r\x1b[Kdone\n"
    assert other.getvalue() == "elsewhere\n"


def test_a_terminal_is_known():
    reader, writer = pty.openpty()
    with open(writer, "w") as stream:  # noqa: PTH123
        assert is_terminal(stream)
    os.close(reader)


def test_a_bar_is_no_wider_than_its_terminal():
    reader, writer = pty.openpty()
    fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 20, 0, 0))
    with open(writer, "w") as stream:  # noqa: PTH123
        redraw("a" * 30, stream)
        assert os.read(reader, 100) == b"\r" + b"a" * 19 + b"\x1b[K"
    os.close(reader)


@pytest.mark.parametrize("write", [tell, redraw])
def test_messages_that_cannot_be_written_are_lost(write, monkeypatch):
    """Nor does the stream fail when it is closed, as Python closes stderr when it exits."""
    with Path("/dev/full").open("w") as stream:
        write("a", stream)
    write("a", stream)  # closed by now
    monkeypatch.setattr(sys, "stderr", None)
    write("a")
    assert not is_terminal()


def test_lines_are_written_at_once(tmp_path, monkeypatch):
    with (tmp_path / "out").open("w") as out, (tmp_path / "err").open("w") as err:
        monkeypatch.setattr(sys, "stdout", out)
        say("a")
        tell("b", err)
        redraw("c", err)
        assert (tmp_path / "out").read_text() == "a\n"
        assert (tmp_path / "err").read_bytes() == b"b\n\rc\x1b[K"


def test_results_that_cannot_be_written_are_an_error(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(OutputError, match=r"^standard output is closed$"):
        say("a")
    with Path("/dev/full").open("w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        words = r"^standard output cannot be written: No space left on device$"
        with pytest.raises(OutputError, match=words):
            say("a")


def test_a_reader_that_has_gone_ends_the_command(monkeypatch):
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as stream:  # noqa: PTH123
        monkeypatch.setattr(sys, "stdout", stream)
        with pytest.raises(SystemExit) as caught:
            say("a")
    assert caught.value.code == 1


def test_a_letter_that_the_encoding_lacks(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), "ascii"))
    with pytest.raises(
        LcmError, match=r"^standard output cannot show this: 'ascii' codec .*: set PYTHONUTF8=1$"
    ):
        say("湖")


def test_log_lines_are_escaped(capsys, monkeypatch):
    """Without pytest's own handlers, for which basicConfig would do nothing."""
    logger = logging.getLogger("lcmcore")
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    monkeypatch.setattr(logging.getLogger(), "level", logging.WARNING)
    monkeypatch.setattr(logger, "level", logging.NOTSET)
    log_to_stderr(logging.INFO)
    logging.getLogger("lcmcore.networks").info("opened %s", BAD)
    logging.getLogger("lcmcore").debug("unheard")
    logging.getLogger("other").info("unheard")
    logging.getLogger("other").warning("heard")
    assert capsys.readouterr().err == f"lcm: info: opened {SHOWN}\nlcm: warning: heard\n"


@pytest.mark.parametrize("reported", [False, True])
def test_a_log_message_with_wrong_arguments_ends_nothing(reported, capsys, monkeypatch):
    """What is done with it is as with logging's own handlers."""
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    monkeypatch.setattr(logging, "raiseExceptions", reported)
    log_to_stderr(logging.WARNING)
    logging.getLogger("lcmcore").warning("%d", "text")
    assert ("Logging error" in capsys.readouterr().err) == reported


def test_warnings_alone_leave_the_loggers_as_they_are(monkeypatch):
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    monkeypatch.setattr(logging.getLogger("lcmcore"), "level", logging.NOTSET)
    log_to_stderr(logging.WARNING)
    assert logging.getLogger("lcmcore").level == logging.NOTSET


def test_a_closed_descriptor_is_not_given_to_the_next_file(tmp_path):
    """Else a C library's log would end in it: here the "library" is this script itself."""
    script = tmp_path / "script.py"
    script.write_text(
        "import os, sys\n"
        "from lcmcore.util.terminal import replace_closed_descriptors\n"
        "replace_closed_descriptors()\n"
        "file = open('image', 'wb')\n"
        "os.write(1, b'log'), os.write(2, b'log')\n"
        "assert file.fileno() > 2\n"
        "assert os.get_inheritable(1) and os.get_inheritable(2)\n"
        "file.write(b'pixels')\n"
    )
    run = f"exec {sys.executable} {script} <&- >&- 2>&-"
    assert subprocess.run(["bash", "-c", run], cwd=tmp_path, check=False).returncode == 0
    assert (tmp_path / "image").read_bytes() == b"pixels"


def test_open_descriptors_stay_what_they_are():
    before = [os.fstat(number) for number in range(3)]
    replace_closed_descriptors()
    assert [os.fstat(number) for number in range(3)] == before


# What writes to a terminal by another way.
CALLS = {"print", "input", "logging.StreamHandler", "os.write", "argparse.ArgumentParser"}
CALLS |= {f"traceback.print_{name}" for name in ("exc", "exception", "last", "stack", "tb")}
STREAMS = {"sys.stdout", "sys.stderr", "sys.__stdout__", "sys.__stderr__", "sys.displayhook"}


def other_ways(source):
    """What in a module writes past `lcmcore.util.terminal`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in CALLS:
            yield ast.unparse(node)
        if isinstance(node, ast.Attribute) and ast.unparse(node) in STREAMS:
            yield ast.unparse(node)
        if isinstance(node, ast.ImportFrom) and node.module == "sys":
            yield ast.unparse(node)


def test_nothing_else_writes_to_the_terminal():
    found = {}
    for package in (lcmcore, runtimes):
        root = Path(package.__file__).parent
        for path in root.rglob("*.py"):
            if ways := list(other_ways(path.read_text())):
                found[path] = ways
    assert {*found} == {Path(terminal.__file__)}, found


@pytest.mark.parametrize(
    "source",
    [
        "print(1)",
        "sys.stderr.write('a')",
        "stream = stream or sys.stdout",
        "traceback.print_exc()",
        "logging.StreamHandler()",
        "os.write(1, b'')",
        "argparse.ArgumentParser()",
        "from sys import stdout",
    ],
)
def test_another_way_is_found(source):
    assert list(other_ways(source))

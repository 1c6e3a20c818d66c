"""Standard streams that are closed or full, and a working directory that is gone: one line."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.parity.bundles import TINY

LCM = Path(sys.executable).with_name("lcm")
MODEL = str(TINY / "lcm")
SMALL = f"--size=64x64 --steps=1 --threads=1 --model={MODEL}"
COMMANDS = {
    "info": f"info {MODEL}",
    "doctor": f"doctor --model {MODEL}",
    "bench": f"bench --rounds=1 {SMALL}",
    "help": "--help",
    "help of a command": "img2img --help",
    "version": "--version",
}


def shell(line):
    return subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stream", "words"),
    [
        (">&-", "standard output is closed"),
        (">/dev/full", "standard output cannot be written: No space left on device"),
    ],
)
@pytest.mark.parametrize("command", COMMANDS)
def test_stdout_that_takes_nothing_is_an_error(command, stream, words):
    ended = shell(f"{LCM} {COMMANDS[command]} {stream}")
    assert (ended.returncode, ended.stdout) == (1, "")
    *_, line = ended.stderr.splitlines()
    assert line == f"lcm: error: {words}"
    assert "Traceback" not in ended.stderr
    assert "Exception ignored" not in ended.stderr


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_a_reader_that_has_gone_is_no_news(command):
    ended = shell(f"({LCM} {COMMANDS[command]}; echo $? >&2) | exec >&-")
    assert ended.stderr == "1\n"


@pytest.mark.slow
@pytest.mark.parametrize("stream", ["2>&-", "2>/dev/full", "2>&- <&-"])
@pytest.mark.parametrize(("command", "status"), [("--version", 0), ("draw", 2), ("info no", 1)])
def test_stderr_that_takes_nothing_changes_no_status(command, status, stream):
    ended = shell(f"{LCM} {command} {stream}")
    assert (ended.returncode, ended.stderr) == (status, "")
    assert (ended.stdout != "") == (status == 0)


@pytest.mark.slow
@pytest.mark.parametrize("streams", ["<&- >&- 2>&-", ">&- 2>&-", "2>/dev/full", ">&- 2>/dev/full"])
def test_an_image_is_made_whatever_the_streams(streams, tmp_path):
    """What libraries log does not end up in it, either."""
    out = tmp_path / "out.png"
    ended = shell(f"{LCM} txt2img 'a lake' -v -o {out} {SMALL} {streams}")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    with Image.open(out) as image:
        assert np.asarray(image).shape == (64, 64, 3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "words"),
    [
        (f"info {MODEL}", None),
        ("info .", ". is not a model directory: it has none of"),
        ("info a.png", "a.png: no such file"),
        (f"doctor --model {MODEL}", None),
        (f"bench --rounds=1 {SMALL}", None),
        ("--version", None),
        (f"txt2img a -q -o {{}}/out.png {SMALL}", None),
        (f"txt2img a -q -o out.png {SMALL}", "folder . was deleted: out.png cannot be written"),
        (f"img2img a.png a -q -o {{}}/out.png {SMALL}", "a.png: no such file"),
        (f"img2img {{}}/init/a.png a -q -o {{}}/out.png {SMALL}", None),
        (
            f"batch {{}}/init a -q -o {{}}/out {SMALL}",
            "worker 0 cannot be started: the working directory was",
        ),
        (f"batch {{}}/init a -q -o out {SMALL}", "the working directory was deleted"),
    ],
)
def test_in_a_deleted_working_directory(command, words, tmp_path):
    (tmp_path / "init").mkdir()
    Image.new("RGB", (64, 64)).save(tmp_path / "init" / "a.png")
    gone = tmp_path / "gone"
    gone.mkdir()
    line = f"cd {gone}; rmdir {gone}; exec {LCM} {command.replace('{}', str(tmp_path))}"
    ended = shell(line)
    if words is None:
        assert (ended.returncode, ended.stderr) == (0, "")
    else:
        assert (ended.returncode, ended.stdout) == (1, "")
        assert ended.stderr.startswith(f"lcm: error: {words}")
        assert ended.stderr.count("\n") == 1
        assert "bug in lcmcore" not in ended.stderr

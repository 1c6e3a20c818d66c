"""`lcm completion`: scripts that shells take, and what these then complete."""

import shutil
import subprocess
import sys

import pytest

from lcmcore.cli.main import main
from lcmcore.cli.parser import SHELLS

pytestmark = pytest.mark.host  # needs shtab, which the board has not; the same everywhere


# What bash offers for the words of a command line: bash's manual, "Programmable Completion".
OFFER = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
function=$(complete -p lcm | sed 's/.*-F \\([^ ]*\\).*/\\1/')
$function lcm "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture
def script(tmp_path, capfd):
    def write(shell):
        assert main(["completion", shell]) == 0
        path = tmp_path / f"lcm.{shell}"
        path.write_text(capfd.readouterr().out)
        return path

    return write


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["im"], {"img2img"}),
        (["img2img", "--str"], {"--strength", "--strength-mode"}),
        (["img2img", "a.png", "a lake", "--fit", "c"], {"cover", "contain"}),
        (["build", "rk"], {"rknn"}),
        (["build", "rknn", "--plat"], {"--platform"}),
        (["completion", ""], {*SHELLS}),
    ],
)
def test_bash_completes(words, offered, script):
    run = ["bash", "-c", OFFER, "bash", script("bash"), "lcm", *words]
    found = subprocess.run(run, capture_output=True, text=True, check=True).stdout.split()
    assert {*found} - {"-h", "--help"} == offered


def test_bash_completes_files(script, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photo.jpg").touch()
    run = ["bash", "-c", OFFER, "bash", script("bash"), "lcm", "img2img", "pho"]
    found = subprocess.run(run, capture_output=True, text=True, check=True).stdout.split()
    assert found == ["photo.jpg"]


@pytest.mark.parametrize("shell", SHELLS)
def test_the_shell_takes_the_script(shell, script):
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here")
    subprocess.run([shell, "-n", script(shell)], check=True)


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_has_every_command_and_option(shell, script):
    text = script(shell).read_text()
    for word in ("img2img", "doctor", "completion", "rknn", "strength-mode", "platform"):
        assert word in text


def test_without_shtab_the_remedy_is_named(monkeypatch, capfd):
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "bash"]) == 1
    assert capfd.readouterr() == (
        "",
        "lcm: error: the script is made by shtab, which is not installed: pip install shtab\n",
    )

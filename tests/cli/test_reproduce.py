"""The command that `lcm info` prints: one line, which real shells read as it was meant."""

import os
import shutil
import subprocess
import unicodedata
from pathlib import Path

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from lcmcore import ArgumentError
from lcmcore.cli.generate import _requests
from lcmcore.cli.parser import make_parser
from lcmcore.cli.reproduce import _OPTIONS, command_of, quote

# bash is everywhere where this is developed; of the others those that are installed.
SHELLS = [["bash"], ["zsh", "-f"], ["ksh"], ["busybox", "sh"]]
SHELLS = [shell for shell in SHELLS if shell == ["bash"] or shutil.which(shell[0])]

SPECIAL = "'\"\\$`!=~#&;|<>(){}[]*?%^-\n\r\t\x01\x07\x1b\x7f\x85\x9b\xa0é湖🏔\u200b\u202e\u2028"
TEXT = st.text(st.one_of(st.sampled_from(SPECIAL), st.characters(exclude_categories=["Cs"])))
TEXT = TEXT.map(lambda text: text.replace("\0", ""))
BYTES = st.binary(max_size=30).map(lambda name: name.replace(b"\0", b"").replace(b"/", b""))
NAMES = BYTES.map(lambda name: os.fsdecode(name) + ".png")
RECORDS = st.builds(
    lambda prompt, rest: {"prompt": prompt, **rest},
    TEXT,
    st.dictionaries(
        st.sampled_from(
            [
                *(*_OPTIONS, "init", "component-runtime", "output", "o", "Comment"),
                *("mask", "mask-sha256", "invert-mask", "overlay"),
            ]
        ),
        TEXT,
    ),
)


@pytest.fixture(scope="module")
def stub(tmp_path_factory):
    """The environment, in which `lcm` is a program that prints its arguments."""
    folder = tmp_path_factory.mktemp("stub")
    (folder / "lcm").write_text("""#!/bin/sh\nprintf '%s\\0' lcm "$@"\n""")
    (folder / "lcm").chmod(0o755)
    return {**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}


def words_of(line, shell, environment):
    """What a shell makes of a line: the words of all the commands named lcm that it runs."""
    run = [*shell, "-c", os.fsencode(line)]
    ended = subprocess.run(run, capture_output=True, check=True, env=environment)
    assert ended.stderr == b""
    return [os.fsdecode(word) for word in ended.stdout.split(b"\0")[:-1]]


@pytest.mark.slow
@pytest.mark.parametrize("shell", SHELLS, ids=lambda shell: shell[0])
@given(record=RECORDS, name=NAMES)
def test_every_record_becomes_one_line_that_a_shell_reads_as_meant(record, name, shell, stub):
    assume("," not in record.get("strength", ""))  # of several images, refused
    words = command_of(record, name)
    line = " ".join(map(quote, words))
    assert not {"Cc", "Cf", "Cs", "Zl", "Zp"} & set(map(unicodedata.category, line))
    assert words_of(line, shell, stub) == words


@given(record=RECORDS, name=NAMES)
@example(record={"prompt": "a lake", "strength": "0.3,0.5"}, name="a.png")
def test_no_record_makes_the_command_write_elsewhere(record, name):
    """Read as `lcm` itself reads it: the output is what the caller of `lcm info` named."""
    try:
        args = make_parser(builders=False).parse_args(command_of(record, name)[1:])
        outputs = [*_requests(args)]
    except (SystemExit, ArgumentError):  # a size that is none, and the like: nothing is done
        return
    assert outputs == [Path(name)]
    assert args.run.__name__ == "generate"
    assert args.output == Path(name)
    assert args.prompt == record["prompt"]
    if "strength" in record:
        assert args.init == Path(record.get("init", "INIT"))
    assert args.model_digest == record.get("model-digest")
    assert args.model == record.get("model")


@pytest.mark.parametrize(
    ("word", "quoted"),  # zsh would replace an unquoted =ls by the path of ls
    [
        ("lake", "lake"),
        ("", "''"),
        ("a lake", "'a lake'"),
        ("it's", """'it'"'"'s'"""),
        ("two\nlines", r"$'two\012lines'"),
        ("\x1b[2J7", r"$'\033[2J7'"),
        ("it's \\n\n", r"$'it\047s \134n\012'"),
        ("\u202e", r"$'\342\200\256'"),
        ("\udcff1", r"$'\3771'"),
        ("湖 !", "'湖 !'"),
        ("湖\t", r"$'湖\011'"),
        ("=ls", "'=ls'"),
        ("a=b", "a=b"),
        ("=a b", "'=a b'"),
    ],
)
def test_quoting(word, quoted, stub):
    assert quote(word) == quoted
    assert words_of(f"lcm {quoted}", ["bash"], stub) == ["lcm", word]


def test_a_record_of_several_strengths_makes_no_command():
    with pytest.raises(ArgumentError, match="strength is not that of one image"):
        command_of({"prompt": "a lake", "strength": "0.3,0.5"}, "a.png")


def test_nul_is_in_no_command():
    with pytest.raises(ArgumentError, match="NUL"):
        quote("a\0b")


PLAIN = {"prompt": "a lake", "seed": "7", "size": "64x64"}


@pytest.mark.parametrize(
    ("record", "name", "words"),
    [
        ({}, "a.png", ["txt2img", "-o", "a.png", "--seed=7", "--size=64x64", "a lake"]),
        ({}, "-a.png", ["txt2img", "--output=-a.png", "--seed=7", "--size=64x64", "a lake"]),
        (
            {"prompt": "--output=/etc/passwd"},
            "a.png",
            ["txt2img", "-o", "a.png", "--seed=7", "--size=64x64", "--", "--output=/etc/passwd"],
        ),
        (
            {"strength": "0.5"},
            "a.png",
            [
                *("img2img", "-o", "a.png", "--strength=0.5"),
                *("--seed=7", "--size=64x64", "INIT", "a lake"),
            ],
        ),
        (
            {
                "strength": "0.5",
                "init": "-o",
                "seed": "7 --output=x",
                "output": "x",
                "--output": "",
            },
            "a.png",
            [
                *("img2img", "-o", "a.png", "--strength=0.5"),
                *("--seed=7 --output=x", "--size=64x64", "--", "-o", "a lake"),
            ],
        ),
        (
            {
                **{"strength": "0.5", "init": "a.png", "mask": "-m.png", "mask-crop": "3"},
                **{"invert-mask": "True", "overlay": "False", "expand": "1,2,3,4"},
            },
            "b.png",
            [
                *("img2img", "-o", "b.png", "--strength=0.5", "--seed=7", "--size=64x64"),
                *("--mask-crop=3", "--expand=1,2,3,4", "--invert-mask", "--no-overlay"),
                *("--mask=-m.png", "a.png", "a lake"),
            ],
        ),
        (
            {"strength": "0.5", "mask-sha256": "0", "invert-mask": "no", "overlay": "True"},
            "b.png",
            [
                *("img2img", "-o", "b.png", "--strength=0.5", "--seed=7", "--size=64x64"),
                *("--mask=MASK", "INIT", "a lake"),
            ],
        ),
        (
            {"component-runtime": "unet=onnx vae_decoder=-o"},
            "a.png",
            [
                *("txt2img", "-o", "a.png", "--seed=7", "--size=64x64"),
                *("--component-runtime=unet=onnx", "--component-runtime=vae_decoder=-o", "a lake"),
            ],
        ),
    ],
)
def test_the_words_of_the_command(record, name, words):
    assert command_of({**PLAIN, **record}, name) == ["lcm", *words]

"""Help pages beside the parser, and usage errors that say what was meant."""

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lcmcore import demo_dir
from lcmcore.cli.main import main
from lcmcore.cli.pages import page_address
from lcmcore.cli.parser import make_parser
from lcmcore.cli.usage import ALIASES
from lcmcore.png import read_record

pytestmark = pytest.mark.host  # the same on every processor, and hundreds of tests

LCM = Path(sys.executable).with_name("lcm")
SCRIBBLE = Path(__file__).parents[2] / "docs" / "pictures" / "scribble.png"


def parsers(parser):
    """The parsers of all commands, those of `lcm build` among them."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for each in action.choices.values():
                yield from parsers(each)


PARSERS = {each.prog: each for each in parsers(make_parser(builders=True))}
OPTIONS = [
    pytest.param(action, id=f"{prog} {'/'.join(action.option_strings) or action.dest}")
    for prog, parser in PARSERS.items()
    for action in parser._actions
]


def test_every_command_is_looked_at():
    assert {"lcm", "lcm img2img", "lcm batch", "lcm build", "lcm build rknn"} < PARSERS.keys()


@pytest.mark.parametrize("action", OPTIONS)
def test_every_option_has_help_with_its_default(action):
    if isinstance(action, argparse._HelpAction | argparse._SubParsersAction):
        return
    assert action.help
    optional = (
        action.option_strings and not action.required and not {*ALIASES} & {*action.option_strings}
    )
    if optional and "--version" not in action.option_strings:
        (said,) = re.findall(r"\(default: (.*)\)$", action.help)
        if isinstance(action.default, str | int | float) and action.nargs != 0:
            assert said in ("%(default)s", str(action.default))


def examples(parser):
    """The lines of the page's examples, as a reader would copy them."""
    page = parser.format_help().partition("examples:\n")[2].partition("\n\n")[0]
    return [line.strip() for line in page.splitlines()]


@pytest.mark.parametrize("prog", PARSERS)
def test_help_has_three_examples_and_short_usage(prog):
    parser = PARSERS[prog]
    usage = parser.format_usage()
    assert usage.count("\n") == 1
    assert usage.startswith(f"usage: {prog}")
    lines = examples(parser)
    assert len(lines) >= 3
    for line in lines:
        assert re.match(rf"(\w+=\w+ )?{prog}\b|lcm info MODEL$", line), line


def commands():
    return [pytest.param(line, id=line) for parser in PARSERS.values() for line in examples(parser)]


@pytest.mark.parametrize("line", commands())
def test_examples_are_right_usage(line):
    words = shlex.split(line.split(" > ")[0])
    words = words[words.index("lcm") + 1 :]
    if "--help" not in words:
        make_parser(builders=True).parse_args(words)


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """A folder with the files that the examples name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LCM_MODEL", raising=False)
    (tmp_path / "photos").mkdir()
    for name in ("scribble.png", "photos/lake.png", "one.jpg", "two.jpg", "photo.jpg"):
        shutil.copy(SCRIBBLE, name)
    Path("MODEL").symlink_to(demo_dir())
    Path("jobs.jsonl").write_text('{"prompt": "a lake", "output": "lake"}\n')
    return tmp_path


ELSEWHERE = ("lcm build", "lcm serve")


@pytest.mark.slow
@pytest.mark.parametrize("prog", [prog for prog in PARSERS if not prog.startswith(ELSEWHERE)])
def test_examples_run_in_their_order(prog, desk):
    """Those of `lcm build` need torch, or Rockchip's converter; pages of docs run them.

    Those of `lcm serve` do not end: `tests/server/test_docs.py` runs them.
    """
    path = f"{LCM.parent}{os.pathsep}{os.environ['PATH']}"
    lines = examples(PARSERS[prog])
    if prog == "lcm info":
        lines = ["lcm txt2img 'a lake' -o night.png", *lines]
    for line in lines:
        run = ["bash", "-ec", line.split(" > ")[0]]
        ended = subprocess.run(
            run, capture_output=True, text=True, check=False, env={**os.environ, "PATH": path}
        )
        assert ended.returncode == 0, (line, ended.stderr)


@pytest.fixture
def lcm(capfd):
    """Run the command in this process: (exit status, stdout, stderr)."""

    def run(*words):
        try:
            status = main([str(word) for word in words])
        except SystemExit as leaving:
            status = leaving.code
        reported = capfd.readouterr()
        return status, reported.out, reported.err

    return run


@pytest.mark.parametrize("words", [[], ["build"]])
def test_a_bare_command_prints_its_help(words, lcm):
    status, out, err = lcm(*words)
    assert (status, err) == (2, "")
    assert out == lcm(*words, "--help")[1]
    assert "examples:\n" in out


MEANT = [
    (
        ["img2img", "a.png", "a", "snowy", "lake", "-o", "b.png"],
        'the prompt is one argument: quote it, as in "a snowy lake"',
    ),
    (
        ["txt2img", "-o", "b.png", "a", "lake", "--steps", "2", "at", "night"],
        'the prompt is one argument: quote it, as in "a lake at night"',
    ),
    (
        ["img2img", "-i", "a.png", "a", "lake", "-o", "b.png"],
        "'lake' is one argument too many: INIT came as an option, too",
    ),
    (["txt2img", "a", "-o", "b.png", "--step=2"], "unknown option --step: is --steps meant?"),
    (["txt2img", "a", "-o", "b.png", "--xyzzy"], "unknown option --xyzzy"),
    (
        ["txt2img", "a", "-o", "b.png", "--guidance_scale", "2"],
        "unknown option --guidance_scale: here it is --guidance F",
    ),
    (["txt2img", "a", "-n", "2", "-o", "b.png"], "unknown option -n: here it is --count N"),
    (["txt2img", "-o", "b.png", "-p"], "argument -p: expected one argument"),
    (
        ["img2img", "a lake", "-o", "b.png"],
        "the following arguments are required: PROMPT; without an init image it is lcm txt2img",
    ),
    (["info", "a.png", "b.png"], "unexpected argument 'b.png'"),
    (
        ["img2img", "a.png", "a", "-o", "b.png", "--strength=half"],
        "argument --strength: 'half' is no number, like 0.75, nor a percentage, like 75%",
    ),
    (["batch", "photos", "a", "-o", "out", "-W", "64"], "unknown option -W: here it is --size WxH"),
    (
        ["batch", ".", "a", "snowy", "lake", "-o", "out"],
        'no such file: a; a prompt is quoted, as in "a snowy lake"',
    ),
    (
        ["batch", "--jobs", "jobs", "one", "two", "three", "-o", "out"],
        "with --jobs, at most one folder of init images and a prompt are taken",
    ),
]


@pytest.mark.parametrize(("words", "meant"), MEANT, ids=lambda value: " ".join(value)[:60])
def test_what_was_meant(words, meant, lcm):
    status, out, err = lcm(*words)
    usage, page, line, end = err.split("\n")
    assert (status, out, end) == (2, "", "")
    assert usage.startswith(f"usage: lcm {words[0]} ")
    assert usage.endswith(" [OPTION ...]")
    assert page == f"options and examples: lcm {words[0]} --help"
    assert line == f"lcm {words[0]}: error: {meant}"


ALIKE = [
    ["a.png", "a lake", "-o", "b.png"],
    ["-i", "a.png", "-p", "a lake", "-o", "b.png"],
    ["--image=a.png", "--prompt=a lake", "-o", "b.png"],
    ["-p", "a lake", "-o", "b.png", "a.png"],
    ["a.png", "-o", "b.png", "-pa lake"],
    ["a lake", "-o", "b.png", "-i", "a.png"],
    ["-o", "b.png", "-i", "a.png", "--", "a lake"],
    ["-o", "b.png", "-p", "a lake", "--", "a.png"],
]


@pytest.mark.parametrize("words", ALIKE, ids=" ".join)
def test_options_of_other_programs_for_init_and_prompt(words):
    args = make_parser(builders=False).parse_args(["img2img", *words])
    assert (args.init, args.prompt, args.output) == (Path("a.png"), "a lake", Path("b.png"))


@pytest.mark.parametrize("prompt", ["-o", "--", "-1", ""])
def test_an_alias_takes_any_prompt(prompt):
    args = make_parser(builders=False).parse_args(["txt2img", "-o", "b.png", f"--prompt={prompt}"])
    assert args.prompt == prompt


def test_an_init_image_of_any_name():
    words = ["img2img", "--image=-a.png", "a lake", "-o", "b.png"]
    assert make_parser(builders=False).parse_args(words).init == Path("-a.png")


BATCHES = [
    (["photos", "a lake", "-o", "out"], ["photos"], "a lake"),
    (["photos", "-o", "out", "a lake"], ["photos"], "a lake"),
    (["-o", "out", "photos", "one.jpg", "a lake"], ["photos", "one.jpg"], "a lake"),
    (["-i", "photos", "-p", "a lake", "-o", "out"], ["photos"], "a lake"),
    (["one.jpg", "two.jpg", "-p", "a lake", "-o", "out"], ["one.jpg", "two.jpg"], "a lake"),
    (["-i", "one.jpg", "two.jpg", "a lake", "-o", "out"], ["one.jpg", "two.jpg"], "a lake"),
    (["photos", "-o", "out", "--", "--steps"], ["photos"], "--steps"),
    (["--jobs", "f", "-o", "out"], [], None),
    (["--jobs", "f", "photos", "-o", "out"], ["photos"], None),
    (["--jobs", "f", "photos", "a lake", "-o", "out"], ["photos"], "a lake"),
    (["--jobs", "f", "-p", "a lake", "-o", "out"], [], "a lake"),
]


@pytest.mark.parametrize(("words", "inits", "prompt"), BATCHES)
def test_init_images_and_prompt_of_a_batch(words, inits, prompt, tmp_path, monkeypatch):
    seen = []
    monkeypatch.chdir(tmp_path)
    for name in ("one.jpg", "two.jpg"):
        (tmp_path / name).touch()
    monkeypatch.setattr("lcmcore.cli.batch.generate_many", seen.append)
    args = make_parser(builders=False).parse_args(["batch", *words])
    args.run(args)
    assert [str(path) for path in seen[0].inits] == inits
    assert seen[0].prompt == prompt


@pytest.mark.parametrize(("text", "strength"), [("75%", 0.75), ("0.75", 0.75), ("100%", 1.0)])
def test_strength_as_a_percentage(text, strength):
    words = ["a.png", "a", "-o", "b.png", "--strength", text]
    assert make_parser(builders=False).parse_args(["img2img", *words]).strength == [strength]
    assert make_parser(builders=False).parse_args(["batch", *words]).strength == strength


def test_pages_are_cited_by_their_address():
    """Who installed a wheel has no docs/."""
    pages = "".join(parser.format_help() for parser in PARSERS.values())
    cited = re.findall(r"\S*docs/\w+\.md", pages)
    assert [each for each in cited if not each.startswith(page_address("docs/"))] == []
    assert page_address("docs/worker.md") in cited
    root = Path(__file__).parents[2]
    assert [
        each for each in cited if not (root / each.removeprefix(page_address(""))).exists()
    ] == []


def test_an_alias_makes_the_same_image(desk, lcm):
    small = ["--size=64x64", "--steps=1", "--seed=7", "-q"]
    assert lcm("img2img", "scribble.png", "a lake", "-o", "a.png", *small)[0] == 0
    assert lcm("img2img", "-i", "scribble.png", "-p", "a lake", "-o", "b.png", *small)[0] == 0
    assert read_record(Path("a.png")) == read_record(Path("b.png"))
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes()

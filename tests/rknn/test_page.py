"""docs/rk3588.md: commands run or parse, unit and worker work, tables have every message."""

from __future__ import annotations

import ast
import json
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import lcmcore
from lcmcore.bundle import Settings
from lcmcore.cli.main import main
from lcmcore.cli.parser import make_parser
from runtimes.rknn import RknnRuntime, board, diagnosis, toolkit
from tests.rknn import fixtures
from tests.rknn.conftest import Calls, Npu
from tests.rknn.double import RKNNLiteDouble

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "rk3588.md").read_text(encoding="utf-8")
SCRIBBLE = ROOT / "docs" / "pictures" / "scribble.png"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


def section(title: str) -> str:
    """What stands below the heading that contains these words, up to the next of its level."""
    found = re.search(rf"^(#+) [^\n]*{re.escape(title)}[^\n]*\n", PAGE, re.M)
    assert found, title
    kept: list[str] = []
    for line in PAGE[found.end() :].splitlines(keepends=True):
        fenced = "".join(kept).count("```") % 2  # where a comment begins as a heading does
        if not fenced and re.match(rf"#{{1,{len(found[1])}}} ", line):
            break
        kept.append(line)
    return "".join(kept)


def shell_lines(text: str = PAGE) -> list[str]:
    """The commands of the blocks for a shell; one that goes on with a backslash is one line."""
    blocks = re.findall(r"^ *```console\n(.*?)^ *```", text, re.M | re.S)
    return [line.strip() for line in "".join(blocks).replace("\\\n", "").splitlines()]


def file_of(path: str) -> str:
    """The text that the page tells to save under a path."""
    (text,) = re.findall(rf"^```\w+ {re.escape(path)}\n(.*?)^```", PAGE, re.M | re.S)
    return str(text)


def lcm_words(line: str) -> list[str] | None:
    """The words after `lcm` of a command, None for other commands."""
    words = shlex.split(line)
    if words[0] == "ssh":
        words = words[2:]
    return words[1:] if words and Path(words[0]).name == "lcm" else None


@pytest.mark.parametrize("line", shell_lines())
def test_commands_are_of_a_shell_and_those_of_lcm_parse(line: str) -> None:
    subprocess.run(["bash", "-n", "-c", line], check=True)
    words = lcm_words(line)
    if words is not None:
        make_parser(builders=words[0] == "build").parse_args(words)


def test_every_step_has_a_command() -> None:
    steps = re.findall(r"^### \d+[ab]?\. (.*)$", PAGE, re.M)
    assert len(steps) == 11
    assert [step for step in steps if not shell_lines(section(step))] == []


def test_pip_lines() -> None:
    """Extras that there are; the version of the converter is that of the tests."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    lines = [line for line in shell_lines() if " install " in line and "/pip " in line]
    asked = [extra for line in lines for each in re.findall(r"\[(.*?)\]", line)
             for extra in each.split(",")]  # fmt: skip
    assert [extra for extra in asked if f"\n{extra} = [" not in text] == []
    assert f"rknn/bin/pip install --no-deps {toolkit.PACKAGE}" in lines


def test_address_of_the_library_is_that_of_the_doctor() -> None:
    folder = board.LIBRARY_ADDRESS.rpartition("/")[0]
    assert f"FOLDER={folder}\n" in PAGE


def test_links_by_reference_lead_somewhere() -> None:
    titles = re.findall(r"^#+ (.*)$", PAGE, re.M)
    anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
    defined = dict(re.findall(r"^\[([^\]]+)\]: #(\S+)$", PAGE, re.M))
    assert set(defined.values()) <= anchors
    body = re.sub(r"^ *```.*?^ *```|`[^`\n]*`|^    .*?$", "", PAGE, flags=re.M | re.S)
    used = re.findall(r"\[([^\]]+)\](?![:(\[])", body)
    assert {" ".join(name.split()) for name in used} == set(defined)


def test_lcm_toml_of_the_page_is_accepted(tmp_path: Path) -> None:
    (text,) = re.findall(r"^```toml\n(.*?)^```", PAGE, re.M | re.S)
    (tmp_path / "lcm.toml").write_text(text)
    assert Settings.read(tmp_path / "lcm.toml").options_of("unet") == {"core_mask": "0"}


# Published directories: the commands of the page, on directories of their layout.


def publish(root: Path, *pointers: str, tokenizer: bool = False) -> None:
    """A directory of three .rknn files and their configs, with Git LFS pointers for others."""
    fixtures.write_bundle(root)
    shutil.rmtree(root / "vae_encoder")
    for component in ("text_encoder", "unet", "vae_decoder"):
        shutil.copy(fixtures.TINY / component / "config.json", root / component)
    for name in ("scheduler", *(["tokenizer"] if tokenizer else [])):
        shutil.copytree(fixtures.TINY / name, root / name)
    for name in pointers:
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(POINTER)


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with what the page's downloads leave in it."""
    export = tmp_path / "dreamshaper-onnx"
    shutil.copytree(fixtures.TINY, export)
    for name in ("unet/model.onnx", "unet/model.onnx_data", "tokenizer/model.onnx"):
        (export / name).write_text(POINTER)
    onnx = ("text_encoder/model.onnx", "unet/model.onnx", "unet/model.onnx_data",
            "vae_decoder/model.onnx", "tokenizer/model.onnx")  # fmt: skip
    publish(tmp_path / "happyme531" / "model", *onnx, tokenizer=True)
    shutil.copytree(
        fixtures.TINY / "vae_encoder", tmp_path / "happyme531" / "model" / "vae_encoder"
    )
    copied = tmp_path / "thanhtantran" / "model"
    publish(copied, *onnx, "vae_encoder/model.onnx", tokenizer=True)
    publish(tmp_path / "danielferr85", "unet/model.onnx", "unet/model.onnx_data")
    publish(tmp_path / "radxa" / "model")
    with Image.open(SCRIBBLE) as picture:
        picture.convert("RGB").save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_here(line: str) -> None:
    """A command of the page, at the size of the tests' networks; downloads and copies were done."""
    words = lcm_words(re.sub(r"--size \d+x\d+", f"--size {fixtures.SIZE}", line))
    if words is not None:
        assert main(words) == 0, line
    elif shlex.split(line)[0] in {"find", "cp"}:
        subprocess.run(["bash", "-c", line], check=True)


def draw(model: Path) -> None:
    """The command of the step "The first image"."""
    (line,) = shell_lines(section("The first image"))
    run_here(line.replace("/opt/lcm/model", str(model)))
    with Image.open("lake.png") as image:
        assert image.size == (48, 32)


PUBLISHED = ["happyme531/", "thanhtantran/", "danielferr85/", "radxa/"]


@pytest.mark.parametrize("title", PUBLISHED)
def test_published_directory_with_an_encoder_for_the_npu(
    title: str, desk: Path, calls: Calls, lites: list[RKNNLiteDouble],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    lines = shell_lines(section("A published model directory").split("\n#### ")[0])
    lines += shell_lines(section(f"#### {title}"[5:]))
    (built,) = [line for line in lines if "/lcm build rknn" in line]
    model = desk / shlex.split(built)[4]
    for line in lines:
        run_here(line)
        if line == built:  # the stand-in for the converter writes no .rknn file
            assert "export_rknn" in [call for call, _ in calls()]
            (model / "vae_encoder" / "model.rknn").write_bytes(fixtures.read("vae_encoder"))
    described = capsys.readouterr().out
    assert "tokenizer: no " not in described
    assert described.count("built for rk3588 by rknn-toolkit2") == 4
    assert main(["doctor", "--model", str(model)]) == 1  # for want of a device, alone
    found = capsys.readouterr().out.splitlines()
    errors = [line for line in found if line.startswith("error")]
    assert [line for line in errors if "NPU" not in line and "librknnrt" not in line] == []
    draw(model)
    assert len(lites) == 4


def test_published_directory_with_the_encoder_on_the_cpu(
    desk: Path, lites: list[RKNNLiteDouble]
) -> None:
    lines = shell_lines(section("A published model directory").split("\n#### ")[0])
    for line in [*lines, *shell_lines(section("With the encoder on the CPU"))]:
        run_here(line)
    draw(desk / "radxa" / "model")
    assert len(lites) == 3


# What the page says that `lcm doctor` prints.


def samples(title: str) -> list[str]:
    """The indented lines of a section."""
    return [line[4:] for line in section(title).splitlines() if line.startswith("    ok ")]


def test_output_of_the_doctor(
    tiny: Path, npu: Npu, lites: list[RKNNLiteDouble], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """On a board where all is right; the tests' networks are of 48x32."""
    library = tiny / "librknnrt.so"
    library.write_bytes(b"librknnrt version: 2.5.0 (74ea630ce@2026-09-29T14:54:20)\0")
    monkeypatch.setattr(board, "library", lambda: library)
    monkeypatch.setattr(board, "driver_version", lambda: "0.9.8")
    monkeypatch.setattr(diagnosis, "version_of", lambda package: "2.5.0")
    monkeypatch.setattr(RknnRuntime, "available", lambda self: None)
    for name in ("scheduler", "tokenizer"):
        shutil.copytree(fixtures.TINY / name, tiny / name)
    assert main(["doctor", "--model", str(tiny)]) == 0
    printed = capsys.readouterr().out.replace(str(library), "/usr/lib/librknnrt.so")
    lines = samples("lcmcore") + samples("Copy the model to the board")
    assert len(lines) == 8
    ours = [each.replace("4, 32, 32", "4, 4, 6").replace("256x256", "48x32") for each in lines]
    assert [line for line in ours if line not in printed.splitlines()] == []


# The service.


@pytest.fixture
def installed(tmp_path: Path) -> dict[str, Path]:
    """The paths of the page, each in the place of its own."""
    (tmp_path / "worker.py").write_text(file_of("/opt/lcm/worker.py"), encoding="utf-8")
    (tmp_path / "state" / "inbox").mkdir(parents=True)
    (tmp_path / "state" / "outbox").mkdir()
    return {
        "/opt/lcm/bin/python": Path(sys.executable),
        "/opt/lcm/worker.py": tmp_path / "worker.py",
        "/opt/lcm/model": lcmcore.demo_dir(),
        "/var/lib/lcm": tmp_path / "state",
    }


def here(text: str, installed: dict[str, Path]) -> str:
    for path, place in installed.items():
        text = text.replace(path, str(place))
    return text


def appeared(path: Path) -> bytes:
    limit = time.monotonic() + 120
    while not path.exists():
        assert time.monotonic() < limit, f"no {path.name}"
        time.sleep(0.1)
    return path.read_bytes()


@pytest.mark.slow
@pytest.mark.host  # it starts processes that load the demo model
def test_the_unit_serves_jobs(installed: dict[str, Path], tmp_path: Path) -> None:
    unit = file_of("/etc/systemd/system/lcm-worker.service")
    (command,) = re.findall(r"^ExecStart=(.*)$", unit, re.M)
    with Image.open(SCRIBBLE) as picture:
        picture.convert("RGB").save(tmp_path / "photo.jpg")
    inbox, outbox = (installed["/var/lib/lcm"] / name for name in ("inbox", "outbox"))
    bad = {
        "list": "[1]",
        "key": '{"prompt": "a lake", "sun": 1}',
        "image": '{"prompt": "a lake", "init_image": "none.png"}',
        "deep": "[" * 100_000,
    }
    for name, text in bad.items():
        (inbox / f"{name}.json").write_text(text)
    with subprocess.Popen(shlex.split(here(command, installed)), cwd=tmp_path) as process:
        try:
            for line in shell_lines(section("A service")):
                if "/var/lib/lcm" in line:
                    done = ["bash", "-c", here(line, installed)]
                    subprocess.run(done, check=True, cwd=tmp_path)
            assert appeared(outbox / "lake.png").startswith(b"\x89PNG")
            for name in bad:
                assert appeared(outbox / f"{name}.error").strip()
            assert process.poll() is None
        finally:
            process.terminate()
    assert main(["info", str(outbox / "lake.png")]) == 0
    assert sorted(path.name for path in inbox.iterdir()) == ["photo.jpg"]
    assert not list(outbox.glob("*.part"))


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs Debian's systemd")
def test_systemd_accepts_the_unit(installed: dict[str, Path], tmp_path: Path) -> None:
    unit = tmp_path / "lcm-worker.service"
    unit.write_text(here(file_of("/etc/systemd/system/lcm-worker.service"), installed))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True
    )
    assert [line for line in done.stderr.splitlines() if unit.name in line] == []


# Messages.

RAISED = ("Error", "_failure")  # calls whose texts are messages, by the end of their names
FOUND = ("Fault", "Placeholder")  # calls with a message, and then its remedy
REASONS = ("available", "missing")  # functions that return one


def template(node: ast.expr | None, names: dict[str, list[str]]) -> list[str]:
    """The texts that an expression may be, "..." for what is not known here."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value]
    if isinstance(node, ast.JoinedStr):
        parts = [part.value if isinstance(part, ast.Constant) else "..." for part in node.values]
        return [re.sub(r"\.{6,}", "...", "".join(map(str, parts)))]
    return names.get(node.id, []) if isinstance(node, ast.Name) else []


def messages_of(path: Path) -> Iterator[str]:
    """The texts of what a module raises, of the faults that it finds, and of its reasons."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names: dict[str, list[str]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            names.setdefault(node.targets[0].id, []).extend(template(node.value, {}))
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            function: Any = node.func
            name = getattr(function, "id", getattr(function, "attr", ""))
            if name.endswith((*RAISED, *FOUND)):
                for argument in node.args[:1] if name in FOUND else node.args:
                    yield from template(argument, names)
        elif isinstance(node, ast.Yield) and isinstance(node.value, ast.Tuple):
            level, *texts = node.value.elts
            if len(texts) == 2 and template(level, {}) != ["ok"]:
                yield from template(texts[0], names)
        elif isinstance(node, ast.FunctionDef) and node.name in REASONS:
            for inner in ast.walk(node):
                if isinstance(inner, ast.Return):
                    yield from template(inner.value, names)


def says_something(message: str) -> bool:
    """Whether it is more than what it quotes."""
    return bool(re.search(r"[a-z]{2}", message.replace("...", "")))


def ours(*folders: str) -> set[str]:
    paths = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    shown = [path for path in paths if path.parent.name != "cost"]  # whose errors only say: unknown
    found = {message for path in shown for message in messages_of(path)}
    return {message for message in found if says_something(message)}


def pattern(text: str) -> str:
    """A regular expression of a text in which "..." stands for anything."""
    return ".*".join(re.escape(part) for part in text.split("..."))


def covers(phrase: str, message: str) -> bool:
    """Whether a row is about a message: a part of it, or an example of all of it."""
    return bool(re.search(pattern(phrase), message) or re.fullmatch(pattern(message), phrase))


def rows(title: str) -> list[tuple[list[str], str]]:
    """The quoted messages and the remedy of each row of the table in a section."""
    lines = [line for line in section(title).splitlines() if line.startswith("|")][2:]
    cells = [re.split(r"(?<!\\) \| ", line.strip("| ")) for line in lines]
    return [(re.findall(r"`([^`]+)`", message), remedy) for message, remedy in cells]


TABLES = ["What lcm doctor finds", "Opening and running", "Building"]
PHRASES = [phrase for title in TABLES for phrases, _ in rows(title) for phrase in phrases]


@pytest.mark.parametrize("message", sorted(ours("runtimes/rknn")))
def test_every_message_has_a_row(message: str) -> None:
    assert any(covers(phrase, message) for phrase in PHRASES)


@pytest.mark.parametrize("phrase", PHRASES)
def test_every_row_is_about_a_message_that_there_is(phrase: str) -> None:
    assert any(covers(phrase, message) for message in EVERYWHERE)


EVERYWHERE = sorted(ours("runtimes", "lcmcore"))


@pytest.mark.parametrize("title", [*TABLES, "What librknnrt and the kernel say"])
def test_every_row_has_a_remedy(title: str) -> None:
    table = rows(title)
    assert table
    assert [phrases for phrases, remedy in table if not phrases or len(remedy) < 8] == []


def test_messages_are_collected() -> None:
    """Of each kind of place that has one."""
    found = ours("runtimes/rknn")
    assert {
        "no NPU driver: sysfs has no device of the driver RKNPU",
        "rknn-toolkit-lite2 has no wheel for this Python",
        "rknn_run failed with code ...: see dmesg",
        "... returned ...",
        "this machine is not a Rockchip board with an NPU: use the runtime onnx here",
    } <= found
    assert not any(message.startswith("SoC ") for message in found)
    assert json.dumps(sorted(found))  # text, each of them

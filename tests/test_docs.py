"""Commands and snippets of README and docs/ run, links lead somewhere, lines are short."""

import inspect
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import lcmcore
from lcmcore.bundle import Settings
from lcmcore.runtime import importable_runtimes

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PROSE = [*PAGES, ROOT / "CHANGELOG.md", *sorted((ROOT / "assets").glob("*/README.md"))]
SCRIBBLE = ROOT / "docs" / "pictures" / "scribble.png"
MASK = SCRIBBLE.with_name("mask.png")
LCM = Path(sys.executable).with_name("lcm")


def blocks(language):
    """(page:line, text) of each fenced block of a language."""
    for page in PAGES:
        text = page.read_text()
        for match in re.finditer(rf"^```{language}\n(.*?)^```", text, re.M | re.S):
            line = text.count("\n", 0, match.start()) + 1
            yield pytest.param(match[1], id=f"{page.name}:{line}")


def commands(program):
    """(page:line, words) of each shell line that runs a program."""
    for block in blocks("sh"):
        for number, line in enumerate(block.values[0].splitlines(), start=1):
            words = shlex.split(line, comments=True)
            if words[:1] == [program]:
                yield pytest.param(words, id=f"{block.id}+{number}")


def tables(header):
    """The rows of each table of library.md whose first column has that header, as cells."""
    text = (ROOT / "docs" / "library.md").read_text()
    for table in re.findall(rf"^\| {header} \|.*\n\|[-|]+\n((?:\|.*\n)+)", text, re.M):
        yield [[cell.strip() for cell in row.split("|")[1:-1]] for row in table.splitlines()]


@pytest.fixture
def desk(tmp_path):
    """A folder with what the commands of the pages take for granted."""
    for picture in (SCRIBBLE, MASK):
        shutil.copy(picture, tmp_path)
    (tmp_path / "MODEL").symlink_to(lcmcore.demo_dir())
    (tmp_path / "photos").mkdir()
    shutil.copy(SCRIBBLE, tmp_path / "photos" / "lake.png")
    (jobs,) = blocks("jsonl")
    (tmp_path / "jobs.jsonl").write_text(jobs.values[0])
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("code", [*blocks("python")])
def test_python_snippet_runs(code, tmp_path):
    """With the package, the scribble and the mask alone."""
    for picture in (SCRIBBLE, MASK):
        shutil.copy(picture, tmp_path)
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def pages_with_lcm():
    return [page for page in PAGES if any(p.id.startswith(page.name) for p in commands("lcm"))]


@pytest.mark.slow
@pytest.mark.parametrize("page", pages_with_lcm(), ids=lambda page: page.name)
def test_lcm_commands_run_in_the_order_of_the_page(page, desk):
    for words in (p.values[0] for p in commands("lcm") if p.id.startswith(page.name)):
        done = subprocess.run([LCM, *words[1:]], cwd=desk, capture_output=True, text=True)
        assert done.returncode == 0, (words, done.stderr)
        if "-o" in words:
            made = desk / words[words.index("-o") + 1]
            several = made.parent.glob(f"{made.stem}-*{made.suffix}")  # of --count
            pictures = [made] if made.is_file() else [*made.rglob("*.png"), *several]
            assert pictures
            assert min(path.stat().st_size for path in pictures) > 1000


@pytest.mark.parametrize("words", [*commands("make")])
def test_make_targets_exist(words):
    done = subprocess.run(
        ["make", "--dry-run", *words[1:]], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("words", [p for p in commands("pip") if "[" in p.values[0][-1]])
def test_pip_installs_an_extra_that_exists(words):
    (extras,) = re.fullmatch(r"(?:lcmcore|\.)\[([\w,]+)\]", words[-1]).groups()
    text = (ROOT / "pyproject.toml").read_text()
    assert [extra for extra in extras.split(",") if f"\n{extra} = [" not in text] == []


@pytest.mark.slow
def test_lcm_toml_of_the_page_is_accepted(tmp_path):
    (page,) = [p for p in PAGES if p.name == "models.md"]
    (text,) = re.findall(r"^```toml\n(.*?)^```", page.read_text(), re.M | re.S)
    path = tmp_path / "lcm.toml"
    path.write_text(text)
    with lcmcore.load(lcmcore.demo_dir(), config=path) as pipe:
        pipe(prompt="a lake", image=SCRIBBLE, strength=0.1, seed=1)
    assert Settings.read(path).components["vae_encoder"]["threads"] == 2


def keywords(function):
    """What a call of it may name, and the default as the pages write it."""
    given = [p for p in inspect.signature(function).parameters.values() if p.name != "self"]
    return {
        p.name: "" if p.default is p.empty else f"`{p.default!r}`".replace("'", '"')
        for p in given
        if p.kind is not p.VAR_KEYWORD
    }


def test_tables_have_every_keyword_of_a_call_and_of_load_with_its_default():
    call, load = (
        {name.strip("`"): default for name, default, _ in table} for table in tables("keyword")
    )
    assert call == keywords(lcmcore.Pipeline.__call__)
    assert load == keywords(lcmcore.load)


def test_table_has_every_option_of_the_runtimes():
    (table,) = tables("option")
    listed = {
        (option.strip("`"), name) for option, names, *_ in table for name in names.split(", ")
    }
    known = {(option, each.name) for each in importable_runtimes() for option in each.options}
    assert listed == known


def anchors(page):
    """What GitHub makes of the page's headings."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.M)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_links_lead_somewhere():
    for page in PROSE:
        for path, anchor in re.findall(r"\]\(([^)#:]*)#?([^):]*)\)", page.read_text()):
            target = page.parent / path if path else page
            assert target.exists(), f"{page.name} links to {path}"
            assert not anchor or anchor in anchors(target), f"{page.name} links to {path}#{anchor}"


@pytest.mark.parametrize("page", PROSE, ids=lambda page: str(page.relative_to(ROOT)))
def test_lines_are_under_120_characters(page):
    lines = enumerate(page.read_text().splitlines(), start=1)
    assert [f"line {number}" for number, line in lines if len(line) >= 120] == []


def test_map_of_the_folders_is_true_and_names_every_module_of_the_core():
    text = (ROOT / "docs" / "development.md").read_text()
    paths = re.findall(r"`((?:lcmcore|runtimes|tests|benchmarks|assets)/[\w/.]*)`", text)
    assert [path for path in paths if not (ROOT / path).exists()] == []
    modules = {path.name for path in (ROOT / "lcmcore").glob("*.py")} - {"__init__.py"}
    assert [name for name in sorted(modules) if f"{name}`" not in text] == []


def test_environment_has_the_command():
    assert os.access(LCM, os.X_OK)

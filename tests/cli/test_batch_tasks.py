"""What a folder or a file of jobs asks for."""

import json
from pathlib import Path

import pytest

import lcmcore
from lcmcore.cli.batch_tasks import tasks_of_file, tasks_of_folder
from lcmcore.jobs.job import Request

ALL = Request("for all", seed=1)
OUT = Path("out")


def folder_of(tmp_path, *names):
    for name in names:
        (tmp_path / name).touch()
    return tmp_path


def outputs(tasks):
    return {task.init.name: task.output.name for task in tasks}


def jobs(tmp_path, *lines):
    path = tmp_path / "jobs.jsonl"
    path.write_text(
        "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    )
    return tasks_of_file(path, tmp_path, OUT, ALL)


def test_folder_takes_the_images_by_name(tmp_path):
    folder = folder_of(tmp_path, "b.jpg", "a.PNG", "notes.txt", ".hidden.png", "c.webp", "d")
    (tmp_path / "sub.png").mkdir()
    tasks = tasks_of_folder(folder, OUT, ALL)
    assert outputs(tasks) == {"a.PNG": "a.png", "b.jpg": "b.png", "c.webp": "c.png"}
    assert {task.request for task in tasks} == {ALL}


@pytest.mark.parametrize(
    "names",
    [
        ("a.jpg", "a.png", "b.jpg"),
        ("a.jpg", "A.png"),
        ("a.jpg", "a.webp", "a.jpg.png"),
        ("x.png.png", "x.png"),
    ],
)
def test_names_that_differ_in_the_suffix_only_keep_it(tmp_path, names):
    found = outputs(tasks_of_folder(folder_of(tmp_path, *names), OUT, ALL))
    assert set(found) == set(names)
    assert len({name.casefold() for name in found.values()}) == len(names)
    assert found.get("b.jpg", "b.png") == "b.png"


@pytest.mark.parametrize("names", [(), ("notes.txt",)])
def test_folder_without_images(tmp_path, names):
    with pytest.raises(lcmcore.ImageError, match="contains no images"):
        tasks_of_folder(folder_of(tmp_path, *names), OUT, ALL)


def test_missing_folder(tmp_path):
    with pytest.raises(lcmcore.ImageError, match="cannot be read"):
        tasks_of_folder(tmp_path / "none", OUT, ALL)


def test_init_images_are_not_written_over(tmp_path):
    folder = folder_of(tmp_path, "a.png")
    with pytest.raises(lcmcore.ArgumentError, match="would be overwritten"):
        tasks_of_folder(folder, folder, ALL)


def test_lines_override_the_command_line(tmp_path):
    first, second = jobs(
        tmp_path,
        {"init_image": "a.jpg", "prompt": "its own", "denoise_strength": 0.3},
        "",
        {"output": "deep/words", "num_inference_steps": 8},
    )
    assert first.request == Request("its own", seed=1, denoise_strength=0.3)
    assert (first.init, first.output) == (tmp_path / "a.jpg", OUT / "a.png")
    assert second.request == Request("for all", seed=1, num_inference_steps=8)
    assert (second.init, second.output) == (None, OUT / "deep" / "words.png")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "Expecting"),
        ("[1]", "expected a JSON object, found list"),
        ("[" * 100_000, "maximum recursion|nested|Recursion|Stack overflow"),
        (
            {"init_image": "a.png", "steps": 4},
            "unknown key steps; known keys are init_image, output, p",
        ),
        ({"init_image": 3}, "init_image must be text"),
        ({"init_image": "a.png", "prompt": None}, "prompt must be text"),
        ({"prompt": "words"}, "output is missing"),
        ({"output": "../a.png"}, "within the output folder"),
        ({"output": "/a.png"}, "within the output folder"),
    ],
)
def test_bad_line_is_named(tmp_path, line, words):
    with pytest.raises(lcmcore.ArgumentError, match=rf"jobs\.jsonl:2: .*({words})"):
        jobs(tmp_path, {"output": "x"}, line)


def test_line_without_any_prompt(tmp_path):
    path = tmp_path / "jobs.jsonl"
    path.write_text('{"output": "x"}')
    with pytest.raises(lcmcore.ArgumentError, match="no prompt"):
        tasks_of_file(path, tmp_path, OUT, Request(None))


def test_lines_for_the_same_output_are_both_named(tmp_path):
    with pytest.raises(lcmcore.ArgumentError, match=r"jsonl:3 and .*jsonl:1 .*out/a\.png"):
        jobs(tmp_path, {"init_image": "a.jpg"}, {"output": "b"}, {"init_image": "a.jpg", "seed": 2})


def test_empty_file(tmp_path):
    with pytest.raises(lcmcore.ArgumentError, match="contains no jobs"):
        jobs(tmp_path, "")

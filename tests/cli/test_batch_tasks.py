"""What a folder or a file of jobs asks for."""

import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import lcmcore
from lcmcore.cli import batch_jobs, batch_tasks
from lcmcore.cli.batch_jobs import ignores_case, tasks_of_file
from lcmcore.cli.batch_tasks import BadTask, Task, files_passed_over, passed_over, tasks_of_inits
from lcmcore.jobs.fingerprint import fingerprint
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
    path.write_bytes(b"\n".join(map(encoded, lines)))
    return tasks_of_file(path, tmp_path, OUT, ALL)


def encoded(line):
    """Bytes as they are, text in UTF-8, anything else as JSON."""
    if isinstance(line, bytes):
        return line
    return (line if isinstance(line, str) else json.dumps(line)).encode()


def bad(tasks):
    """Places and reasons of the bad ones."""
    return [f"{task.name}: {task.error}" for task in tasks if isinstance(task, BadTask)]


def test_folder_takes_the_images_by_name(tmp_path):
    folder = folder_of(tmp_path, "b.jpg", "a.PNG", "notes.txt", ".hidden.png", "c.webp", "d")
    (tmp_path / "sub.png").mkdir()
    tasks = tasks_of_inits([folder], OUT, ALL)
    assert outputs(tasks) == {"a.PNG": "a.png", "b.jpg": "b.png", "c.webp": "c.png"}
    assert {task.request for task in tasks} == {ALL}
    assert [task.name for task in tasks] == [
        f"{folder}/{name}" for name in ("a.PNG", "b.jpg", "c.webp")
    ]
    assert Task(ALL, None, OUT / "a.png").name == "out/a.png"


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
    found = outputs(tasks_of_inits([folder_of(tmp_path, *names)], OUT, ALL))
    assert set(found) == set(names)
    assert len({name.casefold() for name in found.values()}) == len(names)
    assert found.get("b.jpg", "b.png") == "b.png"


@pytest.mark.parametrize("names", [(), ("notes.txt",)])
def test_folder_without_images(tmp_path, names):
    with pytest.raises(lcmcore.ImageError, match="contains no images"):
        tasks_of_inits([folder_of(tmp_path, *names)], OUT, ALL)


def test_folder_without_images_says_what_it_has(tmp_path, no_heic):
    with pytest.raises(lcmcore.ImageError, match=r"contains no images; passed over 1 HEIC im"):
        tasks_of_inits([folder_of(tmp_path, "a.HEIC")], OUT, ALL)


@pytest.fixture
def no_heic(monkeypatch):
    """As where pillow-heif is not installed."""
    suffixes = frozenset({".jpg", ".png"})
    monkeypatch.setattr(batch_tasks, "image_suffixes", lambda: suffixes)


def test_files_that_are_passed_over(tmp_path, no_heic):
    names = ("a.jpg", "IMG_2.HEIC", "img_1.heif", "DCIM0002", "notes.txt", ".hidden", ".a.heic")
    folder = folder_of(tmp_path, *names)
    (tmp_path / "sub.heic").mkdir()
    (tmp_path / "broken.png").symlink_to("nowhere")
    (tmp_path / "loop.png").symlink_to("loop.png")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "link.png").symlink_to("a.jpg")
    others = files_passed_over([folder])
    assert others == [
        *("DCIM0002", "IMG_2.HEIC", "broken.png", "img_1.heif"),
        *("loop.png", "notes.txt", "pipe.jpg"),
    ]
    assert outputs(tasks_of_inits([folder], OUT, ALL)) == {"a.jpg": "a.png", "link.png": "link.png"}
    assert passed_over(others) == [
        "passed over 2 HEIC images (IMG_2.HEIC, img_1.heif): install Pillow's plugin for them"
        " (pip install pillow-heif), or convert them to JPEG",
        "passed over 5 files (DCIM0002, broken.png, loop.png, notes.txt, pipe.jpg): only regular"
        " files are taken whose names end as those of images do (.jpg, .png, ...)",
    ]


def test_only_some_names_are_listed(no_heic):
    assert passed_over([]) == []
    (line,) = passed_over(list("abcde"))
    assert line.startswith("passed over 5 files (a, b, c, d, e): only")
    (line,) = passed_over(list("abcdef"))
    assert line.startswith("passed over 6 files (a, b, c, d, e, ...): only")
    (line,) = passed_over(["x.heic"])
    assert line.startswith("passed over 1 HEIC image (x.heic): install")


def test_heic_is_taken_where_it_can_be_read(tmp_path, monkeypatch):
    monkeypatch.setattr(batch_tasks, "image_suffixes", lambda: frozenset({".heic"}))
    folder = folder_of(tmp_path, "a.heic", "b.HEIC")
    os.mkfifo(tmp_path / "c.heic")
    assert len(tasks_of_inits([folder], OUT, ALL)) == 2
    assert passed_over(files_passed_over([folder]))[0].startswith("passed over 1 file (c.heic)")


def test_missing_folder(tmp_path):
    folder = tmp_path / "none"
    message = f"^{folder}: cannot be read: No such file or directory$"
    for function in (
        lambda: tasks_of_inits([folder], OUT, ALL),
        lambda: files_passed_over([folder]),
    ):
        with pytest.raises(lcmcore.ImageError, match=message):
            function()


def test_init_image_behind_a_link_is_not_written_over(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    (tmp_path / "out").symlink_to("photos")
    with pytest.raises(lcmcore.ArgumentError, match="would be overwritten: choose another output"):
        tasks_of_inits([folder_of(photos, "a.png")], tmp_path / "out", ALL)
    (photos / "a.png").rename(photos / "a.jpg")
    assert len(tasks_of_inits([photos], tmp_path / "out", ALL)) == 1


def test_init_images_are_not_written_over(tmp_path):
    folder = folder_of(tmp_path, "a.png")
    with pytest.raises(lcmcore.ArgumentError, match="would be overwritten"):
        tasks_of_inits([folder], folder, ALL)


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


def deep(depth):
    return "[" * depth + "]" * depth


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "not valid JSON: Expecting .* at column 2$"),
        ("[1]", "expected a JSON object, found list$"),
        ("null", "expected a JSON object, found NoneType$"),
        ("7" * 5000, "not valid JSON: Exceeds the limit|expected a JSON object, found int"),
        ("[" * 100_000, "maximum recursion|nested|Recursion|Stack overflow"),
        (deep(600), "expected a JSON object, found list$"),
        (f'{{"prompt": {deep(600)}}}', "prompt must be text, not list$"),
        (f'{{"output": {deep(600)}}}', "output must be text, not list$"),
        (f'{{"seed": {deep(600)}, "output": "b"}}', "seed must be a single value, not list$"),
        (f'{{"fit": {deep(600)}, "output": "b"}}', "fit must be a single value, not list$"),
        ({"size": {"x": 1}, "output": "b"}, "size must be WIDTHxHEIGHT, like 512x384, not dict$"),
        (f'{{"seed": {deep(100_000)}}}', "maximum recursion|nested|Recursion|Stack overflow"),
        (
            {"init_image": "a.png", "steps": 4},
            "unknown key steps; known keys are init_image, mask, output, p",
        ),
        ({"init_image": 3}, "init_image must be text, not int$"),
        ({"init_image": "a.png", "prompt": None}, "prompt must be text, not NoneType$"),
        ({"prompt": "words"}, "output is missing, and there is no init_image"),
        ({"init_image": ""}, "output is missing, and there is no init_image"),
        ({"output": "../a.png"}, "within the output folder: ../a.png$"),
        ({"output": "a/../../b"}, "within the output folder"),
        ({"init_image": ".."}, "within the output folder"),
        ({"output": "/a.png"}, "within the output folder"),
        ({"output": "."}, "output must name a file, not a folder: .$"),
        ({"output": "a/"}, "output must name a file, not a folder: a/$"),
        ({"output": "a\0b"}, "output holds a character that no file's name can: 'a.x00b'$"),
        ({"output": "a\ud83d"}, "output holds a character that no file's name can: 'a.ud83d'$"),
        ({"init_image": "a\0.png"}, "init_image holds a character that no file's name can"),
        ({"init_image": "\udbff.png"}, "init_image holds a character that no file's name can"),
        ({"prompt": "a \ud83d", "output": "b"}, "prompt holds a lone surrogate at 2$"),
        ({"fit": "\udc80", "output": "b"}, "fit holds a lone surrogate at 0$"),
        ('{"seed": NaN, "output": "b"}', "not valid JSON: NaN is no number$"),
        ('{"seed": -Infinity, "output": "b"}', "not valid JSON: -Infinity is no number$"),
        ('{"seed": 1, "output": "b", "seed": 2}', "not valid JSON: key seed comes twice$"),
        (b'{"output": "\xff"}', "not valid UTF-8: .*0xff"),
        (b'{"output": "\xed\xa0\xbd"}', "not valid UTF-8"),
        ('{"output": "b"}'.encode("utf-16"), "not valid UTF-8"),
        (b"\0" * 40, "not valid JSON"),
        (b'{"prompt": "' + b"x" * 2**20 + b'"}', "longer than 1 MiB$"),
    ],
)
def test_bad_line_is_named_and_stops_no_other(tmp_path, line, words):
    tasks = jobs(tmp_path, {"output": "x"}, line, {"output": "y"})
    first, second, third = tasks
    assert len(tasks) == 3
    assert (first.output, third.output) == (OUT / "x.png", OUT / "y.png")
    assert isinstance(second.error, lcmcore.ArgumentError)
    assert second.name == f"{tmp_path}/jobs.jsonl:2"
    assert re.search(rf"^{words}" if words[0] == "^" else words, str(second.error))
    assert next(iter(tasks)) == first  # read again


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ({"output": "a.PNG"}, "a.PNG"),
        ({"output": "a.jpg"}, "a.jpg.png"),
        ({"output": "deep/er/a"}, "deep/er/a.png"),
        ({"init_image": "photos/lake.final.png"}, "lake.final.png"),
        ({"init_image": "a.jpg", "output": ""}, "a.png"),
        ({"output": "\udcff"}, "\udcff.png"),  # a name of bytes that are no UTF-8
        ({"output": "..a"}, "..a.png"),
    ],
)
def test_names_of_outputs(tmp_path, line, name):
    (task,) = jobs(tmp_path, line)
    assert task.output == OUT / name


def test_masks_of_lines_and_of_all_init_images(tmp_path):
    path = tmp_path / "jobs.jsonl"
    lines = ({"init_image": "a.png"}, {"init_image": "b.png", "mask": "m.png"}, {"output": "c"})
    path.write_text("\n".join(map(json.dumps, lines)))
    tasks = tasks_of_file(path, tmp_path, OUT, ALL, mask=Path("all.png"))
    assert [task.mask for task in tasks] == [Path("all.png"), tmp_path / "m.png", None]
    (folder := tmp_path / "photos").mkdir()
    tasks = tasks_of_inits([folder_of(folder, "a.png")], OUT, ALL, Path("all.png"))
    assert [task.mask for task in tasks] == [Path("all.png")]


def test_masks_are_not_written_over(tmp_path):
    found = bad(jobs(tmp_path, {"init_image": "a.png", "mask": f"{OUT.resolve()}/a.png"}))
    assert len(found) == 1
    assert "is the init image or mask of a job and would be overwritten" in found[0]
    (tmp_path / "a.png").touch()
    with pytest.raises(lcmcore.ArgumentError, match=r"^out/a\.png would be overwritten"):
        tasks_of_inits([tmp_path], OUT, ALL, OUT / "a.png")


def test_line_without_any_prompt(tmp_path):
    path = tmp_path / "jobs.jsonl"
    path.write_text('{"output": "x"}')
    (task,) = tasks_of_file(path, tmp_path, OUT, Request(None))
    assert bad([task]) == [f"{path}:1: no prompt in this line, nor on the command line"]


def test_lines_end_with_newlines_alone(tmp_path):
    """JSON may hold what else ends a line of Unicode text (RFC 8259, section 7)."""
    prompt = "a\u2028b\u2029c\x85d"
    line = json.dumps({"output": "x", "prompt": prompt}, ensure_ascii=False)
    tasks = jobs(tmp_path, "\ufeff" + line + "\r", "", " \t\r", '{"output": "y"}\r', "\f")
    assert [task.request.prompt for task in tasks if isinstance(task, Task)] == [prompt, "for all"]
    assert bad(tasks) == []
    assert len(tasks) == 2


def test_lines_for_the_same_output_are_both_named(tmp_path):
    lines = (
        *({"init_image": "a.jpg"}, {"output": "b"}, {"init_image": "a.jpg", "seed": 2}),
        *({"output": "b.png"}, {"output": "./a"}, {"output": "A"}),
    )
    tasks = jobs(tmp_path, *lines)
    place = f"{tmp_path}/jobs.jsonl"
    expected = [
        f"{place}:{line}: {place}:{first} is written to out/{name}.png already:"
        " give the jobs different outputs"
        for line, first, name in ((3, 1, "a"), (4, 2, "b"), (5, 1, "a"))
    ]
    for _ in range(2):  # each time that they are read
        assert bad(tasks) == expected


def test_outputs_behind_links_are_the_same(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "real").mkdir()
    (tmp_path / "out" / "link").symlink_to("real")
    path = tmp_path / "jobs.jsonl"
    path.write_text('{"output": "real/a"}\n{"output": "link/a"}\n{"output": "link/b"}')
    tasks = tasks_of_file(path, tmp_path, tmp_path / "out", ALL)
    assert [isinstance(task, BadTask) for task in tasks] == [False, True, False]


@pytest.mark.parametrize("output", ["link/a", "link/b/a", "real/link/a"])
def test_no_output_leaves_the_folder_through_a_link(output, tmp_path):
    (tmp_path / "out" / "real").mkdir(parents=True)
    for link in ("link", "real/link"):
        (tmp_path / "out" / link).symlink_to(tmp_path)
    path = tmp_path / "jobs.jsonl"
    path.write_text(json.dumps({"output": output}))
    (task,) = tasks_of_file(path, tmp_path, tmp_path / "out", ALL)
    assert isinstance(task, BadTask)
    assert "output must be within the output folder: a link leads out of it" in str(task.error)


@pytest.mark.parametrize("init", ["n" * 300, "a/" * 3000 + "b", "loop", "file/b", ".", "x/../y"])
def test_any_path_of_an_init_image_is_left_to_its_turn(tmp_path, init):
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").touch()
    (task,) = jobs(tmp_path, {"init_image": init, "output": "x"})
    assert task.init == tmp_path / init


@pytest.mark.parametrize("output", ["n" * 300, "a/" * 3000 + "b", "loop/b", "file/b"])
def test_any_path_of_an_output_is_left_to_its_turn(tmp_path, output):
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").touch()
    path = tmp_path / "jobs.jsonl"
    path.write_text(json.dumps({"output": output}))
    (task,) = tasks_of_file(path, tmp_path, tmp_path, ALL)
    assert task.output == tmp_path / f"{output}.png"


def test_names_that_differ_in_case_where_the_disk_ignores_it(tmp_path, monkeypatch):
    lines = ({"output": "A"}, {"output": "a"}, {"output": "SUB/b"}, {"output": "sub/B"})
    assert bad(jobs(tmp_path, *lines)) == []
    monkeypatch.setattr(batch_jobs, "ignores_case", lambda folder: folder == OUT)
    assert [line.partition(" is")[0] for line in bad(jobs(tmp_path, *lines))] == [
        f"{tmp_path}/jobs.jsonl:2: {tmp_path}/jobs.jsonl:1",
        f"{tmp_path}/jobs.jsonl:4: {tmp_path}/jobs.jsonl:3",
    ]


def test_whether_a_disk_ignores_case(tmp_path, monkeypatch):
    (tmp_path / "b").touch()
    truth = (tmp_path / "B").exists()
    assert ignores_case(tmp_path) is truth
    assert ignores_case(tmp_path / "not" / "yet") is truth
    assert [path.name for path in tmp_path.iterdir()] == ["b"]
    exists = Path.exists
    monkeypatch.setattr(
        Path,
        "exists",
        lambda self: (
            exists(self) or self.name.swapcase() in (each.name for each in self.parent.iterdir())
        ),
    )
    assert ignores_case(tmp_path)
    assert not ignores_case(Path("/proc"))  # where no file can be written


def test_init_images_of_other_lines_are_not_written_over(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "a.png").touch()
    (tmp_path / "link.png").symlink_to("out/a.png")
    path = tmp_path / "jobs.jsonl"
    lines = (
        *({"init_image": "link.png", "output": "b"}, {"output": "a"}, {"output": "c"}),
        {"init_image": "out/c.png", "output": "c"},
    )
    path.write_text("\n".join(map(json.dumps, lines)))
    words = "is the init image or mask of a job and would be overwritten: choose another output"
    assert bad(tasks_of_file(path, tmp_path, out, ALL)) == [
        f"{path}:2: {out}/a.png {words}",
        f"{path}:3: {out}/c.png {words}",
        f"{path}:4: {out}/c.png {words}",
    ]


@pytest.mark.parametrize("content", ["", "\n \n\r\n", "\ufeff"])
def test_empty_file(tmp_path, content):
    with pytest.raises(lcmcore.ArgumentError, match=r"jobs\.jsonl: contains no jobs$"):
        jobs(tmp_path, content)


def test_reading_can_be_stopped(tmp_path):
    path = tmp_path / "jobs.jsonl"
    path.write_text('{"output": "x"}\n' * 9)
    asked = []
    with pytest.raises(KeyboardInterrupt):
        tasks_of_file(path, tmp_path, OUT, ALL, lambda: asked.append(0) or len(asked) > 4)
    assert len(asked) == 5


def test_file_of_bad_lines(tmp_path):
    assert len(bad(jobs(tmp_path, "1", "2"))) == 2


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
KEYS = st.sampled_from(["prompt", "init_image", "output", "seed", "size", "fit", "other"])
OBJECTS = st.dictionaries(KEYS, VALUES, max_size=7).map(lambda value: json.dumps(value).encode())


@given(lines=st.lists(st.binary() | OBJECTS | VALUES.map(json.dumps).map(str.encode), max_size=6))
def test_whatever_lines_hold(tmp_path_factory, lines):
    """Each gives a task that a worker can be sent, or a reason; none stops the others."""
    folder = tmp_path_factory.mktemp("lines")
    lines = [line.replace(b"\n", b"") for line in lines]
    tasks = jobs(folder, {"output": "first"}, *lines, {"output": "last"})
    found = [*tasks]
    assert len(found) == len(tasks)
    assert (found[0].output, found[-1].output) == (OUT / "first.png", OUT / "last.png")
    for task in found:
        if isinstance(task, Task):
            pickle.dumps(task)
            task.request.check()
            fingerprint(task.request, None, {})


@pytest.mark.slow
def test_memory_does_not_grow_with_the_lines(tmp_path):
    """Peak memory of reading 200,000 lines twice; as a list of tasks they took 0.26 GB."""
    path = tmp_path / "jobs.jsonl"
    line = '{{"init_image": "photos/{0}.png", "prompt": "a lake, number {0}", "seed": {0}}}\n'
    with path.open("w") as file:
        file.writelines(line.format(number) for number in range(200_000))
    script = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from lcmcore.cli.batch_jobs import tasks_of_file\n"
        "from lcmcore.jobs.job import Request\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10\n"
        "before = peak()\n"
        "tasks = tasks_of_file(Path(sys.argv[1]), Path(), Path('out'), Request('x'))\n"
        "assert sum(task.request.seed >= 0 for task in tasks) == len(tasks) == 200_000\n"
        "print(peak() - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True)
    assert int(done.stdout) < 40, done.stderr

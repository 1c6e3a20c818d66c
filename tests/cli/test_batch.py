"""The `lcm batch` command on this machine, and how it is interrupted and resumed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image, ImageChops

from lcmcore.png import read_record
from tests.jobs.fakes import alive, children, wait_for
from tests.jobs.images import (
    BUSY,
    LCM,
    PROMPT,
    QUICK,
    assert_whole,
    batch,
    contents,
    make_photos,
)


@pytest.fixture
def photos(tmp_path):
    return make_photos(tmp_path / "photos", 6)


@pytest.fixture
def many(tmp_path):
    return make_photos(tmp_path / "many", 40)


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def images_in(folder):
    return sorted(folder.glob("*.png")) if folder.exists() else []


def start_and_wait_for_two(photos, out):
    process = batch(photos, PROMPT, "-o", out, "--workers", 2, *BUSY, start=subprocess.Popen)
    wait_for(lambda: len(images_in(out)) >= 2 or process.poll() is not None)
    assert process.poll() is None, process.communicate()[1]
    return process


def test_folder(photos, out):
    (photos / "broken.png").write_bytes((photos / "photo00.png").read_bytes()[:60])
    done = batch(photos, PROMPT, "-o", out, *QUICK, "--strength", 0.5)
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert lines[-3] == "6 images generated, 1 failed"
    assert lines[-2].startswith(f"lcm: failed: {photos / 'broken.png'}: ")
    assert lines[-1] == "lcm: error: 1 of 7 images failed"
    assert [path.name for path in images_in(out)] == [f"photo{n:02d}.png" for n in range(6)]
    assert_whole(out)
    (photos / "broken.png").unlink()
    done = batch(photos, PROMPT, "-o", out, *QUICK, "--strength", 0.5)
    assert (done.returncode, done.stderr) == (0, "0 images generated, 6 skipped (already done)\n")


@pytest.mark.slow
def test_files_that_are_passed_over(photos, out):
    (photos / "photo00.png").rename(photos / "DCIM0002")  # an image, but not by its name
    (photos / "notes\x1b[2J.txt").touch()
    (photos / ".hidden").touch()
    (photos / "folder").mkdir()
    done = batch(photos, PROMPT, "-o", out, *QUICK)
    lines = done.stderr.splitlines()
    assert done.returncode == 0
    assert lines[0].startswith(r"passed over 2 files (DCIM0002, notes\x1b[2J.txt): only regular")
    assert lines[-1] == "5 images generated, 2 files passed over"
    assert batch(photos, PROMPT, "-q", "-o", out, *QUICK).stderr == ""


@pytest.mark.slow
def test_quiet(photos, out):
    done = batch(photos, PROMPT, "-q", "-o", out, *QUICK)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.slow
def test_each_image_equals_that_of_lcm_img2img(photos, out, tmp_path):
    batch(photos, PROMPT, "-o", out, *QUICK)
    record = read_record(out / "photo03.png")
    assert record["init"] == str(photos / "photo03.png")
    info = subprocess.run([LCM, "info", out / "photo03.png"], capture_output=True, text=True)
    remake = info.stdout.splitlines()[-1].replace("lcm ", f"{LCM} ", 1)
    subprocess.run(remake, shell=True, cwd=tmp_path, check=True, capture_output=True)
    again = read_record(tmp_path / "photo03.png")
    record.pop("request")
    assert again == record
    assert is_same_image(tmp_path / "photo03.png", out / "photo03.png")


def is_same_image(first, second):
    with Image.open(first) as one, Image.open(second) as other:
        return ImageChops.difference(one, other).getbbox() is None


@pytest.mark.slow
def test_images_by_other_tiles_are_made_again(photos, out):
    words = [photos, PROMPT, "-o", out, *QUICK]
    batch(*words)
    assert "tile" not in read_record(out / "photo03.png")
    skipped = batch(*words).stderr
    again = batch(*words, "--tile=32").stderr
    assert read_record(out / "photo03.png")["tile"] == "32"
    assert batch(*words, "--tile=32").stderr == skipped != again


@pytest.mark.slow
def test_file_of_jobs(photos, out):
    lines = [
        {"init_image": "photo00.png", "seed": 5},
        {"init_image": "photo00.png", "output": "low", "denoise_strength": 0.2},
        {"output": "words.png", "prompt": "a desert"},
        {"init_image": "none.png"},
    ]
    jobs = photos / "jobs.jsonl"
    jobs.write_text("\n".join(map(json.dumps, lines)))
    done = batch(photos, PROMPT, "--jobs", jobs, "-o", out, *QUICK)
    assert done.returncode == 1
    assert "No such file" in done.stderr
    assert [path.name for path in images_in(out)] == ["low.png", "photo00.png", "words.png"]
    assert read_record(out / "photo00.png")["seed"] == "5"
    assert read_record(out / "low.png")["strength"] == "0.2"
    assert read_record(out / "words.png")["prompt"] == "a desert"
    relative = batch("--jobs", jobs, "-o", out, *QUICK)  # to the file of jobs; its prompts alone
    assert relative.returncode == 1
    assert "jobs.jsonl:1: no prompt in this line" in relative.stderr


@pytest.mark.slow
def test_bad_lines_stop_no_other(photos, out):
    """Each line with what is said of it; None where it gives an image."""
    os.mkfifo(photos / "pipe.png")
    (photos / "loop.png").symlink_to("loop.png")
    deep = "[" * 600 + "]" * 600
    lines = {
        '{"init_image": "photo00.png"}': None,
        '{"init_image": "a\\u0000.png"}': "init_image holds a character that no file's name can",
        '{"output": "a\\ud800"}': "output holds a character that no file's name can",
        '{"output": "half", "prompt": "a \\ud800"}': "prompt holds a lone surrogate at 2",
        '{"output": "null", "prompt": "a \\u0000 b"}': None,
        '{"output": "separated", "prompt": "a \u2028 b \x85 c"}': None,
        f'{{"output": "deep", "seed": {deep}}}': "seed must be a single value, not list",
        f'{{"output": "deep", "prompt": {deep}}}': "prompt must be text, not list",
        '{"output": "huge", "seed": 1%s}' % ("0" * 4000): "seed must be from",
        '{"output": "infinite", "guidance_scale": 1e999}': "guidance_scale must be from",
        '{"output": "size", "size": "%s"}' % ("9" * 10**6): "size must be",
        '{"output": "%s"}' % ("n" * 300): "File name too long",
        '{"init_image": "loop.png"}': "Too many levels of symbolic links",
        '{"init_image": "pipe.png"}': "not a regular file",
        '{"init_image": "/dev/zero"}': "not a regular file",
        '{"init_image": "."}': "output is missing",
        '{"init_image": ".", "output": "folder"}': "Is a directory",
        "[]": "expected a JSON object",
        "{": "not valid JSON",
        '{"init_image": "photo01.png"}': None,
        '{"init_image": "photo00.png", "seed": 9}': "written to",
    }
    jobs = photos / "jobs.jsonl"
    jobs.write_text("\n".join([*lines, ""]), encoding="utf-8")
    done = batch(photos, PROMPT, "--jobs", jobs, "-o", out, *QUICK)
    assert done.returncode == 1
    assert "bug" not in done.stderr
    failures = [line for line in done.stderr.splitlines() if line.startswith("lcm: failed: ")]
    expected = {number: words for number, words in enumerate(lines.values(), 1) if words}
    assert len(failures) == len(expected)
    for words in expected.values():
        assert any(words in line for line in failures), words
    assert max(map(len, failures)) < 1100
    made = ["null.png", "photo00.png", "photo01.png", "separated.png"]
    assert [path.name for path in images_in(out)] == made
    assert f"4 images generated, {len(expected)} failed" in done.stderr


@pytest.mark.slow
def test_jobs_from_a_pipe(photos, out):
    """Paths are relative to the working directory; the pipe is read once."""
    names = ("photo00.png", "photo01.png")
    lines = "\n".join(json.dumps({"init_image": name, "prompt": PROMPT}) for name in names)
    command = [LCM, "batch", "--jobs", "/dev/stdin", "-o", out, *QUICK]
    for _ in range(2):
        done = subprocess.run(command, input=lines, capture_output=True, text=True, cwd=photos)
        assert done.returncode == 0, done.stderr
    assert "0 images generated, 2 skipped" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        ([], 2, "the following arguments are required: -o"),
        (["-o", "out"], 2, "INIT and PROMPT are required"),
        (["photos", "-o", "out"], 2, "INIT and PROMPT are required"),
        (["photos", "x", "-o", "out", "--workers", "2", "--scheduler", "y"], 2, "not allowed"),
        (["photos", "x", "-o", "out", "--workers", "0"], 1, "workers must be from 1"),
        (["photos", "x", "-o", "out", "--model", "none"], 1, "no model directory"),
        (["photos", "x", "-o", "out", "--runtime", "none"], 1, "unknown runtime"),
        (["photos", "x", "-o", "photos"], 1, "would be overwritten"),
        (["photos", "x", "-o", "photos/photo00.png"], 1, "cannot be created"),
        (["none", "x", "-o", "out"], 1, "none: cannot be read: No such file or directory"),
        (["--jobs", "none", "-o", "out"], 1, "no such file: none"),
        (["--jobs", "/dev/zero", "-o", "out"], 1, "/dev/zero: cannot be read: not a regular file"),
        (["photos", "x", "-o", "out", "--scheduler", "none"], 1, "no Dask scheduler at none"),
    ],
)
def test_invalid_arguments_are_one_line(photos, words, status, message):
    done = batch(*words, cwd=photos.parent)
    assert done.returncode == status
    assert message in done.stderr.splitlines()[-1]
    assert status == 2 or len(done.stderr.splitlines()) == 1


@pytest.mark.slow
@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_finishes_what_was_accepted_and_the_rest_resumes(many, out, signum, status):
    process = start_and_wait_for_two(many, out)
    workers = children(process.pid)
    for pid in (process.pid, *workers):  # as a terminal and a service manager do
        os.kill(pid, signum)
    _, stderr = process.communicate()
    assert process.returncode == status
    assert not any(map(alive, workers))
    made = len(images_in(out))
    assert_whole(out)
    assert f"{made} images generated, {40 - made} remaining" in stderr.splitlines()[-1]
    assert made < 40
    for name in sorted(path.name for path in many.iterdir())[made + 3 :]:
        (many / name).unlink()
    done = batch(many, PROMPT, "-o", out, *BUSY)
    assert done.returncode == 0
    assert f"3 images generated, {made} skipped (already done)" in done.stderr


def blocks_signals(pid):
    """Whether the main thread of a process blocks SIGINT, as `lcm` does while it is imported."""
    return has_signal(pid, "SigBlk", signal.SIGINT)


def is_started(pid):
    """Whether Python itself has started: signals are blocked, or, some time later, handled."""
    return blocks_signals(pid) or has_signal(pid, "SigCgt", signal.SIGTERM)


def has_signal(pid, mask, signum):
    """Whether a signal is in a mask of a process, as /proc shows it."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return False
    (found,) = [line.split()[1] for line in lines if line.startswith(mask)]
    return bool(int(found, 16) >> (signum - 1) & 1)


@pytest.mark.slow
@pytest.mark.host  # there it takes minutes to start ten times
@pytest.mark.parametrize("number", range(10))
def test_signal_to_the_group_while_it_starts(many, out, number):
    """As Ctrl-C in a terminal does, at ten moments of the first two seconds."""
    signum = (signal.SIGINT, signal.SIGTERM)[number % 2]
    words = (many, PROMPT, "-o", out, "--workers", 2, *BUSY, "--steps", 40)  # it does not end
    process = batch(*words, start=subprocess.Popen, start_new_session=True)
    wait_for(lambda: is_started(process.pid))
    time.sleep(number * 0.2)
    os.killpg(process.pid, signum)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode in (128 + signum, -signum)  # -15: before there was anything to end
    assert "Traceback" not in stderr
    assert "error" not in stderr
    assert (
        process.returncode == -signal.SIGTERM
        or "lcm: interrupted" in stderr
        or (stderr.endswith("remaining: run the same command to continue\n"))
    )
    wait_for(lambda: not group(process.pid))
    if out.exists():
        assert_whole(out)


def group(number):
    """The processes of a group that still run."""
    found = [int(path.name) for path in Path("/proc").glob("[0-9]*")]
    return [pid for pid in found if alive(pid) and group_of(pid) == number]


def group_of(pid):
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None


@pytest.mark.slow
def test_waiting_for_a_pipe_ends_with_a_signal(out, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    process = batch("--jobs", tmp_path / "pipe", "-o", out, start=subprocess.Popen)
    wait_for(lambda: not blocks_signals(process.pid) and opened(process.pid, tmp_path / "pipe"))
    process.terminate()
    assert "stopped" in process.communicate(timeout=30)[1]
    assert process.returncode == 143
    assert not out.exists()


def opened(pid, path):
    try:
        return path in [link.resolve() for link in Path(f"/proc/{pid}/fd").iterdir()]
    except OSError:
        return False


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("module", ["numpy", "multiprocessing"])
def test_signal_while_the_command_is_imported(signum, module):
    """numpy would make another error of it."""
    script = (
        "import os, signal, sys\n"
        "import lcm_command\n"
        "class Interrupting:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == {module!r}:\n"
        f"            os.kill(os.getpid(), {int(signum)})\n"
        "sys.meta_path.insert(0, Interrupting())\n"
        "sys.exit(lcm_command.main())\n"
    )
    words = [sys.executable, "-c", script, "batch"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (128 + signum, "", "lcm: interrupted\n")


def test_command_leaves_no_signal_blocked():
    script = (
        "import signal, sys\n"
        "import lcm_command\n"
        "sys.argv = ['lcm', 'info', 'nowhere']\n"
        "print(lcm_command.main(), signal.pthread_sigmask(signal.SIG_BLOCK, ()))\n"
        "print(signal.getsignal(signal.SIGINT) is signal.SIG_DFL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "1 set()\nTrue\n", done.stderr


@pytest.mark.slow
def test_second_signal_ends_at_once(many, out):
    process = start_and_wait_for_two(many, out)
    workers = children(process.pid)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)  # two of one kind at the same time might be one
    _, stderr = process.communicate()
    assert process.returncode == 130
    assert "stopped at once" in stderr
    assert not any(map(alive, workers))
    assert_whole(out)


@pytest.mark.slow
def test_killed_command_leaves_no_process_and_resumes(photos, out):
    process = start_and_wait_for_two(photos, out)
    workers = children(process.pid)
    process.kill()
    process.communicate()
    wait_for(lambda: not any(map(alive, workers)))
    for remains in out.glob(".lcm-*.part"):  # of a write that SIGKILL cut short
        remains.unlink()
    assert_whole(out)
    done = batch(photos, PROMPT, "-o", out, *BUSY)
    assert done.returncode == 0
    assert len(images_in(out)) == 6


@pytest.mark.slow
def test_killed_worker_changes_no_image(photos, out, tmp_path):
    process = start_and_wait_for_two(photos, out)
    victim = next(iter(children(process.pid)))
    os.kill(victim, signal.SIGKILL)
    _, stderr = process.communicate()
    assert process.returncode == 0, stderr
    assert "6 images generated" in stderr
    alone = tmp_path / "alone"
    batch(photos, PROMPT, "-o", alone, *BUSY)
    assert contents(out) == contents(alone)

"""The `lcm batch` command on this machine, and how it is interrupted and resumed."""

import json
import os
import signal
import subprocess

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
@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        ([], 2, "the following arguments are required: -o"),
        (["-o", "out"], 2, "INIT_DIR and PROMPT are required"),
        (["photos", "-o", "out"], 2, "INIT_DIR and PROMPT are required"),
        (["photos", "x", "-o", "out", "--workers", "2", "--scheduler", "y"], 2, "not allowed"),
        (["photos", "x", "-o", "out", "--workers", "0"], 1, "workers must be from 1"),
        (["photos", "x", "-o", "out", "--model", "none"], 1, "no model directory"),
        (["photos", "x", "-o", "out", "--runtime", "none"], 1, "unknown runtime"),
        (["photos", "x", "-o", "photos"], 1, "would be overwritten"),
        (["photos", "x", "-o", "photos/photo00.png"], 1, "cannot be created"),
        (["none", "x", "-o", "out"], 1, "none: cannot be read"),
        (["--jobs", "none", "-o", "out"], 1, "no such file: none"),
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

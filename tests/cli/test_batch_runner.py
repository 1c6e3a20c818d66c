"""A pass over tasks, with any executor and a fake model."""

import errno
import hashlib
import io
import os
import re
import socket
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import pytest
from PIL import Image

import lcmcore
from lcmcore.cli import batch_runner as runner
from lcmcore.cli.batch_runner import Backend, Runner, Tally
from lcmcore.cli.batch_tasks import BadTask, Task, tasks_of_inits
from lcmcore.cli.progress import Progress, duration
from lcmcore.fake import FakeRuntime
from lcmcore.jobs.fingerprint import fingerprint
from lcmcore.jobs.job import Request
from lcmcore.jobs.worker import PipelineWorker
from lcmcore.png import read_record
from tests.jobs.images import assert_whole, contents, make_photos

REQUEST = Request("a lake", "64x64", 1, seed=3)


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def backend():
    """An executor of the standard library around one worker, three jobs at a time."""
    with PipelineWorker(0, runtime=FakeRuntime()) as worker, ThreadPoolExecutor(2) as executor:
        yield Backend(lambda job: executor.submit(worker.run_job, job), lambda: 3, {"files": "x"})


@pytest.fixture
def photos(tmp_path):
    return make_photos(tmp_path / "photos", 8)


def run(tasks, backend, stopped=lambda: False, stream=None):
    progress = Progress(quiet=stream is None, stream=stream)
    with progress:
        return Runner(tasks, backend, progress, stopped).run()


@pytest.fixture
def tasks(photos, tmp_path):
    return tasks_of_inits([photos], tmp_path / "out", REQUEST)


def test_all_are_generated_then_skipped(tasks, backend, tmp_path):
    tally = run(tasks, backend)
    assert (tally.generated, tally.skipped, tally.failures, tally.remaining) == (8, 0, [], 0)
    before = contents(tmp_path / "out")
    tally = run(tasks, backend)
    assert (tally.generated, tally.skipped) == (0, 8)
    assert contents(tmp_path / "out") == before


def test_changed_requests_and_damaged_outputs_are_generated_again(tasks, backend):
    run(tasks, backend)
    tasks[1].init.write_bytes(tasks[2].init.read_bytes())
    tasks[3] = replace(tasks[3], request=replace(REQUEST, denoise_strength=0.5))
    content = tasks[4].output.read_bytes()
    tasks[4].output.write_bytes(content[:-20])  # as a full disk leaves a copy
    tasks[5].output.write_bytes(b"")  # as a power cut does
    tasks[6].output.unlink()
    tally = run(tasks, backend)
    assert (tally.generated, tally.skipped) == (5, 3)
    assert tasks[4].output.read_bytes() == content
    assert run(tasks, replace(backend, model={"files": "another model"})).generated == 8


def test_a_changed_mask_is_generated_again_and_a_missing_one_is_named(tasks, backend, tmp_path):
    masks = [Image.new("L", (8, 8), value) for value in (255, 200)]
    mask = tmp_path / "mask.png"
    for saved, count in ((masks[0], 8), (masks[0], 0), (masks[1], 8)):
        saved.save(mask)
        assert run([replace(task, mask=mask) for task in tasks], backend).generated == count
    record = read_record(tasks[0].output)
    assert record["mask"] == str(mask)
    assert record["mask-sha256"] == hashlib.sha256(mask.read_bytes()).hexdigest()
    mask.unlink()
    failures = run([replace(tasks[0], mask=mask)], backend).failures
    assert failures == [
        (str(tasks[0].init), f"mask {mask} cannot be read: No such file or directory")
    ]


def test_files_of_other_programs_are_not_overwritten(tasks, backend):
    foreign = tasks[0].init.read_bytes()
    tasks[0].output.parent.mkdir()
    tasks[0].output.write_bytes(foreign)
    tasks[1].output.write_text("notes")
    tally = run(tasks, backend)
    assert tally.generated == 6
    assert [reason for _, reason in tally.failures] == [
        f"{task.output} already exists and was not written by lcmcore: move it away"
        for task in tasks[:2]
    ]
    assert tasks[0].output.read_bytes() == foreign


def test_every_failure_is_reported_and_stops_no_other(tasks, backend, tmp_path):
    tasks[0].init.write_bytes(b"text")
    tasks[1].init.unlink()
    tasks[2] = replace(tasks[2], request=replace(REQUEST, size="65x64"))
    tasks[3] = replace(tasks[3], request=replace(REQUEST, seed=2**99))
    tally = run(tasks, backend)
    assert (tally.generated, tally.remaining) == (4, 0)
    reasons = {str(name): reason for name, reason in tally.failures}
    assert set(reasons) == {task.name for task in tasks[:4]}
    for task, words in zip(
        tasks, ("not an image", "No such file", "multiples", "seed"), strict=False
    ):
        assert words in reasons[task.name]
    assert_whole(tmp_path / "out")


def test_bad_tasks_are_failures_and_stop_no_other(tasks, backend):
    error = lcmcore.ArgumentError("no\nprompt " + "x" * 600)
    tasks[1] = BadTask("jobs:2", error)
    stream = io.StringIO()
    tally = run(tasks, backend, stream=stream)
    assert (tally.total, tally.generated, tally.failed, tally.remaining) == (8, 7, 1, 0)
    assert tally.failures == [("jobs:2", "no prompt " + "x" * 490 + "...")]
    assert "jobs:2 FAILED, 1 failed" in stream.getvalue()


def test_a_name_of_any_length_is_shown_in_part(tasks, backend):
    tasks[0] = replace(tasks[0], init=tasks[0].init.parent / ("n" * 5000))
    ((name, reason),) = run(tasks, backend).failures
    assert name == f"{tasks[0].name[:500]}..."
    assert reason == "cannot be read: File name too long"


def test_only_the_first_failures_are_listed():
    tally = Tally(3000)
    for number in range(1001):
        tally.add_failure(str(number), "reason")
    assert (tally.failed, len(tally.failures), tally.remaining) == (1001, 1000, 1999)
    assert tally.failures[-1] == ("999", "reason")


@pytest.fixture
def odd(photos, monkeypatch):
    """Files that are no images, by name."""
    (photos / "loop").symlink_to("loop")
    (photos / "folder").mkdir()
    (photos / "zero").symlink_to("/dev/zero")
    os.mkfifo(photos / "pipe")
    (photos / "sparse").touch()
    os.truncate(photos / "sparse", 40 * 2**30)
    monkeypatch.chdir(photos)  # a socket's name must be short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        yield photos


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("zero", "cannot be read: not a regular file"),
        ("pipe", "cannot be read: not a regular file"),
        ("socket", "cannot be read: not a regular file"),
        ("folder", "cannot be read: Is a directory"),
        ("sparse", "cannot be read: larger than 256 MiB"),
        ("loop", "cannot be read: Too many levels of symbolic links"),
        ("none", "cannot be read: No such file or directory"),
        ("n" * 300, "cannot be read: File name too long"),
        ("photo01.png/x", "cannot be read: Not a directory"),
        ("a\0b", "cannot be read: "),
        ("\ud83d", "cannot be read: 'utf-8' codec can't encode"),
    ],
)
def test_init_image_that_is_none_is_refused_at_once(tasks, backend, odd, name, words):
    tasks[2] = replace(tasks[2], init=odd / name)
    tally = run(tasks, backend)
    assert tally.generated == 7
    ((failed, reason),) = tally.failures
    assert failed == str(odd / name)
    assert reason.startswith(words)


def test_largest_init_image(tasks, backend, monkeypatch):
    size = tasks[0].init.stat().st_size
    tasks[1].init.write_bytes(tasks[0].init.read_bytes() + b"x")
    monkeypatch.setattr(runner, "MAX_BYTES", size)
    tally = run(tasks[:2], backend)
    assert (tally.generated, [name for name, _ in tally.failures]) == (1, [tasks[1].name])


@pytest.mark.parametrize("error", [RecursionError("deep"), TypeError("odd\nlines"), ValueError()])
def test_executor_that_refuses_a_job(tasks, backend, error):
    """As one that cannot pickle it."""

    def submit(job):
        if job.record["init"] == str(tasks[3].init):
            raise error
        return backend.submit(job)

    tally = run(tasks, replace(backend, submit=submit))
    assert tally.generated == 7
    assert tally.failures == [(tasks[3].name, str(error).split("\n")[0] or "ValueError")]


def test_record_has_the_init_image_and_the_fingerprint(tasks, backend, tmp_path):
    jobs = []

    def submit(job):
        jobs.append(job)
        return backend.submit(job)

    tasks = [tasks[0], Task(REQUEST, None, tmp_path / "words.png")]
    run(tasks, replace(backend, submit=submit))
    init = tasks[0].init.read_bytes()
    assert [job.init_image for job in jobs] == [init, None]
    assert [job.req for job in jobs] == [REQUEST, REQUEST]
    assert [job.record for job in jobs] == [
        {"init": tasks[0].name, "request": fingerprint(REQUEST, init, {"files": "x"})},
        {"request": fingerprint(REQUEST, None, {"files": "x"})},
    ]


def test_only_a_window_of_images_is_in_memory(tasks, backend):
    in_flight, most = set(), []

    def submit(job):
        future = backend.submit(job)
        in_flight.add(future)
        most.append(sum(not each.done() for each in in_flight))
        return future

    assert run(tasks, replace(backend, submit=submit)).generated == 8
    assert max(most) <= 3
    assert len(most) == 8


def test_stop_finishes_what_was_accepted(tasks, backend, tmp_path):
    accepted = []

    def submit(job):
        accepted.append(job)
        return backend.submit(job)

    stream = io.StringIO()
    tally = run(tasks, replace(backend, submit=submit), lambda: len(accepted) >= 4, stream)
    assert tally.generated == len(accepted) == 4
    assert tally.remaining == 4
    assert len(contents(tmp_path / "out")) == 4
    running = r"finishing (1 image|[23] images) in progress; signal again to stop at once\n"
    assert len(re.findall(running, stream.getvalue())) == 1
    assert run(tasks, backend).generated == 4


def test_full_disk_ends_the_run(tasks, backend, monkeypatch):
    def full(path, content):
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            raise lcmcore.OutputError(f"{path} cannot be written") from error

    monkeypatch.setattr(runner, "write_whole", full)
    with pytest.raises(lcmcore.OutputError, match="No space left"):
        run(tasks, backend)


def test_output_that_cannot_be_written_stops_no_other(tasks, backend, tmp_path):
    tasks[0] = replace(tasks[0], output=tmp_path / "out" / f"{'n' * 300}.png")
    tally = run(tasks, backend)
    assert (tally.generated, len(tally.failures)) == (7, 1)


@pytest.mark.parametrize("output", ["n" * 300, "a/" * 3000 + "b", "loop/b", "photo00.png/b"])
def test_output_at_a_place_that_cannot_be(tasks, backend, photos, output):
    (photos / "loop").symlink_to("loop")
    tasks[3] = replace(tasks[3], output=photos / f"{output}.png")
    tally = run(tasks, backend)
    assert (tally.generated, tally.failed) == (7, 1)
    assert tally.failures[0][0] == tasks[3].name


def test_cancelled_jobs_end_the_run(tasks, backend):
    def submit(job):
        future = Future()
        future.cancel()
        future.set_running_or_notify_cancel()
        return future

    with pytest.raises(lcmcore.RuntimeUnavailableError, match="run the same command to continue"):
        run(tasks, replace(backend, submit=submit))


def test_prompt_without_init_image(backend, tmp_path):
    task = Task(REQUEST, None, tmp_path / "deep" / "words.png")
    assert run([task], backend).generated == 1
    assert run([task], backend).skipped == 1


def test_log_has_a_line_for_each(tasks, backend):
    tasks[0].init.write_bytes(b"text")
    stream = io.StringIO()
    run(tasks, backend, stream=stream)
    lines = stream.getvalue().splitlines()
    assert [line.split()[0] for line in lines] == [f"{n}/8" for n in range(1, 9)]
    (failed,) = [line for line in lines if "FAILED" in line]
    assert "photo00.png" in failed
    assert lines[-1].endswith(" 0 s left")
    number, output, size, *rest = lines[-1].split()  # of whichever image was done last
    with Image.open(output) as image:
        assert size == f"({image.width}x{image.height}),"
    assert (number, *rest[:2]) == ("8/8", "1", "failed,")
    stream = io.StringIO()
    run(tasks, backend, stream=stream)
    assert len(stream.getvalue().splitlines()) == 1  # the failed one; those skipped are not listed


def test_bar_has_rate_and_time_left(tasks, backend):
    stream = Terminal()
    run(tasks, backend, stream=stream)
    *_, bar, cleared = stream.getvalue().split("\r")
    assert bar.startswith(f"[{'#' * 24}] 8/8 ")
    assert "/s, " in bar and "0 s left" in bar
    assert cleared == "\x1b[K"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(8, "2.0 s each, 8 s left"), (4, "1.0 s each, 4 s left"), (1, "4.0/s, 1 s left")],
)
def test_rate_and_time_left(tasks, backend, monkeypatch, seconds, words):
    """Four of eight images after so many seconds."""
    monkeypatch.setattr(runner.time, "perf_counter", lambda: 100.0)
    stream = io.StringIO()
    running = Runner(tasks, backend, Progress(stream=stream), lambda: False)
    running._start = 100.0 - seconds
    running.tally.generated = 4
    running._show("a.png")
    running.tally.failed = 1
    running._show("b.png")
    first, second = stream.getvalue().splitlines()
    assert first == f"4/8 a.png, {words}"
    assert second.startswith("5/8 b.png, 1 failed, ")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0 s"), (99, "99 s"), (100, "2 min"), (5900, "98 min"), (7200, "2 h 0 min")],
)
def test_duration(seconds, text):
    assert duration(seconds) == text

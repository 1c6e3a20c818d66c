"""What a WorkerProcess promises when its process stops reading, does not end, or gets signals."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from multiprocessing.context import SpawnProcess
from pathlib import Path

import pytest

import lcmcore
from lcmcore.jobs import pool as pools
from lcmcore.jobs import process as processes
from lcmcore.jobs.job import Job, Request
from lcmcore.jobs.pool import Pool
from lcmcore.jobs.process import WorkerProcess, WorkerSpec
from tests.jobs.fakes import alive, children, wait_for

LARGE = bytes(5 * 2**20)  # more than a pipe holds


@pytest.fixture
def unkillable(monkeypatch):
    """Processes whose `kill` has no effect, as in state D; ended after the test."""
    kept = []
    monkeypatch.setattr(SpawnProcess, "kill", lambda self: kept.append(self.pid))
    yield kept
    for pid in set(kept):
        if alive(pid):
            os.kill(pid, signal.SIGKILL)


def job(seed=0, init=None):
    return Job(Request("a lake", "64x64", 1, seed=seed), init)


@contextmanager
def within(seconds):
    start = time.monotonic()
    yield
    assert time.monotonic() - start < seconds


def stop_the_worker():
    (pid,) = children(os.getpid())
    os.kill(pid, signal.SIGSTOP)
    return pid


@pytest.mark.parametrize("init", [None, LARGE], ids=["small", "5 MB"])
def test_deadline_of_a_job_for_a_stopped_worker(one, init):
    one.submit(job()).result()
    stopped = stop_the_worker()
    late = one.submit(job(init=init), deadline=0.3)
    with within(3), pytest.raises(lcmcore.DeadlineExceeded, match="not done by its deadline"):
        late.result()
    wait_for(lambda: not alive(stopped))
    assert one.submit(job(5)).result()[1] == 5
    assert stopped not in children(os.getpid())


def test_replacement_is_started_without_a_job(one):
    one.submit(job()).result()
    stopped = stop_the_worker()
    with pytest.raises(lcmcore.DeadlineExceeded):
        one.submit(job(), deadline=0.1).result()
    wait_for(lambda: children(os.getpid()).keys() - {stopped})


def test_deadline_of_a_job_for_a_worker_that_cannot_be_killed(one, unkillable):
    one.submit(job()).result()
    stopped = stop_the_worker()
    late = one.submit(job(init=LARGE), deadline=0.3)
    with within(3), pytest.raises(lcmcore.DeadlineExceeded):
        late.result()
    assert unkillable == [stopped]
    assert one.submit(job(5)).result()[1] == 5  # by another process
    assert stopped in children(os.getpid())
    assert stopped not in [each.pid for each in multiprocessing.active_children()]


def test_abort_of_a_worker_that_cannot_be_killed(steering, unkillable, monkeypatch):
    monkeypatch.setattr(pools, "_KILL_TIMEOUT", 0.2)
    pool = Pool(runtime=steering.runtime)
    stop_the_worker()
    running, waiting = pool.submit(job(init=LARGE)), pool.submit(job())
    wait_for(running.running)
    with within(4):
        pool.abort()
    with pytest.raises(lcmcore.WorkerDied, match="worker 0 cannot be killed"):
        running.result()
    assert waiting.cancelled()


def test_close_kills_a_stopped_worker(steering, monkeypatch):
    monkeypatch.setattr(processes, "_STOP_TIMEOUT", 0.2)
    pool = Pool(runtime=steering.runtime)
    stopped = stop_the_worker()
    with within(4):
        pool.close()
    assert not alive(stopped)


def test_close_leaves_a_worker_that_cannot_be_killed(steering, unkillable, monkeypatch):
    monkeypatch.setattr(processes, "_STOP_TIMEOUT", 0.2)
    pool = Pool(runtime=steering.runtime)
    stopped = stop_the_worker()
    with within(4):
        pool.close()
    assert alive(stopped)
    assert not multiprocessing.active_children()


class Undead:
    """A process that has closed its pipe and does not end."""

    exitcode, pid = None, 0

    def __init__(self, code=None):
        self.exitcode = code
        self.joined = []

    def is_alive(self):
        return True

    def join(self, timeout=None):
        self.joined.append(timeout)

    def kill(self):
        pass

    def close(self):
        pass


class ClosedPipe:
    def send_bytes(self, message):
        raise BrokenPipeError

    def close(self):
        pass


def process_of(fake):
    process = WorkerProcess(WorkerSpec(), 3, 4)
    process._process, process._pipe, process._ready = fake, ClosedPipe(), True
    return process


def test_process_that_closed_its_pipe_and_does_not_end():
    process = process_of(Undead())
    with pytest.raises(lcmcore.WorkerDied, match=r"^worker 3 closed its pipe and did not exit$"):
        process.call("run_job", None, None)
    assert process._process is None  # the next call starts another


@pytest.mark.parametrize(
    ("left", "patience"), [(None, (5, 5)), (60, (5, 5)), (2, (1.5, 2)), (-1, (0.1, 0.1))]
)
def test_a_process_is_waited_for_until_the_deadline(left, patience):
    fake = Undead(-9)
    until = None if left is None else time.monotonic() + left
    with pytest.raises(lcmcore.WorkerDied, match="was killed by signal 9"):
        process_of(fake).call("run_job", None, until)
    assert len(fake.joined) == 2
    assert all(patience[0] <= timeout <= patience[1] for timeout in fake.joined)


@pytest.mark.parametrize(
    ("code", "how"), [(0, "exited with status 0"), (7, "exited with status 7")]
)
def test_how_a_process_died(code, how):
    with pytest.raises(lcmcore.WorkerDied, match=f"^worker 3 {how}$"):
        process_of(Undead(code)).call("run_job", None, None)


def test_call_after_the_process_was_abandoned():
    process = process_of(Undead())
    process.abandon()
    process.abandon()  # nothing is left to do
    process._ensure_ready = lambda until: None
    with pytest.raises(lcmcore.WorkerDied, match="worker 3 was killed"):
        process.call("run_job", None, None)


def test_process_that_cannot_be_started(monkeypatch):
    def fail(self):
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(SpawnProcess, "start", fail)
    process = WorkerProcess(WorkerSpec(), 3, 4)
    with pytest.raises(lcmcore.WorkerDied, match="worker 3 cannot be started: Resource temp"):
        process.start()
    process.start_replacement()  # the next job reports it
    process.kill()
    process.stop()


def test_signals_at_any_moment_leave_a_starting_worker_alone(steering):
    """As Ctrl-C in a terminal does, which every process of the group gets."""
    over = threading.Event()

    def send():
        while not over.wait(0.005):
            for pid in children(os.getpid()):
                with suppress(ProcessLookupError):  # it has just ended
                    os.kill(pid, signal.SIGINT)
                    os.kill(pid, signal.SIGTERM)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        with Pool(runtime=steering.runtime, workers=2) as pool:
            steering.kill()  # so that one is replaced
            assert pool.submit(job(5)).result()[1] == 5
            assert len(steering.pids()) == 2
    finally:
        over.set()
        sender.join()


def test_signals_are_blocked_around_a_start_only(steering, monkeypatch):
    masks, start = [], SpawnProcess.start

    def recorded(self):
        masks.append(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
        start(self)

    monkeypatch.setattr(SpawnProcess, "start", recorded)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    try:
        Pool(runtime=steering.runtime).close()
        after = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert masks == [before | {signal.SIGUSR2, signal.SIGINT, signal.SIGTERM}]
    assert after == before | {signal.SIGUSR2}


def test_workers_do_not_keep_signals_blocked(one):
    one.submit(job()).result()
    (pid,) = children(os.getpid())
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    fields = dict(line.split(":\t", 1) for line in lines)
    for name, expected in (("SigBlk", 0), ("SigIgn", 1)):
        bits = int(fields[name], 16)
        assert [bits >> (signum - 1) & 1 for signum in (2, 15)] == [expected] * 2


def test_jobs_are_done_where_no_thread_can_be_started(one, monkeypatch):
    # As in Python 3.12.0 to 3.12.2 once the main thread has ended.
    def refused(self):
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", refused)
    assert one.submit(job()).result(60)[1] == 0
    assert one.submit(job(1), deadline=60).result(60)[1] == 1
    (pid,) = children(os.getpid())
    os.kill(pid, signal.SIGKILL)
    assert one.submit(job(2)).result(60)[1] == 2


@pytest.mark.slow
def test_program_ends_though_a_worker_cannot_be_killed(tmp_path):
    path = tmp_path / "script.py"
    path.write_text(
        "import os, signal\n"
        "from multiprocessing.context import SpawnProcess\n"
        "import lcmcore\n"
        "from lcmcore.jobs.job import Job, Request\n"
        "from lcmcore.jobs.pool import Pool\n"
        "from tests.jobs.fakes import children\n"
        "if __name__ == '__main__':\n"
        "    SpawnProcess.kill = lambda self: None\n"
        "    pool = Pool(threads=1)\n"
        "    (pid,) = children(os.getpid())\n"
        "    os.kill(pid, signal.SIGSTOP)\n"
        "    late = pool.submit(Job(Request('a lake'), bytes(5 * 2**20)), deadline=0.2)\n"
        "    print(type(late.exception()).__name__, pid, flush=True)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    words = [sys.executable, path]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment) as process:
        name, pid = process.stdout.readline().split()
        try:
            status = process.wait(30)
        finally:
            process.kill()
            os.kill(int(pid), signal.SIGKILL)
    assert (name, status) == ("DeadlineExceeded", 0)

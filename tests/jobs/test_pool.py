"""What a Pool promises: nothing accepted is lost, whatever happens to a worker."""

import io
import os
import signal
import subprocess
import sys
import textwrap
from concurrent.futures import CancelledError, ThreadPoolExecutor

import pytest
from PIL import Image

import lcmcore
from lcmcore import networks, runtime
from lcmcore.jobs.job import Job, Request
from lcmcore.jobs.pool import Pool
from lcmcore.jobs.process import WorkerSpec
from lcmcore.jobs.worker import PipelineWorker
from tests.jobs.fakes import alive, children, wait_for


def job(seed=0):
    return Job(Request("a lake", "64x64", 1, seed=seed))


def init_image(colour):
    buffer = io.BytesIO()
    Image.new("RGB", (80, 64), colour).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.slow
def test_parallel_jobs_give_the_same_bytes_as_alone():
    sizes = ("64x64", "96x64", "64x128")
    jobs = [
        Job(Request("a lake at night", sizes[n % 3], 2, seed=n), init_image((n * 20, 90, 60)))
        for n in range(6)
    ]
    with PipelineWorker(0) as worker:
        alone = [worker.run_job_with_latents(each) for each in jobs]
    with Pool(workers=3, queue_size=6) as pool:
        futures = [pool.submit(each, latents=True) for each in jobs]
        assert [future.result() for future in futures] == alone


def test_job_of_a_killed_worker_is_run_again(one, steering):
    steering.kill()
    assert one.submit(job(5)).result()[1] == 5
    assert len(steering.pids()) == 2
    assert list(children(os.getpid()).values()) in (["S"], ["R"])


@pytest.mark.slow
def test_job_that_kills_two_workers_fails(one, steering):
    steering.kill(times=2)
    with pytest.raises(lcmcore.WorkerDied, match="killed by signal 9"):
        one.submit(job()).result()
    assert one.submit(job(5)).result()[1] == 5


@pytest.mark.slow
def test_worker_killed_between_jobs_is_replaced(one, steering):
    one.submit(job()).result()
    (first,) = children(os.getpid())
    os.kill(first, signal.SIGKILL)
    assert one.submit(job(5)).result()[1] == 5
    assert first not in children(os.getpid())


def test_full_queue_refuses_and_loses_nothing(one, steering):
    steering.hold()
    accepted = [one.submit(job(0))]
    steering.wait_for_runs(1)
    accepted += [one.submit(job(seed)) for seed in (1, 2, 3)]
    with pytest.raises(lcmcore.QueueFull):
        one.submit(job(4))
    steering.release()
    assert [future.result()[1] for future in accepted] == [0, 1, 2, 3]
    assert one.submit(job(5)).result()[1] == 5


def test_deadline_of_a_running_job(one, steering):
    one.submit(job()).result()
    steering.hold()
    late = one.submit(job(), deadline=0.2)
    with pytest.raises(lcmcore.DeadlineExceeded, match="not done"):
        late.result()
    (first,) = steering.pids()
    wait_for(lambda: not alive(first))
    steering.release()
    assert one.submit(job(5), deadline=1000).result()[1] == 5
    assert len(steering.pids()) == 2


def test_deadline_of_a_waiting_job_comes_on_time(one, steering):
    steering.hold()
    running = one.submit(job(1))
    steering.wait_for_runs(1)
    late = one.submit(job(2), deadline=0.1)
    with pytest.raises(lcmcore.DeadlineExceeded, match="no worker was free"):
        late.result()  # while the worker is still held
    assert running.running()
    steering.release()
    assert running.result()[1] == 1
    assert len(steering.pids()) == 1


def test_waiting_job_can_be_cancelled(one, steering):
    steering.hold()
    running = one.submit(job(1))
    steering.wait_for_runs(1)
    waiting = one.submit(job(2))
    assert waiting.cancel()
    assert not running.cancel()
    steering.release()
    assert running.result()[1] == 1
    with pytest.raises(CancelledError):
        waiting.result()
    assert one.submit(job(5)).result()[1] == 5


@pytest.mark.slow
def test_close_finishes_what_was_accepted_and_leaves_no_process(steering):
    pool = Pool(runtime=steering.runtime, workers=2, queue_size=6)
    futures = [pool.submit(job(seed)) for seed in range(6)]
    pool.close()
    assert [future.result()[1] for future in futures] == list(range(6))
    assert not children(os.getpid())
    with pytest.raises(lcmcore.LcmError, match="closed"):
        pool.submit(job())


def test_abort_ends_at_once(steering):
    pool = Pool(runtime=steering.runtime, queue_size=6)
    steering.hold()
    running = pool.submit(job())
    steering.wait_for_runs(1)
    waiting = pool.submit(job())
    pool.abort()
    with pytest.raises(lcmcore.WorkerDied, match=r"was killed by signal 9$"):  # not "cannot be"
        running.result()
    assert waiting.cancelled()
    assert not children(os.getpid())


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_workers_leave_signals_to_the_parent(one, steering, signum):
    steering.hold()
    running = one.submit(job(1))
    steering.wait_for_runs(1)
    os.kill(*steering.pids(), signum)
    steering.release()
    assert running.result()[1] == 1
    assert len(steering.pids()) == 1


def test_errors_of_jobs_arrive_unchanged(one):
    with pytest.raises(lcmcore.ArgumentError, match="multiples of"):
        one.submit(Job(Request("a lake", "65x64"))).result()
    with pytest.raises(lcmcore.ImageError, match="not an image"):
        one.submit(Job(Request("a lake", "64x64"), b"text")).result()
    with pytest.raises(lcmcore.ArgumentError, match="cannot be pickled"):
        one.submit(Job(Request("a lake", seed=lambda: 0))).result()
    with pytest.raises(lcmcore.ArgumentError, match="deadline"):
        one.submit(job(), deadline=-1)
    with pytest.raises(lcmcore.ArgumentError, match="req"):
        one.submit("a lake")
    assert one.submit(job(5)).result()[1] == 5


def test_model_that_does_not_open_is_reported_at_once():
    with pytest.raises(lcmcore.BundleError, match="no model directory"):
        Pool("/nowhere", workers=2)
    assert not children(os.getpid())


@pytest.mark.slow
def test_model_that_vanished_fails_the_job_and_may_come_back(configs, steering):
    schedule = configs / "scheduler" / "scheduler_config.json"
    text = schedule.read_text()
    with Pool(configs, steering.runtime) as pool:
        schedule.unlink()
        steering.kill()
        with pytest.raises(lcmcore.BundleError, match="no such file"):
            pool.submit(job()).result()
        schedule.write_text(text)
        assert pool.submit(job(5)).result()[1] == 5


def test_each_worker_gets_its_part_of_the_cores(monkeypatch, steering):
    class Shared(type(steering.runtime)):
        options = frozenset({"core_mask", "threads"})

        def worker_options(self, index, count):
            return {"core_mask": f"{index} of {count}", "threads": 5}

        def open(self, component, folder, options):
            opened.append(options)
            return super().open(component, folder, options)

    class Entry:
        def load(self):
            return Shared

    opened = []
    for module in (runtime, networks):
        monkeypatch.setattr(module, "installed_runtimes", lambda: {"shared": Entry()})
    for index, count in ((2, 3), (0, 1)):
        with WorkerSpec(runtime="shared", options={"threads": 1}).open(index, count) as worker:
            worker.run_job(job())
    assert {"core_mask": "2 of 3", "threads": 1} in opened
    assert opened[-1] == {"threads": 1}  # the only worker has all of the machine


def script(tmp_path, body):
    path = tmp_path / "script.py"
    head = """
        import os, signal, time
        from lcmcore.jobs.job import Job, Request
        from lcmcore.jobs.pool import Pool
    """
    path.write_text(textwrap.dedent(head) + textwrap.dedent(body))
    return [sys.executable, str(path)]


def test_workers_end_with_a_parent_that_was_killed(tmp_path):
    words = script(
        tmp_path,
        """
        if __name__ == "__main__":
            pool = Pool(workers=2, threads=1)
            print("up", flush=True)
            time.sleep(1000)
        """,
    )
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "up\n"
        workers = children(process.pid)
        process.kill()
    assert len(workers) == 2
    wait_for(lambda: not any(map(alive, workers)))


@pytest.mark.slow
def test_pool_that_nobody_closed_ends_with_the_program(tmp_path):
    words = script(
        tmp_path,
        """
        if __name__ == "__main__":
            pool = Pool(threads=1)
            future = pool.submit(Job(Request("a lake", "64x64", 1, seed=3)))
            future.add_done_callback(lambda done: print("seed", done.result()[1], flush=True))
        """,
    )
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "seed 3\n"), done.stderr


@pytest.mark.slow
def test_script_without_a_main_guard_is_reported(tmp_path):
    done = subprocess.run(script(tmp_path, "Pool()"), capture_output=True, text=True, timeout=60)
    assert "before it was ready (in a script, create a Pool below" in done.stderr


@pytest.mark.slow
def test_a_pool_can_be_used_from_many_threads(steering):
    with Pool(runtime=steering.runtime, workers=2, queue_size=40) as pool:
        with ThreadPoolExecutor(8) as threads:
            futures = list(threads.map(lambda seed: pool.submit(job(seed)), range(40)))
        assert [future.result()[1] for future in futures] == list(range(40))

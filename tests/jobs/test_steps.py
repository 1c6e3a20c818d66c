"""A job's steps: what is reported of them, and how a job ends between two."""

import threading

import numpy as np
import pytest

from lcmcore.errors import Cancelled
from lcmcore.jobs.job import Job, Request
from lcmcore.jobs.pool import Pool
from lcmcore.jobs.worker import PipelineWorker
from tests.jobs.fakes import wait_for

pytestmark = pytest.mark.host  # the same on every processor, and each pool loads Python anew


def job(steps=3):
    return Job(Request("a lake", "64x96", steps, seed=1))


def test_a_worker_sends_previews_of_all_steps_but_the_last():
    with PipelineWorker(0) as worker:
        cold, warm = [], []
        worker.run_job(job(), cold.append)
        worker.warm_up()
        worker.run_job(job(), warm.append)
    assert [step.preview is None for step in cold] == [True] * 3
    assert [(step.number, step.total) for step in warm] == [(1, 3), (2, 3), (3, 3)]
    shapes = [None if step.preview is None else step.preview.shape for step in warm]
    assert shapes == [(12, 8, 3), (12, 8, 3), None]


def test_steps_cross_the_processes_and_leave_the_image_as_it_is():
    with Pool(warm_up=True) as pool:
        assert pool.summary.size == (256, 256)
        assert pool.summary.name == "demo"
        steps = []
        followed = pool.submit(job(), on_step=steps.append).result()
        assert pool.submit(job()).result() == followed
    assert [step.number for step in steps] == [1, 2, 3]
    assert steps[0].preview.dtype == np.uint8


def test_a_job_that_is_told_to_stop_ends_before_its_next_step(one, steering):
    seen = []

    def on_step(step):
        seen.append(step.number)
        return step.number < 2

    future = one.submit(job(5), on_step=on_step)
    with pytest.raises(Cancelled, match="after step 2"):
        future.result()
    assert seen == [1, 2]
    assert one.submit(job()).result()[1] == 1  # by the same process
    assert len(steering.pids()) == 1


def test_what_on_step_raises_ends_the_job_and_is_raised(one):
    def on_step(step):
        raise OSError(f"in step {step.number}")

    with pytest.raises(OSError, match="in step 1"):
        one.submit(job(), on_step=on_step).result()
    assert one.submit(job()).result()[1] == 1


def test_a_retried_job_reports_its_steps_again(one, steering):
    seen = []

    def on_step(step):
        seen.append(step.number)
        if len(seen) == 2:
            steering.kill()

    assert one.submit(job(), on_step=on_step).result()[1] == 1
    assert seen == [1, 2, 1, 2, 3]
    assert len(steering.pids()) == 2


def test_a_pool_that_is_aborted_while_a_step_waits_ends(steering):
    pool = Pool(runtime=steering.runtime)
    reached, go_on = threading.Event(), threading.Event()

    def on_step(step):
        reached.set()
        go_on.wait(30)

    future = pool.submit(job(), on_step=on_step)
    assert reached.wait(30)
    pool.abort()
    go_on.set()
    wait_for(future.done)
    assert future.exception() is not None

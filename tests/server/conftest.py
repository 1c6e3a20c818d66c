"""Servers to ask: the command with the demo model, and one in this process whose unet obeys."""

import contextlib
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import pytest

from lcmcore.jobs.pool import Pool
from lcmcore.server.app import Access, make_app
from lcmcore.server.queue import JobQueue
from lcmcore.server.run import bound_socket, make_server
from lcmcore.server.service import Limits, Service
from tests.jobs.fakes import Steering, wait_for

LCM = Path(sys.executable).with_name("lcm")
ROOT = Path(__file__).parents[2]
SCRIBBLE = ROOT / "docs" / "pictures" / "scribble.png"
MASK = SCRIBBLE.with_name("mask.png")


class Command:
    """`lcm serve` in a process of its own."""

    def __init__(self, log, *options, **environment):
        self.log = log
        with log.open("w") as stderr:
            self.process = subprocess.Popen(
                [LCM, "serve", "--port", "0", *options],
                stderr=stderr,
                env={**os.environ, **environment},
            )
        wait_for(lambda: "serving at" in log.read_text() or self.process.poll() is not None, 120)
        self.url = re.search(r"serving at (http://\S+)/", log.read_text())[1]

    def stop(self):
        self.process.terminate()
        return self.process.wait(60)


@contextlib.contextmanager
def started(log, *options, **environment):
    command = Command(log, *options, **environment)
    try:
        yield command
    finally:
        command.process.kill()
        command.process.wait()


@pytest.fixture(scope="module")
def demo_server(tmp_path_factory):
    """Not for the session: tests of pools count the children of this process."""
    with started(tmp_path_factory.mktemp("server") / "log") as command:
        yield command


@pytest.fixture(scope="module")
def demo_client(demo_server):
    with httpx.Client(base_url=demo_server.url, timeout=120) as client:
        yield client


class Running:
    """A server in a thread of this process, and the parts of it."""

    def __init__(self, pool, access, limits, waiting, workers):
        self.queue = JobQueue(pool.submit, lambda: workers, waiting)
        self.service = Service(self.queue, {pool.summary.name: pool.summary}, limits, 0, {})
        bound = bound_socket("127.0.0.1", 0)
        self.port = bound.getsockname()[1]
        self._server = make_server(make_app(self.service, access), self.queue)
        self._thread = threading.Thread(target=self._server.run, args=([bound],))
        self._thread.start()
        wait_for(lambda: self._server.started)
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=60)

    def begin_to_stop(self):
        self._server.should_exit = True

    def close(self):
        self.client.close()
        self.begin_to_stop()
        self._thread.join()


@pytest.fixture
def steering(tmp_path):
    return Steering(tmp_path)


@pytest.fixture
def steered(steering):
    """Starts servers whose unet obeys."""
    with contextlib.ExitStack() as stack:

        def start(access=Access(), limits=Limits(), waiting=2, workers=1):  # noqa: B008
            pool = Pool(runtime=steering.runtime, workers=workers, warm_up=True)
            stack.callback(pool.close)
            for path in steering.folder.glob("*.runs"):  # of the warming up
                path.unlink()
            running = Running(pool, access, limits, waiting, workers)
            stack.callback(running.close)
            return running

        yield start
        (steering.folder / "hold").unlink(missing_ok=True)


@pytest.fixture
def steps(steered):
    """A server, and the steps that its jobs have reported."""

    def start(**keywords):
        server = steered(**keywords)
        seen = []
        real = server.queue._submit

        def submit(job, *, on_step):
            return real(job, on_step=lambda step: (seen.append(step.number), on_step(step))[1])

        server.queue._submit = submit
        return server, seen

    return start


def in_background(call, *arguments, **keywords):
    """The thread of a call, and where its result will be."""
    results = []

    def run():
        try:
            results.append(call(*arguments, **keywords))
        except Exception as error:
            results.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, results

"""The batch on a real Dask scheduler and two workers, over loopback TCP."""

import pickle
import re
import shlex
import subprocess
import sys
from pathlib import Path

import distributed
import pytest

import lcmcore
from lcmcore.fake import FakeRuntime
from lcmcore.jobs import cluster as cluster_module
from lcmcore.jobs.cluster import connect, run_on_worker
from lcmcore.jobs.job import Job, Request
from lcmcore.jobs.process import WorkerSpec
from tests.jobs.fakes import wait_for
from tests.jobs.images import BUSY, PROMPT, QUICK, batch, contents, make_photos

PAGE = Path(__file__).parents[2] / "docs" / "cluster.md"
DASK = (sys.executable, "-m", "dask")


class Cluster:
    """A scheduler and its workers, each a process of its own."""

    def __init__(self, folder):
        self.folder = folder
        self.processes = []
        words = ("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard")
        self.scheduler = self._start("scheduler", *words)
        log = folder / "scheduler.log"
        wait_for(lambda: "Scheduler at:" in log.read_text())
        self.address = re.search(r"Scheduler at:\s+(tcp://\S+)", log.read_text())[1]

    def add_worker(self, *words):
        name = f"worker{len(self.processes)}"
        words = words or ("worker", self.address, "--nthreads", "1", "--no-nanny")
        process = self._start(name, *words, "--no-dashboard")
        log = self.folder / f"{name}.log"
        wait_for(lambda: "Registered to" in log.read_text())
        return process

    def close(self):
        for process in reversed(self.processes):
            process.terminate()
        for process in self.processes:
            process.wait()

    def _start(self, name, *words):
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [*DASK, *words], stdout=log, stderr=subprocess.STDOUT, cwd=self.folder
            )
        self.processes.append(process)
        return process


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """One for the whole module; the tests stand in the order of its life."""
    opened = Cluster(tmp_path_factory.mktemp("cluster"))
    yield opened
    opened.close()


@pytest.fixture
def photos(tmp_path):
    return make_photos(tmp_path / "photos", 10)


@pytest.mark.slow
def test_waiting_for_a_worker_can_be_interrupted(cluster, photos, tmp_path):
    where = ("--scheduler", cluster.address)
    process = batch(photos, PROMPT, "-o", tmp_path / "out", *where, start=subprocess.Popen)
    assert "waiting for a worker" in process.stderr.readline()
    process.terminate()
    process.communicate()
    assert process.returncode == 143


@pytest.mark.slow
def test_the_client_is_not_the_default_of_the_process(cluster):
    with connect(cluster.address) as (_, threads, _):
        assert threads() == 0
        with pytest.raises(ValueError, match="No clients found"):
            distributed.default_client()


@pytest.mark.slow
def test_batch_waits_for_a_worker_and_needs_no_model_itself(cluster, photos, tmp_path):
    (cluster.folder / "model").symlink_to(lcmcore.demo_dir())  # where workers are, not the batch
    where = ("--scheduler", cluster.address, "--model", "model")
    for path in sorted(photos.iterdir())[2:]:
        path.unlink()
    out = tmp_path / "out"
    process = batch(photos, PROMPT, "-o", out, *QUICK, *where, start=subprocess.Popen, cwd=tmp_path)
    assert "runs 2 of 2 steps" in process.stderr.readline()
    assert "waiting for a worker" in process.stderr.readline()
    worker = cluster.add_worker()
    process.communicate()
    assert process.returncode == 0
    assert len(contents(out)) == 2
    worker.kill()


@pytest.mark.slow
def test_lost_worker_leaves_the_bytes_of_a_local_run(cluster, photos, tmp_path):
    (photos / "broken.png").write_bytes(b"text")
    victim, _ = cluster.add_worker(), cluster.add_worker()
    out = tmp_path / "out"
    where = ("--scheduler", cluster.address)
    process = batch(photos, PROMPT, "-o", out, *BUSY, *where, start=subprocess.Popen)
    wait_for(lambda: len([*out.glob("[!.]*")]) >= 2)  # a hidden one may be gone any moment
    victim.kill()
    _, stderr = process.communicate()
    assert process.returncode == 1
    assert stderr.splitlines()[-3] == "10 images generated, 1 failed"
    local = tmp_path / "local"
    assert batch(photos, PROMPT, "-o", local, *BUSY, "--workers", 2).returncode == 1
    assert len(contents(local)) == 10
    assert contents(out) == contents(local)
    again = batch(photos, PROMPT, "-o", local, *BUSY, *where)
    assert "0 images generated, 10 skipped (already done), 1 failed" in again.stderr


@pytest.mark.slow
def test_commands_of_the_documentation(cluster, photos, tmp_path):
    text = PAGE.read_text().replace("tcp://board0:8786", cluster.address)
    (block,) = re.findall(r"^```console\n(.*?)^```", text, re.M | re.S)
    scheduler, worker, command = (
        shlex.split(line.partition("$ ")[2]) for line in block.splitlines()
    )
    assert scheduler == ["dask", "scheduler"]  # the fixture has started it
    assert (worker[0], command[:2]) == ("dask", ["lcm", "batch"])
    cluster.add_worker(*worker[1:])
    done = batch(*command[2:], *QUICK, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(contents(tmp_path / "snowy")) == 10


@pytest.mark.slow
def test_lost_scheduler_is_one_line_and_the_batch_resumes(cluster, photos, tmp_path):
    cluster.add_worker()
    out = tmp_path / "out"
    where = ("--scheduler", cluster.address)
    process = batch(photos, PROMPT, "-q", "-o", out, *BUSY, *where, start=subprocess.Popen)
    wait_for(lambda: len([*out.glob("[!.]*")]) >= 2)  # a hidden one may be gone any moment
    cluster.scheduler.kill()
    _, stderr = process.communicate()
    assert process.returncode == 1
    (line,) = stderr.splitlines()
    assert "lost" in line
    done = batch(photos, PROMPT, "-o", out, *BUSY, "--workers", 2)
    assert done.returncode == 0
    assert len(contents(out)) == 10


@pytest.fixture
def cached(monkeypatch):
    """A Dask process that has run no job yet."""
    worker = cluster_module._CachedWorker()
    monkeypatch.setattr(cluster_module, "_WORKER", worker)
    yield worker
    worker._worker.close()


def test_worker_of_a_dask_process_is_kept_for_the_same_model(cached, configs):
    job = Job(Request("a lake", "64x64", 1, seed=5))
    spec = pickle.dumps(WorkerSpec(str(configs), FakeRuntime()))
    png, seed = run_on_worker(spec, job)
    assert (png[:4], seed) == (b"\x89PNG", 5)
    first = cached._worker
    assert run_on_worker(spec, job) == (png, 5)
    assert cached._worker is first
    closed = []
    first.close = lambda: closed.append(first)
    assert run_on_worker(pickle.dumps(WorkerSpec(None, FakeRuntime())), job)[1] == 5
    assert closed == [first]
    assert cached._worker is not first


def test_worker_that_does_not_open_is_tried_again(cached, configs):
    job = Job(Request("a lake", "64x64", 1, seed=5))
    spec = pickle.dumps(WorkerSpec(str(configs), FakeRuntime()))
    run_on_worker(spec, job)
    for _ in range(2):
        with pytest.raises(lcmcore.BundleError, match="no model directory"):
            run_on_worker(pickle.dumps(WorkerSpec("/nowhere")), job)
    assert run_on_worker(spec, job)[1] == 5


def test_bad_address_is_reported_at_once():
    message = "^no Dask scheduler at none: "
    with pytest.raises(lcmcore.RuntimeUnavailableError, match=message), connect("none"):
        pass


def test_missing_dask_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with (
        pytest.raises(lcmcore.RuntimeUnavailableError, match=r"pip install 'lcmcore\[cluster\]'"),
        connect("tcp://127.0.0.1:8786"),
    ):
        pass

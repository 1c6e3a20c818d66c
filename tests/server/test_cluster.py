"""The server on a Dask cluster: jobs run there, wait there, and are counted here."""

import shutil

import httpx
import numpy as np
import pytest

import lcmcore
from tests.jobs.test_cluster import Cluster
from tests.server.conftest import started
from tests.server.test_openai import PROMPT, events_of, images_of

pytestmark = [pytest.mark.host, pytest.mark.slow]  # a scheduler, a worker and a server load Python


@pytest.fixture
def cluster(tmp_path):
    opened = Cluster(tmp_path)
    try:
        opened.add_worker()
        yield opened
    finally:
        for process in opened.processes:
            process.kill()  # what it holds does not matter any more
        opened.close()


def test_jobs_run_on_the_cluster(cluster, tmp_path, demo):
    with started(tmp_path / "log", "--scheduler", cluster.address) as command:
        body = {"prompt": PROMPT, "seed": 7, "size": "64x64"}
        url = f"{command.url}/v1/images/generations"
        answer = httpx.post(url, json={**body, "n": 2}, timeout=60)
        for seed, image in zip((7, 8), images_of(answer), strict=True):
            expected = demo(PROMPT, seed=seed, width=64, height=64).images[0]
            assert np.array_equal(np.asarray(image), np.asarray(expected))
        *partial, event = events_of(httpx.post(url, json={**body, "stream": True}, timeout=60))
        assert event["type"] == "image_generation.completed"
        assert {each["type"] for each in partial} == {"image_generation.partial_image"}
        assert [each["step"] for each in partial] == [1, 2, 3]
        refused = httpx.post(url, json={"prompt": PROMPT, "size": "65x64"}, timeout=60)
        assert refused.status_code == 400
        assert command.stop() == 0
        assert "3 images generated" in command.log.read_text()


def test_a_job_of_the_cluster_ends_when_its_client_has_gone(cluster, tmp_path):
    with started(tmp_path / "log", "--scheduler", cluster.address) as command:
        body = {"prompt": PROMPT, "size": "256x256", "num_inference_steps": 50, "stream": True}
        url = f"{command.url}/v1/images/generations"
        with httpx.stream("POST", url, json=body, timeout=60) as answer:
            next(answer.iter_lines())  # it runs
        body = {"prompt": PROMPT, "size": "64x64", "num_inference_steps": 1}
        assert httpx.post(url, json=body, timeout=60).status_code == 200
        assert command.stop() == 0
        assert "1 image generated, of which 0 for clients that had gone, 1 failed or cancelled" in (
            command.log.read_text()
        )


def test_jobs_of_the_cluster_choose_their_model(cluster, tmp_path, demo, model):
    settings = model / "lcm.toml"
    settings.write_text("scaling_factor = 0.3\n" + settings.read_text())
    shutil.copytree(lcmcore.demo_dir(), tmp_path / "models" / "demo")
    model.rename(tmp_path / "models" / "bright")
    with lcmcore.load(tmp_path / "models" / "bright") as bright:
        asked = {"seed": 7, "width": 64, "height": 64}
        expected = {"demo": demo(PROMPT, **asked), "bright": bright(PROMPT, **asked)}
    options = ["--scheduler", cluster.address, "--models", str(tmp_path / "models")]
    with started(tmp_path / "log", *options) as command:
        url = f"{command.url}/v1/images/generations"
        for name in ("demo", "bright", "demo"):
            body = {"model": name, "prompt": PROMPT, "seed": 7, "size": "64x64"}
            (image,) = images_of(httpx.post(url, json=body, timeout=60))
            assert np.array_equal(np.asarray(image), np.asarray(expected[name].images[0]))
        body["model"] = "../demo"
        assert httpx.post(url, json=body, timeout=60).status_code == 404

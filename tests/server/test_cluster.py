"""The server on a Dask cluster: jobs run there, wait there, and are counted here."""

import httpx
import numpy as np
import pytest

from tests.jobs.test_cluster import Cluster
from tests.server.conftest import started
from tests.server.test_openai import PROMPT, events_of, images_of

pytestmark = [pytest.mark.host, pytest.mark.slow]  # a scheduler, a worker and a server load Python


def test_jobs_run_on_the_cluster(tmp_path, demo):
    cluster = Cluster(tmp_path)
    try:
        cluster.add_worker()
        with started(tmp_path / "log", "--scheduler", cluster.address) as command:
            body = {"prompt": PROMPT, "seed": 7, "size": "64x64"}
            url = f"{command.url}/v1/images/generations"
            answer = httpx.post(url, json={**body, "n": 2}, timeout=60)
            for seed, image in zip((7, 8), images_of(answer), strict=True):
                expected = demo(PROMPT, seed=seed, width=64, height=64).images[0]
                assert np.array_equal(np.asarray(image), np.asarray(expected))
            (event,) = events_of(httpx.post(url, json={**body, "stream": True}, timeout=60))
            assert event["type"] == "image_generation.completed"
            refused = httpx.post(url, json={"prompt": PROMPT, "size": "65x64"}, timeout=60)
            assert refused.status_code == 400
            assert command.stop() == 0
            assert "3 images generated" in command.log.read_text()
    finally:
        for process in cluster.processes:
            process.kill()  # what it holds does not matter any more
        cluster.close()

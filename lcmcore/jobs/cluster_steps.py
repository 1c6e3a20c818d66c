"""The steps of jobs on a Dask cluster: they come back as Dask's events, and can end their job.

References: `Client.subscribe_topic`, `Worker.log_event` and `Event` of Dask's distributed.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any
from uuid import uuid4

import numpy as np

from lcmcore.jobs.worker import EncodedImage, JobStep, OnStep


class ClusterSteps:
    """Submits to a cluster functions that tell of their steps."""

    def __init__(self, client: Any, executor: Executor) -> None:
        """Of a `distributed.Client`."""
        self._client = client
        self._executor = executor
        self._topic = f"lcm-{uuid4().hex}"
        self._followed: dict[str, OnStep] = {}
        client.subscribe_topic(self._topic, self._pass_on)

    def submit(
        self, run: Callable[..., EncodedImage], *arguments: object, on_step: OnStep
    ) -> Future[EncodedImage]:
        """The future of `run(*arguments, topic, name)`, which calls `teller(topic, name)`.

        `on_step` is called in Dask's thread. If it returns False, the job ends after the step that
        is then in progress; the future raises what an ended job raises.
        """
        name = f"lcm-{uuid4().hex}"
        self._followed[name] = on_step
        future: Future[EncodedImage] = self._executor.submit(run, *arguments, self._topic, name)
        future.add_done_callback(lambda _: self._forget(name))
        return future

    def _pass_on(self, event: tuple[float, dict[str, Any]]) -> None:
        step = event[1]
        on_step = self._followed.get(step["name"])
        if on_step is not None and on_step(_unpacked(step)) is False:
            self._in_loop("event_set", step["name"])

    def _forget(self, name: str) -> None:
        del self._followed[name]
        self._in_loop("event_clear", name)

    def _in_loop(self, operation: str, name: str) -> None:
        """Call the scheduler, from any thread; `distributed.Event` would wait for its answer."""
        if self._client.status == "running":
            self._client.loop.add_callback(getattr(self._client.scheduler, operation), name=name)


def teller(topic: str, name: str) -> OnStep:
    """What the worker of a job calls after each step, in the thread that Dask gave it."""
    from distributed import Event, get_worker

    worker, ended = get_worker(), Event(name)

    def tell(step: JobStep) -> bool:
        worker.log_event(topic, {"name": name, **_packed(step)})
        return not ended.is_set()

    return tell


def _packed(step: JobStep) -> dict[str, Any]:
    """A step in msgpack's types."""
    preview = step.preview
    shape, pixels = ([], b"") if preview is None else ([*preview.shape], preview.tobytes())
    return {"number": step.number, "total": step.total, "shape": shape, "pixels": pixels}


def _unpacked(step: dict[str, Any]) -> JobStep:
    shape = step["shape"]
    preview = np.frombuffer(step["pixels"], np.uint8).reshape(shape) if shape else None
    return JobStep(step["number"], step["total"], preview)

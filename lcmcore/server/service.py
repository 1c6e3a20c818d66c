"""What the APIs share: the models, the limits of a request, and how its jobs are run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import TypeVar

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from lcmcore.errors import ArgumentError
from lcmcore.jobs.job import Job, Request
from lcmcore.jobs.worker import EncodedImage, JobStep, ModelSummary
from lcmcore.server.errors import UnknownModel
from lcmcore.server.queue import JobQueue
from lcmcore.util.validate import read_size, whole_number

T = TypeVar("T")


@dataclass(frozen=True)
class Limits:
    """What a request may ask for: the longer side of an image, images, steps; bytes of a body."""

    side: int = 1024
    images: int = 4
    steps: int = 50
    body: int = 2**25


@dataclass(frozen=True)
class StepOfImage:
    """A step of the image of that number, from 0, of a request for several."""

    number: int
    step: JobStep


@dataclass(frozen=True)
class ImageDone:
    """An image of a request, that of that number."""

    number: int
    png: bytes
    seed: int


@dataclass(frozen=True)
class Service:
    """The models, behind their queue; the first is for who names none.

    `by_name`: a request names one of them. Otherwise there is one, and it answers to every name.
    """

    queue: JobQueue
    models: Mapping[str, ModelSummary]
    limits: Limits
    created: int  # when it was started, in seconds of the epoch
    record: Mapping[str, str]  # of each image, in place of entries that name paths
    by_name: bool = False

    @property
    def default(self) -> str:
        """The name of the first model."""
        return next(iter(self.models))

    def known(self, name: str | None) -> str:
        """A model's name as it was given, or the default's; raises UnknownModel."""
        if name is None:
            return self.default
        if name not in self.models:
            raise UnknownModel
        return name

    def jobs(
        self,
        model: str,
        request: Request,
        images: Sequence[bytes | None] = (None,),
        mask: bytes | None = None,
        count: int = 1,
    ) -> list[Job]:
        """`count` jobs of a model for each init image, whose seeds count up.

        Raises ArgumentError.
        """
        whole_number("the number of images", len(images) * count, 1, self.limits.images)
        if images[0] is not None and not self.models[model].edits:
            raise ArgumentError("this model makes no images from images: it has no vae_encoder")
        seeds = (
            [None] * count if request.seed is None else range(request.seed, request.seed + count)
        )
        record = {**self.record, "model": model}
        name = model if self.by_name else None
        return [
            Job(replace(request, seed=seed), image, record, mask, name)
            for image in images
            for seed in seeds
        ]

    def checked_size(self, text: str | None) -> str | None:
        """A "WxH" within the limits; None for "auto". Raises ArgumentError."""
        if text is None or text == "auto":
            return None
        size = read_size(text)
        if max(size) > self.limits.side:
            raise ArgumentError(f"size {text}: a side has at most {self.limits.side} pixels here")
        return text

    async def images(self, jobs: Sequence[Job]) -> list[EncodedImage]:
        """(PNG, seed) of each job. Raises QueueFull, and what the worker raises."""
        found: dict[int, EncodedImage] = {}
        async with aclosing(self.follow(jobs)) as events:
            async for event in events:
                if isinstance(event, ImageDone):
                    found[event.number] = event.png, event.seed
        return [found[index] for index in range(len(jobs))]

    async def follow(self, jobs: Sequence[Job]) -> AsyncGenerator[StepOfImage | ImageDone, None]:
        """The steps and images of jobs as they come; closed early, the jobs are cancelled.

        Raises as `images` does.
        """
        self.queue.admit(len(jobs))
        events: asyncio.Queue[StepOfImage | ImageDone | Exception] = asyncio.Queue()

        async def run(index: int, job: Job) -> None:
            try:
                png, seed = await self.queue.run(
                    job, lambda step: events.put_nowait(StepOfImage(index, step))
                )
                events.put_nowait(ImageDone(index, png, seed))
            except Exception as error:
                events.put_nowait(error)

        tasks = [asyncio.ensure_future(run(index, job)) for index, job in enumerate(jobs)]
        await asyncio.sleep(0)  # each has begun: one that is cancelled before would not count out
        left = len(tasks)
        try:
            while left:
                event = await events.get()
                if isinstance(event, Exception):
                    raise event
                left -= isinstance(event, ImageDone)
                yield event
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def while_connected(receive: Receive, work: Awaitable[T]) -> T:
    """What `work` returns; raises ClientDisconnect if the client hangs up, and cancels it."""
    tasks = asyncio.ensure_future(work), asyncio.ensure_future(_hang_up(receive))
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if tasks[0].done():
            return tasks[0].result()
        raise ClientDisconnect
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _hang_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """Server-sent events; a client that hangs up closes the events."""

    def __init__(
        self, events: AsyncGenerator[bytes, None], name_error: Callable[[Exception], bytes]
    ) -> None:
        """`name_error` makes the last event of an error that comes once events were sent."""
        super().__init__(media_type="text/event-stream", headers={"cache-control": "no-store"})
        del self.headers["content-length"]
        self._events = events
        self._name_error = name_error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send what comes."""
        await while_connected(receive, self._send_all(send))

    async def _send_all(self, send: Send) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        async with aclosing(self._events) as events:
            try:
                async for event in events:
                    await send({"type": "http.response.body", "body": event, "more_body": True})
            except Exception as error:
                event = self._name_error(error)
                await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

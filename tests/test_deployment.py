"""docs/deployment.md: the ASGI application answers, refuses and cancels.

The container and the frozen program have tests of their own: tests/container.
"""

import asyncio
import importlib.util
import io
import re
import threading
import time
from pathlib import Path

import pytest
from PIL import Image

import lcmcore

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "deployment.md").read_text()


def block(title):
    (text,) = re.findall(rf"^```{re.escape(title)}\n(.*?)^```", PAGE, re.M | re.S)
    return text


@pytest.fixture
def server(tmp_path):
    """The application of the page, a new one for each test."""
    path = tmp_path / "app.py"
    path.write_text(block("python app.py"))
    spec = importlib.util.spec_from_file_location("app", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


async def live(app, work):
    """Start it, await `work`, and shut it down, as an ASGI server does."""
    received, sent = asyncio.Queue(), asyncio.Queue()
    task = asyncio.create_task(app({"type": "lifespan"}, received.get, sent.put))
    await received.put({"type": "lifespan.startup"})
    assert (await sent.get())["type"] == "lifespan.startup.complete"
    await work
    await received.put({"type": "lifespan.shutdown"})
    assert (await sent.get())["type"] == "lifespan.shutdown.complete"
    await task


async def post(app, *messages):
    """(status, content type, body) of the answer."""
    received, sent = asyncio.Queue(), asyncio.Queue()
    for message in messages:
        received.put_nowait({"type": "http.request", **message})
    await app({"type": "http"}, received.get, sent.put)
    start, body = sent.get_nowait(), sent.get_nowait()
    return start["status"], dict(start["headers"])[b"content-type"], body["body"]


def test_a_prompt_becomes_a_png(server):
    async def work():
        parts = {"body": b"a lake ", "more_body": True}, {"body": b"at night"}
        status, kind, body = await post(server.app, *parts)
        assert (status, kind) == (200, b"image/png")
        assert Image.open(io.BytesIO(body)).size == (256, 256)

    asyncio.run(live(server.app, work()))


def test_what_is_no_prompt_is_refused_and_the_next_request_is_answered(server):
    async def work():
        long, bad = {"body": b"x" * 5000}, {"body": b"\xff"}
        assert (await post(server.app, long))[::2] == (
            400,
            b"the prompt is longer than 4096 bytes\n",
        )
        assert (await post(server.app, bad))[0] == 400
        assert (await post(server.app, {"body": b"a lake"}))[0] == 200

    asyncio.run(live(server.app, work()))


def test_the_ninth_request_is_refused(server, monkeypatch):
    go = threading.Event()
    monkeypatch.setattr(server, "draw", lambda prompt, gone: go.wait() and b"png")

    async def work():
        tasks = [asyncio.create_task(post(server.app, {"body": b"a lake"})) for _ in range(8)]
        await asyncio.sleep(0)
        assert (await post(server.app, {"body": b"a lake"}))[0] == 503
        go.set()
        assert [status for status, *_ in await asyncio.gather(*tasks)] == [200] * 8
        assert (await post(server.app, {"body": b"a lake"}))[0] == 200

    asyncio.run(live(server.app, work()))


def test_a_client_that_has_gone_ends_its_call(server):
    """At the next step; the pipeline is the test's, and would go on for minutes."""
    steps = []

    def call(prompt, callback_on_step_end):
        for number in range(10_000):
            steps.append(number)
            if not callback_on_step_end(None, number, 0, {}):
                raise lcmcore.Cancelled("stopped by the callback")
            time.sleep(0.01)

    server.pipe = call
    status, *_ = asyncio.run(
        post(server.app, {"body": b"a lake"}, {"type": "http.disconnect"}), debug=True
    )
    assert status == 500
    assert len(steps) < 1000

"""The server among clients that come, wait, go and are not let in; and its end."""

import base64
import json
import os
import re
import signal
import socket
import subprocess
import time
from pathlib import Path

import httpx
import pytest

import lcmcore
from lcmcore.server.app import Access
from lcmcore.server.guard import is_loopback
from lcmcore.server.service import Limits
from tests.jobs.fakes import children, wait_for
from tests.server.conftest import LCM, SCRIBBLE, in_background, started

pytestmark = pytest.mark.host  # the same on every processor, and each server loads Python anew

BODY = {"prompt": "a lake", "size": "64x64", "num_inference_steps": 3, "seed": 1}
GENERATE = "/v1/images/generations"
KEY = "Schlüssel"
BASIC = "Basic " + base64.b64encode(f"anybody:{KEY}".encode()).decode()


def idle(server):
    return server.queue.load == {"running": 0, "waiting": 0} and server.queue._admitted == 0


def post(server, body=BODY, path=GENERATE, **keywords):
    return in_background(server.client.post, path, json=body, **keywords)


def hung_up(server, body):
    """A connection that has asked and will be closed."""
    content = json.dumps(body).encode()
    connection = socket.create_connection(("127.0.0.1", server.port))
    head = f"POST {GENERATE} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(content)}\r\n\r\n"
    connection.sendall(head.encode() + content)
    return connection


@pytest.fixture
def wait_for_hang_up(monkeypatch):
    """Until the log has a line of it, which comes when the job has been told."""
    lines = []
    monkeypatch.setattr("lcmcore.server.guard.tell", lines.append)
    return lambda: wait_for(lambda: any(json.loads(line)["status"] == 499 for line in lines))


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_hangs_up_ends_its_job_after_the_step_in_progress(
    steps, steering, stream, wait_for_hang_up
):
    server, seen = steps()
    steering.hold()
    connection = hung_up(server, {**BODY, "num_inference_steps": 40, "stream": stream})
    steering.wait_for_runs(1)
    connection.close()
    wait_for_hang_up()
    assert server.queue.load["running"] == 1  # a step is not interrupted
    steering.release()
    wait_for(lambda: idle(server))
    assert len(seen) == 1


def test_a_client_that_hangs_up_within_a_stream_ends_its_job(steps, steering, wait_for_hang_up):
    server, seen = steps()
    steering.hold(after=2)
    with server.client.stream(
        "POST", GENERATE, json={**BODY, "num_inference_steps": 50, "stream": True}
    ) as answer:
        next(answer.iter_lines())
        steering.wait_for_runs(3)
    wait_for_hang_up()
    steering.release()
    wait_for(lambda: idle(server))
    assert len(seen) == 3


def test_a_job_that_waits_goes_with_its_client(steps, steering):
    server, seen = steps()
    steering.hold()
    thread, answers = post(server)
    wait_for(lambda: server.queue.load["running"] == 1)
    connection = hung_up(server, BODY)
    wait_for(lambda: server.queue.load["waiting"] == 1)
    connection.close()
    wait_for(lambda: server.queue.load["waiting"] == 0)
    steering.release()
    thread.join(30)
    assert answers[0].status_code == 200
    assert seen == [1, 2, 3]


def test_a_full_queue_says_when_to_come_again(steered, steering):
    server = steered(waiting=2)
    steering.hold()
    threads = [post(server) for _ in range(3)]
    wait_for(lambda: server.queue.load == {"running": 1, "waiting": 2})
    answer = server.client.post(GENERATE, json=BODY)
    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.json()["error"]["code"] == "rate_limit_exceeded"
    assert server.client.get("/health").status_code == 200
    steering.release()
    for thread, answers in threads:
        thread.join(30)
        assert answers[0].status_code == 200
    assert idle(server)


def test_a_request_for_more_images_than_there_is_room_for_takes_none(steered, steering):
    server = steered(waiting=1)
    assert server.client.post(GENERATE, json={**BODY, "n": 3}).status_code == 429
    assert idle(server)
    assert server.client.post(GENERATE, json={**BODY, "n": 2}).status_code == 200


def test_one_bad_image_of_several_cancels_the_others(steered):
    server = steered()
    files = [("image[]", SCRIBBLE.read_bytes()), ("image[]", b"none"), ("image[]", b"none")]
    answer = server.client.post("/v1/images/edits", data={"prompt": "x"}, files=files)
    assert answer.status_code == 400
    wait_for(lambda: idle(server))


def test_a_job_of_a_worker_that_dies_is_done_by_another(steered, steering):
    server = steered()
    expected = server.client.post(GENERATE, json=BODY).json()["data"]
    steering.kill()
    assert server.client.post(GENERATE, json=BODY).json()["data"] == expected
    assert len(steering.pids()) == 2


def test_a_job_that_kills_two_workers_is_answered_503(steered, steering):
    server = steered()
    steering.kill(times=2)
    answer = server.client.post(GENERATE, json=BODY)
    assert answer.status_code == 503
    assert "worker 0" not in answer.text
    assert server.client.post(GENERATE, json=BODY).status_code == 200


def test_who_stops_finishes_what_runs_and_refuses_what_waits(steered, steering):
    server = steered()
    steering.hold()
    running, first = post(server)
    wait_for(lambda: server.queue.load["running"] == 1)
    waiting, second = post(server)
    wait_for(lambda: server.queue.load["waiting"] == 1)
    server.begin_to_stop()
    waiting.join(30)
    assert second[0].status_code == 503
    steering.release()
    running.join(30)
    assert first[0].status_code == 200


def test_bodies_are_bounded(steered):
    server = steered(limits=Limits(body=1000))
    assert server.client.post(GENERATE, json={**BODY, "prompt": "x" * 900}).status_code == 200
    assert server.client.post(GENERATE, json={**BODY, "prompt": "x" * 1100}).status_code == 413

    def parts():
        for _ in range(200):
            yield b" " * 100

    assert server.client.post(GENERATE, content=parts()).status_code == 413


def test_all_bodies_together_are_bounded(steered, steering):
    """Nine of the largest size wait; the memory has room for eight."""
    server = steered(limits=Limits(body=10_000), waiting=20)
    steering.hold()
    large = {**BODY, "prompt": "x" * 9000}
    threads = [post(server, large) for _ in range(8)]
    wait_for(lambda: server.queue.load == {"running": 1, "waiting": 7})
    small = {**BODY, "prompt": "x" * 100}
    assert server.client.post(GENERATE, json=large).status_code == 503
    others = [post(server, small) for _ in range(2)]
    wait_for(lambda: server.queue.load["waiting"] == 9)
    steering.release()
    for thread, answers in [*threads, *others]:
        thread.join(60)
        assert answers[0].status_code == 200
    assert server.client.post(GENERATE, json=large).status_code == 200


class TestKeys:
    """With another user on the same host and no key: nothing but /health."""

    PATHS = ("/", "/page/x.js", "/v1/models", "/sdapi/v1/progress", "/sdapi/v1/options", "/other")

    def test_without_it_there_is_nothing_but_health(self, steered):
        client = steered(access=Access(key=KEY)).client
        assert client.get("/health").json() == {"status": "ok"}
        for path in self.PATHS:
            for headers in ({}, {"authorization": "Bearer other"}, {"authorization": "Basic xx"}):
                answer = client.get(path, headers=headers)
                assert answer.status_code == 401
                assert answer.headers["www-authenticate"].startswith("Basic")
        for path in (GENERATE, "/sdapi/v1/txt2img", "/sdapi/v1/interrupt", "/v1/images/edits"):
            assert client.post(path, json=BODY).status_code == 401

    def test_with_it_there_is_all(self, steered):
        client = steered(access=Access(key=KEY)).client
        for value in (f"Bearer {KEY}".encode(), BASIC):
            assert client.get("/v1/models", headers={"authorization": value}).status_code == 200
        assert client.post(GENERATE, json=BODY, headers={"authorization": BASIC}).status_code == 200

    def test_other_addresses_demand_one(self, tmp_path):
        command = [LCM, "serve", "--host", "0.0.0.0", "--port", "0"]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 1
        (line,) = done.stderr.splitlines()
        assert "--api-key" in line
        assert "--no-auth" in line

    @pytest.mark.parametrize(
        ("host", "expected"),
        [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True)]
        + [(each, False) for each in ("0.0.0.0", "::", "192.168.1.2", "board.local", "")],
    )
    def test_which_addresses_are_of_this_machine_alone(self, host, expected):
        assert is_loopback(host) == expected


class TestPlaces:
    """Pages of other origins, and names that are not the server's."""

    def test_a_page_of_another_origin_is_refused(self, steered):
        server = steered()
        own = f"http://127.0.0.1:{server.port}"
        for origin, status in ((own, 200), ("https://example.org", 403), ("null", 403)):
            answer = server.client.post(GENERATE, json=BODY, headers={"origin": origin})
            assert answer.status_code == status
            assert "access-control-allow-origin" not in answer.headers

    def test_cors_lets_the_named_one_in(self, steered):
        server = steered(access=Access(key=KEY, cors=("https://example.org",)))
        asked = {"origin": "https://example.org", "access-control-request-method": "POST"}
        headers = {**asked, "access-control-request-headers": "authorization"}
        answer = server.client.options(GENERATE, headers=headers)
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == "https://example.org"
        sent = {"origin": "https://example.org", "authorization": BASIC}
        answer = server.client.post(GENERATE, json=BODY, headers=sent)
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == "https://example.org"
        other = {**sent, "origin": "https://example.com"}
        assert server.client.post(GENERATE, json=BODY, headers=other).status_code == 403

    @pytest.mark.parametrize(
        ("host", "status"),
        [("localhost:1", 200), ("192.168.1.2", 200), ("[::1]:7", 200), ("evil.example", 403)],
    )
    def test_without_a_key_the_server_has_no_other_name(self, steered, host, status):
        """Or a page could have its name lead here."""
        server = steered(access=Access(hosts=("localhost",)))
        assert server.client.get("/v1/models", headers={"host": host}).status_code == status


def test_the_log_has_a_line_of_json_for_each_request_and_nothing_of_its_content(demo_server):
    httpx.get(f"{demo_server.url}/v1/models?secret=1", headers={"authorization": "Bearer abc"})
    httpx.get(f"{demo_server.url}/%0a%1b[31m{'x' * 1000}")
    wait_for(lambda: '"status": 404' in demo_server.log.read_text())
    lines = [
        json.loads(line) for line in demo_server.log.read_text().splitlines() if line[0] == "{"
    ]
    keys = {"time", "client", "method", "path", "status", "bytes", "seconds"}
    assert all(line.keys() == keys for line in lines)
    assert ("/v1/models", 200) in [(line["path"], line["status"]) for line in lines]
    text = demo_server.log.read_text()
    assert "secret" not in text
    assert "abc" not in text
    assert "\x1b" not in text


def test_no_answer_has_a_path_or_a_traceback(tmp_path, model):
    """Of a model whose encoder is broken, which the first request for it finds."""
    (encoder,) = (model / "vae_encoder").glob("*.onnx")
    encoder.write_bytes(b"broken")
    with started(tmp_path / "log", "--model", str(model)) as command:
        answer = httpx.post(
            f"{command.url}/v1/images/edits",
            data={"prompt": "x"},
            files={"image": SCRIBBLE.read_bytes()},
            timeout=60,
        )
        assert answer.status_code == 500
        assert answer.json()["error"]["type"] == "server_error"
        assert str(tmp_path) not in answer.text
        assert "Traceback" not in answer.text
        assert "vae_encoder" in command.log.read_text()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_finishes_what_runs(tmp_path, signum):
    with started(tmp_path / "log") as command:
        pid = command.process.pid
        workers = [*children(pid)]
        body = {**BODY, "num_inference_steps": 40, "size": "256x256", "stream": True}
        with httpx.stream("POST", f"{command.url}{GENERATE}", json=body, timeout=60) as answer:
            lines = answer.iter_lines()
            next(lines)  # it runs
            os.kill(pid, signum)
            text = "\n".join(lines)
        assert "image_generation.completed" in text
        assert command.process.wait(30) == 0
        assert workers
        assert not any(Path(f"/proc/{each}").exists() for each in workers)
        assert "Traceback" not in command.log.read_text()


def test_a_second_signal_ends_it_at_once(tmp_path):
    body = {**BODY, "num_inference_steps": 50, "size": "256x256", "stream": True}
    with (
        started(tmp_path / "log") as command,
        httpx.stream("POST", f"{command.url}{GENERATE}", json=body, timeout=60) as answer,
    ):
        next(answer.iter_lines())  # it runs
        os.kill(command.process.pid, signal.SIGINT)
        wait_for(lambda: is_refused(command.url))
        os.kill(command.process.pid, signal.SIGINT)
        assert command.process.wait(30) == 130
        log = command.log.read_text()
        assert "exception calling callback" not in log
        assert log.endswith("lcm: interrupted\n")


def is_refused(url):
    try:
        httpx.get(f"{url}/health")
    except httpx.TransportError:
        return True
    return False


def test_a_port_that_is_taken_is_reported_before_the_model_is_loaded(demo_server):
    port = demo_server.url.rpartition(":")[2]
    start = time.monotonic()
    done = subprocess.run(
        [LCM, "serve", "--port", port, "--model", "/nowhere"], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert re.fullmatch(rf"lcm: error: cannot serve at 127.0.0.1 port {port}: .*\n", done.stderr)
    assert time.monotonic() - start < 60


def test_a_broken_model_is_reported_before_it_serves(tmp_path, model):
    (decoder,) = (model / "vae_decoder").glob("*.onnx")
    decoder.write_bytes(b"broken")
    done = subprocess.run(
        [LCM, "serve", "--port", "0", "--model", model], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.startswith("lcm: error: vae_decoder: ")
    assert len(done.stderr.splitlines()) == 1


def test_nothing_of_the_server_is_imported_otherwise():
    code = (
        "import sys, lcmcore.cli.main, lcmcore.jobs.pool\n"
        "print({'starlette', 'uvicorn', 'anyio', 'python_multipart'} & {*sys.modules})"
    )
    assert lcmcore
    printed = subprocess.check_output([LCM.with_name("python"), "-c", code], text=True)
    assert printed.strip() == "set()"

"""Requests that nobody would send: each is answered, and none with a 500."""

import json
import socket

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from lcmcore.jobs.pool import Pool
from lcmcore.server.app import Access
from lcmcore.server.service import Limits
from tests.jobs.fakes import Steering, wait_for
from tests.server.conftest import MASK, SCRIBBLE, Running

pytestmark = [pytest.mark.host, pytest.mark.slow]  # minutes of requests, the same on all processors

PICTURES = [SCRIBBLE.read_bytes(), MASK.read_bytes(), b"", b"GIF89a", SCRIBBLE.read_bytes()[:900]]
NAMES = [
    *("prompt", "size", "n", "seed", "strength", "num_inference_steps", "guidance_scale", "stream"),
    *("negative_prompt", "partial_images", "output_format", "response_format", "mask_blur"),
    *("padding_mask_crop", "width", "height", "steps", "cfg_scale", "batch_size", "n_iter"),
    *("init_images", "mask", "resize_mode", "denoising_strength", "inpaint_full_res", "image"),
    *("inpaint_full_res_padding", "inpainting_mask_invert", "script_name", "image[]"),
    *("model", "override_settings", "sd_model_checkpoint"),
]
PATHS = [
    *("/v1/images/generations", "/v1/images/edits", "/v1/images/variations"),
    *("/sdapi/v1/txt2img", "/sdapi/v1/img2img", "/sdapi/v1/options", "/sdapi/v1/interrupt"),
]
LIMITS = Limits(side=128, images=2, steps=3, body=2**20)
EVERY = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-5, 200)
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["64x64", "auto", "1e400", "NaN", "-1", "1", "٣", "0x1", "true", "9" * 5000])
    | st.sampled_from(["data:image/png;base64,AAAA", "https://example.org/", "/etc/passwd", "webp"])
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
objects = st.dictionaries(st.sampled_from(NAMES), values, max_size=6)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    runtime = Steering(tmp_path_factory.mktemp("fuzz")).runtime
    with Pool(runtime=runtime, warm_up=True) as pool:
        running = Running(pool, Access(), LIMITS, waiting=4, workers=1)
        yield running
        assert running.client.get("/health").status_code == 200
        wait_for(lambda: running.queue.load == {"running": 0, "waiting": 0})
        assert running.queue._admitted == 0
        running.close()


def check(answer):
    assert answer.status_code < 500, (answer.status_code, answer.text)
    assert "Traceback" not in answer.text


@EVERY
@given(st.sampled_from(PATHS), objects)
def test_json(server, path, body):
    check(server.client.post(path, content=json.dumps({"prompt": "a lake", **body})))


@EVERY
@given(st.sampled_from(PATHS), st.binary(max_size=300), st.sampled_from([None, "application/json"]))
def test_bytes(server, path, content, kind):
    headers = {} if kind is None else {"content-type": kind}
    check(server.client.post(path, content=content, headers=headers))


@EVERY
@given(
    st.sampled_from(PATHS),
    st.dictionaries(
        st.sampled_from(NAMES), st.text(max_size=20) | st.integers().map(str), max_size=5
    ),
    st.lists(
        st.tuples(
            st.sampled_from(["image", "image[]", "mask", "prompt", "x"]), st.sampled_from(PICTURES)
        ),
        max_size=4,
    ),
)
def test_forms(server, path, data, files):
    fields = {key: value.encode("utf-8", "replace").decode() for key, value in data.items()}
    check(server.client.post(path, data={"prompt": "a lake", **fields}, files=files))


@EVERY
@given(
    st.sampled_from(PATHS),
    st.sampled_from(
        ["multipart/form-data; boundary=x", "multipart/form-data", "multipart/form-data; boundary="]
    )
    | st.text(st.characters(codec="ascii", categories=["L", "N", "P"]), max_size=30),
    st.lists(
        st.sampled_from(
            [
                *(b"--x\r\n", b"--x--\r\n", b"--x", b"\r\n", b"\r\n\r\n", b"\0", b"\xff\xfe"),
                b'Content-Disposition: form-data; name="image"; filename="a.png"\r\n',
                b'Content-Disposition: form-data; name="prompt"\r\n',
                b"Content-Disposition: form-data\r\n",
                b"Content-Type: text/plain; charset=none\r\n",
                b"Content-Transfer-Encoding: base64\r\n",
            ]
        )
        | st.binary(max_size=30),
        max_size=12,
    ),
)
def test_broken_forms(server, path, kind, parts):
    check(server.client.post(path, content=b"".join(parts), headers={"content-type": kind}))


@EVERY
@given(
    st.sampled_from(["GET", "POST", "PUT", "HEAD", "OPTIONS", "DELETE"]),
    st.text(st.characters(codec="latin-1", exclude_categories=["C", "Z"]), max_size=40)
    | st.sampled_from(
        ["page/../app.py", "page/%2e%2e/app.py", "page//etc/passwd", "v1/models/%00"]
    ),
    st.dictionaries(
        st.sampled_from(["authorization", "origin", "host", "content-length", "cookie", "accept"]),
        st.text(st.characters(codec="latin-1", exclude_categories=["Cc", "Z"]), max_size=30),
        max_size=3,
    ),
)
@example("POST", "", {"host": "["})
@example("GET", "health", {"host": "localhost", "origin": "http://["})
@example("GET", "", {"host": "localhost", "origin": "http://["})
def test_paths_and_headers(server, method, path, headers):
    sent = "".join(f"{key}: {value}\r\n" for key, value in headers.items())
    raw = f"{method} /{path} HTTP/1.1\r\n{sent}Connection: close\r\n\r\n".encode("latin-1")
    with socket.create_connection(("127.0.0.1", server.port), 20) as connection:
        connection.sendall(raw)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while part := connection.recv(2**16):
            answer += part
    assert not answer or int(answer.split()[1]) < 500, answer
    assert b"def " not in answer


def test_fields_have_no_names_of_files(server):
    """No name of a file that a client sends is used as one."""
    files = [("image", ("../../../etc/passwd", PICTURES[0]))]
    answer = server.client.post("/v1/images/edits", data={"prompt": "x"}, files=files)
    assert answer.status_code == 200

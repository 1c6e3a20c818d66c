"""Other users of the machine, by true processes of theirs: without a key, nothing but /health."""

import json
import os
import signal
import socket
import struct
import subprocess
import sys

import httpx
import pytest

from lcmcore.server import peer
from tests.jobs.fakes import wait_for
from tests.server.conftest import started

pytestmark = [
    pytest.mark.host,  # the same on every processor, and servers load Python anew
    pytest.mark.skipif(
        not sys.platform.startswith("linux") or os.geteuid() != 0,
        reason="needs Linux, and root, who starts processes of other users",
    ),
]

NOBODY, DAEMON = 65534, 1
OPEN = {"/health": 200}
CLOSED = ["/", "/page/main.js", "/v1/models", "/sdapi/v1/progress", "/sdapi/v1/options", "/other"]
POSTED = ["/v1/images/generations", "/v1/images/edits", "/sdapi/v1/txt2img", "/sdapi/v1/interrupt"]
RESET = struct.pack("ii", 1, 0)  # of SO_LINGER: closed, the port is free at once

# What another user's process does: it loads Python while it can read it, and is root until then.
CLIENT = """
import encodings.idna, http.client, json, os, socket, sys
os.setgroups([]); os.setgid({user}); os.setuid({user})
host, port, key, source, asked = json.loads(sys.argv[1])
client = http.client.HTTPConnection(host, port, source_address=source and ("", source))
client.connect()
if source:
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, {reset})
for method, path in asked:
    headers = dict(authorization="Bearer " + key) if key else dict()
    client.request(method, path, b"{{}}" if method == "POST" else None, headers)
    answer = client.getresponse()
    print(json.dumps([answer.status, answer.read().decode("latin-1")]))
"""


def ask(port, *asked, user=NOBODY, host="127.0.0.1", key=None, source=None):
    """(status, body) of each request, all over one connection, by a process of that user."""
    code = CLIENT.format(user=user, reset=RESET)
    words = json.dumps([host, port, key, source, asked])
    done = subprocess.run(
        [sys.executable, "-c", code, words], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def port_of(command):
    return int(command.url.rpartition(":")[2])


@pytest.mark.parametrize("host", ["127.0.0.1", "::ffff:127.0.0.1"])
def test_another_user_gets_nothing_but_health(demo_server, host):
    asked = [("GET", path) for path in [*OPEN, *CLOSED]] + [("POST", path) for path in POSTED]
    answers = ask(port_of(demo_server), *asked, host=host)
    for (_, path), (status, body) in zip(asked, answers, strict=True):
        assert status == OPEN.get(path, 401), path
        assert path in OPEN or ("--api-key" in body and "--no-auth" in body)
    statuses = [status for status, _ in ask(port_of(demo_server), *asked[:4], user=0, host=host)]
    assert statuses == [200, 200, 200, 200]


@pytest.mark.parametrize(
    ("options", "variables", "key", "status"),
    [
        ([], {"LCM_API_KEY": "KEY"}, "KEY", 200),
        ([], {"LCM_API_KEY": "KEY"}, None, 401),
        (["--no-auth"], {}, None, 200),
        (["--host", "::1"], {}, None, 401),
    ],
)
def test_who_may(tmp_path, options, variables, key, status):
    with started(tmp_path / "log", *options, **variables) as command:
        host = "::1" if options[:1] == ["--host"] else "127.0.0.1"
        asked = ("GET", "/v1/models"), ("GET", "/health")
        answers = ask(port_of(command), *asked, key=key, host=host)
        assert [each for each, _ in answers] == [status, 200]


def test_who_hangs_up_at_once_is_not_taken_for_root(demo_server):
    """Of a socket that was closed the kernel says that it is root's."""
    port = port_of(demo_server)
    code = f"""
import encodings.idna, os, socket
os.setuid({NOBODY})
client = socket.create_connection(("127.0.0.1", {port}))
client.sendall(b"GET /v1/models?hang HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n")
"""
    lines = len(demo_server.log.read_text().splitlines())
    os.kill(demo_server.process.pid, signal.SIGSTOP)
    try:
        subprocess.run([sys.executable, "-c", code], check=True)
    finally:
        os.kill(demo_server.process.pid, signal.SIGCONT)
    wait_for(lambda: len(demo_server.log.read_text().splitlines()) > lines)
    (line,) = demo_server.log.read_text().splitlines()[lines:]
    assert json.loads(line)["path"] == "/v1/models"
    assert json.loads(line)["status"] == 401


def test_a_port_has_another_owner_in_its_next_connection(demo_server):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        source = free.getsockname()[1]
    for user, status in ((0, 200), (NOBODY, 401), (0, 200)):
        answers = ask(port_of(demo_server), ("GET", "/v1/models"), user=user, source=source)
        assert [each for each, _ in answers] == [status]


@pytest.fixture(params=["sock_diag", "tables"])
def way(request, monkeypatch):
    """Both ways of asking, each alone."""
    if request.param == "tables":
        monkeypatch.setattr(peer, "_ask", lambda *_: None)
    else:
        monkeypatch.setattr(peer, "_TABLES", ())


@pytest.mark.parametrize("user", [0, DAEMON, NOBODY])
@pytest.mark.parametrize(
    ("bound", "host"),
    [
        *(("127.0.0.1", "127.0.0.1"), ("::1", "::1")),
        *(("127.0.0.1", "::ffff:127.0.0.1"), ("::ffff:127.0.0.1", "127.0.0.1")),
    ],
)
def test_whose_a_connection_is(way, monkeypatch, bound, host, user):
    code = f"""
import encodings.idna, os, socket, sys
os.setuid({user})
client = socket.create_connection((sys.argv[1], int(sys.argv[2])))
sys.stdin.read(1)
client.close()
print(flush=True)
sys.stdin.read()
"""
    with socket.socket(socket.AF_INET6 if ":" in bound else socket.AF_INET) as listening:
        listening.bind((bound, 0))
        listening.listen()
        port = str(listening.getsockname()[1])
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with subprocess.Popen([sys.executable, "-c", code, host, port], **pipes) as process:
            connection, client = listening.accept()
            ends = client[:2], connection.getsockname()[:2]
            assert peer.owner(*ends) == user
            assert peer.owner(ends[1], ("127.0.0.1", 1)) is None
            monkeypatch.setattr(os, "geteuid", lambda: DAEMON)  # a server of that user
            assert peer.is_own(*ends) == (user in (0, DAEMON))
            process.stdin.write(b"x")
            process.stdin.flush()
            process.stdout.readline()
            assert peer.owner(*ends) is None  # it has hung up
            connection.close()
            process.stdin.close()


def test_what_is_no_address_is_nobodys():
    for client in (("", 0), ("localhost", 1), ("1.2.3.4", 5), ("fe80::1%lo", 5)):
        assert peer.owner(client, ("127.0.0.1", 7860)) is None
        assert not peer.is_own(client, ("127.0.0.1", 7860))


def test_where_the_kernel_does_not_tell_everybody_is_warned(tmp_path):
    """As on another system than Linux: the command says so before it loads the model."""
    code = (
        "import sys; from lcmcore.server import peer; peer._TABLES = (peer.Path('/nowhere'),);"
        "from lcmcore.cli.main import main; sys.exit(main(['serve', '--port', '0', *sys.argv[1:]]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "--model", "/nowhere"], capture_output=True, text=True
    )
    first, second = done.stderr.splitlines()
    assert "every user of this machine can use the server" in first
    assert "no model directory" in second


def test_a_server_without_descriptors_takes_nobody_for_its_own(monkeypatch):
    """Who opens connections until there are no more must not be let in by that."""

    def none(*_, **__):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(peer.socket, "socket", none)
    monkeypatch.setattr(peer.Path, "read_bytes", none)
    assert not peer.is_own(("127.0.0.1", 1), ("127.0.0.1", 2))


def test_one_of_its_own_user_is_served(demo_server):
    assert httpx.get(f"{demo_server.url}/v1/models").status_code == 200

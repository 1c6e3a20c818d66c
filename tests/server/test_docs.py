"""docs/server.md: commands, units and settings work against a server that runs as the page says."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import yaml

import lcmcore
from lcmcore.server.service import Limits
from tests.jobs.fakes import wait_for
from tests.server.conftest import LCM, SCRIBBLE, started

pytestmark = [pytest.mark.host, pytest.mark.slow]  # starts servers, a proxy, systemd's parser

PAGE = (Path(__file__).parents[2] / "docs" / "server.md").read_text()
PORT = "7860"


def block(name):
    """The one fenced block of that language and name."""
    (text,) = re.findall(rf"^```{re.escape(name)}\n(.*?)^```", PAGE, re.M | re.S)
    return text


def consoles(program):
    """The words of each command of a program, with the variables before it."""
    for text in re.findall(r"^```console\n(.*?)^```", PAGE, re.M | re.S):
        for line in text.splitlines():
            words = shlex.split(line)
            count = next(n for n, word in enumerate(words) if "=" not in word)
            if words[count] == program:
                yield dict(word.split("=", 1) for word in words[:count]), words[count:]


def at(url, text):
    """The text with the server's own port."""
    assert PORT in text
    return text.replace(PORT, url.rpartition(":")[2])


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with started(tmp_path_factory.mktemp("page") / "log", LCM_API_KEY="KEY") as command:
        yield command


@pytest.mark.parametrize(("variables", "words"), [*consoles("lcm")], ids=" ".join)
def test_the_command_serves(variables, words, tmp_path):
    found = {"MODELS": str(lcmcore.demo_dir().parent)}
    options = [*(found.get(word, word) for word in words[2:]), "--port", "0"]  # the last one counts
    with started(tmp_path / "log", *options, **variables) as command:
        url = command.url.replace("0.0.0.0", "127.0.0.1")
        assert httpx.get(f"{url}/health").json() == {"status": "ok"}
        expected = 401 if variables else 200
        assert httpx.get(f"{url}/v1/models").status_code == expected
        assert command.stop() == 0


def examples():
    """The words of each example of the help page, and the variables before them."""
    page = subprocess.check_output([LCM, "serve", "--help"], text=True)
    for line in page.partition("examples:\n")[2].splitlines():
        variables, _, words = line.strip().rpartition("lcm serve")
        yield dict(each.split("=", 1) for each in variables.split()), words.split()


@pytest.mark.parametrize(("variables", "words"), [*examples()], ids=" ".join)
def test_the_examples_of_the_help_page_serve(variables, words, tmp_path):
    words = [str(lcmcore.demo_dir()) if word == "MODEL" else word for word in words]
    with started(tmp_path / "log", *words, "--port", "0", **variables) as command:
        assert command.stop() == 0


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
@pytest.mark.parametrize("words", [words for _, words in consoles("curl")], ids=" ".join)
def test_curl_is_answered(words, server, demo_server, tmp_path):
    shutil.copy(SCRIBBLE, tmp_path)
    url = server.url if "KEY" in " ".join(words) else demo_server.url
    asked = ["curl", "--silent", at(url, words[1]), *words[2:]]
    done = subprocess.run(asked, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["data"]


def test_defaults_of_the_table():
    table = dict(re.findall(r"^\| `--([\w-]+) (\d+)` \|", PAGE, re.M))
    limits = Limits()
    assert table == {
        "queue": "16",
        "max-images": str(limits.images),
        "max-steps": str(limits.steps),
        "max-side": str(limits.side),
        "max-body": str(limits.body >> 20),
    }
    help_page = subprocess.check_output([LCM, "serve", "--help"], text=True)
    for name, value in table.items():
        assert re.search(rf"--{name} [A-Z]+\s[^-]*\(default:\s+{value}\)", help_page), name


def test_the_line_of_the_log_has_the_keys_of_real_ones(demo_server):
    httpx.get(f"{demo_server.url}/health")
    wait_for(lambda: "/health" in demo_server.log.read_text())
    line = demo_server.log.read_text().splitlines()[-1]
    assert json.loads(block("json")).keys() == json.loads(line).keys()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs Debian's systemd")
def test_systemd_accepts_the_unit(tmp_path):
    text = block("ini /etc/systemd/system/lcm-serve.service")
    unit = tmp_path / "lcm-serve.service"
    unit.write_text(text.replace("/opt/lcm/bin/lcm", str(LCM)).replace("/etc/lcm/key", "/dev/null"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True
    )
    assert [line for line in done.stderr.splitlines() if unit.name in line] == []


def test_the_units_command_serves(tmp_path, model):
    text = block("ini /etc/systemd/system/lcm-serve.service")
    (words,) = re.findall(r"^ExecStart=/opt/lcm/bin/lcm serve (.*)$", text, re.M)
    options = words.replace("/opt/lcm/model", str(model)).split()
    with started(tmp_path / "log", *options, "--port", "0", LCM_API_KEY="KEY") as command:
        assert "0.0.0.0" in command.url
        assert command.stop() == 0  # which systemd counts as a clean end


@pytest.mark.skipif(shutil.which("nginx") is None, reason="needs Debian's nginx-light")
def test_the_proxy_passes_events_on_as_they_come(server, tmp_path):
    port = 18443
    site = at(server.url, block("nginx lcm.conf")).replace("8443", str(port))
    config = tmp_path / "nginx.conf"
    temporary = "".join(
        f"{each}_temp_path {tmp_path}/{each};"
        for each in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    config.write_text(
        f"pid {tmp_path}/pid; daemon off; error_log stderr; events {{}}\n"
        f"http {{ access_log off; {temporary} {site} }}"
    )
    with subprocess.Popen(["nginx", "-c", config, "-e", "stderr"]) as nginx:
        try:
            url = f"http://127.0.0.1:{port}"
            wait_for(lambda: reachable(url))
            headers = {"authorization": "Bearer KEY", "origin": url}
            body = {
                "prompt": "a lake",
                "num_inference_steps": 19,
                "size": "512x512",
                "stream": True,
            }
            with httpx.stream(
                "POST", f"{url}/v1/images/generations", json=body, headers=headers, timeout=60
            ) as answer:
                assert answer.status_code == 200
                next(answer.iter_lines())  # the first of eighteen previews; then it hangs up
            wait_for(lambda: '"status": 499' in server.log.read_text())
        finally:
            nginx.terminate()


def reachable(url):
    try:
        return httpx.get(f"{url}/health").status_code == 200
    except httpx.HTTPError:
        return False


def test_settings_of_open_webui_lead_here(server):
    """What Open WebUI posts with them."""
    settings = dict(line.split("=", 1) for line in block("ini open-webui.env").splitlines())
    body = {
        "model": settings["IMAGE_GENERATION_MODEL"],
        "prompt": "a lake",
        "n": 1,
        "size": settings["IMAGE_SIZE"],
        "response_format": "b64_json",
    }
    answer = httpx.post(
        f"{at(server.url, settings['IMAGES_OPENAI_API_BASE_URL'])}/images/generations",
        json=body,
        headers={"authorization": f"Bearer {settings['IMAGES_OPENAI_API_KEY']}"},
        timeout=60,
    )
    assert answer.json()["data"][0]["b64_json"]
    answer = httpx.post(
        f"{at(server.url, settings['IMAGES_EDIT_OPENAI_API_BASE_URL'])}/images/edits",
        data={"model": "", "prompt": "a lake", "response_format": "b64_json"},
        files={"image": ("1.png", SCRIBBLE.read_bytes(), "image/png")},
        headers={"authorization": f"Bearer {settings['IMAGES_EDIT_OPENAI_API_KEY']}"},
        timeout=60,
    )
    assert answer.json()["data"][0]["b64_json"]


def test_settings_of_home_assistant_lead_here(server):
    """Its template of the prompt filled in as Home Assistant does."""
    command = yaml.safe_load(block("yaml configuration.yaml"))["rest_command"]["lcm_image"]
    payload = command["payload"].replace("{{ prompt | to_json }}", json.dumps('a "lake"'))
    answer = httpx.request(
        command["method"].upper(),
        at(server.url, command["url"]),
        content=payload,
        headers={**command["headers"], "content-type": command["content_type"]},
        timeout=command["timeout"],
    )
    assert answer.json()["data"][0]["b64_json"]


@pytest.mark.parametrize("name", ["ask.py", "webui.py"])
def test_scripts_run(name, server, tmp_path):
    """Where their packages are, as in `make test-server`."""
    text = block(f"python {name}")
    (package,) = re.findall(r"^(?:from|import) (openai|webuiapi)\b", text, re.M)
    pytest.importorskip(package)
    shutil.copy(SCRIBBLE, tmp_path)
    code = at(server.url, text)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ},
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "lake.png").stat().st_size > 1000
    if name == "ask.py":
        assert (tmp_path / "image_generation.completed.png").exists()
    else:
        assert done.stdout == "4 4.0\n"

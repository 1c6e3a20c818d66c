"""`lcm serve --models`: two models, chosen by name alone; images are those of the library."""

import base64
import io
import json
import shutil
import subprocess
import sys

import httpx
import numpy as np
import pytest
from PIL import Image

import lcmcore
from lcmcore.bundle import bundles_in
from lcmcore.errors import ArgumentError
from lcmcore.jobs.job import Job, Request
from lcmcore.jobs.pool import Pool
from tests.server.conftest import LCM, started

pytestmark = pytest.mark.host  # the same on every processor, and each server loads Python anew

PROMPT = "a snowy lake at night"
ASKED = {"prompt": PROMPT, "seed": 7, "size": "64x64"}
SCALING = 0.3  # of the latents, by which the second model's images are others
STRANGE = [
    "../plain",
    "/etc",
    "plain/../plain",
    "a/b",
    ".",
    "plain ",
    "PLAIN",
    "моде́ль",
    "\0",
    "new",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two models, one of them hidden, and what is none; `secret` is outside."""
    root = tmp_path_factory.mktemp("several")
    for name in ("models/bright", "models/plain", "models/.hidden", "secret"):
        shutil.copytree(lcmcore.demo_dir(), root / name)
    settings = root / "models" / "bright" / "lcm.toml"
    settings.write_text(f"scaling_factor = {SCALING}\n" + settings.read_text())
    (root / "models" / "notes").mkdir()
    (root / "models" / "readme.txt").touch()
    return root / "models"


@pytest.fixture(scope="module")
def server(folder):
    with (
        started(folder.parent / "log", "--models", str(folder), LCM_MODEL="/nowhere") as command,
        httpx.Client(base_url=command.url, timeout=120) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def expected(folder):
    """The library's image of each model."""
    images = {}
    for name in ("bright", "plain"):
        with lcmcore.load(folder / name) as pipe:
            images[name] = np.asarray(pipe(PROMPT, seed=7, width=64, height=64).images[0])
    assert not np.array_equal(images["bright"], images["plain"])
    return images


def image_of(text):
    return Image.open(io.BytesIO(base64.b64decode(text)))


def generated(client, **body):
    answer = client.post("/v1/images/generations", json={**ASKED, **body})
    assert answer.status_code == 200, answer.text
    return image_of(answer.json()["data"][0]["b64_json"])


def drawn(client, **body):
    """By AUTOMATIC1111's API: the image, and what is said of its model."""
    asked = {"prompt": PROMPT, "seed": 7, "width": 64, "height": 64, **body}
    answer = client.post("/sdapi/v1/txt2img", json=asked)
    assert answer.status_code == 200, answer.text
    info = json.loads(answer.json()["info"])
    return np.asarray(image_of(answer.json()["images"][0])), info["sd_model_name"]


def test_a_request_chooses_the_model_and_the_first_is_for_who_does_not(server, expected):
    for name in ("plain", "bright", None, "plain"):
        image = generated(server, model=name)
        assert np.array_equal(np.asarray(image), expected[name or "bright"])
        assert image.text["model"] == name or name is None


def test_a_form_chooses_it(server):
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), "teal").save(buffer, "PNG")
    for path in ("edits", "variations"):
        for name in ("plain", "bright"):
            answer = server.post(
                f"/v1/images/{path}",
                data={"prompt": PROMPT, "model": name, "num_inference_steps": "1"},
                files={"image": buffer.getvalue()},
            )
            assert image_of(answer.json()["data"][0]["b64_json"]).text["model"] == name
        other = server.post(
            f"/v1/images/{path}",
            data={"prompt": PROMPT, "model": "../secret"},
            files={"image": buffer.getvalue()},
        )
        assert other.status_code == 404


def test_both_are_listed_the_first_at_first(server):
    assert [each["id"] for each in server.get("/v1/models").json()["data"]] == ["bright", "plain"]
    assert server.get("/v1/models/plain").json()["id"] == "plain"
    assert server.get("/v1/models/.hidden").json()["error"]["code"] == "model_not_found"
    titles = [each["title"] for each in server.get("/sdapi/v1/sd-models").json()]
    assert titles == ["bright", "plain"]


def test_options_of_automatic1111_choose_it(server, expected):
    def check(name, **body):
        image, said = drawn(server, **body)
        assert said == name
        assert np.array_equal(image, expected[name])

    check("bright")
    check("plain", override_settings={"sd_model_checkpoint": "plain"})
    check("bright")
    chosen = {"sd_model_checkpoint": "plain"}
    try:
        assert server.post("/sdapi/v1/options", json=chosen).status_code == 200
        assert server.get("/sdapi/v1/options").json()["sd_model_checkpoint"] == "plain"
        check("plain")
        check("bright", override_settings={"sd_model_checkpoint": "bright"})
    finally:
        server.post("/sdapi/v1/options", json={"sd_model_checkpoint": "bright"})


@pytest.mark.parametrize("name", [*STRANGE, ".hidden", "notes", "../secret", "x" * 5000])
def test_another_name_is_answered_404(server, name):
    answer = server.post("/v1/images/generations", json={**ASKED, "model": name})
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "model_not_found"
    assert answer.json()["error"]["type"] == "invalid_request_error"
    option = {"sd_model_checkpoint": name}
    assert server.post("/sdapi/v1/options", json=option).status_code == 404
    body = {"prompt": PROMPT, "override_settings": option}
    assert server.post("/sdapi/v1/txt2img", json=body).status_code == 404
    assert server.get("/sdapi/v1/options").json()["sd_model_checkpoint"] == "bright"


def test_a_name_that_is_no_text_is_refused(server):
    for name in (3, ["plain"], {"a": 1}):
        answer = server.post("/v1/images/generations", json={**ASKED, "model": name})
        assert answer.status_code == 400


def test_no_file_is_touched_for_a_name(folder):
    """Watched in the process that answers: names are looked up in a dictionary."""
    code = """
import asyncio, sys
from lcmcore.server.service import Service, Limits
from lcmcore.server.errors import UnknownModel
service = Service(None, {"plain": None}, Limits(), 0, {}, by_name=True)
opened = []
def watch(event, args):
    if event.startswith(("open", "os.")):
        opened.append(event)
sys.addaudithook(watch)
for name in eval(sys.argv[1]):
    try:
        service.known(name)
    except UnknownModel:
        continue
    sys.exit(name)
sys.exit(str(opened) if opened else 0)
"""
    subprocess.run([sys.executable, "-c", code, repr(STRANGE)], check=True, cwd=folder)


def test_the_model_option_comes_first(folder, tmp_path):
    for model, names in (("demo", ["demo", "bright", "plain"]), ("plain", ["plain", "bright"])):
        given = model if model == "demo" else str(folder / model)
        options = ["--models", str(folder), "--model", given]
        with started(tmp_path / "log", *options) as command:
            answer = httpx.get(f"{command.url}/v1/models").json()
            assert [each["id"] for each in answer["data"]] == names


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--models", "EMPTY"], "no folder in it has a unet"),
        (["--models", "EMPTY/none"], "No such file"),
        (["--models", "MODELS", "--config", "x.toml"], "--config and --tokenizer are of one model"),
        (["--models", "MODELS", "--model", "EMPTY/plain"], "two models are called plain"),
    ],
)
def test_what_cannot_be_served(folder, tmp_path, options, message):
    (tmp_path / "plain").mkdir()
    places = {"MODELS": folder, "EMPTY": tmp_path}
    words = [str(places.get(each, each)).replace("EMPTY", str(tmp_path)) for each in options]
    done = subprocess.run([LCM, "serve", "--port", "0", *words], capture_output=True, text=True)
    assert done.returncode == 1
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_broken_model_of_several_is_reported_before_it_serves(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "models")
    (decoder,) = (tmp_path / "models" / "plain" / "vae_decoder").glob("*.onnx")
    decoder.write_bytes(b"broken")
    done = subprocess.run(
        [LCM, "serve", "--port", "0", "--models", tmp_path / "models"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("lcm: error: vae_decoder: ")


def test_a_name_that_cannot_be_printed_is_refused(tmp_path):
    (tmp_path / "a\nb" / "unet").mkdir(parents=True)
    with pytest.raises(ArgumentError, match="rename"):
        bundles_in(tmp_path)


def test_a_pool_of_one_model_refuses_a_name(folder):
    with Pool(folder / "plain") as pool, pytest.raises(ArgumentError, match="no model"):
        pool.submit(Job(Request(PROMPT), model="plain"))

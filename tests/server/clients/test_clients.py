"""The clients that people have, from the package index: `make test-server`.

What they show must be what the library makes of the same seed.
"""

import base64
import io
import re
import threading

import httpx
import numpy as np
import openai
import pytest
import webuiapi
from PIL import Image

from lcmcore.masks import read_mask
from tests.jobs.fakes import wait_for
from tests.server.conftest import MASK, SCRIBBLE, started

PROMPT = "a snowy lake at night"
KEY = "a secret"
LARGE = {"width": 512, "height": 512, "steps": 19}  # takes seconds


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with started(tmp_path_factory.mktemp("clients") / "log", LCM_API_KEY=KEY) as command:
        yield command


@pytest.fixture
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0) as client:
        yield client


@pytest.fixture
def webui(server):
    port = int(re.search(r":(\d+)$", server.url)[1])
    return webuiapi.WebUIApi("127.0.0.1", port, username="anybody", password=KEY)


def image_of(text):
    return Image.open(io.BytesIO(base64.b64decode(text)))


def same(image, other):
    return np.array_equal(np.asarray(image), np.asarray(other))


class TestOpenAI:
    """The package `openai`."""

    def test_generation(self, client, demo):
        answer = client.images.generate(
            model="gpt-image-1", prompt=PROMPT, size="auto", extra_body={"seed": 7}
        )
        (image,) = answer.data
        assert same(image_of(image.b64_json), demo(PROMPT, seed=7).images[0])
        assert answer.usage.total_tokens == 0

    def test_edit_with_a_mask(self, client, demo):
        with SCRIBBLE.open("rb") as image, MASK.open("rb") as mask:
            answer = client.images.edit(
                image=image, mask=mask, prompt=PROMPT, extra_body={"seed": 7, "strength": 0.5}
            )
        expected = demo(PROMPT, SCRIBBLE, 0.5, seed=7, mask_image=MASK).images[0]
        assert same(image_of(answer.data[0].b64_json), expected)

    def test_edit_of_several_images(self, client, demo):
        with SCRIBBLE.open("rb") as one, MASK.open("rb") as other:
            answer = client.images.edit(
                image=[one, other], prompt=PROMPT, size="64x64", extra_body={"seed": 7}
            )
        for made, init in zip(answer.data, (SCRIBBLE, MASK), strict=True):
            expected = demo(PROMPT, init, seed=7, width=64, height=64).images[0]
            assert same(image_of(made.b64_json), expected)

    @pytest.mark.filterwarnings("ignore:deprecated")  # the client's word for the whole endpoint
    def test_variation(self, client, demo):
        with SCRIBBLE.open("rb") as image:
            answer = client.images.create_variation(image=image, extra_body={"seed": 7})
        assert same(image_of(answer.data[0].b64_json), demo("", SCRIBBLE, seed=7).images[0])

    def test_stream(self, client, demo):
        stream = client.images.generate(
            prompt=PROMPT, stream=True, partial_images=2, extra_body={"seed": 7}
        )
        *partial, last = stream
        assert [each.type for each in partial] == ["image_generation.partial_image"] * 2
        assert [each.partial_image_index for each in partial] == [0, 1]
        assert last.type == "image_generation.completed"
        assert same(image_of(last.b64_json), demo(PROMPT, seed=7).images[0])

    def test_stream_of_an_edit(self, client, demo):
        with SCRIBBLE.open("rb") as image:
            stream = client.images.edit(
                image=image, prompt=PROMPT, stream=True, partial_images=1, extra_body={"seed": 7}
            )
            *partial, last = stream
        assert [each.type for each in partial] == ["image_edit.partial_image"]
        assert same(image_of(last.b64_json), demo(PROMPT, SCRIBBLE, seed=7).images[0])

    def test_models(self, client):
        assert [each.id for each in client.models.list()] == ["demo"]
        assert client.models.retrieve("demo").owned_by == "lcmcore"

    def test_errors_have_the_classes_of_the_client(self, client, server):
        with pytest.raises(openai.BadRequestError, match="multiples of 8"):
            client.images.generate(prompt=PROMPT, size="65x64")
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("dall-e-3")
        with (
            openai.OpenAI(base_url=f"{server.url}/v1", api_key="other") as stranger,
            pytest.raises(openai.AuthenticationError),
        ):
            stranger.models.list()


class TestWebUI:
    """The package `webuiapi`, with its defaults: 20 steps, a guidance of 7, 512x512."""

    def test_txt2img(self, webui, demo):
        result = webui.txt2img(prompt=PROMPT, seed=7, width=128, height=128)
        assert same(result.image, demo(PROMPT, seed=7, width=128, height=128).images[0])
        assert (result.info["steps"], result.info["cfg_scale"]) == (4, 4.0)

    def test_img2img_with_a_mask(self, webui, demo):
        result = webui.img2img(
            [Image.open(SCRIBBLE)],
            mask_image=read_mask(MASK),
            mask_blur=0,
            inpaint_full_res=False,
            prompt=PROMPT,
            seed=7,
            width=256,
            height=256,
        )
        expected = demo(PROMPT, SCRIBBLE, seed=7, mask_image=MASK).images[0]
        assert same(result.image, expected)

    def test_progress_and_interrupt(self, webui):
        results = []
        thread = threading.Thread(
            target=lambda: results.append(webui.txt2img(prompt=PROMPT, seed=7, **LARGE))
        )
        thread.start()
        wait_for(lambda: webui.get_progress()["current_image"])
        now = webui.get_progress()
        assert 0 < now["progress"] < 1
        assert now["state"]["job_count"] == 1
        assert image_of(now["current_image"]).size == (512, 512)
        webui.interrupt()
        thread.join(60)
        (result,) = results
        assert result.info["interrupted"]
        assert result.image.size == (512, 512)
        wait_for(lambda: webui.get_progress()["state"]["job_count"] == 0)

    def test_what_it_lists(self, webui):
        assert webui.util_get_model_names() == ["demo"]
        assert webui.util_get_current_model() == "demo"
        webui.util_set_model("demo")
        assert [each["name"] for each in webui.get_samplers()] == ["LCM"]
        assert webui.get_sd_vae() == []
        webui.util_wait_for_ready()

    def test_without_the_key_there_is_nothing(self, server):
        port = int(re.search(r":(\d+)$", server.url)[1])
        with pytest.raises(RuntimeError, match="401"):
            webuiapi.WebUIApi("127.0.0.1", port).txt2img(prompt=PROMPT)
        assert httpx.get(f"{server.url}/health").status_code == 200

"""Requests of clients that are not run here, in the order and the shape in which they send them.

Read off SillyTavern (src/endpoints/stable-diffusion.js at 02903fd, and its extension
stable-diffusion) and Open WebUI 0.12.4 (backend/open_webui/routers/images.py); what is asserted is
what they read of the answers.
"""

import base64
import io

import httpx
import pytest
from PIL import Image

from tests.jobs.fakes import wait_for
from tests.server.conftest import SCRIBBLE, in_background, started

pytestmark = pytest.mark.host  # the same on every processor, and each server loads Python anew

KEY = "tulip"
PROMPT = "a snowy lake at night"
BASIC = {"Authorization": "Basic " + base64.b64encode(f"user:{KEY}".encode()).decode()}
BEARER = {"Authorization": f"Bearer {KEY}"}


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    with (
        started(tmp_path_factory.mktemp("replayed") / "log", "--api-key", KEY) as command,
        httpx.Client(base_url=command.url, timeout=120) as client,
    ):
        yield client


def image_of(text):
    return Image.open(io.BytesIO(base64.b64decode(text)))


# Most of these are read over here.
SILLY_TAVERN = {
    "url": "http://127.0.0.1:7860",
    "auth": f"user:{KEY}",
    "prompt": PROMPT,
    "negative_prompt": "lowres, bad anatomy",
    "sampler_name": "DDIM",
    "scheduler": "normal",
    "steps": 20,
    "cfg_scale": 7,
    "width": 128,
    "height": 128,
    "restore_faces": False,
    "enable_hr": False,
    "hr_upscaler": "Latent",
    "hr_scale": 2,
    "denoising_strength": 0.7,
    "hr_second_pass_steps": 0,
    "override_settings": {"CLIP_stop_at_last_layers": 1, "sd_vae": "Automatic"},
    "override_settings_restore_afterwards": True,
    "clip_skip": 1,
    "save_images": True,
    "send_images": True,
    "do_not_save_grid": False,
    "do_not_save_samples": False,
}


class TestSillyTavern:
    def get(self, client, path, headers=BASIC):
        answer = client.get(f"/sdapi/v1/{path}", headers=headers)
        assert answer.status_code == 200, path
        return answer.json()

    def test_connects_and_fills_its_menus(self, client):
        options = self.get(client, "options")  # its ping, and its get-model
        upscalers = [each["name"] for each in self.get(client, "upscalers")]
        assert upscalers == ["None"]
        assert [each["name"] for each in self.get(client, "latent-upscale-modes")]
        assert [each["model_name"] for each in self.get(client, "sd-vae")] == []
        assert client.get("/sdapi/v1/sd-modules", headers=BASIC).status_code == 404  # Forge's
        assert [each["name"] for each in self.get(client, "samplers")] == ["LCM"]
        assert [each["name"] for each in self.get(client, "schedulers")] == ["automatic"]
        titles = [each["title"] for each in self.get(client, "sd-models")]
        assert titles == [options["sd_model_checkpoint"]]  # else its menu shows no choice
        assert "forge_preset" not in options

    def test_sets_the_model_and_waits_until_it_is_loaded(self, client):
        body = {"sd_model_checkpoint": "demo"}
        assert client.post("/sdapi/v1/options", json=body, headers=BASIC).status_code == 200
        progress = self.get(client, "progress")
        assert (progress["progress"], progress["state"]["job_count"]) == (0, 0)

    def test_generates(self, client):
        answer = client.post("/sdapi/v1/txt2img", json=SILLY_TAVERN, headers=BASIC)
        assert answer.status_code == 200, answer.text
        assert image_of(answer.json()["images"][0]).size == (128, 128)

    def test_interrupts_what_it_hangs_up_on(self, client):
        body = {**SILLY_TAVERN, "width": 512, "height": 512, "steps": 19}
        thread, answers = in_background(client.post, "/sdapi/v1/txt2img", json=body, headers=BASIC)
        wait_for(lambda: self.get(client, "progress")["state"]["sampling_step"] > 0)
        assert client.post("/sdapi/v1/interrupt", headers=BASIC).status_code == 200
        thread.join(60)
        assert answers[0].status_code == 200
        wait_for(lambda: self.get(client, "progress")["state"]["job_count"] == 0)

    def test_without_a_key_is_refused(self, client):
        empty = {"Authorization": "Basic"}  # its header when nothing is set
        assert client.get("/sdapi/v1/options", headers=empty).status_code == 401


class TestOpenWebUI:
    def images(self, answer):
        assert answer.status_code == 200, answer.text
        data = answer.json()["data"]
        assert not any(each.get("url") for each in data)  # it would fetch that
        return [image_of(each["b64_json"]) for each in data]

    @pytest.mark.parametrize(
        "body",
        [
            {"model": "demo", "size": "128x128", "response_format": "b64_json"},
            {"model": "gpt-image-1", "size": "auto"},
        ],
        ids=["size", "auto"],
    )
    def test_generates(self, client, body):
        body = {**body, "prompt": PROMPT, "n": 1}
        (image,) = self.images(client.post("/v1/images/generations", json=body, headers=BEARER))
        assert image.format == "PNG"

    @pytest.mark.parametrize("name", ["image", "image[]"])
    def test_edits_one_image_or_several(self, client, name):
        """Every field as text, the model's name empty; each file by a name that it makes up."""
        count = 1 if name == "image" else 2
        files = [(name, ("6f1c.png", SCRIBBLE.read_bytes(), "image/png"))] * count
        fields = {"model": "", "prompt": PROMPT, "size": "128x128", "response_format": "b64_json"}
        answer = client.post("/v1/images/edits", data=fields, files=files, headers=BEARER)
        assert [each.size for each in self.images(answer)] == [(128, 128)] * count

    def test_asks_automatic1111s_api(self, client):
        """With its own default of 50 steps."""
        assert client.get("/sdapi/v1/options", headers=BASIC).status_code == 200
        body = {"prompt": PROMPT, "batch_size": 1, "width": 128, "height": 128, "steps": 50}
        answer = client.post("/sdapi/v1/txt2img", json=body, headers=BASIC).json()
        assert image_of(answer["images"][0]).size == (128, 128)
        assert '"steps": 4' in answer["info"]

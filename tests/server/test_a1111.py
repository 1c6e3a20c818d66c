"""AUTOMATIC1111's API, with what its clients send by default."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from tests.jobs.fakes import wait_for
from tests.server.conftest import MASK, SCRIBBLE, in_background

pytestmark = pytest.mark.host  # the same on every processor, and each server loads Python anew

PROMPT = "a snowy lake at night"
DEFAULTS = {"prompt": PROMPT, "steps": 20, "cfg_scale": 7.0, "sampler_name": "Euler a", "seed": 7}
SMALL = {"width": 64, "height": 64}


def base64_of(path):
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def ask(client, path, **body):
    answer = client.post(f"/sdapi/v1/{path}", json=body)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    images = [Image.open(io.BytesIO(base64.b64decode(each))) for each in found["images"]]
    return images, json.loads(found["info"])


def same(image, other):
    return np.array_equal(np.asarray(image), np.asarray(other))


def test_clients_defaults_stand_for_the_models(demo_client, demo):
    (image,), info = ask(demo_client, "txt2img", **DEFAULTS, **SMALL)
    expected = demo(PROMPT, seed=7, width=64, height=64)
    assert same(image, expected.images[0])
    assert (info["steps"], info["cfg_scale"], info["sampler_name"]) == (4, 4.0, "LCM")
    assert (info["seed"], info["width"], info["height"]) == (7, 64, 64)
    assert info["infotexts"] == [
        f"{PROMPT}\nSteps: 4, Sampler: LCM, CFG scale: 4.0, Seed: 7, Size: 64x64, Model: demo"
    ]


def test_other_steps_and_guidance_are_obeyed(demo_client, demo):
    asked = {**DEFAULTS, "steps": 3, "cfg_scale": 2}
    (image,), info = ask(demo_client, "txt2img", **asked, **SMALL)
    expected = demo(PROMPT, seed=7, width=64, height=64, num_inference_steps=3, guidance_scale=2.0)
    assert same(image, expected.images[0])
    assert (info["steps"], info["cfg_scale"]) == (3, 2.0)


def test_a_seed_of_minus_one_is_random_and_reported(demo_client):
    asked = {**DEFAULTS, **SMALL, "seed": -1, "steps": 1}
    found = [ask(demo_client, "txt2img", **asked) for _ in range(2)]
    seeds = [info["seed"] for _, info in found]
    assert len({-1, *seeds}) == 3
    (again,), _ = ask(demo_client, "txt2img", **{**asked, "seed": seeds[0]})
    assert same(again, found[0][0][0])


def test_img2img_with_a_mask_is_the_librarys(demo_client, demo):
    (image,), info = ask(
        demo_client,
        "img2img",
        **DEFAULTS,
        init_images=[base64_of(SCRIBBLE)],
        mask=base64_of(MASK).partition(",")[2],
        denoising_strength=0.5,
        mask_blur=4,
        inpaint_full_res=True,
        inpaint_full_res_padding=32,
        width=128,
        height=128,
        negative_prompt="ugly",
    )
    from lcmcore.masks import blurred, read_mask

    expected = demo(
        PROMPT,
        SCRIBBLE,
        0.5,
        seed=7,
        width=128,
        height=128,
        mask_image=blurred(read_mask(MASK), 4),
        padding_mask_crop=32,
    )
    assert same(image, expected.images[0])
    assert info["denoising_strength"] == 0.5
    assert info["negative_prompt"] == ""  # which this model does not take


def test_several_images(demo_client):
    images, info = ask(demo_client, "txt2img", **DEFAULTS, **SMALL, batch_size=2, n_iter=2)
    assert len(images) == 4
    assert info["all_seeds"] == [7, 8, 9, 10]


def test_sizes_are_made_multiples(demo_client):
    (image,), info = ask(demo_client, "txt2img", **{**DEFAULTS, "width": 67, "height": 70})
    assert image.size == (info["width"], info["height"]) == (64, 72)


def test_progress_shows_the_steps_and_a_preview_and_interrupt_ends_it(steps, steering):
    server, seen = steps()
    idle = server.client.get("/sdapi/v1/progress").json()
    assert (idle["progress"], idle["state"]["job_count"], idle["current_image"]) == (0, 0, None)
    steering.hold(after=2)
    asked = {**DEFAULTS, "steps": 5, **SMALL}
    thread, answers = in_background(ask, server.client, "txt2img", **asked)
    steering.wait_for_runs(3)
    wait_for(lambda: server.client.get("/sdapi/v1/progress").json()["state"]["sampling_step"] == 2)
    now = server.client.get("/sdapi/v1/progress").json()
    assert 0 < now["progress"] < 1
    assert now["eta_relative"] > 0
    assert (now["state"]["job_count"], now["state"]["sampling_steps"]) == (1, 5)
    wait_for(lambda: server.client.get("/sdapi/v1/progress").json()["current_image"])
    quiet = server.client.get("/sdapi/v1/progress", params={"skip_current_image": "true"}).json()
    assert quiet["current_image"] is None
    assert server.client.post("/sdapi/v1/interrupt").status_code == 200
    thread.join(30)
    (((image,), info),) = answers
    assert info["interrupted"]
    assert image.size == (64, 64)
    steering.release()
    wait_for(lambda: server.queue.load == {"running": 0, "waiting": 0})
    assert len(seen) == 3  # the step in progress was the last


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("options", "sd_model_checkpoint"),
        ("sd-models", "title"),
        ("samplers", "name"),
        ("schedulers", "name"),
        ("upscalers", "name"),
        ("latent-upscale-modes", "name"),
        ("scripts", "txt2img"),
    ],
)
def test_what_clients_list(demo_client, path, key):
    found = demo_client.get(f"/sdapi/v1/{path}").json()
    assert key in (found[0] if isinstance(found, list) else found)
    assert "/" not in json.dumps(found)


def test_a_model_that_a_client_names_is_not_loaded(demo_client):
    answer = demo_client.post("/sdapi/v1/options", json={"sd_model_checkpoint": "/etc"})
    assert answer.status_code == 200
    assert demo_client.get("/sdapi/v1/options").json()["sd_model_checkpoint"] == "demo"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("txt2img", {"width": 5000}),
        ("txt2img", {"batch_size": 5}),
        ("txt2img", {"batch_size": 3, "n_iter": 3}),
        ("txt2img", {"script_name": "x/y/z plot"}),
        ("img2img", {}),
        ("img2img", {"init_images": ["https://example.org/x.png"]}),
        ("img2img", {"init_images": ["/etc/passwd"]}),
        ("img2img", {"init_images": [3]}),
        ("img2img", {"init_images": ["AAAA"]}),
    ],
)
def test_errors_have_its_shape(demo_client, path, body):
    answer = demo_client.post(f"/sdapi/v1/{path}", json=body)
    assert answer.status_code == 400
    assert answer.json().keys() == {"error", "detail", "errors"}

"""OpenAI's images API, asked as its documentation says; images are those of the library."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

import lcmcore
from lcmcore.server.masks import white_mask
from tests.server.conftest import MASK, SCRIBBLE

pytestmark = pytest.mark.host  # the same on every processor, and each server loads Python anew

PROMPT = "a snowy lake at night"


def image_of(text):
    return Image.open(io.BytesIO(base64.b64decode(text)))


def images_of(answer):
    assert answer.status_code == 200, answer.text
    return [image_of(each["b64_json"]) for each in answer.json()["data"]]


def same(image, other):
    return np.array_equal(np.asarray(image), np.asarray(other))


def events_of(answer):
    """The name and the data of each server-sent event."""
    assert answer.headers["content-type"].startswith("text/event-stream"), answer.text
    for block in answer.text.strip().split("\n\n"):
        name, data = block.split("\n")
        body = json.loads(data.removeprefix("data: "))
        assert name == f"event: {body.get('type', 'error')}"
        yield body


@pytest.fixture(scope="module")
def files():
    return {"image": SCRIBBLE.read_bytes(), "mask": MASK.read_bytes()}


def test_generation_is_the_librarys(demo_client, demo):
    answer = demo_client.post("/v1/images/generations", json={"prompt": PROMPT, "seed": 7})
    (image,) = images_of(answer)
    assert same(image, demo(PROMPT, seed=7).images[0])
    assert answer.json()["data"][0]["seed"] == 7


def test_extras_are_a_calls(demo_client, demo):
    body = {"prompt": PROMPT, "seed": 7, "size": "96x64", "num_inference_steps": 2}
    answer = demo_client.post("/v1/images/generations", json={**body, "guidance_scale": 2})
    expected = demo(
        PROMPT, seed=7, width=96, height=64, num_inference_steps=2, guidance_scale=2.0
    ).images[0]
    assert same(images_of(answer)[0], expected)


def test_several_images_have_seeds_that_count_up(demo_client, demo):
    body = {"prompt": PROMPT, "seed": 7, "n": 2, "size": "64x64"}
    answer = demo_client.post("/v1/images/generations", json=body)
    images = images_of(answer)
    assert [each["seed"] for each in answer.json()["data"]] == [7, 8]
    for seed, image in zip((7, 8), images, strict=True):
        assert same(image, demo(PROMPT, seed=seed, width=64, height=64).images[0])


def test_edit_with_a_mask_is_the_librarys(demo_client, demo, files):
    data = {"prompt": PROMPT, "seed": "7", "strength": "0.5", "num_inference_steps": "8"}
    answer = demo_client.post("/v1/images/edits", data=data, files=files)
    expected = demo(
        PROMPT, SCRIBBLE, seed=7, strength=0.5, num_inference_steps=8, mask_image=MASK
    ).images[0]
    assert same(images_of(answer)[0], expected)


def test_what_is_transparent_in_a_mask_is_repainted(demo_client, files):
    white = Image.open(MASK).convert("L")
    clear = Image.new("RGBA", white.size, (9, 200, 3, 255))
    clear.putalpha(white.point(lambda value: 255 - value))
    buffer = io.BytesIO()
    clear.save(buffer, "PNG")
    data = {"prompt": PROMPT, "seed": 7}
    one = demo_client.post("/v1/images/edits", data=data, files=files)
    other = demo_client.post(
        "/v1/images/edits", data=data, files={**files, "mask": buffer.getvalue()}
    )
    assert same(images_of(one)[0], images_of(other)[0])


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "1", "P"])
def test_a_mask_without_transparent_pixels_is_white_where_it_repaints(mode):
    mask = Image.new("L", (4, 4))
    mask.putpixel((1, 2), 255)
    buffer = io.BytesIO()
    mask.convert(mode).save(buffer, "PNG")
    assert same(Image.open(io.BytesIO(white_mask(buffer.getvalue()))), mask)


def test_several_images_are_edited_one_by_one(demo_client, demo, photo, files):
    buffer = io.BytesIO()
    photo.save(buffer, "PNG")
    sent = [("image[]", files["image"]), ("image[]", buffer.getvalue())]
    answer = demo_client.post(
        "/v1/images/edits", data={"prompt": PROMPT, "seed": 7, "size": "64x64"}, files=sent
    )
    expected = [
        demo(PROMPT, each, seed=7, width=64, height=64).images[0] for each in (SCRIBBLE, photo)
    ]
    assert all(map(same, images_of(answer), expected))
    assert len(images_of(answer)) == 2


def test_a_variation_is_an_edit_without_a_prompt(demo_client, demo, files):
    answer = demo_client.post(
        "/v1/images/variations", data={"seed": 7}, files={"image": files["image"]}
    )
    assert same(images_of(answer)[0], demo("", SCRIBBLE, seed=7).images[0])


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp"])
def test_formats_have_the_record_and_no_path(demo_client, output_format, tmp_path):
    body = {"prompt": PROMPT, "seed": 7, "size": "64x64", "output_format": output_format}
    answer = demo_client.post("/v1/images/generations", json=body)
    assert images_of(answer)[0].format == output_format.upper()
    path = tmp_path / f"image.{output_format}"
    path.write_bytes(base64.b64decode(answer.json()["data"][0]["b64_json"]))
    record = lcmcore.png.read_record(path)
    assert record["prompt"] == PROMPT
    assert record["model"] == "demo"


def test_urls_hold_the_image(demo_client):
    body = {"prompt": PROMPT, "seed": 7, "size": "64x64", "response_format": "url"}
    url = demo_client.post("/v1/images/generations", json=body).json()["data"][0]["url"]
    assert url.startswith("data:image/png;base64,")
    assert image_of(url.partition(",")[2]).size == (64, 64)


@pytest.mark.parametrize("partial_images", [0, 1, 2, None])
def test_a_stream_has_previews_and_then_the_image(demo_client, demo, partial_images):
    body = {"prompt": PROMPT, "seed": 7, "stream": True, "partial_images": partial_images}
    *partial, last = events_of(demo_client.post("/v1/images/generations", json=body))
    assert [each["type"] for each in partial] == ["image_generation.partial_image"] * len(partial)
    assert [each["partial_image_index"] for each in partial] == [*range(len(partial))]
    expected = {0: [], 1: [3], 2: [2, 3], None: [1, 2, 3]}[partial_images]
    assert [each["step"] for each in partial] == expected
    assert last["type"] == "image_generation.completed"
    assert last["usage"]["total_tokens"] == 0
    final = demo(PROMPT, seed=7).images[0]
    assert same(image_of(last["b64_json"]), final)
    for each in partial[-1:]:
        seen = image_of(each["b64_json"]).convert("RGB")
        assert each["size"] == last["size"] == "256x256"
        assert seen.size == final.size
        shrunk = [np.asarray(one.resize((32, 32))).ravel() for one in (seen, final)]
        assert np.corrcoef(*shrunk)[0, 1] > 0.85


def test_a_stream_of_an_edit(demo_client, files):
    data = {"prompt": PROMPT, "stream": "true", "size": "64x64", "output_format": "webp"}
    events = [*events_of(demo_client.post("/v1/images/edits", data=data, files=files))]
    assert {each["type"] for each in events} == {"image_edit.partial_image", "image_edit.completed"}
    assert {image_of(each["b64_json"]).format for each in events} == {"WEBP"}


def test_models(demo_client):
    (model,) = demo_client.get("/v1/models").json()["data"]
    assert model["id"] == "demo"
    assert demo_client.get("/v1/models/demo").json() == model
    assert (model["size"], model["num_inference_steps"], model["edits"]) == ("256x256", 4, True)
    assert demo_client.get("/v1/models/dall-e-3").status_code == 404


def refused(answer, status=400):
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    return error["message"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "prompt is missing"),
        ({"prompt": 3}, "prompt must be text"),
        ({"prompt": "x", "size": "65x64"}, "multiples of 8"),
        ({"prompt": "x", "size": "4096x4096"}, "at most 1024"),
        ({"prompt": "x", "size": "large"}, "WIDTHxHEIGHT"),
        ({"prompt": "x", "n": 5}, "n must be from 1 to 4"),
        ({"prompt": "x", "num_inference_steps": 51}, "from 1 to 50"),
        ({"prompt": "x", "strength": "much"}, "strength must be a number"),
        ({"prompt": "x", "guidance_scale": [1]}, "single value"),
        ({"prompt": "x", "seed": 1.5}, "whole number"),
        ({"prompt": "x", "output_format": "gif"}, "output_format must be"),
        ({"prompt": "x", "negative_prompt": "y"}, "no effect"),
        ({"prompt": "\ud800"}, "Unicode"),
    ],
)
def test_what_no_call_takes_is_refused_in_openais_shape(demo_client, body, words):
    content = json.dumps(body)
    assert words in refused(demo_client.post("/v1/images/generations", content=content))
    streamed = demo_client.post(
        "/v1/images/generations", content=json.dumps({**body, "stream": True})
    )
    assert words in refused(streamed)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"3", b"\xff", b"[" * 100_000])
def test_a_body_that_is_no_object_is_refused(demo_client, content):
    refused(demo_client.post("/v1/images/generations", content=content))


@pytest.mark.parametrize("content", [b"", b"GIF89a", b"\x89PNG\r\n\x1a\n", b"x" * 1000])
@pytest.mark.parametrize("name", ["image", "mask"])
def test_a_file_that_is_no_image_is_refused(demo_client, files, name, content):
    answer = demo_client.post(
        "/v1/images/edits", data={"prompt": "x"}, files={**files, name: content}
    )
    if content or name == "image":
        refused(answer)


def test_an_edit_needs_a_form_with_a_file(demo_client, files):
    assert "form" in refused(demo_client.post("/v1/images/edits", json={"prompt": "x"}))
    for data in ({}, {"image": "https://example.org/x.png"}, {"image": "/etc/passwd"}):
        refused(
            demo_client.post("/v1/images/edits", data={"prompt": "x", **data}, files={"a": b""})
        )
    assert "prompt is missing" in refused(demo_client.post("/v1/images/edits", files=files))


def test_other_paths_and_methods(demo_client):
    refused(demo_client.get("/v1/files"), 404)
    refused(demo_client.get("/v1/images/generations"), 405)

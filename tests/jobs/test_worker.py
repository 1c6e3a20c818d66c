"""What a PipelineWorker promises of single jobs."""

import io
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import lcmcore
from lcmcore.cli.info import describe
from lcmcore.fake import FakeRuntime
from lcmcore.jobs.job import Job, Request
from lcmcore.jobs.worker import PipelineWorker, average_to


@pytest.fixture(scope="module")
def worker():
    with PipelineWorker(0, threads=1) as opened:
        yield opened


@pytest.fixture
def photo_bytes(photo):
    buffer = io.BytesIO()
    photo.save(buffer, "PNG")
    return buffer.getvalue()


def pixels(png):
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image)


def test_job_equals_a_pipeline_call(worker, photo_bytes, photo):
    request = Request("a lake at night", "64x32", 3, 2.5, seed=11, denoise_strength=0.6)
    png, seed, latents = worker.run_job_with_latents(Job(request, photo_bytes))
    expected = worker.pipeline(
        "a lake at night",
        photo,
        strength=0.6,
        num_inference_steps=3,
        guidance_scale=2.5,
        seed=11,
        width=64,
        height=32,
    )
    assert seed == 11
    np.testing.assert_array_equal(pixels(png), np.asarray(expected.images[0]))
    pooled = np.frombuffer(latents, "<f2").reshape(1, 4, 8, 8)
    np.testing.assert_array_equal(pooled, average_to(expected.latents, 8).astype(np.float16))


def test_missing_attributes_have_the_pipelines_defaults(worker, photo_bytes, photo):
    job = SimpleNamespace(req=SimpleNamespace(prompt="a meadow", seed=3), init_image=photo_bytes)
    png, _ = worker.run_job(job)
    expected = worker.pipeline("a meadow", photo, seed=3)
    np.testing.assert_array_equal(pixels(png), np.asarray(expected.images[0]))


def test_job_without_init_image_is_txt2img(worker):
    png, _ = worker.run_job(SimpleNamespace(req=SimpleNamespace(prompt="a desert", seed=3)))
    expected = worker.pipeline("a desert", seed=3)
    np.testing.assert_array_equal(pixels(png), np.asarray(expected.images[0]))


def test_drawn_seed_reproduces_the_image(worker, photo_bytes):
    png, seed = worker.run_job(Job(Request("a river"), photo_bytes))
    again, _ = worker.run_job(Job(Request("a river", seed=seed), photo_bytes))
    assert again == png
    assert worker.run_job(Job(Request("a river"), photo_bytes))[1] != seed


def test_latents_come_from_one_pass():
    passes = []

    def unet(sample, **_):
        passes.append(len(sample))
        return np.zeros_like(sample)

    with PipelineWorker(0, runtime=FakeRuntime(unet=unet)) as counting:
        counting.run_job_with_latents(Job(Request("a lake", "64x64", 4, seed=1)))
    assert passes == [1] * 4


def test_init_image_is_turned_upright(worker, photo, photo_bytes):
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise
    photo.rotate(90, expand=True).save(buffer, "PNG", exif=exif)
    request = Request("a lake", seed=1, denoise_strength=0.5)
    turned, upright = (
        worker.run_job(Job(request, content))[0] for content in (buffer.getvalue(), photo_bytes)
    )
    np.testing.assert_array_equal(pixels(turned), pixels(upright))


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"prompt": None}, "prompt must be text"),
        ({"prompt": ["a", "b"]}, "prompt must be text"),
        ({"size": "large"}, "WIDTHxHEIGHT"),
        ({"size": (64, 64)}, "WIDTHxHEIGHT"),
        ({"size": "65x64"}, "multiples of"),
        ({"size": "1000000x64"}, "from 1 to"),
        ({"num_inference_steps": 0}, "num_inference_steps"),
        ({"num_inference_steps": "4"}, "num_inference_steps"),
        ({"guidance_scale": float("nan")}, "guidance_scale"),
        ({"seed": 2**70}, "seed"),
        ({"denoise_strength": 1.5}, "strength"),
        ({"denoise_strength": "0.5"}, "strength"),
        ({"strength_mode": "other"}, "strength mode"),
        ({"negative_prompt": "rain"}, "negative_prompt has no effect"),
        ({"fit": 3}, "fit"),
    ],
)
def test_bad_request_is_reported_and_the_worker_goes_on(worker, photo_bytes, bad, words):
    job = Job(Request(**{"prompt": "a lake", "seed": 1, **bad}), photo_bytes)
    with pytest.raises(lcmcore.ArgumentError, match=words):
        worker.run_job(job)
    assert worker.run_job(Job(Request("a lake", seed=1), photo_bytes))[1] == 1


@pytest.mark.parametrize("image", ["photo.png", 7, Image.new("RGB", (8, 8))])
def test_init_image_must_be_bytes(worker, image):
    with pytest.raises(lcmcore.ArgumentError, match="bytes"):
        worker.run_job(Job(Request("a lake"), image))


@pytest.mark.parametrize("cut", [0, 10, 100])
def test_damaged_init_image(worker, photo_bytes, cut):
    with pytest.raises(lcmcore.ImageError):
        worker.run_job(Job(Request("a lake"), photo_bytes[:cut]))


@pytest.mark.parametrize("job", [None, SimpleNamespace(), SimpleNamespace(req=None)])
def test_object_that_is_no_job(worker, job):
    with pytest.raises(lcmcore.ArgumentError, match="req"):
        worker.run_job(job)


@pytest.mark.parametrize("record", ["text", {"": "x"}, {"k" * 80: "x"}, {"k": 1}, {"é": "x"}])
def test_bad_record(worker, record):
    with pytest.raises(lcmcore.ArgumentError, match="record"):
        worker.run_job(Job(Request("a lake"), None, record))


def test_out_of_memory_is_an_lcm_error(worker, monkeypatch):
    def greedy(*_, **__):
        raise MemoryError

    monkeypatch.setattr(worker.pipeline.networks, "run", greedy)
    with pytest.raises(lcmcore.LcmError, match="out of memory"):
        worker.run_job(Job(Request("a lake", "64x64")))


def test_record_has_the_request_and_the_command(worker, photo_bytes, tmp_path):
    job = Job(Request("a lake", seed=5, denoise_strength=0.4), photo_bytes, {"ticket": "12"})
    path = tmp_path / "out.png"
    path.write_bytes(worker.run_job(job)[0])
    lines = list(describe(path))
    assert "  ticket: 12" in lines
    assert lines[-1].startswith("lcm img2img -o out.png --strength=0.4 --steps=4 ")
    assert lines[-1].endswith(" INIT 'a lake'")  # the path is not known to a worker


def test_record_without_init_image_is_txt2img(worker, tmp_path):
    path = tmp_path / "out.png"
    path.write_bytes(worker.run_job(Job(Request("a lake", seed=5)))[0])
    assert list(describe(path))[-1].startswith("lcm txt2img -o out.png --steps=4 ")


def test_record_names_model_and_runtimes(photo_bytes, tmp_path):
    model = lcmcore.demo_dir()
    choice = {"default": "auto", "vae_encoder": "onnx"}
    path = tmp_path / "out.png"
    with PipelineWorker("a", model, choice, threads=1) as worker:
        path.write_bytes(worker.run_job(Job(Request("a lake", "64x64"), photo_bytes))[0])
    command = list(describe(path))[-1]
    assert f"--model={model} --component-runtime=vae_encoder=onnx " in command


def test_missing_model():
    with pytest.raises(lcmcore.BundleError, match="no model directory"):
        PipelineWorker(0, "/nowhere")


def test_one_worker_serves_several_threads(worker, photo_bytes):
    jobs = [Job(Request("a lake", "64x64", 2, seed=seed), photo_bytes) for seed in range(6)]
    alone = [worker.run_job(job) for job in jobs]
    with ThreadPoolExecutor(3) as executor:
        assert list(executor.map(worker.run_job, jobs)) == alone

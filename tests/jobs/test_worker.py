"""What a PipelineWorker promises of single jobs."""

import hashlib
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
from lcmcore.masks import prepare
from lcmcore.model_digest import model_digest
from lcmcore.png import read_record


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


def test_job_with_a_mask_equals_a_pipeline_call(worker, photo_bytes, photo):
    mask = Image.linear_gradient("L").resize(photo.size)
    request = Request(
        *("a lake", "64x64", 2, 2.5, 11),
        mask_blur=2,
        invert_mask=True,
        expand="0,0,32,0",
        overlay=False,
    )
    buffer = io.BytesIO()
    mask.save(buffer, "PNG")
    png, _ = worker.run_job(Job(request, photo_bytes, mask=bytearray(buffer.getvalue())))
    image, mask_image = prepare(photo, mask, blur=2, invert=True, expand="0,0,32,0")
    expected = worker.pipeline(
        "a lake",
        image,
        mask_image=mask_image,
        overlay=False,
        num_inference_steps=2,
        guidance_scale=2.5,
        seed=11,
        width=64,
        height=64,
    )
    np.testing.assert_array_equal(pixels(png), np.asarray(expected.images[0]))


def test_record_of_a_job_with_a_mask(worker, photo_bytes, tmp_path):
    """What it names is in the command; the path is in none, as of the init image."""
    request = Request(
        *("a lake", "64x64", 1),
        seed=3,
        padding_mask_crop=5,
        mask_blur=1.5,
        invert_mask=True,
        expand="8,0,0,0",
    )
    png, _ = worker.run_job(Job(request, photo_bytes, mask=photo_bytes))
    (tmp_path / "image.png").write_bytes(png)
    record = read_record(tmp_path / "image.png")
    assert record["mask-sha256"] == record["init-sha256"] == hashlib.sha256(photo_bytes).hexdigest()
    assert record["size"] == "64x64"  # that of the call; the image has that of the canvas
    command = [*describe(tmp_path / "image.png")][-1]
    for word in ("--mask-crop=5", "--mask-blur=1.5", "--expand=8,0,0,0", "--mask=MASK"):
        assert word in command
    assert "--invert-mask" in command
    assert "overlay" not in command


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


def greedy(*_, **__):
    raise MemoryError


def test_out_of_memory_is_an_lcm_error(worker, monkeypatch):
    monkeypatch.setattr(worker.pipeline.networks, "run", greedy)
    with pytest.raises(lcmcore.LcmError, match=r"^out of memory: choose a smaller size$"):
        worker.run_job(Job(Request("a lake", "64x64")))


@pytest.mark.parametrize("function", ["job.read_image", "worker.encode_png"])
def test_image_too_large_for_the_memory(worker, photo_bytes, monkeypatch, function):
    monkeypatch.setattr(f"lcmcore.jobs.{function}", greedy)
    with pytest.raises(lcmcore.LcmError, match="out of memory"):
        worker.run_job(Job(Request("a lake", "64x64"), photo_bytes))


@pytest.mark.parametrize(
    "request_",
    [
        Request("a lake", seed=[1]),
        Request("a \ud800"),
        Request("a lake", guidance_scale=10**5000),
        Request("a lake", seed=-(10**5000)),
        Request("a lake", num_inference_steps=float("inf")),
        Request("a lake", denoise_strength=float("nan")),
        Request("a lake", "9" * 10**6 + "x64"),
        Request("a lake", fit={}),
    ],
)
def test_whatever_a_request_holds(worker, photo_bytes, request_):
    with pytest.raises(lcmcore.ArgumentError):
        worker.run_job(Job(request_, photo_bytes))


def test_options_of_a_worker_are_in_the_record(tmp_path):
    """The demo model by its name, and the digest of the init image."""
    (tmp_path / "own.toml").write_text("[defaults]\nnum_inference_steps = 2\n")
    files = {"config": tmp_path / "own.toml", "tokenizer": lcmcore.demo_dir() / "tokenizer"}
    model = str(lcmcore.demo_dir())
    init = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(init, "PNG")
    job = Job(Request("a lake", "64x64", seed=5), init.getvalue(), {"ticket": "12"})
    with PipelineWorker(0, model, "onnx", threads=1, **files) as worker:
        path = tmp_path / "out.png"
        path.write_bytes(worker.run_job(job)[0])
    record = read_record(path)
    expected = {
        "model": "demo",
        "model-digest": model_digest(model, **files),
        "config": str(tmp_path / "own.toml"),
        "tokenizer": f"{model}/tokenizer",
        "runtime": "onnx",
        "init-sha256": hashlib.sha256(init.getvalue()).hexdigest(),
        "ticket": "12",
        "steps": "2",
        "seed": "5",
        "size": "64x64",
    }
    assert {key: record.get(key) for key in expected} == expected
    assert "component-runtime" not in record


def test_record_without_init_image_has_no_digest(worker, tmp_path):
    path = tmp_path / "out.png"
    path.write_bytes(worker.run_job(Job(Request("a lake", "64x64")))[0])
    assert "init-sha256" not in read_record(path)


@pytest.mark.parametrize("side", [1, 3, 8, 16])
def test_average_is_that_of_torch(side):
    """Values of torch.nn.functional.adaptive_avg_pool2d, by its definition, cell by cell."""
    latents = np.random.default_rng(7).standard_normal((2, 4, 10, 13)).astype(np.float32)
    pooled = average_to(latents, side)
    assert pooled.shape == (2, 4, side, side)
    for row, column in np.ndindex(side, side):
        top, left = row * 10 // side, column * 13 // side
        bottom, right = -(-(row + 1) * 10 // side), -(-(column + 1) * 13 // side)
        cell = latents[:, :, top:bottom, left:right].astype(np.float64).mean((2, 3))
        np.testing.assert_allclose(pooled[:, :, row, column], cell, atol=1e-6)


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
    model = tmp_path / "model"
    model.symlink_to(lcmcore.demo_dir())
    choice = {"default": "auto", "vae_encoder": "onnx"}
    path = tmp_path / "out.png"
    with PipelineWorker("a", model, choice, threads=1) as worker:
        path.write_bytes(worker.run_job(Job(Request("a lake", "64x64"), photo_bytes))[0])
    command = list(describe(path))[-1]
    digest = model_digest(model, None, None)
    words = f"--model={model} --model-digest={digest} --component-runtime=vae_encoder=onnx "
    assert words in command


def test_missing_model():
    with pytest.raises(lcmcore.BundleError, match="no model directory"):
        PipelineWorker(0, "/nowhere")


def test_one_worker_serves_several_threads(worker, photo_bytes):
    jobs = [Job(Request("a lake", "64x64", 2, seed=seed), photo_bytes) for seed in range(6)]
    alone = [worker.run_job(job) for job in jobs]
    with ThreadPoolExecutor(3) as executor:
        assert list(executor.map(worker.run_job, jobs)) == alone

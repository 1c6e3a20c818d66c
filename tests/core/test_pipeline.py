"""The whole path, over functions in place of networks and over the demo model."""

import json
import math
import re
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import lcmcore
from lcmcore import ArgumentError, Cancelled, ImageError, LcmError, NetworkError
from lcmcore.fake import FakeRuntime, _embed, _enlarge, _shrink
from lcmcore.image import fit_image
from lcmcore.noise import TorchGenerator
from tests.parity.bundles import assemble

PROMPT = "a snowy lake at night"


def same(one, other):
    np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


def test_a_call_and_its_result(demo, photo):
    result = demo(PROMPT, photo, seed=7)
    assert [image.size for image in result.images] == [(96, 64)]
    assert result.seeds == [7]
    assert result.latents.shape == (1, 4, 8, 12)
    assert list(result.timings) == ["load", "text_encoder", "vae_encoder", "unet", "vae_decoder"]
    assert all(seconds >= 0 for seconds in result.timings.values())


def test_the_seconds_of_each_stage(fake, photo, monkeypatch):
    """By a clock that only the networks move, and that has run before."""
    clock = [1000.0]
    monkeypatch.setattr("lcmcore.pipeline.time", SimpleNamespace(perf_counter=lambda: clock[0]))

    def taking(seconds, function):
        def run(**inputs):
            clock[0] += seconds
            return function(**inputs)

        return run

    pipe = fake(
        text_encoder=taking(1, _embed),
        vae_encoder=taking(2, _shrink),
        unet=taking(4, lambda sample, **_: sample),
        vae_decoder=taking(32, _enlarge),
    )
    arguments = {"num_inference_steps": 4, "strength": 0.5}
    first = {"load": 0, "text_encoder": 1, "vae_encoder": 2, "unet": 8, "vae_decoder": 32}
    assert pipe(PROMPT, photo, **arguments).timings == first
    again = {"load": 0, "text_encoder": 0, "vae_encoder": 0, "unet": 8, "vae_decoder": 32}
    assert pipe(PROMPT, photo, **arguments).timings == again


def test_seeds_reproduce_an_image(demo, photo):
    first, again = (demo(PROMPT, photo, seed=2**64 - 1) for _ in range(2))
    same(first.images[0], again.images[0])
    drawn = demo(PROMPT, photo)
    same(drawn.images[0], demo(PROMPT, photo, seed=drawn.seeds[0]).images[0])
    assert demo(PROMPT, photo).seeds != drawn.seeds


@pytest.mark.parametrize("sampling", ["mean", "sample"])
def test_each_image_of_a_batch_can_be_generated_alone(sampling, fake, photo):
    prompts, images = ["a lake", "a hill"], [photo, photo.rotate(180)]
    pipe = fake(
        unet=lambda sample, encoder_hidden_states, **_: sample / 2 + _mean(encoder_hidden_states)
    )
    options = {"latent_sampling": sampling, "width": 96, "height": 64}
    batch = pipe(prompts, images, num_images_per_prompt=2, seed=10, **options)
    assert batch.seeds == [10, 11, 12, 13]
    for index, (image, seed) in enumerate(zip(batch.images, batch.seeds, strict=True)):
        alone = pipe(prompts[index // 2], images[index // 2], seed=seed, **options)
        same(alone.images[0], image)
    assert len({image.tobytes() for image in batch.images}) == 4


def _mean(embeds):
    return embeds.mean(axis=(1, 2)).reshape(-1, 1, 1, 1).astype(np.float32)


def test_a_batch_of_the_demo_model_equals_single_calls(demo, photo):
    batch = demo([PROMPT, "a green hill"], photo, seed=[5, 3], output_type="np")
    alone = demo("a green hill", photo, seed=3, output_type="np")
    np.testing.assert_allclose(batch.images[1:], alone.images, atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"prompt": ["a", "b"], "image": 3}, "2 prompts do not match a batch of 3"),
        ({"prompt": ["a", "b"], "seed": [1]}, "1 seeds do not match 2 images"),
        ({"prompt": ["a", "b"], "negative_prompt": ["c"] * 3}, "do not match a batch of 3"),
        ({"prompt": ["a"] * 1025}, "the number of images must be from 1 to 1024"),
    ],
)
def test_batches_of_different_sizes(arguments, words, fake, photo):
    if "image" in arguments:
        arguments = {**arguments, "image": [photo] * arguments["image"]}
    with pytest.raises(ArgumentError, match=words):
        fake(guidance=False)(**arguments)


def test_output_types(fake, photo):
    pil, floats, latents = (
        fake()(PROMPT, photo, seed=1, output_type=kind).images for kind in ("pil", "np", "latent")
    )
    assert floats.shape == (1, 64, 96, 3)
    assert floats.dtype == np.float32
    same(pil[0], (floats[0] * 255).round())
    assert latents.shape == (1, 4, 8, 12)


def test_strength_0_returns_the_image_through_the_vae(fake, photo):
    def unet(**_):
        raise AssertionError("no step was to be run")

    result = fake(unet=unet)(PROMPT, photo, strength=0, output_type="np")
    cells = np.asarray(photo, np.float32).reshape(8, 8, 12, 8, 3).mean(axis=(1, 3)) / 255
    np.testing.assert_allclose(result.images[0][::8, ::8], cells, atol=1e-5)
    np.testing.assert_allclose(result.images[0][7::8, 7::8], cells, atol=1e-5)


def test_given_latents_replace_the_noise(fake, photo):
    latents = np.random.default_rng(0).normal(size=(1, 4, 8, 12)).astype(np.float32)
    start = {}

    def unet(sample, **_):
        start.setdefault("sample", sample.copy())
        return np.zeros_like(sample)

    for image in (None, photo):
        start.clear()
        before = latents.copy()
        fake(unet=unet)(PROMPT, image, seed=1, width=96, height=64, latents=latents)
        same(start["sample"], latents)
        same(latents, before)


def test_given_embeddings_replace_the_prompt(fake):
    def text_encoder(**_):
        raise AssertionError("the text encoder was not to be run")

    embeds = fake().encode_prompt(PROMPT)
    unet = {
        "unet": lambda sample, encoder_hidden_states, **_: sample * _mean(encoder_hidden_states)
    }
    expected = fake(**unet)(PROMPT, seed=1)
    same(
        fake(**unet, text_encoder=text_encoder)(prompt_embeds=embeds, seed=1).latents,
        expected.latents,
    )


def test_editing_the_latents_in_place_leaves_denoised_alone(fake):
    kept = []

    def callback(pipe, step, timestep, tensors):
        before = tensors["denoised"].copy()
        tensors["latents"][:] = 7
        kept.append((before, tensors["denoised"]))

    result = fake()(PROMPT, seed=1, num_inference_steps=2, callback_on_step_end=callback)
    assert (result.latents == 7).all()
    for before, after in kept:
        np.testing.assert_array_equal(before, after)
        assert not (after == 7).any()


def test_settings_have_every_default_and_reproduce_the_image(fake, photo):
    pipe = fake()
    first = pipe(PROMPT, photo, seed=1)
    assert first.settings == {
        "num_inference_steps": 4,
        "original_inference_steps": 50,
        "guidance_scale": pipe.default_guidance_scale,
        "negative_prompt": None,
        "num_images_per_prompt": 1,
        "width": 96,
        "height": 64,
        "strength": 0.75,
        "strength_mode": "truncate",
        "latent_sampling": "mean",
        "fit": "stretch",
    }
    again = pipe(PROMPT, photo, seed=1, **first.settings)
    np.testing.assert_array_equal(first.latents, again.latents)
    assert again.settings == first.settings


@pytest.mark.parametrize(
    "asked",
    [
        {"num_images_per_prompt": 3},
        {"num_inference_steps": np.int64(2), "strength": np.float32(0.5)},
        {"width": np.int64(64), "original_inference_steps": 25},
        {"negative_prompt": ["blurred", "dark"], "guidance_scale": 3},
    ],
    ids=str,
)
def test_settings_of_any_call_make_its_images_again(asked, fake, photo):
    pipe = fake(guidance=False)
    first = pipe([PROMPT, "a hill"], photo, **asked)
    settings = json.loads(json.dumps(first.settings))
    again = pipe([PROMPT, "a hill"], photo, seed=first.seeds, **settings)
    np.testing.assert_array_equal(first.latents, again.latents)
    assert again.settings == first.settings


def test_a_size_far_above_the_trained_one_is_warned_of_once(fake, photo, caplog):
    pipe = fake()
    large = {"width": 512, "height": 512, "num_inference_steps": 1}
    pipe(PROMPT, photo, strength=0.4, **large)
    assert not caplog.messages
    for _ in range(2):
        pipe(PROMPT, **large)
    pipe(PROMPT, photo, **large)
    assert [text.partition(":")[0] for text in caplog.messages] == [
        "size 512x512 is more than 2 times the area that the model was trained for, 256x256"
    ]


def test_settings_hold_no_list_of_the_caller(fake):
    negative = ["blurred"]
    result = fake(guidance=False)(PROMPT, negative_prompt=negative, seed=1)
    negative.append("dark")
    assert result.settings["negative_prompt"] == ["blurred"]


def test_settings_are_what_was_asked_for(fake, photo):
    asked = {"num_inference_steps": 8, "guidance_scale": 2, "width": 64, "height": 128}
    image = {
        "strength": 0.5,
        "strength_mode": "rescale",
        "latent_sampling": "sample",
        "fit": "cover",
    }
    assert fake()(PROMPT, photo, **asked, **image).settings.items() >= {**asked, **image}.items()
    without = fake()(PROMPT, **asked, **image).settings
    assert without.items() >= asked.items()
    assert not without.keys() & image.keys()  # there is no init image for them


def test_a_callback_sees_each_step_and_can_change_it(fake):
    reported = []

    def callback(pipe, step, timestep, arrays):
        reported.append((step, timestep, sorted(arrays)))
        assert arrays["timesteps"].tolist() == [999, 759, 499, 259]
        if step == 1:
            return {"latents": np.full_like(arrays["latents"], 0.5)}
        return None

    seen = []

    def unet(sample, **_):
        seen.append(sample.copy())
        return np.zeros_like(sample)

    fake(unet=unet)(PROMPT, seed=1, callback_on_step_end=callback)
    assert reported == [
        (step, timestep, ["denoised", "latents", "timesteps"])
        for step, timestep in enumerate([999, 759, 499, 259])
    ]
    assert (seen[2] == 0.5).all()
    assert not (seen[1] == 0.5).any()


def test_a_callback_of_the_last_step_changes_what_is_decoded(fake):
    def callback(pipe, step, timestep, arrays):
        return {"latents": np.zeros_like(arrays["latents"])} if timestep == 259 else None

    images = fake()(PROMPT, seed=1, callback_on_step_end=callback, output_type="np").images
    assert (images == 0.5).all()


def test_a_callback_can_cancel(fake):
    steps = []

    def callback(pipe, step, *_):
        steps.append(step)
        return step != 1

    with pytest.raises(Cancelled, match="after step 2"):
        fake()(PROMPT, callback_on_step_end=callback)
    assert steps == [0, 1]


def test_a_callbacks_own_error_passes_through(fake):
    def callback(*_):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        fake()(PROMPT, callback_on_step_end=callback)


def test_guidance_without_its_input_takes_two_passes(fake):
    """Classifier-free: negative + scale * (positive - negative)."""
    batches = []

    def unet(sample, timestep, encoder_hidden_states):
        batches.append(len(sample))
        return np.ones_like(sample) * _mean(encoder_hidden_states)

    pipe = fake(unet=unet, guidance=False)
    sample = np.zeros((1, 4, 8, 8), np.float32)
    positive, negative = pipe.encode_prompt("a lake"), pipe.encode_prompt("blurry")
    steps = pipe.denoise(sample, np.array([999]), positive, 3.0, [TorchGenerator(0)], negative)
    output = _mean(negative) + 3 * (_mean(positive) - _mean(negative)) + sample
    expected, _ = pipe.scheduler.step(output, 999, None, sample, None)
    np.testing.assert_allclose(next(steps).denoised, expected, rtol=1e-4)
    assert batches == [2]

    batches.clear()
    arguments = {"seed": 1, "guidance_scale": 3.0, "width": 64, "height": 64}
    guided = pipe("a lake", negative_prompt="blurry", **arguments)
    assert batches == [2] * 4
    assert (guided.latents != pipe("a lake", **arguments).latents).any()
    batches.clear()
    pipe("a lake", guidance_scale=1.0, width=64, height=64)
    assert batches == [1] * 4


def test_a_negative_prompt_is_refused_where_it_has_no_effect(fake):
    with pytest.raises(ArgumentError, match=r"negative_prompt has no effect here: .*timestep_cond"):
        fake()(PROMPT, negative_prompt="blurry")


def test_the_models_defaults(fake, configs):
    (configs / "lcm.toml").write_text("[defaults]\nnum_inference_steps = 2\nguidance_scale = 3.0")
    steps = []
    pipe = fake(configs)
    pipe(PROMPT, callback_on_step_end=lambda _, __, timestep, ___: steps.append(timestep))
    assert steps == [999, 499]
    assert pipe.default_guidance_scale == 3.0
    (configs / "lcm.toml").unlink()
    assert (fake(configs).default_steps, fake(configs).default_guidance_scale) == (4, 8.5)
    assert fake(configs, guidance=False).default_guidance_scale == 1.0


def test_without_a_vae_encoder_only_img2img_fails(tmp_path, photo):
    model = assemble("lcm", tmp_path / "model")
    (model / "vae_encoder" / "model.onnx").unlink()
    with lcmcore.load(model) as pipe:
        assert pipe(PROMPT, width=64, height=64).images[0].size == (64, 64)
        with pytest.raises(NetworkError) as caught:
            pipe(PROMPT, photo)
    message = str(caught.value)
    assert message.startswith("vae_encoder: no model.onnx")
    assert str(model / "vae_encoder") in message
    assert "only text-to-image" in message


@pytest.mark.parametrize("component", ["text_encoder", "unet", "vae_decoder"])
def test_without_another_network_the_model_does_not_open(component, model):
    (model / component / "model.onnx").unlink()
    with pytest.raises(NetworkError, match=f"^{component}: no model.onnx.* in .*{component}"):
        lcmcore.load(model)


def test_a_broken_network_is_reported_before_it_runs(model):
    """It is opened while others work; so a long run need not be waited for."""
    (model / "vae_decoder" / "model.onnx").unlink()
    (model / "vae_decoder" / "model.onnx").write_bytes(b"no model")
    steps = []

    def slow_step(*_):
        steps.append(1)
        time.sleep(0.2)

    with (
        lcmcore.load(model) as pipe,
        pytest.raises(NetworkError, match=r"^vae_decoder: cannot open"),
    ):
        pipe(PROMPT, num_inference_steps=50, callback_on_step_end=slow_step)
    assert len(steps) < 50


def test_a_network_that_breaks_during_the_steps_is_reported_between_them(configs):
    first_step_done = threading.Event()

    class BrokenDecoder(FakeRuntime):
        def open(self, component, folder, options):
            if component == "vae_decoder":
                first_step_done.wait(60)
                raise NetworkError(component, "cannot open this")
            return super().open(component, folder, options)

    steps = []

    def slow_step(*_):
        steps.append(1)
        first_step_done.set()
        time.sleep(0.2)

    with (
        lcmcore.load(configs, runtime=BrokenDecoder()) as pipe,
        pytest.raises(NetworkError, match=r"^vae_decoder: cannot open this"),
    ):
        pipe(PROMPT, num_inference_steps=50, callback_on_step_end=slow_step)
    assert 1 <= len(steps) < 50


def test_a_closed_pipeline(fake):
    pipe = fake()
    pipe.close()
    pipe.close()
    with pytest.raises(NetworkError, match="the pipeline is closed"):
        pipe(PROMPT)


@pytest.mark.slow
def test_calls_in_parallel_threads_equal_single_calls(demo, photo):
    with lcmcore.load(lcmcore.demo_dir(), runtime="onnx", threads=2) as other:
        jobs = [(demo, 1), (other, 2), (demo, 3), (other, 1)]
        alone = [pipe(PROMPT, photo, seed=seed).images[0].tobytes() for pipe, seed in jobs]
        together = [b""] * len(jobs)

        def run(index):
            pipe, seed = jobs[index]
            together[index] = pipe(PROMPT, photo, seed=seed).images[0].tobytes()

        threads = [threading.Thread(target=run, args=[index]) for index in range(len(jobs))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert together == alone
    assert alone[0] == alone[3]


def test_calls_leave_global_state_alone(demo, photo):
    np.random.seed(0)
    expected = np.random.random(3)
    np.random.seed(0)
    demo(PROMPT, photo, seed=1)
    same(np.random.random(3), expected)


def test_sizes_follow_the_image(fake, photo):
    assert fake()(PROMPT, photo).images[0].size == (96, 64)
    assert fake()(PROMPT, photo, width=64).images[0].size == (64, 64)
    assert fake()(PROMPT, photo.resize((1, 1))).images[0].size == (64, 64)
    assert fake()(PROMPT).images[0].size == (256, 256)
    assert fake(size=(128, 64))(PROMPT, photo).images[0].size == (128, 64)


@pytest.mark.parametrize("fit", ["stretch", "cover", "contain"])
def test_fit(fit, fake, photo):
    pipe = fake()
    fitted = fit_image(photo, (64, 64), fit)
    options = {"seed": 1, "width": 64, "height": 64}
    same(
        pipe(PROMPT, photo, fit=fit, **options).images[0], pipe(PROMPT, fitted, **options).images[0]
    )


def test_the_largest_guidance_scale(fake):
    pipe = fake()
    assert pipe(PROMPT, guidance_scale=100, width=64, height=64, seed=1).images


def test_encode_image_then_decode(fake, photo):
    pipe = fake()
    latents = pipe.encode_image(photo)
    assert latents.shape == (1, 4, 8, 12)
    decoded = pipe.decode(latents)
    np.testing.assert_allclose(
        decoded[0, ::8, ::8], pipe(PROMPT, photo, strength=0, output_type="np").images[0][::8, ::8]
    )
    with pytest.raises(ArgumentError, match="needs generators"):
        pipe.encode_image(photo, latent_sampling="sample")


@pytest.mark.parametrize(("logvar", "clipped"), [(-1000, -30), (-29.5, -29.5), (1000, 20)])
def test_the_log_variance_is_clipped_as_in_diffusers(logvar, clipped, fake, photo):
    """`DiagonalGaussianDistribution` clamps it to [-30, 20]."""

    def encoder(sample):
        moments = np.zeros((1, 8, 8, 12), np.float32)
        moments[:, 4:] = logvar
        return moments

    pipe = fake(vae_encoder=encoder)
    latents = pipe.encode_image(
        photo, (96, 64), latent_sampling="sample", generators=[TorchGenerator(7)]
    )
    noise = TorchGenerator(7).randn((1, 4, 8, 12))
    expected = noise * math.exp(clipped / 2) * pipe.bundle.vae.scaling_factor
    np.testing.assert_allclose(latents, expected, rtol=1e-5)


@pytest.mark.parametrize("channels", [3, 7, 9, 16])
def test_an_encoder_of_another_kind_is_refused(channels, fake, photo, monkeypatch):
    """One whose file leaves the number of channels free, or the check of outputs would say so."""
    pipe = fake()
    moments = np.zeros((1, channels, 8, 12), np.float32)
    monkeypatch.setattr(pipe.networks, "run", lambda component, **inputs: moments)
    with pytest.raises(NetworkError, match=rf"vae_encoder: returned {channels} channels: .*4 or 8"):
        pipe.encode_image(photo, (96, 64))


NAN = float("nan")
CALLS = [
    ({"prompt": None}, "give either a prompt or prompt_embeds"),
    ({"prompt_embeds": np.zeros((1, 77, 16))}, "give either a prompt or prompt_embeds"),
    ({"prompt": 5}, "prompt must be text"),
    ({"prompt": b"a"}, "prompt must be text"),
    ({"prompt": []}, "prompt must be text"),
    ({"prompt": ["a", None]}, "prompt must be text"),
    ({"negative_prompt": 5}, "negative_prompt must be text"),
    ({"image": 5}, "image must be a path"),
    ({"image": []}, "image is an empty list"),
    ({"strength": NAN}, "strength"),
    ({"strength": -0.01}, "strength"),
    ({"strength": 1.01}, "strength"),
    ({"strength": "1"}, "strength"),
    ({"strength": None}, "strength"),
    ({"num_inference_steps": 0}, "num_inference_steps"),
    ({"num_inference_steps": 51}, "num_inference_steps"),
    ({"num_inference_steps": 2.5}, "num_inference_steps"),
    ({"num_inference_steps": 9, "strength": 0.1, "strength_mode": "rescale"}, "leaves 5 of 50"),
    ({"original_inference_steps": 3}, "num_inference_steps must be from 1 to 3"),
    ({"original_inference_steps": "50"}, "original_inference_steps"),
    ({"guidance_scale": NAN}, "guidance_scale"),
    ({"guidance_scale": 100.5}, "guidance_scale must be from 0 to 100, not 100.5"),
    ({"guidance_scale": math.inf}, "guidance_scale"),
    ({"guidance_scale": -1}, "guidance_scale"),
    ({"guidance_scale": "8"}, "guidance_scale"),
    ({"seed": 2**64}, "seed"),
    ({"seed": -(2**63) - 1}, "seed"),
    ({"seed": 1.5}, "seed"),
    ({"seed": "1"}, "seed"),
    ({"seed": [1, "2"]}, "2 seeds do not match 1"),
    ({"seed": ["2"]}, "seed must be a whole number"),
    ({"seed": 2**64 - 1, "num_images_per_prompt": 2}, "seed"),
    ({"width": 100}, "multiples of 8 for this model, e.g. 96x64"),
    ({"height": 0}, "height"),
    ({"height": 64.0}, "height"),
    ({"width": 65536, "height": 65536}, "GiB of memory"),
    ({"num_images_per_prompt": 0}, "num_images_per_prompt"),
    ({"num_images_per_prompt": 2.0}, "num_images_per_prompt"),
    ({"strength_mode": "cut"}, "'truncate' or 'rescale'"),
    ({"latent_sampling": "median"}, "'mean' or 'sample'"),
    ({"fit": "crop"}, "fit"),
    ({"output_type": "pt"}, "'pil' or 'np' or 'latent'"),
    ({"callback_on_step_end": 5}, "callback_on_step_end must be a function"),
    ({"latents": np.zeros((1, 4, 8, 8))}, "latents must be [1, 4, 8, 12], not [1, 4, 8, 8]"),
    ({"latents": np.full((1, 4, 8, 12), NAN)}, "latents holds NaN"),
    ({"latents": np.full((1, 4, 8, 12), 1e39)}, "latents holds NaN or infinity"),  # in float32
    ({"latents": np.zeros((1, 4, 8, 12), complex)}, "array of numbers: found complex128"),
    ({"latents": [["1"]]}, "latents must be an array of numbers"),
    ({"latents": [{}]}, "latents must be an array of numbers"),
    ({"latents": "noise"}, "latents must be an array of numbers"),
    ({"latents": [[1], [1, 2]]}, "latents must be an array of numbers"),
    ({"prompt": None, "prompt_embeds": 5}, "prompt_embeds must be [batch, 77, width], not []"),
    ({"prompt": None, "prompt_embeds": np.zeros((0, 77, 16))}, "0 rows do not match 1 images"),
    ({"prompt": None, "prompt_embeds": np.full((1, 77, 16), NAN)}, "prompt_embeds holds NaN"),
    ({"prompt": None, "prompt_embeds": "x"}, "prompt_embeds must be an array of numbers"),
    ({"prompt": None, "prompt_embeds": np.zeros((1, 77, 16), "c8")}, "found complex64"),
    ({"fit": np.zeros(2)}, "fit must be 'stretch' or 'cover' or 'contain', not array([0., 0.])"),
]


@pytest.mark.parametrize(("arguments", "words"), CALLS)
def test_arguments_that_are_wrong(arguments, words, fake, photo):
    with pytest.raises(ArgumentError) as caught:
        fake()(**{"prompt": "a", "image": photo, **arguments})
    assert words in str(caught.value)
    assert isinstance(caught.value, ValueError)


def test_embeddings_of_another_width_are_an_error_of_the_unet(fake):
    with pytest.raises(
        NetworkError, match=re.escape("unet: input encoder_hidden_states [1, 77, 8] float32")
    ):
        fake()(prompt_embeds=np.zeros((1, 77, 8)))


def test_a_callback_that_returns_nonsense(fake):
    for latents in (np.zeros(3), "x", np.full((1, 4, 32, 32), NAN)):
        with pytest.raises(ArgumentError, match="latents"):
            fake()("a", callback_on_step_end=lambda *_, given=latents: {"latents": given})


def test_images_that_cannot_be_read(fake, tmp_path):
    (tmp_path / "text.png").write_text("Dear diary,")
    for source in (tmp_path / "text.png", str(tmp_path), b"", Image.new("RGB", (0, 5))):
        with pytest.raises(ImageError):
            fake()("a", source)


def test_every_error_is_an_lcm_error():
    for name in lcmcore.__all__:
        kind = getattr(lcmcore, name)
        if isinstance(kind, type) and issubclass(kind, Exception):
            assert issubclass(kind, LcmError)


def test_the_runtime_of_each_network_that_the_call_needed(fake, photo):
    pipe = fake()
    from_image = pipe("a lake", photo, strength=0, num_inference_steps=1, seed=1)
    assert from_image.runtimes == dict.fromkeys(
        ["text_encoder", "vae_encoder", "vae_decoder"], "fake"
    )
    latents = pipe("a lake", seed=1, num_inference_steps=1, output_type="latent")
    assert latents.runtimes == dict.fromkeys(["text_encoder", "unet"], "fake")

"""Results of the encoders are kept for the next call, and found for equal inputs only."""

import numpy as np
import pytest

from lcmcore import NetworkError
from lcmcore.encoder_cache import EncoderCache
from lcmcore.fake import _embed, _enlarge, _shrink

PROMPT = "a snowy lake at night"


@pytest.fixture
def counted(fake):
    """A fake pipeline, and how often each of its encoders ran."""
    runs = {"text_encoder": 0, "vae_encoder": 0}

    def text_encoder(input_ids):
        runs["text_encoder"] += 1
        return _embed(input_ids)

    def vae_encoder(sample):
        runs["vae_encoder"] += 1
        moments = _shrink(sample)
        moments[:, 4:] = -2  # a deviation that a sample shows
        return moments

    def unet(sample, encoder_hidden_states, **_):
        return sample / 2 + encoder_hidden_states.mean(axis=(1, 2)).reshape(-1, 1, 1, 1)

    def make(**options):
        encoders = {"text_encoder": text_encoder, "vae_encoder": vae_encoder}
        return fake(**{**encoders, "unet": unet, "vae_decoder": _enlarge}, **options), runs

    return make


def same(one, other):
    np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 2},
        {"strength": 0.4},
        {"strength_mode": "rescale"},
        {"num_inference_steps": 8},
        {"guidance_scale": 2.0},
        {"latent_sampling": "sample"},
        {"num_images_per_prompt": 3},
        {"fit": "cover"},  # of an image that has the size already
    ],
)
def test_same_prompt_and_image_run_no_encoder(change, counted, photo):
    pipe, runs = counted()
    pipe(PROMPT, photo, seed=1)
    changed = pipe(PROMPT, photo, **{"seed": 1, **change})
    assert runs == {"text_encoder": 1, "vae_encoder": 1}
    same(changed.latents, counted()[0](PROMPT, photo, **{"seed": 1, **change}).latents)


@pytest.mark.parametrize(
    ("change", "ran"),
    [
        ({"prompt": "a hill"}, (2, 1)),
        ({"prompt": [PROMPT, "a hill"]}, (2, 1)),
        ({"prompt": [PROMPT, PROMPT]}, (2, 1)),
        ({"width": 64}, (1, 2)),
        ({"image": None}, (1, 1)),
        ({"image": "turned"}, (1, 2)),
        ({"image": "a pixel"}, (1, 2)),
    ],
)
def test_another_prompt_or_image_is_encoded(change, ran, counted, photo):
    pixel = photo.copy()
    pixel.putpixel((95, 63), (1, 2, 3))
    images = {"turned": photo.rotate(180), "a pixel": pixel, None: None}
    pipe, runs = counted()
    pipe(PROMPT, photo, seed=1)
    call = {"prompt": PROMPT, "image": photo, **change}
    call["image"] = images.get(change.get("image"), photo) if "image" in change else photo
    changed = pipe(**call, seed=1)
    assert (runs["text_encoder"], runs["vae_encoder"]) == ran
    same(changed.latents, counted()[0](**call, seed=1).latents)


def test_a_latent_sample_of_kept_moments_follows_its_seed(counted, photo):
    pipe, runs = counted()
    drawn = [
        pipe(PROMPT, photo, strength=0, latent_sampling="sample", seed=seed).latents
        for seed in (1, 2, 1)
    ]
    same(drawn[0], drawn[2])
    assert np.abs(drawn[0] - drawn[1]).max() > 0.01
    assert runs["vae_encoder"] == 1


def test_both_prompts_of_a_guided_call_are_kept(counted):
    pipe, runs = counted(guidance=False)
    for seed in (1, 2):
        pipe(PROMPT, negative_prompt="blurred", guidance_scale=3.0, seed=seed)
    assert runs["text_encoder"] == 2


def test_a_network_of_one_item_runs_for_each_item_once(counted, photo):
    pipe, runs = counted(batch=1)
    for seed in (1, 2):
        pipe(["a", "b", "c"], [photo, photo.rotate(180), photo], seed=seed)
    assert runs == {"text_encoder": 3, "vae_encoder": 3}


def test_callers_cannot_change_kept_results(counted):
    pipe, runs = counted()
    before = pipe.encode_prompt(PROMPT).copy()
    for _ in range(2):  # the first is fresh, the second kept
        pipe.encode_prompt(PROMPT)[:] = 0
    same(pipe.encode_prompt(PROMPT), before)
    assert runs["text_encoder"] == 1


def test_a_buffer_that_a_runtime_reuses_is_copied(fake):
    buffer = np.zeros((1, 77, 16), np.float32)

    def text_encoder(input_ids):
        buffer[:] = _embed(input_ids)
        return buffer

    pipe = fake(text_encoder=text_encoder)
    first = pipe.encode_prompt("a lake").copy()
    pipe.encode_prompt("a hill")
    same(pipe.encode_prompt("a lake"), first)


def test_a_failure_is_not_kept(fake):
    answers = [ZeroDivisionError, None]

    def text_encoder(input_ids):
        if answers.pop(0):
            raise ZeroDivisionError
        return _embed(input_ids)

    pipe = fake(text_encoder=text_encoder)
    with pytest.raises(NetworkError):
        pipe.encode_prompt(PROMPT)
    assert pipe.encode_prompt(PROMPT).any()


def test_closing_drops_kept_results(counted):
    pipe, _ = counted()
    pipe.encode_prompt(PROMPT)
    pipe.close()
    with pytest.raises(NetworkError, match="text_encoder: the pipeline is closed"):
        pipe.encode_prompt(PROMPT)


def test_the_least_recently_used_result_is_dropped():
    kept, made = EncoderCache(), []

    def get(number):
        def make():
            made.append(number)
            return np.full(1, number, np.float32)

        return kept.get("text_encoder", np.array([number]), make)[0]

    for number in (*range(8), 0, 8, 0, 1):  # 8 takes the place of 1, used before 0 was again
        assert get(number) == number
    assert made == [*range(9), 1]


@pytest.mark.parametrize(
    ("component", "asked"),
    [
        ("vae_encoder", np.zeros((2, 3), np.float32)),
        ("text_encoder", np.zeros((3, 2), np.float32)),
        ("text_encoder", np.zeros((2, 3), np.int32)),
        ("text_encoder", np.full((2, 3), -0.0, np.float32)),
    ],
)
def test_similar_inputs_are_kept_apart(component, asked):
    kept = EncoderCache()
    kept.get("text_encoder", np.zeros((2, 3), np.float32), lambda: np.zeros(1))
    assert kept.get(component, asked, lambda: np.ones(1))[0] == 1


@pytest.mark.parametrize(("size", "runs"), [(2**21, 1), (2**21 + 1, 2)])
def test_results_of_a_huge_batch_are_not_kept(size, runs):
    kept, made = EncoderCache(), []

    def make():
        made.append(1)
        return np.zeros(size, np.float32)

    for _ in range(2):
        kept.get("text_encoder", np.zeros((1, 77)), make)
    assert len(made) == runs

"""What a call repaints, over functions in place of networks; against diffusers: tests/parity."""

import numpy as np
import pytest
from PIL import Image

from lcmcore import ArgumentError
from lcmcore.image import fit_image
from lcmcore.inpaint import crop_box
from lcmcore.noise import TorchGenerator

PROMPT = "a lake"
OPTIONS = {"seed": 7, "width": 96, "height": 64}


@pytest.fixture
def pipe(fake):
    """Its UNet predicts what is not there: whatever is repainted differs from the init image."""
    return fake(unet=lambda sample, **_: sample / 3 + 1)


@pytest.fixture
def mask():
    """Hard, of the photo's size: its right half is white."""
    mask = Image.new("L", (96, 64))
    mask.paste(255, (48, 0, 96, 64))
    return mask


def pixels(image):
    return np.asarray(image).astype(int)


@pytest.mark.parametrize("fit", ["stretch", "cover", "contain"])
def test_what_is_black_keeps_the_pixels_of_the_init_image(fit, pipe, photo, mask):
    made = pipe(PROMPT, photo, mask_image=mask, fit=fit, **{**OPTIONS, "width": 64}).images[0]
    kept = np.asarray(fit_image(mask, (64, 64), fit)) == 0
    init = pixels(fit_image(photo, (64, 64), fit))
    np.testing.assert_array_equal(pixels(made)[kept], init[kept])
    assert np.abs(pixels(made) - init)[~kept].mean() > 10


def test_what_is_grey_is_a_blend(pipe, photo):
    soft = Image.linear_gradient("L").resize((96, 64))
    blended, painted = (
        pipe(PROMPT, photo, mask_image=soft, output_type="np", overlay=overlay, **OPTIONS).images[0]
        for overlay in (True, False)
    )
    init = np.asarray(fit_image(photo, (96, 64))) / 255
    share = np.asarray(soft)[..., None] / 255
    np.testing.assert_allclose(blended, share * painted + (1 - share) * init, atol=1e-6)


def test_steps_keep_the_latents_of_the_init_image(pipe, photo, mask):
    clean = pipe.encode_image(photo, (96, 64))
    noise = []

    def see(_pipe, step, _timestep, tensors):
        kept = tensors["latents"][..., :6], clean[..., :6]
        np.testing.assert_array_equal(tensors["denoised"][..., :6], kept[1])
        assert np.abs(tensors["denoised"] - clean)[..., 6:].min() > 0
        following = tensors["timesteps"][step + 1 :]
        if len(following):
            alpha = pipe.scheduler.alphas_cumprod[following[0]]
            noise.append((kept[0] - np.sqrt(alpha) * kept[1]) / np.sqrt(1 - alpha))
        else:
            np.testing.assert_array_equal(*kept)

    pipe(PROMPT, photo, mask_image=mask, callback_on_step_end=see, **OPTIONS)
    assert len(noise) == 2
    np.testing.assert_allclose(noise[0], noise[1], atol=1e-5)  # it is one noise for all steps


@pytest.mark.parametrize("sampling", ["mean", "sample"])
@pytest.mark.parametrize("crop", [None, 4])
def test_each_image_of_a_batch_can_be_generated_alone(sampling, crop, pipe, photo, mask):
    """Also those of one init image: diffusers samples its latents by the first generator alone."""
    masks = [mask, mask.rotate(180).resize((50, 40))]
    options = {**OPTIONS, "latent_sampling": sampling, "padding_mask_crop": crop}
    batch = pipe(
        PROMPT, photo, mask_image=masks, num_images_per_prompt=2, **{**options, "seed": 10}
    )
    for index, (image, seed) in enumerate(zip(batch.images, batch.seeds, strict=True)):
        call = {**options, "seed": seed, "mask_image": masks[index // 2]}
        np.testing.assert_array_equal(pixels(pipe(PROMPT, photo, **call).images[0]), pixels(image))
    assert (pixels(batch.images[0]) != pixels(batch.images[2])).any()


def test_a_crop_has_the_size_of_the_init_image_and_the_model_paints_at_its_own(pipe, mask):
    photo = Image.effect_noise((960, 640), 40).convert("RGB")
    result = pipe(PROMPT, photo, mask_image=mask, padding_mask_crop=8, seed=1)
    native = pipe.sizes.native
    assert result.images[0].size == photo.size
    assert result.latents.shape[2:] == (native // 8, native // 8)
    assert (result.settings["width"], result.settings["height"]) == (native, native)
    np.testing.assert_array_equal(pixels(result.images[0])[:, :400], pixels(photo)[:, :400])


def test_a_masked_image_larger_than_the_trained_size_keeps_its_own(pipe):
    wide = Image.effect_noise((384, 256), 40).convert("RGB")
    mask = Image.new("L", wide.size)
    made = pipe(PROMPT, wide, mask_image=mask, seed=1).images[0]
    np.testing.assert_array_equal(pixels(made), pixels(wide))


def test_settings_make_the_image_again(pipe, photo, mask):
    first = pipe(PROMPT, photo, mask_image=mask, padding_mask_crop=np.int64(3))
    assert first.settings["padding_mask_crop"] == 3
    again = pipe(PROMPT, photo, seed=first.seeds, mask_image=mask, **first.settings)
    np.testing.assert_array_equal(first.latents, again.latents)
    assert again.settings == first.settings
    assert "overlay" not in pipe(PROMPT, photo).settings


def test_latents_are_start_and_noise(pipe, photo, mask):
    """As in diffusers; those that the seed would draw make no difference at strength 1."""
    noise = TorchGenerator(7).randn((4, 8, 12))[None]
    call = {**OPTIONS, "strength": 1.0, "num_inference_steps": 1, "mask_image": mask}
    drawn, given = (pipe(PROMPT, photo, latents=each, **call) for each in (None, noise))
    np.testing.assert_array_equal(drawn.latents, given.latents)
    kept = []

    def see(_pipe, _step, _timestep, tensors):
        kept.append(tensors["latents"][..., :6].copy())

    two = {**call, "num_inference_steps": 2, "callback_on_step_end": see}
    pipe(PROMPT, photo, latents=noise, **two)
    second = pipe.scheduler.schedule(2)[1]
    expected = pipe.scheduler.add_noise(pipe.encode_image(photo, (96, 64)), noise, second)
    np.testing.assert_array_equal(kept[0], expected[..., :6])


def test_strength_0_paints_nothing(pipe, photo, mask):
    result = pipe(PROMPT, photo, strength=0, mask_image=mask, **OPTIONS)
    np.testing.assert_array_equal(result.latents, pipe.encode_image(photo, (96, 64)))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"padding_mask_crop": 4}, "padding_mask_crop needs a mask_image"),
        ({"mask_image": True, "padding_mask_crop": -1}, "padding_mask_crop must be from 0 to"),
        ({"mask_image": True, "padding_mask_crop": 4, "overlay": False}, "padding_mask_crop lays"),
        (
            {"mask_image": True, "padding_mask_crop": 4, "output_type": "np"},
            "padding_mask_crop gives images of the init images' sizes",
        ),
        ({"mask_image": True, "overlay": "no"}, "overlay must be False or True, not 'no'"),
        ({"mask_image": True, "image": None}, "mask_image needs an image"),
        ({"mask_image": [True] * 3, "prompt": ["a", "b"]}, "2 prompts do not match a batch of 3"),
        ({"mask_image": "none.png"}, "none.png: no such file"),
    ],
)
def test_what_cannot_be_repainted(options, words, pipe, photo, mask):
    """True stands for the mask."""
    given = options.get("mask_image")
    if given is True:
        options = {**options, "mask_image": mask}
    elif isinstance(given, list):
        options = {**options, "mask_image": [mask] * len(given)}
    with pytest.raises(Exception, match=f"^{words}"):
        pipe(**{"prompt": PROMPT, "image": photo, **OPTIONS, **options})


def test_a_black_mask_has_no_surroundings(pipe, photo):
    black = Image.new("L", (96, 64))
    with pytest.raises(ArgumentError, match=r"^mask_image is black everywhere"):
        pipe(PROMPT, photo, mask_image=black, padding_mask_crop=4, **OPTIONS)


def test_a_box_fits_within_the_mask_whatever_its_shape():
    """No outer reference: diffusers' boxes are compared through its images, in tests/parity."""
    chance = np.random.default_rng(1)
    for _ in range(200):
        width, height = chance.integers(1, 90, 2).tolist()
        left, top = chance.integers(0, [width, height]).tolist()
        right, bottom = chance.integers([left, top], [width, height]).tolist()
        mask = Image.new("L", (width, height))
        mask.paste(1, (left, top, right + 1, bottom + 1))
        size = tuple(chance.integers(8, 512, 2).tolist())
        box = crop_box(mask, size, int(chance.integers(0, 20)))
        assert 0 <= box[0] <= left
        assert 0 <= box[1] <= top
        assert right < box[2] <= width
        assert bottom < box[3] <= height

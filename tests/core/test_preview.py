"""Previews beside what the VAE decodes of the same latents, and the file in which a map is kept."""

import json

import numpy as np
import pytest

from lcmcore.preview import colours_of, fit_colours, preview
from lcmcore.util.private_folder import cache_folder

FACTOR = 8


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("LCM_CACHE", str(tmp_path / "cache"))
    return cache_folder("previews")


@pytest.fixture
def fits(monkeypatch):
    """How often a map is fitted."""
    made = []

    def counting(pipe):
        made.append(pipe)
        return fit_colours(pipe)

    monkeypatch.setattr("lcmcore.preview.fit_colours", counting)
    return made


def shrunk(image):
    """The mean of each 8x8 pixels."""
    height, width = image.shape[0] // FACTOR, image.shape[1] // FACTOR
    return image.reshape(height, FACTOR, width, FACTOR, 3).mean((1, 3))


@pytest.mark.parametrize("prompt", ["a snowy lake at night", "a desert with a cactus at noon"])
def test_a_preview_is_about_the_decoded_image(demo, prompt):
    """Even the best map for an image itself gives 0.96 here."""
    result = demo(prompt, seed=1, output_type="np")
    seen = preview(result.latents[0], fit_colours(demo)) / 255
    real = shrunk(result.images[0])
    assert np.corrcoef(seen.ravel(), real.ravel())[0, 1] > 0.9
    assert abs(seen - real).mean() < 0.08


def test_a_vae_that_is_linear_is_met_exactly(fake):
    """Decoded by a map that is known, of latents at another size than a square."""
    known = np.array([[0.2, 0.1, 0], [0, 0.1, -0.2], [0.1, 0, 0.1], [0, -0.1, 0], [0, 0.1, -0.1]])

    def decoder(latent_sample):
        rgb = np.einsum("bchw,cd->bdhw", latent_sample, known[:4])
        return (rgb + known[4][:, None, None]).repeat(8, 2).repeat(8, 3).astype(np.float32)

    pipe = fake(vae_decoder=decoder)
    colours = fit_colours(pipe)
    assert pipe.bundle.vae.scaling_factor == 1
    # The decoder's [-1, 1] is [0, 1] in an image.
    np.testing.assert_allclose(colours[:4], known[:4] / 2, atol=1e-4)
    np.testing.assert_allclose(colours[4], known[4] / 2 + 0.5, atol=1e-4)


def test_shape_and_range_of_a_preview():
    latents = np.full((4, 2, 3), 9, np.float32)
    latents[:, 0] = -9
    seen = preview(latents, np.ones((5, 3), np.float32))
    assert seen.dtype == np.uint8
    assert seen.tolist() == [[[0] * 3] * 3, [[255] * 3] * 3]


def test_a_map_is_fitted_once_for_a_model(demo, folder, fits):
    first = colours_of(demo, "one")
    assert np.array_equal(colours_of(demo, "one"), first)
    assert len(fits) == 1
    colours_of(demo, "another")
    assert len(fits) == 2
    assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    "content", ["", "[]", "[[1, 2], [3]]", json.dumps([[float("nan")] * 3] * 5), "[" * 4000, '"x"']
)
def test_a_damaged_file_is_replaced(demo, folder, fits, content):
    first = colours_of(demo, "one")
    (path,) = folder.iterdir()
    path.write_text(content)
    assert np.array_equal(colours_of(demo, "one"), first)
    assert np.array_equal(colours_of(demo, "one"), first)
    assert len(fits) == 2


def test_what_others_could_have_written_is_not_used(demo, folder, fits, caplog):
    first = colours_of(demo, "one")
    (path,) = folder.iterdir()
    path.write_text(json.dumps([[0.5] * 3] * 5))
    path.chmod(0o666)
    assert np.array_equal(colours_of(demo, "one"), first)
    assert "others own it or can write to it" in caplog.text


def test_without_a_cache_a_map_is_fitted_each_time(demo, tmp_path, monkeypatch, fits):
    (tmp_path / "file").touch()
    monkeypatch.setenv("LCM_CACHE", str(tmp_path / "file"))
    assert np.array_equal(colours_of(demo, "one"), colours_of(demo, "one"))
    assert len(fits) == 2

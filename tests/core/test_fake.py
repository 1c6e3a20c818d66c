"""The runtime of functions: what it declares, and what its default functions compute."""

import numpy as np
import pytest

from lcmcore.errors import NetworkError
from lcmcore.fake import FakeRuntime
from lcmcore.runtime import TensorSpec


def opened(component, **arguments):
    return FakeRuntime(**arguments).open(component, None, {})


def float32(name, *shape):
    return TensorSpec(name, shape, "float32")


@pytest.mark.parametrize(
    ("component", "inputs", "output"),
    [
        (
            "text_encoder",
            [TensorSpec("input_ids", (2, 77), "int64")],
            float32("last_hidden_state", 2, 77, 16),
        ),
        (
            "unet",
            [
                float32("sample", 2, 4, 5, 6),
                TensorSpec("timestep", (1,), "int64"),
                float32("encoder_hidden_states", 2, 77, 16),
                float32("timestep_cond", 2, 32),
            ],
            float32("out_sample", 2, 4, 5, 6),
        ),
        (
            "vae_encoder",
            [float32("sample", 2, 3, 40, 48)],
            float32("latent_parameters", 2, 8, 5, 6),
        ),
        ("vae_decoder", [float32("latent_sample", 2, 4, 5, 6)], float32("sample", 2, 3, 40, 48)),
    ],
)
def test_a_size_and_a_batch_fix_the_shapes(component, inputs, output):
    network = opened(component, size=(48, 40), batch=2)
    assert network.inputs == inputs
    assert network.outputs == [output]


def test_without_them_shapes_are_free_and_guidance_can_be_left_out():
    specs = opened("unet", guidance=False).inputs
    assert [spec.name for spec in specs] == ["sample", "timestep", "encoder_hidden_states"]
    assert specs[0].shape == (None, 4, None, None)
    assert opened("vae_encoder").inputs[0].shape == (None, 3, None, None)


def test_the_default_encoder_averages_cells_of_8_by_8():
    image = np.arange(3 * 16 * 8, dtype=np.float32).reshape(1, 3, 16, 8)
    moments = opened("vae_encoder").run({"sample": image})["latent_parameters"]
    assert moments.shape == (1, 8, 2, 1)
    assert moments[0, 0, 0, 0] == image[0, 0, :8].mean()
    assert moments[0, 2, 1, 0] == image[0, 2, 8:].mean()
    assert (moments[:, 3] == 0).all()
    assert (moments[:, 4:] == -30).all()  # the smallest log-variance of a VAE: no deviation


def test_the_default_decoder_enlarges_the_first_three_channels():
    latents = np.arange(4 * 2, dtype=np.float32).reshape(1, 4, 2, 1)
    image = opened("vae_decoder").run({"latent_sample": latents})["sample"]
    assert image.shape == (1, 3, 16, 8)
    assert (image[0, 1, :8] == 2).all()
    assert (image[0, 1, 8:] == 3).all()


def test_the_default_text_encoder_repeats_the_ids_and_the_unet_predicts_no_noise():
    hidden = opened("text_encoder").run({"input_ids": np.array([[7, 2000]])})
    assert hidden["last_hidden_state"].shape == (1, 2, 16)
    assert hidden["last_hidden_state"][0, :, 3] == pytest.approx([0.007, 2])
    noise = opened("unet").run({"sample": np.ones((1, 4, 2, 2))})["out_sample"]
    assert noise.shape == (1, 4, 2, 2)
    assert not noise.any()


def test_a_function_of_the_caller_takes_the_place_of_each():
    for component in ("text_encoder", "unet", "vae_encoder", "vae_decoder"):
        network = opened(component, **{component: lambda x: x + 1})
        (result,) = network.run({"x": np.array([1, 2])}).values()
        assert result.dtype == np.float32
        assert result.tolist() == [2, 3]


def test_its_failure_is_a_network_error():
    with pytest.raises(NetworkError, match="unet: the fake function failed: division by zero"):
        opened("unet", unet=lambda: 1 / 0).run({})


def test_it_is_only_used_where_it_is_passed():
    runtime = FakeRuntime()
    assert (runtime.name, runtime.filename, runtime.available()) == ("fake", "", None)
    assert runtime.priority < 0

"""Inputs and outputs of networks are checked; errors name the network and the tensor."""

import pickle
import re
from types import SimpleNamespace

import numpy as np
import pytest

import lcmcore
from lcmcore import NetworkError
from lcmcore.errors import LcmError
from lcmcore.fake import FakeNetwork, FakeRuntime
from lcmcore.runtime import TensorSpec, check_inputs, check_outputs

SPECS = [TensorSpec("sample", (1, 4, None, 8), "float16"), TensorSpec("timestep", (1,), "int64")]
GOOD = {"sample": np.zeros((1, 4, 3, 8), np.float32), "timestep": np.array([999])}


def test_inputs_that_fit():
    check_inputs("unet", SPECS, GOOD)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"timestep": None}, "unet: input timestep is missing; expected sample, timestep"),
        (
            {"noise": np.zeros(1)},
            "unet: input noise is unexpected; expected sample, timestep",
        ),
        (
            {"sample": np.zeros((2, 4, 3, 8), np.float32)},
            "unet: input sample [2, 4, 3, 8] float32 does not fit:"
            " expected sample [1, 4, ?, 8] float16",
        ),
        (
            {"sample": np.zeros((4, 3, 8), np.float32)},
            "unet: input sample [4, 3, 8] float32 does not fit:"
            " expected sample [1, 4, ?, 8] float16",
        ),
        (
            {"timestep": np.array([0.5])},
            "unet: input timestep [1] float64 does not fit: expected timestep [1] int64",
        ),
    ],
)
def test_inputs_that_do_not_fit(change, message):
    inputs = {name: array for name, array in {**GOOD, **change}.items() if array is not None}
    with pytest.raises(NetworkError) as caught:
        check_inputs("unet", SPECS, inputs)
    assert str(caught.value) == message
    assert caught.value.component == "unet"


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (None, "unet: returned no output sample"),
        ([[1.0]], "unet: returned no output sample"),
        (np.zeros((1, 4, 8), np.float32), "returned sample [1, 4, 8] float32: expected"),
        (np.zeros((1, 4, 3, 8)), "returned sample [1, 4, 3, 8] float64: expected sample"),
        (np.full((1, 4, 3, 8), np.nan, np.float32), "unet: output sample holds NaN or infinity"),
        (np.full((1, 4, 3, 8), np.inf, np.float32), "in half precision: an overflow"),
    ],
)
def test_outputs_that_are_wrong(array, message):
    with pytest.raises(NetworkError, match=re.escape(message)):
        check_outputs("unet", SPECS[:1], {} if array is None else {"sample": array})


COLOUR = np.zeros((1, 3, 64, 64), np.float32)


@pytest.mark.parametrize(
    ("functions", "message"),
    [
        (
            {"text_encoder": lambda input_ids: np.zeros((1, 76, 16))},
            "text_encoder: returned last_hidden_state [1, 76, 16] float32: expected",
        ),
        (
            {"unet": lambda sample, **_: sample[:, :, :4]},
            "unet: returned out_sample [1, 4, 4, 8] float32: expected out_sample [1, 4, 8, 8]",
        ),
        (
            {"unet": lambda sample, **_: np.full_like(sample, np.nan)},
            "unet: output out_sample holds NaN",
        ),
        ({"unet": lambda sample, **_: "hello"}, "unet: the fake function failed: could not"),
        ({"unet": lambda sample, **_: 1 / 0}, "unet: the fake function failed: division by zero"),
        (
            {"vae_encoder": lambda sample: np.zeros((1, 8, 1, 1))},
            "vae_encoder: returned latent_parameters [1, 8, 1, 1] float32:"
            " expected latent_parameters [1, ?, 8, 8] float32",
        ),
        (
            {"vae_decoder": lambda latent_sample: COLOUR[:, :, ::2]},
            "vae_decoder: returned sample [1, 3, 32, 64] float32: expected sample [1, 3, 64, 64]",
        ),
    ],
)
def test_networks_that_return_wrong_outputs(functions, message, fake, photo):
    with pytest.raises(NetworkError, match=re.escape(message)):
        fake(**functions)("a", photo, width=64, height=64)


class Misfit(FakeRuntime):
    """A FakeRuntime whose networks are another's, as when folders were swapped."""

    def __init__(self, **mistaken):
        super().__init__()
        self.mistaken = mistaken

    def open(self, component, folder, options):
        return super().open(self.mistaken.get(component, component), folder, options)


@pytest.mark.parametrize(
    ("component", "other", "takes"),
    [
        ("text_encoder", "unet", "sample [?, 4, ?, ?] float32, timestep [1] int64"),
        ("unet", "text_encoder", "input_ids [?, 77] int64"),
        ("unet", "vae_encoder", "sample [?, 3, ?, ?] float32"),
        ("vae_encoder", "vae_decoder", "latent_sample [?, 4, ?, ?] float32"),
        ("vae_decoder", "vae_encoder", "sample [?, 3, ?, ?] float32"),
    ],
)
def test_swapped_networks(component, other, takes, photo):
    runtime = Misfit(**{component: other})
    with (
        lcmcore.load(lcmcore.demo_dir(), runtime=runtime) as pipe,
        pytest.raises(NetworkError) as caught,
    ):
        pipe("a", photo)
    message = str(caught.value)
    assert message.startswith(f"{component}: the file holds another network: it takes {takes}")


class Bare(FakeRuntime):
    """Networks without any input."""

    def open(self, component, folder, options):
        return FakeNetwork(component, len, [], TensorSpec("out", (1,), "float32"))


def test_a_network_that_follows_no_contract(photo):
    class Untrimmed(FakeRuntime):
        def open(self, component, folder, options):
            network = super().open(component, folder, options)
            return SimpleNamespace(
                inputs=network.inputs, outputs=network.outputs, run=network.run, close=network.close
            )

    with lcmcore.load(lcmcore.demo_dir(), runtime=Untrimmed()) as pipe:
        message = r"runtime 'fake' returned no subclass of lcmcore\.runtime\.Network"
        with pytest.raises(NetworkError, match=message):
            pipe("a lake")


def test_a_network_without_inputs():
    with (
        lcmcore.load(lcmcore.demo_dir(), runtime=Bare()) as pipe,
        pytest.raises(NetworkError, match="the file holds a network without inputs"),
    ):
        pipe("a")


def test_networks_compiled_for_one_item_are_called_for_each(fake):
    seen = []

    def unet(sample, timestep, **_):
        seen.append((len(sample), timestep.tolist()))
        return sample * np.float32(0.5)

    arguments = {"prompt": ["a", "b", "c"], "seed": 1, "num_inference_steps": 2}
    together = fake(unet=lambda sample, **_: sample * np.float32(0.5))(**arguments)
    alone = fake(unet=unet, batch=1)(**arguments)
    assert seen == [(1, [999])] * 3 + [(1, [499])] * 3
    np.testing.assert_array_equal(alone.latents, together.latents)


def test_errors_cross_process_boundaries():
    error = pickle.loads(pickle.dumps(NetworkError("unet", "is gone")))
    assert str(error) == "unet: is gone"
    assert error.component == "unet"
    assert isinstance(error, LcmError)

"""A runtime with functions in place of networks, for tests that need no model file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lcmcore.errors import NetworkError, first_line
from lcmcore.runtime import Network, Runtime, TensorSpec
from lcmcore.util.arrays import Array

Function = Callable[..., Array]

_FACTOR, _LATENT, _TOKENS, _WIDTH, _GUIDANCE = 8, 4, 77, 16, 32


class FakeRuntime(Runtime):
    """Pass it as `runtime`: `lcmcore.load(lcmcore.demo_dir(), runtime=FakeRuntime(unet=my_unet))`.

    A function takes the network's inputs as keywords (`input_ids`; `sample`, `timestep`,
    `encoder_hidden_states`, `timestep_cond`; `sample`; `latent_sample`) and returns its output,
    which is taken as float32.
    The ones that are left out average and enlarge pixels and predict no noise. `size` (width,
    height) and `batch` fix its shapes, as compiled networks have them; `guidance=False` takes
    `timestep_cond` away.
    """

    name = "fake"
    filename = ""
    priority = -1
    options: frozenset[str] = frozenset()

    def __init__(
        self,
        text_encoder: Function | None = None,
        unet: Function | None = None,
        vae_encoder: Function | None = None,
        vae_decoder: Function | None = None,
        size: tuple[int, int] | None = None,
        batch: int | None = None,
        guidance: bool = True,
    ) -> None:
        self._functions = {
            "text_encoder": text_encoder or _embed,
            "unet": unet or _predict_nothing,
            "vae_encoder": vae_encoder or _shrink,
            "vae_decoder": vae_decoder or _enlarge,
        }
        self._specs = _specs(size or (None, None), batch, guidance)

    def available(self) -> None:
        """It always is."""
        return

    def open(self, component: str, folder: Path, options: Mapping[str, Any]) -> FakeNetwork:
        """The function in place of the component; the folder need not exist."""
        inputs, output = self._specs[component]
        return FakeNetwork(component, self._functions[component], inputs, output)


class FakeNetwork(Network):
    """One function as a network."""

    def __init__(
        self, component: str, function: Function, inputs: list[TensorSpec], output: TensorSpec
    ) -> None:
        self._component = component
        self._function = function
        self.inputs = inputs
        self.outputs = [output]

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Call the function; whatever it raises becomes a NetworkError."""
        try:
            return {self.outputs[0].name: np.asarray(self._function(**inputs), np.float32)}
        except Exception as error:
            message = f"the fake function failed: {first_line(error)}"
            raise NetworkError(self._component, message) from error

    def close(self) -> None:
        """Nothing to free."""


def _specs(
    size: tuple[int | None, int | None], batch: int | None, guidance: bool
) -> dict[str, tuple[list[TensorSpec], TensorSpec]]:
    width, height = size
    pixels = (batch, 3, height, width)
    grid = tuple(None if side is None else side // _FACTOR for side in (height, width))
    unet = [
        TensorSpec("sample", (batch, _LATENT, *grid), "float32"),
        TensorSpec("timestep", (1,), "int64"),
        TensorSpec("encoder_hidden_states", (batch, _TOKENS, _WIDTH), "float32"),
    ]
    if guidance:
        unet.append(TensorSpec("timestep_cond", (batch, _GUIDANCE), "float32"))
    return {
        "text_encoder": (
            [TensorSpec("input_ids", (batch, _TOKENS), "int64")],
            TensorSpec("last_hidden_state", (batch, _TOKENS, _WIDTH), "float32"),
        ),
        "unet": (unet, TensorSpec("out_sample", (batch, _LATENT, *grid), "float32")),
        "vae_encoder": (
            [TensorSpec("sample", pixels, "float32")],
            TensorSpec("latent_parameters", (batch, 2 * _LATENT, *grid), "float32"),
        ),
        "vae_decoder": (
            [TensorSpec("latent_sample", (batch, _LATENT, *grid), "float32")],
            TensorSpec("sample", pixels, "float32"),
        ),
    }


def _embed(input_ids: Array) -> Array:
    return np.repeat(input_ids[..., None], _WIDTH, axis=2).astype(np.float32) / 1000


def _predict_nothing(sample: Array, **_: Array) -> Array:
    return np.zeros_like(sample)


def _shrink(sample: Array) -> Array:
    """Each 8x8 cell's colour in the first three latent channels, and no deviation."""
    batch, channels, height, width = sample.shape
    cells = sample.reshape(batch, channels, height // _FACTOR, _FACTOR, width // _FACTOR, _FACTOR)
    moments = np.zeros((batch, 2 * _LATENT, height // _FACTOR, width // _FACTOR), np.float32)
    moments[:, :channels] = cells.mean(axis=(3, 5))
    moments[:, _LATENT:] = -30
    return moments


def _enlarge(latent_sample: Array) -> Array:
    return latent_sample[:, :3].repeat(_FACTOR, axis=2).repeat(_FACTOR, axis=3)

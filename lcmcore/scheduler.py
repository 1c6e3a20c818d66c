"""The Latent Consistency Model schedule and step, stateless.

Luo et al., "Latent Consistency Models" (arXiv:2310.04378); the reference implementation is
diffusers' `LCMScheduler`. All state is in the arguments: one scheduler serves any number of runs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from lcmcore.errors import ArgumentError, BundleError
from lcmcore.util.arrays import Array, Floats, Integers
from lcmcore.util.configfile import read_object
from lcmcore.util.validate import one_of, real_number, shown, whole_number

STRENGTH_MODES = ("truncate", "rescale")  # the first is the default
_SIGMA_DATA = 0.5
_SIGMA_DATA_SQUARED = _SIGMA_DATA**2
# "epsilon" divides by the square root of the signal's share: below this the rounding of a float32
# network grows to the size of an image.
_LEAST_SIGNAL = 2.0**-40
_LARGEST = float(np.finfo(np.float32).max)

# Discrete-time schedulers that share LCM's noise schedule: their betas apply, and their other
# settings do not concern a consistency model.
_COMPATIBLE_SCHEDULERS = (
    "DDIMParallelScheduler",
    "DDIMScheduler",
    "DDPMParallelScheduler",
    "DDPMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSDEScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "SASolverScheduler",
    "TCDScheduler",
    "UniPCMultistepScheduler",
)
_SHARED_KEYS = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "prediction_type",
    "rescale_betas_zero_snr",
)


@dataclass(frozen=True)
class LCMScheduler:
    """Settings with diffusers' names and defaults; create one with `from_config`."""

    num_train_timesteps: int = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.012
    beta_schedule: str = "scaled_linear"
    trained_betas: tuple[float, ...] | None = None
    original_inference_steps: int = 50
    prediction_type: str = "epsilon"
    clip_sample: bool = False
    clip_sample_range: float = 1.0
    thresholding: bool = False
    dynamic_thresholding_ratio: float = 0.995
    sample_max_value: float = 1.0
    timestep_scaling: float = 10.0
    rescale_betas_zero_snr: bool = False

    def __post_init__(self) -> None:
        whole_number("num_train_timesteps", self.num_train_timesteps, 1, 1_000_000)
        whole_number(
            "original_inference_steps", self.original_inference_steps, 1, self.num_train_timesteps
        )
        one_of("prediction_type", self.prediction_type, ("epsilon", "sample", "v_prediction"))
        one_of("beta_schedule", self.beta_schedule, tuple(_BETAS))
        for name in ("clip_sample", "thresholding", "rescale_betas_zero_snr"):
            one_of(name, getattr(self, name), (False, True))
        for name in ("beta_start", "beta_end", "dynamic_thresholding_ratio"):
            real_number(name, getattr(self, name), 0, 1)
        for name in ("clip_sample_range", "sample_max_value"):
            real_number(name, getattr(self, name), 0, _LARGEST)
        real_number("timestep_scaling", self.timestep_scaling, 1e-6, 1e6)
        if self.trained_betas is not None:
            if len(self.trained_betas) != self.num_train_timesteps:
                raise ArgumentError(
                    f"trained_betas has {len(self.trained_betas)} values"
                    f" for num_train_timesteps {self.num_train_timesteps}"
                )
            for beta in self.trained_betas:
                real_number("trained_betas", beta, 0, 1)
        self._check_signal()

    def _check_signal(self) -> None:
        """Raise ArgumentError for betas with which no step can be computed."""
        epsilon = self.prediction_type == "epsilon"
        if epsilon and self.rescale_betas_zero_snr:
            raise ArgumentError(
                "rescale_betas_zero_snr leaves no signal at the last timestep, by which"
                " prediction_type 'epsilon' divides: one of the two is wrong; models of such betas"
                " have prediction_type 'v_prediction'"
            )
        betas = "trained_betas" if self.trained_betas is not None else "beta_start and beta_end"
        with np.errstate(divide="ignore", invalid="ignore"):
            signal = self.alphas_cumprod
        if not np.isfinite(signal).all():
            raise ArgumentError(f"{betas} cannot be rescaled by rescale_betas_zero_snr")
        last = float(signal[-1])
        if last >= 1:
            raise ArgumentError(f"{betas} add no noise: the last timestep must have some")
        if epsilon and last < _LEAST_SIGNAL:
            raise ArgumentError(
                f"{betas} with num_train_timesteps {self.num_train_timesteps} leave no signal at"
                f" the last timestep ({last:.3g}), by which prediction_type 'epsilon' divides"
            )

    @classmethod
    def from_config(cls, config: Mapping[str, Any] | str | Path) -> LCMScheduler:
        """From a `scheduler_config.json`, as a dict or the path of the file.

        From another class's config (PNDM, DDIM, DPM, ...) the noise schedule and the prediction
        type are used, and LCM's own defaults for the rest. Raises BundleError for a scheduler of
        another family (e.g. flow matching) and for invalid values.
        """
        source = "scheduler config"
        if not isinstance(config, Mapping):
            source, config = str(config), read_object(Path(config))
        name = config.get("_class_name", cls.__name__)
        if name not in (cls.__name__, *_COMPATIBLE_SCHEDULERS):
            raise BundleError(
                f"{source}: scheduler {shown(name)} is not supported; a latent consistency model"
                " needs LCMScheduler, or one with the same betas, like PNDM, DDIM or Euler"
            )
        wanted = [f.name for f in fields(cls)] if name == cls.__name__ else _SHARED_KEYS
        settings = {key: config[key] for key in wanted if config.get(key) is not None}
        try:
            if "trained_betas" in settings:
                settings["trained_betas"] = _listed("trained_betas", settings["trained_betas"])
            return cls(**settings)
        except ArgumentError as error:
            raise BundleError(f"{source}: {error}") from error

    @cached_property
    def alphas_cumprod(self) -> Floats:
        """The signal's share of the variance at each training timestep, [num_train_timesteps]."""
        if self.trained_betas is not None:
            betas = np.array(self.trained_betas, np.float32)
        else:
            betas = _BETAS[self.beta_schedule](
                self.beta_start, self.beta_end, self.num_train_timesteps
            )
        if self.rescale_betas_zero_snr:
            betas = _zero_terminal_snr(betas)
        return _cumprod(1 - betas)

    def schedule(
        self,
        num_inference_steps: int,
        strength: float = 1.0,
        mode: str = STRENGTH_MODES[0],
        original_inference_steps: int | None = None,
    ) -> Integers:
        """The timesteps to run, descending; empty for strength 0.

        mode "truncate" skips the first `int(num_inference_steps * (1 - strength))` steps of the
        full schedule, computed exactly, as Stable Diffusion img2img does; any strength above 0
        runs at least one step. mode "rescale" spreads `num_inference_steps` over the part of the
        original schedule below `strength`, as diffusers' LCM img2img does.
        Raises ArgumentError, also when "rescale" leaves fewer timesteps than steps.
        """
        original = whole_number(
            "original_inference_steps",
            self.original_inference_steps
            if original_inference_steps is None
            else original_inference_steps,
            1,
            self.num_train_timesteps,
        )
        steps = whole_number("num_inference_steps", num_inference_steps, 1, original)
        strength = real_number("strength", strength, 0, 1)
        one_of("strength mode", mode, STRENGTH_MODES)
        if strength == 0:
            return np.empty(0, np.int64)
        if mode == "rescale":
            return self._spaced_timesteps(steps, original, strength)
        skipped = int(round(steps * (1 - strength), 9))
        return self._spaced_timesteps(steps, original, 1.0)[min(skipped, steps - 1) :]

    def _spaced_timesteps(self, steps: int, original: int, strength: float) -> Integers:
        usable = int(original * strength)
        if usable < steps:
            raise ArgumentError(
                f"strength {strength:g} in mode 'rescale' leaves {usable} of {original} original"
                f" steps, too few for num_inference_steps {steps}: "
                f"choose a strength of {_smallest_strength(original, steps):g} or more"
                + (f", or at most {usable} steps" if usable else "")
            )
        skip = self.num_train_timesteps // original
        origin = np.arange(usable, 0, -1, dtype=np.int64) * skip - 1
        picked = np.floor(np.linspace(0, usable, steps, endpoint=False)).astype(np.int64)
        return origin[picked]

    def add_noise(self, sample: Floats, noise: Floats, timestep: int) -> Floats:
        """Diffuse a clean sample to a timestep; all of the same shape."""
        alpha, sigma = self._alpha_sigma(timestep)
        return alpha * sample + sigma * noise

    def step(
        self,
        model_output: Floats,
        timestep: int,
        prev_timestep: int | None,
        sample: Floats,
        noise: Floats | None,
    ) -> tuple[Floats, Floats]:
        """One consistency step: (prev_sample, denoised), both shaped like `sample`.

        `prev_timestep` is the next one to run, None after the last, where no noise is used and
        prev_sample is denoised. Raises ArgumentError if noise is needed and None.
        """
        scaled = timestep * self.timestep_scaling
        c_skip = np.float32(_SIGMA_DATA_SQUARED / (scaled**2 + _SIGMA_DATA_SQUARED))
        c_out = np.float32(scaled / math.sqrt(scaled**2 + _SIGMA_DATA_SQUARED))
        denoised = c_out * self._predict_original(model_output, timestep, sample) + c_skip * sample
        if prev_timestep is None:
            return denoised, denoised
        if noise is None:
            raise ArgumentError(f"noise is needed to step from {timestep} to {prev_timestep}")
        return self.add_noise(denoised, noise, prev_timestep), denoised

    def _alpha_sigma(self, timestep: int) -> tuple[np.float32, np.float32]:
        alpha_cumprod = self.alphas_cumprod[timestep]
        return np.sqrt(alpha_cumprod), np.sqrt(1 - alpha_cumprod)

    def _predict_original(self, model_output: Floats, timestep: int, sample: Floats) -> Floats:
        alpha, sigma = self._alpha_sigma(timestep)
        original: Any  # numpy's stubs lose float32 here
        if self.prediction_type == "epsilon":
            original = (sample - sigma * model_output) / alpha
        elif self.prediction_type == "sample":
            original = model_output
        else:
            original = alpha * sample - sigma * model_output
        if self.thresholding:
            original = self._threshold(original)
        elif self.clip_sample:
            original = original.clip(-self.clip_sample_range, self.clip_sample_range)
        return np.asarray(original, np.float32)

    def _threshold(self, original: Array) -> Floats:
        """Dynamic thresholding per item (Saharia et al., Imagen, arXiv:2205.11487)."""
        flat = np.abs(original.reshape(len(original), -1))
        limit = np.quantile(flat, self.dynamic_thresholding_ratio, axis=1)
        limit = limit.clip(1, max(1, self.sample_max_value)).astype(np.float32)
        limit = limit.reshape(-1, *[1] * (original.ndim - 1))
        thresholded: Floats = original.clip(-limit, limit) / limit
        return thresholded


def _listed(name: str, value: Any) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise ArgumentError(f"{name} must be a list of numbers, not {shown(value)}")
    return tuple(value)


def _smallest_strength(original: int, steps: int) -> float:
    """The smallest strength of three decimals with int(original * strength) >= steps."""
    thousandths = math.floor(1000 * steps / original)
    while int(original * (thousandths / 1000)) < steps:
        thousandths += 1
    return thousandths / 1000


def _linear(start: float, end: float, count: int) -> Floats:
    return np.linspace(start, end, count, dtype=np.float32)


def _scaled_linear(start: float, end: float, count: int) -> Floats:
    return np.square(_linear(math.sqrt(start), math.sqrt(end), count))


def _squared_cosine(_start: float, _end: float, count: int) -> Floats:
    """Nichol & Dhariwal, "Improved DDPM" (arXiv:2102.09672), capped at 0.999."""
    remaining = np.cos((np.arange(count + 1) / count + 0.008) / 1.008 * math.pi / 2) ** 2
    betas: Floats = np.minimum(1 - remaining[1:] / remaining[:-1], 0.999).astype(np.float32)
    return betas


_BETAS = {
    "linear": _linear,
    "scaled_linear": _scaled_linear,
    "squaredcos_cap_v2": _squared_cosine,
}


def _cumprod(values: Floats) -> Floats:
    """Like torch, which accumulates in double and rounds each product to float32."""
    return np.cumprod(values, dtype=np.float64).astype(np.float32)


def _zero_terminal_snr(betas: Floats) -> Floats:
    """Shift the schedule so that the last timestep is pure noise (arXiv:2305.08891, alg. 1)."""
    roots = np.sqrt(_cumprod(1 - betas))
    roots = (roots - roots[-1]) * (roots[0] / (roots[0] - roots[-1]))
    signal = roots**2
    return 1 - np.concatenate([signal[:1], signal[1:] / signal[:-1]])

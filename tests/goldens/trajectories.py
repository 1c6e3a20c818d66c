"""Golden noise schedules and whole trajectories of diffusers' LCMScheduler."""

from typing import Any

import numpy as np
import torch
from diffusers import LCMScheduler

from .files import DATA, save_arrays, save_json

SHAPE = (2, 4, 3, 4)
STEPS = 4
SEED = 11

BETAS: dict[str, dict[str, Any]] = {
    "scaled_linear": {},
    "linear": {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02},
    "squaredcos_cap_v2": {"beta_schedule": "squaredcos_cap_v2"},
    "scaled_linear_500": {"num_train_timesteps": 500, "beta_start": 0.001, "beta_end": 0.02},
    "trained_betas": {
        "num_train_timesteps": 100,
        "original_inference_steps": 20,
        "trained_betas": [round(0.0005 + 0.0004 * i**1.2, 6) for i in range(100)],
    },
}
ZERO_SNR = {"rescale_betas_zero_snr": True}
CONFIGS: dict[str, dict[str, Any]] = {
    **BETAS,
    "sample": {"prediction_type": "sample"},
    "v_prediction": {"prediction_type": "v_prediction"},
    "clip_sample": {"clip_sample": True, "clip_sample_range": 0.8},
    "thresholding": {"thresholding": True, "sample_max_value": 4.0},
    "thresholding_to_one": {"thresholding": True, "dynamic_thresholding_ratio": 0.9},
    "thresholding_wins": {"thresholding": True, "clip_sample": True, "sample_max_value": 2.5},
    "zero_snr": {"prediction_type": "v_prediction", **ZERO_SNR},
    "zero_snr_linear": {"prediction_type": "v_prediction", **BETAS["linear"], **ZERO_SNR},
    "timestep_scaling": {"timestep_scaling": 0.01},
}


def make() -> str:
    arrays = {}
    for name, config in CONFIGS.items():
        scheduler = LCMScheduler(**config)
        arrays[f"{name}/alphas_cumprod"] = scheduler.alphas_cumprod.numpy()
        arrays |= {f"{name}/{key}": value for key, value in _run(scheduler).items()}
    save_json(DATA / "trajectories.json", CONFIGS)
    save_arrays("trajectories.npz", arrays)
    return f"{len(CONFIGS)} schedulers, {STEPS} steps each"


def _run(scheduler: LCMScheduler) -> dict[str, np.ndarray]:
    """From a clean sample to the end, with all that a step takes and gives."""
    scheduler.set_timesteps(STEPS)
    ours, theirs = (torch.Generator("cpu").manual_seed(SEED) for _ in range(2))
    # The second item is larger, so that thresholds which are an item's own can be told apart.
    clean = torch.randn(SHAPE, generator=ours) * torch.tensor([1.0, 3.0]).reshape(2, 1, 1, 1)
    noises = torch.stack([torch.randn(SHAPE, generator=ours) for _ in range(STEPS)])
    for _ in ("clean", "the first noise"):  # step() draws the rest
        torch.randn(SHAPE, generator=theirs)
    start = sample = scheduler.add_noise(clean, noises[0], scheduler.timesteps[:1])
    outputs, prevs, denoised = [], [], []
    for timestep in scheduler.timesteps:
        outputs.append(_model(sample, timestep))
        result = scheduler.step(outputs[-1], timestep, sample, generator=theirs)
        sample = result.prev_sample
        prevs.append(sample)
        denoised.append(result.denoised)
    columns = {
        "clean": clean,
        "noise": noises,
        "start": start,
        "timesteps": scheduler.timesteps,
        "model_output": torch.stack(outputs),
        "prev_sample": torch.stack(prevs),
        "denoised": torch.stack(denoised),
    }
    return {key: tensor.numpy() for key, tensor in columns.items()}


def _model(sample: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
    """Something that depends on both and stays in bounds."""
    return 1.5 * sample / (1 + sample.abs()) + timestep / 1000 - 0.5

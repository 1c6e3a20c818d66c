"""The LCM schedule: which timesteps run, and which configs it is made from.

The numbers are worked out by hand; the goldens made with diffusers are in parity and goldens.
"""

import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lcmcore import ArgumentError, BundleError, demo_dir
from lcmcore.scheduler import LCMScheduler

SCHEDULER = LCMScheduler()
OF_EIGHT = [999, 879, 759, 639, 499, 379, 259, 139]


@pytest.mark.parametrize(
    ("steps", "timesteps"),
    [(1, [999]), (2, [999, 499]), (4, [999, 759, 499, 259]), (8, OF_EIGHT)],
)
def test_full_strength_spreads_over_the_whole_schedule(steps, timesteps):
    assert SCHEDULER.schedule(steps).tolist() == timesteps


@pytest.mark.parametrize(
    ("strength", "timesteps"),
    [(1.0, [999, 759, 499, 259]), (0.75, [759, 499, 259]), (0.5, [499, 259]), (0.25, [259])],
)
def test_truncate_skips_the_first_steps(strength, timesteps):
    assert SCHEDULER.schedule(4, strength).tolist() == timesteps


# int(N * (1 - s)) in floats slips below the whole number at each of these pairs.
SLIPPING = [(5, 0.8), (10, 0.8), (10, 0.9), (20, 0.8), (20, 0.9)] + [
    (50, strength) for strength in (0.34, 0.56, 0.68, 0.78, 0.8, 0.9, 0.92)
]


@pytest.mark.parametrize(("steps", "strength"), SLIPPING)
def test_truncate_is_exact_where_floats_slip(steps, strength):
    hundredths = round(100 * strength)
    skipped = steps * (100 - hundredths) // 100
    assert len(SCHEDULER.schedule(steps, strength)) == steps - skipped


@given(st.integers(1, 50), st.floats(0, 1, exclude_min=True))
def test_any_strength_above_zero_runs_a_step(steps, strength):
    timesteps = SCHEDULER.schedule(steps, strength)
    assert 1 <= len(timesteps) <= steps
    assert (np.diff(timesteps) < 0).all()


@pytest.mark.parametrize("mode", ["truncate", "rescale"])
def test_no_strength_runs_no_step(mode):
    assert len(SCHEDULER.schedule(4, 0, mode)) == 0


@pytest.mark.parametrize(
    ("strength", "timesteps"),
    [
        (0.5, [499, 379, 259, 139]),
        (0.8, [799, 599, 399, 199]),
        (0.58, [559, 419, 279, 139]),  # int(50 * 0.58) is 28, also in diffusers
    ],
)
def test_rescale_always_runs_all_steps(strength, timesteps):
    assert SCHEDULER.schedule(4, strength, "rescale").tolist() == timesteps


@given(st.integers(1, 50), st.floats(0.001, 1))
def test_rescale_with_too_few_steps_names_remedies_that_work(steps, strength):
    try:
        SCHEDULER.schedule(steps, strength, "rescale")
    except ArgumentError as error:
        message = str(error)
    else:
        return
    assert f"strength {strength:g}" in message
    assert f"num_inference_steps {steps}" in message
    better = float(re.search(r"a strength of ([\d.]+) or more", message)[1])
    assert len(SCHEDULER.schedule(steps, better, "rescale")) == steps
    with pytest.raises(ArgumentError):
        SCHEDULER.schedule(steps, better - 0.001, "rescale")
    fewer = re.search(r"at most (\d+) steps", message)
    if fewer:
        assert len(SCHEDULER.schedule(int(fewer[1]), strength, "rescale")) == int(fewer[1])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"num_inference_steps": 0}, "num_inference_steps must be from 1 to 50, not 0"),
        ({"num_inference_steps": 51}, "from 1 to 50"),
        ({"num_inference_steps": 4.0}, "whole number"),
        ({"num_inference_steps": True}, "whole number"),
        ({"num_inference_steps": 10**5000}, "a huge number"),
        ({"strength": -0.1}, "strength must be from 0 to 1, not -0.1"),
        ({"strength": 1.01}, "strength"),
        ({"strength": float("nan")}, "not nan"),
        ({"strength": 10**400}, "strength must be from 0 to 1"),
        ({"strength": "0.5"}, "strength must be a number"),
        ({"mode": "truncated"}, "'truncate' or 'rescale'"),
        ({"original_inference_steps": 0}, "original_inference_steps must be from 1 to 1000"),
        ({"original_inference_steps": 1001}, "original_inference_steps"),
    ],
)
def test_arguments_out_of_range(arguments, words):
    with pytest.raises(ArgumentError, match=re.escape(words)):
        SCHEDULER.schedule(**{"num_inference_steps": 4, **arguments})


def test_step_keeps_the_sample_at_timestep_zero():
    sample = np.full((1, 4, 2, 2), 0.5, np.float32)
    _, denoised = SCHEDULER.step(np.ones_like(sample), 0, None, sample, None)
    np.testing.assert_allclose(denoised, sample)  # the boundary condition: c_skip 1, c_out 0


def test_step_without_noise_only_ends_a_run():
    sample = np.zeros((1, 4, 2, 2), np.float32)
    previous, denoised = SCHEDULER.step(sample, 259, None, sample, None)
    assert previous is denoised
    with pytest.raises(ArgumentError, match="noise is needed to step from 499 to 259"):
        SCHEDULER.step(sample, 499, 259, sample, None)


def test_another_class_lends_only_its_noise_schedule():
    config = {
        "_class_name": "PNDMScheduler",
        "beta_start": 0.001,
        "beta_end": 0.02,
        "beta_schedule": "linear",
        "num_train_timesteps": 500,
        "prediction_type": "v_prediction",
        "clip_sample": True,
        "steps_offset": 1,
        "skip_prk_steps": True,
    }
    assert LCMScheduler.from_config(config) == LCMScheduler(
        beta_start=0.001,
        beta_end=0.02,
        beta_schedule="linear",
        num_train_timesteps=500,
        prediction_type="v_prediction",
    )


def test_its_own_class_keeps_everything():
    config = {"_class_name": "LCMScheduler", "clip_sample": True, "original_inference_steps": 25}
    assert LCMScheduler.from_config(config) == LCMScheduler(
        clip_sample=True, original_inference_steps=25
    )


def test_config_is_read_from_a_file():
    path = demo_dir() / "scheduler" / "scheduler_config.json"
    assert LCMScheduler.from_config(path) == LCMScheduler.from_config(json.loads(path.read_text()))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "FlowMatchEulerDiscreteScheduler"),
        ({"_class_name": 5}, "scheduler 5 is not supported"),
        ({"beta_schedule": "sigmoid"}, "beta_schedule must be 'linear' or"),
        ({"beta_start": "tiny"}, "beta_start must be a number"),
        ({"beta_end": float("nan")}, "beta_end"),
        ({"prediction_type": "flow"}, "prediction_type"),
        ({"num_train_timesteps": 0}, "num_train_timesteps"),
        ({"trained_betas": [0.1]}, "trained_betas has 1 values"),
        ({"trained_betas": 5}, "scheduler config"),
        ({"clip_sample": "yes"}, "clip_sample"),
    ],
)
def test_config_that_makes_no_sense(config, words):
    with pytest.raises(BundleError, match=re.escape(words)):
        LCMScheduler.from_config(config)


def test_error_names_the_file(tmp_path):
    path = tmp_path / "scheduler_config.json"
    path.write_text('{"beta_end": 7}')
    with pytest.raises(BundleError, match=f"{re.escape(str(path))}: beta_end must be"):
        LCMScheduler.from_config(path)

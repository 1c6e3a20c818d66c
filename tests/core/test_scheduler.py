"""The LCM schedule: which timesteps run, and which configs it is made from.

The numbers are worked out by hand; the goldens made with diffusers are in parity and goldens.
"""

import json
import re
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lcmcore import ArgumentError, BundleError, demo_dir
from lcmcore.scheduler import _COMPATIBLE_SCHEDULERS, LCMScheduler

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
    [
        (1.0, [999, 759, 499, 259]),
        (0.75, [759, 499, 259]),
        (0.6, [759, 499, 259]),  # int(4 * 0.4) steps are skipped
        (0.5, [499, 259]),
        (0.3, [499, 259]),
        (0.25, [259]),
    ],
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
        ({"trained_betas": [0.1]}, "trained_betas has 1 values for num_train_timesteps 1000"),
        ({"trained_betas": 5}, "trained_betas must be a list of numbers, not 5"),
        ({"trained_betas": "0.1"}, "trained_betas must be a list of numbers, not '0.1'"),
        ({"trained_betas": [0.1] * 999 + ["a"]}, "trained_betas must be a number, not 'a'"),
        ({"trained_betas": [0.1] * 999 + [1.1]}, "trained_betas must be from 0 to 1, not 1.1"),
        ({"beta_end": float("inf")}, "beta_end must be from 0 to 1, not inf"),
        ({"beta_start": -1e-9}, "beta_start must be from 0 to 1"),
        ({"beta_start": 10**400}, "beta_start must be from 0 to 1, not a huge number"),
        ({"timestep_scaling": 10**400}, "timestep_scaling must be from 1e-06 to 1e+06, not a huge"),
        ({"timestep_scaling": float("inf")}, "timestep_scaling must be from 1e-06 to 1e+06"),
        ({"timestep_scaling": 0}, "timestep_scaling must be from 1e-06 to 1e+06, not 0"),
        ({"timestep_scaling": 1000001}, "timestep_scaling"),
        ({"clip_sample_range": 1e39}, "clip_sample_range must be from 0 to 3.40282e+38"),
        ({"sample_max_value": -1}, "sample_max_value must be from 0 to 3.40282e+38, not -1"),
        ({"dynamic_thresholding_ratio": 1.5}, "dynamic_thresholding_ratio"),
        ({"num_train_timesteps": 10**5000}, "num_train_timesteps must be from 1 to 1000000"),
        ({"num_train_timesteps": 1_000_001}, "num_train_timesteps must be from 1 to 1000000"),
        ({"num_train_timesteps": 1000.0}, "num_train_timesteps must be a whole number, not 1000.0"),
        ({"prediction_type": ["v"] * 10**6}, "'v_prediction', not ['v', 'v'"),
        ({"beta_schedule": 10**5000}, "not a int that cannot be printed"),
        ({"original_inference_steps": 1001}, "original_inference_steps must be from 1 to 1000"),
        ({"num_train_timesteps": 49}, "original_inference_steps must be from 1 to 49, not 50"),
        ({"thresholding": 2}, "thresholding must be False or True, not 2"),
        ({"rescale_betas_zero_snr": "no"}, "rescale_betas_zero_snr must be False or True"),
        ({"clip_sample": "yes"}, "clip_sample"),
    ],
)
def test_config_that_makes_no_sense(config, words):
    with pytest.raises(BundleError, match=re.escape(words)) as caught:
        LCMScheduler.from_config(config)
    (key,) = config
    if key != "_class_name" and config != {"num_train_timesteps": 49}:
        assert str(caught.value).startswith(f"scheduler config: {key} ")


NO_SIGNAL = "leave no signal at the last timestep"


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr leaves no signal"),
        ({"beta_end": 1}, f"beta_start and beta_end with num_train_timesteps 1000 {NO_SIGNAL} (0)"),
        ({"beta_end": 0.5}, NO_SIGNAL),
        ({"num_train_timesteps": 10_000}, f"num_train_timesteps 10000 {NO_SIGNAL} (4.88e-24)"),
        (
            {"trained_betas": [1.0] * 1000},
            f"trained_betas with num_train_timesteps 1000 {NO_SIGNAL}",
        ),
        ({"beta_start": 0, "beta_end": 0}, "beta_start and beta_end add no noise"),
        ({"trained_betas": [0.0] * 1000}, "trained_betas add no noise"),
        (
            {"trained_betas": [0.0] * 1000, "prediction_type": "sample"},
            "trained_betas add no noise",
        ),
    ],
)
@pytest.mark.parametrize("name", ["LCMScheduler", "DDIMScheduler"])
def test_betas_that_cannot_work_are_refused_by_name(name, config, words, recwarn):
    """Not later, as NaN that is blamed on a network's half precision."""
    with pytest.raises(BundleError, match=re.escape(words)):
        LCMScheduler.from_config({"_class_name": name, **config})
    assert not recwarn.list


@pytest.mark.parametrize("prediction_type", ["sample", "v_prediction"])
def test_the_last_step_may_be_pure_noise_for_other_predictions(prediction_type):
    config = {"prediction_type": prediction_type, "rescale_betas_zero_snr": True}
    scheduler = LCMScheduler.from_config({"_class_name": "DDIMScheduler", **config})
    assert scheduler.alphas_cumprod[-1] == 0
    sample = np.ones((1, 4, 2, 2), np.float32)
    _, denoised = scheduler.step(sample, 999, None, sample, None)
    assert np.isfinite(denoised).all()


@pytest.mark.parametrize(
    "config",
    [
        {"num_train_timesteps": 1, "original_inference_steps": 1},
        {"beta_start": 0, "beta_end": 0},
        {"beta_end": 1},
    ],
)
def test_betas_that_cannot_be_rescaled(config, recwarn):
    config = {"prediction_type": "sample", "rescale_betas_zero_snr": True, **config}
    with pytest.raises(BundleError, match="cannot be rescaled by rescale_betas_zero_snr"):
        LCMScheduler.from_config(config)
    assert not recwarn.list


@pytest.mark.parametrize(("halvings", "enough"), [(40, True), (41, False)])
def test_how_little_signal_is_enough(halvings, enough):
    """2**-40: a millionth of the noise's deviation, which float32 still tells from nothing."""
    betas = {"trained_betas": [0.5] * halvings, "num_train_timesteps": halvings}
    config = {**betas, "original_inference_steps": 10}
    if enough:
        assert LCMScheduler.from_config(config).alphas_cumprod[-1] == 2.0**-40
    else:
        with pytest.raises(BundleError, match=NO_SIGNAL):
            LCMScheduler.from_config(config)
    assert LCMScheduler.from_config({**config, "prediction_type": "sample"})


def test_squared_cosine_betas_leave_enough_signal():
    scheduler = LCMScheduler.from_config({"beta_schedule": "squaredcos_cap_v2"})
    np.testing.assert_allclose(scheduler.alphas_cumprod[-1], 2.428735e-09, rtol=1e-5)


@pytest.mark.parametrize(
    "name", ["SASolverScheduler", "DDIMParallelScheduler", "DDPMParallelScheduler"]
)
def test_schedulers_with_the_same_betas(name):
    config = {"beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear"}
    scheduler = LCMScheduler.from_config({"_class_name": name, "clip_sample": True, **config})
    assert scheduler == LCMScheduler(**config)
    np.testing.assert_allclose(scheduler.alphas_cumprod[-1], 4.0358e-05, rtol=1e-4)


def test_every_class_name_is_one_of_diffusers():
    """In alphabetical order, once each."""
    assert list(_COMPATIBLE_SCHEDULERS) == sorted(set(_COMPATIBLE_SCHEDULERS))


numbers = st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=3)
anything = numbers | st.lists(numbers, max_size=3) | st.dictionaries(st.text(max_size=2), numbers)
KEYS = st.sampled_from([field.name for field in fields(LCMScheduler)])


@given(st.dictionaries(KEYS, anything))
def test_any_json_is_a_scheduler_that_steps_or_an_error(config):
    try:
        scheduler = LCMScheduler.from_config(config)
    except BundleError as error:
        assert any(name in str(error) for name in config)
        return
    sample = np.ones((1, 1, 2, 2), np.float32)
    for timestep in scheduler.schedule(1):
        _, denoised = scheduler.step(sample, int(timestep), None, sample, None)
        assert np.isfinite(denoised).all()


def test_error_names_the_file(tmp_path):
    path = tmp_path / "scheduler_config.json"
    path.write_text('{"beta_end": 7}')
    with pytest.raises(BundleError, match=f"{re.escape(str(path))}: beta_end must be"):
        LCMScheduler.from_config(path)

"""The line that ends a command, and what it says of a strength that is too fine for its steps."""

from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lcmcore.cli.main import main
from lcmcore.cli.summary import strength_notes
from lcmcore.scheduler import LCMScheduler
from tests.parity.bundles import TINY

FINE = np.arange(1, 1001) / 1000  # strengths


def note(strength, steps, mode="truncate"):
    return list(strength_notes([strength], Namespace(steps=steps, strength_mode=mode), 4))


@pytest.mark.parametrize(
    ("strength", "steps", "ran", "bounds"),
    [
        (0.05, 4, 1, "above 0 up to 0.25"),
        (0.3, 4, 2, "above 0.25 up to 0.5"),
        (0.8, 4, 4, "above 0.75 up to 1"),
        (0.8, None, 4, "above 0.75 up to 1"),
        (0.3, 8, 3, "above 0.25 up to 0.375"),
        (0.75, 1, 1, "above 0 up to 1"),
    ],
)
def test_strengths_of_one_image_are_named(strength, steps, ran, bounds):
    words = f"{ran} of {steps or 4} step" + "s" * (steps != 1)
    assert note(strength, steps) == [
        f"strength {strength} runs {words} and makes the same image as any {bounds};"
        " more --steps are finer"
    ]


@pytest.mark.parametrize("steps", [1, 3, 4, 7, 8, 50])
def test_the_bounds_are_those_of_the_schedule(steps):
    """Of a thousand strengths, those with the schedule of one are those that its note names."""
    scheduler = LCMScheduler()
    lengths = np.array([len(scheduler.schedule(steps, strength)) for strength in FINE])
    for strength, length in zip(FINE, lengths, strict=True):
        for line in note(strength, steps):
            low, high = (
                float(line.split(word)[1].split()[0].strip(";")) for word in ("above", "up to")
            )
            same = FINE[lengths == length]
            assert f"runs {length} of" in line
            assert abs(same.min() - low) < 0.002
            assert abs(same.max() - high) < 0.002


@pytest.mark.parametrize(
    ("strength", "steps"), [(0.75, 4), (0.5, 8), (1.0, 3), (0.0, 4), (0.1, 10)]
)
def test_a_whole_number_of_steps_needs_no_note(strength, steps):
    assert note(strength, steps) == []


def test_nor_does_the_mode_that_runs_every_step():
    assert note(0.3, 4, "rescale") == []


@pytest.fixture
def lcm(capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LCM_MODEL", str(TINY / "lcm"))

    def run(*words):
        assert main([str(word) for word in words]) == 0
        return capfd.readouterr().err.splitlines()

    return run


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image)


def test_the_last_lines_of_img2img(lcm, tmp_path):
    """Sizes, steps that ran, and that another strength makes this image."""
    Image.effect_noise((400, 300), 90).convert("RGB").save("photo.png")
    words = ["img2img", "photo.png", "a lake", "--size=64x48", "--seed=7"]
    *_, line, coarse = lcm(*words, "-o", "a.png", "--strength=0.3")
    assert line.startswith("wrote a.png (400x300 -> 64x48, 2 of 4 steps, seed 7) with ")
    assert coarse.startswith("strength 0.3 runs 2 of 4 steps and makes the same image as any")
    *_, line = lcm(*words, "-o", "b.png", "--strength=50%")
    assert line.startswith("wrote b.png (400x300 -> 64x48, 2 of 4 steps, seed 7) with ")
    np.testing.assert_array_equal(pixels("a.png"), pixels("b.png"))
    *_, line = lcm(*words, "-o", "c.png", "--strength=0")
    assert "(400x300 -> 64x48, 0 of 4 steps, seed 7)" in line


def test_the_last_line_of_txt2img(lcm):
    *_, line = lcm("txt2img", "a lake", "-o", "a.png", "--size=64x48", "--steps=2", "--seed=7")
    assert line.startswith("wrote a.png (64x48, 2 steps, seed 7) with ")


def test_a_batch_says_it_of_its_strength(lcm):
    Path("photos").mkdir()
    Image.new("RGB", (64, 64)).save("photos/a.png")
    words = ["batch", "photos", "a lake", "--size=64x64", "--seed=7", "--threads=1"]
    first, *_ = lcm(*words, "-o", "out", "--strength=0.3")
    assert first.startswith("strength 0.3 runs 2 of 4 steps and makes the same image as any")

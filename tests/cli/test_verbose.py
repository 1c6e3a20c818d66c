"""`-v` shows what lcmcore logs at INFO, `-q` not even warnings, also in the processes of a pool."""

import os
import re
import subprocess

import pytest

from lcmcore.bundle import COMPONENTS
from tests.jobs.images import LCM, PROMPT, QUICK, batch, make_photos
from tests.parity.bundles import TINY

LONG = "lake " * 100


@pytest.fixture
def photos(tmp_path):
    return make_photos(tmp_path / "photos", 1)


def stderr_of(*words):
    """Each in a process of its own, where no test captures the log."""
    environment = {**os.environ, "LCM_MODEL": str(TINY / "lcm")}
    run = [LCM, *map(str, words)]
    done = subprocess.run(run, capture_output=True, text=True, check=True, env=environment)
    return done.stderr


def opened(stderr):
    """Components whose opening was logged, with their files."""
    return set(re.findall(r"^lcm: info: (\w+): onnx opened .*/\1/model\.onnx", stderr, re.M))


def test_a_command(photos, tmp_path):
    words = ("img2img", photos / "photo00.png", PROMPT, "-o", tmp_path / "out.png", *QUICK)
    assert "info" not in stderr_of(*words)
    assert opened(stderr_of(*words, "-v")) == set(COMPONENTS)


@pytest.mark.slow
def test_bench():
    words = ("bench", "--verbose", "--rounds=1", "--size=64x64", "--steps=1", "--threads=1")
    assert opened(stderr_of(*words)) == set(COMPONENTS)


@pytest.mark.slow
def test_processes_of_a_pool(photos, tmp_path):
    done = batch(photos, PROMPT, "-v", "-o", tmp_path / "out", *QUICK)
    assert done.returncode == 0
    assert opened(done.stderr) == set(COMPONENTS)


@pytest.mark.slow
def test_warnings_of_a_pool(photos, tmp_path):
    done = batch(photos, LONG, "-o", tmp_path / "out", *QUICK)
    assert "lcm: warning: the prompt is too long: truncated in 'lake'" in done.stderr
    done = batch(photos, LONG, "-q", "-o", tmp_path / "other", *QUICK)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_verbose_and_quiet_exclude_each_other(photos):
    done = batch(photos, PROMPT, "-q", "-v", "-o", "out")
    assert done.returncode == 2
    assert "not allowed with argument" in done.stderr

"""The memory arena of runs: networks share it, and after an image it shrinks."""

import subprocess
import sys

import numpy as np
import onnxruntime
import pytest

import lcmcore
from lcmcore.util.memory import anonymous_bytes
from runtimes.onnx import OnnxRuntime, arena
from tests.parity.bundles import TINY

pytestmark = pytest.mark.host  # minutes under emulation, of what is the same on any machine

FOLDER = TINY / "lcm" / "vae_decoder"
LATENTS = {"latent_sample": np.zeros((1, 4, 48, 48), np.float32)}


def anonymous():
    """Bytes of this process that are not of a mapped file."""
    return anonymous_bytes() or pytest.skip("no /proc here")


def opened():
    return OnnxRuntime().open("vae_decoder", FOLDER, {})


def test_networks_share_memory_and_release_it():
    """In a process of its own: the arena also holds what networks of other tests use."""
    anonymous()
    code = "from tests.onnx.test_arena import share_and_release; share_and_release()"
    subprocess.run([sys.executable, "-c", code], cwd=TINY.parents[1], check=True)


def share_and_release():
    arena.MIN_BYTES = 0
    networks, before = [opened(), opened()], anonymous()
    networks[0].run(LATENTS)
    first = anonymous() - before
    assert first > 20e6
    networks[1].run(LATENTS)
    assert anonymous() - before < 1.3 * first
    OnnxRuntime().release_memory()
    assert anonymous() - before < 0.3 * first


def test_an_arena_that_the_application_has_registered():
    arena.use_shared_arena(onnxruntime, onnxruntime.SessionOptions())
    arena._create.cache_clear()  # it is registered again, as if an application had been first
    assert opened().run(LATENTS)["sample"].shape == (1, 3, 384, 384)


def test_a_pipeline_releases_memory_after_each_image(monkeypatch):
    released = []
    monkeypatch.setattr(arena, "shrink", lambda ort: released.append(networks.running.copy()))
    with lcmcore.load(FOLDER.parent) as pipe:
        networks = pipe.networks
        pipe("a lake", width=64, height=64, num_inference_steps=1)
        assert [running["vae_decoder"] > 0 for running in released] == [True]

"""The memory of runs: networks share it, and it goes back when they are closed."""

import re
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from runtimes.onnx import OnnxRuntime, arena

from .parity.bundles import TINY

FOLDER = TINY / "lcm" / "vae_decoder"
LATENTS = {"latent_sample": np.zeros((1, 4, 48, 48), np.float32)}


def anonymous():
    """Bytes of this process that stand in no file."""
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("no /proc here")
    return int(re.search(r"RssAnon:\s+(\d+)", status.read_text())[1]) * 1024


def opened():
    return OnnxRuntime().open("vae_decoder", FOLDER, {})


def test_networks_share_memory_and_give_it_back():
    arena.give_back(onnxruntime)
    networks, before = [opened(), opened()], anonymous()
    networks[0].run(LATENTS)
    first = anonymous() - before
    assert first > 20e6
    networks[1].run(LATENTS)
    assert anonymous() - before < 1.3 * first
    for network in networks:
        network.close()
    assert anonymous() - before < 0.3 * first


def test_an_arena_that_the_program_around_has_made():
    arena.share(onnxruntime, onnxruntime.SessionOptions())
    arena._make.cache_clear()  # so it is made a second time, as if by another
    network = opened()
    assert network.run(LATENTS)["sample"].shape == (1, 3, 384, 384)
    network.close()

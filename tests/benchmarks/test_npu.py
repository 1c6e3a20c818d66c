"""The arithmetic of the NPU's table; what it measures needs the converter."""

import numpy as np
import pytest

from benchmarks.npu import (
    AS_IT_IS,
    KEYS,
    NETWORKS,
    REWRITTEN,
    TILE,
    Figures,
    images,
    signal_to_noise,
    table,
)


def figures(seconds, tasks=1):
    return Figures(tasks, 2.0, 3.0, seconds, 4.0, 60.0, 5.0, 6.0)


def found(**seconds):
    """Figures by network at 256 and 512 pixels and a tile, all alike in size."""
    return {
        f"{name}-{size}": {AS_IT_IS: figures(before), REWRITTEN: figures(after)}
        for name, (before, after) in seconds.items()
        for size in ("256x256", "512x512", TILE)
    }


ALL = found(text_encoder=(1, 0.5), vae_encoder=(10, 2), unet=(100, 20), vae_decoder=(1000, 200))


def test_a_row_has_before_and_after_of_each_figure():
    networks = {"unet-256x256": {AS_IT_IS: figures(1.111, 43973), REWRITTEN: figures(0.6, 11509)}}
    *_, row = table(networks)
    assert row.startswith("| unet 256x256 | 43,973 → 11,509 | ")
    assert " | 1.11 → 0.6 | " in row


def test_every_other_form_has_a_row_beside_the_first():
    forms = {form: figures(1) for form in NETWORKS["unet-512x512"]}
    rows = list(table({"unet-512x512": forms}))[2:]
    labels = [row.split(" | ")[0] for row in rows]
    assert labels == ["| unet 512x512", f"| unet 512x512, {KEYS}"]


def test_an_image_takes_two_steps_and_each_other_network_once():
    lines = list(images(ALL))
    assert f"- img2img 256x256, {AS_IT_IS}: 1211.0 s" in lines
    assert f"- img2img 256x256, {REWRITTEN}: 242.5 s" in lines


def test_networks_without_downsampled_keys_are_taken_rewritten():
    unet = {**ALL["unet-512x512"], KEYS: figures(7)}
    lines = list(images({**ALL, "unet-512x512": unet}))
    assert f"- img2img 512x512, {KEYS}: {0.5 + 2 + 2 * 7 + 200:.1f} s" in lines


def test_tiles_on_three_cores_take_the_time_of_one():
    tiles = {f"vae_decoder-{TILE}": {REWRITTEN: figures(0.25)}}
    lines = list(images({**ALL, **tiles}))
    line = f"- img2img 512x512, the VAE in tiles on three cores, {REWRITTEN}: {42.75:.1f} s"
    assert line in lines


def test_no_image_is_predicted_from_parts():
    assert list(images({"unet-256x256": ALL["unet-256x256"]})) == []


def test_signal_to_noise_of_moments_is_that_of_the_mean():
    exact = np.ones((1, 8, 2, 2), np.float32)
    got = exact.copy()
    got[:, :4] += 0.01
    got[:, 4:] = 99
    assert signal_to_noise(got, exact) == pytest.approx(40, abs=1e-3)
    assert signal_to_noise(got[:, :3], exact[:, :3]) == pytest.approx(40, abs=1e-3)

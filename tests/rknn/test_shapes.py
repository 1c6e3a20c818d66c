"""Shapes of the networks' inputs at one image size, by the configs of a bundle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lcmcore.errors import ArgumentError, BundleError
from runtimes.rknn import shapes
from runtimes.rknn.shapes import input_shapes, native_size, parse_size

VAE = {"block_out_channels": [1, 2, 3]}  # a factor of 4


def configure(root: Path, **configs: dict[str, Any]) -> None:
    for component, config in configs.items():
        (root / component).mkdir(exist_ok=True)
        (root / component / "config.json").write_text(json.dumps(config))


def test_without_configs_they_are_those_of_stable_diffusion_1_5(tmp_path: Path) -> None:
    got = {name: input_shapes(name, tmp_path, (512, 384)) for name in shapes.INPUTS}
    assert got == {
        "text_encoder": {"input_ids": (1, 77)},
        "unet": {
            "sample": (1, 4, 48, 64),
            "timestep": (1,),
            "encoder_hidden_states": (1, 77, 768),
            "timestep_cond": (1, 256),
        },
        "vae_encoder": {"sample": (1, 3, 384, 512)},
        "vae_decoder": {"latent_sample": (1, 4, 48, 64)},
    }
    assert [*got["unet"]] == [*shapes.INPUTS["unet"]]


def test_by_the_configs(tmp_path: Path) -> None:
    unet = {"in_channels": 5, "cross_attention_dim": 6, "time_cond_proj_dim": 7}
    configure(tmp_path, text_encoder={"max_position_embeddings": 9}, unet=unet, vae_decoder=VAE)
    assert input_shapes("unet", tmp_path, (8, 4)) == {
        "sample": (1, 5, 1, 2),
        "timestep": (1,),
        "encoder_hidden_states": (1, 9, 6),
        "timestep_cond": (1, 7),
    }
    assert input_shapes("text_encoder", tmp_path, (8, 4)) == {"input_ids": (1, 9)}
    assert input_shapes("vae_decoder", tmp_path, (8, 4)) == {"latent_sample": (1, 5, 1, 2)}


def test_the_encoders_config_where_the_decoder_has_none(tmp_path: Path) -> None:
    configure(tmp_path, vae_encoder=VAE)
    assert input_shapes("vae_decoder", tmp_path, (8, 4)) == {"latent_sample": (1, 4, 1, 2)}
    assert native_size(tmp_path) == (256, 256)
    configure(tmp_path, vae_decoder={"block_out_channels": [1, 2]})
    assert input_shapes("vae_decoder", tmp_path, (8, 4)) == {"latent_sample": (1, 4, 2, 4)}
    assert native_size(tmp_path) == (128, 128)


@pytest.mark.parametrize("size", [(12, 16), (16, 12)])
def test_sides_are_multiples_of_the_factor(tmp_path: Path, size: tuple[int, int]) -> None:
    with pytest.raises(ArgumentError) as error:
        input_shapes("unet", tmp_path, size)
    width, height = size
    words = f"size {width}x{height}: width and height must be multiples of 8"
    assert str(error.value) == words


@pytest.mark.parametrize(
    ("sample_size", "size"),
    [(None, (512, 512)), (96, (768, 768)), ([64, 96], (768, 512)), (4096, (32768, 32768))],
)
def test_native_size(tmp_path: Path, sample_size: Any, size: tuple[int, int]) -> None:
    configure(tmp_path, unet={"sample_size": sample_size})
    assert native_size(tmp_path) == size


@pytest.mark.parametrize(
    "value", ["64", -1, 4097, 1e999, 2**63, [64], [1, 2, 3], [64, "64"], {1: 2}]
)
def test_absurd_native_sizes(tmp_path: Path, value: Any) -> None:
    configure(tmp_path, unet={"sample_size": value})
    with pytest.raises(ArgumentError, match="sample_size must be "):
        native_size(tmp_path)


@pytest.mark.parametrize("value", ["4", -1, 2**16 + 1, 1e999, 2**63, [4], True, 4.0])
@pytest.mark.parametrize(
    ("component", "key"),
    [
        ("text_encoder", "max_position_embeddings"),
        ("unet", "in_channels"),
        ("unet", "cross_attention_dim"),
        ("unet", "time_cond_proj_dim"),
    ],
)
def test_absurd_numbers_in_configs(tmp_path: Path, component: str, key: str, value: Any) -> None:
    configure(tmp_path, **{component: {key: value}})
    with pytest.raises(ArgumentError, match=f"^{key} must be "):
        input_shapes("unet", tmp_path, (512, 512))


def test_largest_number_of_a_config(tmp_path: Path) -> None:
    configure(tmp_path, text_encoder={"max_position_embeddings": 2**16})
    assert input_shapes("text_encoder", tmp_path, (8, 8)) == {"input_ids": (1, 65536)}
    configure(tmp_path, text_encoder={"max_position_embeddings": 1})
    assert input_shapes("text_encoder", tmp_path, (8, 8)) == {"input_ids": (1, 1)}


def test_broken_config(tmp_path: Path) -> None:
    configure(tmp_path, unet={})
    (tmp_path / "unet" / "config.json").write_text("[")
    with pytest.raises(BundleError, match="not valid JSON"):
        input_shapes("unet", tmp_path, (8, 8))


@pytest.mark.parametrize(
    ("text", "size"),
    [("512x384", (512, 384)), (" 8X16 ", (8, 16)), ("4096x1", (4096, 1))],
)
def test_sizes_as_text(text: str, size: tuple[int, int]) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["4097x8", "8x4097", "0x8", "8x0"])
def test_sizes_out_of_range(text: str) -> None:
    with pytest.raises(ArgumentError) as error:
        parse_size(text)
    assert str(error.value) == f"size must be at most 4096x4096, not {text}"


@pytest.mark.parametrize("text", ["8", "8x", "axb", "", None, 8])
def test_no_sizes(text: Any) -> None:
    with pytest.raises(ArgumentError, match="size must be WIDTHxHEIGHT"):
        parse_size(text)


def test_what_networks_take_and_give() -> None:
    assert {"timestep_cond"} == shapes.OPTIONAL_INPUTS
    assert shapes.OUTPUT_RANKS == {
        "text_encoder": 3, "unet": 4, "vae_encoder": 4, "vae_decoder": 4
    }  # fmt: skip

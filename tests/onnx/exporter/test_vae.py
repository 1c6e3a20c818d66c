"""`--vae`: another VAE for a checkpoint, beside diffusers and TAESD's own definition."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import save_file
from torch import Tensor, nn

from lcmcore.bundle import VaeConfig
from lcmcore.errors import BundleError
from lcmcore.util.configfile import read_object
from runtimes.onnx.checkpoint.modules import load
from tests.onnx.exporter import original
from tests.onnx.exporter.tiny_configs import (
    VAE_WIDTHS,
    open_checkpoint,
    pipeline,
    tensors,
    write_checkpoint,
    write_configs,
)

pytestmark = pytest.mark.filterwarnings("default")  # torch and diffusers warn of one another
TOLERANCE = 1e-5


class Block(nn.Module):
    """As in madebyollin's taesd.py."""

    def __init__(self) -> None:
        super().__init__()
        convs = (nn.Conv2d(64, 64, 3, padding=1) for _ in range(3))
        self.conv = nn.Sequential(next(convs), nn.ReLU(), next(convs), nn.ReLU(), next(convs))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv(x) + x)


class Clamp(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x / 3) * 3


def taesd() -> tuple[nn.Sequential, nn.Sequential]:
    """Encoder of images from 0 to 1, decoder to those."""
    encoder: list[nn.Module] = [nn.Conv2d(3, 64, 3, padding=1), Block()]
    for _ in range(3):
        encoder += [
            nn.Conv2d(64, 64, 3, padding=1, stride=2, bias=False),
            Block(),
            Block(),
            Block(),
        ]
    decoder: list[nn.Module] = [Clamp(), nn.Conv2d(4, 64, 3, padding=1), nn.ReLU()]
    for _ in range(3):
        decoder += [Block(), Block(), Block(), nn.Upsample(scale_factor=2)]
        decoder += [nn.Conv2d(64, 64, 3, padding=1, bias=False)]
    encoder += [nn.Conv2d(64, 4, 3, padding=1)]
    decoder += [Block(), nn.Conv2d(64, 3, 3, padding=1)]
    return nn.Sequential(*encoder), nn.Sequential(*decoder)


@pytest.fixture
def words(tmp_path: Path) -> tuple[Any, ...]:
    """A checkpoint of one file, and its configs."""
    checkpoint = write_checkpoint(tmp_path / "model.safetensors")
    return tmp_path, checkpoint, "--config-from", write_configs(tmp_path / "configs")


@torch.no_grad()
@pytest.mark.parametrize("given", ["folder", "encoder", "decoder"])
def test_pair_of_taesd(tmp_path: Path, words: tuple[Any, ...], given: str) -> None:
    torch.manual_seed(0)
    encoder, decoder = taesd()
    save_file(encoder.state_dict(), tmp_path / "taesd_encoder.safetensors")
    save_file(decoder.state_dict(), tmp_path / "taesd_decoder.safetensors")
    path = tmp_path if given == "folder" else tmp_path / f"taesd_{given}.safetensors"
    source = open_checkpoint(*words, "--vae", path)
    vae = load(source.checkpoint, "vae")
    image, latents = torch.rand(1, 3, 32, 48), torch.randn(1, 4, 4, 6)
    assert (vae.encode(image * 2 - 1).latents - encoder(image)).abs().max() < TOLERANCE
    assert (vae.decode(latents).sample - (decoder(latents) * 2 - 1)).abs().max() < TOLERANCE
    config = VaeConfig.from_config(read_object(source.checkpoint.root / "vae" / "config.json"))
    assert (config.factor, config.scaling_factor) == (8, 1.0)
    assert set(source.record["vae"]) == {"file", "encoder_sha256", "decoder_sha256"}


@torch.no_grad()
@pytest.mark.parametrize("prefix", ["first_stage_model.", ""], ids=["within", "alone"])
def test_single_file(tmp_path: Path, words: tuple[Any, ...], prefix: str) -> None:
    """In a checkpoint, or by itself, as vae-ft-mse-840000-ema-pruned is, with what trained it."""
    state = original.random_tensors(original.vae(VAE_WIDTHS), seed=5)
    state = {prefix + name.removeprefix("first_stage_model."): each for name, each in state.items()}
    state[f"{prefix}loss.logvar"] = torch.zeros(())
    save_file(state, tmp_path / "vae.safetensors")
    source = open_checkpoint(*words, "--vae", tmp_path / "vae.safetensors")
    vae = load(source.checkpoint, "vae")
    want = AutoencoderKL.from_single_file(
        str(tmp_path / "vae.safetensors"), config=str(tmp_path / "configs"), subfolder="vae",
        local_files_only=True,
    )  # fmt: skip
    latents = torch.randn(1, 4, 8, 8)
    difference = (vae.decode(latents).sample - want.decode(latents).sample).abs().max()
    assert difference < TOLERANCE * want.decode(latents).sample.abs().max()
    assert len(source.record["vae"]["sha256"]) == 64


@torch.no_grad()
@pytest.mark.parametrize("within", [False, True], ids=["vae", "checkpoint"])
def test_folder_for_a_folder(tmp_path: Path, within: bool) -> None:
    """Both in diffusers' layout; nothing of the checkpoint is changed."""
    torch.manual_seed(1)
    first, second = pipeline(), pipeline()
    second.vae.register_to_config(scaling_factor=0.5)
    first.save_pretrained(tmp_path / "first")
    second.save_pretrained(tmp_path / "second")
    before = (tmp_path / "first" / "vae" / "config.json").read_bytes()
    other = tmp_path / "second" if within else tmp_path / "second" / "vae"
    stage = tmp_path / "stage"
    stage.mkdir()
    source = open_checkpoint(stage, tmp_path / "first", "--vae", other)
    latents = torch.randn(1, 4, 8, 8)
    got = load(source.checkpoint, "vae").decode(latents).sample
    assert torch.equal(got, second.vae.decode(latents).sample)
    assert read_object(stage / "vae" / "config.json")["scaling_factor"] == 0.5
    assert (tmp_path / "first" / "vae" / "config.json").read_bytes() == before


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"scaling_factor": 0.13025}, "a VAE for Stable Diffusion XL"),
        ({"latent_channels": 16}, "a VAE of 16 latent channels, and the UNet has 4"),
        ({"_class_name": "VQModel"}, "VQModel is not one of AutoencoderKL, AutoencoderTiny"),
    ],
)
def test_folders_that_do_not_fit(
    tmp_path: Path, words: tuple[Any, ...], config: dict[str, Any], message: str
) -> None:
    import json

    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text(json.dumps(config))
    with pytest.raises(BundleError, match=message):
        open_checkpoint(*words, "--vae", tmp_path / "other")


def test_files_that_are_none(tmp_path: Path, words: tuple[Any, ...]) -> None:
    path = tmp_path / "vae.safetensors"
    save_file({"emb_params": torch.zeros(1, 768)}, path)
    with pytest.raises(BundleError, match="no VAE, but a textual inversion"):
        open_checkpoint(*words, "--vae", path)
    save_file({"decoder.up_blocks.0.resnets.0.conv1.weight": torch.zeros(1)}, path)
    with pytest.raises(BundleError, match="in diffusers' layout: give the folder"):
        open_checkpoint(*words, "--vae", path)
    state = tensors()
    state["first_stage_model.decoder.conv_in.weight"][:] = torch.inf
    save_file(state, path)
    with pytest.raises(BundleError, match=r"decoder\.conv_in\.weight holds NaN or infinities"):
        open_checkpoint(*words, "--vae", path)
    with pytest.raises(BundleError, match=r"no config\.json, and no pair"):
        open_checkpoint(*words, "--vae", tmp_path / "configs" / "scheduler")

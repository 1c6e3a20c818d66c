"""What is no checkpoint or no LoRA is named for what it is, in one line, and nothing is written."""

from __future__ import annotations

import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lcmcore.errors import LcmError
from tests.onnx.exporter.tiny_configs import export, tensors, write_checkpoint, write_configs

pytestmark = pytest.mark.filterwarnings("default")  # torch and diffusers warn of one another


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bad")
    write_checkpoint(root / "model.safetensors")
    write_configs(root / "configs")
    return root


def refusal(files: Path, tmp_path: Path, checkpoint: Path, *words: object) -> str:
    """The message; asserts that it is one line, and that no output folder was made."""
    out = tmp_path / "out"
    with pytest.raises(LcmError) as caught:
        export(checkpoint, out, "--config-from", files / "configs", *words)
    assert not out.exists()
    message = str(caught.value)
    assert "\n" not in message and len(message) < 400
    return message


class _Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:300_000])


def _cut_in_header(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


def _huge_header(path: Path) -> None:
    path.write_bytes(struct.pack("<Q", 2**60) + path.read_bytes()[8:])


def _nan(path: Path) -> None:
    state = tensors()
    state["model.diffusion_model.middle_block.0.in_layers.2.weight"][0, 0, 0, 0] = torch.nan
    save_file(state, path)


def _pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps({"state_dict": _Evil(path.with_name("ran"))}))


def _torch_pickle(path: Path) -> None:
    torch.save({"state_dict": {**tensors(), "x": _Evil(path.with_name("ran"))}}, path)


def _pointer(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")


def _text(path: Path) -> None:
    path.write_text("not weights, but a text that somebody wrote")


def _missing_layer(path: Path) -> None:
    state = tensors()
    del state["model.diffusion_model.middle_block.1.norm.weight"]
    save_file(state, path)


def _other_width(path: Path) -> None:
    state = tensors()
    state["model.diffusion_model.out.2.weight"] = torch.zeros(4, 16, 3, 3)
    save_file(state, path)


def _more_layers(path: Path) -> None:
    save_file(
        {**tensors(), "model.diffusion_model.middle_block.3.norm.weight": torch.ones(3)}, path
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_cut, "cut short, or its header does not fit the data: download it again"),
        (_cut_in_header, "cut short within its header: download it again"),
        (_huge_header, "not a .safetensors file: its header would be larger than 100 MB"),
        (_nan, "model.diffusion_model.middle_block.0.in_layers.2.weight holds NaN or infinities"),
        (_pickle, "a pickle that asks for more than tensors, which is never run"),
        (_torch_pickle, "a pickle that asks for more than tensors, which is never run"),
        (_torch_pickle, "a pickle of torch that is named .safetensors"),
        (_pointer, "a Git LFS pointer, not the file itself"),
        (_text, "not a .safetensors file"),
        (Path.unlink, "no such file"),
        (
            _missing_layer,
            "tensors of unet are missing, model.diffusion_model.middle_block.1.norm.weight",
        ),
        (
            _other_width,
            "model.diffusion_model.out.2.weight is [4, 16, 3, 3] instead of [4, 8, 3, 3]",
        ),
        (
            _more_layers,
            "1 tensors fit nothing in the unet, model.diffusion_model.middle_block.3.norm",
        ),
    ],
)
def test_broken_checkpoints(
    files: Path, tmp_path: Path, change: Callable[[Path], None], words: str
) -> None:
    suffix = "ckpt" if "never run" in words else "safetensors"
    path = write_checkpoint(tmp_path / f"model.{suffix}")
    change(path)
    assert words in refusal(files, tmp_path, path)
    assert not (tmp_path / "ran").exists()


XL = "conditioner.embedders.1.model.transformer.resblocks.9.mlp.c_proj.bias"
FIRST = "model.diffusion_model.input_blocks.0.0.weight"


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ({XL: (1280,), FIRST: (320, 4, 3, 3)}, "a checkpoint of Stable Diffusion XL"),
        (
            {"conditioner.embedders.0.model.text_projection": (4, 4)},
            "the refiner of Stable Diffusion XL",
        ),
        (
            {"model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight": (4, 4)},
            "a checkpoint of Stable Diffusion 3",
        ),
        (
            {"model.diffusion_model.double_blocks.0.img_attn.norm.key_norm.scale": (4,)},
            "a checkpoint of Flux",
        ),
        ({FIRST: (320, 9, 3, 3)}, "for inpainting, with a UNet of 9 input channels"),
        ({FIRST: (320, 8, 3, 3)}, "for InstructPix2Pix"),
        ({FIRST: (320, 4, 3, 3)}, "a checkpoint without a VAE"),
        ({"control_model.time_embed.0.weight": (4, 4)}, "a ControlNet"),
        ({"controlnet_cond_embedding.conv_in.weight": (4, 4)}, "a ControlNet"),
        (
            {"lora_unet_mid_block_attentions_0_proj_in.lora_down.weight": (4, 4)},
            "a LoRA: give it with --lora",
        ),
        ({"encoder.conv_in.weight": (4, 4)}, "a VAE: give it with --vae"),
        ({"emb_params": (2, 768)}, "a textual inversion: give it with --embedding"),
        (
            {"down_blocks.0.resnets.0.conv1.weight": (4, 4)},
            "a UNet in diffusers' layout: give the folder",
        ),
        ({"something": (1,)}, "not a checkpoint in Stability's layout"),
    ],
)
def test_other_files_are_named(
    files: Path, tmp_path: Path, shapes: dict[str, tuple[int, ...]], words: str
) -> None:
    path = tmp_path / "model.safetensors"
    save_file({name: torch.zeros(shape) for name, shape in shapes.items()}, path)
    assert words in refusal(files, tmp_path, path)


DOWN = "lora_unet_mid_block_attentions_0_transformer_blocks_0_{}.lora_down.weight"
UP = DOWN.replace("down.weight", "up.weight")


def _lora(path: Path, down: tuple[int, ...], up: tuple[int, ...], name: str = "attn2_to_k") -> None:
    save_file({DOWN.format(name): torch.zeros(down), UP.format(name): torch.zeros(up)}, path)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda path: _lora(path, (4, 2048), (1280, 4)),
            "for Stable Diffusion XL, and the checkpoint is",
        ),
        (
            lambda path: _lora(path, (4, 1024), (32, 4)),
            "for Stable Diffusion 2.x, and the checkpoint is",
        ),
        (
            lambda path: _lora(path, (4, 40), (32, 4), "attn1_to_k"),
            "attn1_to_k (down [4, 40], up [32, 4]) does not fit a weight of [32, 32]",
        ),
        (
            lambda path: save_file({"lora_unet_x.lora_down.weight": torch.zeros(1)}, path),
            "not a LoRA",
        ),
        (lambda path: save_file(tensors(), path), "not a LoRA"),
        (
            lambda path: _lora(path, (4, 4), (4, 4), "attn9_to_k"),
            "none of its layers is in the checkpoint",
        ),
        (
            lambda path: save_file({"lora_unet_x.lokr_w1": torch.zeros(1)}, path),
            "LoKr is not supported",
        ),
        (
            lambda path: save_file({"lora_unet_x.dora_scale": torch.zeros(1)}, path),
            "DoRA is not supported",
        ),
        (
            lambda path: save_file(
                {
                    "transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight": torch.zeros(
                        1, 1
                    ),
                    "transformer.single_transformer_blocks.0.attn.to_q.lora_B.weight": torch.zeros(
                        1, 1
                    ),
                },
                path,
            ),
            "for Flux",
        ),
        (_pointer, "a Git LFS pointer"),
        (_pickle, "a pickle of torch that is named .safetensors"),
    ],
)
def test_loras_that_do_not_fit(
    files: Path, tmp_path: Path, make: Callable[[Path], None], words: str
) -> None:
    path = tmp_path / "lora.safetensors"
    make(path)
    assert words in refusal(files, tmp_path, files / "model.safetensors", "--lora", path)
    assert not (tmp_path / "ran").exists()


def test_nan_in_a_lora(files: Path, tmp_path: Path) -> None:
    state = {DOWN.format("attn1_to_k"): torch.full((4, 32), torch.nan)}
    state[UP.format("attn1_to_k")] = torch.zeros(32, 4)
    path = tmp_path / "lora.safetensors"
    save_file(state, path)
    message = refusal(files, tmp_path, files / "model.safetensors", "--lora", path)
    assert "attn1_to_k.lora_down.weight holds NaN or infinities: a broken file" in message


@pytest.mark.parametrize("scale", ["nan", "inf", "1000"])
def test_scales(files: Path, tmp_path: Path, scale: str) -> None:
    words = ("--lora", f"x.safetensors:{scale}")
    assert "the scale must be" in refusal(files, tmp_path, files / "model.safetensors", *words)


def test_configs_of_another_model(files: Path, tmp_path: Path) -> None:
    (files / "configs").rename(tmp_path / "configs")
    try:
        message = refusal(files, tmp_path, files / "model.safetensors")
        assert "--config-from" in message and "no text_encoder/config.json" in message
    finally:
        (tmp_path / "configs").rename(files / "configs")

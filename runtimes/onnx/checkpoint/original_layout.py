"""Names of tensors in Stability's layout, for the names that they have in diffusers' modules.

The layout is that of CompVis' latent-diffusion (`openaimodel.py`, and `model.py` of the VAE) and of
OpenCLIP: blocks are numbered through, where diffusers nests them in levels.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

from torch import Tensor

from runtimes.onnx.checkpoint.kinds import CLIP, OPEN_CLIP, Shapes

Rename: TypeAlias = "Callable[[str], str]"  # from a name in diffusers' module

_UNET_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "time_embedding.cond_proj": "time_embed.cond_proj",  # of LCMs: the guidance scale
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_UNET_RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0", "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
_VAE_ATTENTION = {
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}
_OPEN_CLIP = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm": "ln_final",
    "layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}  # fmt: skip
_BLOCK = re.compile(
    r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)"
)
_MIDDLE = re.compile(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)")
_PROJECTION = re.compile(r"(.*\.)self_attn\.([qkv])_proj\.(weight|bias)")


def unet_names(config: Mapping[str, object], names: Iterable[str]) -> Rename:
    """Of a UNet2DConditionModel's tensors or modules, without the prefix of the UNet.

    `config` has its layers_per_block; `names` are all names of the module.
    """
    layers = config["layers_per_block"]
    if type(layers) is not int:
        raise ValueError(f"layers_per_block is {layers}: one number is needed")
    attending = {name.split(".")[1] for name in names if re.match(r"up_blocks\.\d+\.att", name)}

    def rename(name: str) -> str:
        middle, block = _MIDDLE.match(name), _BLOCK.match(name)
        if middle is not None:
            kind, index, rest = middle.groups()
            number = 2 * int(index) + (kind == "attentions")
            return f"middle_block.{number}.{_renamed(rest, _UNET_RESNET)}"
        if block is None:
            return _renamed(name, _UNET_ENDS)
        side, level, kind, index, rest = block.groups()
        place = (layers + 1) * int(level) + int(index)
        if kind == "downsamplers":
            return (
                f"input_blocks.{(layers + 1) * (int(level) + 1)}.0.{rest.replace('conv', 'op', 1)}"
            )
        if kind == "upsamplers":
            return f"output_blocks.{place + layers}.{2 if level in attending else 1}.{rest}"
        where = f"input_blocks.{place + 1}" if side == "down" else f"output_blocks.{place}"
        if kind == "attentions":
            return f"{where}.1.{rest}"
        return f"{where}.0.{_renamed(rest, _UNET_RESNET)}"

    return rename


def vae_names(levels: int) -> Rename:
    """Of an AutoencoderKL's tensors, without the prefix of the VAE; `levels` of its resolution."""

    def rename(name: str) -> str:
        half, _, inner = name.partition(".")
        middle, block = _MIDDLE.match(inner), _BLOCK.match(inner)
        if middle is not None:
            kind, index, rest = middle.groups()
            if kind == "attentions":
                return f"{half}.mid.attn_1.{_renamed(rest, _VAE_ATTENTION)}"
            return f"{half}.mid.block_{int(index) + 1}.{_shortcut(rest)}"
        if block is None:
            return name.replace("conv_norm_out", "norm_out")
        side, level, kind, index, rest = block.groups()
        number = int(level) if side == "down" else levels - 1 - int(level)
        if kind == "resnets":
            return f"{half}.{side}.{number}.block.{index}.{_shortcut(rest)}"
        return f"{half}.{side}.{number}.{side}sample.{rest}"

    return rename


def tiny_vae_name(name: str) -> str:
    """Of an AutoencoderTiny's tensors, in TAESD's pair: its decoder begins with a clamp."""
    half, _, number, *rest = name.split(".")
    place = int(number) + (half == "decoder")
    return ".".join([half, str(place), *rest])


def text_encoder_names(shapes: Shapes) -> Rename:
    """Of a CLIPTextModel's tensors, without "text_model.", to whole names in a file's `shapes`."""
    if any(name.startswith(OPEN_CLIP) for name in shapes):
        return _open_clip_name
    wrapped = any(name.startswith(f"{CLIP}text_model.") for name in shapes)
    prefix = f"{CLIP}text_model." if wrapped else CLIP  # some tools that merge leave it out
    return lambda name: f"{prefix}{name}"


def _open_clip_name(name: str) -> str:
    projection = _PROJECTION.match(name)
    if projection is not None:  # one tensor holds all three: `part_of` cuts it
        where, _, kind = projection.groups()
        name = f"{where}attn.in_proj_{kind}"
    for ours, theirs in _OPEN_CLIP.items():
        name = name.replace(ours, theirs)
    return OPEN_CLIP + name.replace("encoder.layers.", "transformer.resblocks.")


def part_of(name: str, tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The tensor `name` of a module, of `shape`, from the file's: a third of it, or reshaped.

    OpenCLIP's queries, keys and values are one tensor; 1x1 convolutions and linear layers are
    used for each other. Raises ValueError for other shapes.
    """
    projection = _PROJECTION.match(name)
    if projection is not None and tensor.shape[0] == 3 * shape[0]:
        return tensor.chunk(3)["qkv".index(projection.group(2))].clone()
    if tuple(tensor.shape) != shape and _squeezed(tensor.shape) != _squeezed(shape):
        raise ValueError(f"{list(tensor.shape)} instead of {list(shape)}")
    return tensor.reshape(shape)


def _squeezed(shape: Iterable[int]) -> list[int]:
    return [side for side in shape if side != 1]


def _renamed(name: str, table: Mapping[str, str]) -> str:
    """The name with its beginning replaced, where the table has it."""
    for ours, theirs in table.items():
        if name == ours or name.startswith(f"{ours}."):
            return theirs + name[len(ours) :]
    return name


def _shortcut(name: str) -> str:
    return name.replace("conv_shortcut", "nin_shortcut")

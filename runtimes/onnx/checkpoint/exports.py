"""The four networks of a diffusers checkpoint, as torch modules to be exported to ONNX."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from lcmcore.errors import BundleError
from lcmcore.util.configfile import read_object
from runtimes.onnx.checkpoint.modules import Checkpoint, load

LatentSize: TypeAlias = "tuple[int, int, int]"  # batch, height, width

CONFIG_SOURCES: Mapping[str, str] = {  # component -> folder of the checkpoint
    "text_encoder": "text_encoder",
    "unet": "unet",
    "vae_encoder": "vae",
    "vae_decoder": "vae",
}
_TIMESTEP = 499


@dataclass(frozen=True)
class Export:
    """One network: the module to trace, its example inputs, and the name of its output.

    `example` makes inputs for latents of (batch, height, width), `axes` are the free dimensions
    of the inputs, and the latents' sides must be multiples of `multiple`.
    """

    module: nn.Module
    output: str
    axes: dict[str, dict[int, str]]
    example: Callable[[LatentSize], dict[str, Tensor]]
    factor: int  # pixels per latent
    multiple: int


def load_export(component: str, checkpoint: Checkpoint) -> Export:
    """Load one component in float32; raises BundleError for a model that cannot be exported."""
    torch.manual_seed(0)  # for the example inputs
    loaders = {
        "text_encoder": _text_encoder,
        "unet": _unet,
        "vae_encoder": _vae_encoder,
        "vae_decoder": _vae_decoder,
    }
    return loaders[component](checkpoint)


def latent_scale(checkpoint: Path) -> tuple[int, int]:
    """(pixels per latent, multiple of the latents' sides) by the configs."""
    vae = read_object(checkpoint / "vae" / "config.json")
    unet = read_object(checkpoint / "unet" / "config.json")
    channels = vae.get("block_out_channels") or vae["decoder_block_out_channels"]
    return 2 ** (len(channels) - 1), 2 ** (len(unet["block_out_channels"]) - 1)


class _TextEncoder(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.model(input_ids).last_hidden_state


class _Unet(nn.Module):
    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        timestep_cond: Tensor | None = None,
    ) -> Tensor:
        result = self.unet(
            sample,
            timestep,
            encoder_hidden_states,
            timestep_cond=timestep_cond,
            return_dict=False,
        )
        return result[0]


class _VaeEncoder(nn.Module):
    """Moments (mean, then log variance) of an AutoencoderKL; latents of an AutoencoderTiny."""

    def __init__(self, vae: nn.Module) -> None:
        super().__init__()
        self.encoder = vae.encoder
        self.quant_conv = getattr(vae, "quant_conv", None) or nn.Identity()

    def forward(self, sample: Tensor) -> Tensor:
        return self.quant_conv(self.encoder(sample))


class _VaeDecoder(nn.Module):
    def __init__(self, vae: nn.Module) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, latent_sample: Tensor) -> Tensor:
        return self.vae.decode(latent_sample, return_dict=False)[0]


def _text_encoder(checkpoint: Checkpoint) -> Export:
    text = load(checkpoint, "text_encoder")
    length, tokens = text.config.max_position_embeddings, text.config.vocab_size
    return Export(
        module=_TextEncoder(text),
        output="last_hidden_state",
        axes={"input_ids": {0: "batch_size", 1: "sequence_length"}},
        example=lambda size: {"input_ids": torch.randint(tokens, (size[0], length))},
        **_scale(checkpoint.root),
    )


def _unet(checkpoint: Checkpoint) -> Export:
    unet = load(checkpoint, "unet")
    config = unet.config
    if config.addition_embed_type is not None:
        raise BundleError(
            f"{checkpoint.root / 'unet'}: needs added conditions ({config.addition_embed_type}), as"
            " Stable Diffusion XL does: only Stable Diffusion 1.x and 2.x are supported"
        )
    guidance = config.time_cond_proj_dim
    length = _optional(checkpoint.root, "text_encoder").get("max_position_embeddings", 77)

    def example(size: LatentSize) -> dict[str, Tensor]:
        batch, height, width = size
        inputs = {
            "sample": torch.randn(batch, config.in_channels, height, width),
            "timestep": torch.tensor([_TIMESTEP]),
            "encoder_hidden_states": torch.randn(batch, length, config.cross_attention_dim),
        }
        return inputs if guidance is None else {
            **inputs, "timestep_cond": torch.randn(batch, guidance)
        }  # fmt: skip

    axes = {
        "sample": {0: "batch_size", 2: "height", 3: "width"},
        "encoder_hidden_states": {0: "batch_size", 1: "sequence_length"},
    }
    if guidance is not None:
        axes["timestep_cond"] = {0: "batch_size"}
    return Export(_Unet(unet), "out_sample", axes, example, **_scale(checkpoint.root))


def _vae_encoder(checkpoint: Checkpoint) -> Export:
    vae = load(checkpoint, "vae")
    scale = _scale(checkpoint.root)
    factor = scale["factor"]
    return Export(
        module=_VaeEncoder(vae),
        output="latent_parameters",
        axes={"sample": {0: "batch_size", 2: "height", 3: "width"}},
        example=lambda size: {
            "sample": torch.rand(size[0], 3, factor * size[1], factor * size[2]) * 2 - 1
        },
        **scale,
    )


def _vae_decoder(checkpoint: Checkpoint) -> Export:
    vae = load(checkpoint, "vae")
    channels = vae.config.latent_channels
    return Export(
        module=_VaeDecoder(vae),
        output="sample",
        axes={"latent_sample": {0: "batch_size", 2: "latent_height", 3: "latent_width"}},
        example=lambda size: {"latent_sample": torch.randn(size[0], channels, *size[1:])},
        **_scale(checkpoint.root),
    )


def _scale(checkpoint: Path) -> dict[str, int]:
    factor, multiple = latent_scale(checkpoint)
    return {"factor": factor, "multiple": multiple}


def _optional(checkpoint: Path, folder: str) -> dict[str, Any]:
    path = checkpoint / folder / "config.json"
    return read_object(path) if path.exists() else {}

"""Tiny networks of random weights, and the same as bundles for ONNX Runtime in `tests/tiny`.

They draw nothing, but answer to every input: prompt, guidance, timestep, latents. `lcm` is a whole
bundle, exported as today's optimum does it; `sd` has what differs in a Stable Diffusion (a UNet
without timestep_cond, a PNDM scheduler config), `taesd` a tiny autoencoder (4 channels, no
moments).
"""

import io
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    ConfigMixin,
    LCMScheduler,
    PNDMScheduler,
    UNet2DConditionModel,
)
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from .clip import LENGTH, vocabulary, write_tokenizer
from .files import TINY, save_json
from .reference import Model

OPSET = 17
SEED = 3
MERGES = [("s", "n"), ("sn", "o"), ("sno", "w</w>"), ("t", "r"), ("tr", "e"), ("a", "t</w>")]
_BATCH = {0: "batch_size"}
_SIZE = {**_BATCH, 2: "height", 3: "width"}
_LATENT_SIZE = {**_BATCH, 2: "latent_height", 3: "latent_width"}
_SEQUENCE = {**_BATCH, 1: "sequence_length"}


def build() -> dict[str, Model]:
    """The networks in torch, by the name of their bundle; the same at every call."""
    torch.manual_seed(SEED)
    tokenizer = write_tokenizer(TINY / "lcm" / "tokenizer", vocabulary(MERGES), MERGES)
    text, vae, taesd = _text_encoder(len(tokenizer)), _vae(), _taesd()
    lcm, sd = _unet(time_cond_proj_dim=256), _unet(time_cond_proj_dim=None)
    for network in (text, vae, taesd, lcm, sd):
        network.eval().requires_grad_(False)
    defaults = _config(LCMScheduler())
    pndm = PNDMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        steps_offset=1,
        skip_prk_steps=True,
    )
    return {
        "lcm": Model(tokenizer, text, lcm, vae, defaults),
        "sd": Model(tokenizer, text, sd, vae, _config(pndm)),
        "taesd": Model(tokenizer, text, lcm, taesd, defaults),
    }


def export(models: Mapping[str, Model]) -> None:
    """Write what each bundle has of its own."""
    lcm, sd, taesd = (models[name] for name in ("lcm", "sd", "taesd"))
    _export_text_encoder(lcm.text_encoder, TINY / "lcm")
    _export_unet(lcm.unet, TINY / "lcm")
    _export_vae(lcm.vae, TINY / "lcm")
    _export_unet(sd.unet, TINY / "sd")
    _export_vae(taesd.vae, TINY / "taesd")
    for name in ("lcm", "sd"):
        folder = TINY / name / "scheduler"
        save_json(folder / "scheduler_config.json", models[name].scheduler_config)


def _text_encoder(tokens: int) -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=tokens,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        bos_token_id=tokens - 2,
        eos_token_id=tokens - 1,
        pad_token_id=tokens - 1,
    )
    return CLIPTextModel(config)


def _unet(time_cond_proj_dim: int | None) -> UNet2DConditionModel:
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=16,
        attention_head_dim=2,
        time_cond_proj_dim=time_cond_proj_dim,
    )
    _amplify(unet, 2)
    return unet


def _vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(4, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        norm_num_groups=4,
    )


def _taesd() -> AutoencoderTiny:
    vae = AutoencoderTiny(
        encoder_block_out_channels=(8,) * 4,
        decoder_block_out_channels=(8,) * 4,
        num_encoder_blocks=(1,) * 4,
        num_decoder_blocks=(1,) * 4,
    )
    _amplify(vae.encoder.layers[-1], 20)
    _amplify(vae.decoder.layers[-1], 4)
    vae.decoder.layers[-1].bias.data.add_(0.4)  # else nearly all of the image is black
    return vae


def _config(part: ConfigMixin) -> dict[str, Any]:
    """As diffusers would save it."""
    return json.loads(part.to_json_string())


def _amplify(network: nn.Module, gain: float) -> None:
    """Random weights as they are initialized hardly answer to prompt, guidance and time."""
    for parameter in network.parameters():
        if parameter.ndim > 1:
            parameter.data.mul_(gain)


class _TextEncoder(nn.Module):
    def __init__(self, model: CLIPTextModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        output = self.model(input_ids)
        return output.last_hidden_state, output.pooler_output


class _Unet(nn.Module):
    def __init__(self, model: UNet2DConditionModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, sample: Tensor, timestep: Tensor, text: Tensor, guidance: Tensor | None = None
    ) -> Tensor:
        return self.model(sample, timestep, text, timestep_cond=guidance).sample


def _export_text_encoder(model: CLIPTextModel, bundle: Path) -> None:
    folder = bundle / "text_encoder"
    save_json(folder / "config.json", model.config.to_dict())
    _export(
        _TextEncoder(model),
        folder,
        inputs={"input_ids": torch.ones(2, LENGTH, dtype=torch.int64)},
        outputs=("last_hidden_state", "pooler_output"),
        axes={"input_ids": _SEQUENCE, "last_hidden_state": _SEQUENCE, "pooler_output": _BATCH},
    )


def _export_unet(model: UNet2DConditionModel, bundle: Path) -> None:
    folder = bundle / "unet"
    save_json(folder / "config.json", _config(model))
    inputs = {
        "sample": torch.randn(2, 4, 8, 8),
        "timestep": torch.tensor(499),
        "encoder_hidden_states": torch.randn(2, LENGTH, model.config.cross_attention_dim),
    }
    if width := model.config.time_cond_proj_dim:
        inputs["timestep_cond"] = torch.randn(2, width)
    axes = {
        "sample": _SIZE,
        "encoder_hidden_states": _SEQUENCE,
        "timestep_cond": _BATCH,
        "out_sample": _SIZE,
    }
    _export(_Unet(model), folder, inputs, ("out_sample",), axes)


def _export_vae(model: AutoencoderKL | AutoencoderTiny, bundle: Path) -> None:
    """Both halves; the quantizing convolutions of an AutoencoderKL belong to them."""
    encoder, decoder = [model.encoder], [model.decoder]
    output = "latent_sample"
    if isinstance(model, AutoencoderKL):
        encoder, decoder = [*encoder, model.quant_conv], [model.post_quant_conv, *decoder]
        output = "latent_parameters"
    for half in ("vae_encoder", "vae_decoder"):
        save_json(bundle / half / "config.json", _config(model))
    _export(
        nn.Sequential(*encoder),
        bundle / "vae_encoder",
        inputs={"sample": torch.randn(2, 3, 64, 64)},
        outputs=(output,),
        axes={"sample": _SIZE, output: _LATENT_SIZE},
    )
    _export(
        nn.Sequential(*decoder),
        bundle / "vae_decoder",
        inputs={"latent_sample": torch.randn(2, 4, 8, 8)},
        outputs=("sample",),
        axes={"latent_sample": _LATENT_SIZE, "sample": _SIZE},
    )


def _export(
    module: nn.Module,
    folder: Path,
    inputs: dict[str, Tensor],
    outputs: tuple[str, ...],
    axes: dict[str, dict[int, str]],
) -> None:
    file = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of the older exporter, and shapes that the trace keeps
        torch.onnx.export(
            module,
            tuple(inputs.values()),
            file,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes={name: axes[name] for name in (*inputs, *outputs) if name in axes},
            opset_version=OPSET,
            dynamo=False,
        )
    model = onnx.load_from_string(file.getvalue())
    _shorten_names(model.graph)
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(model, folder / "model.onnx")


def _shorten_names(graph: onnx.GraphProto) -> None:
    """Nodes and what passes between them are named by a path of modules, a third of the file."""
    kept = {value.name for value in graph.output}
    between = (name for node in graph.node for name in node.output if name not in kept)
    short = {name: str(index) for index, name in enumerate(between)}
    for node in graph.node:
        node.ClearField("name")
        node.input[:] = [short.get(name, name) for name in node.input]
        node.output[:] = [short.get(name, name) for name in node.output]

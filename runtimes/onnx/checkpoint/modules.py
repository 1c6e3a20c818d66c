"""The networks of a checkpoint as torch modules in float32, with what is merged into them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import diffusers
import torch
import transformers
from torch import nn

from lcmcore.errors import BundleError
from lcmcore.util.configfile import read_object
from runtimes.onnx.checkpoint import embedding
from runtimes.onnx.checkpoint import lora as loras
from runtimes.onnx.checkpoint.embedding import Embedding
from runtimes.onnx.checkpoint.kinds import UNET, VAE
from runtimes.onnx.checkpoint.lora import Lora
from runtimes.onnx.checkpoint.original_layout import (
    Rename,
    part_of,
    text_encoder_names,
    tiny_vae_name,
    unet_names,
    vae_names,
)
from runtimes.onnx.checkpoint.weight_file import WeightFile, WeightPair

Weights: TypeAlias = "Path | WeightFile | WeightPair"  # a path is a folder of diffusers' layout

NETWORKS = ("text_encoder", "unet", "vae")
AUTOENCODERS = ("AutoencoderKL", "AutoencoderTiny")
_EAGER = "eager"  # simpler graph: sdpa guards against rows that are all masked


@dataclass(frozen=True)
class Checkpoint:
    """Where networks come from.

    `root` is a folder in diffusers' layout with the configs, the tokenizer and the scheduler;
    `weights` has for each of NETWORKS a folder with weights, or a file in Stability's layout.
    """

    root: Path
    weights: Mapping[str, Weights]
    loras: tuple[Lora, ...] = ()
    embeddings: tuple[Embedding, ...] = ()


def load(checkpoint: Checkpoint, network: str) -> Any:
    """One of NETWORKS in float32, with the LoRAs merged; raises BundleError."""
    weights = checkpoint.weights[network]
    if isinstance(weights, Path):
        model = _pretrained(network, weights)
    else:
        model = _from_file(checkpoint, network, weights)
    for name, tensor in model.named_parameters():
        if not torch.isfinite(tensor).all():
            raise BundleError(f"{weights}: {name} holds NaN or infinities: a broken file")
    if network == "text_encoder" and checkpoint.embeddings:
        embedding.apply(checkpoint.embeddings, model)
    for lora in checkpoint.loras:
        loras.merge(lora, targets(lora, network, model), model)
    return model.eval().requires_grad_(False)


def skeleton(root: Path, network: str) -> Any:
    """The module by its config, without memory for its weights; raises BundleError."""
    with torch.device("meta"):
        if network == "text_encoder":
            config = transformers.CLIPTextConfig.from_pretrained(root / network)
            config._attn_implementation = _EAGER
            return transformers.CLIPTextModel(config)
        kind = _class_of(network, root / network)
        return kind.from_config(kind.load_config(root / network))


def check_fit(root: Path, network: str, file: WeightFile | WeightPair) -> None:
    """Raise BundleError unless the file has the tensors of a network, and no others."""
    model = skeleton(root, network)
    names = _file_names(network, model, file)
    wanted = {name: tuple(each.shape) for name, each in model.state_dict().items()}
    missing = [name for name in names.values() if name not in file.shapes]
    extra = _extra(network, file, set(names.values()))
    remedy = "give the folder of its configs with --config-from"
    if missing:
        raise BundleError(
            f"{file.path}: {len(missing)} of the {len(names)} tensors of {network} are missing,"
            f" {missing[0]} for one: {remedy}"
        )
    for name, shape in wanted.items():
        try:
            part_of(name, torch.empty(file.shapes[names[name]], device="meta"), shape)
        except (ValueError, RuntimeError) as error:
            raise BundleError(f"{file.path}: {names[name]} is {error}: {remedy}") from error
    if extra:
        raise BundleError(
            f"{file.path}: {len(extra)} tensors fit nothing in the {network}, {extra[0]} for one:"
            f" {remedy}"
        )


def targets(lora: Lora, network: str, model: nn.Module) -> dict[str, str]:
    """The layers of a LoRA that are of a network -> the names of the modules."""
    modules = [name for name, each in model.named_modules() if hasattr(each, "weight")]
    if network == "text_encoder":  # transformers 5.6 left `text_model.` out
        bare = {name.removeprefix("text_model."): name for name in modules}
        return lora.matched(network, loras.module_names(modules, bare, _wrapped(bare)))
    if network != "unet":
        return {}
    rename = unet_names(model.config, [name for name, _ in model.named_modules()])
    original = {rename(name): name for name in modules}
    return lora.matched(network, loras.module_names(modules, original))


def _wrapped(bare: Mapping[str, str]) -> dict[str, str]:
    return {f"text_model.{name}": module for name, module in bare.items()}


def _from_file(checkpoint: Checkpoint, network: str, file: WeightFile | WeightPair) -> Any:
    model = skeleton(checkpoint.root, network)
    names = _file_names(network, model, file)
    state = {}
    for name, each in model.state_dict().items():
        tensor = file.read(names[name])
        if name.endswith("token_embedding.weight"):  # rows for words that were added
            tensor = nn.functional.pad(tensor, (0, 0, 0, each.shape[0] - tensor.shape[0]))
        state[name] = part_of(name, tensor, tuple(each.shape))
    model.load_state_dict(state, assign=True)
    for module in model.modules():
        if "position_ids" in dict(module.named_buffers(recurse=False)):
            module.position_ids = torch.arange(module.position_ids.shape[-1])[None]
    return model


def _file_names(network: str, model: nn.Module, file: WeightFile | WeightPair) -> dict[str, str]:
    """The tensors of a module -> their names in a file of Stability's layout."""
    names = list(model.state_dict())
    if network == "text_encoder":
        rename = text_encoder_names(file.shapes)
        return {name: rename(name.removeprefix("text_model.")) for name in names}
    prefix, rename = _renaming(network, model, file)
    return {name: prefix + rename(name) for name in names}


def _renaming(network: str, model: Any, file: WeightFile | WeightPair) -> tuple[str, Rename]:
    if network == "unet":
        return UNET, unet_names(model.config, list(model.state_dict()))
    if isinstance(file, WeightPair):
        return "", tiny_vae_name
    levels = len(model.config.block_out_channels)
    return _vae_prefix(file), vae_names(levels)


def _vae_prefix(file: WeightFile | WeightPair) -> str:
    """Of the VAE within a checkpoint; a file of its own has none."""
    return VAE if any(name.startswith(VAE) for name in file.shapes) else ""


def _extra(network: str, file: WeightFile | WeightPair, used: set[str]) -> list[str]:
    """Tensors of a network that were not asked for; a text encoder may have more layers."""
    if network == "text_encoder":
        return []
    prefixes = (UNET,) if network == "unet" else tuple(
        f"{_vae_prefix(file)}{half}." for half in ("encoder", "decoder")
    )  # fmt: skip
    return [name for name in file.shapes if name.startswith(prefixes) and name not in used]


def _class_of(network: str, folder: Path) -> Any:
    if network == "unet":
        return diffusers.UNet2DConditionModel
    kind = read_object(folder / "config.json").get("_class_name", "AutoencoderKL")
    if kind not in AUTOENCODERS:
        raise BundleError(f"{folder}: {kind} is not one of {', '.join(AUTOENCODERS)}")
    return getattr(diffusers, kind)


def _pretrained(network: str, folder: Path) -> Any:
    """From a folder with weights, of half precision where there are no others."""
    options: dict[str, Any] = {}
    half_only = any(folder.glob("*.fp16.*")) and not any(
        path for path in folder.glob("*.safetensors") if ".fp16." not in path.name
    )
    if half_only:
        options["variant"] = "fp16"
    if network == "text_encoder":
        kind = transformers.CLIPTextModel
        options["attn_implementation"] = _EAGER
    else:
        kind = _class_of(network, folder)
    return kind.from_pretrained(folder, local_files_only=True, torch_dtype=torch.float32, **options)

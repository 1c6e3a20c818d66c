"""LoRAs, merged into the weights of a network: W + scale * alpha / rank * up @ down.

Hu et al., "LoRA" (arXiv:2106.09685); LoHa and the Tucker form of convolutions are those of
LyCORIS (Yeh et al., arXiv:2309.14859), as kohya's sd-scripts and peft compute them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lcmcore.errors import BundleError
from lcmcore.util.configfile import read_object
from lcmcore.util.files import is_file
from runtimes.onnx.checkpoint.kinds import lora_kind
from runtimes.onnx.checkpoint.weight_file import WeightFile

LORA, LOHA = ("down", "up"), ("w1_a", "w1_b", "w2_a", "w2_b")

# How a key ends -> what its tensor is. `.default` is the name of peft's adapter.
_ROLES = (
    (r"\.lora_down\.weight|\.lora_A(?:\.default(?:_0)?)?\.weight|[._]lora\.down\.weight", "down"),
    (r"\.lora_up\.weight|\.lora_B(?:\.default(?:_0)?)?\.weight|[._]lora\.up\.weight", "up"),
    (r"\.lora_linear_layer\.down\.weight", "down"),
    (r"\.lora_linear_layer\.up\.weight", "up"),
    (r"\.lora_mid\.weight", "mid"),
    (r"(?:\.lora_linear_layer|\.lora)?\.alpha", "alpha"),
    (r"\.hada_(w1_a|w1_b|w2_a|w2_b|t1|t2)(?:\.default)?", ""),
)
_PATTERNS = [(re.compile(f"(.+?)(?:{ending})"), role) for ending, role in _ROLES]
_UNSUPPORTED = {
    ".lokr_": "LoKr", ".dora_scale": "DoRA", ".lora_magnitude_vector": "DoRA", ".oft_": "OFT",
    ".on_input": "IA3", ".diff$": "a full difference", ".diff_b$": "a full difference",
}  # fmt: skip
# How a layer's name begins -> the network. A file of PEFT's own has neither.
_NETWORKS = (
    ("lora_unet_", "unet"), ("lycoris_unet_", "unet"), ("unet.", "unet"),
    ("lora_te_", "text_encoder"), ("lora_te1_", "text_encoder"), ("text_encoder.", "text_encoder"),
)  # fmt: skip
_NO_NAMES = ("pytorch_lora_weights", "adapter_model")  # what libraries call a file
_LCM = {"time_emb_proj", "conv_shortcut", "conv1", "conv2", "to_q", "proj_in"}


@dataclass(frozen=True)
class Lora:
    """A file and its scale; `layers` are tensors' keys by role, by the name of the layer."""

    file: WeightFile
    scale: float
    layers: Mapping[str, Mapping[str, str]]
    unknown: tuple[str, ...]  # keys that are of no LoRA
    adapter: Mapping[str, Any] = field(default_factory=dict)  # PEFT's config, where there is one

    @classmethod
    def open(cls, path: Path, scale: float = 1.0) -> Lora:
        """Read the names in a file; raises BundleError for one that is none."""
        file = WeightFile(path)
        layers: dict[str, dict[str, str]] = {}
        unknown = []
        for key in file.shapes:
            for mark, kind in _UNSUPPORTED.items():
                if mark in f"{key}$":
                    raise BundleError(
                        f"{path}: {kind} is not supported, only LoRA and LoHa ({key})"
                    )
            name, role = _split(key)
            if role:
                layers.setdefault(name, {})[role] = key
            else:
                unknown.append(key)
        if not any(set(LORA) <= set(roles) or set(LOHA) <= set(roles) for roles in layers.values()):
            raise BundleError(f"{path}: not a LoRA: none of its {len(file.shapes)} keys are of one")
        return cls(file, scale, layers, tuple(unknown), _adapter(file))

    @property
    def kind(self) -> str | None:
        """The model that it was trained for, in words, where its keys tell."""
        return lora_kind(self.file.shapes)

    @property
    def is_lcm(self) -> bool:
        """Whether it distils few steps into a model, as LCM-LoRA does.

        By its name, that of its folder where the file has none of its own, or by what the
        training script of LCM-LoRA trains: every layer of the UNet's blocks, the projections of
        the timestep too, and no text encoder.
        """
        path = self.file.path.absolute()
        own = path.parent.name if path.stem in _NO_NAMES else path.stem
        for name in (own, self.file.metadata.get("ss_output_name", "")):
            if re.search(r"(^|[^a-z])lcm([^a-z]|$)", name.lower()):
                return True
        text = any(name.startswith(("lora_te", "text_encoder.")) for name in self.layers)
        return not text and all(any(name.endswith(end) for name in self.layers) for end in _LCM)

    def matched(self, network: str, modules: Mapping[str, str]) -> dict[str, str]:
        """The layers that are of a network: their names -> names of modules in it.

        `modules` are the names that a layer may have, dots as underscores -> a module's name.
        """
        found = {}
        for layer in self.layers:
            which, name = _network_of(layer)
            module = modules.get(_flat(name))
            if module is not None and which in (network, None):
                found[layer] = module
        return found

    def delta(self, layer: str, shape: torch.Size) -> Tensor:
        """What is added to the weight of a layer, of that shape, in float32.

        Raises BundleError for a layer that is incomplete, or has another shape.
        """
        roles = self.layers[layer]
        tensors = {role: self.file.read(key) for role, key in roles.items()}
        try:
            change, rank = _loha(tensors) if "w1_a" in tensors else _lora(tensors)
            alpha = float(tensors["alpha"]) if "alpha" in tensors else self._alpha(layer, rank)
            return (self.scale * alpha / rank) * change.reshape(shape)
        except (KeyError, RuntimeError, ValueError) as error:
            sizes = ", ".join(f"{role} {list(each.shape)}" for role, each in tensors.items())
            raise BundleError(
                f"{self.file.path}: {layer} ({sizes}) does not fit a weight of {list(shape)}"
            ) from error

    def _alpha(self, layer: str, rank: int) -> float:
        """Of PEFT's config, else the rank; with `use_rslora` the divisor is the rank's root."""
        which, name = _network_of(layer)
        prefix = f"{which}." if f"{which}.r" in self.adapter else ""
        pattern = self.adapter.get(f"{prefix}alpha_pattern")
        alpha = self.adapter.get(f"{prefix}lora_alpha", self.adapter.get("alpha", rank))
        for ending, value in pattern.items() if isinstance(pattern, dict) else ():
            if name == ending or name.endswith(f".{ending}"):
                alpha = value
        root = self.adapter.get(f"{prefix}use_rslora") is True
        return float(alpha) * (math.sqrt(rank) if root else 1.0)


def merge(lora: Lora, layers: Mapping[str, str], model: nn.Module) -> None:
    """Add a LoRA to the weights of a float32 model; `layers` as `matched` returns them."""
    with torch.no_grad():
        for layer, name in layers.items():
            weight = model.get_submodule(name).weight
            weight.add_(lora.delta(layer, weight.shape))


def module_names(modules: Iterable[str], *others: Mapping[str, str]) -> dict[str, str]:
    """Names with dots as underscores -> a module's name: its own, and what `others` call it."""
    names = {_flat(name): name for name in modules}
    for table in others:
        names |= {_flat(other): name for other, name in table.items()}
    return names


def _lora(tensors: Mapping[str, Tensor]) -> tuple[Tensor, int]:
    down, up = tensors["down"], tensors["up"]
    rank = down.shape[0]
    if "mid" in tensors:  # of a convolution: down and up are 1x1
        down, up = down.flatten(1), up.flatten(1)
        return torch.einsum("or,rskl,si->oikl", up, tensors["mid"], down), rank
    return up.flatten(1) @ down.flatten(1), rank


def _loha(tensors: Mapping[str, Tensor]) -> tuple[Tensor, int]:
    halves = []
    for half, core in (("w1", "t1"), ("w2", "t2")):
        a, b = tensors[f"{half}_a"], tensors[f"{half}_b"]
        if core in tensors:
            halves.append(torch.einsum("ijkl,jr,ip->prkl", tensors[core], b, a))
        else:
            halves.append(a @ b)
    return halves[0] * halves[1], tensors["w1_b"].shape[0]


def _split(key: str) -> tuple[str, str]:
    """A layer's name, and the role of the tensor in it; no role for another key."""
    for pattern, role in _PATTERNS:
        match = pattern.fullmatch(key)
        if match is not None:
            return match.group(1), role or str(match.group(2))
    return key, ""


def _network_of(layer: str) -> tuple[str | None, str]:
    """The network that a layer's name tells, if any, and its name there."""
    name = layer.removeprefix("base_model.model.")
    for prefix, network in _NETWORKS:
        if name.startswith(prefix):
            name = name.removeprefix(prefix)
            return network, name.removeprefix("base_model.model.")
    return None, name.removeprefix("lora_").removeprefix("lycoris_")


def _flat(name: str) -> str:
    """A name that is equal for all styles: diffusers' old attention processors are undone, too."""
    name = name.replace(".processor.", ".").replace(".", "_")
    if "self_attn_to_" in name:  # of a text encoder
        place, _, letter = name.rpartition("to_")
        return f"{place}{letter}_proj"
    return f"{name}_0" if name.endswith("_to_out") else name


def _adapter(file: WeightFile) -> dict[str, Any]:
    """PEFT's config: in the header, as diffusers writes it, or in a file beside."""
    beside = file.path.with_name("adapter_config.json")
    if file.path.name.startswith("adapter_model") and is_file(beside):
        return read_object(beside)
    return file.header("lora_adapter_metadata")

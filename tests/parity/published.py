"""The tiny bundle as people have published ONNX exports: files, names and types of each family.

Lists of files on huggingface.co, read at the end of 2026, are named at each function; the types of
Olive's graphs are those of github.com/axodox/unpaint's wiki, "Model format", those of onnx-web's of
its `convert/diffusion/diffusers.py`. Float16 is made by ONNX Runtime's converter, as Olive does it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
from onnx import ModelProto, TensorProto, helper
from onnxruntime.transformers.float16 import convert_float_to_float16

from . import variants
from .bundles import assemble

COMPONENTS = ("text_encoder", "unet", "vae_encoder", "vae_decoder")
_SPECIAL = {
    "bos_token": "<|startoftext|>",
    "eos_token": "<|endoftext|>",
    "pad_token": "<|endoftext|>",
    "unk_token": "<|endoftext|>",
}


def optimum_now(root: Path) -> None:
    """`optimum-cli export onnx` of 2026, of an LCM: the UNet's weights lie beside it."""
    assemble("lcm", root)
    _external(root / "unet", "model.onnx_data")
    _index(root, "ORTLatentConsistencyModelPipeline")
    _write(root / "tokenizer" / "special_tokens_map.json", _SPECIAL)
    _write(root / "feature_extractor" / "preprocessor_config.json", {"crop_size": 224})


def optimum_2023(root: Path) -> None:
    """SimianLuo/LCM_Dreamshaper_v7: the export lies among the weights of torch.

    Its encoder returns latents, which it draws; here their mean, for a draw has no golden.
    """
    assemble("lcm", root)
    variants.timestep_of_batch(root)
    variants.int32_ids(root)
    variants.latents_of_four_channels(root)
    _external(root / "unet", "model.onnx_data")
    _index(root, "LatentConsistencyModelPipeline")
    for name in (
        *("unet/diffusion_pytorch_model", "text_encoder/model", "vae/diffusion_pytorch_model"),
        *("safety_checker/model", "LCM_Dreamshaper_v7_4k"),
    ):
        _write(root / f"{name}.safetensors", {"in": "torch's layout"})
    _write(root / "vae" / "config.json", {"_class_name": "AutoencoderKL"})
    (root / "speed_fid.png").write_bytes(b"\x89PNG")


def olive(root: Path) -> None:
    """TensorStack/DreamCrafter-LCM-onnx, aislamov/lcm-dreamshaper-v7-onnx: half precision.

    A tokenizer as a graph and a ControlNet lie beside the four networks.
    """
    assemble("lcm", root)
    variants.timestep_of_batch(root)
    variants.int32_ids(root)
    for component in COMPONENTS:
        _halve(root / component)
    _external(root / "unet", "model.onnx_data")
    _index(root, "OnnxStableDiffusionPipeline")
    _write(root / "tokenizer" / "special_tokens_map.json", _SPECIAL)
    (root / "controlnet").mkdir()
    shutil.copy(root / "vae_decoder" / "model.onnx", root / "controlnet")
    shutil.copy(root / "vae_decoder" / "model.onnx", root / "tokenizer")  # of other operators


def amuse(root: Path) -> None:
    """TensorStack/DreamCrafter-LCM-amuse: Olive's graphs without configs, without a scheduler."""
    olive(root)
    for path in root.glob("*/*config.json"):
        path.unlink()
    (root / "scheduler").rmdir()
    (root / "tokenizer" / "model.onnx").unlink()
    (root / "model_index.json").unlink()
    _write(root / "amuse_template.json", {"Template": "LCM", "SampleSize": 512})


def onnx_web(root: Path) -> None:
    """What `onnx-web convert` writes for a model with an LCM-LoRA, of weights in `weights.pb`.

    No configs; every dimension of an image is free, its channels too.
    """
    assemble("sd", root)
    variants.timestep_of_batch(root)
    variants.int32_ids(root)
    variants.latents_of_four_channels(root)
    for component in COMPONENTS:
        (root / component / "config.json").unlink()
        model = onnx.load(root / component / "model.onnx")
        for value in (*model.graph.input, *model.graph.output):
            _free(value)
        onnx.save(model, root / component / "model.onnx")
    _hidden_states(root / "text_encoder")
    _external(root / "unet", "weights.pb")
    _index(root, "OnnxStableDiffusionPipeline")
    shutil.copytree(root / "unet", root / "cnet")  # a UNet with inputs for a ControlNet


def onnx_web_half(root: Path) -> None:
    """With `--half`, which leaves the encoder in float32."""
    onnx_web(root)
    shutil.rmtree(root / "cnet")
    for component in ("text_encoder", "unet", "vae_decoder"):
        _halve(root / component)
    _external(root / "unet", "weights.pb")


def _halve(folder: Path) -> None:
    """Weights, inputs and outputs in float16, the timestep too."""
    path = folder / "model.onnx"
    model = onnx.load(path)
    for number, node in enumerate(model.graph.node):
        node.name = node.name or f"node_{number}"  # ONNX Runtime 1.17 derives others from it
    onnx.save(convert_float_to_float16(model, keep_io_types=False), path)


def _external(folder: Path, name: str) -> None:
    """Weights in a file of their own."""
    path = folder / "model.onnx"
    model = onnx.load(path)
    (folder / name).unlink(missing_ok=True)
    onnx.save(model, path, save_as_external_data=True, location=name, size_threshold=0)


def _free(value: Any) -> None:
    for axis, dim in enumerate(value.type.tensor_type.shape.dim):
        dim.dim_param = f"{value.name}_{axis}"


def _hidden_states(folder: Path) -> None:
    """More outputs after the one that is used, as with output_hidden_states."""
    path = folder / "model.onnx"
    model: ModelProto = onnx.load(path)
    first = model.graph.output[0].name
    for number in range(2):
        name = f"hidden_states.{number}"
        model.graph.node.append(helper.make_node("Neg", [first], [name]))
        dims = ["a", "b", "c"]
        model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, dims))
    onnx.save(model, path)


def _index(root: Path, pipeline: str) -> None:
    _write(root / "model_index.json", {"_class_name": pipeline, "_diffusers_version": "0.21.4"})


def _write(path: Path, value: Mapping[str, Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value))

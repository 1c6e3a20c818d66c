"""What `lcm build onnx` is given: a checkpoint's folder or file, and what is merged into it."""

from __future__ import annotations

import argparse
import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from lcmcore.errors import ArgumentError, BundleError
from lcmcore.tokenizer.clip_vocabulary import TOKENS, write_tokenizer
from lcmcore.util.configfile import read_object
from lcmcore.util.files import is_file, is_folder, sha256
from runtimes.onnx.checkpoint.configs import CONFIGS, write_configs, write_json
from runtimes.onnx.checkpoint.embedding import add_embeddings
from runtimes.onnx.checkpoint.kinds import SD1, SD2, TEXT_WIDTHS, checkpoint_kind
from runtimes.onnx.checkpoint.lora import Lora
from runtimes.onnx.checkpoint.modules import (
    NETWORKS,
    Checkpoint,
    Weights,
    check_fit,
    skeleton,
    targets,
)
from runtimes.onnx.checkpoint.vae import open_vae
from runtimes.onnx.checkpoint.weight_file import SUFFIXES, WeightFile, WeightPair
from runtimes.staging import copy_each

LCM_DEFAULTS = {"num_inference_steps": 4, "guidance_scale": 1.0}  # with an LCM-LoRA
PREDICTIONS = ("epsilon", "v_prediction")

_SCHEDULER = "scheduler/scheduler_config.json"
_SMALL_FILES = (*CONFIGS, "tokenizer", _SCHEDULER, "model_index.json")
_MAX_SCALE = 100
_REMEDIES = {
    "a LoRA": "give it with --lora, beside the checkpoint that it is for",
    "a VAE": "give it with --vae, beside a checkpoint",
    "a textual inversion": "give it with --embedding, beside a checkpoint",
    "a UNet in diffusers' layout": "give the folder that holds unet, vae and text_encoder",
}


@dataclass(frozen=True)
class Source:
    """A checkpoint to export; `notes` are for the user, `record` and `defaults` for lcm.toml."""

    checkpoint: Checkpoint
    notes: tuple[str, ...]
    record: Mapping[str, Any]
    defaults: Mapping[str, Any]


def open_source(args: argparse.Namespace, stage: Path) -> Source:
    """Check all that the command was given, before anything is exported.

    `stage` is a temporary folder for configs. Raises BundleError or ArgumentError.
    """
    path: Path = args.checkpoint
    record: dict[str, Any] = {"checkpoint": path.resolve().name}
    notes: list[str] = []
    if is_folder(path):
        checkpoint = _folder(path)
        record["sha256"] = _digest(*(path / network for network in NETWORKS))
    else:
        checkpoint, kind = _single_file(args, stage, notes)
        record |= {"kind": kind, "sha256": sha256(path)}
    if args.precision != "float32":
        record["precision"] = args.precision
    packages = ("lcmcore", "torch")
    record["exporter"] = ", ".join(f"{name} {metadata.version(name)}" for name in packages)
    if args.vae is not None or args.embedding:
        checkpoint = _staged(checkpoint, stage)
    if args.vae is not None:
        weights = open_vae(args.vae, stage)
        checkpoint = replace(checkpoint, weights={**checkpoint.weights, "vae": weights})
        record["vae"] = {"file": args.vae.resolve().name, **_digests(weights)}
    if args.embedding:
        embeddings = add_embeddings(args.embedding, stage)
        checkpoint = replace(checkpoint, embeddings=embeddings)
        record["embedding"] = _numbered(
            {"file": each.path.name, "words": " ".join(each.words), "sha256": sha256(each.path)}
            for each in embeddings
        )
        notes += [f"{each.path.name}: in prompts, {each.words[0]}" for each in embeddings]
    loras = tuple(Lora.open(*_file_and_scale(text)) for text in args.lora)
    checkpoint = replace(checkpoint, loras=loras)
    notes += [_check_lora(lora, checkpoint) for lora in loras]
    if loras:
        record["lora"] = _numbered(
            {"file": path.name, "scale": lora.scale, "sha256": sha256(path)}
            for lora in loras
            for path in (lora.file.path,)
        )
    distilled = any(lora.is_lcm for lora in loras)
    if not distilled and not is_folder(path) and not _has_guidance(checkpoint):
        notes.append(
            "no LCM-LoRA was given: unless the checkpoint itself is distilled for few steps, add"
            " one with --lora"
        )
    return Source(checkpoint, tuple(notes), record, LCM_DEFAULTS if distilled else {})


def _numbered(tables: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Tables by their number, for two files may have one name."""
    return {str(number): table for number, table in enumerate(tables, 1)}


def _digests(weights: Weights) -> dict[str, str]:
    if isinstance(weights, Path):
        return {"sha256": _digest(weights)}
    if isinstance(weights, WeightPair):
        return {f"{half}_sha256": sha256(file.path) for half, file in weights.files.items()}
    return {"sha256": sha256(weights.path)}


def _digest(*folders: Path) -> str:
    """SHA-256 of what `sha256sum` prints for the weights of folders, as `unet/NAME`."""
    files = [path for folder in folders for path in sorted(folder.iterdir())]
    lines = [
        f"{sha256(path)}  {path.parent.name}/{path.name}\n"
        for path in files
        if path.suffix in SUFFIXES and is_file(path)
    ]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _staged(checkpoint: Checkpoint, stage: Path) -> Checkpoint:
    """The checkpoint with its configs, tokenizer and scheduler in `stage`, to be changed."""
    if checkpoint.root != stage:
        copy_each((*CONFIGS, "tokenizer", "scheduler", "model_index.json"), checkpoint.root, stage)
    return replace(checkpoint, root=stage)


def _folder(path: Path) -> Checkpoint:
    for name in CONFIGS:
        if not is_file(path / name):
            raise BundleError(
                f"{path}: no {name}: a folder in diffusers' layout is needed, or one .safetensors"
                " file in Stability's"
            )
    return Checkpoint(path, {network: path / network for network in NETWORKS})


def _single_file(args: argparse.Namespace, stage: Path, notes: list[str]) -> tuple[Checkpoint, str]:
    """A checkpoint in Stability's layout, and its kind; its configs go to `stage`."""
    path: Path = args.checkpoint
    if path.suffix.lower() not in SUFFIXES and is_file(path):
        raise BundleError(f"{path}: not a .safetensors or .ckpt file, and no folder")
    file = WeightFile(path)
    kind = checkpoint_kind(file.shapes)
    if kind not in (SD1, SD2):
        remedy = _REMEDIES.get(kind, f"only {SD1} and 2.x for text-to-image are supported")
        raise BundleError(f"{path}: {kind}: {remedy}")
    prediction = args.prediction_type or _prediction(file, kind)
    write_configs(kind, stage, prediction)
    if args.config_from is not None:
        _take_configs(args.config_from, stage)
    if args.prediction_type is not None:
        _change(stage / _SCHEDULER, prediction_type=prediction)
    guidance = file.shapes.get("model.diffusion_model.time_embed.cond_proj.weight")
    if guidance is not None:  # a distilled model: the guidance scale is an input
        _change(stage / "unet" / "config.json", time_cond_proj_dim=guidance[1])
    for network in NETWORKS:
        check_fit(stage, network, file)
    for name in file.shapes:
        if name.startswith(("model.diffusion_model.", "first_stage_model.", "cond_stage_model.")):
            file.read(name)
    predicts = f", predicts {prediction}" if kind == SD2 else ""
    notes.append(f"{path.name}: {kind}{predicts}")
    if kind == SD2 and args.prediction_type is None and not _told(file):
        notes.append(
            "the file does not tell what it predicts: if the images are noise, it was made from"
            " Stable Diffusion 2 base: --prediction-type epsilon"
        )
    return Checkpoint(stage, dict.fromkeys(NETWORKS, file)), kind


def _prediction(file: WeightFile, kind: str) -> str:
    """What the UNet predicts: as the file says, else as most of its kind do."""
    told = _told(file)
    if told is not None:
        return told
    return "v_prediction" if kind == SD2 else "epsilon"


def _told(file: WeightFile) -> str | None:
    """By the metadata of Stability's model specification, or the marker that trainers add."""
    if "v_pred" in file.shapes:
        return "v_prediction"
    told = file.metadata.get("modelspec.prediction_type", "")
    architecture = file.metadata.get("modelspec.architecture", "")
    if told == "epsilon" or architecture == "stable-diffusion-v2-512":
        return "epsilon"
    if told in ("v", "v_prediction") or architecture == "stable-diffusion-v2-768-v":
        return "v_prediction"
    return None


def _take_configs(folder: Path, stage: Path) -> None:
    """Copy a folder's configs over the package's; without a tokenizer CLIP's is kept."""
    for name in CONFIGS:
        if not is_file(folder / name):
            raise BundleError(f"--config-from {folder}: no {name}")
    copy_each(_SMALL_FILES, folder, stage)
    tokens = read_object(stage / "text_encoder" / "config.json").get("vocab_size")
    if not is_folder(folder / "tokenizer"):
        if tokens != TOKENS:
            raise BundleError(f"--config-from {folder}: no tokenizer, for {tokens} tokens")
        write_tokenizer(stage / "tokenizer")


def _change(path: Path, **values: Any) -> None:
    write_json(path, {**read_object(path), **values})


def _file_and_scale(text: str) -> tuple[Path, float]:
    """FILE or FILE:SCALE; raises ArgumentError for a scale that is no number of use."""
    name, colon, end = text.rpartition(":")
    try:
        scale = float(end)
    except ValueError:
        return Path(text), 1.0
    if not colon or is_file(Path(text)):
        return Path(text), 1.0
    if not math.isfinite(scale) or abs(scale) > _MAX_SCALE:
        raise ArgumentError(f"--lora {text}: the scale must be from -{_MAX_SCALE} to {_MAX_SCALE}")
    return Path(name), scale


def _check_lora(lora: Lora, checkpoint: Checkpoint) -> str:
    """Check that a LoRA fits; returns a line about it. Raises BundleError."""
    path, root = lora.file.path, checkpoint.root
    width = str(read_object(root / "unet" / "config.json").get("cross_attention_dim"))
    kind = TEXT_WIDTHS.get(
        int(width) if width.isdecimal() else 0, f"of no known kind, for text of width {width}"
    )
    if lora.kind is not None and lora.kind != kind:
        raise BundleError(f"{path}: a LoRA for {lora.kind}, and the checkpoint is {kind}")
    counts, used = [], set()
    for network in ("text_encoder", "unet"):
        model = skeleton(root, network)
        found = targets(lora, network, model)
        for layer, module in found.items():
            lora.delta(layer, model.get_submodule(module).weight.shape)
        used |= set(found)
        counts += [f"{len(found)} layers of the {network}"] if found else []
    if not used:
        first = next(iter(lora.layers))
        told = f"a LoRA for {lora.kind}" if lora.kind else "a LoRA for another architecture"
        raise BundleError(f"{path}: {told}: none of its layers is in the checkpoint ({first})")
    lost = [
        key for layer in lora.layers if layer not in used for key in lora.layers[layer].values()
    ]
    lost += lora.unknown
    line = f"{path.name}: LoRA, scale {lora.scale:g}, {' and '.join(counts)}"
    if lost:
        line += f"; {len(lost)} of {len(lora.file.shapes)} keys fit nothing, {lost[0]} for one"
    return line + (f"; {_lcm_words()}" if lora.is_lcm else "")


def _lcm_words() -> str:
    steps, guidance = LCM_DEFAULTS.values()
    return f"an LCM-LoRA: defaults are {steps} steps, guidance {guidance:g}"


def _has_guidance(checkpoint: Checkpoint) -> bool:
    config = read_object(checkpoint.root / "unet" / "config.json")
    return config.get("time_cond_proj_dim") is not None


def facts(checkpoint: Checkpoint, network: str) -> Iterator[tuple[Any, ...]]:
    """What an exported network depends on: files by name, size and time, what is merged by digest.

    Of a text encoder the embeddings count, of all but the VAE the LoRAs.
    """
    weights = checkpoint.weights[network]
    if isinstance(weights, Path):
        files = sorted(path for path in weights.iterdir() if path.is_file())
    else:
        files = list(weights.paths)
        yield ("config", (checkpoint.root / network / "config.json").read_bytes())
    for path in files:
        status = path.stat()
        yield (path.name, status.st_size, status.st_mtime_ns)
    if network != "vae":
        for lora in checkpoint.loras:
            yield ("lora", sha256(lora.file.path), lora.scale)
    if network == "text_encoder":
        for each in checkpoint.embeddings:
            yield ("embedding", each.words, each.ids, sha256(each.path))

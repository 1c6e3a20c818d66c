"""Another VAE for a checkpoint: a folder, a file in Stability's layout, or TAESD's pair."""

from __future__ import annotations

from pathlib import Path

from lcmcore.errors import BundleError
from lcmcore.util.configfile import read_object
from lcmcore.util.files import is_file, is_folder
from runtimes.onnx.checkpoint.configs import VAE_CONFIG, write_json
from runtimes.onnx.checkpoint.kinds import VAE, checkpoint_kind
from runtimes.onnx.checkpoint.modules import AUTOENCODERS, Weights, check_fit
from runtimes.onnx.checkpoint.weight_file import WeightFile, WeightPair
from runtimes.staging import copy_over

# https://github.com/madebyollin/taesd: what AutoencoderTiny is by default.
_TINY_CONFIG = {
    "_class_name": "AutoencoderTiny",
    "decoder_block_out_channels": [64] * 4,
    "encoder_block_out_channels": [64] * 4,
    "latent_channels": 4,
    "num_decoder_blocks": [3, 3, 3, 1],
    "num_encoder_blocks": [1, 3, 3, 3],
    "scaling_factor": 1.0,
}
_XL_SCALING = 0.13025


def open_vae(path: Path, root: Path) -> Weights:
    """Write the config of a VAE over that of a checkpoint in `root`; returns where its weights are.

    Raises BundleError for a VAE that is none, is not supported or not for the checkpoint.
    """
    config = root / "vae" / "config.json"
    pair = _pair(path)
    if pair is not None:
        write_json(config, _TINY_CONFIG)
        weights: Weights = WeightPair(*(WeightFile(each) for each in pair))
    elif is_folder(path):
        folder = path / "vae" if is_folder(path / "vae") else path
        if not is_file(folder / "config.json"):
            raise BundleError(f"--vae {path}: no config.json, and no pair of TAESD's files")
        copy_over(folder / "config.json", config)
        weights = folder
    else:
        weights = _single_file(path)
        if read_object(config).get("_class_name") != AUTOENCODERS[0]:
            write_json(config, VAE_CONFIG)
    _check(path, root)
    if not isinstance(weights, Path):
        check_fit(root, "vae", weights)
        for name in weights.shapes:
            if isinstance(weights, WeightPair) or name.startswith((VAE, "encoder.", "decoder.")):
                weights.read(name)
    return weights


def _pair(path: Path) -> tuple[Path, Path] | None:
    """TAESD's encoder and decoder: both in a folder, or one of them and its neighbour."""
    folder, suffixes = (path, [".safetensors"]) if is_folder(path) else (path.parent, [path.suffix])
    if not is_folder(path) and not path.stem.endswith(("_encoder", "_decoder")):
        return None
    for suffix in suffixes:
        for encoder in sorted(folder.glob(f"*_encoder{suffix}")):
            decoder = encoder.with_name(encoder.name.replace("_encoder", "_decoder"))
            if is_file(decoder) and (is_folder(path) or path in (encoder, decoder)):
                return encoder, decoder
    return None


def _single_file(path: Path) -> WeightFile:
    file = WeightFile(path)
    names = tuple(file.shapes)
    if any("coder.down_blocks." in name or "coder.up_blocks." in name for name in names):
        raise BundleError(
            f"{path}: a VAE in diffusers' layout: give the folder with its config.json"
        )
    if not any(name.startswith((VAE, "encoder.")) for name in names):
        raise BundleError(f"{path}: no VAE, but {checkpoint_kind(file.shapes)}")
    return file


def _check(path: Path, root: Path) -> None:
    """Raise BundleError for a VAE whose latents are not those of the checkpoint."""
    vae = read_object(root / "vae" / "config.json")
    unet = read_object(root / "unet" / "config.json")
    if vae.get("_class_name", AUTOENCODERS[0]) not in AUTOENCODERS:
        raise BundleError(f"{path}: {vae['_class_name']} is not one of {', '.join(AUTOENCODERS)}")
    if vae.get("scaling_factor") == _XL_SCALING:
        raise BundleError(f"{path}: a VAE for Stable Diffusion XL (scaling_factor {_XL_SCALING})")
    got, expected = vae.get("latent_channels", 4), unet.get("in_channels", 4)
    if got != expected:
        raise BundleError(f"{path}: a VAE of {got} latent channels, and the UNet has {expected}")

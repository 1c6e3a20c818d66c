"""PNG files with a record in their text chunks: what made the image, by the command's options."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image, PngImagePlugin

import lcmcore
from lcmcore.errors import ImageError, first_line

if TYPE_CHECKING:
    from lcmcore.call import Result
    from lcmcore.runtime_choice import RuntimeChoice

SOFTWARE = "Software"  # the PNG specification's keyword for the program

# Keywords of a call, and what the command calls them.
_NAMES = {
    "negative_prompt": "negative-prompt",
    "num_inference_steps": "steps",
    "guidance_scale": "guidance",
    "strength": "strength",
    "strength_mode": "strength-mode",
    "latent_sampling": "latent-sampling",
    "fit": "fit",
}


def make_record(
    prompt: str, result: Result[list[Image.Image]], origin: Mapping[str, Any]
) -> dict[str, str]:
    """What is needed to reproduce the first image of a result.

    `origin` says where model and init image came from. What is None is left out.
    """
    width, height = result.images[0].size
    record = {
        SOFTWARE: f"lcmcore {lcmcore.__version__}",
        "prompt": prompt,
        "seed": result.seeds[0],
        "size": f"{width}x{height}",
        **{name: result.settings.get(key) for key, name in _NAMES.items()},
        **origin,
    }
    return {key: str(value) for key, value in record.items() if value is not None}


def model_origin(
    model: str | Path | None,
    runtime: RuntimeChoice,
    config: str | Path | None = None,
    tokenizer: str | Path | None = None,
) -> dict[str, Any]:
    """The entries of a record that name the model and its runtimes."""
    choice = dict(runtime) if isinstance(runtime, Mapping) else {"default": runtime}
    names = {key: each if isinstance(each, str) else each.name for key, each in choice.items()}
    default = names.pop("default", "auto")
    return {
        "model": model,
        "config": config,
        "tokenizer": tokenizer,
        "runtime": None if default == "auto" else default,
        "component-runtime": " ".join(map("=".join, names.items())) or None,
    }


def encode_png(image: Image.Image, record: Mapping[str, str]) -> bytes:
    """The image as PNG with each entry of the record as a text chunk (iTXt, UTF-8)."""
    chunks = PngImagePlugin.PngInfo()
    for key, text in record.items():
        chunks.add_itxt(key, text.encode("utf-8", "replace").decode())
    buffer = io.BytesIO()
    image.save(buffer, "PNG", pnginfo=chunks)
    return buffer.getvalue()


def read_record(path: Path) -> dict[str, str]:
    """The text chunks of a PNG that lcmcore made; raises ImageError for any other file."""
    try:
        with Image.open(path) as image:
            image.load()
            texts = {key: str(text) for key, text in getattr(image, "text", {}).items()}
    except FileNotFoundError:
        raise ImageError(f"{path}: no such file or folder") from None
    except Exception as error:  # Pillow's plugins raise whatever they meet
        raise ImageError(f"{path}: not an image: {first_line(error)}") from error
    if not texts.get(SOFTWARE, "").startswith("lcmcore ") or "prompt" not in texts:
        raise ImageError(f"{path}: holds no record of how it was made; lcmcore did not write it")
    return texts

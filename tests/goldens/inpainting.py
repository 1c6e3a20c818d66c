"""Golden images of diffusers' StableDiffusionInpaintPipeline with the tiny networks."""

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from .files import DATA, save_arrays, save_json
from .pipelines import PROMPT, TWO_PROMPTS, init_image
from .reference import inpaint
from .tiny import build

SIZES = {"square": (48, 48), "other": (48, 48), "wide": (64, 48), "photo": (100, 75)}
CROP = {"padding_mask_crop": 6, "width": 48, "height": 48}
SAMPLE = {"latent_sampling": "sample"}


@dataclass(frozen=True)
class Case:
    """A call of ours on one of the tiny bundles; one with a crop has 8-bit images."""

    name: str
    bundle: str
    images: list[str]
    masks: list[str]
    call: dict[str, Any] = field(default_factory=dict)


def _case(name: str, images: str, masks: str, bundle: str = "lcm", **call: Any) -> Case:
    defaults = {"prompt": PROMPT, "num_inference_steps": 4, "guidance_scale": 8.5, "seed": 42}
    return Case(name, bundle, images.split(), masks.split(), {**defaults, "strength": 1.0, **call})


WHOLE = [
    *(
        _case(f"hard {strength}", "square", "hard", strength=strength)
        for strength in (1, 0.75, 0.5)
    ),
    _case("blurred", "square", "blurred", strength=0.75),
    _case("of another size", "square", "large", strength=0.75),
    _case("of another shape", "wide", "hard", strength=0.5),
    _case("black", "square", "black", strength=0.75),
    _case("white", "square", "white"),
    _case("1 step", "square", "hard", num_inference_steps=1),
    _case("8 steps", "square", "blurred", num_inference_steps=8, strength=0.25),
    _case("sample", "square", "hard", strength=0.75, **SAMPLE),
    _case("sample at strength 1", "wide", "blurred", **SAMPLE),
    _case("batch", "square other", "hard blurred", strength=0.75, **TWO_PROMPTS),
    _case("batch sample", "square other", "hard large", strength=0.75, **TWO_PROMPTS, **SAMPLE),
    _case("one mask", "square other", "blurred", **TWO_PROMPTS),
    _case("3 of each", "square", "hard", num_images_per_prompt=3, seed=[1, -1, 2**64 - 1]),
    _case("unguided", "square", "hard", "sd", strength=0.5, guidance_scale=1.0),
    _case("guided", "square", "blurred", "sd", strength=0.75, guidance_scale=3.0),
    _case("guided sample", "square", "hard", "sd", guidance_scale=3.0, **SAMPLE),
    _case("taesd", "square", "hard", "taesd", strength=0.75),
]
CROPPED = [
    *(
        _case(f"crop {strength}", "photo", "spot", strength=strength, **CROP)
        for strength in (1, 0.75, 0.5)
    ),
    _case("crop soft", "photo", "soft", strength=0.75, **CROP),
    _case("crop corner", "photo", "corner", strength=0.75, **CROP),
    _case("crop band", "photo", "band", strength=0.75, **CROP),
    _case("crop column", "photo", "column", **{**CROP, "padding_mask_crop": 0, "width": 64}),
    _case("crop all", "photo", "all", strength=0.75, **{**CROP, "padding_mask_crop": 30}),
    _case("crop guided", "photo", "spot", "sd", strength=0.75, guidance_scale=3.0, **CROP),
    _case("crop sample", "photo", "spot", strength=0.5, **CROP, **SAMPLE),
    _case("crop 2 of each", "photo", "spot", num_images_per_prompt=2, seed=[5, 6], **CROP),
]
CASES = [*WHOLE, *CROPPED]


def make() -> str:
    models = build()
    images = {name: init_image(size, seed) for seed, (name, size) in enumerate(SIZES.items(), 20)}
    masks = _masks()
    arrays = {f"image/{name}": np.asarray(image) for name, image in images.items()}
    arrays |= {f"mask/{name}": np.asarray(mask) for name, mask in masks.items()}
    for case in CASES:
        arrays[case.name] = inpaint(
            models[case.bundle],
            case.call,
            [images[name] for name in case.images],
            [masks[name] for name in case.masks],
        )
    save_json(DATA / "inpainting.json", [asdict(case) for case in CASES])
    save_arrays("inpainting.npz", arrays)
    return f"{len(CASES)} cases"


def _masks() -> dict[str, Image.Image]:
    photo = SIZES["photo"]
    spot = _ellipse(photo, (26, 33, 44, 47))
    return {
        "hard": _ellipse((48, 48), (7, 15, 35, 41)),
        "blurred": _ellipse((48, 48), (11, 3, 43, 30)).filter(ImageFilter.GaussianBlur(5)),
        "large": _ellipse((111, 111), (23, 15, 105, 67)),
        "black": Image.new("L", (48, 48)),
        "white": Image.new("L", (48, 48), 255),
        "spot": spot,
        "soft": spot.filter(ImageFilter.GaussianBlur(3)),
        "corner": _ellipse(photo, (87, 65, 107, 80)),
        "band": _ellipse(photo, (-200, 27, 300, 47)),
        "column": _ellipse(photo, (47, -200, 62, 280)),
        "all": Image.new("L", photo, 255),
    }


def _ellipse(size: tuple[int, int], box: tuple[int, int, int, int]) -> Image.Image:
    mask = Image.new("L", size)
    ImageDraw.Draw(mask).ellipse(box, fill=255)
    return mask

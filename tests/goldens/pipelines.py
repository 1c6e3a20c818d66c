"""Golden float images: diffusers' pipelines with the tiny networks."""

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from .files import DATA, save_arrays, save_json
from .reference import draw
from .tiny import build, export

# Names of initial images, and their width and height. diffusers cuts 70x52 down to 64x48.
SIZES = {
    "square": (64, 64),
    "small": (32, 32),
    "other": (32, 32),
    "wide": (96, 64),
    "tall": (32, 96),
    "uneven": (70, 52),
}
PROMPT = "a snow tree"
RESCALE = {"strength_mode": "rescale"}
SAMPLE = {"latent_sampling": "sample"}
TWO_PROMPTS: dict[str, Any] = {"prompt": [PROMPT, "it rains"], "seed": [3, 2**33 + 7]}


@dataclass(frozen=True)
class Case:
    """A call of ours on one of the tiny bundles, without an image text to image."""

    name: str
    bundle: str
    images: list[str] = field(default_factory=list)
    call: dict[str, Any] = field(default_factory=dict)


def _case(name: str, bundle: str = "lcm", images: str = "", **call: Any) -> Case:
    defaults = {"prompt": PROMPT, "num_inference_steps": 4, "guidance_scale": 8.5, "seed": 42}
    return Case(name, bundle, images.split(), {**defaults, **call})


IMAGE_TO_IMAGE = [
    _case("rescale", images="square", strength=0.5, **RESCALE),
    _case("rescale sample", images="square", strength=0.5, **RESCALE, **SAMPLE),
    _case("rescale wide .58", images="wide", strength=0.58, guidance_scale=4.0, **RESCALE),
    _case("rescale tall sample", images="tall", strength=0.75, **RESCALE, **SAMPLE),
    _case("rescale uneven", images="uneven", strength=0.8, num_inference_steps=2, **RESCALE),
    _case("rescale 1 step", images="small", strength=0.3, num_inference_steps=1, **RESCALE),
    _case("rescale 2 steps", images="small", strength=1.0, num_inference_steps=2, **RESCALE),
    _case("rescale 8 steps", images="small", strength=0.58, num_inference_steps=8, **RESCALE),
    _case(
        "rescale 25 original",
        images="small",
        strength=0.6,
        original_inference_steps=25,
        **RESCALE,
    ),
    _case("rescale guidance 1", images="small", strength=0.8, guidance_scale=1.0, **RESCALE),
    _case("rescale guidance 7.3", images="small", strength=0.8, guidance_scale=7.3, **RESCALE),
    _case("rescale batch", images="small other", strength=0.6, **TWO_PROMPTS, **RESCALE),
    _case(
        "rescale batch sample",
        images="small other",
        strength=0.6,
        **TWO_PROMPTS,
        **RESCALE,
        **SAMPLE,
    ),
    _case(
        "rescale 3 of each",
        images="small",
        strength=0.7,
        num_images_per_prompt=3,
        seed=[1, -1, 2**64 - 1],
        **RESCALE,
        **SAMPLE,
    ),
    _case("truncate", images="square", strength=0.75),
    _case("truncate sample", images="tall", strength=0.5, **SAMPLE),
    _case("truncate all", images="small", strength=1.0, num_inference_steps=2),
    _case("truncate 1 of 4", images="small", strength=0.25),
    _case("truncate 4 of 8", images="small", strength=0.5, num_inference_steps=8),
    _case("truncate batch", images="small other", strength=0.5, **TWO_PROMPTS),
    _case("strength 0", images="small", strength=0.0),
]
TEXT_TO_IMAGE = [
    _case("text"),
    _case("text wide", width=96, height=64, guidance_scale=2.0),
    _case("text 1 step", width=32, height=32, num_inference_steps=1),
    _case("text 8 steps", width=32, height=32, num_inference_steps=8),
    _case("text batch", width=32, height=48, **TWO_PROMPTS),
    _case("text 2 of each", width=32, height=32, num_images_per_prompt=2, seed=[5, 6]),
]
CLASSIFIER_FREE = [
    _case("unguided", "sd", "small", strength=0.5, guidance_scale=1.0),
    _case("guided", "sd", "small", strength=0.75, guidance_scale=2.0),
    _case("negative", "sd", "tall", strength=0.5, guidance_scale=2.0, negative_prompt="no it"),
    _case("guided sample", "sd", "small", strength=0.75, guidance_scale=7.5, **SAMPLE),
    _case(
        "negative batch",
        "sd",
        "small other",
        strength=0.5,
        guidance_scale=3.0,
        negative_prompt=["no it", "snow"],
        **TWO_PROMPTS,
    ),
    _case(
        "negative 2 of each",
        "sd",
        "small",
        strength=0.5,
        guidance_scale=3.0,
        negative_prompt="no it",
        num_images_per_prompt=2,
        seed=[7, 8],
    ),
    _case("text negative", "sd", width=32, height=48, guidance_scale=2.0, negative_prompt="no"),
]
TINY_AUTOENCODER = [
    _case("taesd rescale", "taesd", "small", strength=0.5, **RESCALE),
    _case("taesd truncate", "taesd", "tall", strength=0.75),
    _case("taesd text", "taesd", width=32, height=48),
]
CASES = [*IMAGE_TO_IMAGE, *TEXT_TO_IMAGE, *CLASSIFIER_FREE, *TINY_AUTOENCODER]


def make() -> str:
    models = build()
    export(models)
    images = {name: init_image(size, seed) for seed, (name, size) in enumerate(SIZES.items())}
    arrays = {f"image/{name}": np.asarray(image) for name, image in images.items()}
    for case in CASES:
        used = [images[name] for name in case.images]
        arrays[case.name] = draw(models[case.bundle], case.call, used)
    save_json(DATA / "pipelines.json", [asdict(case) for case in CASES])
    save_arrays("pipelines.npz", arrays)
    return f"{len(CASES)} cases"


def init_image(size: tuple[int, int], seed: int) -> Image.Image:
    """Coarse blots with a fine grain."""
    chance = np.random.RandomState(seed)
    coarse = Image.fromarray(chance.randint(0, 256, (4, 4, 3)).astype(np.uint8))
    blots = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC), np.int64)
    grain = chance.randint(-8, 9, blots.shape)
    return Image.fromarray((blots + grain).clip(0, 255).astype(np.uint8))

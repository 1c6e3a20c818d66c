"""Golden images of the demo bundle: diffusers' pipelines with torch networks of its very weights.

To be made again whenever the demo model is trained again: `make goldens`, or
`python -m tests.goldens.make demo`.
"""

from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.image_processor import VaeImageProcessor
from PIL import Image, ImageDraw
from safetensors.torch import load_file
from transformers import CLIPTextModel, CLIPTokenizer

from .clip import token_ids
from .files import DATA, DEMO_BUNDLE, read_json, save_json
from .prompts import PICKED, prompts
from .reference import Model, draw

FOLDER = DATA / "demo"
SIZES = {"scribble": (256, 256), "wide": (320, 192)}
RESCALE = {"strength_mode": "rescale"}

# Name: the initial image ("" for text to image) and the call.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "snow": (
        "scribble",
        {
            "prompt": "a snowy landscape with mountains and pine trees at night",
            "strength": 0.75,
            "guidance_scale": 4.0,
            "seed": 7,
        },
    ),
    "autumn": (
        "scribble",
        {
            "prompt": "autumn hills with a lake and a house at sunset, watercolor",
            "strength": 0.5,
            "guidance_scale": 8.0,
            "seed": 42,
            **RESCALE,
        },
    ),
    "desert": (
        "scribble",
        {
            "prompt": "a desert with dunes and cactus by day, pixel art",
            "strength": 1.0,
            "num_inference_steps": 2,
            "guidance_scale": 2.0,
            "seed": 2**33 + 7,
        },
    ),
    "sketch": (
        "scribble",
        {
            "prompt": "a meadow with trees, pencil sketch",
            "strength": 0.8,
            "num_inference_steps": 8,
            "guidance_scale": 6.0,
            "seed": 0,
            "latent_sampling": "sample",
            **RESCALE,
        },
    ),
    "river": (
        "wide",
        {
            "prompt": "a forest with a river in the early morning",
            "strength": 0.5,
            "guidance_scale": 1.0,
            "seed": -5,
        },
    ),
    "dusk": (
        "wide",
        {
            "prompt": "a summer landscape at dusk with clouds",
            "strength": 0.58,
            "guidance_scale": 5.0,
            "seed": 2**64 - 1,
            "latent_sampling": "sample",
            **RESCALE,
        },
    ),
    "text": (
        "",
        {
            "prompt": "a meadow with mountains and clouds by day",
            "guidance_scale": 4.0,
            "seed": 1,
            "width": 256,
            "height": 256,
        },
    ),
    "text_wide": (
        "",
        {
            "prompt": "a snowy forest at dawn, watercolor",
            "guidance_scale": 8.0,
            "seed": 3,
            "width": 320,
            "height": 192,
        },
    ),
    "text_1_step": (
        "",
        {
            "prompt": "sand dunes under a starry sky",
            "num_inference_steps": 1,
            "guidance_scale": 3.0,
            "seed": 11,
            "width": 256,
            "height": 256,
        },
    ),
}


def make() -> str:
    model = _read_bundle()
    FOLDER.mkdir(exist_ok=True)
    images = {name: _scribble(size) for name, size in SIZES.items()}
    for name, image in images.items():
        image.save(FOLDER / f"{name}.png")
    defaults = {"num_inference_steps": 4}
    cases = {name: (image, defaults | call) for name, (image, call) in CASES.items()}
    for name, (image, call) in cases.items():
        pixels = draw(model, call, [images[image]] if image else [])
        VaeImageProcessor.numpy_to_pil(pixels)[0].save(FOLDER / f"{name}.png", optimize=True)
    save_json(FOLDER / "cases.json", cases)
    texts = [*(call["prompt"] for _, call in cases.values()), *PICKED, *prompts(50, seed=6)]
    ids = token_ids(model.tokenizer, texts)
    save_json(FOLDER / "tokenizer.json.gz", {"texts": texts, "ids": ids})
    return f"{len(cases)} images, {len(texts)} texts"


def _read_bundle() -> Model:
    """The float16 weights on disk, widened to float32."""
    vae = AutoencoderKL.from_config(read_json(DEMO_BUNDLE / "vae_decoder" / "config.json"))
    weights: dict[str, torch.Tensor] = {}
    for half in ("vae_encoder", "vae_decoder"):
        weights |= load_file(DEMO_BUNDLE / half / "diffusion_pytorch_model.safetensors")
    vae.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    text_encoder, unet = DEMO_BUNDLE / "text_encoder", DEMO_BUNDLE / "unet"
    model = Model(
        tokenizer=CLIPTokenizer.from_pretrained(DEMO_BUNDLE / "tokenizer"),
        text_encoder=CLIPTextModel.from_pretrained(text_encoder, dtype=torch.float32),
        unet=UNet2DConditionModel.from_pretrained(unet, torch_dtype=torch.float32),
        vae=vae,
        scheduler_config=read_json(DEMO_BUNDLE / "scheduler" / "scheduler_config.json"),
    )
    for network in (model.text_encoder, model.unet, model.vae):
        network.eval()
    return model


def _scribble(size: tuple[int, int]) -> Image.Image:
    """Sky, sun, two mountains, a meadow and a tree, as a child would paint them."""
    width, height = size
    image = Image.new("RGB", size, (120, 180, 235))
    pen = ImageDraw.Draw(image)

    def scaled(*points: tuple[float, float]) -> list[tuple[float, float]]:
        return [(x * width, y * height) for x, y in points]

    pen.ellipse(scaled((0.75, 0.08), (0.9, 0.25)), fill=(250, 215, 70))
    pen.polygon(scaled((0.0, 0.6), (0.28, 0.2), (0.55, 0.6)), fill=(120, 120, 140))
    pen.polygon(scaled((0.4, 0.6), (0.65, 0.3), (0.95, 0.6)), fill=(95, 95, 120))
    pen.rectangle(scaled((0.0, 0.6), (1.0, 1.0)), fill=(80, 150, 60))
    pen.rectangle(scaled((0.2, 0.62), (0.24, 0.82)), fill=(95, 60, 35))
    pen.polygon(scaled((0.1, 0.7), (0.22, 0.42), (0.34, 0.7)), fill=(30, 95, 45))
    return image

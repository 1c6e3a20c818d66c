"""Images by diffusers, from a call in lcmcore's words."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    LatentConsistencyModelImg2ImgPipeline,
    LatentConsistencyModelPipeline,
    LCMScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from diffusers.image_processor import VaeImageProcessor
from PIL import Image
from transformers import CLIPTextModel, CLIPTokenizer

_PIPELINES = {
    "rescale": LatentConsistencyModelImg2ImgPipeline,
    "truncate": StableDiffusionImg2ImgPipeline,
}
_SAMPLE_MODES = {"mean": "argmax", "sample": "sample"}


@dataclass(frozen=True)
class Model:
    tokenizer: CLIPTokenizer
    text_encoder: CLIPTextModel
    unet: UNet2DConditionModel
    vae: AutoencoderKL | AutoencoderTiny
    scheduler_config: Mapping[str, Any]


@torch.no_grad()
def draw(model: Model, call: Mapping[str, Any], images: list[Image.Image]) -> np.ndarray:
    """Float images [batch, height, width, 3] in [0, 1] for the keywords of a call.

    Our keywords are those of diffusers, but for three: `seed` (a generator for each image),
    `strength_mode` (which says whose img2img it is) and `latent_sampling`.
    """
    if call.get("strength") == 0:
        return _through_vae(model, images)
    options = dict(call)
    mode = options.pop("strength_mode", "truncate")
    sample_mode = _SAMPLE_MODES[options.pop("latent_sampling", "mean")]
    options["generator"] = _generators(options.pop("seed"))
    if not images:
        guided = model.unet.config.time_cond_proj_dim is not None
        kind = LatentConsistencyModelPipeline if guided else StableDiffusionPipeline
        return _assemble(kind, model)(**options, output_type="np").images
    pipeline = _assemble(_PIPELINES[mode], model)
    options["image"] = _tensor(images)
    with _sampling(pipeline, sample_mode):
        return pipeline(**options, output_type="np").images


@torch.no_grad()
def inpaint(
    model: Model, call: Mapping[str, Any], images: list[Image.Image], masks: list[Image.Image]
) -> np.ndarray:
    """As `draw`, with masks: floats; but 8-bit values of the images' size, if it has a crop."""
    options = dict(call)
    sample_mode = _SAMPLE_MODES[options.pop("latent_sampling", "mean")]
    options["generator"] = _generators(options.pop("seed"))
    pipeline = _assemble(StableDiffusionInpaintPipeline, model)
    preprocess = pipeline.image_processor.preprocess
    pipeline.image_processor.preprocess = lambda *given, **named: preprocess(
        *given, **named
    ).contiguous()  # as in _tensor
    with _sampling(pipeline, sample_mode):
        if "padding_mask_crop" in call:
            made = pipeline(**options, image=images[0], mask_image=masks[0]).images
            return np.stack([np.asarray(image) for image in made])
        options["width"], options["height"] = images[0].size
        return pipeline(**options, image=images, mask_image=masks, output_type="np").images


def _sampling(pipeline: Any, sample_mode: str) -> Any:
    """A context in which the pipeline takes the encoder's mean ("argmax"), or a sample."""
    module = sys.modules[type(pipeline).__module__]
    sampled = partial(module.retrieve_latents, sample_mode=sample_mode)
    return patch.object(module, "retrieve_latents", sampled)


def _tensor(images: list[Image.Image]) -> torch.Tensor:
    """What a pipeline would make of the images itself, but in the order of its shape, NCHW.

    It would leave them channels last, where torch's group norm is so inexact on flat colours, and
    so dependent on the number of threads, that images differ in 0.7 % of their 8-bit values.
    """
    return VaeImageProcessor(do_normalize=False).preprocess(images).contiguous()


def _assemble(kind: type, model: Model) -> Any:
    pipeline = kind(
        vae=model.vae,
        text_encoder=model.text_encoder,
        tokenizer=model.tokenizer,
        unet=model.unet,
        scheduler=LCMScheduler.from_config(model.scheduler_config),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _generators(seed: int | list[int]) -> list[torch.Generator]:
    seeds = seed if isinstance(seed, list) else [seed]
    return [torch.Generator("cpu").manual_seed(each) for each in seeds]


def _through_vae(model: Model, images: list[Image.Image]) -> np.ndarray:
    """What no pipeline of diffusers does: no step at all."""
    processor = VaeImageProcessor()
    latents = model.vae.encode(processor.preprocess(images)).latent_dist.mode()
    return processor.postprocess(model.vae.decode(latents).sample, output_type="np")

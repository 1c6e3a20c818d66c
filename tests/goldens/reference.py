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
    module = sys.modules[type(pipeline).__module__]
    sampled = partial(module.retrieve_latents, sample_mode=sample_mode)
    with patch.object(module, "retrieve_latents", sampled):
        return pipeline(**options, output_type="np").images


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

"""Golden guidance embeddings: what diffusers' LCM pipelines feed a UNet as timestep_cond."""

import torch
from diffusers import LatentConsistencyModelPipeline

from .files import save_arrays

SCALES = (1.0, 1.1, 1.5, 2.0, 4.0, 7.3, 8.0, 8.5, 12.0)
WIDTHS = (256, 32, 33)


def make() -> str:
    embeddings = {
        f"{scale} {width}": LatentConsistencyModelPipeline.get_guidance_scale_embedding(
            None, torch.tensor(scale - 1).repeat(1), embedding_dim=width
        )[0].numpy()
        for scale in SCALES
        for width in WIDTHS
    }
    save_arrays("guidance.npz", embeddings)
    return f"{len(embeddings)} embeddings"

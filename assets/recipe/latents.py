"""Encode the pictures with the trained autoencoder.

    python latents.py RUN

Needs what dataset.py and vae.py left in RUN; leaves latents.npy (of the scenes) and pairs.npy (of
the counterparts) there: float16 (2, pictures, 4, 32, 32), the second half of mirrored pictures.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from sampling import load_vae
from training import Process, batches, half_precision, launch
from vae import to_model


@torch.no_grad()
def encode(vae: AutoencoderKL, pictures: np.ndarray, device: torch.device) -> np.ndarray:
    """Latent means of pictures and of the same mirrored."""
    latents = np.empty((2, len(pictures), 4, 32, 32), np.float16)
    for part in batches(len(pictures), 512):
        images = to_model(torch.from_numpy(np.array(pictures[part])).to(device))
        for side, image in enumerate((images, images.flip(3))):
            with half_precision(device):
                latents[side, part] = vae.encode(image).latent_dist.mean.half().cpu().numpy()
    return latents


def encode_all(process: Process, run: Path) -> None:
    """The first process encodes the scenes, the last one the counterparts."""
    vae = load_vae(run, process.device)
    scenes = len(np.load(run / "classes.npy"))
    if process.first:
        np.save(
            run / "latents.npy",
            encode(vae, np.load(run / "pictures.npy", mmap_mode="r")[:scenes], process.device),
        )
    if process.rank == process.count - 1:
        np.save(
            run / "pairs.npy",
            encode(vae, np.load(run / "counterparts.npy", mmap_mode="r"), process.device),
        )


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    launch(encode_all, parser.parse_args().run)


if __name__ == "__main__":
    main()

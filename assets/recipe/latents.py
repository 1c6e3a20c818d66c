"""Encode the pictures with the trained autoencoder.

    python latents.py RUN

Needs what dataset.py and vae.py left in RUN; leaves latents.npy (of the scenes) and pairs.npy (of
the counterparts) there: float16 (2, pictures, 4, 32, 32), the second half of mirrored pictures.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from sampling import load_vae
from training import Process, batches, half_precision, launch
from vae import to_model

ARRAYS = {"latents": "pictures", "pairs": "counterparts"}  # what is left -> what it is encoded from


@torch.no_grad()
def encode(process: Process, run: Path) -> None:
    """Fill this process's share of the latents."""
    vae = load_vae(run, process.device)
    for name, source in ARRAYS.items():
        latents = np.load(run / f"{name}.npy", mmap_mode="r+")
        pictures = np.load(run / f"{source}.npy", mmap_mode="r")
        for part in list(batches(latents.shape[1], 512))[process.rank :: process.count]:
            images = to_model(torch.from_numpy(np.array(pictures[part])).to(process.device))
            for side, image in enumerate((images, images.flip(3))):
                with half_precision(process.device):
                    latents[side, part] = vae.encode(image).latent_dist.mean.half().cpu().numpy()


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    run = parser.parse_args().run
    scenes, pairs = (len(np.load(run / f"{name}.npy", "r")) for name in ("classes", "counterparts"))
    for name, count in zip(ARRAYS, (scenes, pairs), strict=True):
        shape = (2, count, 4, 32, 32)
        np.lib.format.open_memmap(run / f"{name}.npy", "w+", np.float16, shape)
    launch(encode, run)


if __name__ == "__main__":
    main()

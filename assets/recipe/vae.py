"""Train the autoencoder.

    python vae.py RUN [--steps N] [--minutes M]

Needs the pictures of dataset.py in RUN; leaves vae.safetensors and vae_config.json there. Run it
again until it says that it is finished.
"""

from pathlib import Path

import numpy as np
import torch
from canvas import SIZE
from diffusers import AutoencoderKL
from networks import make_vae
from torch import Tensor
from torch.nn import functional
from training import (
    Optimizer,
    Process,
    Weights,
    batches,
    command_line,
    fast,
    half_precision,
    save_weights,
    train,
)

BATCH = 32  # for each process
TILED = 4  # of them four latents each, at half the scale, so that latents have no scale
KL_WEIGHT = 1e-4
NOISE = 0.05  # of the latents' deviation, at most: a denoiser's leavings must not show as grain


def to_model(pictures: Tensor) -> Tensor:
    """uint8 NHWC to float NCHW in [-1, 1], in the memory order that the GPU prefers."""
    return (pictures.permute(0, 3, 1, 2).float() / 127.5 - 1).contiguous(
        memory_format=torch.channels_last
    )


def tile(images: Tensor) -> Tensor:
    """Halve images and lay each four of them together."""
    n, c, h, w = images.shape
    halves = functional.avg_pool2d(images, 2).view(n // 4, 2, 2, c, h // 2, w // 2)
    return halves.permute(0, 3, 1, 4, 2, 5).reshape(n // 4, c, h, w)


def distance(got: Tensor, wanted: Tensor) -> Tensor:
    """How far pictures are apart: in their pixels, edges and broad areas."""
    error = got - wanted
    edges = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
    return (
        error.abs().mean()
        + 12 * error.square().mean()
        + edges
        + functional.avg_pool2d(error, 4).abs().mean()
    )


def normalize(vae: AutoencoderKL, pictures: Tensor) -> None:
    """Fold into the 1x1 convolutions what makes these pictures' latents mean 0, deviation 1."""
    latents = torch.cat(
        [
            vae.encode(to_model(pictures[part])).latent_dist.mean
            for part in batches(len(pictures), 64)
        ]
    )
    mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    encoder, decoder = vae.quant_conv, vae.post_quant_conv
    encoder.weight[:4] /= std[:, None, None, None]
    encoder.bias[:4] = (encoder.bias[:4] - mean) / std
    encoder.bias[4:] -= 2 * std.log()
    decoder.bias += decoder.weight[:, :, 0, 0] @ mean
    decoder.weight *= std[None, :, None, None]


def train_vae(process: Process, run: Path, steps: int, minutes: float) -> None:
    """Train the autoencoder, and at the end write it."""
    device = process.device
    arrays = [np.load(run / f"{name}.npy", mmap_mode="r") for name in ("pictures", "counterparts")]
    count = sum(map(len, arrays))
    pictures = torch.empty(count, SIZE, SIZE, 3, dtype=torch.uint8, device=device)
    at = 0
    for array in arrays:
        for part in batches(len(array), 2048):
            pictures[at : at + part.stop - part.start] = torch.from_numpy(np.array(array[part]))
            at += part.stop - part.start
    vae = make_vae()
    weights = Weights({"vae": vae}, process)
    encode = fast(lambda x: vae.quant_conv(vae.encoder(x)), device)
    decode = fast(lambda z: vae.decoder(vae.post_quant_conv(z)), device)

    def step() -> Tensor:
        wanted = to_model(pictures[torch.randint(count, (BATCH + 3 * TILED,), device=device)])
        wanted = torch.where(
            torch.rand(len(wanted), 1, 1, 1, device=device) < 0.5, wanted.flip(3), wanted
        )
        with half_precision(device):
            mean, log_variance = encode(wanted).float().chunk(2, 1)
            log_variance = log_variance.clamp(-20, 10)
            grain = NOISE * torch.rand(len(mean), 1, 1, 1, device=device) * mean.detach().std()
            latents = mean + torch.randn_like(mean) * ((0.5 * log_variance).exp() + grain)
            plain = BATCH - TILED
            latents = torch.cat([latents[:plain], tile(latents[plain:])]).contiguous(
                memory_format=torch.channels_last
            )
            got = decode(latents).float()
        kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
        return distance(got, torch.cat([wanted[:plain], tile(wanted[plain:])])) + KL_WEIGHT * kl

    optimizer = Optimizer(weights, process, rate=1e-3, steps=steps, decay=0.998)
    finished = train("vae", process, run, step, optimizer, minutes)
    if process.first and finished:
        with torch.no_grad():
            vae.load_state_dict(weights.state_dict(weights.average, "vae"))
            normalize(vae, pictures[torch.randperm(count, device=device)[:1024]])
        save_weights(vae.state_dict(), run / "vae.safetensors")
        (run / "vae_config.json").write_text(vae.to_json_string(), encoding="utf-8")
        print("vae: finished", flush=True)


if __name__ == "__main__":
    command_line(train_vae, __doc__, steps=12_000)

"""The noise schedule that teacher and student share, and what follows from a prediction of noise.

Latents are (batch, 4, height, width), timesteps integers (batch,) from 0 to 999.
"""

import torch
from torch import Tensor

POINTS, STRIDE = 50, 20  # where a student may be asked: that many, so many timesteps apart


def alphas_cumprod(device: torch.device | str = "cpu") -> Tensor:
    """Stable Diffusion's "scaled_linear" schedule: the share of signal at each of 1000 steps."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, 0).float().to(device)


def boundary(t: Tensor) -> tuple[Tensor, Tensor]:
    """c_skip and c_out of the consistency function at timestep t.

    Luo et al., 2023, "Latent Consistency Models".
    """
    scaled = t.float()[:, None, None, None] * 10
    return 0.25 / (scaled**2 + 0.25), scaled / (scaled**2 + 0.25).sqrt()


class Schedule:
    """Steps between noise and latents."""

    def __init__(self, device: torch.device) -> None:
        self.alphas = alphas_cumprod(device)

    def levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """What latents and noise are multiplied with at each timestep."""
        alphas = self.alphas[t][:, None, None, None]
        return alphas.sqrt(), (1 - alphas).sqrt()

    def noisy(self, latents: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Latents with noise."""
        signal, sigma = self.levels(t)
        return (signal * latents + sigma * noise).contiguous(memory_format=torch.channels_last)

    def clean(self, noisy: Tensor, t: Tensor, epsilon: Tensor) -> Tensor:
        """The latents without the noise that a network sees in them."""
        signal, sigma = self.levels(t)
        return (noisy - sigma * epsilon) / signal

    def consistent(self, noisy: Tensor, t: Tensor, epsilon: Tensor) -> Tensor:
        """The consistency function: where a student's prediction says that the path ends."""
        skip, out = boundary(t)
        return skip * noisy + out * self.clean(noisy, t, epsilon)

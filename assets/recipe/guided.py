"""The trained teacher, asked with and without the caption."""

from itertools import pairwise
from pathlib import Path

import torch
from networks import GUIDANCE_WIDTH
from sampling import load_text_encoder, load_unet
from schedule import Schedule
from teacher import empty_caption, read_tokens
from torch import Tensor
from training import fast, half_precision


class GuidedTeacher:
    """Predictions of noise with classifier-free guidance, for batches of one size."""

    def __init__(self, run: Path, size: int, device: torch.device) -> None:
        self.predict = fast(load_unet(run, device, "teacher").forward, device)
        self.text_encoder = load_text_encoder(run, device)
        self.schedule = Schedule(device)
        self.no_guidance = torch.zeros(2 * size, GUIDANCE_WIDTH, device=device)
        empty = empty_caption(read_tokens(run)).to(device)[None]
        with torch.no_grad(), half_precision(device):
            self.nothing = self.text_encoder(empty).last_hidden_state.expand(size, -1, -1)

    @torch.no_grad()
    def __call__(self, noisy: Tensor, t: Tensor, context: Tensor, w: Tensor) -> Tensor:
        """The noise in latents, where w is guidance_scale - 1 of each, (size,)."""
        latents = torch.cat([noisy, noisy]).contiguous(memory_format=torch.channels_last)
        told, untold = (
            self.predict(
                latents,
                t.repeat(2),
                torch.cat([context, self.nothing]),
                timestep_cond=self.no_guidance,
                return_dict=False,
            )[0]
            .float()
            .chunk(2)
        )
        return told + w[:, None, None, None] * (told - untold)

    def solve(self, noisy: Tensor, t: Tensor, context: Tensor, w: Tensor, steps: int) -> Tensor:
        """Where the path ends, in so many steps of DDIM, shorter ones where there is less noise."""
        times = [(t * (1 - i / steps) ** 1.5).long() for i in range(steps)]
        for now, following in pairwise([*times, None]):
            epsilon = self(noisy, now, context, w)
            end = self.schedule.clean(noisy, now, epsilon)
            if following is not None:
                noisy = self.schedule.noisy(end, following, epsilon)
        return end

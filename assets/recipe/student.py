"""The student while it is trained: asked, it says where the path from noisy latents ends."""

from collections.abc import Callable
from pathlib import Path

import torch
from networks import guidance_embedding
from sampling import load_unet
from schedule import Schedule
from torch import Tensor
from training import Process, Weights, fast

HUBER = 1e-3


class Student:
    """A UNet in training, at first as in NAME.safetensors, and its average, which follows it."""

    def __init__(self, run: Path, name: str, process: Process) -> None:
        unet = load_unet(run, process.device, name).train().requires_grad_(True)
        self.weights = Weights({"unet": unet}, process)
        follower = load_unet(run, process.device, name)
        follower.load_state_dict(self.averaged(), assign=True)
        self.schedule = Schedule(process.device)
        self.predict, self.predict_average = (
            fast(network.forward, process.device) for network in (unet, follower)
        )

    def averaged(self) -> dict[str, Tensor]:
        """The averaged weights."""
        return self.weights.state_dict(self.weights.average, "unet")

    def __call__(self, noisy: Tensor, t: Tensor, context: Tensor, w: Tensor) -> Tensor:
        """Latents without noise, as the network in training sees them."""
        return self._end(self.predict, noisy, t, context, w)

    @torch.no_grad()
    def average(self, noisy: Tensor, t: Tensor, context: Tensor, w: Tensor) -> Tensor:
        """The same with averaged weights."""
        return self._end(self.predict_average, noisy, t, context, w)

    def _end(
        self,
        predict: Callable[..., tuple[Tensor]],
        noisy: Tensor,
        t: Tensor,
        context: Tensor,
        w: Tensor,
    ) -> Tensor:
        (epsilon,) = predict(
            noisy, t, context, timestep_cond=guidance_embedding(w), return_dict=False
        )
        return self.schedule.consistent(noisy, t, epsilon.float())


def huber(error: Tensor) -> Tensor:
    """Mean pseudo-Huber loss (Song and Dhariwal, 2023, "Improved Techniques for Training
    Consistency Models")."""
    return ((error.square() + HUBER**2).sqrt() - HUBER).mean()

"""Latents and captions, drawn at random for training."""

from pathlib import Path

import numpy as np
import torch
from scene import ATTRIBUTES
from torch import Tensor

PAIRED = 0.2  # share of a batch
PAIR_FROM = 200  # the timestep from which a pair's noise hides enough of its wrong colours


class Examples:
    """Batches of latents to reach, latents to start from, and captions.

    The first PAIRED of each batch start from a scene's counterpart: the same layout in other
    colours. Trained on these, the networks give a noisy picture the colours that the caption says,
    as img2img wants them to.
    """

    def __init__(self, run: Path, device: torch.device) -> None:
        def load(name: str) -> Tensor:
            return torch.from_numpy(np.load(run / f"{name}.npy")).to(device)

        self.latents, self.pairs, self.tokens = load("latents"), load("pairs"), load("tokens")
        self.scenes = torch.from_numpy(repeated(np.load(run / "classes.npy"))).to(device)
        self.device = device

    def draw(self, size: int) -> tuple[Tensor, Tensor, Tensor]:
        """Latents to reach and to start from (size, 4, 32, 32) and token ids (size, 77)."""
        paired = int(PAIRED * size)
        index = self.scenes[torch.randint(len(self.scenes), (size,), device=self.device)]
        index[:paired] %= self.pairs.shape[1]
        side = torch.randint(2, (size,), device=self.device)
        goal = self.latents[side, index].float()
        start = torch.cat([self.pairs[side[:paired], index[:paired]].float(), goal[paired:]])
        which = torch.randint(self.tokens.shape[1], (size,), device=self.device)
        return goal, start, self.tokens[index, which].long()


def repeated(classes: np.ndarray) -> np.ndarray:
    """Indices of scenes by their classes (scenes, attributes): pixel art, which is hard, thrice."""
    style = list(ATTRIBUTES).index("style")
    hard = classes[:, style] == ATTRIBUTES["style"].index("pixel art")
    return np.repeat(np.arange(len(classes)), np.where(hard, 3, 1))


def spread(size: int, device: torch.device) -> Tensor:
    """Stratified numbers in [0, 1): one in each of `size` equal parts, in random order."""
    parts = torch.rand(size, device=device).argsort()
    return (parts + torch.rand(size, device=device)) / size

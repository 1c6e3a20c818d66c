"""A classifier of images: which class of each of the eight attributes does an image show?

    python benchmarks/demo_model/classifier.py RUN [--steps N]

Trained on the renders of assets/recipe/dataset.py in RUN; writes RUN/classifier.safetensors.
"""

import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parents[2] / "assets" / "recipe"))

from scene import ATTRIBUTES
from training import (
    Optimizer,
    Process,
    Weights,
    command_line,
    fast,
    half_precision,
    save_weights,
    train,
)
from vae import to_model

BATCH = 128  # for each process
CLASSES = [len(classes) for classes in ATTRIBUTES.values()]


class Classifier(nn.Module):
    """Strided convolutions over an image, then a logit for each class of each attribute."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 32, 64, 128, 192, 256)
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, 2, 1), nn.GroupNorm(8, after), nn.ReLU()]
            layers += [nn.Conv2d(after, after, 3, 1, 1), nn.GroupNorm(8, after), nn.ReLU()]
        self.features = nn.Sequential(*layers, nn.Dropout2d(0.1))
        self.head = nn.Linear(2 * widths[-1], sum(CLASSES))

    def forward(self, images: Tensor) -> Tensor:
        """Float NCHW in [-1, 1] to logits (batch, sum of CLASSES)."""
        features = self.features(images)
        return self.head(torch.cat([features.mean((2, 3)), features.amax((2, 3))], 1))

    @torch.no_grad()
    def classify(self, images: Tensor) -> Tensor:
        """The most likely class of each attribute, (batch, 8)."""
        return torch.stack([logits.argmax(1) for logits in self(images).split(CLASSES, 1)], 1)


def load_classifier(path: Path, device: torch.device) -> Classifier:
    """A trained classifier, for inference."""
    classifier = Classifier()
    classifier.load_state_dict({key: tensor.float() for key, tensor in load_file(path).items()})
    return classifier.to(device).eval().requires_grad_(False)


def roughen(images: Tensor) -> Tensor:
    """Add noise and blur, so that the classifier tolerates small artifacts of a decoder."""
    count = len(images)
    coarse = functional.interpolate(
        functional.avg_pool2d(images, 2), scale_factor=2, mode="bilinear"
    )
    share = torch.rand(count, 1, 1, 1, device=images.device)
    sigma = 0.08 * torch.rand(count, 1, 1, 1, device=images.device)
    return images + share * (coarse - images) + sigma * torch.randn_like(images)


def train_classifier(process: Process, run: Path, steps: int, minutes: float) -> None:
    """Train the classifier and write it at the end."""
    device = process.device
    classes = torch.from_numpy(np.load(run / "classes.npy")).to(device)
    renders = torch.from_numpy(
        np.load(run / "pictures.npy", mmap_mode="r")[: len(classes)].copy()
    ).to(device)
    classifier = Classifier()
    weights = Weights({"classifier": classifier}, process)
    forward = fast(classifier.forward, device)

    def step() -> Tensor:
        index = torch.randint(len(classes), (BATCH,), device=device)
        images = to_model(renders[index])
        images = torch.where(
            torch.rand(BATCH, 1, 1, 1, device=device) < 0.5, images.flip(3), images
        )
        with half_precision(device):
            logits = forward(roughen(images).contiguous(memory_format=torch.channels_last)).float()
        pairs = zip(logits.split(CLASSES, 1), classes[index].long().unbind(1), strict=True)
        return sum(
            (functional.cross_entropy(scores, target) for scores, target in pairs),
            torch.zeros((), device=device),
        )

    optimizer = Optimizer(weights, process, rate=1e-3, steps=steps, decay=0.995)
    finished = train("classifier", process, run, step, optimizer, minutes)
    if process.first and finished:
        save_weights(
            weights.state_dict(weights.average, "classifier"), run / "classifier.safetensors"
        )
        print("classifier: finished", flush=True)


if __name__ == "__main__":
    command_line(train_classifier, __doc__, steps=8_000)

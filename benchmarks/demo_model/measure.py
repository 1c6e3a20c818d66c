"""Measure a demo bundle: prompt adherence, layout kept by img2img, autoencoder loss.

    python benchmarks/demo_model/measure.py BUNDLE CLASSIFIER.safetensors [--teacher RUN]
    [--captions N]

Captions and images are of scenes that no network was trained on. Accuracy is the mean over the
eight attributes of the share of images in which the classifier finds what the caption says; its
own score on renders is printed too. The teacher, which is in no bundle, is read from the folder of
a training run.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

RECIPE = Path(__file__).parents[2] / "assets" / "recipe"
sys.path.insert(0, str(RECIPE))

import export  # noqa: E402
from captions import caption  # noqa: E402
from classifier import Classifier, load_classifier  # noqa: E402
from painter import render  # noqa: E402
from sampling import Sampler, to_tensor  # noqa: E402
from scene import ATTRIBUTES, STYLES, Scene, sample  # noqa: E402
from scribbles import scribble  # noqa: E402
from training import batches  # noqa: E402

from lcmcore.tokenizer import CLIPTokenizer  # noqa: E402

BATCH = 8


def held_out(count: int) -> list[Scene]:
    """Scenes whose seeds are below those of the training scenes."""
    return [sample(seed) for seed in range(count)]


def read_sampler(bundle: Path, device: torch.device) -> Sampler:
    """The networks of a bundle, in torch."""
    networks = export.read_bundle(bundle)
    modules = (networks.vae.to(device), networks.unet.to(device), networks.text_encoder.to(device))
    return Sampler(*modules, CLIPTokenizer.from_dir(bundle / "tokenizer"), device)


def prompt_adherence(
    classifier: Classifier,
    scenes: list[Scene],
    generate: Callable[[list[str], slice], Tensor],
    device: torch.device,
) -> Tensor:
    """Share of images that show what their captions say, for each attribute."""
    prompts = [caption(scene, scene.stream("captions")) for scene in scenes]
    wanted = torch.tensor([scene.classes() for scene in scenes], device=device)
    found = torch.cat(
        [classifier.classify(generate(prompts[part], part)) for part in batches(len(scenes), BATCH)]
    )
    return (found == wanted).float().mean(0)


def psnr(got: Tensor, wanted: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each image in [-1, 1], in dB."""
    return -10 * torch.log10(((got - wanted) / 2).square().mean((1, 2, 3)))


def layout_correlation(a: Tensor, b: Tensor) -> float:
    """Correlation of the coarse edges of two images, mean over the batch."""

    def edges(images: Tensor) -> Tensor:
        broad = functional.avg_pool2d(images.mean(1, keepdim=True), 8)
        strength = broad.diff(dim=2)[..., :-1].abs() + broad.diff(dim=3)[:, :, :-1].abs()
        centred = strength - strength.mean((1, 2, 3), keepdim=True)
        return centred / centred.square().sum((1, 2, 3), keepdim=True).sqrt()

    return float((edges(a) * edges(b)).sum((1, 2, 3)).mean())


def photo_like() -> np.ndarray:
    """Coloured 1/f noise with grain: statistics of a photograph, without the recipe's shapes."""
    rng = np.random.default_rng(7)
    frequency = np.hypot(np.fft.fftfreq(256)[:, None], np.fft.rfftfreq(256)[None])
    frequency[0, 0] = 1
    waves = rng.normal(size=(4, 256, 129)) + 1j * rng.normal(size=(4, 256, 129))
    layers = np.fft.irfft2(waves / frequency**1.2, s=(256, 256))
    layers /= layers.std((1, 2), keepdims=True)
    color = 0.85 * layers[:1] + 0.35 * layers[1:]
    y, x = np.mgrid[-1:1:256j, -1:1:256j]
    image = 118 + 46 * color * (1 - 0.25 * (x**2 + y**2)) + rng.normal(size=(3, 256, 256)) * 2
    return np.clip(image, 0, 255).astype(np.uint8).transpose(1, 2, 0)


def renders(scenes: list[Scene], device: torch.device) -> Tensor:
    """Renders of scenes, float NCHW in [-1, 1]."""
    return to_tensor(np.stack([render(scene) for scene in scenes]), device)


def measure_vae(sampler: Sampler, scenes: list[Scene]) -> Iterator[tuple[str, float]]:
    """PSNR of held-out images after the autoencoder's round trip."""

    def quality(images: Tensor) -> Tensor:
        parts = [images[part] for part in batches(len(images), BATCH)]
        with torch.no_grad():
            trips = [
                sampler.vae.decode(sampler.vae.encode(x).latent_dist.mean).sample.clamp(-1, 1)
                for x in parts
            ]
        return torch.cat([psnr(trip, part) for trip, part in zip(trips, parts, strict=True)])

    scores = quality(renders(scenes, sampler.device))
    yield "VAE PSNR, scenes, mean", float(scores.mean())
    for style in STYLES:
        chosen = torch.tensor([scene.style == style for scene in scenes])
        yield f"VAE PSNR, {style}", float(scores[chosen].mean())
    scribbles = np.stack([scribble(seed) for seed in range(64)])
    yield "VAE PSNR, scribbles", float(quality(to_tensor(scribbles, sampler.device)).mean())
    yield (
        "VAE PSNR, photograph-like",
        float(quality(to_tensor(photo_like()[None], sampler.device)).mean()),
    )


def measure_layout(sampler: Sampler, scenes: list[Scene]) -> Iterator[tuple[str, float]]:
    """Layout kept by img2img from another scene."""
    others = renders([sample(10_000 + scene.seed) for scene in scenes], sampler.device)
    prompts = [caption(scene, scene.stream("captions")) for scene in scenes]
    for strength in (0.4, 0.9):
        kept = [
            layout_correlation(
                sampler.lcm(prompts[part], 4, others[part], strength, seed=part.start), others[part]
            )
            for part in batches(len(scenes), BATCH)
        ]
        yield f"layout correlation, strength {strength}", float(np.mean(kept))


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("classifier", type=Path)
    parser.add_argument("--teacher", type=Path)
    parser.add_argument("--captions", type=int, default=200)
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    sampler = read_sampler(args.bundle, device)
    classifier = load_classifier(args.classifier, device)
    scenes = held_out(args.captions)

    def report(name: str, shares: Tensor) -> None:
        each = ", ".join(
            f"{attribute} {share:.3f}"
            for attribute, share in zip(ATTRIBUTES, shares.tolist(), strict=True)
        )
        print(f"{name}: {shares.mean():.3f} ({each})", flush=True)

    report(
        "renders",
        prompt_adherence(classifier, scenes, lambda _, part: renders(scenes[part], device), device),
    )
    for name, value in (*measure_vae(sampler, scenes), *measure_layout(sampler, scenes[:48])):
        print(f"{name}: {value:.2f}", flush=True)
    for steps in (4, 2, 1, 8):
        shares = prompt_adherence(
            classifier, scenes, lambda p, part, n=steps: sampler.lcm(p, n, seed=part.start), device
        )
        report(f"LCM, {steps} steps", shares)

    def from_another(prompts: list[str], part: slice) -> Tensor:
        others = renders([sample(10_000 + scene.seed) for scene in scenes[part]], device)
        return sampler.lcm(prompts, 4, others, 0.75, seed=part.start)

    report(
        "LCM, 4 steps, img2img from another scene at strength 0.75",
        prompt_adherence(classifier, scenes, from_another, device),
    )
    if args.teacher:
        teacher = Sampler.from_run(args.teacher, device, "teacher")
        shares = prompt_adherence(
            classifier, scenes, lambda p, part: teacher.ddim(p, 30, seed=part.start), device
        )
        report("teacher, 30 steps", shares)


if __name__ == "__main__":
    main()

"""Distil the teacher into a latent consistency model.

    python distill.py RUN [--steps N] [--minutes M]

Needs what teacher.py left in RUN; leaves unet.safetensors there. Run it again until it says that it
is finished. Luo et al., 2023, "Latent Consistency Models", with the guidance weight embedded.
"""

import argparse
from pathlib import Path

import torch
from examples import PAIR_FROM, PAIRED, Examples, spread
from networks import GUIDANCE_WIDTH, alphas_cumprod, boundary, guidance_embedding
from sampling import load_text_encoder, load_unet
from teacher import empty_caption, read_tokens
from torch import Tensor
from training import Optimizer, Process, Weights, fast, half_precision, launch, save_weights, train

BATCH = 256  # for each process
STRIDE = 20  # timesteps between the 50 points of the skeleton
MAX_GUIDANCE = 8.0  # w; guidance_scale is one more
TARGET_DECAY = 0.95
HUBER = 1e-3


def distill(process: Process, run: Path, steps: int, minutes: float) -> None:
    """Train the student, and at the end write it."""
    device = process.device
    teacher, target = (load_unet(run, device, "teacher") for _ in range(2))
    student = load_unet(run, device, "teacher").train().requires_grad_(True)
    text_encoder = load_text_encoder(run, device)
    weights = Weights({"unet": student}, process)
    target.load_state_dict(
        weights.state_dict(weights.average, "unet"), assign=True
    )  # it follows the student
    examples = Examples(run, device)
    alphas = alphas_cumprod(device)
    run_teacher, run_target, run_student = (
        fast(unet.forward, device) for unet in (teacher, target, student)
    )
    empty = empty_caption(read_tokens(run)).to(device).expand(BATCH, -1)
    no_guidance = torch.zeros(BATCH, GUIDANCE_WIDTH, device=device)
    with torch.no_grad(), half_precision(device):
        nothing = text_encoder(empty).last_hidden_state
    first_pair = PAIR_FROM // STRIDE

    def consistent(noisy: Tensor, t: Tensor, epsilon: Tensor) -> Tensor:
        """The consistency function: where the network's prediction says that the path ends."""
        skip, out = boundary(t)
        return skip * noisy + out * clean(noisy, t, epsilon)

    def clean(noisy: Tensor, t: Tensor, epsilon: Tensor) -> Tensor:
        return (noisy - level(1 - alphas, t) * epsilon) / level(alphas, t)

    def step() -> Tensor:
        _, start, ids = examples.draw(BATCH)
        first = torch.zeros(BATCH, device=device)
        first[: int(PAIRED * BATCH)] = first_pair
        t = ((first + (50 - first) * spread(BATCH, device)).long().clamp(max=49) + 1) * STRIDE - 1
        before = (t - STRIDE).clamp(min=0)
        w = torch.rand(BATCH, device=device) * MAX_GUIDANCE
        noisy = level(alphas, t) * start + level(1 - alphas, t) * torch.randn_like(start)
        noisy = noisy.contiguous(memory_format=torch.channels_last)
        guidance = guidance_embedding(w)
        with half_precision(device):
            with torch.no_grad():
                context = text_encoder(ids).last_hidden_state
                told = run_teacher(noisy, t, context, timestep_cond=no_guidance, return_dict=False)[
                    0
                ].float()
                untold = run_teacher(
                    noisy, t, nothing, timestep_cond=no_guidance, return_dict=False
                )[0].float()
                epsilon = told + w[:, None, None, None] * (told - untold)
                earlier = (
                    level(alphas, before) * clean(noisy, t, epsilon)
                    + level(1 - alphas, before) * epsilon
                )
                earlier = earlier.contiguous(memory_format=torch.channels_last)
                goal = run_target(
                    earlier, before, context, timestep_cond=guidance, return_dict=False
                )[0].float()
                goal = consistent(earlier, before, goal)
            got = run_student(noisy, t, context, timestep_cond=guidance, return_dict=False)[
                0
            ].float()
        error = consistent(noisy, t, got) - goal
        return ((error.square() + HUBER**2).sqrt() - HUBER).mean()

    optimizer = Optimizer(weights, process, rate=3e-4, steps=steps, decay=TARGET_DECAY)

    finished = train("distill", process, run, step, optimizer, minutes)
    if process.first:
        save_weights(weights.state_dict(weights.average, "unet"), run / "unet.safetensors")
        if finished:
            print("distill: finished", flush=True)


def level(shares: Tensor, t: Tensor) -> Tensor:
    """Square root of the share at each timestep, to multiply latents with."""
    return shares[t].sqrt()[:, None, None, None]


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--steps", type=int, default=5_400)
    parser.add_argument("--minutes", type=float, default=9.0)
    args = parser.parse_args()
    launch(distill, args.run, args.steps, args.minutes)


if __name__ == "__main__":
    main()

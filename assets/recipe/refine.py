"""Refine the student where its own steps lead.

    python refine.py RUN [--steps N] [--minutes M]

Needs what distill.py left in RUN; leaves unet.safetensors there. Run it again until it says that it
is finished.

A student is distilled on noisy scenes, but sampling asks it about its own guesses with
noise: what one step loses, such as a small house, the next takes for what was wanted. Here it walks
as in sampling, and from each place it learns where the teacher would go. After Kohler et al., 2024,
"Imagine Flash: Accelerating Emu Diffusion Models with Backward Distillation".
"""

from itertools import pairwise
from pathlib import Path

import torch
from examples import PAIR_FROM, PAIRED, Examples
from guided import GuidedTeacher
from schedule import POINTS, STRIDE, Schedule
from student import Student, huber
from torch import Tensor
from training import Optimizer, Process, command_line, half_precision, save_weights, train

BATCH = 256  # for each process
MAX_GUIDANCE = 6.0  # w; guidance_scale is one more
FROM_NOISE = 0.6  # share of walks that take the four steps of sampling; the others start anywhere
FOUR_STEPS = (50, 38, 25, 13)  # points of the skeleton
SOLVER_STEPS = (8, 5)  # for the first two places of a walk and for the last two
AVERAGE_DECAY = 0.99


def refine(process: Process, run: Path, steps: int, minutes: float) -> None:
    """Train the student, and at the end write it."""
    device = process.device
    teacher = GuidedTeacher(run, BATCH // 2, device)
    student = Student(run, "student", process)
    schedule = Schedule(device)
    examples = Examples(run, device)
    usual = torch.tensor(FOUR_STEPS, device=device)[:, None]
    walks = torch.arange(BATCH, device=device)
    places = walks * len(FOUR_STEPS) // BATCH  # each walk is left at one of them

    def walk(start: Tensor, t: Tensor, context: Tensor, w: Tensor) -> Tensor:
        """Noisy latents at each of the timesteps t, (4, batch), by the student's own guesses."""
        latents = [start]
        for now, following in pairwise(t):
            guess = student.average(latents[-1], now, context, w)
            latents.append(schedule.noisy(guess, following, torch.randn_like(guess)))
        return torch.stack(latents)

    def step() -> Tensor:
        _, start, ids = examples.draw(BATCH)
        order = torch.rand(BATCH, device=device).argsort()  # counterparts come first in a batch
        start, ids, paired = start[order], ids[order], order < int(PAIRED * BATCH)
        whole = ~paired & (torch.rand(BATCH, device=device) < FROM_NOISE / (1 - PAIRED))
        t = timesteps(whole, paired, usual)
        noise = torch.randn_like(start)
        start = torch.where(
            whole[:, None, None, None], noise, schedule.noisy(start, t[0], noise)
        ).contiguous(memory_format=torch.channels_last)
        w = torch.rand(BATCH, device=device) * MAX_GUIDANCE
        with half_precision(device):
            with torch.no_grad():
                context = teacher.text_encoder(ids).last_hidden_state
                noisy = walk(start, t, context, w)[places, walks]
                noisy = noisy.contiguous(memory_format=torch.channels_last)
                t = t[places, walks]
                halves = zip(*(x.chunk(2) for x in (noisy, t, context, w)), strict=True)
                goal = torch.cat(
                    [
                        teacher.solve(*half, count)
                        for half, count in zip(halves, SOLVER_STEPS, strict=True)
                    ]
                )
            return huber(student(noisy, t, context, w) - goal)

    optimizer = Optimizer(student.weights, process, rate=2e-4, steps=steps, decay=AVERAGE_DECAY)
    finished = train("refine", process, run, step, optimizer, minutes)
    if process.first:
        save_weights(student.averaged(), run / "unet.safetensors")
        if finished:
            print("refine: finished", flush=True)


def timesteps(whole: Tensor, paired: Tensor, usual: Tensor) -> Tensor:
    """Four falling timesteps for each walk, (4, batch): those of the usual points, or any.

    A walk from a counterpart starts where noise hides its colours.
    """
    points = torch.rand(len(whole), POINTS, device=whole.device).argsort(1)[:, :4] + 1
    points = points.sort(1, descending=True).values.T
    first = torch.where(paired, points[0].clamp(min=PAIR_FROM // STRIDE), points[0])
    points = torch.cat([first[None], points[1:]])
    return torch.where(whole, usual, points) * STRIDE - 1


if __name__ == "__main__":
    command_line(refine, __doc__, steps=5_300)

"""Distil the teacher into a latent consistency model.

    python distill.py RUN [--steps N] [--minutes M]

Needs what teacher.py left in RUN; leaves student.safetensors there. Run it again until it says that
it is finished. Luo et al., 2023, "Latent Consistency Models", with the guidance weight embedded.
"""

from pathlib import Path

import torch
from examples import PAIR_FROM, PAIRED, Examples, spread
from guided import GuidedTeacher
from schedule import POINTS, STRIDE, Schedule
from student import Student, huber
from torch import Tensor
from training import Optimizer, Process, command_line, half_precision, save_weights, train

BATCH = 256  # for each process
MAX_GUIDANCE = 8.0  # w; guidance_scale is one more
TARGET_DECAY = 0.95


def distill(process: Process, run: Path, steps: int, minutes: float) -> None:
    """Train the student, and at the end write it."""
    device = process.device
    teacher = GuidedTeacher(run, BATCH, device)
    student = Student(run, "teacher", process)
    schedule = Schedule(device)
    examples = Examples(run, device)
    first_pair = PAIR_FROM // STRIDE

    def step() -> Tensor:
        _, start, ids = examples.draw(BATCH)
        first = torch.zeros(BATCH, device=device)
        first[: int(PAIRED * BATCH)] = first_pair
        point = (first + (POINTS - first) * spread(BATCH, device)).long().clamp(max=POINTS - 1) + 1
        t = point * STRIDE - 1
        before = (t - STRIDE).clamp(min=0)
        w = torch.rand(BATCH, device=device) * MAX_GUIDANCE
        noisy = schedule.noisy(start, t, torch.randn_like(start))
        with half_precision(device):
            with torch.no_grad():
                context = teacher.text_encoder(ids).last_hidden_state
                epsilon = teacher(noisy, t, context, w)
                earlier = schedule.noisy(schedule.clean(noisy, t, epsilon), before, epsilon)
                goal = student.average(earlier, before, context, w)
            return huber(student(noisy, t, context, w) - goal)

    optimizer = Optimizer(student.weights, process, rate=3e-4, steps=steps, decay=TARGET_DECAY)
    finished = train("distill", process, run, step, optimizer, minutes)
    if process.first:
        save_weights(student.averaged(), run / "student.safetensors")
        if finished:
            print("distill: finished", flush=True)


if __name__ == "__main__":
    command_line(distill, __doc__, steps=6_000)

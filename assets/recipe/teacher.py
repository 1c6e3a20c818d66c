"""Train the teacher: a diffusion UNet and its text encoder.

    python teacher.py RUN [--steps N] [--minutes M]

Needs latents, tokens and the tokenizer in RUN; leaves teacher.safetensors, text.safetensors and
their configs there. Run it again until it says that it is finished.
"""

import json
from pathlib import Path

import torch
import vocabulary
from examples import PAIR_FROM, PAIRED, Examples, spread
from networks import CONTEXT, GUIDANCE_WIDTH, make_text_encoder, make_unet
from schedule import Schedule
from torch import Tensor
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

BATCH = 256  # for each process
WITHOUT_CAPTION = 0.1
UNKNOWN = 0.02  # share of words turned into fragments, so that an unknown word does no harm
MAX_SNR = 5.0  # Hang et al., 2023, "Efficient Diffusion Training via Min-SNR Weighting Strategy"


def read_tokens(run: Path) -> dict[str, int]:
    """The vocabulary of a run: tokens and their ids."""
    return json.loads((run / "tokenizer" / "vocab.json").read_text(encoding="utf-8"))


def empty_caption(tokens: dict[str, int]) -> Tensor:
    """Ids of a caption without words, (77,)."""
    return torch.tensor([tokens[vocabulary.BOS]] + [tokens[vocabulary.EOS]] * (CONTEXT - 1))


def train_teacher(process: Process, run: Path, steps: int, minutes: float) -> None:
    """Train teacher and text encoder, and write their averages."""
    device, tokens = process.device, read_tokens(run)
    unet, text_encoder = make_unet(), make_text_encoder(len(tokens))
    weights = Weights({"unet": unet, "text": text_encoder}, process)
    examples = Examples(run, device)
    predict = fast(unet.forward, device)
    schedule = Schedule(device)
    empty = empty_caption(tokens).to(device)
    words = set(examples.tokens.unique().tolist())
    fragments = torch.tensor([i for i in range(len(tokens)) if i not in words], device=device)
    no_guidance = torch.zeros(BATCH, GUIDANCE_WIDTH, device=device)
    paired = int(PAIRED * BATCH)

    def step() -> Tensor:
        goal, start, ids = examples.draw(BATCH)
        strange = fragments[torch.randint(len(fragments), ids.shape, device=device)]
        ids = torch.where(
            (torch.rand(ids.shape, device=device) < UNKNOWN) & (ids < len(tokens) - 2), strange, ids
        )
        dropped = torch.rand(BATCH - paired, 1, device=device) < WITHOUT_CAPTION
        ids = torch.cat([ids[:paired], torch.where(dropped, empty, ids[paired:])])
        first = torch.zeros(BATCH, device=device)
        first[:paired] = PAIR_FROM / 1000
        t = ((first + (1 - first) * spread(BATCH, device)) * 1000).long().clamp(max=999)
        noisy = schedule.noisy(start, t, torch.randn_like(start))
        signal, noise = schedule.levels(t)
        wanted = (
            noisy - signal * goal
        ) / noise  # of a pair, it leads from the counterpart to the scene
        with half_precision(device):
            context = text_encoder(ids).last_hidden_state
            got = predict(noisy, t, context, timestep_cond=no_guidance, return_dict=False)[
                0
            ].float()
        snr = (signal / noise).square().flatten()
        return (snr.clamp(max=MAX_SNR) / snr * (got - wanted).square().mean((1, 2, 3))).mean()

    optimizer = Optimizer(weights, process, rate=8e-4, steps=steps, decay=0.999)
    finished = train("teacher", process, run, step, optimizer, minutes)
    if process.first:
        save_weights(weights.state_dict(weights.average, "unet"), run / "teacher.safetensors")
        save_weights(weights.state_dict(weights.average, "text"), run / "text.safetensors")
        (run / "unet_config.json").write_text(unet.to_json_string(), encoding="utf-8")
        (run / "text_config.json").write_text(
            text_encoder.config.to_json_string(), encoding="utf-8"
        )
        if finished:
            print("teacher: finished", flush=True)


if __name__ == "__main__":
    command_line(train_teacher, __doc__, steps=6_600)

"""Draw pictures with the torch networks of a run: the teacher by DDIM, the student by LCM steps.

    python sampling.py RUN SHEET.png

Saves a sheet of the student's pictures: eight captions at 1, 2, 4 and 8 steps, then a scribble, its
round trip through the autoencoder, and img2img from it at four strengths.
"""

import argparse
import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from networks import GUIDANCE_WIDTH, guidance_embedding
from PIL import Image, ImageDraw
from safetensors.torch import load_file
from schedule import POINTS, STRIDE, Schedule
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from lcmcore.tokenizer import CLIPTokenizer

PROMPTS = (
    "a snowy landscape with mountains and pine trees at night",
    "a desert with a cactus at sunset",
    "a green meadow with a lake and mountains at noon",
    "autumn hills with trees and a house at dawn",
    "a watercolor of a forest with a river at sunset",
    "sand dunes under a starry sky, pixel art",
    "a pencil sketch of a winter landscape with a house",
    "a dark green forest with a lake and clouds at dawn",
)


def read_config(path: Path) -> dict[str, object]:
    """Read a JSON object."""
    return json.loads(path.read_text(encoding="utf-8"))


def load_weights(module: torch.nn.Module, path: Path, device: torch.device) -> torch.nn.Module:
    """Fill a network with float16 weights, widened to float32, for inference."""
    module.load_state_dict({key: tensor.float() for key, tensor in load_file(path).items()})
    return module.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)


def load_vae(run: Path, device: torch.device) -> AutoencoderKL:
    """The autoencoder of a run."""
    vae = AutoencoderKL.from_config(read_config(run / "vae_config.json"))
    return load_weights(vae, run / "vae.safetensors", device)


def load_unet(run: Path, device: torch.device, name: str = "unet") -> UNet2DConditionModel:
    """The student of a run, or the teacher."""
    unet = UNet2DConditionModel.from_config(read_config(run / "unet_config.json"))
    return load_weights(unet, run / f"{name}.safetensors", device)


def load_text_encoder(run: Path, device: torch.device) -> CLIPTextModel:
    """The text encoder of a run."""
    text_encoder = CLIPTextModel(CLIPTextConfig.from_json_file(run / "text_config.json"))
    return load_weights(text_encoder, run / "text.safetensors", device)


@dataclass(frozen=True)
class Sampler:
    """The networks, with a tokenizer, on one device. Images are float NCHW in [-1, 1]."""

    vae: AutoencoderKL
    unet: UNet2DConditionModel
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    device: torch.device

    @classmethod
    def from_run(cls, run: Path, device: torch.device, unet: str = "unet") -> "Sampler":
        """Load what a training run left."""
        tokenizer = CLIPTokenizer.from_dir(run / "tokenizer")
        return cls(
            load_vae(run, device),
            load_unet(run, device, unet),
            load_text_encoder(run, device),
            tokenizer,
            device,
        )

    def context(self, prompts: list[str]) -> Tensor:
        """Hidden states of the prompts, (prompts, 77, TEXT_WIDTH)."""
        ids = torch.from_numpy(np.asarray(self.tokenizer(prompts))).to(self.device)
        return self.text_encoder(ids).last_hidden_state

    @torch.no_grad()
    def ddim(
        self, prompts: list[str], steps: int = 30, guidance_scale: float = 5.0, seed: int = 0
    ) -> Tensor:
        """Deterministic diffusion sampling with classifier-free guidance (Song et al., 2021)."""
        schedule, count = Schedule(self.device), len(prompts)
        context = torch.cat([self.context([""] * count), self.context(prompts)])
        no_guidance = torch.zeros(2 * count, GUIDANCE_WIDTH, device=self.device)
        x = self.noise(count, torch.Generator().manual_seed(seed))
        timesteps = torch.linspace(999, 0, steps + 1, device=self.device).long()
        for t, following in pairwise(timesteps):
            untold, told = self.unet(
                x.repeat(2, 1, 1, 1), t, context, timestep_cond=no_guidance
            ).sample.chunk(2)
            epsilon = untold + guidance_scale * (told - untold)
            clean = schedule.clean(x, t.expand(count), epsilon)
            x = schedule.noisy(clean, following.expand(count), epsilon)
        return self.vae.decode(clean).sample.clamp(-1, 1)

    @torch.no_grad()
    def lcm(
        self,
        prompts: list[str],
        steps: int = 4,
        image: Tensor | None = None,
        strength: float = 1.0,
        guidance_scale: float = 4.0,
        seed: int = 0,
    ) -> Tensor:
        """Latent consistency sampling; with an image, as many of the steps as `strength` says."""
        schedule, count = Schedule(self.device), len(prompts)
        generator = torch.Generator().manual_seed(seed)
        context = self.context(prompts)
        guidance = guidance_embedding(torch.full((count,), guidance_scale - 1, device=self.device))
        skeleton = np.arange(POINTS, 0, -1) * STRIDE - 1
        timesteps = skeleton[np.floor(np.linspace(0, POINTS, steps, endpoint=False)).astype(int)]
        x = self.noise(count, generator)
        if image is not None:
            timesteps = timesteps[int(round(steps * (1 - strength), 9)) :]
            first = torch.full((count,), int(timesteps[0]), device=self.device)
            x = schedule.noisy(self.vae.encode(image).latent_dist.mean, first, x)
        for i, timestep in enumerate(timesteps):
            t = torch.full((count,), int(timestep), device=self.device)
            x = schedule.consistent(x, t, self.unet(x, t, context, timestep_cond=guidance).sample)
            if i + 1 < len(timesteps):
                following = torch.full((count,), int(timesteps[i + 1]), device=self.device)
                x = schedule.noisy(x, following, self.noise(count, generator))
        return self.vae.decode(x).sample.clamp(-1, 1)

    def noise(self, count: int, generator: torch.Generator) -> Tensor:
        """Gaussian latents of so many pictures."""
        return torch.randn(count, 4, 32, 32, generator=generator).to(self.device)


def example_scribble() -> np.ndarray:
    """Mountains, a lake and a sun in flat colours, uint8 (256, 256, 3)."""
    image = Image.new("RGB", (256, 256), (120, 180, 240))
    draw = ImageDraw.Draw(image)
    draw.polygon([(0, 150), (70, 60), (120, 130), (180, 50), (256, 150)], fill=(110, 110, 120))
    draw.rectangle([0, 145, 256, 256], fill=(90, 160, 60))
    draw.ellipse([60, 175, 200, 225], fill=(60, 110, 200))
    draw.ellipse([200, 20, 230, 50], fill=(255, 240, 120))
    return np.asarray(image)


def to_tensor(images: np.ndarray, device: torch.device) -> Tensor:
    """uint8 NHWC to float NCHW in [-1, 1]."""
    return torch.from_numpy(np.array(images)).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1


def save_sheet(images: Tensor, columns: int, path: Path) -> None:
    """Lay pictures out in rows and save them."""
    pixels = ((images + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    rows = [
        np.concatenate(list(pixels[i : i + columns]), 1) for i in range(0, len(pixels), columns)
    ]
    Image.fromarray(np.concatenate(rows)).save(path)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("sheet", type=Path)
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    sampler = Sampler.from_run(args.run, device)
    prompts = list(PROMPTS)
    scribble = to_tensor(example_scribble()[None].repeat(len(prompts), 0), device)
    with torch.no_grad():
        trip = sampler.vae.decode(sampler.vae.encode(scribble).latent_dist.mean).sample.clamp(-1, 1)
    rows = [sampler.lcm(prompts, steps) for steps in (1, 2, 4, 8)]
    rows += [
        scribble,
        trip,
        *(sampler.lcm(prompts, 4, scribble, strength) for strength in (0.25, 0.5, 0.75, 0.9)),
    ]
    save_sheet(torch.cat(rows), len(prompts), args.sheet)


if __name__ == "__main__":
    main()

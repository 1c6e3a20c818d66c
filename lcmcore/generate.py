"""`lcm img2img` and `lcm txt2img`: arguments to a PNG file."""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

import lcmcore
from lcmcore.bundle import demo_dir
from lcmcore.errors import ArgumentError, ImageError, first_line
from lcmcore.files import require_writable, sha256, write_whole
from lcmcore.image import read_image
from lcmcore.picture import SOFTWARE, encode_png
from lcmcore.pipeline import Pipeline, Result, load
from lcmcore.progress import Progress


def generate(args: argparse.Namespace) -> None:
    """Make the picture that the arguments ask for; raises LcmError, and then writes nothing."""
    if args.output.suffix.lower() != ".png":
        raise ArgumentError(f"{args.output}: the picture is a PNG: name it {args.output.stem}.png")
    require_writable(args.output)
    init = None if args.init is None else read_image(args.init)
    digest = None if args.init is None else _digest(args.init)
    start = time.perf_counter()
    with Progress(args.quiet) as progress, _load(args) as pipe:
        settings = _settings(args, pipe)
        total = len(pipe.scheduler.schedule(**_schedule(settings)))
        result = pipe(
            args.prompt,
            init,
            seed=args.seed,
            callback_on_step_end=lambda _, done, *__: progress.step(done + 1, total),
            **settings,
        )
        record = _record(args, settings, result, digest)
        write_whole(args.output, encode_png(result.images[0], record))
        seconds = time.perf_counter() - start
        progress.say(
            f"wrote {args.output} with {pipe.bundle.paths.root},"
            f" seed {result.seeds[0]}, in {seconds:.1f} s"
        )


def _load(args: argparse.Namespace) -> Pipeline:
    options = {"threads": args.threads, "providers": args.provider}
    return load(
        args.model or os.environ.get("LCM_MODEL") or demo_dir(),
        {"default": args.runtime, **dict(args.component_runtime)},
        config=args.config,
        tokenizer=args.tokenizer,
        **{key: value for key, value in options.items() if value is not None},
    )


def _settings(args: argparse.Namespace, pipe: Pipeline) -> dict[str, Any]:
    """Keywords of the call, the model's defaults filled in so that the record can tell them."""
    width, height = args.size or (None, None)
    settings = {
        "num_inference_steps": pipe.default_steps if args.steps is None else args.steps,
        "guidance_scale": pipe.default_guidance_scale if args.guidance is None else args.guidance,
        "negative_prompt": args.negative_prompt,
        "width": width,
        "height": height,
    }
    if args.init is not None:
        settings |= {
            "strength": args.strength,
            "strength_mode": args.strength_mode,
            "latent_sampling": args.latent_sampling,
            "fit": args.fit,
        }
    return settings


def _schedule(settings: dict[str, Any]) -> dict[str, Any]:
    return {
        "num_inference_steps": settings["num_inference_steps"],
        "strength": settings.get("strength", 1.0),
        "mode": settings.get("strength_mode", "truncate"),
    }


def _digest(init: Path) -> str:
    """Taken beside the picture itself: the file may be another one when the work is done."""
    try:
        return sha256(init)
    except OSError as error:
        raise ImageError(f"{init}: cannot be read: {first_line(error)}") from error


def _record(
    args: argparse.Namespace, settings: dict[str, Any], result: Result, digest: str | None
) -> dict[str, str]:
    """What is needed to make the picture again, by the command's option names."""
    width, height = result.images[0].size
    record = {
        SOFTWARE: f"lcmcore {lcmcore.__version__}",
        "prompt": args.prompt,
        "negative-prompt": args.negative_prompt,
        "seed": result.seeds[0],
        "steps": settings["num_inference_steps"],
        "guidance": settings["guidance_scale"],
        "size": f"{width}x{height}",
        "model": args.model or os.environ.get("LCM_MODEL"),
        "config": args.config,
        "tokenizer": args.tokenizer,
        "runtime": None if args.runtime == "auto" else args.runtime,
        "component-runtime": " ".join(map("=".join, args.component_runtime)) or None,
    }
    if args.init is not None:
        record |= {
            "init": args.init,
            "init-sha256": digest,
            "strength": args.strength,
            "strength-mode": args.strength_mode,
            "latent-sampling": args.latent_sampling,
            "fit": args.fit,
        }
    return {key: str(value) for key, value in record.items() if value is not None}

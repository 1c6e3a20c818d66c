"""`lcm img2img` and `lcm txt2img`: arguments to a PNG file."""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

from lcmcore.bundle import demo_dir
from lcmcore.cli.progress import Progress
from lcmcore.errors import ArgumentError, ImageError, OutputError, first_line
from lcmcore.image import read_image
from lcmcore.jobs.job import Request
from lcmcore.pipeline import Pipeline, load
from lcmcore.png import encode_png, is_ours, make_record, model_origin
from lcmcore.util.files import is_file, require_writable, sha256, write_whole


def generate(args: argparse.Namespace) -> None:
    """Make the image that the arguments ask for; raises LcmError, and then writes nothing."""
    if args.output.suffix.lower() != ".png":
        raise ArgumentError(f"{args.output}: the image is a PNG: name it {args.output.stem}.png")
    _output_file(args.output, args.init)
    init = None if args.init is None else read_image(args.init)
    digest = None if args.init is None else _digest(args.init)
    start = time.perf_counter()
    with Progress(args.quiet) as progress, open_pipeline(args) as pipe:
        result = pipe(
            args.prompt,
            init,
            callback_on_step_end=lambda _, step, __, tensors: progress.step(
                step + 1, len(tensors["timesteps"])
            ),
            **request_of(args).keywords(),
        )
        record = make_record(args.prompt, result, _origin(args, digest))
        png = encode_png(result.images[0], record)
        write_whole(_output_file(args.output, args.init), png)  # it may be another one by now
        seconds = time.perf_counter() - start
        progress.say(
            f"wrote {args.output} with {pipe.bundle.paths.root},"
            f" seed {result.seeds[0]}, in {seconds:.1f} s"
        )


def _output_file(output: Path, init: Path | None) -> Path:
    """The file to write: `output`, or the one that it is a link to.

    Raises OutputError unless lcmcore wrote the file that is there, or there is none. The init image
    is never overwritten, by whatever name; nor is a file made where a link points to nothing.
    """
    linked = os.path.islink(output)  # noqa: PTH114 - no error for a name too long
    target = Path(os.path.realpath(output)) if linked else output
    require_writable(target)
    if not os.path.lexists(target):
        if linked:
            raise OutputError(
                f"{output} is a link to {target}, where nothing is: remove it, or choose another"
                " name"
            )
        return target
    if init is not None and _is_same(target, init):
        raise OutputError(f"{output} is the init image, which would be lost: choose another name")
    if not is_ours(target):
        raise OutputError(
            f"{output} already exists and was not written by lcmcore: choose another name,"
            " or move it away"
        )
    return target


def _is_same(one: Path, other: Path) -> bool:
    """Whether both are one file, by whatever names, links or case of letters."""
    try:
        return one.samefile(other)
    except OSError:
        return False


def open_pipeline(args: argparse.Namespace) -> Pipeline:
    """The pipeline that the options of model and runtime ask for."""
    return load(
        model_dir(args) or demo_dir(),
        runtime_choice(args),
        config=args.config,
        tokenizer=args.tokenizer,
        **runtime_options(args),
    )


def model_dir(args: argparse.Namespace) -> str | None:
    """The model directory of the options, None for the demo bundle."""
    return str(args.model) if args.model else os.environ.get("LCM_MODEL") or None


def runtime_choice(args: argparse.Namespace) -> dict[str, str]:
    """What --runtime and --component-runtime ask for."""
    return {"default": args.runtime, **dict(args.component_runtime)}


def runtime_options(args: argparse.Namespace) -> dict[str, Any]:
    """How to open the networks: `memory`, and the options for the runtimes that were given."""
    options = {
        "threads": args.threads,
        "providers": args.provider,
        "graph_cache": args.graph_cache,
    }
    given = {key: value for key, value in options.items() if value is not None}
    return {"memory": args.memory, **given}


def request_of(args: argparse.Namespace) -> Request:
    """What the options of generation ask for."""
    return Request(
        prompt=args.prompt,
        size=args.size,
        num_inference_steps=args.steps,
        guidance_scale=args.guidance,
        seed=args.seed,
        denoise_strength=getattr(args, "strength", None),
        negative_prompt=args.negative_prompt,
        strength_mode=getattr(args, "strength_mode", None),
        latent_sampling=getattr(args, "latent_sampling", None),
        fit=getattr(args, "fit", None),
    )


def _digest(init: Path) -> str | None:
    """Taken when the image is read: the file may be another one when the work is done.

    None for a pipe, which can be read only once.
    """
    try:
        return sha256(init) if is_file(init) else None
    except OSError as error:
        raise ImageError(f"{init}: cannot be read: {first_line(error)}") from error


def _origin(args: argparse.Namespace, digest: str | None) -> dict[str, Any]:
    """Where model and init image came from, for the record."""
    origin = model_origin(model_dir(args), runtime_choice(args), args.config, args.tokenizer)
    return {**origin, "init": args.init, "init-sha256": digest}

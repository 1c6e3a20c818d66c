"""`lcm img2img` and `lcm txt2img`: arguments to a PNG file."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lcmcore.bundle import demo_dir
from lcmcore.cli.progress import Progress
from lcmcore.errors import ArgumentError, ImageError, OutputError, first_line
from lcmcore.jobs.job import Request
from lcmcore.pipeline import Pipeline, load
from lcmcore.png import encode_png, is_ours, make_record, model_origin
from lcmcore.util.files import is_file, require_writable, sha256, write_whole

if TYPE_CHECKING:
    from PIL import Image


def generate(args: argparse.Namespace) -> None:
    """Make the image that the arguments ask for; raises LcmError, and then writes nothing."""
    if args.output.suffix.lower() != ".png":
        raise ArgumentError(f"{args.output}: the image is a PNG: name it {args.output.stem}.png")
    inputs = _inputs(args)
    _output_file(args.output, inputs)
    request = request_of(args)
    images = request.images(inputs.get("init"), inputs.get("mask"))
    digests = {f"{key}-sha256": _digest(path) for key, path in inputs.items()}
    start = time.perf_counter()
    with Progress(args.quiet) as progress, open_pipeline(args) as pipe:
        result = pipe(
            args.prompt,
            **images,
            callback_on_step_end=lambda _, step, __, tensors: progress.step(
                step + 1, len(tensors["timesteps"])
            ),
            **request.keywords(),
        )
        origin = {**_origin(args), **inputs, **digests, **request.preparation()}
        record = make_record(args.prompt, result, origin)
        png = encode_png(result.images[0], record)
        write_whole(_output_file(args.output, inputs), png)  # it may be another one by now
        seconds = time.perf_counter() - start
        progress.say(
            f"wrote {args.output} with {pipe.bundle.paths.root},"
            f" seed {result.seeds[0]}{_sizes(images['image'], result.images[0])},"
            f" in {seconds:.1f} s"
        )


def _sizes(init: Image.Image | None, made: Image.Image) -> str:
    """Of an init image and what was made of it, if they differ: ", 4000x3000 -> 512x384"."""
    if init is None or init.size == made.size:
        return ""
    return f", {init.width}x{init.height} -> {made.width}x{made.height}"


def _inputs(args: argparse.Namespace) -> dict[str, Path]:
    """The files of init image and mask that the arguments name."""
    given = {"init": args.init, "mask": getattr(args, "mask", None)}
    return {key: path for key, path in given.items() if path is not None}


def _output_file(output: Path, inputs: Mapping[str, Path]) -> Path:
    """The file to write: `output`, or the one that it is a link to.

    Raises OutputError unless lcmcore wrote the file that is there, or there is none. Init image and
    mask are never overwritten, by whatever name; nor is a file made where a link points to nothing.
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
    for key, path in inputs.items():
        if _is_same(target, path):
            what = "init image" if key == "init" else key
            raise OutputError(f"{output} is the {what}, which would be lost: choose another name")
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
        padding_mask_crop=getattr(args, "mask_crop", None),
        overlay=getattr(args, "overlay", None),
        mask_blur=getattr(args, "mask_blur", None),
        invert_mask=getattr(args, "invert_mask", None),
        expand=getattr(args, "expand", None),
    )


def _digest(image: Path) -> str | None:
    """Taken when the image is read: the file may be another one when the work is done.

    None for a pipe, which can be read only once.
    """
    try:
        return sha256(image) if is_file(image) else None
    except OSError as error:
        raise ImageError(f"{image}: cannot be read: {first_line(error)}") from error


def _origin(args: argparse.Namespace) -> dict[str, Any]:
    """Where the model came from, for the record."""
    return model_origin(model_dir(args), runtime_choice(args), args.config, args.tokenizer)

"""`lcm img2img` and `lcm txt2img`: arguments to image files."""

from __future__ import annotations

import argparse
import logging
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from lcmcore.batch import seeds_of
from lcmcore.bundle import DEMO, demo_dir
from lcmcore.call import Callback
from lcmcore.cli.grid import MAX_IMAGES, Captioned, save_sheet, shrunk
from lcmcore.cli.output import beside, output_file, require_format, save
from lcmcore.cli.progress import Progress
from lcmcore.cli.summary import strength_notes, wrote
from lcmcore.errors import ArgumentError, ImageError, first_line
from lcmcore.image import to_pil
from lcmcore.jobs.job import Request
from lcmcore.pipeline import Pipeline, load
from lcmcore.png import ARITHMETIC, absolute, derived_record, make_record, model_origin
from lcmcore.util.files import is_file, is_folder, sha256
from lcmcore.util.validate import real_number, whole_number

log = logging.getLogger(__name__)


def generate(args: argparse.Namespace) -> None:
    """Make the images that the arguments ask for; raises LcmError, and leaves no half of one."""
    require_format(args.output)
    requests = _requests(args)
    sheet = _sheet_file(args, len(requests))
    for path in filter(None, [*requests, sheet]):
        output_file(path, _inputs(args))
    sources = _read_sources(args)
    init = sources.images["image"]
    made: list[Captioned] = []
    start = time.perf_counter()
    with Progress(args.quiet) as progress:
        progress.show("opening the model")
        with open_pipeline(args) as pipe:
            origin = {**_model_origin(args, pipe), **sources.origin}
            _compare_digest(args.model_digest, origin["model-digest"], pipe.bundle.paths.root)
            pipe.networks.on_turn = progress.turn
            for number, (output, request) in enumerate(requests.items(), 1):
                progress.begin(number, len(requests))
                follow = _on_step(progress, args, output)
                result = pipe(
                    args.prompt,
                    **sources.images,
                    callback_on_step_end=follow,
                    **request.keywords(),
                )
                record = make_record(args.prompt, result, origin)
                save(result.images[0], record, output, _inputs(args))
                seconds, start = time.perf_counter() - start, time.perf_counter()
                progress.say(wrote(output, result, pipe, init, seconds))
                made.append(Captioned(shrunk(result.images[0]), record))
            strengths = [] if args.init is None else args.strength
            for line in strength_notes(strengths, args, pipe.default_steps):
                progress.say(line)
        if sheet is not None:
            columns = len(strengths) if 1 < len(strengths) < len(made) else None
            save_sheet(made, sheet, _inputs(args), columns)
            progress.say(f"wrote {sheet}, a contact sheet")


class _Sources(NamedTuple):
    """What images are made from: `image` and `mask_image` of a call, and where both came from."""

    images: dict[str, Any]
    origin: dict[str, Any]


def _read_sources(args: argparse.Namespace) -> _Sources:
    """Raises ImageError, and ArgumentError where the prompt was given in the image's place."""
    inputs, request = _inputs(args), request_of(args)
    if "init" in inputs and not os.path.lexists(args.init) and is_file(Path(args.prompt)):
        raise ArgumentError(
            f"no such file: {args.init}; INIT comes before PROMPT, which is {args.prompt} here"
        )
    images = request.images(inputs.get("init"), inputs.get("mask"))
    digests = {f"{key}-sha256": _digest(path) for key, path in inputs.items()}
    files = {key: absolute(path) for key, path in inputs.items()}
    return _Sources(images, {**files, **digests, **request.preparation()})


def _inputs(args: argparse.Namespace) -> dict[str, Path]:
    """The files of init image and mask that the arguments name."""
    given = {"init": args.init, "mask": getattr(args, "mask", None)}
    return {key: path for key, path in given.items() if path is not None}


def _requests(args: argparse.Namespace) -> dict[Path, Request]:
    """What to make, by the file to write: an image for each seed and strength.

    OUT is the only one, or OUT-SEED.png, OUT-STRENGTH.png, OUT-SEED-STRENGTH.png. Raises
    ArgumentError.
    """
    request = request_of(args)
    seeds = seeds_of(args.seed, whole_number("--count", args.count, 1, MAX_IMAGES))
    strengths = [None] if args.init is None else args.strength
    for strength in filter(None, strengths):
        real_number("strength", strength, 0, 1)
    requests = {}
    for seed in seeds:
        for strength in strengths:
            words = [str(seed)] if len(seeds) > 1 else []
            words += [f"{strength:g}"] if len(strengths) > 1 else []
            requests[beside(args.output, *words)] = replace(
                request, seed=seed, denoise_strength=strength
            )
    return requests


def _sheet_file(args: argparse.Namespace, images: int) -> Path | None:
    if not args.grid:
        return None
    whole_number("the number of images of --grid", images, 2, MAX_IMAGES)
    return beside(args.output, "grid").with_suffix(".png")


def _on_step(progress: Progress, args: argparse.Namespace, output: Path) -> Callback:
    """What a call does after each step: show progress and, with --preview, write an image."""

    def follow(pipe: Pipeline, step: int, _: int, tensors: dict[str, Any]) -> None:
        done, total = step + 1, len(tensors["timesteps"])
        progress.step(done, total)
        if args.preview and done < total:
            (image,) = to_pil(pipe.decode(tensors["denoised"]))
            record = derived_record(f"a preview: step {done} of {total} of {output.name}")
            save(image, record, beside(output, f"step{done}"), _inputs(args))

    return follow


def open_pipeline(args: argparse.Namespace) -> Pipeline:
    """The pipeline that the options of model and runtime ask for; raises LcmError."""
    pipe = load(
        model_dir(args) or demo_dir(),
        runtime_choice(args),
        config=args.config,
        tokenizer=args.tokenizer,
        **runtime_options(args),
    )
    chosen = pipe.networks.runtimes.values()
    for key in ARITHMETIC:
        if getattr(args, key) is not None and not any(key in each.options for each in chosen):
            pipe.close()
            names = ", ".join(sorted({each.name for each in chosen}))
            raise ArgumentError(f"--{key} is no option of {names}: add --runtime openvino")
    return pipe


def model_dir(args: argparse.Namespace) -> str | None:
    """The model directory of the options, None for the demo bundle, which is called demo."""
    name: str | None = args.model
    if name is None:
        name = os.environ.get("LCM_MODEL") or DEMO
    if name != DEMO:
        return name or os.curdir  # as pathlib reads an empty one
    if args.model and is_folder(Path(DEMO)):
        log.warning("--model demo is the demo model; the folder of that name is ./demo")
    return None


def runtime_choice(args: argparse.Namespace) -> dict[str, str]:
    """What --runtime and --component-runtime ask for."""
    return {"default": args.runtime, **dict(args.component_runtime)}


def runtime_options(args: argparse.Namespace) -> dict[str, Any]:
    """How to open the networks: `memory`, and the options for the runtimes that were given."""
    options = {
        "threads": args.threads,
        "providers": args.provider,
        "graph_cache": args.graph_cache,
        "device": args.device,
        "precision": args.precision,
        "tile": args.tile,
    }
    given = {key: value for key, value in options.items() if value is not None}
    return {"memory": args.memory, **given}


def request_of(args: argparse.Namespace) -> Request:
    """What the options of generation ask for, but for the strength."""
    return Request(
        prompt=args.prompt,
        size=args.size,
        num_inference_steps=args.steps,
        guidance_scale=args.guidance,
        seed=args.seed,
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


def _model_origin(args: argparse.Namespace, pipe: Pipeline) -> dict[str, Any]:
    """Where the model came from, for the record."""
    model = pipe.bundle.paths.root
    options = runtime_options(args)
    return model_origin(model, runtime_choice(args), args.config, args.tokenizer, options)


def _compare_digest(wanted: str | None, found: str | None, model: Path) -> None:
    """Warn if the model is another one than that of the command that `lcm info` printed."""
    if wanted is not None and wanted != found:
        log.warning(
            "the model at %s is not the one that made the image: its digest is %s, not %s",
            model,
            found or "unknown",
            wanted,
        )

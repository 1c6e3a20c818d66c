"""The `lcm` command: arguments, errors and exit status."""

from __future__ import annotations

import argparse
import inspect
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import lcmcore
from lcmcore.bundle import COMPONENTS, MEMORY_MODES
from lcmcore.cli import bench, doctor
from lcmcore.cli.generate import generate
from lcmcore.cli.info import describe
from lcmcore.errors import ArgumentError, LcmError
from lcmcore.image import FITS
from lcmcore.pipeline import LATENT_SAMPLINGS, Pipeline
from lcmcore.scheduler import STRENGTH_MODES
from lcmcore.util.files import is_deleted
from lcmcore.util.logs import log_to_stderr
from lcmcore.util.terminal import replace_closed_descriptors, say, tell
from lcmcore.util.validate import read_size

_DONE, _FAILED, _USAGE, _INTERRUPTED = 0, 1, 2, 130


class _Parser(argparse.ArgumentParser):
    """Help on stdout and wrong usage on stderr, safe to show like all else; no colours."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.color = False  # Python 3.14 would colour the help

    def error(self, message: str) -> NoReturn:
        """Show how the command is used, and in one line what is wrong; exit with status 2."""
        for line in self.format_usage().rstrip().split("\n"):
            tell(line)
        tell(f"{self.prog}: error: {message}")
        sys.exit(_USAGE)

    def _print_message(self, message: str, file: object = None) -> None:
        """What argparse calls for --help and --version."""
        for line in message.rstrip().split("\n"):
            say(line)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command: 0 done, 1 an error in one line on stderr, 2 wrong usage."""
    replace_closed_descriptors()
    words = sys.argv[1:] if argv is None else list(argv)
    try:
        return _run(words) or _DONE
    except LcmError as error:
        return _fail(str(error))
    except MemoryError:
        return _fail("out of memory: choose a smaller size")
    except KeyboardInterrupt:
        tell("lcm: interrupted")
        return _INTERRUPTED
    except Exception as error:
        if isinstance(error, FileNotFoundError) and is_deleted(Path()):  # of os.getcwd()
            return _fail("the working directory was deleted: go to another one")
        return _fail_by_a_bug(error)


def _fail_by_a_bug(error: Exception) -> int:
    """No traceback unless asked for."""
    if os.environ.get("LCM_TRACEBACK"):
        for line in traceback.format_exc().rstrip().split("\n"):
            tell(f"lcm: {line}")
    return _fail(
        f"{type(error).__name__}: {error} (a bug in lcmcore: please report it with what"
        " LCM_TRACEBACK=1 shows)"
    )


def _run(words: list[str]) -> int | None:
    args = _parser(builders=words[:1] == ["build"]).parse_args(words)
    warnings.simplefilter("ignore")  # Pillow warns of files that it reads, or that then fail anyway
    log_to_stderr(_log_level(args))
    status: int | None = args.run(args)
    return status


def _fail(message: str) -> int:
    tell(f"lcm: error: {message.rstrip()}")
    return _FAILED


def _log_level(args: argparse.Namespace) -> int:
    if getattr(args, "quiet", False):
        return logging.CRITICAL
    return logging.INFO if getattr(args, "verbose", False) else logging.WARNING


def _parser(builders: bool) -> argparse.ArgumentParser:
    """The parser of all commands; only `lcm build` looks up its builders, which takes time."""
    parser = _Parser(
        prog="lcm", description="Latent Consistency Model image generation on small machines."
    )
    parser.add_argument("--version", action="version", version=f"lcmcore {lcmcore.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    img2img = commands.add_parser(
        "img2img", help="generate an image from an init image and a prompt"
    )
    img2img.add_argument("init", metavar="INIT", type=Path, help="the init image")
    img2img.add_argument("prompt", metavar="PROMPT")
    img2img.set_defaults(run=generate)
    _add_generation(img2img)
    _add_image_options(img2img)
    txt2img = commands.add_parser("txt2img", help="generate an image from a prompt alone")
    txt2img.add_argument("prompt", metavar="PROMPT")
    txt2img.set_defaults(run=generate, init=None)
    _add_generation(txt2img)
    measure = commands.add_parser(
        "bench", help="measure time and memory of a model on this machine"
    )
    measure.add_argument("--rounds", type=int, metavar="N", default=5, help="warm images (5)")
    measure.add_argument("--report", type=Path, metavar="FILE",
                         help="write machine, figures and predictions to FILE")  # fmt: skip
    measure.set_defaults(run=bench.run)
    _add_verbose(measure)
    _add_steps_and_size(measure)
    _add_models(measure)
    _add_batch(commands.add_parser("batch", help="img2img of every image in a folder"))
    info = commands.add_parser(
        "info", help="describe a model directory, or how a PNG was generated"
    )
    info.add_argument("path", metavar="DIR_OR_PNG", type=Path)
    info.add_argument("--check", action="store_true", help="read the graph cache of DIR whole")
    info.add_argument(
        "--cost", action="store_true", help="list what each layer will take, where a file tells"
    )
    info.set_defaults(run=_info)
    check = commands.add_parser("doctor", help="check machine, runtimes and model")
    doctor.add_arguments(check)
    build = commands.add_parser("build", help="build the networks of a model for a runtime")
    if builders:
        _add_builders(build)
    return parser


def _add_builders(parser: argparse.ArgumentParser) -> None:
    """A sub-command for each module in the entry-point group `lcmcore.builders`."""
    from importlib import metadata

    kinds = parser.add_subparsers(title="what to build", metavar="KIND", required=True)
    for entry in sorted(metadata.entry_points(group="lcmcore.builders"), key=lambda e: e.name):
        builder = entry.load()
        text = builder.__doc__.split(": ", 1)[-1].split("\n", 1)[0]
        kind = kinds.add_parser(entry.name, help=text, description=builder.__doc__)
        builder.add_arguments(kind)
        kind.set_defaults(run=builder.run)


def _add_batch(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("init_dir", metavar="INIT_DIR", type=Path, nargs="?", help="folder of init images")
    add("prompt", metavar="PROMPT", nargs="?")
    add("--jobs", type=Path, metavar="FILE", help="JSON lines, one job each (docs/worker.md)")
    where = parser.add_mutually_exclusive_group()
    add = where.add_argument
    add("--workers", type=int, metavar="N", default=1, help="processes on this machine (1)")
    add("--scheduler", metavar="ADDRESS", help="of a Dask cluster, e.g. tcp://board1:8786")
    _add_generation(parser, output="folder of PNG files to write")
    _add_image_options(parser)

    def run(args: argparse.Namespace) -> int:
        if args.jobs is None and args.prompt is None:
            parser.error("INIT_DIR and PROMPT are required, or --jobs FILE")
        from lcmcore.cli.batch import generate_many  # imports multiprocessing

        return generate_many(args)

    parser.set_defaults(run=run)


def _add_generation(parser: argparse.ArgumentParser, output: str = "PNG file to write") -> None:
    add = parser.add_argument
    add("-o", "--output", metavar="OUT", type=Path, required=True, help=output)
    verbosity = parser.add_mutually_exclusive_group()
    verbosity.add_argument("-q", "--quiet", action="store_true", help="print errors only")
    _add_verbose(verbosity)
    add("--guidance", type=float, metavar="F", help="guidance scale (default: the model's)")
    add("--negative-prompt", metavar="TEXT", help="for a UNet without guidance input")
    add(
        "--seed",
        type=int,
        metavar="N",
        help="reproduces an image, -1 like any other (default: random)",
    )
    _add_steps_and_size(parser)
    _add_models(parser)


def _add_verbose(parser: argparse._ActionsContainer) -> None:
    help_text = "log which runtime, file and cache each network uses (not of a Dask cluster)"
    parser.add_argument("-v", "--verbose", action="store_true", help=help_text)


def _add_steps_and_size(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--steps", type=int, metavar="N", help="inference steps (default: the model's, else 4)")
    add("--size", type=_size, metavar="WxH",
        help="default: the init image's, fitted to the model, else the model's")  # fmt: skip


def _add_models(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("model and runtime").add_argument
    add("--model", type=Path, metavar="DIR", help="default: $LCM_MODEL, else the demo model")
    add("--config", type=Path, metavar="FILE", help="use instead of the model's lcm.toml")
    add("--tokenizer", type=Path, metavar="DIR", help="use instead of the model's tokenizer")
    add("--runtime", default="auto", metavar="NAME", help="auto (default), onnx, ...")
    add(
        "--component-runtime",
        type=_component_runtime,
        action="append",
        default=[],
        metavar="COMPONENT=NAME",
        help=f"for one of {', '.join(COMPONENTS)}; may be repeated",
    )
    add("--memory", choices=MEMORY_MODES, default="auto", help="low: one network open at a time")
    add("--threads", type=int, metavar="N", help="CPU threads of the onnx runtime")
    add(
        "--provider",
        action="append",
        metavar="NAME",
        help="ONNX Runtime execution provider; may be repeated",
    )
    add("--no-graph-cache", dest="graph_cache", action="store_false", default=None,
        help="do not cache optimized ONNX graphs on the disk")  # fmt: skip


def _add_image_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("init image")
    add = group.add_argument
    add("--strength", type=float, default=_call_default("strength"), metavar="F",
        help="0 keeps the init image, 1 ignores it (default: %(default)s)")  # fmt: skip
    add("--fit", choices=FITS, default=_call_default("fit"),
        help="how the init image is resized (default: %(default)s)")  # fmt: skip
    add("--strength-mode", choices=STRENGTH_MODES, default=_call_default("strength_mode"),
        help="truncate: skip the first steps, as Stable Diffusion does; rescale: spread all steps"
        " over less noise, as diffusers' LCM img2img does (default: %(default)s)")  # fmt: skip
    add("--latent-sampling", choices=LATENT_SAMPLINGS, default=_call_default("latent_sampling"),
        help="of the VAE encoder's distribution (default: %(default)s)")  # fmt: skip
    _add_mask_options(parser)


def _add_mask_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("mask").add_argument
    add("--mask", type=Path, metavar="FILE", help="repaint the init image where FILE is white")
    add("--mask-crop", type=int, metavar="N",
        help="paint the mask and N pixels around it, enlarged to the model's size")  # fmt: skip
    add("--mask-blur", type=float, metavar="N", help="soften the mask's edge by N pixels")
    add("--invert-mask", action="store_true", default=None, help="repaint where it is black")
    add("--expand", metavar="LEFT,TOP,RIGHT,BOTTOM",
        help="enlarge the init image by so many pixels on each side, and paint there")  # fmt: skip
    add("--no-overlay", dest="overlay", action="store_false", default=None,
        help="take what is not repainted from the VAE, not from the init image")  # fmt: skip


def _call_default(name: str) -> Any:
    """The default of a call's keyword; its signature is the only place that has it."""
    return inspect.signature(Pipeline.__call__).parameters[name].default


def _size(text: str) -> str:
    try:
        read_size(text)
    except ArgumentError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def _component_runtime(text: str) -> tuple[str, str]:
    component, equals, name = text.partition("=")
    if component not in COMPONENTS or not (equals and name):
        raise argparse.ArgumentTypeError(f"{text!r} is not COMPONENT=NAME, like vae_encoder=onnx")
    return component, name


def _info(args: argparse.Namespace) -> None:
    for line in describe(args.path, args.check, args.cost):
        say(line)


if __name__ == "__main__":
    sys.exit(main())

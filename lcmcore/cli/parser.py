"""The parser of all commands: their arguments, help pages and examples."""

from __future__ import annotations

import argparse
import inspect
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lcmcore
from lcmcore.bundle import COMPONENTS, DEMO, MEMORY_MODES, demo_dir
from lcmcore.cli import bench, doctor
from lcmcore.cli.generate import generate
from lcmcore.cli.info import describe
from lcmcore.cli.pages import page_address
from lcmcore.cli.usage import USAGE_STATUS, Parser
from lcmcore.errors import ArgumentError
from lcmcore.image import FITS
from lcmcore.pipeline import LATENT_SAMPLINGS, Pipeline
from lcmcore.scheduler import STRENGTH_MODES
from lcmcore.util.terminal import say
from lcmcore.util.validate import read_size

SHELLS = ("bash", "zsh", "fish")

_Run = Callable[[argparse.Namespace], Any]


def make_parser(builders: bool) -> Parser:
    """The parser of all commands; only `lcm build` looks up its builders, which takes time."""
    parser = Parser(
        prog="lcm",
        usage="lcm COMMAND [OPTION ...]",
        description="Latent Consistency Model image generation on small machines.",
        epilog=_examples(
            'lcm txt2img "a snowy lake at night" -o night.png',
            'lcm img2img photo.jpg "a watercolor of a lake" -o lake.png --strength 50% --steps 8',
            "lcm img2img --help",
        )
        + f"\n\ndocumentation: {page_address('README.md')}",
    )
    version = f"lcmcore {lcmcore.__version__}"
    parser.add_argument("--version", action="version", version=version, help="print the version")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", prog="lcm")
    parser.set_defaults(run=_help_of(parser))
    _add_img2img(commands)
    _add_txt2img(commands)
    _add_batch(commands)
    _add_serve(commands)
    _add_bench(commands)
    _add_info(commands)
    _add_doctor(commands)
    _add_build(commands, builders)
    _add_completion(commands)
    return parser


def _help_of(parser: argparse.ArgumentParser) -> _Run:
    """What runs where a command is missing: help, and the exit status of wrong usage."""

    def run(_: argparse.Namespace) -> int:
        parser.print_help()
        return USAGE_STATUS

    return run


def _add_command(
    commands: Any, name: str, arguments: str, summary: str, examples: Sequence[str], run: _Run
) -> argparse.ArgumentParser:
    """A command with its page of help: short usage, what it does, options, three examples."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        usage=" ".join(["lcm", name, *filter(None, [arguments]), "[OPTION ...]"]),
        epilog=_examples(*examples),
    )
    parser.set_defaults(run=run)
    return parser


def _examples(*lines: str) -> str:
    return "\n".join(["examples:", *(f"  {line}" for line in lines)])


def _add_img2img(commands: Any) -> None:
    parser = _add_command(
        commands,
        "img2img",
        "INIT PROMPT -o OUT",
        "generate an image from an init image and a prompt",
        [
            'lcm img2img scribble.png "a snowy lake at night" -o night.png',
            'lcm img2img scribble.png "a lake in autumn" -o autumn.jpg --strength 50% --steps 8',
            'lcm img2img scribble.png "a desert" -o desert.png --count 4 --seed 7 --grid',
        ],
        generate,
    )
    parser.add_argument("init", metavar="INIT", type=Path, help="the init image, a file")
    parser.add_argument("prompt", metavar="PROMPT", help=_PROMPT_HELP)
    _add_aliases(parser, init="INIT", prompt="PROMPT")
    _add_generation(parser)
    _add_several(parser)
    _add_image_options(parser, _strengths, "F[,F...]", "; several, with commas, make an image each")
    _add_model_digest(_add_models(parser))


def _add_txt2img(commands: Any) -> None:
    parser = _add_command(
        commands,
        "txt2img",
        "PROMPT -o OUT",
        "generate an image from a prompt alone",
        [
            'lcm txt2img "a watercolor of a desert with a cactus" -o desert.png',
            'lcm txt2img "a snowy lake at night" -o lake.webp --steps 8 --seed 7',
            'lcm txt2img "a forest at dawn" -o forest.png --size 192x128 --count 3 --grid',
        ],
        generate,
    )
    parser.add_argument("prompt", metavar="PROMPT", help=_PROMPT_HELP)
    parser.set_defaults(init=None)
    _add_aliases(parser, prompt="PROMPT")
    _add_generation(parser)
    _add_several(parser)
    _add_model_digest(_add_models(parser))


def _add_batch(commands: Any) -> None:
    def run(args: argparse.Namespace) -> int:
        _place_words(parser, args)
        from lcmcore.cli.batch import generate_many  # imports multiprocessing

        return generate_many(args)

    parser = _add_command(
        commands,
        "batch",
        "INIT [INIT ...] PROMPT -o OUT",
        "generate an image for each one of a folder, of several files, or of a file of jobs",
        [
            'lcm batch photos "a snowy lake at night" -o snowy --seed 7',
            'lcm batch one.jpg two.jpg "a watercolor" -o painted --strength 50% --grid',
            "lcm batch --jobs jobs.jsonl -o made --workers 2",
        ],
        run,
    )
    add = parser.add_argument
    add("words", nargs="*", metavar="INIT ... PROMPT",
        help="folders of init images, or single ones, and the prompt, last; with --jobs, one folder"
        " and a prompt for jobs that have none")  # fmt: skip
    add(
        "--jobs",
        type=Path,
        metavar="FILE",
        help=f"JSON lines, one job each, as in {page_address('docs/worker.md')} (default: none)",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--workers", type=int, metavar="N", default=1,
                       help="processes on this machine (default: %(default)s)")  # fmt: skip
    where.add_argument(
        "--scheduler",
        metavar="ADDRESS",
        help="of a Dask cluster, e.g. tcp://board1:8786 (default: none)",
    )
    add("--grid", action="store_true",
        help="also write OUT/grid.png, a contact sheet (default: no)")  # fmt: skip
    _add_aliases(parser, init="INIT", prompt="PROMPT")
    _add_generation(parser, output="folder of PNG files to write; it is made")
    _add_image_options(parser, _strength, "F")
    _add_models(parser)


def _place_words(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """The positional arguments of `lcm batch` as `inits` and `prompt`."""
    words = list(args.words)
    args.prompt = args.given.get("prompt")
    inits = [args.given["init"]] if "init" in args.given else []
    if args.prompt is None and len(words) > (args.jobs is not None and not inits):
        args.prompt = words.pop()
    args.inits = [Path(each) for each in inits + words]
    if args.jobs is None and (args.prompt is None or not args.inits):
        parser.error("INIT and PROMPT are required, or --jobs FILE")
    missing = next((i for i, path in enumerate(args.inits) if i and not os.path.lexists(path)), 0)
    if args.jobs is None and missing:
        text = " ".join([*map(str, args.inits[missing:]), args.prompt])
        parser.error(f'no such file: {args.inits[missing]}; a prompt is quoted, as in "{text}"')
    if args.jobs is not None and len(args.inits) > 1:
        parser.error("with --jobs, at most one folder of init images and a prompt are taken")


def _add_serve(commands: Any) -> None:
    def run(args: argparse.Namespace) -> int:
        from lcmcore.cli.serve import serve  # imports multiprocessing, Starlette and uvicorn

        return serve(args)

    parser = _add_command(
        commands,
        "serve",
        "",
        "serve the model: OpenAI's and AUTOMATIC1111's APIs, and a page to draw on",
        [
            "lcm serve",
            "lcm serve --port 8080 --workers 2 --model MODEL",
            "LCM_API_KEY=KEY lcm serve --host 0.0.0.0",
        ],
        run,
    )
    add = parser.add_argument
    add("--host", metavar="ADDRESS", default="127.0.0.1",
        help="where to serve; 0.0.0.0 is everywhere (default: %(default)s)")  # fmt: skip
    add("--port", type=int, metavar="N", default=7860,
        help="0 is any that is free (default: %(default)s)")  # fmt: skip
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--workers", type=int, metavar="N", default=1,
                       help="processes on this machine (default: %(default)s)")  # fmt: skip
    where.add_argument(
        "--scheduler",
        metavar="ADDRESS",
        help="of a Dask cluster, e.g. tcp://board1:8786 (default: none)",
    )
    _add_verbose(parser)
    _add_access(parser)
    _add_limits(parser)
    _add_models(parser).add_argument(
        "--models", type=Path, metavar="FOLDER",
        help="serve all models in it, which requests choose by name; one is open at a time"
        " (default: one model, which answers to every name)")  # fmt: skip


def _add_access(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("who may use it").add_argument
    add("--api-key", metavar="KEY",
        help="what clients must send; other users of this machine can read it here, but not in the"
        " variable (default: $LCM_API_KEY)")  # fmt: skip
    add("--no-auth", action="store_true",
        help="let everybody who reaches the address use it (default: without a key, your own user"
        " and root)")  # fmt: skip
    add("--cors", action="append", metavar="ORIGIN", default=[],
        help="a page's origin whose scripts may use it, like https://example.org; may be repeated"
        " (default: the server's own only)")  # fmt: skip


def _add_limits(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("limits").add_argument
    add("--queue", type=int, metavar="N", default=16,
        help="images that may wait; more are refused (default: %(default)s)")  # fmt: skip
    add("--max-images", type=int, metavar="N", default=4,
        help="of one request (default: %(default)s)")  # fmt: skip
    add("--max-steps", type=int, metavar="N", default=50,
        help="inference steps of an image (default: %(default)s)")  # fmt: skip
    add("--max-side", type=int, metavar="N", default=1024,
        help="pixels of an image's longer side (default: %(default)s)")  # fmt: skip
    add("--max-body", type=int, metavar="MIB", default=32,
        help="size of a request (default: %(default)s)")  # fmt: skip


def _add_bench(commands: Any) -> None:
    def run(args: argparse.Namespace) -> None:
        if not args.compare:
            if args.write:
                raise ArgumentError("--write writes what --compare found: add --compare")
            return bench.run(args)
        from lcmcore.cli import compare  # no other command needs it to start

        return compare.run(args)

    parser = _add_command(
        commands,
        "bench",
        "",
        "measure time and memory of a model on this machine",
        [
            "lcm bench",
            "lcm bench --rounds 3 --steps 2 --size 128x128",
            "lcm bench --model MODEL --report report.json",
        ],
        run,
    )
    add = parser.add_argument
    add("--rounds", type=int, metavar="N", default=5,
        help="warm images to measure (default: %(default)s)")  # fmt: skip
    add("--report", type=Path, metavar="FILE",
        help="file for machine, figures and predictions (default: none is written)")  # fmt: skip
    add("--compare", action="store_true",
        help="measure each network on each runtime, and in each precision, that works here, and"
        " how far it is from float32 (default: no)")  # fmt: skip
    add("--psnr", type=float, metavar="DB", default=40,
        help="of --compare: least PSNR to float32 (default: %(default)s)")  # fmt: skip
    add("--write", action="store_true",
        help="of --compare: set the fastest runtime that is close enough for each network in the"
        " model's lcm.toml (default: no)")  # fmt: skip
    _add_verbose(parser)
    _add_steps_and_size(parser)
    _add_models(parser)


def _add_info(commands: Any) -> None:
    def run(args: argparse.Namespace) -> None:
        is_name = args.path == Path(DEMO) and not os.path.lexists(args.path)
        for line in describe(demo_dir() if is_name else args.path, args.check, args.cost):
            say(line)

    parser = _add_command(
        commands,
        "info",
        "DIR_OR_IMAGE",
        "describe a model directory, or how an image was generated",
        ["lcm info night.png", "lcm info MODEL", "lcm info MODEL --check --cost"],
        run,
    )
    add = parser.add_argument
    add("path", metavar="DIR_OR_IMAGE", type=Path, help="a model, or an image that lcmcore wrote")
    add("--check", action="store_true", help="read the graph cache of DIR whole (default: no)")
    add("--cost", action="store_true",
        help="list what each layer will take, where a file tells (default: no)")  # fmt: skip


def _add_doctor(commands: Any) -> None:
    parser = _add_command(
        commands,
        "doctor",
        "",
        "check machine, runtimes and model",
        ["lcm doctor", "lcm doctor --model MODEL", "LCM_MODEL=MODEL lcm doctor"],
        doctor.run,
    )
    parser.add_argument("--model", metavar="DIR", help=_MODEL_HELP)


def _add_build(commands: Any, builders: bool) -> None:
    """A sub-command for each module in the entry-point group `lcmcore.builders`."""
    parser = _add_command(
        commands,
        "build",
        "KIND",
        "build the networks of a model for a runtime",
        [
            "lcm build onnx CHECKPOINT MODEL",
            "lcm build rknn MODEL BOARD --platform rk3588 --size 512x512",
            "lcm build onnx --help",
        ],
        lambda _: None,
    )
    parser.set_defaults(run=_help_of(parser))
    if not builders:
        return
    from importlib import metadata

    kinds = parser.add_subparsers(title="what to build", metavar="KIND", prog="lcm build")
    for entry in sorted(metadata.entry_points(group="lcmcore.builders"), key=lambda e: e.name):
        builder = entry.load()
        text = builder.__doc__.split(": ", 1)[-1].split("\n", 1)[0]
        kind = kinds.add_parser(entry.name, help=text, description=builder.__doc__)
        builder.add_arguments(kind)
        kind.set_defaults(run=builder.run)


def _add_completion(commands: Any) -> None:
    def run(args: argparse.Namespace) -> None:
        from lcmcore.cli.completion import script

        for line in script(make_parser(builders=True), args.shell).splitlines():
            say(line)

    parser = _add_command(
        commands,
        "completion",
        "SHELL",
        "print a script by which a shell completes commands and options",
        [
            "lcm completion bash > ~/.local/share/bash-completion/completions/lcm",
            "lcm completion zsh > ~/.zfunc/_lcm",
            "lcm completion fish > ~/.config/fish/completions/lcm.fish",
        ],
        run,
    )
    parser.add_argument("shell", metavar="SHELL", choices=SHELLS, help=", ".join(SHELLS))


_PROMPT_HELP = 'what the image shall show, quoted: "a snowy lake"'
_MODEL_HELP = "a model directory, or demo, the demo model (default: $LCM_MODEL, else demo)"


def _add_aliases(parser: argparse.ArgumentParser, **places: str) -> None:
    """Options of other programs for positional arguments; `Parser` takes them before argparse."""
    options = {"init": ("-i", "--image"), "prompt": ("-p", "--prompt")}
    group = parser.add_argument_group("other ways to say it")
    for name, metavar in places.items():
        group.add_argument(*options[name], metavar=metavar, dest=argparse.SUPPRESS,
                           help=f"the same as the argument {metavar}")  # fmt: skip


def _add_generation(
    parser: argparse.ArgumentParser,
    output: str = "file to write, .png, .jpg or .webp; its folder is made",
) -> None:
    add = parser.add_argument
    add("-o", "--output", metavar="OUT", type=Path, required=True, help=output)
    verbosity = parser.add_mutually_exclusive_group()
    verbosity.add_argument("-q", "--quiet", action="store_true",
                           help="print errors only (default: no)")  # fmt: skip
    _add_verbose(verbosity)
    add("--guidance", type=float, metavar="F",
        help="guidance scale, 0 to 100; 1 is none (default: the model's)")  # fmt: skip
    add("--negative-prompt", metavar="TEXT",
        help="what to avoid, for a UNet without guidance input (default: nothing)")  # fmt: skip
    add("--seed", type=int, metavar="N",
        help="reproduces an image, -1 like any other (default: random)")  # fmt: skip
    _add_steps_and_size(parser)


def _add_several(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("several images")
    add = group.add_argument
    add("--count", type=int, metavar="N", default=1,
        help="images of N seeds that count up, OUT-SEED.png (default: %(default)s)")  # fmt: skip
    add("--grid", action="store_true",
        help="also write OUT-grid.png, a contact sheet of the images (default: no)")  # fmt: skip
    add("--preview", action="store_true",
        help="also write OUT-step1.png and so on, what each step makes of it; takes a run of the"
        " VAE decoder each (default: no)")  # fmt: skip


def _add_verbose(parser: argparse._ActionsContainer) -> None:
    parser.add_argument("-v", "--verbose", action="store_true",
                        help="log which runtime, file and cache each network uses, not of a Dask"
                        " cluster (default: no)")  # fmt: skip


def _add_steps_and_size(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--steps", type=int, metavar="N", help="inference steps (default: the model's, else 4)")
    add("--size", type=_size, metavar="WxH",
        help="width and height in pixels (default: the init image's, fitted to the model, else the"
        " model's)")  # fmt: skip


def _add_models(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    group = parser.add_argument_group("model and runtime")
    add = group.add_argument
    add("--model", metavar="DIR", help=_MODEL_HELP)
    add("--config", type=Path, metavar="FILE", help="an lcm.toml (default: the model's)")
    add("--tokenizer", type=Path, metavar="DIR", help="a tokenizer (default: the model's)")
    add("--runtime", default="auto", metavar="NAME",
        help="auto, onnx, openvino, rknn, ... (default: %(default)s)")  # fmt: skip
    add("--component-runtime", type=_component_runtime, action="append", default=[],
        metavar="COMPONENT=NAME",
        help=f"for one of {', '.join(COMPONENTS)}; may be repeated"
        " (default: that of --runtime)")  # fmt: skip
    add("--memory", choices=MEMORY_MODES, default="auto",
        help="low: one network open at a time; high: all; auto: what lcm.toml says, else by the"
        " free memory (default: %(default)s)")  # fmt: skip
    add("--tile", type=int, metavar="N",
        help="work by tiles of at most NxN pixels, in less memory; networks of one size always do"
        " by that size (default: what lcm.toml says, else none where memory suffices)")  # fmt: skip
    add("--threads", type=int, metavar="N",
        help="CPU threads of the onnx and openvino runtimes (default: one a core)")  # fmt: skip
    add("--provider", action="append", metavar="NAME",
        help="ONNX Runtime execution provider; may be repeated (default: those of ONNX"
        " Runtime)")  # fmt: skip
    add("--no-graph-cache", dest="graph_cache", action="store_false", default=None,
        help="keep no optimized graphs on the disk (default: keep them)")  # fmt: skip
    add("--device", metavar="NAME",
        help="of the openvino runtime: CPU, GPU, NPU or AUTO (default: CPU)")  # fmt: skip
    add("--precision", metavar="NAME",
        help="of the openvino runtime's arithmetic: float32, bfloat16 or float16 (default:"
        " float32)")  # fmt: skip
    return group


def _add_model_digest(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--model-digest", metavar="HEX",
                       help="of the expected model, from lcm info: another one is warned of"
                       " (default: any)")  # fmt: skip


def _add_image_options(
    parser: argparse.ArgumentParser, strength: Callable[[str], Any], metavar: str, more: str = ""
) -> None:
    """`strength` reads the value of --strength: one, or several."""
    add = parser.add_argument_group("init image").add_argument
    default = _call_default("strength")
    add("--strength", type=strength, default=strength(str(default)), metavar=metavar,
        help="0 keeps the init image, 1 ignores it; also as 75%%. 0.5 with --steps 8 keeps the"
        f" layout of a photograph{more} (default: {default})")  # fmt: skip
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
    add("--mask", type=Path, metavar="FILE",
        help="repaint the init image where FILE is white (default: all of it)")  # fmt: skip
    add("--mask-crop", type=int, metavar="N",
        help="paint the mask and N pixels around it, enlarged to the model's size (default: the"
        " whole image)")  # fmt: skip
    add("--mask-blur", type=float, metavar="N",
        help="soften the mask's edge by N pixels (default: 0)")  # fmt: skip
    add("--invert-mask", action="store_true", default=None,
        help="repaint where it is black (default: no)")  # fmt: skip
    add("--expand", metavar="LEFT,TOP,RIGHT,BOTTOM",
        help="enlarge the init image by so many pixels on each side, and paint there (default:"
        " 0,0,0,0)")  # fmt: skip
    add("--no-overlay", dest="overlay", action="store_false", default=None,
        help="take what is not repainted from the VAE (default: from the init image)")  # fmt: skip


def _call_default(name: str) -> Any:
    """The default of a call's keyword; its signature is the only place that has it."""
    return inspect.signature(Pipeline.__call__).parameters[name].default


def _strength(text: str) -> float:
    """A number, or a percentage; what is beyond 0 to 1 is the call's to refuse."""
    try:
        return float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        message = f"{text!r} is no number, like 0.75, nor a percentage, like 75%"
        raise argparse.ArgumentTypeError(message) from None


def _strengths(text: str) -> list[float]:
    return [_strength(each.strip()) for each in text.split(",")]


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

"""What `lcm info` says about a model directory or a picture."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from lcmcore.bundle import COMPONENTS, Bundle
from lcmcore.cli.reproduce import command_of
from lcmcore.errors import BundleError, LcmError
from lcmcore.png import SOFTWARE, read_record
from lcmcore.runtime import importable_runtimes
from lcmcore.util.files import is_folder, sha256

_MEBI = 2**20


def describe(path: Path) -> Iterator[str]:
    """Lines about a model directory, or a PNG that lcmcore wrote; raises LcmError."""
    return _describe_bundle(path) if is_folder(path) else _describe_picture(path)


def _describe_picture(path: Path) -> Iterator[str]:
    record = read_record(path)
    yield f"{path}: made by {record.pop(SOFTWARE)}"
    for key, value in record.items():
        yield f"  {key}: {value}"
    yield "make it again:"
    yield command_of(record, path.name)


def _describe_bundle(path: Path) -> Iterator[str]:
    bundle = Bundle.open(path)
    if not any(is_folder(bundle.folder(component)) for component in COMPONENTS):
        raise BundleError(f"{path} is no model directory: it has none of {', '.join(COMPONENTS)}")
    steps, guidance = bundle.settings.num_inference_steps, bundle.settings.guidance_scale
    yield f"{path}: a latent consistency model"
    guided = "by the kind of UNet" if guidance is None else guidance
    yield f"  defaults: {steps} steps, guidance {guided}"
    yield f"  scheduler: {_or_problem(_scheduler, bundle)}"
    yield f"  tokenizer: {_or_problem(_tokenizer, bundle)}"
    for component in COMPONENTS:
        yield from _describe_component(bundle, component)


def _or_problem(describer: Callable[[Bundle], str], bundle: Bundle) -> str:
    try:
        return describer(bundle)
    except BundleError as error:
        return str(error)


def _scheduler(bundle: Bundle) -> str:
    scheduler = bundle.scheduler
    return (
        f"{scheduler.beta_schedule} betas, predicts {scheduler.prediction_type},"
        f" {scheduler.original_inference_steps} original steps"
    )


def _tokenizer(bundle: Bundle) -> str:
    return f"{len(bundle.tokenizer.vocab)} tokens, {bundle.tokenizer.length} a prompt"


def _describe_component(bundle: Bundle, component: str) -> Iterator[str]:
    """Every file there that an installed runtime would take."""
    folder = bundle.folder(component)
    automatic = [runtime for runtime in importable_runtimes() if runtime.priority >= 0]
    present = [runtime for runtime in automatic if (folder / runtime.filename).is_file()]
    if not present:
        names = " or ".join(sorted(runtime.filename for runtime in automatic))
        yield f"  {component}: no {names} in {folder}"
        return
    size = sum(file.stat().st_size for file in folder.iterdir())
    yield f"  {component}: {size / _MEBI:.1f} MiB"
    for runtime in present:
        path = folder / runtime.filename
        yield f"    {path.name}"
        try:
            yield from (f"      {line}" for line in runtime.describe(path))
        except LcmError as error:
            yield f"      {error}"
    wanted = bundle.settings.components.get(component, {}).get("sha256")
    if wanted is not None:
        yield f"    {_checksum(wanted, [folder / runtime.filename for runtime in present])}"


def _checksum(wanted: str, files: Sequence[Path]) -> str:
    """Which of the files has the SHA-256 that lcm.toml tells; a build tells that of its own."""
    right = [path.name for path in files if sha256(path) == wanted]
    if right:
        return f"checksum of {right[0]} right"
    return f"CHECKSUM WRONG: no file here has the SHA-256 that lcm.toml tells, {wanted}"

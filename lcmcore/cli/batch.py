"""`lcm batch`: an image for each init image, or for each line of a file of jobs."""

from __future__ import annotations

import argparse
import logging
import pickle
from collections.abc import Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from lcmcore.bundle import Bundle, demo_dir
from lcmcore.cli.batch_jobs import tasks_of_file
from lcmcore.cli.batch_runner import Backend, Runner, Tally
from lcmcore.cli.batch_tasks import Task, Tasks, files_passed_over, passed_over, tasks_of_inits
from lcmcore.cli.generate import model_dir, request_of, runtime_choice, runtime_options
from lcmcore.cli.grid import MAX_IMAGES, Captioned, save_sheet, shrunk
from lcmcore.cli.output import output_file
from lcmcore.cli.progress import Progress, count_of
from lcmcore.cli.signals import GracefulShutdown
from lcmcore.cli.summary import strength_notes
from lcmcore.errors import ArgumentError, ImageError, LcmError
from lcmcore.image import read_image
from lcmcore.jobs.cluster import connect, run_on_worker
from lcmcore.jobs.pool import Pool
from lcmcore.jobs.process import WorkerSpec
from lcmcore.model_digest import model_identity
from lcmcore.png import ARITHMETIC, read_record
from lcmcore.util.files import make_folder
from lcmcore.util.terminal import tell

_T = TypeVar("_T")
_POLL_SECONDS = 0.5


def generate_many(args: argparse.Namespace) -> int:
    """Generate every image that is not there yet, and return the exit status.

    Raises LcmError if an image failed.
    """
    with GracefulShutdown() as shutdown, Progress(args.quiet) as progress:
        try:
            tasks = _tasks(args, shutdown)
            others = [] if args.jobs else files_passed_over(args.inits)
            for line in passed_over(others):
                progress.say(line)
            for line in _strength_notes(args):
                progress.say(line)
            sheet = _sheet_file(args.output, tasks) if args.grid else None
            tally = Tally(len(tasks))
            if not shutdown.requested():
                make_folder(args.output)
                progress.show("opening the model")
                with _backend(args, progress, shutdown) as backend:
                    tally = Runner(tasks, backend, progress, shutdown.requested).run()
        except KeyboardInterrupt:
            progress.say("stopped at once: images in progress are discarded")
            return shutdown.status
        if sheet is not None and not shutdown.requested():
            progress.say(_write_sheet(sheet, tasks))
        progress.say(_summary(tally, len(others)))
    for name, reason in tally.failures:
        tell(f"lcm: failed: {name}: {reason}")
    if tally.failed > len(tally.failures):
        tell(f"lcm: failed: {tally.failed - len(tally.failures)} more")
    if shutdown.requested():
        return shutdown.status
    if tally.failed:
        raise LcmError(f"{tally.failed} of {count_of(tally.total, 'image')} failed")
    return 0


def _tasks(args: argparse.Namespace, shutdown: GracefulShutdown) -> Tasks:
    request = replace(request_of(args), denoise_strength=args.strength)
    if args.jobs is not None:
        inits = args.inits[0] if args.inits else _folder_of(args.jobs)
        return tasks_of_file(args.jobs, inits, args.output, request, shutdown.requested, args.mask)
    return tasks_of_inits(args.inits, args.output, request, args.mask)


def _strength_notes(args: argparse.Namespace) -> Iterator[str]:
    """What `lcm img2img` says of a strength for which the steps are too few.

    The steps of a cluster's model, and strength and steps of a job's line, are not known here.
    """
    steps = 0
    if args.scheduler is None and args.jobs is None:
        bundle = Bundle.open(model_dir(args) or demo_dir(), args.config, args.tokenizer)
        steps = bundle.settings.num_inference_steps
    if args.jobs is None and (args.steps or steps) > 0 and 0 <= args.strength <= 1:
        yield from strength_notes([args.strength], args, steps)


def _sheet_file(folder: Path, tasks: Tasks) -> Path:
    """The contact sheet to write; raises ArgumentError, OutputError if it would replace another."""
    sheet = folder / "grid.png"
    if any(isinstance(task, Task) and task.output == sheet for task in tasks):
        raise ArgumentError(
            f"{sheet} is the contact sheet of --grid, and an image's name: rename it"
        )
    return output_file(sheet, {})


def _write_sheet(sheet: Path, tasks: Tasks) -> str:
    """Write the contact sheet of the first images that are done, and say so; raises OutputError."""
    made: list[Captioned] = []
    for task in tasks:
        if isinstance(task, Task) and len(made) < MAX_IMAGES:
            with suppress(ImageError):  # of one that failed
                made.append(Captioned(shrunk(read_image(task.output)), read_record(task.output)))
    if not made:
        return f"no {sheet}, for there are no images"
    save_sheet(made, sheet, {})
    return f"wrote {sheet}, a contact sheet of {count_of(len(made), 'image')}"


def _folder_of(jobs: Path) -> Path:
    """What the paths in a file of jobs are relative to: its folder; of a pipe, the current one."""
    return Path() if jobs.is_fifo() or Path("/dev") in jobs.parents else jobs.parent


@contextmanager
def _backend(
    args: argparse.Namespace, progress: Progress, shutdown: GracefulShutdown
) -> Iterator[Backend]:
    """The Dask cluster of --scheduler, else a pool of --workers processes."""
    files = {"config": args.config, "tokenizer": args.tokenizer}
    files = {key: str(path) for key, path in files.items() if path is not None}
    options = runtime_options(args)
    spec = WorkerSpec(model_dir(args), runtime_choice(args), {**options, **files})
    where = (spec.model_dir, files.get("config"), files.get("tokenizer"))
    model: dict[str, object] = {"runtime": spec.runtime, "providers": options.get("providers")}
    model |= {key: options[key] for key in ARITHMETIC if key in options}
    if args.tile is not None:  # images of before there were tiles stay done
        model["tile"] = args.tile
    if args.scheduler is None:
        model["files"] = model_identity(*where)
        with _local_pool(spec, args.workers) as pool:
            yield Backend(pool.submit, lambda: 2 * args.workers, model)
        return
    with _no_logging(), connect(args.scheduler) as (executor, threads, _):
        if not threads():
            progress.say(f"waiting for a worker to join {args.scheduler}")
        model["files"] = _result(executor.submit(model_identity, *where), shutdown)
        packed = pickle.dumps(spec)
        yield Backend(
            lambda job: executor.submit(run_on_worker, packed, job), lambda: 2 * threads(), model
        )


@contextmanager
def _no_logging() -> Iterator[None]:
    """Suppress Dask's tracebacks of lost connections: each failure also comes as an exception."""
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


@contextmanager
def _local_pool(spec: WorkerSpec, workers: int) -> Iterator[Pool]:
    level = logging.getLogger("lcmcore").getEffectiveLevel()
    pool = Pool(spec.model_dir, spec.runtime, workers=workers, log_level=level, **spec.options)
    try:
        yield pool
    except BaseException:
        pool.abort()
        raise
    pool.close()


def _result(future: Future[_T], shutdown: GracefulShutdown) -> _T:
    """The future's result; raises KeyboardInterrupt on a signal, for no image is lost yet."""
    while not wait([future], _POLL_SECONDS).done:
        if shutdown.requested():
            raise KeyboardInterrupt
    return future.result()


def _summary(tally: Tally, others: int) -> str:
    parts = [f"{count_of(tally.generated, 'image')} generated"]
    if tally.skipped:
        parts.append(f"{tally.skipped} skipped (already done)")
    if tally.failed:
        parts.append(f"{tally.failed} failed")
    if others:
        parts.append(f"{count_of(others, 'file')} passed over")
    if tally.remaining:
        parts.append(f"{tally.remaining} remaining: run the same command to continue")
    return ", ".join(parts)

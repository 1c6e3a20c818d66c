"""`lcm batch`: an image for each one in a folder, or for each line of a file of jobs."""

from __future__ import annotations

import argparse
import logging
import pickle
from collections.abc import Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from lcmcore.cli.batch_jobs import tasks_of_file
from lcmcore.cli.batch_runner import Backend, Runner, Tally
from lcmcore.cli.batch_tasks import Tasks, files_passed_over, passed_over, tasks_of_folder
from lcmcore.cli.generate import model_dir, request_of, runtime_choice, runtime_options
from lcmcore.cli.progress import Progress, count_of
from lcmcore.cli.signals import GracefulShutdown
from lcmcore.errors import LcmError
from lcmcore.jobs.cluster import connect, run_on_worker
from lcmcore.jobs.fingerprint import model_identity
from lcmcore.jobs.pool import Pool
from lcmcore.jobs.process import WorkerSpec
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
            others = [] if args.jobs else files_passed_over(args.init_dir)
            for line in passed_over(others):
                progress.say(line)
            tally = Tally(len(tasks))
            if not shutdown.requested():
                make_folder(args.output)
                with _backend(args, progress, shutdown) as backend:
                    tally = Runner(tasks, backend, progress, shutdown.requested).run()
        except KeyboardInterrupt:
            progress.say("stopped at once: images in progress are discarded")
            return shutdown.status
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
    request = request_of(args)
    if args.jobs is not None:
        inits = _folder_of(args.jobs) if args.init_dir is None else args.init_dir
        return tasks_of_file(args.jobs, inits, args.output, request, shutdown.requested, args.mask)
    return tasks_of_folder(args.init_dir, args.output, request, args.mask)


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
    if args.scheduler is None:
        model["files"] = model_identity(*where)
        with _local_pool(spec, args.workers) as pool:
            yield Backend(pool.submit, lambda: 2 * args.workers, model)
        return
    with _no_logging(), connect(args.scheduler) as (executor, threads):
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

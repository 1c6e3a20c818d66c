"""`lcm batch`: a folder of pictures, or a file of jobs, to a folder of PNG files."""

from __future__ import annotations

import argparse
import logging
import pickle
import sys
from collections.abc import Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lcmcore.cli.batch_runner import Engine, Runner, Tally
from lcmcore.cli.batch_tasks import Task, tasks_of_file, tasks_of_folder
from lcmcore.cli.generate import model_dir, request_of, runtime_choice, runtime_options
from lcmcore.cli.progress import Progress
from lcmcore.cli.signals import Stop
from lcmcore.errors import LcmError, OutputError, first_line
from lcmcore.jobs.cluster import connect, run_on_worker
from lcmcore.jobs.fingerprint import model_identity
from lcmcore.jobs.pool import Pool
from lcmcore.jobs.process import WorkerSpec

_GLANCE = 0.5  # seconds


def generate_many(args: argparse.Namespace) -> int:
    """Make what is not made yet; the exit status. Raises LcmError if a picture failed."""
    with Stop() as stop, Progress(args.quiet) as progress:
        try:
            tasks = _tasks(args)
            _make_folder(args.output)
            with _engine(args, progress, stop) as engine:
                tally = Runner(tasks, engine, progress, stop.requested).run()
        except KeyboardInterrupt:
            progress.say("ended at once")
            return stop.status
        progress.say(_summary(tally))
    for name, reason in tally.failures:
        print(f"lcm: failed: {name}: {reason}", file=sys.stderr)
    if stop.requested():
        return stop.status
    if tally.failures:
        raise LcmError(f"{len(tally.failures)} of {tally.total} pictures failed")
    return 0


def _tasks(args: argparse.Namespace) -> list[Task]:
    request = request_of(args)
    if args.jobs is not None:
        inits = args.jobs.parent if args.init_dir is None else args.init_dir
        return tasks_of_file(args.jobs, inits, args.output, request)
    return tasks_of_folder(args.init_dir, args.output, request)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"folder {folder} cannot be made: {first_line(error)}") from error


@contextmanager
def _engine(args: argparse.Namespace, progress: Progress, stop: Stop) -> Iterator[Engine]:
    files = {"config": args.config, "tokenizer": args.tokenizer}
    files = {key: str(path) for key, path in files.items() if path is not None}
    options = runtime_options(args)
    spec = WorkerSpec(model_dir(args), runtime_choice(args), {**options, **files})
    where = (spec.model_dir, files.get("config"), files.get("tokenizer"))
    model = {"runtime": spec.runtime, "providers": options.get("providers")}
    if args.scheduler is None:
        model["files"] = model_identity(*where)
        with _local_pool(spec, args.workers) as pool:
            yield Engine(pool.submit, lambda: 2 * args.workers, model)
        return
    with _no_logging(), connect(args.scheduler) as (executor, threads):
        if not threads():
            progress.say(f"waiting for a worker to join {args.scheduler}")
        model["files"] = _result(executor.submit(model_identity, *where), stop)
        packed = pickle.dumps(spec)
        yield Engine(
            lambda job: executor.submit(run_on_worker, packed, job), lambda: 2 * threads(), model
        )


@contextmanager
def _no_logging() -> Iterator[None]:
    """Without Dask's tracebacks of lost connections: whatever matters comes as an exception."""
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


@contextmanager
def _local_pool(spec: WorkerSpec, workers: int) -> Iterator[Pool]:
    pool = Pool(spec.model_dir, spec.runtime, workers=workers, **spec.options)
    try:
        yield pool
    except BaseException:
        pool.abort()
        raise
    pool.close()


def _result(future: Future[Any], stop: Stop) -> Any:
    """The future's result; a signal ends the wait for it, since nothing is lost by that."""
    while not wait([future], _GLANCE).done:
        if stop.requested():
            raise KeyboardInterrupt
    return future.result()


def _summary(tally: Tally) -> str:
    words = [f"{tally.made} made"]
    if tally.kept:
        words.append(f"{tally.kept} were done already")
    if tally.failures:
        words.append(f"{len(tally.failures)} failed")
    if tally.left:
        words.append(f"{tally.left} left: the same command goes on with them")
    return ", ".join(words)

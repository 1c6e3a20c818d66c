"""`lcm serve`: the model as a server, for clients of other programs and for a browser."""

from __future__ import annotations

import argparse
import logging
import os
import pickle
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path

from lcmcore.bundle import DEMO, bundles_in
from lcmcore.cli.generate import model_dir, runtime_choice, runtime_options
from lcmcore.cli.progress import count_of
from lcmcore.cli.signals import GracefulShutdown
from lcmcore.errors import ArgumentError, RuntimeUnavailableError
from lcmcore.jobs.cluster import connect, run_followed_on_worker, summary_on_worker
from lcmcore.jobs.job import Job
from lcmcore.jobs.pool import Pool
from lcmcore.jobs.process import WorkerSpec
from lcmcore.jobs.worker import EncodedImage, ModelSummary, OnStep
from lcmcore.png import absolute
from lcmcore.util.terminal import tell
from lcmcore.util.validate import whole_number

try:
    from lcmcore.server import peer
    from lcmcore.server.app import Access, make_app
    from lcmcore.server.guard import is_loopback
    from lcmcore.server.queue import JobQueue, Submit
    from lcmcore.server.run import bound_socket, make_server, run
    from lcmcore.server.service import Limits, Service
except ModuleNotFoundError as error:
    raise RuntimeUnavailableError(
        "the server is not installed: pip install 'lcmcore[server]'"
    ) from error


def serve(args: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT comes; raises LcmError for what keeps it from serving."""
    access = _access(args)
    limits = Limits(
        side=whole_number("--max-side", args.max_side, 8, 2**16),
        images=whole_number("--max-images", args.max_images, 1, 1000),
        steps=whole_number("--max-steps", args.max_steps, 1, 1000),
        body=whole_number("--max-body", args.max_body, 1, 2**20) * 2**20,
    )
    waiting = whole_number("--queue", args.queue, 0, 2**16)
    with bound_socket(args.host, whole_number("--port", args.port, 0, 65535)) as bound:
        with GracefulShutdown() as shutdown, _backend(args) as (submit, workers, models):
            if shutdown.requested():
                return shutdown.status
            queue = JobQueue(submit, workers, waiting)
            service = Service(
                queue, models, limits, int(time.time()), _record(args), args.models is not None
            )
            run(make_server(make_app(service, access), queue), bound)
            counts = queue.counts
        tell(
            f"lcm: stopped; {count_of(counts.done, 'image')} generated, of which {counts.unwanted}"
            f" for clients that had gone, {counts.failed} failed or cancelled"
        )
    return 0


def _access(args: argparse.Namespace) -> Access:
    """Without a key or --no-auth, it is for the server's own user.

    Raises ArgumentError for an address that other machines reach.
    """
    key = args.api_key or os.environ.get("LCM_API_KEY") or None
    if key is not None and args.no_auth:
        raise ArgumentError("--no-auth and a key (--api-key, $LCM_API_KEY) exclude each other")
    if key is None and not args.no_auth and not is_loopback(args.host):
        raise ArgumentError(
            f"--host {args.host} is reached by others: give --api-key KEY (or $LCM_API_KEY), or say"
            " --no-auth"
        )
    if args.no_auth or key is not None:
        return Access(key, None, tuple(args.cors))
    if not peer.is_known():
        tell(
            "lcm: this system does not say whose a connection is: every user of this machine can"
            " use the server (a key keeps them out)"
        )
    return Access(None, ("localhost", args.host), tuple(args.cors), own_user=peer.is_known())


def _record(args: argparse.Namespace) -> dict[str, str]:
    """Names in place of the paths in the records of images."""
    files = {"config": args.config, "tokenizer": args.tokenizer}
    return {key: Path(path).name for key, path in files.items() if path is not None}


def _models(args: argparse.Namespace) -> dict[str, str | None]:
    """The folders of --models by name, that of --model first; none without --models.

    Raises ArgumentError.
    """
    if args.models is None:
        return {}
    if args.config is not None or args.tokenizer is not None:
        raise ArgumentError("--config and --tokenizer are of one model: leave --models out")
    found = {each.name: str(each) for each in bundles_in(args.models)}
    if args.model is None:
        return {**found}
    chosen = model_dir(args)
    name = DEMO if chosen is None else Path(absolute(chosen)).name
    if name in found and (chosen is None or not Path(chosen).samefile(found[name])):
        raise ArgumentError(f"two models are called {name}: that of --model, and one of --models")
    return {name: chosen, **{key: path for key, path in found.items() if key != name}}


@contextmanager
def _backend(
    args: argparse.Namespace,
) -> Iterator[tuple[Submit, Callable[[], int], Mapping[str, ModelSummary]]]:
    """What runs jobs, how many at once, and the models: of a pool, or of a Dask cluster."""
    files = {"config": args.config, "tokenizer": args.tokenizer}
    given = {key: str(path) for key, path in files.items() if path is not None}
    options = {**runtime_options(args), **given}
    models = _models(args)
    if args.scheduler is None:
        level = logging.getLogger("lcmcore").getEffectiveLevel()
        with Pool(
            *(None if models else model_dir(args), runtime_choice(args)),
            workers=args.workers,
            log_level=level,
            warm_up=True,
            models=models,
            **options,
        ) as pool:
            yield pool.submit, lambda: args.workers, _summaries(pool, models)
        return
    paths: list[tuple[str | None, str | None]] = [*models.items()] or [(None, model_dir(args))]
    specs = {
        name: pickle.dumps(WorkerSpec(path, runtime_choice(args), options)) for name, path in paths
    }
    with connect(args.scheduler) as (executor, threads, steps):

        def submit(job: Job, *, on_step: OnStep) -> Future[EncodedImage]:
            return steps.submit(run_followed_on_worker, specs[job.model], job, on_step=on_step)

        if not threads():
            tell(f"lcm: waiting for a worker to join {args.scheduler}")
        found = [executor.submit(summary_on_worker, each).result() for each in specs.values()]
        yield submit, threads, dict(zip(models or [found[0].name], found, strict=True))


def _summaries(pool: Pool, models: Collection[str]) -> dict[str, ModelSummary]:
    """Of each model; all are opened once, and run, so that what is broken is found now."""
    first = pool.summary
    assert first is not None
    names = [*models] or [first.name]
    others = [pool.describe(name).result() for name in names[1:]]
    if others:
        pool.describe(names[0]).result()  # which stays open
    return dict(zip(names, (first, *others), strict=True))

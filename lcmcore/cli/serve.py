"""`lcm serve`: the model as a server, for clients of other programs and for a browser."""

from __future__ import annotations

import argparse
import logging
import os
import pickle
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path

from lcmcore.cli.generate import model_dir, runtime_choice, runtime_options
from lcmcore.cli.progress import count_of
from lcmcore.cli.signals import GracefulShutdown
from lcmcore.errors import ArgumentError, RuntimeUnavailableError
from lcmcore.jobs.cluster import connect, run_on_worker, summary_on_worker
from lcmcore.jobs.job import Job
from lcmcore.jobs.pool import Pool
from lcmcore.jobs.process import WorkerSpec
from lcmcore.jobs.worker import EncodedImage, ModelSummary, OnStep
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
        with GracefulShutdown() as shutdown, _backend(args) as (submit, workers, summary):
            if shutdown.requested():
                return shutdown.status
            queue = JobQueue(submit, workers, waiting)
            service = Service(queue, summary, limits, int(time.time()), _record(args, summary))
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


def _record(args: argparse.Namespace, summary: ModelSummary) -> dict[str, str]:
    """Names in place of the paths in the records of images."""
    files = {"model": summary.name, "config": args.config, "tokenizer": args.tokenizer}
    return {key: Path(path).name for key, path in files.items() if path is not None}


@contextmanager
def _backend(
    args: argparse.Namespace,
) -> Iterator[tuple[Submit, Callable[[], int], ModelSummary]]:
    """What runs jobs, how many at the same time, and the model: of a pool, or of a Dask cluster."""
    files = {"config": args.config, "tokenizer": args.tokenizer}
    given = {key: str(path) for key, path in files.items() if path is not None}
    spec = WorkerSpec(model_dir(args), runtime_choice(args), {**runtime_options(args), **given})
    if args.scheduler is None:
        level = logging.getLogger("lcmcore").getEffectiveLevel()
        with Pool(
            *(spec.model_dir, spec.runtime),
            workers=args.workers,
            log_level=level,
            warm_up=True,
            **spec.options,
        ) as pool:
            assert pool.summary is not None
            yield pool.submit, lambda: args.workers, pool.summary
        return
    packed = pickle.dumps(spec)
    with connect(args.scheduler) as (executor, threads):

        def submit(job: Job, *, on_step: OnStep) -> Future[EncodedImage]:
            """Steps stay in the cluster: a job that runs there is not cancelled."""
            return executor.submit(run_on_worker, packed, job)

        if not threads():
            tell(f"lcm: waiting for a worker to join {args.scheduler}")
        yield submit, threads, executor.submit(summary_on_worker, packed).result()

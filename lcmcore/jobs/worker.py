"""Jobs in, PNG bytes out."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lcmcore.bundle import demo_dir
from lcmcore.errors import LcmError
from lcmcore.jobs.job import Job
from lcmcore.pipeline import load
from lcmcore.png import encode_png, make_record, model_origin
from lcmcore.runtime_choice import RuntimeChoice
from lcmcore.util.closeable import Closeable

EncodedImage: TypeAlias = "tuple[bytes, int]"  # PNG, seed
EncodedImageWithLatents: TypeAlias = "tuple[bytes, int, bytes]"  # and pooled latents

_SIDE = 8  # of the pooled latents


class PipelineWorker(Closeable):
    """A pipeline that serves jobs, each an object like `lcmcore.jobs.job.Job`.

    A job that fails raises LcmError and leaves the worker as it was. Several threads may use one
    worker where the runtime's networks can be run by several (ONNX Runtime's can).
    """

    def __init__(
        self,
        worker_id: int | str,
        model_dir: str | Path | None = None,
        runtime: RuntimeChoice = "auto",
        **options: Any,
    ) -> None:
        """Open the model; None is the demo bundle. `options` are those of `lcmcore.load`.

        Raises BundleError, RuntimeUnavailableError, NetworkError or ArgumentError.
        """
        self.worker_id = worker_id
        self.pipeline = load(model_dir or demo_dir(), runtime, **options)
        files = {key: options.get(key) for key in ("config", "tokenizer")}
        self._origin = model_origin(model_dir, runtime, **files, options=options)

    def close(self) -> None:
        """Close the networks."""
        self.pipeline.close()

    def run_job(self, job: Any) -> EncodedImage:
        """The image as PNG, with its record in text chunks, and the seed that made it.

        Raises ArgumentError, ImageError or NetworkError.
        """
        return self._run(job)[:2]

    def run_job_with_latents(self, job: Any) -> EncodedImageWithLatents:
        """PNG and seed, and the latents that were decoded, averaged to 8x8.

        These are the bytes of float16 [1, 4, 8, 8], little-endian, NCHW. Raises as `run_job` does.
        """
        return self._run(job)

    def _run(self, job: Any) -> EncodedImageWithLatents:
        job = Job.read(job)
        try:
            return self._encoded(job)
        except MemoryError:
            raise LcmError("out of memory: choose a smaller size") from None

    def _encoded(self, job: Job) -> EncodedImageWithLatents:
        images = job.req.images(job.init_image, job.mask)
        result = self.pipeline(job.req.prompt, **images, **job.req.keywords())
        digests = {"init-sha256": _digest(job.init_image), "mask-sha256": _digest(job.mask)}
        origin = {**self._origin, **digests, **job.req.preparation(), **job.record}
        record = make_record(job.req.prompt, result, origin)
        latents = average_to(result.latents, _SIDE).astype("<f2").tobytes()
        return encode_png(result.images[0], record), result.seeds[0], latents


def average_to(latents: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """[..., height, width] to [..., side, side], as torch's `adaptive_avg_pool2d` does it.

    Cell i is the mean over floor(i * n / side) up to ceil((i + 1) * n / side), so neighbours
    overlap where `side` does not divide n.
    """
    for axis in (-2, -1):
        count = latents.shape[axis]
        cells = [
            latents.take(range(i * count // side, math.ceil((i + 1) * count / side)), axis)
            for i in range(side)
        ]
        latents = np.stack([cell.mean(axis) for cell in cells], axis)
    return latents


def _digest(content: bytes | None) -> str | None:
    return None if content is None else hashlib.sha256(content).hexdigest()

"""Jobs in, PNG bytes out."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lcmcore.bundle import demo_dir
from lcmcore.call import Callback
from lcmcore.errors import LcmError
from lcmcore.jobs.job import Job
from lcmcore.pipeline import Pipeline, load
from lcmcore.png import encode_png, make_record, model_origin
from lcmcore.preview import colours_of, preview
from lcmcore.runtime_choice import RuntimeChoice
from lcmcore.util.arrays import Floats, Pixels
from lcmcore.util.closeable import Closeable

EncodedImage: TypeAlias = "tuple[bytes, int]"  # PNG, seed
EncodedImageWithLatents: TypeAlias = "tuple[bytes, int, bytes]"  # and pooled latents

_SIDE = 8  # of the pooled latents


class JobStep(NamedTuple):
    """A step of a job that is done: its number, counted from 1, and how many there will be.

    `preview` is [height / 8, width / 8, 3] in uint8: what the image will be about, without a run of
    the VAE (`lcmcore.preview`); None after the last step, and of a worker that has learned none.
    """

    number: int
    total: int
    preview: Pixels | None


OnStep: TypeAlias = "Callable[[JobStep], bool | None]"  # False cancels the job


class ModelSummary(NamedTuple):
    """What a service tells of its model: the sizes that it makes, and its defaults.

    Sizes are (width, height), their sides multiples of `multiple`; `compiled` is that of a UNet
    with fixed shapes, which makes others by tiles. A preview has a pixel for each `factor` on a
    side.
    """

    name: str
    size: tuple[int, int]
    compiled: tuple[int, int] | None
    multiple: int
    factor: int
    num_inference_steps: int
    guidance_scale: float
    negative_prompt: bool  # whether the model takes one
    edits: bool  # whether it makes images from images


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
        self._colours: Floats | None = None  # of previews
        files = {key: options.get(key) for key in ("config", "tokenizer")}
        self._origin = model_origin(model_dir, runtime, **files, options=options)

    def close(self) -> None:
        """Close the networks."""
        self.pipeline.close()

    def run_job(self, job: Any, on_step: OnStep | None = None) -> EncodedImage:
        """The image as PNG, with its record in text chunks, and the seed that made it.

        `on_step` is called after each step. Raises ArgumentError, ImageError or NetworkError, and
        Cancelled if `on_step` returned False.
        """
        return self._run(job, on_step)[:2]

    def run_job_with_latents(
        self, job: Any, on_step: OnStep | None = None
    ) -> EncodedImageWithLatents:
        """PNG and seed, and the latents that were decoded, averaged to 8x8.

        These are the bytes of float16 [1, 4, 8, 8], little-endian, NCHW. Raises as `run_job` does.
        """
        return self._run(job, on_step)

    def summary(self) -> ModelSummary:
        """What a service tells of the model; asks the UNet. Raises NetworkError."""
        pipe = self.pipeline
        sizes = pipe.sizes
        return ModelSummary(
            name=Path(self._origin["model"]).name,
            size=sizes.choose(None, None, None),
            compiled=sizes.compiled,
            multiple=sizes.multiple,
            factor=sizes.vae.factor,
            num_inference_steps=pipe.default_steps,
            guidance_scale=pipe.default_guidance_scale,
            negative_prompt=not pipe.guidance_width,
            edits="vae_encoder" in pipe.networks.runtimes,
        )

    def warm_up(self) -> ModelSummary:
        """Run the networks once, so that they are open when the first job comes; learn previews.

        Raises NetworkError: what is broken is found now.
        """
        self.pipeline("", num_inference_steps=1, seed=0)
        self.learn_previews()
        return self.summary()

    def learn_previews(self) -> None:
        """Let steps have previews, whose map may take a run of the decoder; raises NetworkError."""
        if self._colours is None:
            self._colours = colours_of(self.pipeline, self._origin["model-digest"])

    def _run(self, job: Any, on_step: OnStep | None) -> EncodedImageWithLatents:
        job = Job.read(job)
        try:
            return self._encoded(job, on_step)
        except MemoryError:
            raise LcmError("out of memory: choose a smaller size") from None

    def _encoded(self, job: Job, on_step: OnStep | None) -> EncodedImageWithLatents:
        images = job.req.images(job.init_image, job.mask)
        callback = None if on_step is None else self._callback(on_step)
        result = self.pipeline(
            job.req.prompt, **images, **job.req.keywords(), callback_on_step_end=callback
        )
        digests = {"init-sha256": _digest(job.init_image), "mask-sha256": _digest(job.mask)}
        origin = {**self._origin, **digests, **job.req.preparation(), **job.record}
        record = make_record(job.req.prompt, result, origin)
        latents = average_to(result.latents, _SIDE).astype("<f2").tobytes()
        return encode_png(result.images[0], record), result.seeds[0], latents

    def _callback(self, on_step: OnStep) -> Callback:
        """What a call does after each of its steps."""

        def follow(_: Pipeline, index: int, __: int, tensors: dict[str, Any]) -> bool | None:
            number, total = index + 1, len(tensors["timesteps"])
            seen = None
            if self._colours is not None and number < total:
                seen = preview(tensors["denoised"][0], self._colours)
            return on_step(JobStep(number, total, seen))

        return follow


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

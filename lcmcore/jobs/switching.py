"""Several models behind one worker, of which one is open at a time: small machines hold no more."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from lcmcore.jobs.job import Job
from lcmcore.jobs.worker import (
    EncodedImage,
    EncodedImageWithLatents,
    ModelSummary,
    OnStep,
    PipelineWorker,
)
from lcmcore.util.closeable import Closeable


class SwitchingWorker(Closeable):
    """Opens the model that a job names, once the one before is closed; its methods are a worker's.

    A job without a name is for the first. Not for several threads.
    """

    def __init__(self, models: Mapping[str, Callable[[], PipelineWorker]]) -> None:
        """What opens each model, by name; none is opened yet."""
        self._models = models
        self._default = next(iter(models))
        self._name = ""
        self._worker: PipelineWorker | None = None

    def close(self) -> None:
        """Close the open model."""
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.close()

    def run_job(self, job: Job, on_step: OnStep | None = None) -> EncodedImage:
        """As PipelineWorker's; raises also what opening the model raises."""
        return self._opened(job.model).run_job(job, on_step)

    def run_job_with_latents(
        self, job: Job, on_step: OnStep | None = None
    ) -> EncodedImageWithLatents:
        """As PipelineWorker's; raises also what opening the model raises."""
        return self._opened(job.model).run_job_with_latents(job, on_step)

    def warm_up(self) -> ModelSummary:
        """As PipelineWorker's, of the first model; raises also what opening it raises."""
        return self._opened(None).warm_up()

    def describe(self, job: Job) -> ModelSummary:
        """As `warm_up`, of the model that the job names."""
        return self._opened(job.model).warm_up()

    def _opened(self, name: str | None) -> PipelineWorker:
        name = name or self._default
        if self._worker is None or name != self._name:
            self.close()
            self._worker, self._name = self._models[name](), name
            self._worker.learn_previews()
        return self._worker

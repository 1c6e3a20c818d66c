"""The part of AUTOMATIC1111's API that its clients use.

Reference: https://github.com/AUTOMATIC1111/stable-diffusion-webui/wiki/API

Its clients ask by their defaults for 20 steps and a guidance ("cfg") of 7, which are those of other
models: here they stand for the model's own. What was used is in the answer's `info`.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from lcmcore.errors import ArgumentError
from lcmcore.jobs import job
from lcmcore.jobs.worker import JobStep
from lcmcore.server.errors import A1111
from lcmcore.server.fields import Fields
from lcmcore.server.formats import base64_text, encoded_preview, texts_of
from lcmcore.server.service import ImageDone, Service, StepOfImage, while_connected

_ROOT = f"{A1111}v1"
_STEPS, _CFG = 20, 7.0  # clients' defaults, and stand for the model's
_MAX_CLIENT_STEPS = 1000
_FITS = ("stretch", "cover", "contain", "stretch")  # by resize_mode; the last resizes latents
_SAMPLER = "LCM"
_CHECKPOINT = "sd_model_checkpoint"  # the option that names the model
_SEEDS = (-(2**63), 2**64 - 1)


@dataclass
class _Run:
    """A request in progress."""

    model: str
    count: int  # of images
    made: dict[int, ImageDone] = field(default_factory=dict)
    steps: dict[int, JobStep] = field(default_factory=dict)  # the last step of each image
    previews: dict[int, str] = field(default_factory=dict)  # base64
    task: asyncio.Future[None] | None = None
    interrupted: bool = False
    start: float = field(default_factory=time.monotonic)

    @property
    def share(self) -> float:
        """How much of it is done, from 0 to 1."""
        done = sum(
            1.0 if number in self.made else step.number / (step.total + 1)
            for number, step in self.steps.items()
        )
        return done / self.count


class _Api:
    """The requests in progress, which any client may look at and interrupt, and the answers."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._runs: list[_Run] = []
        self._model = service.default  # until a client sets another option

    async def txt2img(self, request: Request) -> Response:
        """An image of a prompt."""
        fields = await Fields.of_json(request)
        model = self._model_of(fields)
        asked = self._asked(model, fields)
        jobs = self._jobs(model, fields, asked, [None], None)
        return await self._answer(request, fields, model, jobs)

    async def img2img(self, request: Request) -> Response:
        """An image of others; `mask` is white where it is repainted."""
        fields = await Fields.of_json(request)
        model = self._model_of(fields)
        images, masks = fields.pictures("init_images"), fields.pictures("mask")
        if not images:
            raise ArgumentError("init_images is missing: send at least one image")
        asked = self._asked(model, fields, images=True, masked=bool(masks))
        jobs = self._jobs(model, fields, asked, images, masks[0] if masks else None)
        return await self._answer(request, fields, model, jobs)

    async def progress(self, request: Request) -> Response:
        """What the oldest request in progress has come to."""
        run = self._runs[0] if self._runs else None
        shown = request.query_params.get("skip_current_image", "").lower() not in ("true", "1")
        state = {
            "skipped": False,
            "interrupted": bool(run and run.interrupted),
            "job": "",
            "job_count": sum(each.count - len(each.made) for each in self._runs),
            "job_timestamp": time.strftime("%Y%m%d%H%M%S"),
            "job_no": len(run.made) if run else 0,
            "sampling_step": 0,
            "sampling_steps": 0,
        }
        share, left, image = 0.0, 0.0, None
        if run is not None:
            share = run.share
            if share:
                left = (time.monotonic() - run.start) * (1 - share) / share
            number = max(run.steps, key=lambda each: (each not in run.made, each), default=None)
            if number is not None:
                step = run.steps[number]
                state |= {"sampling_step": step.number, "sampling_steps": step.total}
                image = run.previews.get(number) if shown else None
        return JSONResponse(
            {
                "progress": share,
                "eta_relative": left,
                "state": state,
                "current_image": image,
                "textinfo": None,
            }
        )

    async def interrupt(self, _: Request) -> Response:
        """End the requests in progress; each is answered with what there is."""
        for run in self._runs:
            if run.task is not None:
                run.interrupted = True
                run.task.cancel()
        return JSONResponse({})

    async def options(self, _: Request) -> Response:
        """The model of who names none, and what clients ask for beside."""
        options = {_CHECKPOINT: self._model, "sd_checkpoint_hash": ""}
        return JSONResponse({**options, "samples_format": "png"})

    async def set_options(self, request: Request) -> Response:
        """Clients choose a model so, for all of them; there is nothing else to set."""
        self._model = self._named(await Fields.of_json(request)) or self._model
        return JSONResponse({})

    def _model_of(self, fields: Fields) -> str:
        """The model of a request; raises UnknownModel and ArgumentError."""
        settings = fields.raw("override_settings")
        named = self._named(Fields(settings)) if isinstance(settings, dict) else None
        return named or self._model

    def _named(self, options: Fields) -> str | None:
        """The model that options name, if any; raises UnknownModel and ArgumentError."""
        name = options.text(_CHECKPOINT) if self._service.by_name else None
        return None if name is None else self._service.known(name)

    def _asked(
        self, model: str, fields: Fields, images: bool = False, masked: bool = False
    ) -> job.Request:
        """What the fields ask for; raises ArgumentError."""
        if fields.text("script_name") is not None:
            raise ArgumentError("script_name: there are no scripts here")
        steps = fields.whole("steps", 1, _MAX_CLIENT_STEPS)
        cfg = fields.number("cfg_scale", 0, 100)
        seed = fields.whole("seed", *_SEEDS)
        negative = fields.text("negative_prompt")
        request = {
            "prompt": fields.text("prompt", ""),
            "size": self._size(model, fields),
            "num_inference_steps": None if steps is None or steps >= _STEPS else steps,
            "guidance_scale": None if cfg == _CFG else cfg,
            "seed": None if seed == -1 else seed,
            "negative_prompt": negative if self._service.models[model].negative_prompt else None,
        }
        if images:
            request["denoise_strength"] = fields.number("denoising_strength", 0, 1)
            request["fit"] = _FITS[fields.whole("resize_mode", 0, len(_FITS) - 1) or 0]
        if masked:
            request["mask_blur"] = fields.number("mask_blur", 0, 100)
            request["invert_mask"] = bool(fields.whole("inpainting_mask_invert", 0, 1)) or None
            if fields.flag("inpaint_full_res"):
                crop = fields.whole("inpaint_full_res_padding", 0, self._service.limits.side)
                request["padding_mask_crop"] = crop or 0
        return job.Request(**request)  # type: ignore[arg-type]

    def _size(self, model: str, fields: Fields) -> str | None:
        """The nearest size that the model can make; raises ArgumentError."""
        asked = [fields.whole(name, 1, self._service.limits.side) for name in ("width", "height")]
        summary = self._service.models[model]
        if summary.compiled is not None:
            return None  # others, by tiles, are for who asks for them: a client always sends one
        if asked == [None, None]:
            return None
        sides = [side or default for side, default in zip(asked, summary.size, strict=True)]
        near = [max(1, round(side / summary.multiple)) * summary.multiple for side in sides]
        return "{}x{}".format(*near)

    def _jobs(
        self,
        model: str,
        fields: Fields,
        asked: job.Request,
        images: Sequence[bytes | None],
        mask: bytes | None,
    ) -> list[job.Job]:
        limit = self._service.limits.images
        count = math.prod(fields.whole(name, 1, limit) or 1 for name in ("batch_size", "n_iter"))
        return self._service.jobs(model, asked, images, mask, count)

    async def _answer(
        self, request: Request, fields: Fields, model: str, jobs: Sequence[job.Job]
    ) -> Response:
        run = _Run(model, len(jobs))
        self._runs.append(run)
        try:
            await while_connected(request.receive, self._make(run, jobs))
        finally:
            self._runs.remove(run)
        made = [run.made[number] for number in sorted(run.made)]
        images = [base64_text(each.png) for each in made]
        if not made and run.previews:  # interrupted: what could be seen of it by then
            images = [run.previews[max(run.previews)]]
        info = self._info(fields, run, made)
        parameters = {key: fields.raw(key) for key in _ECHOED}
        return JSONResponse({"images": images, "parameters": parameters, "info": json.dumps(info)})

    async def _make(self, run: _Run, jobs: Sequence[job.Job]) -> None:
        """Run the jobs until they are done or interrupted."""
        run.task = asyncio.ensure_future(self._follow(run, jobs))
        try:
            await asyncio.wait([run.task])
        finally:
            run.task.cancel()
        if not (run.task.cancelled() and run.interrupted):
            run.task.result()

    async def _follow(self, run: _Run, jobs: Sequence[job.Job]) -> None:
        async with aclosing(self._service.follow(jobs)) as events:
            async for event in events:
                if isinstance(event, ImageDone):
                    run.made[event.number] = event
                else:
                    await self._show(run, event)

    async def _show(self, run: _Run, event: StepOfImage) -> None:
        run.steps[event.number] = event.step
        if event.step.preview is not None:
            factor = self._service.models[run.model].factor
            content = await run_in_threadpool(encoded_preview, event.step.preview, factor, "png")
            run.previews[event.number] = base64_text(content)

    def _info(self, fields: Fields, run: _Run, made: Sequence[ImageDone]) -> dict[str, Any]:
        """What was used: of the first image, and the seeds and texts of all."""
        records = [texts_of(each.png) for each in made]
        record = records[0] if records else {}
        prompt = fields.text("prompt", "") or ""
        width, _, height = record.get("size", "0x0").partition("x")
        seeds = [each.seed for each in made]
        return {
            "prompt": prompt,
            "all_prompts": [prompt] * len(made),
            "negative_prompt": record.get("negative-prompt", ""),
            "all_negative_prompts": [record.get("negative-prompt", "")] * len(made),
            "seed": seeds[0] if seeds else -1,
            "all_seeds": seeds,
            "subseed": -1,
            "all_subseeds": [-1] * len(made),
            "subseed_strength": 0,
            "width": int(width),
            "height": int(height),
            "sampler_name": _SAMPLER,
            "cfg_scale": float(record.get("guidance", 0)),
            "steps": int(record.get("steps", 0)),
            "batch_size": len(made),
            "denoising_strength": float(record.get("strength", 0)),
            "sd_model_name": run.model,
            "sd_model_hash": record.get("model-digest", ""),
            "job_timestamp": time.strftime("%Y%m%d%H%M%S"),
            "infotexts": [_infotext(prompt, each) for each in records],
            "index_of_first_image": 0,
            "interrupted": run.interrupted,
        }


_ECHOED = ("prompt", "negative_prompt", "seed", "steps", "cfg_scale", "width", "height")


def routes(service: Service) -> list[Route]:
    """The routes of the API."""
    api = _Api(service)
    nothing = {"hash": None, "sha256": None, "config": None}
    fixed = {
        "sd-models": [
            {"title": name, "model_name": name, "filename": name, **nothing}
            for name in service.models
        ],
        "samplers": [{"name": _SAMPLER, "aliases": [_SAMPLER.lower()], "options": {}}],
        "schedulers": [{"name": "automatic", "label": "Automatic", "aliases": None}],
        "upscalers": [{"name": "None", "model_name": None, "model_path": None, "scale": 4}],
        "latent-upscale-modes": [{"name": "Latent"}],
        "sd-vae": [],
        "loras": [],
        "prompt-styles": [],
        "scripts": {"txt2img": [], "img2img": []},
    }
    return [
        Route(f"{_ROOT}/txt2img", api.txt2img, methods=["POST"]),
        Route(f"{_ROOT}/img2img", api.img2img, methods=["POST"]),
        Route(f"{_ROOT}/progress", api.progress),
        Route(f"{_ROOT}/interrupt", api.interrupt, methods=["POST"]),
        Route(f"{_ROOT}/options", api.options),
        Route(f"{_ROOT}/options", api.set_options, methods=["POST"]),
        *(Route(f"{_ROOT}/{path}", _constant(body)) for path, body in fixed.items()),
    ]


def _constant(body: Any) -> Callable[[Request], Awaitable[Response]]:
    async def answer(_: Request) -> Response:
        return JSONResponse(body)

    return answer


def _infotext(prompt: str, record: Mapping[str, str]) -> str:
    """What AUTOMATIC1111 writes beside an image, from which clients read its settings."""
    lines = [prompt]
    if "negative-prompt" in record:
        lines.append(f"Negative prompt: {record['negative-prompt']}")
    settings = {
        "Steps": record.get("steps"),
        "Sampler": _SAMPLER,
        "CFG scale": record.get("guidance"),
        "Seed": record.get("seed"),
        "Size": record.get("size"),
        "Model": record.get("model"),
        "Denoising strength": record.get("strength"),
    }
    return "\n".join(
        [*lines, ", ".join(f"{key}: {value}" for key, value in settings.items() if value)]
    )

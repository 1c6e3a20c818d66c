"""OpenAI's images API: https://platform.openai.com/docs/api-reference/images.

Beside its own fields each request may have those of a call of the library: strength,
num_inference_steps, guidance_scale, negative_prompt, seed; and mask_blur and padding_mask_crop.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from lcmcore.errors import ArgumentError
from lcmcore.jobs import job
from lcmcore.jobs.worker import JobStep
from lcmcore.server.errors import answer_of, error_body, log_failure
from lcmcore.server.fields import Fields
from lcmcore.server.formats import FORMATS, base64_text, encoded, encoded_preview
from lcmcore.server.masks import white_mask
from lcmcore.server.service import EventStream, ImageDone, Service, while_connected

_MAX_SEED = 2**64 - 1
_NO_TOKENS = {
    "total_tokens": 0,
    "input_tokens": 0,
    "output_tokens": 0,
    "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
}


def routes(service: Service) -> list[Route]:
    """The routes of the API."""

    async def generations(request: Request) -> Response:
        fields = await Fields.of_json(request)
        model = _model_of(service, fields)
        jobs = service.jobs(model, _asked(service, fields), count=_count(service, fields))
        return await _answer(service, request, fields, model, jobs, "image_generation")

    async def edits(request: Request) -> Response:
        fields = await Fields.of_form(request)
        model = _model_of(service, fields)
        images = fields.files("image")
        if not images:
            raise ArgumentError("image is missing: send a file of that name")
        mask = fields.file("mask")
        if mask is not None:
            mask = await run_in_threadpool(white_mask, mask)
        jobs = service.jobs(model, _asked(service, fields), images, mask, _count(service, fields))
        return await _answer(service, request, fields, model, jobs, "image_edit")

    async def variations(request: Request) -> Response:
        fields = await Fields.of_form(request)
        model = _model_of(service, fields)
        image = fields.file("image")
        if image is None:
            raise ArgumentError("image is missing: send a file of that name")
        asked = _asked(service, fields, prompt="")
        jobs = service.jobs(model, asked, [image], None, _count(service, fields))
        return await _answer(service, request, fields, model, jobs, "image_edit")

    async def models(_: Request) -> Response:
        return JSONResponse(
            {"object": "list", "data": [_model(service, name) for name in service.models]}
        )

    async def model(request: Request) -> Response:
        return JSONResponse(_model(service, service.known(request.path_params["model"])))

    return [
        Route("/v1/images/generations", generations, methods=["POST"]),
        Route("/v1/images/edits", edits, methods=["POST"]),
        Route("/v1/images/variations", variations, methods=["POST"]),
        Route("/v1/models", models),
        Route("/v1/models/{model}", model),
    ]


def _model_of(service: Service, fields: Fields) -> str:
    """The model that the fields name; raises UnknownModel and ArgumentError."""
    return service.known(fields.text("model")) if service.by_name else service.default


def _model(service: Service, name: str) -> dict[str, Any]:
    """OpenAI's description of a model, and what a client needs to know to ask for images."""
    summary, limits = service.models[name], service.limits
    return {
        "id": name,
        "object": "model",
        "created": service.created,
        "owned_by": "lcmcore",
        "size": "{}x{}".format(*summary.size),
        "size_multiple": summary.multiple,
        "max_side": limits.side,
        "max_images": limits.images,
        "max_steps": limits.steps,
        "num_inference_steps": summary.num_inference_steps,
        "guidance_scale": summary.guidance_scale,
        "strength": 0.75,
        "negative_prompt": summary.negative_prompt,
        "edits": summary.edits,
    }


def _asked(service: Service, fields: Fields, prompt: str | None = None) -> job.Request:
    """What the fields ask for; `prompt` is for who sends none. Raises ArgumentError."""
    text = fields.text("prompt", prompt)
    if text is None:
        raise ArgumentError("prompt is missing")
    return job.Request(
        prompt=text,
        size=service.checked_size(fields.text("size")),
        num_inference_steps=fields.whole("num_inference_steps", 1, service.limits.steps),
        guidance_scale=fields.number("guidance_scale", 0, 100),
        seed=fields.whole("seed", -(2**63), _MAX_SEED),
        denoise_strength=fields.number("strength", 0, 1),
        negative_prompt=fields.text("negative_prompt"),
        padding_mask_crop=fields.whole("padding_mask_crop", 0, service.limits.side),
        mask_blur=fields.number("mask_blur", 0, 100),
    )


def _count(service: Service, fields: Fields) -> int:
    return fields.whole("n", 1, service.limits.images) or 1


async def _answer(
    service: Service,
    request: Request,
    fields: Fields,
    model: str,
    jobs: Sequence[job.Job],
    kind: str,
) -> Response:
    """The images of a model's jobs, or their events."""
    output_format = fields.choice("output_format", FORMATS)
    if fields.flag("stream"):
        partial_images = fields.whole("partial_images", 0, service.limits.steps)
        events = _events(service, model, jobs, kind, output_format, partial_images)
        # With the first event, so that an error before it has a status of its own.
        first = await while_connected(request.receive, anext(events))
        return EventStream(_chain(first, events), _error_event)
    as_url = fields.choice("response_format", ("b64_json", "url")) == "url"
    made = await while_connected(request.receive, service.images(jobs))
    data = []
    for png, seed in made:
        text = base64_text(await run_in_threadpool(encoded, png, output_format))
        image = (
            {"url": f"data:image/{output_format};base64,{text}"} if as_url else {"b64_json": text}
        )
        data.append({**image, "seed": seed})
    return JSONResponse(
        {"created": int(time.time()), "data": data, "output_format": output_format}
        | {"usage": _NO_TOKENS}
    )


async def _chain(first: bytes, rest: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    yield first
    async for each in rest:
        yield each


async def _events(
    service: Service,
    model: str,
    jobs: Sequence[job.Job],
    kind: str,
    output_format: str,
    partial_images: int | None,
) -> AsyncGenerator[bytes, None]:
    """Server-sent events: up to so many previews of each image (None: one of each step), and it."""
    sent = [0] * len(jobs)
    factor = service.models[model].factor
    common = {"background": "opaque", "output_format": output_format, "quality": "auto"}
    async for event in service.follow(jobs):
        body = {**common, "created_at": int(time.time())}
        if isinstance(event, ImageDone):
            content = await run_in_threadpool(encoded, event.png, output_format)
            body |= {"size": _size_of(event.png), "usage": _NO_TOKENS, "seed": event.seed}
            yield _event(f"{kind}.completed", body, content)
        elif event.step.preview is not None and _is_shown(event.step, partial_images):
            step, preview = event.step, event.step.preview
            content = await run_in_threadpool(encoded_preview, preview, factor, output_format)
            height, width = (side * factor for side in preview.shape[:2])
            body |= {"partial_image_index": sent[event.number], "size": f"{width}x{height}"}
            body |= {"step": step.number, "steps": step.total}
            sent[event.number] += 1
            yield _event(f"{kind}.partial_image", body, content)


def _is_shown(step: JobStep, partial_images: int | None) -> bool:
    """Whether a step is among the last `partial_images` before the last, which has no preview."""
    return partial_images is None or step.number >= step.total - partial_images


def _size_of(png: bytes) -> str:
    """The size in a PNG's first chunk."""
    width, height = (int.from_bytes(png[at : at + 4], "big") for at in (16, 20))
    return f"{width}x{height}"


def _event(name: str, body: Mapping[str, Any], content: bytes) -> bytes:
    text = json.dumps({"type": name, "b64_json": base64_text(content), **body})
    return f"event: {name}\ndata: {text}\n\n".encode()


def _error_event(error: Exception) -> bytes:
    log_failure(error)
    answer = answer_of(error)
    text = json.dumps(error_body(answer.message, answer.code))
    return f"event: error\ndata: {text}\n\n".encode()

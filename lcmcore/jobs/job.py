"""A job for a worker: what to make, and from which image.

These classes are a convenience: a worker takes any object with the same attributes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from lcmcore.errors import ArgumentError
from lcmcore.image import ImageLike, read_image
from lcmcore.masks import prepare, read_mask
from lcmcore.util.validate import read_size


@dataclass(frozen=True)
class Request:
    """What to make. None, or a missing attribute, is the default of a call.

    `size` is "WxH" in pixels, `denoise_strength` a call's `strength`; the last three change init
    image and mask before the call (`lcmcore.masks.prepare`); the others are called as there
    (`lcmcore.Pipeline.__call__`).
    """

    prompt: str
    size: str | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    seed: int | None = None
    denoise_strength: float | None = None
    negative_prompt: str | None = None
    strength_mode: str | None = None
    latent_sampling: str | None = None
    fit: str | None = None
    padding_mask_crop: int | None = None
    overlay: bool | None = None
    mask_blur: float | None = None
    invert_mask: bool | None = None
    expand: str | None = None

    def check(self) -> None:
        """Raise ArgumentError for what no call could take: lists, objects, lone surrogates.

        A pipeline checks the values itself; this is for what cannot be sent to one or quoted.
        """
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, str):
                _require_text(each.name, value)
            elif isinstance(value, Iterable):
                expected = "WIDTHxHEIGHT, like 512x384" if each.name == "size" else "a single value"
                raise ArgumentError(f"{each.name} must be {expected}, not {_type_name(value)}")

    def keywords(self) -> dict[str, Any]:
        """Keywords of a call, but for the prompt; what is left None is left out.

        Raises ArgumentError for a size that is not WIDTHxHEIGHT.
        """
        width, height = (None, None) if self.size is None else read_size(self.size)
        keywords = {
            "strength": self.denoise_strength,
            "num_inference_steps": self.num_inference_steps,
            "guidance_scale": self.guidance_scale,
            "seed": self.seed,
            "height": height,
            "width": width,
            "negative_prompt": self.negative_prompt,
            "strength_mode": self.strength_mode,
            "latent_sampling": self.latent_sampling,
            "fit": self.fit,
            "padding_mask_crop": self.padding_mask_crop,
            "overlay": self.overlay,
        }
        return {key: value for key, value in keywords.items() if value is not None}

    def images(self, init_image: ImageLike | None, mask: ImageLike | None) -> dict[str, Any]:
        """The keywords `image` and `mask_image` of a call, read and prepared.

        Raises ImageError and ArgumentError.
        """
        image, mask_image = prepare(
            None if init_image is None else read_image(init_image),
            None if mask is None else read_mask(mask),
            blur=self.mask_blur,
            invert=self.invert_mask,
            expand=self.expand,
        )
        return {"image": image, "mask_image": mask_image}

    def preparation(self) -> dict[str, Any]:
        """The entries of a record that say how `images` changed init image and mask."""
        return {
            "mask-blur": self.mask_blur,
            "invert-mask": self.invert_mask or None,
            "expand": self.expand,
        }


@dataclass(frozen=True)
class Job:
    """A request, the bytes of image files or None, and text to add to the PNG's record.

    `model` is a name that a Pool of several models knows; None is the first of them.
    """

    req: Request
    init_image: bytes | None = None
    record: Mapping[str, str] = field(default_factory=dict)
    mask: bytes | None = None
    model: str | None = None

    @classmethod
    def read(cls, job: Any) -> Job:
        """A copy of any object with these attributes; raises ArgumentError if it is no job."""
        req = getattr(job, "req", None)
        if req is None:
            raise ArgumentError(
                f"a job has a `req` with at least a prompt; {_type_name(job)} has none"
            )
        asked: dict[str, Any] = {
            each.name: getattr(req, each.name, None) for each in fields(Request)
        }
        if not isinstance(asked["prompt"], str):
            raise ArgumentError(f"prompt must be text, not {_type_name(asked['prompt'])}")
        image, mask = (_bytes_of(job, name) for name in ("init_image", "mask"))
        record = _checked_record(getattr(job, "record", None) or {})
        model = getattr(job, "model", None)
        if not isinstance(model, (str, type(None))):
            raise ArgumentError(f"model must be a name, not {_type_name(model)}")
        request = Request(**asked)
        request.check()
        return cls(request, image, record, mask, model)


def _bytes_of(job: Any, name: str) -> bytes | None:
    content = getattr(job, name, None)
    if not isinstance(content, (bytes, bytearray, memoryview, type(None))):
        raise ArgumentError(f"{name} must be an image file's bytes, not {_type_name(content)}")
    return None if content is None else bytes(content)


def _require_text(name: str, text: str) -> None:
    """JSON can write half of a surrogate pair alone, which no encoding can."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ArgumentError(f"{name} holds a lone surrogate at {error.start}") from error


def _checked_record(record: Any) -> dict[str, str]:
    """A PNG takes keywords of up to 79 characters; ours are plain words."""
    if not isinstance(record, Mapping):
        raise ArgumentError(f"record must map words to text, not be {_type_name(record)}")
    for key, text in record.items():
        plain = isinstance(key, str) and key.isascii() and key.isprintable()
        if not (plain and 0 < len(key) < 80 and isinstance(text, str)):
            raise ArgumentError(f"record must map words to text, not {key!r} to {_type_name(text)}")
    return dict(record)


def _type_name(value: Any) -> str:
    return type(value).__name__

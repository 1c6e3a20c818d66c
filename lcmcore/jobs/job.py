"""A job for a worker: what to make, and from which image.

These classes are a convenience: a worker takes any object with the same attributes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from lcmcore.errors import ArgumentError
from lcmcore.sizes import read_size

if TYPE_CHECKING:
    from lcmcore.pipeline import Pipeline


@dataclass(frozen=True)
class Request:
    """What to make. None, or an attribute that is not there, is the default.

    `size` is "WxH" in pixels (default: the init image's, fitted to the model, else the model's),
    `num_inference_steps` and `guidance_scale` default to the model's, `seed` is drawn,
    `denoise_strength` is 0.75, `strength_mode` "truncate", `latent_sampling` "mean" and `fit`
    "stretch". `negative_prompt` is for a UNet without guidance input.
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

    def settings(self, pipe: Pipeline, from_image: bool) -> dict[str, Any]:
        """Keywords of a call, defaults filled in so that a record can tell them.

        Raises ArgumentError for a size that is none.
        """
        width, height = (None, None) if self.size is None else read_size(self.size)
        others = ("text_encoder", *["vae_encoder"] * from_image, "vae_decoder")
        pipe.networks.expect(others)  # while the UNet, which is asked below, is opened
        settings = {
            "num_inference_steps": _or(self.num_inference_steps, pipe.default_steps),
            "guidance_scale": _or(self.guidance_scale, pipe.default_guidance_scale),
            "negative_prompt": self.negative_prompt,
            "width": width,
            "height": height,
        }
        if from_image:
            settings |= {
                "strength": _or(self.denoise_strength, 0.75),
                "strength_mode": _or(self.strength_mode, "truncate"),
                "latent_sampling": _or(self.latent_sampling, "mean"),
                "fit": _or(self.fit, "stretch"),
            }
        return settings


@dataclass(frozen=True)
class Job:
    """A request, the bytes of an image file or None, and text to add to the PNG's record."""

    req: Request
    init_image: bytes | None = None
    record: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, job: Any) -> Job:
        """A copy of any object with these attributes; raises ArgumentError if it is no job."""
        req = getattr(job, "req", None)
        if req is None:
            raise ArgumentError(f"a job has a `req` with at least a prompt; {_kind(job)} has none")
        asked: dict[str, Any] = {
            each.name: getattr(req, each.name, None) for each in fields(Request)
        }
        if not isinstance(asked["prompt"], str):
            raise ArgumentError(f"prompt must be text, not {_kind(asked['prompt'])}")
        image = getattr(job, "init_image", None)
        if not isinstance(image, (bytes, bytearray, memoryview, type(None))):
            raise ArgumentError(f"init_image must be an image file's bytes, not {_kind(image)}")
        record = _checked_record(getattr(job, "record", None) or {})
        return cls(Request(**asked), None if image is None else bytes(image), record)


def _checked_record(record: Any) -> dict[str, str]:
    """A PNG takes keywords of up to 79 characters; ours are plain words."""
    if not isinstance(record, Mapping):
        raise ArgumentError(f"record must map words to text, not be {_kind(record)}")
    for key, text in record.items():
        plain = isinstance(key, str) and key.isascii() and key.isprintable()
        if not (plain and 0 < len(key) < 80 and isinstance(text, str)):
            raise ArgumentError(f"record must map words to text, not {key!r} to {_kind(text)}")
    return dict(record)


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value


def _kind(value: Any) -> str:
    return type(value).__name__

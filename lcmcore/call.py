"""What a call takes beside prompt and image, and what it returns: for `lcmcore.pipeline`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeAlias, TypedDict, TypeVar

from lcmcore.util.arrays import Floats

if TYPE_CHECKING:
    from lcmcore.image import ImageLike

# Of the pipeline, the step's number, its timestep and its tensors: `Pipeline.__call__`.
Callback: TypeAlias = Callable[[Any, int, int, dict[str, Any]], Mapping[str, Any] | bool | None]


class CallOptions(TypedDict, total=False):
    """The keyword-only arguments of a call, but for `output_type`."""

    negative_prompt: str | Sequence[str] | None
    mask_image: ImageLike | Sequence[ImageLike] | None
    padding_mask_crop: int | None
    overlay: bool
    strength_mode: str
    latent_sampling: str
    fit: str
    num_images_per_prompt: int
    original_inference_steps: int | None
    latents: Floats | None
    prompt_embeds: Floats | None
    generator: Any
    callback_on_step_end: Callback | None


ImagesT = TypeVar("ImagesT")


class Step(NamedTuple):
    """One step of `Pipeline.denoise`: `latents` go on to the next, `denoised` is a preview."""

    number: int  # from 0
    timestep: int
    latents: Floats
    denoised: Floats


@dataclass(frozen=True)
class Result(Generic[ImagesT]):
    """What a call made.

    `images` are Pillow images, an array [batch, height, width, 3] in [0, 1], or the latents, as
    `output_type` asked. `seeds` reproduce each image alone, `latents` are those decoded, `timings`
    are seconds by stage. `settings` are the call's keywords with nothing left to a default: all but
    prompt, image, mask, seed, generator and the arrays `latents` and `prompt_embeds`. With these as
    in the call, and `seed=result.seeds`, `pipe(..., **result.settings)` reproduces the images.
    `runtimes` names the runtime of each network that the call needed. `tile` is the `tile` of
    `lcmcore.load` that makes the same images, where networks that are free in size worked by tiles.
    """

    images: ImagesT
    seeds: list[int]
    latents: Floats
    timings: dict[str, float]
    settings: dict[str, Any]
    runtimes: dict[str, str]
    tile: int | None = None

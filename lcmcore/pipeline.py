"""Prompt and image to image.

The reference is diffusers' `LatentConsistencyModelImg2ImgPipeline` (and
`StableDiffusionImg2ImgPipeline` with `LCMScheduler`): the same seed gives the same image. What a
mask changes is in `lcmcore.inpaint`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np

from lcmcore.batch import Batch, repeat_to
from lcmcore.bundle import Bundle
from lcmcore.call import Callback, CallOptions, Result, Step
from lcmcore.encoder_cache import EncoderCache
from lcmcore.errors import ArgumentError, Cancelled, NetworkError
from lcmcore.guidance import MIN_WIDTH, guidance_embedding
from lcmcore.image import FITS, ImageLike, fit_images, read_images, to_array, to_pil, to_tensor
from lcmcore.inpaint import Inpainting, check_inpainting, keep_unmasked
from lcmcore.networks import Networks
from lcmcore.noise import TorchGenerator
from lcmcore.runtime import TensorSpec
from lcmcore.runtime_choice import RuntimeChoice
from lcmcore.scheduler import STRENGTH_MODES
from lcmcore.sizes import Size, Sizes
from lcmcore.util.arrays import Floats, Integers, Pixels
from lcmcore.util.closeable import Closeable
from lcmcore.util.validate import float_array, one_of, real_number

if TYPE_CHECKING:
    from PIL import Image
    from typing_extensions import Unpack

LATENT_SAMPLINGS = ("mean", "sample")  # the first is the default, of the others too
OUTPUT_TYPES = ("pil", "np", "latent")
_LATENT_CHANNELS = 4
_LCM_GUIDANCE = 8.5  # diffusers' default for a UNet that was distilled with guidance


class _Stages(Closeable):
    """The stages of a call, timed; between them, networks that failed to open are reported."""

    def __init__(self, networks: Networks, needed: Sequence[str]) -> None:
        self._networks = networks
        self._needed = needed
        self.seconds: dict[str, float] = {}

    def close(self) -> None:
        self._networks.release()

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            self._networks.raise_failures(self._needed)
            yield
        finally:
            self.seconds[stage] = time.perf_counter() - start


def load(
    model_dir: str | Path,
    runtime: RuntimeChoice = "auto",
    *,
    config: str | Path | None = None,
    tokenizer: str | Path | None = None,
    memory: str = "auto",
    tile: int | None = None,
    **options: Any,
) -> Pipeline:
    """Open a model directory; use it in a `with` block, or close it.

    `runtime` is a name ("auto", "onnx", ...), a Runtime, or a mapping from component (or
    "default") to either. `config` is a file in place of the directory's lcm.toml, `tokenizer` a
    folder in place of its tokenizer. `options` go to the runtimes, e.g. threads=2.

    With `memory` "high" networks stay open, and where there is a second core the next ones are
    opened while one works; with "low" one at a time is open, for its turn. "auto" is what lcm.toml
    says, else "low" if twice the networks' files, external data included, are more than the memory
    that is free now.

    Networks of one size make larger images by tiles of that size, blended. With `tile`, pixels,
    those that are free in size make them by tiles, too, of that side at most. None is what lcm.toml
    says, else whole images; with `memory` "auto", tiles of the size that the model was trained for
    where a whole one does not fit into the free memory.
    Raises BundleError, RuntimeUnavailableError, NetworkError or ArgumentError.
    """
    bundle = Bundle.open(model_dir, config, tokenizer)
    return Pipeline(bundle, Networks(bundle, runtime, options, memory, tile))


class Pipeline(Closeable):
    """Image generation with one bundle.

    Between calls it keeps opened networks and what the encoders returned for the last few prompts
    and init images: another seed, strength or number of steps costs no run of an encoder.
    """

    def __init__(self, bundle: Bundle, networks: Networks) -> None:
        self.bundle = bundle
        self.networks = networks
        self.scheduler = bundle.scheduler
        self._encoder_cache = EncoderCache()
        self._warned: set[Size] = set()

    def close(self) -> None:
        """Close the networks, and drop what the encoders returned."""
        self._encoder_cache = EncoderCache()
        self.networks.close()

    @overload
    def __call__(
        self,
        prompt: str | Sequence[str] | None = ...,
        image: ImageLike | Sequence[ImageLike] | None = ...,
        strength: float = ...,
        num_inference_steps: int | None = ...,
        guidance_scale: float | None = ...,
        seed: int | Sequence[int] | None = ...,
        height: int | None = ...,
        width: int | None = ...,
        *,
        output_type: Literal["pil"] = ...,
        **options: Unpack[CallOptions],
    ) -> Result[list[Image.Image]]: ...

    @overload
    def __call__(
        self,
        prompt: str | Sequence[str] | None = ...,
        image: ImageLike | Sequence[ImageLike] | None = ...,
        strength: float = ...,
        num_inference_steps: int | None = ...,
        guidance_scale: float | None = ...,
        seed: int | Sequence[int] | None = ...,
        height: int | None = ...,
        width: int | None = ...,
        *,
        output_type: Literal["np", "latent"],
        **options: Unpack[CallOptions],
    ) -> Result[Floats]: ...

    @overload
    def __call__(
        self,
        prompt: str | Sequence[str] | None = ...,
        image: ImageLike | Sequence[ImageLike] | None = ...,
        strength: float = ...,
        num_inference_steps: int | None = ...,
        guidance_scale: float | None = ...,
        seed: int | Sequence[int] | None = ...,
        height: int | None = ...,
        width: int | None = ...,
        *,
        output_type: str,
        **options: Unpack[CallOptions],
    ) -> Result[Any]: ...

    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        image: ImageLike | Sequence[ImageLike] | None = None,
        strength: float = 0.75,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        seed: int | Sequence[int] | None = None,
        height: int | None = None,
        width: int | None = None,
        *,
        negative_prompt: str | Sequence[str] | None = None,
        mask_image: ImageLike | Sequence[ImageLike] | None = None,
        padding_mask_crop: int | None = None,
        overlay: bool = True,
        strength_mode: str = STRENGTH_MODES[0],
        latent_sampling: str = LATENT_SAMPLINGS[0],
        fit: str = FITS[0],
        num_images_per_prompt: int = 1,
        original_inference_steps: int | None = None,
        latents: Floats | None = None,
        prompt_embeds: Floats | None = None,
        generator: Any = None,
        output_type: str = OUTPUT_TYPES[0],
        callback_on_step_end: Callback | None = None,
    ) -> Result[Any]:
        """Make images from prompts and, with `image`, from other images.

        Lists of prompts and images make a batch; each image has a seed of its own, counting up
        from `seed`. Steps and guidance left None come from lcm.toml, else are 4 and diffusers'
        defaults; sizes left None from the image, fitted to what the model can do. `strength` 0
        returns the image through the VAE. Where `mask_image` is white the image is repainted; what
        is black keeps the image's own pixels, or without `overlay` those that the VAE makes of it.
        With `padding_mask_crop` only the mask and so many pixels around it are painted, enlarged to
        the call's size, and laid over the image. `latents` [batch, 4, height / 8, width / 8]
        replace the noise (with an image: the noised start), `prompt_embeds` [batch, 77, width] the
        prompt.
        `generator`, as in diffusers, takes the place of `seed`: a new torch.Generator of the CPU,
        a TorchGenerator or an integer, or a list with one for each image.
        `callback_on_step_end(pipe, step, timestep, {"latents": ..., "denoised": ...,
        "timesteps": ...})`, the last being all timesteps of this call, may return a dict with
        other latents, or False to stop.
        Raises ArgumentError, ImageError, NetworkError, and Cancelled if the callback stopped it.
        """
        one_of("output_type", output_type, OUTPUT_TYPES)
        one_of("fit", fit, FITS)
        one_of("latent_sampling", latent_sampling, LATENT_SAMPLINGS)
        check_inpainting(mask_image is not None, padding_mask_crop, overlay, output_type)
        if callback_on_step_end is not None and not callable(callback_on_step_end):
            raise ArgumentError("callback_on_step_end must be a function")
        if prompt_embeds is not None:
            prompt_embeds = _embeds(prompt_embeds)
        batch = Batch.of_call(
            prompt,
            negative_prompt,
            image,
            prompt_embeds,
            seed,
            num_images_per_prompt,
            mask_image,
            generator,
        )
        settings: dict[str, Any] = {
            "num_inference_steps": _or(num_inference_steps, self.default_steps),
            "original_inference_steps": _or(
                original_inference_steps, self.scheduler.original_inference_steps
            ),
            "guidance_scale": guidance_scale,
            "negative_prompt": negative_prompt,
            "num_images_per_prompt": num_images_per_prompt,
            "height": height,
            "width": width,
        }
        if batch.images:
            settings |= {
                "strength": strength,
                "strength_mode": strength_mode,
                "latent_sampling": latent_sampling,
                "fit": fit,
            }
        if batch.masks:
            settings |= {"padding_mask_crop": padding_mask_crop, "overlay": overlay}
        timesteps = self.scheduler.schedule(
            settings["num_inference_steps"],
            settings.get("strength", 1.0),
            strength_mode,
            settings["original_inference_steps"],
        )
        generators = batch.generators()
        needed = _needed(batch, timesteps, output_type)
        inpainting = None
        with _Stages(self.networks, needed) as stage:
            with stage("load"):
                self.networks.prefetch(needed)
                self._fill_in(settings, batch)
                size = settings["width"], settings["height"]
                if batch.masks:
                    inpainting = Inpainting.of_call(
                        batch.images, batch.masks, size, fit, padding_mask_crop
                    )
                guidance_scale = float(settings["guidance_scale"])
                do_classifier_free_guidance = guidance_scale > 1 and not self.guidance_width
            with stage("text_encoder"):
                if prompt_embeds is None:
                    prompt_embeds = self.encode_prompt(batch.prompts)
                negative_embeds = None
                if do_classifier_free_guidance:
                    negative_embeds = self.encode_prompt(batch.negative_prompts or "")
            with stage("vae_encoder"):
                if inpainting:
                    start, keep = self._start_inpainting(
                        inpainting, timesteps, settings, generators, latents
                    )
                elif batch.images:
                    pixels = fit_images(batch.images, size, fit)
                    encoded = self._encode(pixels, latent_sampling, generators)
                    start = self.prepare_latents_img2img(encoded, timesteps, generators, latents)
                else:
                    start = self.prepare_latents(size, generators, latents)
            with stage("unet"):
                steps = self.denoise(
                    start, timesteps, prompt_embeds, guidance_scale, generators, negative_embeds
                )
                if inpainting:
                    steps = keep(steps)
                final = self._follow(steps, start, timesteps, callback_on_step_end, needed)
            with stage("vae_decoder"):
                images = self._finish(final, output_type, inpainting if overlay else None)
        return Result(
            images,
            batch.seeds,
            final,
            stage.seconds,
            settings,
            self.networks.names(needed),
            self.networks.tiles.chosen(size),
        )

    def encode_prompt(self, prompt: str | Sequence[str]) -> Floats:
        """The text encoder's last hidden state, [batch, 77, width].

        A textual inversion of several vectors is named by its first token, as in diffusers.
        """
        tokenizer = self.bundle.tokenizer
        prompts = tokenizer.expand(prompt)
        ids = tokenizer(prompts)
        return self._encoder_cache.get("text_encoder", ids, lambda: self._embed(prompts, ids))

    def _embed(self, prompts: Sequence[str], ids: Integers) -> Floats:
        """Runtimes report an id beyond the embeddings as a bad index, or not at all."""
        tokenizer, rows = self.bundle.tokenizer, self.bundle.vocab_size
        if self.bundle.words:
            tokenizer.warn_of_unknown_words(prompts, self.bundle.words)
        warning = tokenizer.warn_beyond_embeddings(ids, rows)
        try:
            return self.networks.run("text_encoder", input_ids=ids)
        except NetworkError as error:
            if warning:
                raise NetworkError("text_encoder", f"{warning} ({error})") from error
            raise

    def encode_image(
        self,
        image: ImageLike | Sequence[ImageLike],
        size: Size | None = None,
        fit: str = FITS[0],
        latent_sampling: str = LATENT_SAMPLINGS[0],
        generators: Sequence[TorchGenerator] | None = None,
    ) -> Floats:
        """Images to latents [batch, 4, height / 8, width / 8], scaled as the UNet expects them.

        `size` is (width, height), None the first image's own, fitted. "mean" takes the middle of
        the encoder's distribution, "sample" draws from it with one generator a latent; several
        generators to an image make several latents of it.
        """
        images = read_images(image)
        size = size or self.sizes.choose(None, None, images[0].size)
        return self._encode(fit_images(images, size, fit), latent_sampling, generators)

    def _encode(
        self,
        pixels: Pixels,
        latent_sampling: str,
        generators: Sequence[TorchGenerator] | None,
    ) -> Floats:
        """Pixels [batch, height, width, 3] to scaled latents."""
        return self._draw_latents(self._moments(pixels, generators), latent_sampling, generators)

    def _moments(self, pixels: Pixels, generators: Sequence[TorchGenerator] | None) -> Floats:
        """What the encoder returns for pixels [batch, height, width, 3], for each generator."""
        moments = self._encoder_cache.get(
            "vae_encoder",
            pixels,
            lambda: self.networks.run("vae_encoder", sample=to_tensor(pixels)),
        )
        return moments if generators is None else repeat_to(moments, len(generators))

    def prepare_latents(
        self, size: Size, generators: Sequence[TorchGenerator], latents: Floats | None = None
    ) -> Floats:
        """Pure noise to start from, [batch, 4, height / 8, width / 8], or the `latents` given."""
        factor = self.bundle.vae.factor
        shape = (len(generators), _LATENT_CHANNELS, size[1] // factor, size[0] // factor)
        return _noise(shape, generators) if latents is None else _checked(latents, shape)

    def prepare_latents_img2img(
        self,
        image_latents: Floats,
        timesteps: Integers,
        generators: Sequence[TorchGenerator],
        latents: Floats | None = None,
    ) -> Floats:
        """Image latents, noised to the first timestep, or the `latents` given in their place."""
        if latents is not None:
            return _checked(latents, image_latents.shape)
        if not len(timesteps):
            return image_latents
        noise = _noise(image_latents.shape, generators)
        return self.scheduler.add_noise(image_latents, noise, int(timesteps[0]))

    def prepare_latents_inpaint(
        self,
        image_latents: Floats,
        timesteps: Integers,
        strength: float,
        generators: Sequence[TorchGenerator],
        latents: Floats | None = None,
    ) -> tuple[Floats, Floats]:
        """What to start from, and the noise that what is kept gets: as in diffusers.

        At strength 1 that is the noise itself, of which the init image is no part; `latents` stand
        for both.
        """
        if latents is not None:
            noise = _checked(latents, image_latents.shape)
            return noise, noise
        if not len(timesteps):
            return image_latents, np.zeros_like(image_latents)
        noise = _noise(image_latents.shape, generators)
        if strength == 1:
            return noise, noise
        return self.scheduler.add_noise(image_latents, noise, int(timesteps[0])), noise

    def denoise(
        self,
        latents: Floats,
        timesteps: Integers,
        prompt_embeds: Floats,
        guidance_scale: float,
        generators: Sequence[TorchGenerator],
        negative_prompt_embeds: Floats | None = None,
    ) -> Iterator[Step]:
        """Run the schedule, a step at a time: stop iterating to cancel.

        What the caller writes into a step's `latents` is what the next step starts from.
        `negative_prompt_embeds` asks for classifier-free guidance, two passes a step; without them
        the guidance scale goes to the UNet, if that was distilled with it.
        """
        do_classifier_free_guidance = negative_prompt_embeds is not None
        condition = self._condition(
            repeat_to(prompt_embeds, len(latents)), guidance_scale, negative_prompt_embeds
        )
        following = timesteps[1:].tolist()
        # Drawn before the loop: after a run of the UNet this code is cold in the CPU's caches.
        noises = [_noise(latents.shape, generators) for _ in following]
        steps = zip_longest(timesteps.tolist(), following, noises)
        for index, (timestep, prev_timestep, noise) in enumerate(steps):
            output = self._predict(latents, timestep, condition, do_classifier_free_guidance)
            if do_classifier_free_guidance:
                output = _guided(output, guidance_scale)
            latents, denoised = self.scheduler.step(output, timestep, prev_timestep, latents, noise)
            if latents is denoised:  # the last step; the caller may write into either
                denoised = denoised.copy()
            yield Step(index, timestep, latents, denoised)

    def decode(self, latents: Floats) -> Floats:
        """Latents to images, [batch, height, width, 3] in [0, 1]."""
        return to_array(
            self.networks.run("vae_decoder", latent_sample=latents / self._scaling_factor)
        )

    @property
    def sizes(self) -> Sizes:
        """Which sizes the networks can make; asks the UNet."""
        sample = self._unet_input("sample")
        factor = self.bundle.vae.factor
        height, width = (sample.shape[2], sample.shape[3]) if sample else (None, None)
        compiled = (width * factor, height * factor) if width and height else None
        multiple = self.bundle.settings.size_multiple
        return Sizes.of_model(
            self.bundle.unet,
            self.bundle.vae,
            compiled,
            multiple,
            self.networks.tiles,
            partial(self.networks.is_compiled, "vae_decoder"),
        )

    @property
    def guidance_width(self) -> int:
        """Width of the UNet's `timestep_cond`, 0 if it has none; asks the UNet.

        Raises NetworkError if it is too narrow for an embedding.
        """
        spec = self._unet_input("timestep_cond")
        if spec is None:
            return 0
        width = spec.shape[-1] or self.bundle.unet.time_cond_proj_dim
        if width < MIN_WIDTH:
            raise NetworkError(
                "unet", f"timestep_cond has width {width}: expected {MIN_WIDTH} or more"
            )
        return width

    @property
    def default_guidance_scale(self) -> float:
        """What lcm.toml says, else diffusers' default if the UNet takes it, else none (1)."""
        if self.bundle.settings.guidance_scale is not None:
            return self.bundle.settings.guidance_scale
        return _LCM_GUIDANCE if self.guidance_width else 1.0

    @property
    def default_steps(self) -> int:
        """The number of inference steps of a call that names none."""
        return self.bundle.settings.num_inference_steps

    @property
    def _scaling_factor(self) -> np.float32:
        return np.float32(self.bundle.vae.scaling_factor)

    def _unet_input(self, name: str) -> TensorSpec | None:
        return next((spec for spec in self.networks.inputs("unet") if spec.name == name), None)

    def _fill_in(self, settings: dict[str, Any], batch: Batch) -> None:
        """Size and guidance scale, whose defaults depend on the UNet; raises ArgumentError."""
        sizes = self.sizes
        image_size = batch.image_size if settings.get("padding_mask_crop") is None else None
        size = sizes.choose(
            *(settings["width"], settings["height"]),
            image_size,
            len(batch.seeds),
            masked=bool(batch.masks),
        )
        settings["width"], settings["height"] = size
        self._warn_once(size, sizes.warning(size, settings.get("strength", 1.0)))
        if batch.negative_prompts and self.guidance_width:
            raise ArgumentError(
                "negative_prompt has no effect here: this UNet takes the guidance scale as an"
                " input (timestep_cond); leave it out"
            )
        settings["guidance_scale"] = _or(settings["guidance_scale"], self.default_guidance_scale)
        real_number("guidance_scale", settings["guidance_scale"], 0, 100)
        for key, value in settings.items():
            settings[key] = _plain(value)

    def _warn_once(self, size: Size, warning: str) -> None:
        if warning and size not in self._warned:
            self._warned.add(size)
            import logging  # takes longer to import than the rest of this file

            logging.getLogger(__name__).warning(warning)

    def _draw_latents(
        self,
        moments: Floats,
        latent_sampling: str,
        generators: Sequence[TorchGenerator] | None,
    ) -> Floats:
        """Mean or sample of the encoder's Gaussian, scaled as the UNet expects it.

        An encoder of 4 channels gives latents.
        """
        if moments.shape[1] == _LATENT_CHANNELS:
            return moments * self._scaling_factor
        if moments.shape[1] != 2 * _LATENT_CHANNELS:
            found = moments.shape[1]
            raise NetworkError("vae_encoder", f"returned {found} channels: expected 4 or 8")
        mean, logvar = np.split(moments, 2, axis=1)
        if latent_sampling == "mean":
            return mean * self._scaling_factor
        if generators is None:
            raise ArgumentError("latent_sampling 'sample' needs generators")
        deviation: Floats = np.exp(logvar.clip(-30, 20) / 2)
        return (mean + deviation * _noise(mean.shape, generators)) * self._scaling_factor

    def _start_inpainting(
        self,
        inpainting: Inpainting,
        timesteps: Integers,
        settings: Mapping[str, Any],
        generators: Sequence[TorchGenerator],
        latents: Floats | None,
    ) -> tuple[Floats, Callable[[Iterator[Step]], Iterator[Step]]]:
        """What to start from, and what makes the steps keep the init image outside the mask."""
        moments = self._moments(inpainting.pixels, generators)
        encoded = self._draw_latents(moments, settings["latent_sampling"], generators)
        start, noise = self.prepare_latents_inpaint(
            encoded, timesteps, settings["strength"], generators, latents
        )
        # diffusers also draws the masked image's latents, which only UNets of 9 channels need.
        self._draw_latents(moments, settings["latent_sampling"], generators)
        repainted = inpainting.repainted(self.bundle.vae.factor, len(generators))
        return start, partial(
            keep_unmasked,
            timesteps=timesteps,
            scheduler=self.scheduler,
            repainted=repainted,
            image_latents=encoded,
            noise=noise,
        )

    def _condition(
        self, prompt_embeds: Floats, guidance_scale: float, negative_embeds: Floats | None
    ) -> dict[str, Floats]:
        """What the UNet gets at every step beside the latents."""
        if negative_embeds is not None:
            negative_embeds = repeat_to(negative_embeds, len(prompt_embeds))
            return {"encoder_hidden_states": np.concatenate([negative_embeds, prompt_embeds])}
        condition = {"encoder_hidden_states": prompt_embeds}
        if self.guidance_width:
            embedding = guidance_embedding(guidance_scale, self.guidance_width)
            condition["timestep_cond"] = np.tile(embedding, (len(prompt_embeds), 1))
        return condition

    def _predict(
        self,
        latents: Floats,
        timestep: int,
        condition: dict[str, Floats],
        do_classifier_free_guidance: bool,
    ) -> Floats:
        """The UNet's output; with guidance twice the batch, the negative prompt's half first."""
        sample = np.concatenate([latents, latents]) if do_classifier_free_guidance else latents
        time_input = np.array([timestep], np.int64)
        return self.networks.run("unet", sample=sample, timestep=time_input, **condition)

    def _follow(
        self,
        steps: Iterator[Step],
        start: Floats,
        timesteps: Integers,
        callback: Callback | None,
        needed: Sequence[str],
    ) -> Floats:
        """Run the steps, and call the callback after each; the last step's latents."""
        final = start
        for step in steps:
            self.networks.raise_failures(needed)  # a step can take minutes: do not run the rest
            final = step.latents
            if callback is None:
                continue
            tensors = {"latents": step.latents, "denoised": step.denoised, "timesteps": timesteps}
            answer = callback(self, step.number, step.timestep, tensors)
            if answer is False:
                raise Cancelled(f"stopped by the callback after step {step.number + 1}")
            if isinstance(answer, Mapping) and "latents" in answer:
                step.latents[:] = _checked(answer["latents"], step.latents.shape)
        return final

    def _finish(self, latents: Floats, output_type: str, overlaid: Inpainting | None) -> Any:
        if output_type == "latent":
            return latents
        images = self.decode(latents)
        if overlaid and not overlaid.boxes:
            images = overlaid.overlay(images)
        if output_type == "np":
            return images
        painted = to_pil(images)
        return overlaid.paste(painted) if overlaid and overlaid.boxes else painted


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value


def _plain(value: Any) -> Any:
    """A setting that is no numpy scalar, and no list of the caller's."""
    if isinstance(value, (list, tuple)):
        return list(value)
    return value.item() if isinstance(value, np.generic) else value


def _needed(batch: Batch, timesteps: Integers, output_type: str) -> list[str]:
    """The networks of a call, in the order of their turns."""
    turns = {
        "text_encoder": batch.prompts,
        "vae_encoder": batch.images,
        "unet": len(timesteps),
        "vae_decoder": output_type != "latent",
    }
    return [component for component, needed in turns.items() if needed]


def _guided(output: Floats, guidance_scale: float) -> Floats:
    """Classifier-free guidance (Ho and Salimans, arXiv:2207.12598) of both halves of a batch."""
    negative, positive = np.split(output, 2)
    guided: Floats = negative + np.float32(guidance_scale) * (positive - negative)
    return guided


def _noise(shape: Sequence[int], generators: Sequence[TorchGenerator]) -> Floats:
    """[batch, ...] of noise, each item from its own generator."""
    return np.stack([generator.randn(shape[1:]) for generator in generators])


def _embeds(prompt_embeds: Any) -> Floats:
    array = float_array("prompt_embeds", prompt_embeds)
    if array.ndim != 3:
        raise ArgumentError(f"prompt_embeds must be [batch, 77, width], not {list(array.shape)}")
    return array


def _checked(latents: Any, shape: Sequence[int]) -> Floats:
    array = float_array("latents", latents)
    if array.shape != tuple(shape):
        raise ArgumentError(f"latents must be {list(shape)}, not {list(array.shape)}")
    return array

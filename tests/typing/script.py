"""A user's script. `make test-types` has mypy and pyright read it beside the installed wheel.

`assert_type` fails for every other type, `Any` included.
"""

from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, assert_type

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import lcmcore
from lcmcore.jobs.job import Job, Request
from lcmcore.jobs.pool import Pool
from lcmcore.runtime import Network, Runtime, TensorSpec

Array = NDArray[Any]


class Doubler(Network):
    """Returns its input twice as large: a network with no hook but those that it needs."""

    def __init__(self) -> None:
        self.inputs = self.outputs = [TensorSpec("sample", (1, 4, None, None), "float32")]

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        return {"sample": inputs["sample"] * 2}

    def close(self) -> None:
        pass


class MyRuntime(Runtime):
    """A runtime of one's own; the other hooks are those of the class it comes from."""

    name = "mine"
    filename = "model.mine"
    priority = 1
    options = frozenset({"threads"})

    def available(self) -> str | None:
        return None

    def open(self, component: str, folder: Path, options: Mapping[str, Any]) -> Network:
        return Doubler()


def draw() -> None:
    with lcmcore.load(
        lcmcore.demo_dir(), runtime={"unet": MyRuntime(), "vae_decoder": "onnx"}
    ) as pipe:
        assert_type(pipe, lcmcore.Pipeline)
        result = pipe("a lake", image="scribble.png", strength=0.6, seed=7)
        assert_type(result.images, list[Image.Image])
        assert_type(result.seeds, list[int])
        assert_type(result.runtimes, dict[str, str])
        assert_type(result.latents, NDArray[np.float32])
        result.images[0].save("lake.png")

        several = pipe(["a lake", "a hill"], output_type="pil", num_images_per_prompt=2)
        assert_type(several.images, list[Image.Image])
        arrays = pipe("a lake", height=64, width=64, output_type="np")
        assert_type(arrays.images, NDArray[np.float32])
        latents = pipe("a lake", output_type="latent", generator=7)
        assert_type(latents.images, NDArray[np.float32])

        again = pipe("a lake", latents=latents.images, callback_on_step_end=stop)
        assert_type(again.images, list[Image.Image])


def stop(pipe: lcmcore.Pipeline, step: int, timestep: int, tensors: dict[str, Any]) -> bool:
    return step < 3


def serve() -> None:
    job = Job(Request("a lake", size="64x64", seed=7), Path("scribble.png").read_bytes())
    with Pool(lcmcore.demo_dir(), workers=2) as pool:
        future = pool.submit(job, deadline=60)
        assert_type(future, Future[tuple[bytes, int]])
        png, seed = future.result()
        Path(f"{seed}.png").write_bytes(png)
        pooled = pool.submit(job, latents=True)
        assert_type(pooled, Future[tuple[bytes, int, bytes]])


def fail() -> str:
    try:
        draw()
    except lcmcore.LcmError as error:
        return str(error)
    return ""

"""The contestants: diffusers, optimum, OpenVINO GenAI, stable-diffusion.cpp, and lcmcore."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Contestant:
    """A row of the table: its module here, its environment, and the options of its `load`.

    `opens_late`: the pipeline opens its networks when they are needed, so its loading is measured
    in a process of its own that opens them all. `first_use`: the cache of graphs is empty.
    `reads`: the folder of the files that it opens. `own_noise`: its images cannot be compared.
    `slow`: one warm image of each kind, and the smallest size alone.
    """

    name: str
    module: str
    environment: str
    options: Mapping[str, Any] = field(default_factory=dict)
    opens_late: bool = False
    first_use: bool = False
    reads: str = "bundle"
    own_noise: bool = False
    slow: bool = False


def _lcmcore(name: str, reads: str, first_use: bool = False, **options: Any) -> Contestant:
    return Contestant(name, "with_lcmcore", "lcmcore", options, True, first_use, reads)


LCMCORE = _lcmcore("lcmcore", "cache/onnx")
LOW = _lcmcore("lcmcore, memory=low", "cache/onnx", memory="low")
FIRST_USE = _lcmcore("lcmcore, first use", "bundle", first_use=True)
NO_CACHE = _lcmcore("lcmcore, graph_cache=False", "bundle", graph_cache=False)
OPENVINO, OPENVINO_BF16 = (
    Contestant(
        f"lcmcore, openvino {precision}",
        "with_openvino",
        "lcmcore-openvino",
        {"runtime": "openvino", "precision": precision},
        opens_late=True,
        reads=f"cache/openvino-cpu-{hint}",
    )
    for precision, hint in (("float32", "f32"), ("bfloat16", "bf16"))
)
GENAI, GENAI_BF16 = (
    Contestant(
        f"OpenVINO GenAI {precision}",
        "with_genai",
        "genai",
        {"INFERENCE_PRECISION_HINT": hint},
        reads="genai_cache",
        own_noise=True,
    )
    for precision, hint in (("float32", "f32"), ("bfloat16", "bf16"))
)
WITH_OPENVINO = (OPENVINO, OPENVINO_BF16, GENAI, GENAI_BF16)
DIFFUSERS = Contestant("diffusers", "with_diffusers", "diffusers", reads="checkpoint")
OPTIMUM = Contestant("optimum", "with_optimum", "optimum")
SDCPP = Contestant(
    "stable-diffusion.cpp float16 weights",
    "with_sdcpp",
    "sdcpp",
    {"wtype": "f16"},
    reads="checkpoint",
    own_noise=True,
    slow=True,
)

_ALL = (
    *(DIFFUSERS, OPTIMUM, GENAI, GENAI_BF16, SDCPP),
    *(LCMCORE, OPENVINO, OPENVINO_BF16, LOW, FIRST_USE, NO_CACHE),
)
CONTESTANTS = {each.name: each for each in _ALL}

"""Names of published models where a folder is expected: how to fetch and build what they name."""

from __future__ import annotations

import re
from pathlib import Path

_NAME = re.compile(
    r"(?:https?:/{1,2}(?:www\.)?(?:huggingface\.co|hf\.co)/)?(\w[\w.-]*)/(\w[\w.-]*?)(?:\.git)?/?",
    re.ASCII,
)
# Published RKNN networks that are in a folder `model`, and what is not on Hugging Face.
_IN_MODEL = (
    "happyme531/stable-diffusion-1.5-lcm-onnx-rknn2",
    "thanhtantran/stable-diffusion-1.5-lcm-onnx-rknn2",
    "radxa/stable-diffusion-lcm_rknn",
)
_MODELSCOPE = ("radxa/stable-diffusion-lcm_rknn",)
_PAGES = "https://github.com/lcmcore/lcmcore/blob/main/docs"


def how_to_fetch(name: str) -> str | None:
    """The commands that make a model directory of OWNER/NAME; None if that looks like a path.

    lcmcore downloads nothing. What a repository holds is told by its name: networks for an NPU,
    an ONNX export, else a checkpoint.
    """
    match = _NAME.fullmatch(name)
    if match is None or Path(match[1]).is_dir():
        return None
    repository, folder = "/".join(match.groups()), match[2]
    fetch = f"git lfs install && git clone https://huggingface.co/{repository}"
    if repository.lower() in _MODELSCOPE:
        fetch = (
            "pip install modelscope &&"
            f" modelscope download --model {repository} --local_dir {folder}"
        )
    if "rknn" in folder.lower():
        if repository.lower() in _IN_MODEL:
            folder += "/model"
        return (
            f"if networks for Rockchip NPUs are published under this name, `{fetch}` fetches them,"
            f" and `lcm info {folder}` tells what they lack and {_PAGES}/rk3588.md"
            f"#7a-a-published-model-directory adds; then --model {folder}"
        )
    if "onnx" in folder.lower():
        return (
            f"if an ONNX export is published under this name, `{fetch}` fetches it, and"
            f" `lcm info {folder}` describes it; then --model {folder}"
        )
    return (
        f"if a checkpoint is published under this name, `{fetch}` fetches it, and `lcm build onnx"
        f" {folder} {folder}-onnx` builds it (with pip install 'lcmcore[build,onnx]');"
        f" then --model {folder}-onnx"
    )

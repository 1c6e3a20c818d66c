"""docs/openvino.md: its commands run, its lcm.toml is accepted, its table is the runtime's."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import lcmcore
from runtimes.openvino import OpenVINORuntime
from tests.openvino.test_runtime import HAS_BFLOAT16

PAGE = (Path(__file__).parents[2] / "docs" / "openvino.md").read_text()
LCM = Path(sys.executable).with_name("lcm")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.M | re.S)


@pytest.mark.slow
@pytest.mark.skipif(not HAS_BFLOAT16, reason="this processor has no bfloat16")
def test_commands_run_in_their_order(tmp_path):
    lines = [line for block in blocks("console") for line in block.splitlines()]
    assert len(lines) == 6
    path = f"{LCM.parent}{os.pathsep}{os.environ['PATH']}"
    for line in lines:
        done = subprocess.run(
            line,
            shell=True,
            cwd=tmp_path,
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, (line, done.stderr)
    assert 'runtime = "' in (tmp_path / "model" / "lcm.toml").read_text()


@pytest.mark.skipif(not HAS_BFLOAT16, reason="this processor has no bfloat16")
def test_lcm_toml(tmp_path):
    (text,) = blocks("toml")
    (tmp_path / "lcm.toml").write_text(text)
    with lcmcore.load(lcmcore.demo_dir(), config=tmp_path / "lcm.toml") as pipe:
        result = pipe("a lake", seed=1, num_inference_steps=1, height=64, width=64)
    assert result.runtimes == {
        "text_encoder": "onnx",
        "unet": "openvino",
        "vae_decoder": "openvino",
    }


def test_table_has_every_option():
    assert set(re.findall(r"^\| `(\w+)` \|", PAGE, re.M)) == OpenVINORuntime.options

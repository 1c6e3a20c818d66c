"""docs/deployment.md: the program that PyInstaller makes runs without Python."""

import os
import re
import shutil
import subprocess
import venv
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "deployment.md").read_text()


def test_the_frozen_program_runs(tmp_path):
    """As the page says, in a virtual environment of its own; from an empty folder afterwards."""
    venv.create(tmp_path / "venv", with_pip=True)
    path = f"{tmp_path / 'venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "HOME": str(tmp_path)}
    environment.pop("PYTHONPATH", None)
    (program,) = re.findall(r"^```python program.py\n(.*?)^```", PAGE, re.M | re.S)
    (tmp_path / "program.py").write_text(program)
    (frozen,) = (text for text in re.findall(r"^```sh\n(.*?)^```", PAGE, re.M | re.S))
    install = f"pip install --quiet '{ROOT}[onnx]'\n"
    done = subprocess.run(
        ["bash", "-euc", install + frozen],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    shutil.rmtree(tmp_path / "venv")
    empty = tmp_path / "empty"
    empty.mkdir()
    program = tmp_path / "dist" / "program" / "program"
    subprocess.run([program], cwd=empty, env={"HOME": str(empty)}, check=True, timeout=100)
    for name in ("dawn.png", "night.png"):
        with Image.open(empty / name) as image:
            assert image.size == (256, 256)

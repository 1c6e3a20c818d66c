"""A virtual environment for each contestant, created once in the working folder."""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).parents[2]
_REQUIREMENTS = Path(__file__).with_name("requirements")
_DONE = "installed"  # the file by which an environment is known to be complete
_COMPILED = ("sdcpp",)
_VOCABULARY = "open_clip_torch==3.3.0"  # used for CLIP's vocabulary only, which it contains


def set_up(work: Path) -> None:
    """Create what is missing; lcmcore is reinstalled from the working tree.

    One that is compiled is left out, which is said on stderr, where that fails.
    """
    for name in ("diffusers", "optimum", "genai", *_COMPILED):
        requirements = _REQUIREMENTS / f"{name}.txt"
        try:
            _make(work, name, ["--requirement", str(requirements)], requirements.read_text())
        except subprocess.CalledProcessError as error:
            if name not in _COMPILED:
                raise
            print(f"{name} is left out, for it does not build here: {error}", file=sys.stderr)
    for name, extra in (("lcmcore", "onnx"), ("lcmcore-openvino", "openvino")):
        _make(work, name, [f"{ROOT}[{extra}]"], "1")
        _pip(work, name, "install", "--no-deps", "--force-reinstall", str(ROOT))
    vocabulary = vocabulary_folder(work)
    if not vocabulary.exists():
        target = ["--no-deps", "--target", str(vocabulary), _VOCABULARY]
        _pip(work, "optimum", "install", *target)


def is_made(work: Path, name: str) -> bool:
    """Whether an environment is complete."""
    return (_folder(work, name) / _DONE).exists()


def python(work: Path, name: str) -> Path:
    """The interpreter of an environment."""
    return _folder(work, name) / "bin" / "python"


def vocabulary_folder(work: Path) -> Path:
    """The folder of the package that contains CLIP's vocabulary."""
    return work / "vocabulary"


def installed_gigabytes(work: Path, name: str) -> float:
    """Size of an environment's packages without pip, compiled modules included."""
    (packages,) = (_folder(work, name) / "lib").glob("python*/site-packages")
    files = [
        path
        for package in packages.iterdir()
        if not package.name.startswith("pip")
        for path in [package, *package.rglob("*")]
        if path.is_file()
    ]
    return sum(path.stat().st_size for path in files) / 1e9


def _make(work: Path, name: str, packages: list[str], stamp: str) -> None:
    done = _folder(work, name) / _DONE
    if done.exists() and done.read_text() == stamp:
        return
    print(f"installing {name}", file=sys.stderr)
    shutil.rmtree(_folder(work, name), ignore_errors=True)
    venv.create(_folder(work, name), with_pip=True)
    _pip(work, name, "install", *packages)
    done.write_text(stamp)


def _pip(work: Path, name: str, *arguments: str) -> None:
    subprocess.run([python(work, name), "-m", "pip", "--quiet", *arguments], check=True)


def _folder(work: Path, name: str) -> Path:
    return work / "venv" / name

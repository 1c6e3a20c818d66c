"""The container of docker/: its root, made in an empty folder, runs every command without network.

`make test-container` runs it: as root, on Debian or Ubuntu. Where a Docker daemon answers, it also
builds the image.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image, ImageChops

ROOT = Path(__file__).parents[2]
MAX_MEGABYTES = 200
DOCKERFILE = (ROOT / "docker" / "Dockerfile").read_text()


def opened(path):
    with Image.open(path) as image:
        return image.convert("RGB")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Made as the Dockerfile makes it, but of the wheel that `make dist` has written."""
    (wheel,) = (ROOT / "dist").glob("*.whl")
    folder = tmp_path_factory.mktemp("container") / "root"
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHON": sys.executable}
    for name in ("HOME", "PIP_CONFIG_FILE", "PIP_FIND_LINKS", "PIP_INDEX_URL", "PIP_CERT"):
        if value := os.environ.get(name):
            environment[name] = value
    subprocess.run([ROOT / "docker" / "root.sh", folder, wheel], check=True, env=environment)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def lcm(root, tmp_path):
    """Run the command in the container: its standard output."""
    tmp_path.chmod(0o777)
    shutil.copy(ROOT / "docs" / "pictures" / "scribble.png", tmp_path)

    def run(*words):
        script = Path(__file__).with_name("run.sh")
        done = subprocess.run(
            [script, root, tmp_path, *words], capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_the_image_has_200_megabytes(root):
    files = {path.stat().st_ino: path for path in root.rglob("*") if path.is_file()}
    assert sum(path.stat().st_size for path in files.values()) / 1e6 < 1.05 * MAX_MEGABYTES


def test_there_is_no_shell(root):
    assert not [*root.rglob("sh")]
    assert {path.name for path in root.glob("usr/bin/python*")} >= {"python3"}


def test_every_command_runs(lcm, tmp_path):
    prompt = "a snowy landscape with a lake at night"
    lcm("txt2img", "a lake at night", "-o", "lake.png", "--seed=7")
    lcm("img2img", "scribble.png", prompt, "-o", "night.png", "--seed=7")
    lcm("batch", ".", prompt, "-o", "all", "--seed=7", "--workers=2")
    for name in ("lake.png", "night.png", "all/scribble.png"):
        assert opened(tmp_path / name).size == (256, 256)
    assert "model matches its digest: demo" in lcm("info", "night.png")
    assert "runtime onnx: available" in lcm("doctor")


def test_it_makes_the_image_that_is_made_outside(lcm, tmp_path):
    lcm("txt2img", "a lake at night", "-o", "inside.png", "--seed=7")
    command = [Path(sys.executable).with_name("lcm"), "txt2img", "a lake at night", "--seed=7"]
    subprocess.run([*command, "-o", tmp_path / "outside.png"], check=True)
    inside, outside = (opened(tmp_path / f"{name}.png") for name in ("inside", "outside"))
    differences = ImageChops.difference(inside, outside).getextrema()
    assert max(high for _, high in differences) <= 2


def test_run_sh_runs_what_the_dockerfile_says():
    """Its variables and its command are read from there."""
    (entry,) = re.findall(r"^ENTRYPOINT (.*)$", DOCKERFILE, re.M)
    script = Path(__file__).with_name("run.sh").read_text()
    assert " ".join(json.loads(entry)) in script
    (variables,) = re.findall(r"^ENV (.*)$", DOCKERFILE, re.M)
    assert variables in script


@pytest.mark.skipif(
    subprocess.run(["sh", "-c", "docker info"], capture_output=True).returncode != 0,
    reason="no Docker daemon answers",
)
def test_docker_builds_and_runs_it(tmp_path):
    build = ["docker", "build", "--quiet", "-f", "docker/Dockerfile", "-t", "lcmcore-test", "."]
    subprocess.run(build, cwd=ROOT, check=True)
    tmp_path.chmod(0o777)
    run = ["docker", "run", "--rm", "-v", f"{tmp_path}:/images", "lcmcore-test"]
    subprocess.run([*run, "txt2img", "a lake", "-o", "lake.png"], check=True)
    assert opened(tmp_path / "lake.png").size == (256, 256)

"""Models and images that many tests start from."""

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

import lcmcore
from lcmcore.fake import FakeRuntime
from runtimes.rknn.vendorlog import LOGGER

# Deadlines are speed assertions, and a shared machine is slow at times.
settings.register_profile("lcmcore", deadline=None, max_examples=60)
settings.load_profile("lcmcore")

NETWORKS = {".onnx", ".safetensors"}


@pytest.fixture(scope="session", autouse=True)
def cache_of_graphs(tmp_path_factory):
    """Nothing is written to the real home, by the processes that tests start neither."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LCM_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def level_of_the_logger():
    """`lcm -v`, run in this process, sets it for good."""
    logger = logging.getLogger("lcmcore")
    level = logger.level
    yield
    logger.setLevel(level)


@pytest.fixture(autouse=True)
def levels_of_handlers():
    """`silence` is for the vendor's handlers; pytest has its own at that logger, too.

    Left silenced, they would capture nothing in any later test.
    """
    loggers = (logging.getLogger(), logging.getLogger(LOGGER))
    levels = {handler: handler.level for logger in loggers for handler in logger.handlers}
    yield
    for handler, level in levels.items():
        handler.setLevel(level)


@pytest.fixture
def configs(tmp_path):
    """A copy of the demo bundle without its networks: all that a FakeRuntime needs."""
    without_networks = shutil.ignore_patterns(*[f"*{suffix}" for suffix in NETWORKS])
    return Path(shutil.copytree(lcmcore.demo_dir(), tmp_path / "configs", ignore=without_networks))


@pytest.fixture
def model(tmp_path):
    """A copy of the demo bundle, to break; no links, which the package onnx refuses to read."""
    return Path(shutil.copytree(lcmcore.demo_dir(), tmp_path / "model"))


@pytest.fixture
def fake():
    """A pipeline over the demo bundle's configs with functions in place of its networks."""
    opened = []

    def open_fake(model_dir=None, **functions):
        pipe = lcmcore.load(model_dir or lcmcore.demo_dir(), runtime=FakeRuntime(**functions))
        opened.append(pipe)
        return pipe

    yield open_fake
    for pipe in opened:
        pipe.close()


@pytest.fixture(scope="session")
def demo():
    """The demo model on ONNX Runtime."""
    with lcmcore.load(lcmcore.demo_dir(), runtime="onnx", threads=2) as pipe:
        yield pipe


@pytest.fixture
def photo():
    """An image of 96x64 with another colour in every corner."""
    rows, columns = np.mgrid[0:64, 0:96]
    pixels = np.stack([rows * 4, columns * 2, (rows + columns) % 256], axis=2)
    return Image.fromarray(pixels.astype(np.uint8))


@pytest.fixture
def photo_file(photo, tmp_path):
    """The same as a PNG file."""
    path = tmp_path / "photo.png"
    photo.save(path)
    return path

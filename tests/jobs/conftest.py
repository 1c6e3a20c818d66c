"""A pool whose worker obeys, for the tests of pools and of their processes."""

import pytest

from lcmcore.jobs.pool import Pool
from tests.jobs.fakes import Steering


@pytest.fixture
def steering(tmp_path):
    return Steering(tmp_path)


@pytest.fixture
def one(steering):
    """A pool of one worker whose unet obeys."""
    with Pool(runtime=steering.runtime, queue_size=3) as pool:
        yield pool
        (steering.folder / "hold").unlink(missing_ok=True)

"""The double behaves as the cases say that the real class does."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.rknn.conftest import network_of
from tests.rknn.double import double_of
from tests.rknn.lite_semantics import CASES, World


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
@pytest.mark.parametrize("component", ["vae_encoder", pytest.param("unet", marks=pytest.mark.slow)])
def test_double(
    case: Callable[[World], None],
    component: str,
    tiny: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    function = network_of(component)
    path = tiny / component / "model.rknn"
    case(World(double_of(function), path, function, tmp_path, monkeypatch))

"""The real RKNNLite behaves as the cases say; the double does so in tests/rknn/test_double.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from rknnlite.api import RKNNLite

from tests.board.machine import MODELS
from tests.rknn.conftest import network_of
from tests.rknn.lite_semantics import CASES, World


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
@pytest.mark.parametrize("component", ["vae_encoder", "unet"])
def test_rknnlite(
    case: Callable[[World], None],
    component: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = MODELS / "48x32" / component / "model.rknn"
    case(World(RKNNLite, path, network_of(component), tmp_path, monkeypatch))

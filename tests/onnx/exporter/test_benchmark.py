"""What `make export` compares, on a tiny checkpoint: what is exported there takes minutes here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.export import files, outputs
from lcmcore.bundle import COMPONENTS
from runtimes.onnx.checkpoint.modules import load
from tests.onnx.exporter.tiny_configs import open_checkpoint

pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("default")  # torch and diffusers warn of one another


def test_loras_of_all_styles_are_merged_on_both_sides(tmp_path: Path) -> None:
    import torch

    files.make(tmp_path, half=True, v2=False, tiny=True)
    plain, merged = (outputs.of_diffusers(tmp_path, loras) for loras in (False, True))
    changed = [name for name in COMPONENTS if not np.array_equal(plain[name], merged[name])]
    assert changed == ["text_encoder", "unet"]

    words = [
        word for lora in files.LORAS for word in ("--lora", f"{tmp_path / lora.name}:{lora.scale}")
    ]
    (tmp_path / "stage").mkdir()
    source = open_checkpoint(
        tmp_path / "stage", tmp_path / files.CHECKPOINT, "--config-from", tmp_path / files.CONFIGS,
        *words,
    )  # fmt: skip
    assert not [note for note in source.notes if "fit nothing" in note]
    text, unet = (load(source.checkpoint, name) for name in changed)
    arrays = outputs.inputs(tmp_path / files.CONFIGS)
    given = {name: torch.from_numpy(each) for name, each in arrays.items()}
    with torch.no_grad():
        got = {
            "text_encoder": text(given["ids"])[0],
            "unet": unet(given["latents"], outputs.TIMESTEP, given["hidden"]).sample,
        }
    for name in changed:
        want = merged[name]
        assert np.abs(got[name].numpy() - want).max() < 1e-5 * np.abs(want).max(), name

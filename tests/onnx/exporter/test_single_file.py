"""One file in Stability's layout, beside diffusers' `from_single_file`."""

from __future__ import annotations

import sys
from collections import OrderedDict
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from safetensors.torch import save_file

import lcmcore
from lcmcore.bundle import Bundle
from lcmcore.cli.info import describe
from lcmcore.util.configfile import read_object
from lcmcore.util.files import sha256
from runtimes.onnx import OnnxRuntime
from runtimes.onnx.checkpoint import weight_file
from runtimes.onnx.checkpoint.modules import load
from runtimes.onnx.checkpoint.weight_file import WeightFile
from tests.goldens.reference import Model, draw
from tests.onnx.exporter.lora_files import DISTILLED, kohya, pairs
from tests.onnx.exporter.reference import from_single_file, fuse
from tests.onnx.exporter.tiny_configs import (
    TEXT,
    TOKENS,
    export,
    open_checkpoint,
    tensors,
    write_checkpoint,
    write_configs,
)

pytestmark = pytest.mark.filterwarnings("default")  # torch and diffusers warn of one another
TOLERANCE = 1e-5


@pytest.fixture(scope="module", params=[False, True], ids=["sd1", "sd2"])
def files(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with model.safetensors and configs."""
    root = tmp_path_factory.mktemp("single")
    write_checkpoint(root / "model.safetensors", v2=request.param)
    write_configs(root / "configs", v2=request.param)
    return root


def reference(root: Path) -> StableDiffusionPipeline:
    """diffusers, reading the same file with the same configs."""
    return from_single_file(root / "model.safetensors", root / "configs")


def difference(got: Any, want: torch.Tensor) -> float:
    """Relative to the largest value."""
    return float(np.abs(np.asarray(got) - want.numpy()).max() / want.abs().max())


@torch.no_grad()
def test_networks_are_those_of_diffusers(files: Path, tmp_path: Path) -> None:
    source = open_checkpoint(
        tmp_path, files / "model.safetensors", "--config-from", files / "configs"
    )
    text, unet, vae = (load(source.checkpoint, name) for name in ("text_encoder", "unet", "vae"))
    want = reference(files)
    ids, sample, hidden = (
        torch.randint(TOKENS, (2, 77)),
        torch.randn(2, 4, 8, 16),
        torch.randn(2, 77, TEXT),
    )
    image, latents = torch.rand(1, 3, 64, 128) * 2 - 1, torch.randn(1, 4, 8, 8)
    pairs = [
        (text(ids)[0], want.text_encoder(ids)[0]),
        (unet(sample, 259, hidden).sample, want.unet(sample, 259, hidden).sample),
        (vae.encode(image).latent_dist.mean, want.vae.encode(image).latent_dist.mean),
        (vae.encode(image).latent_dist.logvar, want.vae.encode(image).latent_dist.logvar),
        (vae.decode(latents).sample, want.vae.decode(latents).sample),
    ]
    assert [difference(got, expected) < TOLERANCE for got, expected in pairs] == [True] * 5


def test_exported_is_diffusers(tmp_path: Path) -> None:
    """The whole way, to ONNX Runtime; the bundle opens."""
    write_checkpoint(tmp_path / "model.safetensors")
    write_configs(tmp_path / "configs")
    out = tmp_path / "out"
    export(tmp_path / "model.safetensors", out, "--config-from", tmp_path / "configs")
    pipe = reference(tmp_path)
    sample, hidden = torch.randn(2, 4, 8, 16), torch.randn(2, 77, TEXT)
    with torch.no_grad():
        want = pipe.unet(sample, 259, hidden).sample
    inputs = {
        "sample": sample.numpy(),
        "timestep": np.array([259]),
        "encoder_hidden_states": hidden.numpy(),
    }
    (got,) = OnnxRuntime().open("unet", out / "unet", {}).run(inputs).values()
    assert difference(got, want) < TOLERANCE
    bundle = Bundle.open(out)
    assert bundle.tokenizer and bundle.scheduler.prediction_type == "epsilon"
    assert bundle.settings.source["checkpoint"] == "model.safetensors"
    assert bundle.settings.source["kind"] == "Stable Diffusion 1.x"
    assert {path.name for path in out.iterdir()} == {
        *("text_encoder", "unet", "vae_encoder", "vae_decoder"),
        *("tokenizer", "scheduler", "model_index.json", "lcm.toml"),
    }


@torch.no_grad()
def test_checkpoint_of_torch_and_of_half_precision(tmp_path: Path) -> None:
    """.ckpt files hold more than tensors; half precision is what most people have."""
    configs = write_configs(tmp_path / "configs")
    state = {name: tensor.half() for name, tensor in tensors().items()}
    save_file(state, tmp_path / "half.safetensors")
    torch.save({"global_step": 7, "state_dict": state}, tmp_path / "model.ckpt")
    torch.save(state, tmp_path / "old.ckpt", _use_new_zipfile_serialization=False)
    outputs = []
    for name in ("half.safetensors", "model.ckpt", "old.ckpt"):
        (tmp_path / f"{name}.d").mkdir()
        source = open_checkpoint(tmp_path / f"{name}.d", tmp_path / name, "--config-from", configs)
        vae = load(source.checkpoint, "vae")
        assert vae.dtype == torch.float32
        outputs.append(vae.decode(torch.ones(1, 4, 8, 8)).sample)
    assert torch.equal(outputs[0], outputs[1]) and torch.equal(outputs[0], outputs[2])


def resident(path: Path) -> int:
    """How many bytes of a mapped file are in this process's memory."""
    lines = iter(Path("/proc/self/smaps").read_text().splitlines())
    return sum(
        next(int(each.split()[1]) << 10 for each in lines if each.startswith("Rss:"))
        for line in lines
        if line.endswith(str(path))
    )


@pytest.mark.parametrize("kind", [torch.float32, torch.float16])
def test_a_file_that_is_read_does_not_stay_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: torch.dtype
) -> None:
    """Else the export of a full-size one takes its size, 4 GB, beside all else."""
    path = tmp_path / "model.safetensors"
    save_file({str(number): torch.ones(2**20, dtype=kind) for number in range(8)}, path)
    monkeypatch.setattr(weight_file, "_MAX_MAPPED_BYTES", 2**22)
    file = WeightFile(path)
    read = [file.read(name) for name in file.shapes]
    assert resident(path) < 2**23
    assert all(bool((tensor == 1).all()) for tensor in read)


def test_checkpoint_of_lightning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its callbacks and settings are objects of classes that are not installed here, and not run.

    The layout is that of Lightning's `Trainer.dump_checkpoint`, 1.x, as `v1-5-pruned.ckpt` has it.
    """
    ran = []
    name = "pytorch_lightning.callbacks.model_checkpoint"

    class ModelCheckpoint(dict):  # type: ignore[type-arg]
        __module__ = name

        def __reduce__(self) -> Any:
            return ModelCheckpoint, (), {"dirpath": "logs"}, iter(["a"]), iter([("b", 1)])

        def append(self, value: Any) -> None:
            ran.append(value)

        def __setstate__(self, state: Any) -> None:
            ran.append(state)

    ModelCheckpoint.__qualname__ = "ModelCheckpoint"
    module = ModuleType(name)
    module.ModelCheckpoint = ModelCheckpoint  # type: ignore[attr-defined]
    state = {name: tensor.half() for name, tensor in tensors().items()}
    with monkeypatch.context() as patch:
        for each in ("pytorch_lightning", "pytorch_lightning.callbacks", name):
            patch.setitem(sys.modules, each, module)
        torch.save(
            {
                **{"epoch": 4, "global_step": 840000, "pytorch-lightning_version": "1.4.2"},
                "state_dict": OrderedDict(state, **{"model_ema.decay": torch.tensor(0.9999)}),
                "callbacks": {ModelCheckpoint: {"best": torch.ones(2)}, "x": ModelCheckpoint()},
                "optimizer_states": [{"state": {0: {"step": 3, "exp_avg": torch.ones(2)}}}],
            },
            tmp_path / "model.ckpt",
        )
    file = WeightFile(tmp_path / "model.ckpt")
    assert not ran and name not in sys.modules
    assert set(file.shapes) == {*state, "model_ema.decay"}
    assert all(torch.equal(file.read(key), value.float()) for key, value in state.items())
    configs = write_configs(tmp_path / "configs")
    stage = tmp_path / "stage"
    stage.mkdir()
    source = open_checkpoint(stage, tmp_path / "model.ckpt", "--config-from", configs)
    assert source.record["kind"] == "Stable Diffusion 1.x"


def test_distilled_checkpoint_has_its_guidance(tmp_path: Path) -> None:
    """An LCM's UNet reads the guidance scale: its layer is in the file, and in no config."""
    configs = write_configs(tmp_path / "configs")
    state = tensors()
    cond = torch.randn(8, 256)
    state["model.diffusion_model.time_embed.cond_proj.weight"] = cond
    save_file(state, tmp_path / "lcm.safetensors")
    stage = tmp_path / "stage"
    stage.mkdir()
    source = open_checkpoint(stage, tmp_path / "lcm.safetensors", "--config-from", configs)
    assert torch.equal(load(source.checkpoint, "unet").time_embedding.cond_proj.weight, cond)
    assert not any("no LCM-LoRA" in note for note in source.notes)


@pytest.mark.parametrize(
    ("metadata", "words", "expected"),
    [
        ({}, (), "v_prediction"),
        ({"modelspec.architecture": "stable-diffusion-v2-512"}, (), "epsilon"),
        ({"modelspec.prediction_type": "epsilon"}, (), "epsilon"),
        ({"modelspec.prediction_type": "epsilon"}, ("v_prediction",), "v_prediction"),
    ],
)
def test_prediction_type_of_stable_diffusion_2(
    tmp_path: Path, metadata: dict[str, str], words: tuple[str, ...], expected: str
) -> None:
    path = tmp_path / "model.safetensors"
    configs = write_configs(tmp_path / "configs", v2=True)
    (configs / "scheduler" / "scheduler_config.json").unlink()
    save_file(tensors(v2=True), path, metadata)
    chosen = ("--prediction-type", *words) if words else ()
    stage = tmp_path / "stage"
    stage.mkdir()
    open_checkpoint(stage, path, "--config-from", configs, *chosen)
    assert Bundle.open(stage).scheduler.prediction_type == expected


def test_marker_of_v_prediction(tmp_path: Path) -> None:
    """An empty tensor that trainers add, in a checkpoint of Stable Diffusion 1 too."""
    configs = write_configs(tmp_path / "configs")
    (configs / "scheduler" / "scheduler_config.json").unlink()
    save_file({**tensors(), "v_pred": torch.zeros(0)}, tmp_path / "model.safetensors")
    stage = tmp_path / "stage"
    stage.mkdir()
    open_checkpoint(stage, tmp_path / "model.safetensors", "--config-from", configs)
    assert Bundle.open(stage).scheduler.prediction_type == "v_prediction"


def test_img2img_with_an_lcm_lora_is_that_of_diffusers(tmp_path: Path) -> None:
    """The whole way: exported, opened by its directory alone, and drawn with its own defaults."""
    write_checkpoint(tmp_path / "model.safetensors")
    configs = write_configs(tmp_path / "configs")
    pipe = reference(tmp_path)
    lora = tmp_path / "lcm-lora.safetensors"
    save_file(kohya(pairs(pipe.unet, DISTILLED, "unet.")), lora)
    out = tmp_path / "out"
    words = ("--config-from", configs, "--lora", f"{lora}:0.8")
    export(tmp_path / "model.safetensors", out, *words)

    fuse(pipe, [(lora, 0.8)])
    image = Image.effect_noise((128, 64), 60).convert("RGB")
    call = {"prompt": "a snow tree", "strength": 0.75, "seed": 42}
    scheduler = read_object(configs / "scheduler" / "scheduler_config.json")
    model = Model(pipe.tokenizer, pipe.text_encoder, pipe.unet, pipe.vae, scheduler)
    want = draw(model, {**call, "num_inference_steps": 4, "guidance_scale": 1.0}, [image])
    with lcmcore.load(out, runtime="onnx") as ours:
        got = ours(image=image, output_type="np", width=128, height=64, **call).images
    np.testing.assert_allclose(got, want, atol=1e-4)

    settings = Bundle.open(out).settings
    assert (settings.num_inference_steps, settings.guidance_scale) == (4, 1.0)
    assert settings.source["checkpoint"] == "model.safetensors"
    assert settings.source["kind"] == "Stable Diffusion 1.x"
    assert {path.name for path in out.iterdir()} == {
        *("text_encoder", "unet", "vae_encoder", "vae_decoder"),
        *("tokenizer", "scheduler", "model_index.json", "lcm.toml"),
    }
    lines = [line for line in describe(out) if line.startswith("  made from lora: ")]
    digest = sha256(lora)
    assert lines == [f"  made from lora: file lcm-lora.safetensors, scale 0.8, sha256 {digest}"]

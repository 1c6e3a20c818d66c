"""LoRAs merged into a tiny checkpoint, beside diffusers + peft, and peft's LoHa."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import save_file
from torch import Tensor

from runtimes.onnx.checkpoint.modules import load
from runtimes.onnx.checkpoint.source import LCM_DEFAULTS
from tests.onnx.exporter.lora_files import (
    DISTILLED,
    RANK,
    dotted,
    kohya,
    of_pipeline,
    old_diffusers,
    pairs,
    peft_style,
)
from tests.onnx.exporter.reference import from_single_file, fuse
from tests.onnx.exporter.tiny_configs import open_checkpoint, tensors, write_configs

pytestmark = pytest.mark.filterwarnings("default")  # torch and diffusers warn of one another
peft = pytest.importorskip("peft")
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("lora")
    save_file(tensors(), root / "model.safetensors")
    write_configs(root / "configs")
    return root


def pipeline(files: Path) -> StableDiffusionPipeline:
    return from_single_file(files / "model.safetensors", files / "configs")


def fused(files: Path, chosen: list[tuple[Path, float]]) -> StableDiffusionPipeline:
    """diffusers + peft."""
    pipe = pipeline(files)
    fuse(pipe, chosen)
    return pipe


def assert_same(
    files: Path, stage: Path, chosen: list[tuple[Path, float]], want: Any = None
) -> None:
    want = want or fused(files, chosen)
    words = [word for path, scale in chosen for word in ("--lora", f"{path}:{scale}")]
    source = open_checkpoint(
        stage, files / "model.safetensors", "--config-from", files / "configs", *words
    )
    for network in ("unet", "text_encoder"):
        got = load(source.checkpoint, network).state_dict()
        expected = getattr(want, network).state_dict()
        assert got.keys() == expected.keys()
        worst = max(float((got[key] - expected[key]).abs().max()) for key in got)
        assert worst < TOLERANCE, network


def changes(files: Path, stage: Path, path: Path) -> int:
    """How many tensors of both networks a LoRA changes."""
    words = (files / "model.safetensors", "--config-from", files / "configs")
    count = 0
    plain = open_checkpoint(stage, *words).checkpoint
    merged = open_checkpoint(stage, *words, "--lora", path).checkpoint
    for network in ("unet", "text_encoder"):
        before, after = (load(each, network).state_dict() for each in (plain, merged))
        count += sum(not torch.equal(before[key], after[key]) for key in before)
    return count


@pytest.mark.parametrize("style", [kohya, peft_style, old_diffusers, dotted])
def test_styles_are_fused_as_diffusers_does(
    files: Path, tmp_path: Path, style: Callable[[dict[str, Any]], dict[str, Tensor]]
) -> None:
    layers = of_pipeline(pipeline(files))
    path = tmp_path / "lora.safetensors"
    save_file(style(layers), path)
    assert_same(files, tmp_path, [(path, 0.7)])
    assert changes(files, tmp_path, path) == len(layers)


def test_several_at_once_with_negative_scales(files: Path, tmp_path: Path) -> None:
    pipe = pipeline(files)
    chosen = []
    for number, (style, scale) in enumerate([(kohya, 0.8), (peft_style, -0.5), (kohya, -1.25)]):
        path = tmp_path / f"lora{number}.safetensors"
        save_file(style(of_pipeline(pipe, seed=number)), path)
        chosen.append((path, scale))
    assert_same(files, tmp_path, chosen)


def test_convolutions_as_an_lcm_lora_has(files: Path, tmp_path: Path) -> None:
    layers = pairs(pipeline(files).unet, DISTILLED, "unet.")
    path = tmp_path / "pytorch_lora_weights.safetensors"
    save_file(kohya(layers), path)
    assert len(layers) == 278  # as many as LCM-LoRA for Stable Diffusion 1.5 has
    assert_same(files, tmp_path, [(path, 1.0)])


def test_alpha_of_pefts_config(files: Path, tmp_path: Path) -> None:
    """As diffusers writes it, into the header of the file."""
    from peft import LoraConfig

    pipe = pipeline(files)
    pipe.unet.add_adapter(LoraConfig(r=RANK, lora_alpha=9, target_modules=["to_q", "to_k"]))
    for name, parameter in pipe.unet.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    state = peft.get_peft_model_state_dict(pipe.unet)
    config = {"unet": pipe.unet.peft_config["default"]}
    layers = {key: each.contiguous() for key, each in state.items()}
    StableDiffusionPipeline.save_lora_weights(
        tmp_path, unet_lora_layers=layers,
        unet_lora_adapter_metadata=config["unet"].to_dict(),
    )  # fmt: skip
    assert_same(files, tmp_path, [(tmp_path / "pytorch_lora_weights.safetensors", 1.0)])


def test_names_of_the_original_layout(files: Path, tmp_path: Path) -> None:
    """kohya's scripts name layers as the checkpoint does, where that is in Stability's layout."""
    original = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_v"
    ours = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_v"
    layers = of_pipeline(pipeline(files))
    state = {key: each for key, each in kohya(layers).items() if key.startswith(ours)}
    save_file(
        {key.replace(ours, original): each for key, each in state.items()},
        tmp_path / "a.safetensors",
    )
    save_file(state, tmp_path / "b.safetensors")
    want = fused(files, [(tmp_path / "b.safetensors", 1.0)])
    assert_same(files, tmp_path, [(tmp_path / "a.safetensors", 1.0)], want)


@pytest.mark.parametrize("effective", [False, True], ids=["flat", "tucker"])
@pytest.mark.parametrize("network", ["unet", "text_encoder"])
def test_loha_is_pefts(files: Path, tmp_path: Path, network: str, effective: bool) -> None:
    from peft import LoHaConfig, get_peft_model

    pipe = pipeline(files)
    model = getattr(pipe, network)
    targets = ["to_q", "conv1", "time_emb_proj"] if network == "unet" else ["q_proj", "fc1"]
    config = LoHaConfig(
        r=RANK, alpha=6, target_modules=targets, init_weights=False, use_effective_conv2d=effective
    )
    adapted = get_peft_model(model, config)
    state = peft.get_peft_model_state_dict(adapted)
    prefix = {"unet": "lora_unet_", "text_encoder": "lora_te_text_model_"}[network]
    kohya_state = {}
    for key, each in state.items():
        layer, _, role = (
            key.removeprefix("base_model.model.").removeprefix("text_model.").rpartition(".")
        )
        kohya_state[f"{prefix}{layer.replace('.', '_')}.{role}"] = each.detach().contiguous()
        kohya_state[f"{prefix}{layer.replace('.', '_')}.alpha"] = torch.tensor(6.0)
    save_file(kohya_state, tmp_path / "kohya.safetensors")
    save_file(
        {key: each.detach().contiguous() for key, each in state.items()},
        tmp_path / "adapter_model.safetensors",
    )
    config.save_pretrained(tmp_path)
    setattr(pipe, network, None)
    merged = adapted.merge_and_unload().state_dict()
    for name in ("kohya.safetensors", "adapter_model.safetensors"):
        source = open_checkpoint(
            tmp_path, files / "model.safetensors", "--config-from", files / "configs",
            "--lora", tmp_path / name,
        )  # fmt: skip
        got = load(source.checkpoint, network).state_dict()
        assert max(float((got[key] - merged[key]).abs().max()) for key in merged) < TOLERANCE, name


def test_lcm_lora_sets_the_defaults(files: Path, tmp_path: Path) -> None:
    words = (files / "model.safetensors", "--config-from", files / "configs")
    pipe = pipeline(files)
    distilled = kohya(pairs(pipe.unet, DISTILLED, "unet."))
    style = kohya(of_pipeline(pipe))
    (tmp_path / "lcm-lora-sdv1-5").mkdir()
    cases = [
        (tmp_path / "turbo.safetensors", distilled, True),
        (tmp_path / "lcm-lora-sdv1-5" / "pytorch_lora_weights.safetensors", style, True),
        (tmp_path / "lcm-lora-sdv1-5" / "filmcamera.safetensors", style, False),
        (tmp_path / "my_LCM.safetensors", style, True),
        (tmp_path / "filmcamera.safetensors", style, False),
    ]
    for path, state, expected in cases:
        save_file(state, path)
        source = open_checkpoint(tmp_path, *words, "--lora", path)
        assert source.defaults == (LCM_DEFAULTS if expected else {}), path
        assert any("no LCM-LoRA" in note for note in source.notes) is not expected


def test_keys_that_fit_nothing_are_counted(files: Path, tmp_path: Path) -> None:
    state = kohya(of_pipeline(pipeline(files)))
    extra = "lora_unet_down_blocks_9_attentions_0_to_q"
    state |= {
        f"{extra}.lora_down.weight": torch.zeros(4, 8),
        f"{extra}.lora_up.weight": torch.zeros(8, 4),
    }
    state["something"] = torch.zeros(1)
    save_file(state, tmp_path / "a.safetensors")
    source = open_checkpoint(
        tmp_path, files / "model.safetensors", "--config-from", files / "configs",
        "--lora", f"{tmp_path / 'a.safetensors'}:0.5",
    )  # fmt: skip
    note = next(note for note in source.notes if "LoRA, scale" in note)
    assert note.startswith("a.safetensors: LoRA, scale 0.5, 8 layers of the text_encoder and 128 ")
    assert f"3 of {len(state)} keys fit nothing, {extra}." in note
    assert source.record["lora"]["1"]["scale"] == 0.5
    assert len(source.record["lora"]["1"]["sha256"]) == 64

"""`--embedding`: textual inversion, beside diffusers' `load_textual_inversion`."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from lcmcore.bundle import Bundle
from lcmcore.errors import BundleError
from lcmcore.util.configfile import read_object
from runtimes.onnx.checkpoint.modules import load
from tests.onnx.exporter.tiny_configs import (
    TEXT,
    open_checkpoint,
    pipeline,
    write_checkpoint,
    write_configs,
)
from tests.rknn.fixtures import TINY

pytestmark = pytest.mark.filterwarnings("default")  # torch and diffusers warn of one another


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint in diffusers' layout."""
    torch.manual_seed(0)
    pipeline().save_pretrained(tmp_path / "model")
    shutil.copytree(TINY / "tokenizer", tmp_path / "model" / "tokenizer", dirs_exist_ok=True)
    return tmp_path / "model"


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """One of each kind of file: of A1111 (two vectors), old and new, and of diffusers."""
    torch.manual_seed(3)
    paths = {name: tmp_path / name for name in ("easy.safetensors", "old.pt", "learned.bin")}
    save_file({"emb_params": torch.randn(2, TEXT)}, paths["easy.safetensors"])
    old = {
        "string_to_token": {"*": 265},
        "string_to_param": {"*": torch.randn(1, TEXT)},
        "name": "old",
    }
    torch.save({**old, "step": 3}, paths["old.pt"])
    torch.save({"<dog-toy>": torch.randn(TEXT)}, paths["learned.bin"])
    return paths


@torch.no_grad()
@pytest.mark.parametrize("kind", ["folder", "file"])
def test_embeddings_are_those_of_diffusers(
    tmp_path: Path, folder: Path, files: dict[str, Path], kind: str
) -> None:
    stage = tmp_path / "stage"
    stage.mkdir()
    words: tuple[Any, ...] = (folder,)
    pipe = pipeline().from_pretrained(folder)
    if kind == "file":
        write_configs(tmp_path / "configs")
        checkpoint = write_checkpoint(tmp_path / "model.safetensors")
        words = (checkpoint, "--config-from", tmp_path / "configs")
        pipe = type(pipe).from_single_file(
            str(checkpoint), config=str(tmp_path / "configs"), local_files_only=True
        )
    for path in files.values():
        words = (*words, "--embedding", path)
    source = open_checkpoint(stage, *words)
    for name, token in (("easy.safetensors", "easy"), ("old.pt", None), ("learned.bin", None)):
        pipe.load_textual_inversion(str(files[name]), token=token)
    prompt = "a photo of <dog-toy> easy, old"
    bundle = Bundle.open(stage)
    (expanded,) = bundle.tokenizer.expand(prompt)
    assert expanded == pipe.maybe_convert_prompt(prompt, pipe.tokenizer)
    ids = pipe.tokenizer(expanded, padding="max_length", max_length=77, truncation=True).input_ids
    assert bundle.tokenizer(expanded)[0].tolist() == ids
    got = load(source.checkpoint, "text_encoder")(torch.tensor([ids])).last_hidden_state
    want = pipe.text_encoder(torch.tensor([ids])).last_hidden_state
    assert (got - want).abs().max() < 1e-5
    rows = load(source.checkpoint, "text_encoder").get_input_embeddings().weight.shape[0]
    assert read_object(stage / "text_encoder" / "config.json")["vocab_size"] == rows
    assert [each["words"] for each in source.record["embedding"].values()] == [
        "easy easy_1", "old", "<dog-toy>",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("state", "name", "message"),
    [
        (
            {"clip_l": torch.zeros(1, 768), "clip_g": torch.zeros(1, 1280)},
            "a",
            "inversion for Stable Diffusion XL",
        ),
        (
            {"emb_params": torch.zeros(1, 1024)},
            "a",
            "vectors of 1024 numbers, those of Stable Diffusion 2",
        ),
        ({"a.b": torch.zeros(1), "c.d": torch.zeros(1)}, "a", "not a textual inversion"),
        ({"emb_params": torch.full((1, TEXT), torch.nan)}, "a", "emb_params holds NaN"),
        ({"emb_params": torch.zeros(99, TEXT)}, "b", "99 vectors, more than a prompt has tokens"),
        (
            {"emb_params": torch.zeros(1, TEXT)},
            "<|endoftext|>",
            "the tokenizer has '<|endoftext|>' already",
        ),
    ],
)
def test_files_that_do_not_fit(
    tmp_path: Path, folder: Path, state: dict[str, Any], name: str, message: str
) -> None:
    path = tmp_path / f"{name}.safetensors"
    save_file(state, path)
    stage = tmp_path / "stage"
    stage.mkdir()
    with pytest.raises(BundleError) as caught:
        open_checkpoint(stage, folder, "--embedding", path)
    assert message in str(caught.value)

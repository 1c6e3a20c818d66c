"""`lcm build onnx` on tiny checkpoints of random weights, compared with diffusers itself."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from transformers import CLIPTextModel

from lcmcore.cli.info import describe
from lcmcore.errors import BundleError, LcmError, NetworkError
from runtimes.onnx import OnnxRuntime, build
from runtimes.onnx.checkpoint import exports
from tests.onnx.exporter.shallow import unet, write_checkpoint
from tests.onnx.exporter.tiny_configs import export

pytestmark = pytest.mark.filterwarnings("default")  # torch and diffusers warn of one another
COMPONENTS = ("text_encoder", "unet", "vae_encoder", "vae_decoder")
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint in half precision, as they are published."""
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture
def checkpoint(original: Path, tmp_path: Path) -> Path:
    """A copy, to change."""
    return Path(shutil.copytree(original, tmp_path / "checkpoint"))


@pytest.fixture(scope="module")
def exported(original: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint, exported for any size."""
    out = tmp_path_factory.mktemp("exported")
    export(original, out)
    return out


def run(root: Path, component: str, **inputs: Any) -> Any:
    network = OnnxRuntime().open(component, root / component, {})
    return next(iter(network.run(inputs).values()))


def graph_inputs(root: Path, component: str) -> dict[str, list[int | str]]:
    graph = onnx.load(str(root / component / "model.onnx"), load_external_data=False).graph
    return {
        value.name: [dim.dim_value or dim.dim_param for dim in value.type.tensor_type.shape.dim]
        for value in graph.input
    }


def test_graphs_are_what_both_runtimes_take(exported: Path) -> None:
    for component in COMPONENTS:
        model = onnx.load(str(exported / component / "model.onnx"), load_external_data=False)
        assert [entry.version for entry in model.opset_import if not entry.domain] == [18]
        assert (exported / component / "config.json").is_file()
    inputs = graph_inputs(exported, "unet")
    assert list(inputs) == ["sample", "timestep", "encoder_hidden_states", "timestep_cond"]
    assert inputs["timestep"] == [1]
    assert (exported / "tokenizer" / "vocab.json").is_file()
    assert (exported / "scheduler" / "scheduler_config.json").is_file()


def test_nothing_of_this_machine_is_in_the_graphs(exported: Path) -> None:
    for component in COMPONENTS:
        data = (exported / component / "model.onnx").read_bytes()
        assert str(Path(torch.__file__).parent).encode() not in data


@pytest.mark.parametrize(("batch", "height", "width"), [(1, 16, 16), (3, 8, 20)])
def test_unet_is_diffusers(
    original: Path, exported: Path, batch: int, height: int, width: int
) -> None:
    model = UNet2DConditionModel.from_pretrained(
        original / "unet", variant="fp16", torch_dtype=torch.float32
    )
    sample = torch.randn(batch, 4, height, width)
    text, cond = torch.randn(batch, 77, 16), torch.randn(batch, 256)
    with torch.no_grad():
        want = model(sample, 259, text, timestep_cond=cond).sample.numpy()
    got = run(
        exported, "unet", sample=sample.numpy(), timestep=np.array([259]),
        encoder_hidden_states=text.numpy(), timestep_cond=cond.numpy(),
    )  # fmt: skip
    np.testing.assert_allclose(got, want, atol=TOLERANCE)


def test_vae_is_diffusers(original: Path, exported: Path) -> None:
    vae = AutoencoderKL.from_pretrained(original / "vae", torch_dtype=torch.float32)
    image = torch.rand(2, 3, 24, 40) * 2 - 1
    with torch.no_grad():
        latents = vae.encode(image).latent_dist
        want = vae.decode(latents.mean).sample.numpy()
    moments = run(exported, "vae_encoder", sample=image.numpy())
    np.testing.assert_allclose(moments[:, :4], latents.mean.numpy(), atol=TOLERANCE)
    np.testing.assert_allclose(moments[:, 4:], latents.logvar.numpy(), atol=TOLERANCE)
    got = run(exported, "vae_decoder", latent_sample=latents.mean.numpy())
    np.testing.assert_allclose(got, want, atol=TOLERANCE)


def test_text_encoder_is_transformers(original: Path, exported: Path) -> None:
    model = CLIPTextModel.from_pretrained(original / "text_encoder", torch_dtype=torch.float32)
    ids = torch.randint(99, (2, 77))
    with torch.no_grad():
        want = model(ids).last_hidden_state.numpy()
    np.testing.assert_allclose(
        run(exported, "text_encoder", input_ids=ids.numpy()), want, atol=TOLERANCE
    )


def test_digest_of_a_folder_is_that_of_its_weights(original: Path, exported: Path) -> None:
    """As a shell finds it."""
    files = " ".join(f"{network}/*.safetensors" for network in ("text_encoder", "unet", "vae"))
    command = f"sha256sum {files} | sha256sum"
    digest = subprocess.check_output(command, shell=True, cwd=original, text=True).split()[0]
    (line,) = [line for line in describe(exported) if line.startswith("  made from ")]
    assert line.startswith(f"  made from checkpoint {original.name}, sha256 {digest}, exporter ")


def test_fixed_size(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(checkpoint, out, "--size", "24x16")
    assert graph_inputs(out, "vae_encoder") == {"sample": [1, 3, 16, 24]}
    assert graph_inputs(out, "unet")["sample"] == [1, 4, 8, 12]


def test_unet_without_guidance_and_tiny_autoencoder(checkpoint: Path, tmp_path: Path) -> None:
    shutil.rmtree(checkpoint / "unet")
    unet(time_cond_proj_dim=None).save_pretrained(checkpoint / "unet")
    shutil.rmtree(checkpoint / "vae")
    channels = {"encoder_block_out_channels": (8, 8), "decoder_block_out_channels": (8, 8)}
    vae = AutoencoderTiny(
        **channels, num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1)
    )  # fmt: skip
    vae.save_pretrained(checkpoint / "vae")
    out = tmp_path / "out"
    export(checkpoint, out)
    assert list(graph_inputs(out, "unet")) == ["sample", "timestep", "encoder_hidden_states"]
    latents = torch.randn(1, 4, 8, 12)
    with torch.no_grad():
        want = vae.eval().decode(latents).sample.numpy()
    got = run(out, "vae_decoder", latent_sample=latents.numpy())
    np.testing.assert_allclose(got, want, atol=TOLERANCE)
    assert run(out, "vae_encoder", sample=np.zeros((1, 3, 16, 24), np.float32)).shape[1] == 4


def test_second_run_keeps_what_is_there(
    original: Path, exported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export(original, exported)
    said = capsys.readouterr().err
    assert said.count("already exported, skipped") == 4


def test_another_tokenizer_of_the_source_replaces_the_one_that_is_there(
    checkpoint: Path, exported: Path, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(exported, tmp_path / "out"))
    changed = checkpoint / "tokenizer" / "vocab.json"
    changed.write_text(changed.read_text() + "\n")
    export(checkpoint, out)
    assert (out / "tokenizer" / "vocab.json").read_bytes() == changed.read_bytes()


def test_network_that_disagrees_is_not_left(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "TOLERANCE", 0.0)
    out = tmp_path / "out"
    with pytest.raises(NetworkError, match=r"^text_encoder: ONNX Runtime differs from torch by"):
        export(checkpoint, out)
    assert not [path for path in out.rglob("*") if path.is_file()]


def test_refusals(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(LcmError, match="multiples of 4"):
        export(checkpoint, out, "--size", "18x16")
    with pytest.raises(BundleError, match="diffusers' layout"):
        export(checkpoint / "unet", out)
    weights = next((checkpoint / "text_encoder").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(NetworkError, match=r"^text_encoder: cannot be loaded"):
        export(checkpoint, out)
    shutil.rmtree(checkpoint / "text_encoder")
    with pytest.raises(BundleError, match=r"no text_encoder/config\.json"):
        export(checkpoint, out)


class _Sampler(torch.nn.Module):
    """What diffusers' convert_stable_diffusion_checkpoint_to_onnx.py makes of a VAE encoder."""

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, sample: torch.Tensor) -> torch.Tensor:
        return self.vae.encode(sample, return_dict=False)[0].sample()


@pytest.mark.parametrize("half", [False, True], ids=["float32", "float16"])
@pytest.mark.parametrize("opset", [14, 17])
def test_encoders_that_draw_are_cut_before_it(
    opset: int, half: bool, original: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As torch's older exporter wrote them, at any size."""
    vae = AutoencoderKL.from_pretrained(original / "vae", torch_dtype=torch.float32)
    image = torch.rand(2, 3, 24, 40) * 2 - 1
    with torch.no_grad():
        want = vae.encode(image).latent_dist
    kind = torch.float16 if half else torch.float32
    torch.onnx.export(
        _Sampler(vae.to(kind)), (torch.zeros(1, 3, 16, 16, dtype=kind),),
        str(tmp_path / "model.onnx"), input_names=["sample"], output_names=["latent_sample"],
        dynamic_axes={"sample": {0: "batch", 1: "channels", 2: "height", 3: "width"}},
        opset_version=opset, dynamo=False,
    )  # fmt: skip
    graph = onnx.load(str(tmp_path / "model.onnx")).graph
    assert "RandomNormalLike" in {node.op_type for node in graph.node}
    network = OnnxRuntime().open("vae_encoder", tmp_path, {})
    (moments,) = network.run({"sample": image.numpy()}).values()
    tolerance = 2e-2 if half else TOLERANCE
    np.testing.assert_allclose(moments[:, :4], want.mean.numpy(), atol=tolerance)
    np.testing.assert_allclose(moments[:, 4:], want.logvar.numpy(), atol=tolerance)
    assert not [record for record in caplog.records if record.name.startswith("lcmcore")]


def test_the_weights_of_torch_are_gone_when_onnx_runtime_takes_its_own(
    original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch's exporter keeps each tensor that it has seen: of a full-size UNet 3.4 GB."""
    loaded, compare = exports.load_export, build._largest_difference
    modules: list[Any] = []
    left: list[int] = []

    def load(component: str, checkpoint: Any) -> Any:
        export = loaded(component, checkpoint)
        modules.append(export.module)
        return export

    def look(path: Path, examples: Any) -> float:
        left.append(sum(tensor.untyped_storage().nbytes() for tensor in modules[-1].parameters()))
        return compare(path, examples)

    monkeypatch.setattr(exports, "load_export", load)
    monkeypatch.setattr(build, "_largest_difference", look)
    export(original, tmp_path)
    assert left == [0] * 4

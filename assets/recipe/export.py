"""Write trained networks as a bundle whose weights serve torch and ONNX Runtime alike.

    python export.py RUN OUT

RUN is what a training run leaves: {text,unet,vae}.safetensors, {text,unet,vae}_config.json and
tokenizer/. In OUT each network has its weights in float16 in a safetensors file, as diffusers and
transformers read it, and beside it a model.onnx that holds the graph alone. Its initializers are
external data: offsets into that same safetensors file, each widened to float32 by a Cast which ONNX
Runtime folds when it opens the graph. The arithmetic is float32.
"""

import argparse
import json
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import safetensors.numpy
import safetensors.torch
import torch
from diffusers import AutoencoderKL, LCMScheduler, UNet2DConditionModel
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from transformers import CLIPTextModel

OPSET = 18
IR_VERSION = 8  # the newest that every ONNX Runtime from 1.17 on reads is 9; opset 18 needs 8
TOLERANCE = 1e-4
LARGEST_CONSTANT = 2**16  # bytes; a constant of the graph above this is a weight that went astray

# Latents as (batch, height, width). Traced at a size that halving does not divide, the UNet takes
# the sizes of its upsampling from its skip connections and so accepts any.
TRACED_SIZE = 2, 30, 34
CHECKED_SIZES = (1, 32, 32), (2, 32, 32), (1, 24, 40), (1, 25, 31)

TEXT_WEIGHTS = "model.safetensors"
DIFFUSERS_WEIGHTS = "diffusion_pytorch_model.safetensors"
VAE_HALVES = {
    "vae_encoder": ("encoder.", "quant_conv."),
    "vae_decoder": ("decoder.", "post_quant_conv."),
}
MODEL_INDEX = {
    "_class_name": "LatentConsistencyModelPipeline",
    "feature_extractor": [None, None],
    "image_encoder": [None, None],
    "requires_safety_checker": False,
    "safety_checker": [None, None],
    "scheduler": ["diffusers", "LCMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


@dataclass(frozen=True)
class Networks:
    """The trained networks of a bundle, in torch."""

    text_encoder: CLIPTextModel
    unet: UNet2DConditionModel
    vae: AutoencoderKL


def export(run: Path, out: Path) -> None:
    """Turn a training run into a bundle, replacing the networks that `out` holds."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as name:
        staged = Path(name)
        write_weights(run, staged)
        for component in components(read_bundle(staged)):
            write_graph(component, staged / component.folder)
            check_graph(component, staged / component.folder)
        for path in staged.iterdir():
            if path.is_dir():
                shutil.rmtree(out / path.name, ignore_errors=True)
            path.replace(out / path.name)


def write_weights(run: Path, out: Path) -> None:
    """Write all of a bundle but its graphs."""
    index = json.dumps(MODEL_INDEX, indent=2) + "\n"
    (out / "model_index.json").write_text(index, encoding="utf-8")
    LCMScheduler().save_pretrained(out / "scheduler")
    shutil.copytree(run / "tokenizer", out / "tokenizer")
    # Published checkpoints have this prefix in their keys; transformers 5 has dropped it.
    prefix = "text_model."
    state = safetensors.torch.load_file(run / "text.safetensors")
    text = {prefix + key.removeprefix(prefix): tensor for key, tensor in state.items()}
    write_network(text, TEXT_WEIGHTS, run / "text_config.json", out / "text_encoder")
    unet = safetensors.torch.load_file(run / "unet.safetensors")
    write_network(unet, DIFFUSERS_WEIGHTS, run / "unet_config.json", out / "unet")
    vae = safetensors.torch.load_file(run / "vae.safetensors")
    for half, prefixes in VAE_HALVES.items():
        part = {key: tensor for key, tensor in vae.items() if key.startswith(prefixes)}
        write_network(part, DIFFUSERS_WEIGHTS, run / "vae_config.json", out / half)


def write_network(state: dict[str, Tensor], weights: str, config: Path, folder: Path) -> None:
    """Write a network's weights and config as diffusers and transformers write theirs."""
    folder.mkdir()
    shutil.copyfile(config, folder / "config.json")
    half = {key: tensor.half().contiguous() for key, tensor in state.items()}
    (folder / weights).write_bytes(safetensors.torch.save(half, metadata={"format": "pt"}))


def read_bundle(folder: Path) -> Networks:
    """Load a bundle's networks in float32 from the very files that its graphs point into."""
    text = CLIPTextModel.from_pretrained(
        folder / "text_encoder",
        torch_dtype=torch.float32,
        attn_implementation="eager",  # its graph is plainer, without a guard for rows all masked
    )
    unet = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float32)
    vae = AutoencoderKL.from_config(AutoencoderKL.load_config(folder / "vae_decoder"))
    halves = [safetensors.torch.load_file(folder / half / DIFFUSERS_WEIGHTS) for half in VAE_HALVES]
    vae.load_state_dict({key: tensor.float() for half in halves for key, tensor in half.items()})
    for model in text, unet, vae:
        model.eval().requires_grad_(False)
    return Networks(text, unet, vae)


class TextEncoder(nn.Module):
    """The text encoder with the outputs that optimum exports."""

    def __init__(self, model: CLIPTextModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        output = self.model(input_ids)
        return output.last_hidden_state, output.pooler_output


class Unet(nn.Module):
    """The UNet with its inputs in the order in which optimum exports them."""

    def __init__(self, unet: UNet2DConditionModel) -> None:
        super().__init__()
        self.unet = unet

    def forward(  # noqa: D102
        self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, timestep_cond: Tensor
    ) -> Tensor:
        output = self.unet(sample, timestep, encoder_hidden_states, timestep_cond=timestep_cond)
        return output.sample


@dataclass(frozen=True)
class Component:
    """A network as ONNX Runtime sees it, inputs and outputs under the names that optimum uses."""

    folder: str
    weights: str
    module: nn.Module
    inputs: Callable[[int, int, int], dict[str, Tensor]]  # an example for latents of a size
    axes: dict[str, dict[int, str]]  # the free dimensions of the inputs
    outputs: list[str]


def components(networks: Networks) -> Iterator[Component]:
    """Describe the four networks of a bundle."""
    text, unet, vae = networks.text_encoder, networks.unet, networks.vae
    length = text.config.max_position_embeddings
    scale = 2 ** (len(vae.config.block_out_channels) - 1)
    size = {0: "batch_size", 2: "height", 3: "width"}
    sequence = {0: "batch_size", 1: "sequence_length"}
    yield Component(
        folder="text_encoder",
        weights=TEXT_WEIGHTS,
        module=TextEncoder(text),
        inputs=lambda b, h, w: {"input_ids": torch.randint(text.config.vocab_size, (b, length))},
        axes={"input_ids": sequence},
        outputs=["last_hidden_state", "pooler_output"],
    )
    yield Component(
        folder="unet",
        weights=DIFFUSERS_WEIGHTS,
        module=Unet(unet),
        inputs=lambda b, h, w: {
            "sample": torch.randn(b, unet.config.in_channels, h, w),
            "timestep": torch.tensor([499]),
            "encoder_hidden_states": torch.randn(b, length, unet.config.cross_attention_dim),
            "timestep_cond": torch.randn(b, unet.config.time_cond_proj_dim),
        },
        axes={
            "sample": size,
            "encoder_hidden_states": sequence,
            "timestep_cond": {0: "batch_size"},
        },
        outputs=["out_sample"],
    )
    yield Component(
        folder="vae_encoder",
        weights=DIFFUSERS_WEIGHTS,
        module=nn.Sequential(vae.encoder, vae.quant_conv),
        inputs=lambda b, h, w: {"sample": torch.rand(b, 3, scale * h, scale * w) * 2 - 1},
        axes={"sample": size},
        outputs=["latent_parameters"],
    )
    yield Component(
        folder="vae_decoder",
        weights=DIFFUSERS_WEIGHTS,
        module=nn.Sequential(vae.post_quant_conv, vae.decoder),
        inputs=lambda b, h, w: {"latent_sample": torch.randn(b, vae.config.latent_channels, h, w)},
        axes={"latent_sample": {0: "batch_size", 2: "latent_height", 3: "latent_width"}},
        outputs=["sample"],
    )


def write_graph(component: Component, folder: Path) -> None:
    """Write a network's model.onnx beside its weights."""
    inputs = component.inputs(*TRACED_SIZE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's deprecations of its own parts
        program = torch.onnx.export(
            component.module.eval(),
            tuple(inputs.values()),
            input_names=list(inputs),
            output_names=component.outputs,
            dynamic_shapes=[component.axes.get(name, {}) for name in inputs],
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    model = program.model_proto
    model.ir_version = IR_VERSION
    strip_remarks(model.graph)
    point_to_weights(model.graph, folder / component.weights)
    onnx.save(model, folder / "model.onnx")
    onnx.checker.check_model(folder / "model.onnx", full_check=True)


def strip_remarks(graph: onnx.GraphProto) -> None:
    """Drop the exporter's notes: where in the source each node came from, guessed shapes."""
    for noted in (graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        noted.ClearField("metadata_props")
        noted.ClearField("doc_string")
    graph.ClearField("value_info")


def point_to_weights(graph: onnx.GraphProto, weights: Path) -> None:
    """Make the graph's weights offsets into a safetensors file of float16.

    The exporter renames and transposes weights as it likes, so each is known by its values.
    """
    stored = safetensors.numpy.load_file(weights)
    wide = {key: array.astype(np.float32) for key, array in stored.items()}
    turned = {fingerprint(array.T): key for key, array in wide.items() if array.ndim == 2}
    plain = {fingerprint(array): key for key, array in wide.items()}

    spans = tensor_spans(weights)
    constants, widening = {}, []
    for constant in graph.initializer:
        mark = fingerprint(numpy_helper.to_array(constant))
        key = plain.get(mark) or turned.get(mark)
        if key is None:
            if constant.ByteSize() > LARGEST_CONSTANT:
                raise ValueError(f"{constant.name} is not among the weights in {weights}")
            constants[constant.name] = constant
        else:
            stored_as = f"{key}.float16"
            constants[stored_as] = external_tensor(stored_as, stored[key], weights.name, spans[key])
            widening += widen(stored_as, constant.name, transpose=mark not in plain)
    nodes = [*widening, *graph.node]
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(constants.values())
    graph.node.extend(nodes)


def fingerprint(array: np.ndarray) -> tuple[str, tuple[int, ...], bytes]:
    """Tell an array from every other by type, shape and values."""
    return array.dtype.name, array.shape, array.tobytes()


def external_tensor(name: str, array: np.ndarray, file: str, span: tuple[int, int]) -> TensorProto:
    """Describe a float16 array that lies at a span of bytes in a file."""
    tensor = TensorProto(name=name, dims=array.shape, data_type=TensorProto.FLOAT16)
    tensor.data_location = TensorProto.EXTERNAL
    for field, value in ("location", file), ("offset", span[0]), ("length", span[1] - span[0]):
        tensor.external_data.add(key=field, value=str(value))
    return tensor


def widen(source: str, target: str, transpose: bool) -> list[onnx.NodeProto]:
    """Make the nodes that turn a float16 weight into the constant that the graph uses."""
    if not transpose:
        return [helper.make_node("Cast", [source], [target], to=TensorProto.FLOAT)]
    between = f"{target}.transposed"
    return [
        helper.make_node("Transpose", [source], [between], perm=[1, 0]),
        helper.make_node("Cast", [between], [target], to=TensorProto.FLOAT),
    ]


def tensor_spans(path: Path) -> dict[str, tuple[int, int]]:
    """Read from which byte to which byte of a safetensors file each tensor lies.

    The format (https://github.com/huggingface/safetensors#format): the length of the header in 8
    bytes, little-endian; the header in JSON; the tensors, their offsets counted from its end.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    base = 8 + length
    return {
        key: (base + entry["data_offsets"][0], base + entry["data_offsets"][1])
        for key, entry in header.items()
    }


def check_graph(component: Component, folder: Path) -> None:
    """Compare a graph in ONNX Runtime with the same weights in torch, at several sizes."""
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    for batch, height, width in CHECKED_SIZES:
        inputs = component.inputs(batch, height, width)
        expected = component.module(*inputs.values())
        got = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
        pairs = zip(got, expected if isinstance(expected, tuple) else [expected], strict=True)
        difference = max(float(np.abs(array - tensor.numpy()).max()) for array, tensor in pairs)
        case = f"{component.folder}, batch {batch}, latents {height}x{width}"
        print(f"{case}: max abs difference {difference:.1e}")
        if not difference <= TOLERANCE:
            raise SystemExit(f"{case}: ONNX Runtime and torch differ by more than {TOLERANCE}")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="the folder that a training run left")
    parser.add_argument("out", type=Path, help="the bundle to write")
    args = parser.parse_args()
    export(args.run, args.out)


if __name__ == "__main__":
    main()

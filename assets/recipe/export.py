"""Write trained networks as a bundle whose weights serve torch and ONNX Runtime alike.

    python export.py WEIGHTS OUT

WEIGHTS is what a training run leaves: {text,unet,vae}_config.json, the state dicts {text,unet,vae}.safetensors (or in
parts: unet_a, unet_b), and vocab.json, which maps the words that were trained to rows of the token embedding.

In OUT each network has its float16 weights in a safetensors file that diffusers and transformers load, and beside it a
model.onnx that holds the graph alone: its initializers are external data, that is offsets into the same safetensors
file, widened to float32 by a Cast that ONNX Runtime folds when it opens the graph. The arithmetic is float32.
"""

import argparse
import io
import json
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnxruntime
import torch
from diffusers import AutoencoderKL, LCMScheduler, UNet2DConditionModel
from onnx.external_data_helper import set_external_data
from safetensors.torch import load_file, save
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

import vocabulary

OPSET = 17
TOLERANCE = 1e-4
UNKNOWN = "<unk>"
# Latents as (batch, height, width): what the graphs are compared at. All sizes are free, in multiples of 4.
CHECKED_SIZES = (1, 32, 32), (2, 32, 32), (1, 24, 40)
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
    text_encoder: CLIPTextModel
    unet: UNet2DConditionModel
    vae: AutoencoderKL


class TextEncoder(nn.Module):
    def __init__(self, model: CLIPTextModel) -> None:
        super().__init__()
        # transformers 4 has this module inside, and the published checkpoints have its name in their keys.
        self.text_model = getattr(model, "text_model", model)

    def forward(self, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        output = self.text_model(input_ids)
        return output.last_hidden_state, output.pooler_output


class Unet(nn.Module):
    def __init__(self, unet: UNet2DConditionModel) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, sample: Tensor, timestep: Tensor, text: Tensor, guidance: Tensor) -> Tensor:
        return self.unet(sample, timestep, text, timestep_cond=guidance, return_dict=False)[0]


class VaeEncoder(nn.Module):
    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.encoder, self.quant_conv = vae.encoder, vae.quant_conv

    def forward(self, sample: Tensor) -> Tensor:
        return self.quant_conv(self.encoder(sample))


class VaeDecoder(nn.Module):
    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.decoder, self.post_quant_conv = vae.decoder, vae.post_quant_conv

    def forward(self, latent_sample: Tensor) -> Tensor:
        return self.decoder(self.post_quant_conv(latent_sample))


@dataclass(frozen=True)
class Component:
    """A network as ONNX Runtime sees it, under the names that optimum gives to inputs and outputs."""

    folder: str
    module: nn.Module
    weights: str
    outputs: tuple[str, ...]
    axes: dict[str, dict[int, str]]
    inputs: Callable[[int, int, int], dict[str, Tensor]]  # batch, height, width of the latents -> an example


def components(networks: Networks) -> Iterator[Component]:
    text, unet, vae = networks.text_encoder, networks.unet, networks.vae
    size = {0: "batch_size", 2: "height", 3: "width"}
    latent_size = {0: "batch_size", 2: "latent_height", 3: "latent_width"}
    sequence = {0: "batch_size", 1: "sequence_length"}
    length, width = text.config.max_position_embeddings, text.config.hidden_size
    scale = 2 ** (len(vae.config.block_out_channels) - 1)
    yield Component(
        folder="text_encoder",
        module=TextEncoder(text),
        weights="model.safetensors",
        outputs=("last_hidden_state", "pooler_output"),
        axes={"input_ids": sequence, "last_hidden_state": sequence, "pooler_output": {0: "batch_size"}},
        inputs=lambda b, h, w: {"input_ids": torch.randint(text.config.vocab_size, (b, length))},
    )
    yield Component(
        folder="unet",
        module=Unet(unet),
        weights="diffusion_pytorch_model.safetensors",
        outputs=("out_sample",),
        axes={"sample": size, "encoder_hidden_states": sequence, "timestep_cond": {0: "batch_size"}, "out_sample": size},
        inputs=lambda b, h, w: {
            "sample": torch.randn(b, unet.config.in_channels, h, w),
            "timestep": torch.tensor([499]),
            "encoder_hidden_states": torch.randn(b, length, width),
            "timestep_cond": torch.randn(b, unet.config.time_cond_proj_dim),
        },
    )
    yield Component(
        folder="vae_encoder",
        module=VaeEncoder(vae),
        weights="diffusion_pytorch_model.safetensors",
        outputs=("latent_parameters",),
        axes={"sample": size, "latent_parameters": latent_size},
        inputs=lambda b, h, w: {"sample": torch.rand(b, vae.config.in_channels, scale * h, scale * w) * 2 - 1},
    )
    yield Component(
        folder="vae_decoder",
        module=VaeDecoder(vae),
        weights="diffusion_pytorch_model.safetensors",
        outputs=("sample",),
        axes={"latent_sample": latent_size, "sample": size},
        inputs=lambda b, h, w: {"latent_sample": torch.randn(b, vae.config.latent_channels, h, w)},
    )


def read_weights(folder: Path) -> Networks:
    """Load what a training run left, the token embedding still word by word."""
    text = CLIPTextModel(CLIPTextConfig.from_json_file(folder / "text_config.json"))
    unet = UNet2DConditionModel.from_config(read_json(folder / "unet_config.json"))
    vae = AutoencoderKL.from_config(read_json(folder / "vae_config.json"))
    for name, model in ("text", text), ("unet", unet), ("vae", vae):
        state: dict[str, Tensor] = {}
        for part in [*folder.glob(f"{name}.safetensors"), *folder.glob(f"{name}_?.safetensors")]:
            state |= load_file(part)
        model.load_state_dict({key: tensor.float() for key, tensor in state.items()})
        model.eval().requires_grad_(False)
    return Networks(text, unet, vae)


def read_bundle(folder: Path) -> Networks:
    """Load the torch networks, in float32, from the very files that the graphs of a bundle point into."""
    text = CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32)
    unet = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float32)
    vae = AutoencoderKL.from_config(read_json(folder / "vae_decoder" / "config.json"))
    halves = (load_file(folder / half / "diffusion_pytorch_model.safetensors") for half in ("vae_encoder", "vae_decoder"))
    vae.load_state_dict({key: tensor.float() for half in halves for key, tensor in half.items()})
    for model in text, unet, vae:
        model.eval().requires_grad_(False)
    return Networks(text, unet, vae)


def spread_words(model: CLIPTextModel, words: dict[str, int], tokens: dict[str, int]) -> CLIPTextModel:
    """Return the text encoder with a row for every token of the vocabulary instead of one a word."""
    rows = {word: row for word, row in words.items() if word != UNKNOWN}
    state = model.state_dict()
    for key in [key for key in state if key.endswith("token_embedding.weight")]:
        state[key] = state[key][vocabulary.token_rows(rows, words[UNKNOWN], tokens)]
    bos, eos = tokens[vocabulary.BOS], tokens[vocabulary.EOS]
    ids = {"bos_token_id": bos, "eos_token_id": eos, "pad_token_id": eos}
    config = {**model.config.to_dict(), **ids, "vocab_size": len(tokens), "architectures": ["CLIPTextModel"]}
    spread = CLIPTextModel(CLIPTextConfig.from_dict(config))
    spread.load_state_dict(state)
    return spread.eval().requires_grad_(False)


def trace(component: Component) -> onnx.ModelProto:
    """Export to ONNX, each weight an initializer under its name in the module."""
    inputs = component.inputs(*CHECKED_SIZES[1])
    file = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of shapes in Python that the trace keeps, and of the older exporter itself
        torch.onnx.export(
            component.module,
            tuple(inputs.values()),
            file,
            input_names=list(inputs),
            output_names=list(component.outputs),
            dynamic_axes=component.axes,
            opset_version=OPSET,
            do_constant_folding=False,  # it would transpose the weights, and rename them
            dynamo=False,
        )
    return onnx.load_from_string(file.getvalue())


def weight_keys(component: Component) -> dict[str, str]:
    """Map the names of a component's parameters to their keys in its safetensors file."""
    return {name: name.removeprefix("unet.") for name, _ in component.module.named_parameters()}


def point_to_weights(model: onnx.ModelProto, keys: dict[str, str], weights: Path) -> None:
    """Make the graph's weights offsets into a safetensors file, each widened to float32 by a Cast."""
    spans = tensor_spans(weights)
    wide = {}
    for tensor in model.graph.initializer:
        if tensor.name in keys:
            key = keys[tensor.name]
            wide[tensor.name] = f"{key}.float32"
            tensor.name = key
            tensor.data_type = onnx.TensorProto.FLOAT16
            start, end = spans[key]
            set_external_data(tensor, weights.name, offset=start, length=end - start)
            tensor.ClearField("raw_data")
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = wide.get(name, name)
    casts = [
        onnx.helper.make_node("Cast", [keys[name]], [output], name=output, to=onnx.TensorProto.FLOAT)
        for name, output in wide.items()
    ]
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def tensor_spans(path: Path) -> dict[str, tuple[int, int]]:
    """Read where each tensor of a safetensors file lies, as byte offsets from the start of the file.

    The format: 8 bytes of little-endian header length, the header as JSON, then the tensors, whose offsets count from
    the header's end (https://github.com/huggingface/safetensors, section Format).
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    base = 8 + length
    return {
        key: (base + entry["data_offsets"][0], base + entry["data_offsets"][1])
        for key, entry in header.items()
        if key != "__metadata__"
    }


def write_component(component: Component, folder: Path) -> None:
    """Write a network's weights and, beside them, its graph."""
    keys = weight_keys(component)
    state = component.module.state_dict()
    half = {key: state[name].half().contiguous() for name, key in keys.items()}
    (folder / component.weights).write_bytes(save(half, metadata={"format": "pt"}))
    model = trace(component)
    point_to_weights(model, keys, folder / component.weights)
    onnx.save(model, folder / "model.onnx")
    onnx.checker.check_model(folder / "model.onnx", full_check=True)


def write_bundle(networks: Networks, out: Path) -> None:
    """Write all of a bundle but its tokenizer."""
    (out / "model_index.json").write_text(json.dumps(MODEL_INDEX, indent=2) + "\n", encoding="utf-8")
    LCMScheduler().save_pretrained(out / "scheduler")
    networks.text_encoder.config.save_pretrained(out / "text_encoder")
    networks.unet.save_config(out / "unet")
    networks.vae.save_config(out / "vae_encoder")
    networks.vae.save_config(out / "vae_decoder")
    for component in components(networks):
        write_component(component, out / component.folder)


def check_bundle(folder: Path) -> None:
    """Compare each graph in ONNX Runtime with the same weights in torch."""
    for component in components(read_bundle(folder)):
        session = onnxruntime.InferenceSession(folder / component.folder / "model.onnx")
        for size in CHECKED_SIZES:
            inputs = component.inputs(*size)
            expected = component.module(*inputs.values())
            got = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
            pairs = zip(got, expected if isinstance(expected, tuple) else (expected,))
            difference = max(float((torch.from_numpy(array) - tensor).abs().max()) for array, tensor in pairs)
            print(f"{component.folder:13} batch {size[0]}, latents {size[1]}x{size[2]}: max abs difference {difference:.1e}")
            if not difference <= TOLERANCE:
                raise SystemExit(f"{component.folder}: ONNX Runtime and torch differ by {difference}, not {TOLERANCE}")


def export(weights: Path, out: Path) -> None:
    """Turn a training run's folder into a bundle, replacing the networks that `out` holds."""
    networks, words = read_weights(weights), read_json(weights / "vocab.json")
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as name:
        staged = Path(name)
        counts = dict.fromkeys(words.keys() - {vocabulary.BOS, vocabulary.EOS, UNKNOWN}, 1)
        tokens = vocabulary.write_tokenizer(counts, staged / "tokenizer")
        write_bundle(Networks(spread_words(networks.text_encoder, words, tokens), networks.unet, networks.vae), staged)
        check_bundle(staged)
        for path in staged.iterdir():
            if path.is_dir():
                shutil.rmtree(out / path.name, ignore_errors=True)
            path.replace(out / path.name)


def read_json(path: Path) -> dict[str, object]:
    return json.loads(path.read_text(encoding="utf-8"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    export(args.weights, args.out)


if __name__ == "__main__":
    main()

"""The tiny bundle as other exporters would have written it.

Each function turns a bundle in the form of today's optimum into one of the wild, by editing the
graphs' inputs and outputs; the networks inside stay the same.
"""

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper

FLOAT, HALF, INT32, INT64 = (
    TensorProto.FLOAT,
    TensorProto.FLOAT16,
    TensorProto.INT32,
    TensorProto.INT64,
)
Dims = Sequence[int | str]
HEIGHT, WIDTH = 32, 32  # of `fixed_size`, in pixels


def timestep_of_one(bundle: Path) -> None:
    """int64 [1], as exporters for devices write it."""
    _edit(bundle / "unet", lambda model: _wrap_timestep(model, INT64, [1]))


def timestep_of_batch(bundle: Path) -> None:
    """float32, one an item: exports of 2023."""
    _edit(bundle / "unet", lambda model: _wrap_timestep(model, FLOAT, ["batch_size"]))


def int32_ids(bundle: Path) -> None:
    """Token ids of the older exports."""
    dims = ["batch_size", "sequence_length"]
    _edit(bundle / "text_encoder", lambda model: _wrap_input(model, "input_ids", INT32, dims))


def latents_of_four_channels(bundle: Path) -> None:
    """An encoder whose graph ends in latents; here their mean, so that it is no lottery."""
    _edit(bundle / "vae_encoder", _keep_mean)


def half_precision(bundle: Path) -> None:
    """float16 inputs and outputs."""
    for folder, names in (
        ("text_encoder", ()),
        ("unet", ("sample", "encoder_hidden_states", "timestep_cond")),
        ("vae_encoder", ("sample",)),
        ("vae_decoder", ("latent_sample",)),
    ):
        _edit(bundle / folder, partial(_halve, names=names))


def external_data(bundle: Path) -> None:
    """Weights in model.onnx_data, as every network of more than 2 GB has them."""
    for path in bundle.glob("*/model.onnx"):
        model = onnx.load(path)
        onnx.save(model, path, save_as_external_data=True, location="model.onnx_data")


def fixed_size(bundle: Path) -> None:
    """Compiled for one image of HEIGHT x WIDTH, as a Rockchip board would want it."""
    sizes = {
        "batch_size": 1,
        "sequence_length": 77,
        "latent_height": HEIGHT // 8,
        "latent_width": WIDTH // 8,
    }
    pixels, latents = (HEIGHT, WIDTH), (HEIGHT // 8, WIDTH // 8)
    for folder, (height, width) in (
        ("text_encoder", pixels),
        ("unet", latents),
        ("vae_encoder", pixels),
        ("vae_decoder", pixels),
    ):
        known = {**sizes, "height": height, "width": width}
        _edit(bundle / folder, partial(_fix_dims, known=known))


def one_tokenizer_file(bundle: Path) -> None:
    """tokenizer.json in the place of vocab.json and merges.txt."""
    folder = bundle / "tokenizer"
    vocab, merges = folder / "vocab.json", folder / "merges.txt"
    pairs = [line.split() for line in merges.read_text(encoding="utf-8").splitlines()[1:]]
    model = {"type": "BPE", "vocab": json.loads(vocab.read_text("utf-8")), "merges": pairs}
    (folder / "tokenizer.json").write_text(json.dumps({"model": model}))
    vocab.unlink()
    merges.unlink()


def spatial_scaling(bundle: Path) -> None:
    """Some exporters write the VAE's spatial factor in the place of its scaling factor."""
    for folder in ("vae_encoder", "vae_decoder"):
        path = bundle / folder / "config.json"
        config = json.loads(path.read_text())
        path.write_text(json.dumps({**config, "scaling_factor": 8}))


EXACT: tuple[Callable[[Path], None], ...] = (
    timestep_of_one,
    timestep_of_batch,
    int32_ids,
    latents_of_four_channels,
    external_data,
    one_tokenizer_file,
    spatial_scaling,
)


def _edit(folder: Path, change: Callable[[ModelProto], None]) -> None:
    path = folder / "model.onnx"
    model = onnx.load(path)
    change(model)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def _wrap_timestep(model: ModelProto, kind: int, dims: Dims) -> None:
    """The first of a list of timesteps, as the int64 scalar that the graph goes on with."""
    zero = helper.make_tensor("zero", INT64, [], [0])
    model.graph.initializer.append(zero)
    first = helper.make_node("Gather", ["timestep", "zero"], ["first_timestep"])
    cast = helper.make_node("Cast", ["first_timestep"], ["inner_timestep"], to=INT64)
    _replace_input(model, "timestep", helper.make_tensor_value_info("timestep", kind, dims))
    _prepend(model, [first, cast])


def _wrap_input(model: ModelProto, name: str, kind: int, dims: Dims) -> None:
    old = _named(model.graph.input, name).type.tensor_type.elem_type
    _replace_input(model, name, helper.make_tensor_value_info(name, kind, dims))
    _prepend(model, [helper.make_node("Cast", [name], [f"inner_{name}"], to=old)])


def _halve(model: ModelProto, names: Sequence[str]) -> None:
    for name in names:
        _wrap_input(model, name, HALF, _dims(_named(model.graph.input, name)))
    for output in model.graph.output:
        name, inner = output.name, f"inner_{output.name}"
        for node in model.graph.node:
            node.input[:] = [inner if used == name else used for used in node.input]
            node.output[:] = [inner if made == name else made for made in node.output]
        model.graph.node.append(helper.make_node("Cast", [inner], [name], to=HALF))
        output.type.tensor_type.elem_type = HALF


def _keep_mean(model: ModelProto) -> None:
    (output,) = model.graph.output
    dims = _dims(output)
    parts = ["latent_sample", "logvar"]
    model.graph.node.append(helper.make_node("Split", [output.name], parts, axis=1))
    shape = [dims[0], 4, *dims[2:]]
    output.CopyFrom(helper.make_tensor_value_info("latent_sample", FLOAT, shape))


def _fix_dims(model: ModelProto, known: dict[str, int]) -> None:
    for value in (*model.graph.input, *model.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_value = known.get(dim.dim_param, 0) or 1
    model.graph.ClearField("value_info")


def _replace_input(model: ModelProto, name: str, value: Any) -> None:
    """Declare an input anew; what used it, uses inner_NAME."""
    _named(model.graph.input, name).CopyFrom(value)
    for node in model.graph.node:
        node.input[:] = [f"inner_{name}" if used == name else used for used in node.input]


def _prepend(model: ModelProto, nodes: list[NodeProto]) -> None:
    rest = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *rest])


def _named(values: Any, name: str) -> Any:
    return next(value for value in values if value.name == name)


def _dims(value: Any) -> list[int | str]:
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]

"""The inputs and outputs of an ONNX file, and the changes that the converter needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lcmcore.errors import NetworkError, RuntimeUnavailableError, first_line
from lcmcore.runtime import TensorSpec
from lcmcore.util.placeholder import placeholders
from runtimes.rknn.shapes import OPTIONAL_INPUTS, Shape
from runtimes.rknn.toolkit import INSTALL

if TYPE_CHECKING:
    import onnx

NEWEST_OPSET = 19  # of those that rknn-toolkit2 2.5.0 converts
_TIMESTEP = "timestep"
_SCALAR = "timestep_rank_0"


@dataclass(frozen=True)
class OnnxFile:
    """An ONNX file as the converter sees it; shapes as declared, None for free dimensions."""

    component: str
    path: Path
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    cut: bytes | None = None  # the model without the noise that the file draws

    @classmethod
    def read(cls, component: str, path: Path) -> OnnxFile:
        """Read the graph without its weights; raises NetworkError if it cannot be converted."""
        for at, found in placeholders(path.parent):
            if at.suffix != ".rknn":
                raise NetworkError(component, f"{at}: {found}")
        model = _load(component, path, weights=False)
        cut = _without_draw(component, path)
        if cut is not None:
            del model.graph.output[:]
            model.graph.output.extend(cut.graph.output)
        opset = max((entry.version for entry in model.opset_import if not entry.domain), default=0)
        if opset > NEWEST_OPSET:
            raise NetworkError(
                component,
                f"{path} has opset {opset}, and rknn-toolkit2 converts up to {NEWEST_OPSET}:"
                " export it again, e.g. with `lcm build onnx`",
            )
        weights = {tensor.name for tensor in model.graph.initializer}
        inputs = tuple(_spec(value) for value in model.graph.input if value.name not in weights)
        outputs = tuple(_spec(value) for value in model.graph.output)
        return cls(component, path, inputs, outputs, cut and cut.SerializeToString())

    def shapes(self, usual: Mapping[str, Shape]) -> dict[str, Shape]:
        """The shape of each input, in the file's order; `usual` are the shapes at the wanted size.

        Raises NetworkError if the file holds another network, or is fixed to another size.
        """
        names = {spec.name for spec in self.inputs}
        if len(usual) == len(names) == 1:
            usual = dict(zip(names, usual.values(), strict=True))
        if not set(usual) - OPTIONAL_INPUTS <= names <= set(usual):
            listed = ", ".join(map(str, self.inputs))
            raise NetworkError(
                self.component, f"{self.path} holds another network: it takes {listed}"
            )
        return {spec.name: self._shape(spec, usual[spec.name]) for spec in self.inputs}

    def at(self, shapes: Mapping[str, Shape]) -> list[TensorSpec]:
        """The inputs with these shapes."""
        return [TensorSpec(spec.name, shapes[spec.name], spec.dtype) for spec in self.inputs]

    def fold(self, folder: Path, at: Mapping[str, Shape]) -> Path:
        """The network at these input shapes, its constants folded; a file in the empty `folder`.

        All dimensions are fixed, and a timestep of rank 0 gets the shape [1]: rknn-toolkit2 builds
        a network with an input of rank 0, but cannot run it. ONNX Runtime reads the weights
        where they lie and writes them beside the new file: none is loaded here. Raises
        NetworkError.
        """
        import onnx
        import onnxruntime

        from runtimes.onnx.model_files import external_files

        target = folder / "folded.onnx"
        try:
            external_files(self.path)  # a stranger's model may name any file
            model = onnx.load_model_from_string(self.cut) if self.cut is not None else None
            model = model or _load(self.component, self.path, weights=False)
            _fix_inputs(model, at)
            options = onnxruntime.SessionOptions()
            options.log_severity_level = 4  # fatal only: errors are raised as exceptions
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
            options.optimized_model_filepath = str(target)
            for key, value in {
                "model_external_initializers_file_folder_path": str(self.path.parent.resolve()),
                "optimized_model_external_initializers_file_name": "folded.weights",
                "optimized_model_external_initializers_min_size_in_bytes": "1024",
                "disable_prepacking": "1",
            }.items():
                options.add_session_config_entry(f"session.{key}", value)
            onnxruntime.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except NetworkError:
            raise
        except Exception as error:  # ONNX Runtime's, protobuf's and the system's share no base
            raise NetworkError(
                self.component, f"cannot read {self.path}: {first_line(error)}"
            ) from error
        return target

    def _shape(self, spec: TensorSpec, usual: Shape) -> Shape:
        if spec.name == _TIMESTEP:
            return (1,)
        if len(spec.shape) != len(usual) or any(
            dim not in {None, want} for dim, want in zip(spec.shape, usual, strict=True)
        ):
            wanted = TensorSpec(spec.name, usual, spec.dtype)
            raise NetworkError(
                self.component,
                f"{self.path} takes {spec}, and this size needs {wanted}: choose the size that"
                " it was exported for, or export it for any size",
            )
        return usual


def _load(component: str, path: Path, weights: bool) -> onnx.ModelProto:
    try:
        import onnx
    except ImportError as error:
        raise RuntimeUnavailableError(f"onnx is not installed: {INSTALL}") from error
    try:
        return onnx.load(str(path), load_external_data=weights)
    except Exception as error:  # protobuf's, onnx's and the system's errors share no base class
        raise NetworkError(component, f"cannot read {path}: {first_line(error)}") from error


def _without_draw(component: str, path: Path) -> onnx.ModelProto | None:
    """The model without the noise that it draws, None if it draws none; raises NetworkError."""
    from runtimes.onnx import sampling

    try:
        drawn = sampling.random_operators(path)
        if not drawn:
            return None
        import onnx
        import onnxruntime

        model = sampling.without_draw(path, onnxruntime)
        if model is None or sampling.random_operators(model):
            raise NetworkError(
                component,
                f"{path} draws noise inside the graph ({', '.join(drawn)}), which cannot be"
                " converted: export it again, e.g. with `lcm build onnx`",
            )
    except (ValueError, OSError) as error:
        raise NetworkError(component, f"cannot read {path}: {first_line(error)}") from error
    return onnx.shape_inference.infer_shapes(onnx.load_model_from_string(model))


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    import onnx

    kind = value.type.tensor_type
    shape = tuple(d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim)
    return TensorSpec(value.name, shape, onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name)


def _fix_inputs(model: onnx.ModelProto, at: Mapping[str, Shape]) -> None:
    """Give the inputs these shapes."""
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        if value.name == _TIMESTEP and not len(dims):
            _widen_timestep(model)
        for dim, length in zip(dims, at.get(value.name, ()), strict=False):
            dim.Clear()
            dim.dim_value = length


def _widen_timestep(model: onnx.ModelProto) -> None:
    """Give the input `timestep` the shape [1], and squeeze it where it is used."""
    import onnx

    graph = model.graph
    value = next(value for value in graph.input if value.name == _TIMESTEP)
    value.type.tensor_type.shape.dim.add().dim_value = 1
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name == _TIMESTEP:
                node.input[index] = _SCALAR
    graph.node.insert(0, onnx.helper.make_node("Squeeze", [_TIMESTEP], [_SCALAR]))

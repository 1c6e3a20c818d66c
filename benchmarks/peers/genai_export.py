"""A bundle of ONNX networks as OpenVINO GenAI opens it: the same weights, float32.

python -m benchmarks.peers.genai_export BUNDLE FOLDER
"""

import json
import shutil
import sys
from pathlib import Path

import openvino
import openvino.opset13 as opset
from openvino_tokenizers import convert_tokenizer
from transformers import CLIPTokenizerFast

NETWORKS = ("text_encoder", "unet", "vae_encoder", "vae_decoder")
_INDEX = {
    "_class_name": "LatentConsistencyModelPipeline",
    "scheduler": ["diffusers", "LCMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


def export(bundle: Path, folder: Path) -> None:
    """Write the folder, which must not be there."""
    folder.mkdir(parents=True)
    (folder / "model_index.json").write_text(json.dumps(_INDEX))
    shutil.copytree(bundle / "scheduler", folder / "scheduler")
    core = openvino.Core()
    for name in NETWORKS:
        model = core.read_model(bundle / name / "model.onnx")
        if name == "unet":
            _with_whole_timesteps(model)
        target = folder / name
        target.mkdir()
        shutil.copy(bundle / name / "config.json", target)
        openvino.save_model(model, target / "openvino_model.xml", compress_to_fp16=False)
    tokenizer = convert_tokenizer(CLIPTokenizerFast.from_pretrained(bundle / "tokenizer"))
    (folder / "tokenizer").mkdir()
    openvino.save_model(tokenizer, folder / "tokenizer" / "openvino_tokenizer.xml")


def _with_whole_timesteps(model: openvino.Model) -> None:
    """Let the UNet take an int64 timestep of shape [1], as GenAI gives it, not a float scalar."""
    (old,) = (each for each in model.get_parameters() if "timestep" in each.output(0).names)
    new = opset.parameter([1], openvino.Type.i64, name="timestep")
    new.output(0).set_names({"timestep"})
    converted = opset.squeeze(opset.convert(new, old.get_element_type().get_type_name()), [0])
    for target in old.output(0).get_target_inputs():
        target.replace_source_output(converted.output(0))
    at = model.get_parameters().index(old)
    model.replace_parameter(at, new)
    model.validate_nodes_and_infer_types()


if __name__ == "__main__":
    export(Path(sys.argv[1]), Path(sys.argv[2]))

"""A bundle of ONNX networks as OpenVINO GenAI opens it: the same weights, float32.

python -m benchmarks.peers.genai_export BUNDLE FOLDER
"""

import json
import shutil
import sys
from pathlib import Path

import openvino
from openvino_tokenizers import convert_tokenizer
from transformers import CLIPTokenizer

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
        target = folder / name
        target.mkdir()
        shutil.copy(bundle / name / "config.json", target)
        openvino.save_model(model, target / "openvino_model.xml", compress_to_fp16=False)
    tokenizer = convert_tokenizer(CLIPTokenizer.from_pretrained(bundle / "tokenizer"))
    (folder / "tokenizer").mkdir()
    openvino.save_model(tokenizer, folder / "tokenizer" / "openvino_tokenizer.xml")


if __name__ == "__main__":
    export(Path(sys.argv[1]), Path(sys.argv[2]))

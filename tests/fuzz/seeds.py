"""What the mutator starts from: small files of every kind, most of them made here."""

from __future__ import annotations

import io
import json
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, features

from lcmcore.exif import encode_with_exif
from lcmcore.png import encode_png
from tests.fuzz.items import Item, Link, read
from tests.onnx.test_runtime import OUTSIDE, write_weighted
from tests.rknn import fixtures, programs

TINY = Path(__file__).parents[1] / "tiny"
RECORD = {
    "Software": "lcmcore 0.1.0", "prompt": "a lake", "seed": "7", "size": "64x64", "steps": "4",
    "strength": "0.5", "model": "models/lcm", "init": "photo.png", "runtime": "onnx",
    "component-runtime": "unet=onnx vae_encoder=onnx", "negative-prompt": "rain",
}  # fmt: skip


def photo(mode: str = "RGB", size: tuple[int, int] = (24, 16)) -> Image.Image:
    rows, columns = np.mgrid[0 : size[1], 0 : size[0]]
    pixels = np.stack([rows * 9, columns * 9, rows + columns], axis=2).astype(np.uint8)
    return Image.fromarray(pixels).convert(mode)


def _encoded(form: str, mode: str = "RGB", **options: object) -> bytes:
    return _saved(photo(mode), form, **options)


def _saved(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def _exif(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E], exif[0x9286] = orientation, "lake", b"ASCII\0\0\0comment"
    exif.get_ifd(0x8825)[2] = (1.0, 2.0, 3.0)  # GPS
    return exif.tobytes()


def images() -> list[Item]:
    """One of each format and of its variants that decode by other code."""
    Image.init()  # else not all formats are known
    found = {
        "plain.png": _encoded("PNG"),
        "grey16.png": _saved(Image.fromarray(np.full((16, 24), 40_000, np.uint16)), "PNG"),
        "palette.png": _encoded("PNG", "P", transparency=3),
        "alpha.png": _encoded("PNG", "RGBA"),
        "bits.png": _encoded("PNG", "1"),
        "exif.png": _encoded("PNG", exif=_exif(5)),
        "moves.png": _encoded("PNG", save_all=True, append_images=[photo(), photo("RGB")]),
        "plain.jpg": _encoded("JPEG"),
        "exif.jpg": _encoded("JPEG", exif=_exif(6)),
        "cmyk.jpg": _encoded("JPEG", "CMYK", progressive=True),
        "two.mpo": _encoded("MPO", save_all=True, append_images=[photo()]),
        "plain.gif": _encoded("GIF", "P", save_all=True, append_images=[photo("P")]),
        "lzw.tif": _encoded("TIFF", compression="tiff_lzw" if features.check("libtiff") else None),
        "plain.tif": _encoded("TIFF", exif=_exif(8)),
        "float.tif": _encoded("TIFF", "F"),
        "plain.bmp": _encoded("BMP"),
        "plain.tga": _encoded("TGA", compression="tga_rle"),
        "plain.ppm": _encoded("PPM"),
        "plain.pgm": b"P2\n# a comment\n3 2\n255\n1 2 3\n4 5 6\n",
        # Formats that must not be read at all.
        "script.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n%%EOF\n",
        "plain.eps": _encoded("EPS"),
        "plain.ico": _encoded("ICO"),
        "plain.pcx": _encoded("PCX"),
        "plain.pdf": b"%PDF-1.4\n1 0 obj\n<<>>\nendobj\n%%EOF\n",
        "picture.xpm": b'/* XPM */\nstatic char *x[] = {\n"1 1 1 1",\n"a c #000000",\n"a"\n};\n',
    }
    for name, form, module in (
        ("plain.webp", "WEBP", "webp"), ("plain.jp2", "JPEG2000", "jpg_2000"),
        ("plain.avif", "AVIF", "avif"),
    ):  # fmt: skip
        if form in Image.SAVE and features.check(module):
            found[name] = _encoded(form)
    return [{name: content} for name, content in found.items()]


def records() -> list[Item]:
    """Images of ours, with an init image and without."""
    without = {key: text for key, text in RECORD.items() if key not in ("strength", "init")}
    hostile = {
        **RECORD,
        "prompt": "a\ncommand to reproduce it:\nrm -rf ~ \x1b[2J\u202e",
        "negative-prompt": "-o",
        "model": "--help",
    }
    records = RECORD, without, hostile
    pngs = [encode_png(photo(), each) for each in records]
    others = [
        encode_with_exif(photo(), each, suffix) for each in records for suffix in (".jpg", ".webp")
    ]
    return [{"image.png": content} for content in pngs + others]


def _folder_of(names: list[str], root: Path) -> Item:
    return {name: (root / name).read_bytes() for name in names}


def networks() -> list[Item]:
    """model.onnx with its weights inside and outside, and under names that the writer chose."""
    found: list[Item] = [{"model.onnx": (TINY / "lcm" / "vae_decoder" / "model.onnx").read_bytes()}]
    names = ("model.onnx_data", "deep/weights", "model.weights", "folded.onnx", "folded.added")
    for location in (*names, "changed.onnx", "rewritten.onnx"):
        with tempfile.TemporaryDirectory() as name:
            (Path(name) / "deep").mkdir()
            write_weighted(Path(name), **{**OUTSIDE, "location": location})
            found.append(read(Path(name)))
    linked = dict(found[1])
    linked["blob"] = linked["model.onnx_data"]
    linked["model.onnx_data"] = Link("blob")
    return [*found, linked]


def openvino_models() -> list[Item]:
    """A network in OpenVINO's own format, free in size and not."""
    from runtimes.openvino import package

    openvino, core = package.load()
    found = []
    for fixed in (False, True):
        model = core.read_model(str(TINY / "lcm" / "vae_decoder" / "model.onnx"))
        if fixed:
            model.reshape([1, 4, 8, 8])
        with tempfile.TemporaryDirectory() as name:
            openvino.save_model(model, str(Path(name) / "openvino_model.xml"))
            found.append(read(Path(name)))
    return found


def rknn_files() -> list[Item]:
    """The converter's files, without most of their programs, and a small one with its program."""
    found = []
    for component in fixtures.COMPONENTS:
        data = fixtures.read(component)
        end = 64 + int.from_bytes(data[16:24], "little")
        body = data[64 : 64 + 16384]
        short = data[:16] + len(body).to_bytes(8, "little") + data[24:64] + body + data[end:]
        found.append({f"{component}/model.rknn": short})
    return [*found, {"unet/model.rknn": programs.of_group_norm("unet")}]


def bundles() -> list[Item]:
    """Folders with configs alone."""
    configs = [f"{name}/config.json" for name in ("text_encoder", "unet", "vae_encoder")]
    names = [*configs, "vae_decoder/config.json", "scheduler/scheduler_config.json"]
    names += [f"tokenizer/{name}" for name in ("vocab.json", "merges.txt", "tokenizer_config.json")]
    found = _folder_of(names, TINY / "lcm")
    pndm = {
        "_class_name": "PNDMScheduler", "beta_start": 0.001, "beta_end": 0.012,
        "beta_schedule": "linear", "num_train_timesteps": 1000, "trained_betas": None,
        "prediction_type": "v_prediction", "rescale_betas_zero_snr": True,
    }  # fmt: skip
    index = {"_class_name": "LatentConsistencyModelPipeline", "unet": ["diffusers", "UNet"]}
    settings = (
        'runtime = "onnx"\nmemory = "low"\nscaling_factor = 0.18215\nsize_multiple = 64\n'
        "[defaults]\nnum_inference_steps = 4\nguidance_scale = 8.5\n"
        '[unet]\nruntime = "onnx"\nsha256 = "00"\nthreads = 2\nproviders = ["CPUExecutionProvider"]'
        '\n[vae_encoder]\nsize = "64x64"\nlayout = "nhwc"\ncore_mask = "1"\n'
    )
    return [
        found,
        {**found, "lcm.toml": settings.encode(), "model_index.json": json.dumps(index).encode()},
        {**found, "scheduler/scheduler_config.json": json.dumps(pndm).encode()},
        {**found, "unet/model.onnx": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"},
    ]


def tokenizers() -> list[Item]:
    """A slow tokenizer's folder, a fast one's, and both with added tokens."""
    folder = TINY / "lcm" / "tokenizer"
    slow = _folder_of(["vocab.json", "merges.txt", "tokenizer_config.json"], folder)
    vocab = json.loads(slow["vocab.json"])  # type: ignore[arg-type]
    merges = [
        line for line in slow["merges.txt"].decode().splitlines()  # type: ignore[union-attr]
        if line and line[0] != "#"
    ]  # fmt: skip
    added = [
        {"id": len(vocab), "content": "<cat-toy>", "normalized": False, "special": False},
        {"id": len(vocab) + 1, "content": "EasyNegative", "normalized": True, "special": False},
        {"id": vocab["!"], "content": "!", "lstrip": True, "rstrip": True, "special": True},
    ]
    fast = {"model": {"type": "BPE", "vocab": vocab, "merges": merges}, "added_tokens": added}
    special = {"pad_token": "!", "bos_token": {"content": "<|startoftext|>", "lstrip": False}}
    decoder = {str(each["id"]): each for each in added}
    config = {**json.loads(slow["tokenizer_config.json"]), "added_tokens_decoder": decoder}  # type: ignore[arg-type]
    return [
        slow,
        {**slow, "special_tokens_map.json": json.dumps(special).encode(),
         "added_tokens.json": json.dumps({"<cat-toy>": len(vocab)}).encode()},
        {**slow, "tokenizer_config.json": json.dumps(config).encode()},
        {"tokenizer.json": json.dumps(fast).encode(),
         "tokenizer_config.json": slow["tokenizer_config.json"]},
    ]  # fmt: skip


def jobs() -> list[Item]:
    """Lines of jobs, and an init image for them."""
    lines = [
        {"prompt": "a lake", "init_image": "photo.png", "seed": 1, "denoise_strength": 0.5},
        {"prompt": "a forest", "output": "deep/forest", "size": "64x64", "seed": 2},
        {"init_image": "photo.png", "output": "three.png", "num_inference_steps": 2,
         "guidance_scale": 8.0, "negative_prompt": "rain", "strength_mode": "rescale",
         "latent_sampling": "sample", "fit": "cover"},
        {"init_image": "photo.png", "mask": "photo.png", "output": "four", "mask_blur": 2,
         "padding_mask_crop": 4, "invert_mask": True, "expand": "8,0,16,0", "overlay": True},
    ]  # fmt: skip
    text = "\n".join(map(json.dumps, lines)).encode()
    return [{"jobs.jsonl": text, "photo.png": _encoded("PNG")}]


def requests() -> list[Item]:
    """A job's request as JSON."""
    full = {
        "prompt": "a lake", "size": "64x64", "num_inference_steps": 2, "guidance_scale": 8.5,
        "seed": 7, "denoise_strength": 0.5, "negative_prompt": None, "strength_mode": "truncate",
        "latent_sampling": "mean", "fit": "stretch", "init": True, "record": {"key": "text"},
    }  # fmt: skip
    masked = {
        "prompt": "a lake", "size": "64x64", "num_inference_steps": 1, "init": True, "mask": True,
        "padding_mask_crop": 4, "overlay": True, "mask_blur": 2.5, "invert_mask": True,
        "expand": "8,0,16,0",
    }  # fmt: skip
    return [{"request.json": json.dumps(each).encode()} for each in (full, masked)]


def prompts() -> list[Item]:
    """Texts for the tokenizer."""
    texts = (
        "a photo of an astronaut riding a horse",
        "x" * 2000,
        "l'été, 3 cats!",
        "a\u0301 " * 99,
    )
    return [{"prompt.txt": text.encode()} for text in texts]


def weights() -> list[Item]:
    """LoRAs, a textual inversion and parts of checkpoints, as safetensors and of torch."""
    import torch
    from safetensors.torch import save

    import runtimes.onnx.checkpoint.lora  # noqa: F401 - that no item takes the time for it

    up, down = torch.ones(8, 4), torch.ones(4, 8)
    a = "lora_unet_a"
    kohya = {f"{a}.lora_up.weight": up, f"{a}.lora_down.weight": down, f"{a}.alpha": up[0, 0]}
    kohya = {name: tensor.clone() for name, tensor in kohya.items()}
    pair = {"a": up, "b": down}
    loha = {f"{a}.hada_w{n}_{half}": pair[half].clone() for n in (1, 2) for half in pair}
    peft = {"unet.b.lora_A.weight": down.half(), "unet.b.lora_B.weight": up.half()}
    unet = {"model.diffusion_model.input_blocks.0.0.weight": torch.ones(8, 4, 3, 3)}
    adapter = {"lora_adapter_metadata": json.dumps({"unet.r": 4, "unet.lora_alpha": 8})}
    found = [save(each, {"format": "pt"}) for each in (kohya, loha, unet)]
    items: list[Item] = [{"a.safetensors": content} for content in (*found, save(peft, adapter))]
    lightning = {"global_step": 7, "state_dict": {**unet, **kohya}, "hyper_parameters": {"a": 1}}
    embedding = {"string_to_token": {"*": 265}, "string_to_param": {"*": torch.ones(2, 768)}}
    for name, content, is_zip in (
        ("a.ckpt", lightning, True), ("a.ckpt", kohya, False), ("a.pt", embedding, True),
    ):  # fmt: skip
        buffer = io.BytesIO()
        torch.save(content, buffer, _use_new_zipfile_serialization=is_zip)
        items.append({name: buffer.getvalue()})
    return items

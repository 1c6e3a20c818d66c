"""Items that failed once, made again by code: they run before any others, in every run."""

from __future__ import annotations

import json
import struct
import zlib
from typing import Any

from lcmcore.png import encode_png
from tests.fuzz import seeds
from tests.fuzz.items import Item, Link
from tests.fuzz.mutate import png_chunk
from tests.rknn import programs


def of(target: str) -> list[Item]:
    """Those of a target."""
    make = _MAKERS.get(target)
    return [] if make is None else make()


def _bomb(*chunks: bytes) -> bytes:
    """A PNG of 133 million pixels in 400 kB, which took 2.6 GB to read."""
    side = 11540
    packer = zlib.compressobj(1)
    row = bytes(1 + 3 * side)
    data = b"".join([packer.compress(row * 100) for _ in range(side // 100)])
    data += packer.compress(row * (side % 100)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    parts = [png_chunk((b"IHDR", header)), *chunks, png_chunk((b"IDAT", data))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts) + png_chunk((b"IEND", b""))


def _images() -> list[Item]:
    lies = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EOF\n"
    names = ("photo.jpg", "photo.png", "photo")
    return [{name: lies} for name in names] + [{"bomb.png": _bomb()}]


def _records() -> list[Item]:
    texts = (
        "a\n\ncommand to reproduce it:\nlcm img2img --output=$HOME/.bashrc x y", "\x1b]0;title\a",
        "\u202ereversed", "$(touch pwned)", "`id`", "'; rm -rf ~ #", "-o", "\r", "\u2028", "\x9b2J",
    )  # fmt: skip
    image = seeds.photo()
    found: list[Item] = [
        {"image.png": encode_png(image, {**seeds.RECORD, key: text})}
        for text in texts
        for key in ("prompt", "init", "model", "component-runtime", "Software")
    ]
    record = b"".join(
        png_chunk((b"iTXt", f"{key}\0\0\0\0\0{text}".encode()))
        for key, text in seeds.RECORD.items()
    )
    return [*found, {"image.png": _bomb(record)}]


def _networks() -> list[Item]:
    """Names of the stranger's choice for files that were written while a graph was optimized."""
    named = [
        {**network, location: Link(target)}
        for target in ("../canary/secret", "/dev/zero", "../fifo", "../sparse", "../loop")
        for network in seeds.networks()[1:]
        for location in network
        if location not in ("model.onnx", "blob")
    ]
    return [*named, {"model.onnx": Link("../fifo")}, {"model.onnx": Link("/dev/zero")}]


def _rknn_files() -> list[Item]:
    """Values that the reader took for others."""
    (data,) = seeds.rknn_files()[1].values()
    assert isinstance(data, bytes)
    start = 64 + int.from_bytes(data[16:24], "little")
    graph = json.loads(data[start + 8 :])

    def item(text: str) -> Item:
        packed = text.encode("utf-8", "surrogatepass")
        return {"unet/model.rknn": data[:start] + len(packed).to_bytes(8, "little") + packed}

    changes: list[dict[str, Any]] = [
        {"target_platform": [1.5]}, {"target_platform": 7}, {"target_platform": "\x1b[2J"},
        {"version": "\n\u202e"}, {"version": [[]]}, {"graph": {}}, {"norm_tensor": []},
    ]  # fmt: skip
    tensors = ({"url": "\0"}, {"url": ["x"]}, {"size": [float("inf")]}, {"size": [10**400]},
               {"size": [-1, 0]}, {"size": ["9" * 5000]}, {"size": "12"},
               {"tensor_id": [1]})  # fmt: skip
    changes += [
        {"norm_tensor": [{**each, **change} for each in graph["norm_tensor"]]} for change in tensors
    ]
    found = [item(json.dumps(graph | change)) for change in changes]
    much = [
        programs.shared(layers=16_000, sides=3_000),
        programs.shared(layers=16_000, text=100_000),
        programs.shared(tasks=20_000, words=100_000),
    ]
    found += [{"unet/model.rknn": data} for data in much]
    return [*found, item("[" * 100_000), item('{"a":' * 3000 + "1" + "}" * 3000)]


def _bundles() -> list[Item]:
    """Numbers without sense, pointers in place of files, files without an end."""
    whole = seeds.bundles()[0]
    scheduler = "scheduler/scheduler_config.json"
    values = (
        {"beta_end": 1e999}, {"timestep_scaling": float("inf")}, {"trained_betas": [0.5] * 10**6},
        {"num_train_timesteps": 10**6, "original_inference_steps": 10**6}, {"beta_start": 10**400},
        {"rescale_betas_zero_snr": True}, {"_class_name": ["x"]}, {"_class_name": "\x1b[2J"},
        {"trained_betas": 5}, {"trained_betas": {"a": 1}}, {"prediction_type": []},
        {"clip_sample_range": float("nan")}, {"thresholding": True, "sample_max_value": 0},
    )  # fmt: skip
    found: list[Item] = [{**whole, scheduler: json.dumps(value).encode()} for value in values]
    for name in whole:
        found.append({**whole, name: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"})
        found.append({**whole, name: Link("/dev/zero")})
        found.append({**whole, name: Link("../fifo")})
    names = ({"block_out_channels": [1] * 9}, {"sample_size": 10**400}, {"sample_size": [[]]},
             {"block_out_channels": [2**20] * 8}, {"scaling_factor": [1]})  # fmt: skip
    for file in ("unet/config.json", "vae_decoder/config.json"):
        found += [{**whole, file: json.dumps(each).encode()} for each in names]
    return found


def _jobs() -> list[Item]:
    (item,) = seeds.jobs()
    lines: list[dict[str, Any]] = [
        {"output": text, "prompt": "x"} for text in ("\0", "\ud800", "a\nb", "a" * 300, "../loop")
    ]
    lines += [
        {"init_image": text, "output": "x"}
        for text in (
            "\0",
            "\ud800",
            "../loop",
            "../fifo",
            "../sparse",
            "/dev/zero",
            "../canary",
            "a" * 5000,
        )
    ]
    lines += [{"prompt": "\ud800\0"}, {"seed": 10**400}, {"negative_prompt": "\ud800"}]
    texts = [json.dumps({"prompt": "x", "output": "x", **line}) for line in lines]
    texts += [
        '{"prompt": "x", "output": "y", "size": ' + "[" * n + "]" * n + "}" for n in (600, 900)
    ]
    texts += [
        '{"prompt": "a\u2028b\u0085c", "output": "x"}',
        '{"output": "x\x0c"}',
        "\0",
        "[" * 9999,
    ]
    return [{**item, "jobs.jsonl": text.encode()} for text in texts]


def _prompts() -> list[Item]:
    return [{"prompt.txt": text.encode()} for text in ("x" * 10**7, "a " * 10**6, "\u0301" * 10**6)]


def _tokenizers() -> list[Item]:
    slow = seeds.tokenizers()[0]
    configs = ({"pad_token": ""}, {"pad_token": [1]}, {"pad_token": {"content": {}}},
               {"model_max_length": 10**30}, {"model_max_length": -1},
               {"added_tokens_decoder": {"x": 1}},
               {"added_tokens_decoder": {"5": {"content": ""}}})  # fmt: skip
    found: list[Item] = [
        {**slow, "tokenizer_config.json": json.dumps(each).encode()} for each in configs
    ]
    maps: tuple[Any, ...] = (
        {"pad_token": 7},
        {"pad_token": "no such"},
        [],
        {"<a>": -1},
        {"": 5},
        {"a": []},
    )
    for name in ("special_tokens_map.json", "added_tokens.json"):
        found += [{**slow, name: json.dumps(each).encode()} for each in maps]
        found.append({**slow, name: Link("../fifo")})
    return found


def _weights() -> list[Item]:
    """A text of 2 GB in a pickle of a few bytes, for which memory was taken."""
    return [{"a.ckpt": b"\x80\x02X\xff\xff\xff\x7fa."}]


_MAKERS = {
    "weights": _weights,
    "image": _images,
    "record": _records,
    "onnx": _networks,
    "onnx-cache": _networks,
    "rknn": _rknn_files,
    "bundle": _bundles,
    "doctor": _bundles,
    "tokenizer": _tokenizers,
    "prompt": _prompts,
    "jobs": _jobs,
}

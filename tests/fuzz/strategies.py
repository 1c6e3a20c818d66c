"""Items made from nothing, by hypothesis."""

from __future__ import annotations

import io
import json
from dataclasses import fields
from typing import Any

from hypothesis import strategies as st
from PIL import Image

from lcmcore.exif import SUFFIXES, encode_with_exif
from lcmcore.jobs.job import Request
from lcmcore.png import encode_png
from lcmcore.scheduler import LCMScheduler
from tests.fuzz.items import Item
from tests.fuzz.mutate import TEXTS
from tests.fuzz.seeds import RECORD
from tests.fuzz.seeds import bundles as whole_bundles

ANY_TEXT = st.text(max_size=40)  # no surrogates: UTF-8 has none
NUMBERS = st.one_of(st.integers(), st.floats())
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, ANY_TEXT),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(ANY_TEXT, inner, max_size=3)
    ),
    max_leaves=6,
)


def _encoded(value: Any) -> bytes:
    return json.dumps(value).encode()


def _with_some(known: list[str]) -> Any:
    """Objects with some of the known keys, whatever their values."""
    return st.dictionaries(st.one_of(st.sampled_from(known), ANY_TEXT), VALUES, max_size=6)


def images() -> Any:
    """Images of any mode and size, in formats that can hold them."""

    def encode(mode: str, form: str, width: int, height: int, fill: int, tags: Any) -> Item:
        image, buffer, exif = Image.new(mode, (width, height), fill), io.BytesIO(), Image.Exif()
        for tag, value in tags.items():
            exif[tag] = value
        try:
            image.save(buffer, form, exif=exif.tobytes())
        except Exception:  # a mode that the format has not, a tag that does not fit
            image.convert("RGB").save(buffer, form)
        return {f"image.{form.lower()}": buffer.getvalue()}

    modes = ("1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "YCbCr", "I", "I;16", "F")
    tags = st.dictionaries(
        st.sampled_from((0x0112, 0x010E, 0x011A, 0x8769, 0x8825, 0x9286)),
        st.one_of(st.integers(-9, 2**32), ANY_TEXT, st.binary(max_size=9)),
        max_size=4,
    )
    side = st.integers(1, 300)
    return st.builds(
        encode, st.sampled_from(modes), st.sampled_from(("PNG", "JPEG", "TIFF", "GIF", "BMP")),
        side, side, st.integers(0, 255), tags,
    )  # fmt: skip


def records() -> Any:
    """PNGs, JPEGs and WebPs with a record of any texts."""

    def encode(record: dict[str, str], suffix: str) -> Item:
        image, record = Image.new("RGB", (1, 1)), {**RECORD, **record}
        if suffix == ".png":
            return {"image.png": encode_png(image, record)}
        return {"image.png": encode_with_exif(image, record, suffix)}

    keys = st.sampled_from([key for key in RECORD if key != "Software"])
    suffixes = st.sampled_from((".png", *SUFFIXES))
    return st.builds(encode, st.dictionaries(keys, ANY_TEXT, max_size=6), suffixes)


def requests() -> Any:
    """Requests with any value for any field."""
    names = [field.name for field in fields(Request)]
    object_ = st.builds(
        lambda prompt, rest: {"prompt": prompt, "size": "64x64", **rest},
        ANY_TEXT,
        _with_some([*names, "record", "init", "mask"]),
    )
    return object_.map(lambda value: {"request.json": _encoded(value)})


def jobs() -> Any:
    """Files of one to four lines."""
    names = [field.name for field in fields(Request)]
    places = st.one_of(ANY_TEXT, st.sampled_from(TEXTS), st.just("../canary"))
    line = st.one_of(
        st.builds(
            lambda init, output, rest: {"init_image": init, "output": output, **rest},
            places, places, st.dictionaries(st.sampled_from([*names, "mask"]), VALUES, max_size=3),
        ),
        st.builds(lambda output, prompt: {"output": output, "prompt": prompt}, places, ANY_TEXT),
        VALUES,
    )  # fmt: skip
    return st.lists(line, min_size=1, max_size=4).map(
        lambda lines: {"jobs.jsonl": b"\n".join(map(_encoded, lines))}
    )


def bundles() -> Any:
    """A bundle with one config of any values."""
    whole = whole_bundles()[0]
    scheduler = [*(field.name for field in fields(LCMScheduler)), "_class_name"]
    unet = ["block_out_channels", "down_block_types", "sample_size", "time_cond_proj_dim"]
    unet += ["attention_head_dim", "num_attention_heads", "in_channels", "cross_attention_dim"]
    vae = ["block_out_channels", "decoder_block_out_channels", "scaling_factor"]
    options = [
        _with_some(names).map(
            lambda value, name=name: {**whole, name: _encoded(value)}  # type: ignore[misc]
        )
        for name, names in (
            ("scheduler/scheduler_config.json", scheduler),
            ("unet/config.json", unet),
            ("vae_decoder/config.json", vae),
        )
    ]
    return st.one_of(*options)


def prompts() -> Any:
    """Any text."""
    return st.text(max_size=300).map(lambda text: {"prompt.txt": text.encode()})

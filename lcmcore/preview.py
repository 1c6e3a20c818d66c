"""Previews: RGB straight from latents, by a linear map that is fitted to the VAE of a model.

Latents have nearly the colours of their image, at an eighth of its size: four channels, of which
three sums are red, green and blue. The map is found by least squares from one image that the VAE
decodes, and kept in the cache: a preview then takes no run of a network.
"""

from __future__ import annotations

import json
import logging
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lcmcore.errors import OutputError
from lcmcore.util.arrays import Floats, Pixels
from lcmcore.util.files import read_regular, write_whole
from lcmcore.util.private_folder import (
    UntrustedError,
    cache_folder,
    make_private,
    require_private,
    require_trusted,
)

if TYPE_CHECKING:
    from lcmcore.pipeline import Pipeline

_CELLS = 4  # colours in a row of the image that the map is fitted to, and in a column
_CHANNELS = 4
_SHAPE = (_CHANNELS + 1, 3)  # of the map; the last row is added
_MAX_BYTES = 2**12  # of a map's file
_VERSION = 1  # of how a map is fitted

log = logging.getLogger(__name__)


def preview(latents: Floats, colours: Floats) -> Pixels:
    """RGB [height, width, 3] in uint8 of latents [4, height, width]; `colours` is the map."""
    rgb = np.tensordot(latents, colours[:-1], (0, 0)) + colours[-1]
    pixels: Pixels = (rgb.clip(0, 1) * 255).round().astype(np.uint8)
    return pixels


def fit_colours(pipe: Pipeline) -> Floats:
    """The map [5, 3] of a pipeline's VAE: RGB in [0, 1] = latents @ map[:4] + map[4].

    One run of the decoder, of soft patches of chance. Raises NetworkError.
    """
    width, height = pipe.sizes.choose(None, None, None)
    factor = pipe.bundle.vae.factor
    latents = _patches(height // factor, width // factor)
    (image,) = pipe.decode(latents[None])
    rows, columns = latents.shape[1:]
    mean = image.reshape(rows, factor, columns, factor, 3).mean((1, 3))
    known = np.concatenate([latents, np.ones((1, rows, columns), np.float32)])
    fitted, *_ = np.linalg.lstsq(known.reshape(len(known), -1).T, mean.reshape(-1, 3), rcond=None)
    colours: Floats = fitted.astype(np.float32)
    return colours


def colours_of(pipe: Pipeline, digest: str | None) -> Floats:
    """The map of a pipeline, from the cache if it is there; `digest` is that of its model.

    Without a digest, or where the cache cannot be used, it is fitted. Raises NetworkError.
    """
    if digest is None:
        return fit_colours(pipe)
    path = cache_folder("previews") / f"{digest}-{_VERSION}.json"
    with suppress(OSError, ValueError, RecursionError):
        return _read(path)
    colours = fit_colours(pipe)
    try:
        make_private(path.parent)
        write_whole(path, json.dumps(colours.tolist()).encode())
    except (OSError, OutputError) as error:
        log.info("previews: %s: nothing is kept", error)
    return colours


def _read(path: Path) -> Floats:
    """A map that was kept; raises OSError, ValueError for what is none, or may be of others."""
    try:
        require_private(path.parent)
        require_trusted(path.parent, path)
    except UntrustedError as error:
        log.warning("previews: %s", error)
        raise
    colours = np.array(json.loads(read_regular(path, _MAX_BYTES)), np.float32)
    if colours.shape != _SHAPE or not np.isfinite(colours).all():
        raise ValueError(f"{path} holds no map")
    return colours


def _patches(rows: int, columns: int) -> Floats:
    """Latents [4, rows, columns]: `_CELLS` times as many draws of a normal distribution, blended.

    The blend is bilinear, between the centres of equal cells.
    """
    draws = np.random.default_rng(0).standard_normal((_CHANNELS, _CELLS, _CELLS))
    down, across = _weights(rows), _weights(columns)
    blended: Floats = (down @ draws @ across.T).astype(np.float32)
    return blended


def _weights(count: int) -> Floats:
    """[count, _CELLS]: how much of each cell is in each of `count` places; rows have sum 1."""
    place = np.linspace(0, _CELLS - 1, count)[:, None]
    weights: Floats = np.maximum(0, 1 - abs(place - np.arange(_CELLS))).astype(np.float32)
    return weights

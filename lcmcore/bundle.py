"""A model directory: its paths and its configs.

The layout is that of diffusers and optimum. An optional `lcm.toml` at the root says what cannot be
inferred.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lcmcore.errors import ArgumentError, BundleError, first_line
from lcmcore.scheduler import LCMScheduler
from lcmcore.util.configfile import read_object, read_table
from lcmcore.util.files import is_file, is_folder, regular_files
from lcmcore.util.validate import one_of, real_number, shown, whole_number

if TYPE_CHECKING:
    from lcmcore.tokenizer import CLIPTokenizer

log = logging.getLogger(__name__)

COMPONENTS = ("text_encoder", "unet", "vae_encoder", "vae_decoder")
MEMORY_MODES = ("auto", "low", "high")  # which networks are in memory: one, or all
DEMO = "demo"  # the demo bundle's name, for the command and for records
_TOP_LEVEL = ("runtime", "memory", "tile", "scaling_factor", "size_multiple", "words")
_MAX_LEVELS = 8
_SOURCE = "source"  # the table of what a bundle was made from, written by `lcm build`
_SCALING_FACTOR, _VAE_CHANNELS = 0.18215, (128, 256, 512, 512)  # Stable Diffusion's
_DEFAULTS = ("num_inference_steps", "guidance_scale")
_CLIP = {"vocab_size": 49_408, "hidden_size": 768}  # of ViT-L/14, as Stable Diffusion 1 has it
_NO_WEIGHTS = (".json", ".safetensors", ".xml")  # configs, what torch reads, and OpenVINO's graphs
_TORCH = "pytorch_model"  # in the names of its .bin files
_MAX_FILES = 10_000  # of a component: a link may lead to a whole disk
# Keys of a component's table that are not options of its runtime.
RESERVED_KEYS = ("runtime", "instances", "sha256", "build")
TILED = ("unet", "vae_encoder", "vae_decoder")  # components that can work by tiles
_MAX_INSTANCES = 16


class ModelPaths:
    """The paths in a model directory; they need not exist."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    @property
    def text_encoder(self) -> Path:
        """Folder of the text encoder: config.json and a model file for each runtime."""
        return self.root / "text_encoder"

    @property
    def unet(self) -> Path:
        """Folder of the denoising UNet."""
        return self.root / "unet"

    @property
    def vae_encoder(self) -> Path:
        """Folder of the VAE encoder; only image-to-image needs it."""
        return self.root / "vae_encoder"

    @property
    def vae_decoder(self) -> Path:
        """Folder of the VAE decoder."""
        return self.root / "vae_decoder"

    @property
    def scheduler_config(self) -> Path:
        """The scheduler's JSON file."""
        return self.root / "scheduler" / "scheduler_config.json"

    @property
    def tokenizer(self) -> Path:
        """Folder of the CLIP tokenizer's vocabulary."""
        return self.root / "tokenizer"

    @property
    def settings(self) -> Path:
        """The optional lcm.toml."""
        return self.root / "lcm.toml"


class Settings(NamedTuple):
    """lcm.toml: defaults of a call, and for each component a runtime and its options.

    `source` is what `lcm build` wrote of the checkpoint; only `lcm info` reads it.
    """

    runtime: str = "auto"
    memory: str = "auto"
    tile: int | None = None
    num_inference_steps: int = 4
    guidance_scale: float | None = None
    scaling_factor: float | None = None
    size_multiple: int | None = None
    words: Sequence[str] = ()  # those that the model was trained on, if they are few
    components: Mapping[str, Mapping[str, Any]] = {}
    source: Mapping[str, Any] = {}

    def runtime_of(self, component: str) -> str:
        """The name of a component's runtime, else the general one."""
        return str(self.components.get(component, {}).get("runtime", self.runtime))

    def instances_of(self, component: str) -> int:
        """How many instances of a component are to work on tiles side by side."""
        return int(self.components.get(component, {}).get("instances", 1))

    def options_of(self, component: str) -> dict[str, Any]:
        """Options for the component's runtime."""
        table = self.components.get(component, {})
        return {key: value for key, value in table.items() if key not in RESERVED_KEYS}

    @classmethod
    def read(cls, path: Path) -> Settings:
        """From a TOML file; raises BundleError for an unknown key or a bad value."""
        table = read_table(path)
        try:
            return cls._from_table(table)
        except ArgumentError as error:
            raise BundleError(f"{path}: {error}") from error

    @classmethod
    def _from_table(cls, table: Mapping[str, Any]) -> Settings:
        _reject_unknown_keys("", table, ("defaults", _SOURCE, *_TOP_LEVEL, *COMPONENTS))
        defaults = _table(table, "defaults")
        _reject_unknown_keys("defaults.", defaults, _DEFAULTS)
        components = {name: _table(table, name) for name in COMPONENTS if name in table}
        settings: dict[str, Any] = {**defaults, "components": components}
        settings[_SOURCE] = _table(table, _SOURCE)
        for where in (table, *components.values()):
            if not isinstance(where.get("runtime", ""), str):
                raise ArgumentError(f"runtime must be a name, not {shown(where['runtime'])}")
        for name, each in components.items():
            for key, value in each.items():
                if key not in RESERVED_KEYS and not _is_plain(value):
                    raise ArgumentError(
                        f"{name}.{key} must be a value or a list of values, not {shown(value)}"
                    )
            if "instances" in each:
                whole_number(f"{name}.instances", each["instances"], 1, _MAX_INSTANCES)
                if name not in TILED:
                    raise ArgumentError(f"{name}.instances: only {', '.join(TILED)} have tiles")
        settings |= {key: table[key] for key in _TOP_LEVEL if key in table}
        one_of("memory", settings.get("memory", "auto"), MEMORY_MODES)
        for key in ("num_inference_steps", "size_multiple", "tile"):
            if key in settings:
                whole_number(key, settings[key], 1, 1_000_000)
        if not _are_texts(settings.get("words", [])):
            raise ArgumentError(f"words must be a list of texts, not {shown(settings['words'])}")
        for key, low in (("guidance_scale", 0), ("scaling_factor", 1e-6)):
            if key in settings:
                real_number(key, settings[key], low, 1000)
        return cls(**settings)


class Bundle:
    """An opened model directory: paths, settings and configs, the latter read on first use."""

    def __init__(
        self, paths: ModelPaths, settings: Settings, settings_file: Path, tokenizer_dir: Path
    ) -> None:
        self.paths = paths
        self.settings = settings
        self.settings_file = settings_file
        self.tokenizer_dir = tokenizer_dir

    @classmethod
    def open(
        cls,
        root: str | Path,
        config: str | Path | None = None,
        tokenizer: str | Path | None = None,
    ) -> Bundle:
        """Open a directory; `config` replaces its lcm.toml, `tokenizer` its tokenizer folder.

        Raises BundleError if it is not a directory, or lcm.toml is invalid.
        """
        paths = ModelPaths(root)
        require_model_dir(paths.root)
        settings, file = Settings(), paths.settings if config is None else Path(config)
        if config is not None or os.path.lexists(file):
            settings = Settings.read(file)
        return cls(paths, settings, file, Path(tokenizer) if tokenizer else paths.tokenizer)

    @cached_property
    def scheduler(self) -> LCMScheduler:
        """The scheduler; raises BundleError if its config is not supported.

        Without a config it is Stable Diffusion 1's, where the UNet may be; a warning is logged.
        """
        path = self.paths.scheduler_config
        width = self.config("unet").get("cross_attention_dim", _CLIP["hidden_size"])
        if os.path.lexists(path) or width != _CLIP["hidden_size"]:
            return LCMScheduler.from_config(path)
        log.warning("no %s: that of Stable Diffusion 1 is used, which predicts epsilon", path)
        return LCMScheduler()

    @cached_property
    def tokenizer(self) -> CLIPTokenizer:
        """The tokenizer; raises BundleError if it is missing or invalid.

        A model directory without one gets CLIP's, if its text encoder is that of CLIP ViT-L/14; a
        warning is logged.
        """
        from lcmcore.tokenizer import CLIPTokenizer  # a tenth of the time of `import lcmcore`

        if self._lacks_clip_tokenizer():
            from lcmcore.tokenizer.clip_vocabulary import clip_tokenizer

            log.warning("no tokenizer at %s: that of CLIP ViT-L/14 is used", self.tokenizer_dir)
            return clip_tokenizer()
        if not is_folder(self.tokenizer_dir):
            raise BundleError(
                f"no tokenizer at {self.tokenizer_dir}: name a folder that holds vocab.json and"
                " merges.txt with --tokenizer DIR (in Python: tokenizer=DIR)"
            )
        return CLIPTokenizer.from_dir(self.tokenizer_dir)

    def _lacks_clip_tokenizer(self) -> bool:
        """Whether there is no folder of a tokenizer, and the text encoder is CLIP ViT-L/14's."""
        if self.tokenizer_dir != self.paths.tokenizer or os.path.lexists(self.tokenizer_dir):
            return False
        config = self.config("text_encoder")
        return all(config.get(key) == value for key, value in _CLIP.items())

    @cached_property
    def words(self) -> frozenset[str]:
        """The words that the model knows, as the tokenizer writes them; empty if not listed."""
        listed = self.settings.words
        return frozenset(word for text in listed for word in self.tokenizer.words(text))

    def folder(self, component: str) -> Path:
        """The folder of one of COMPONENTS."""
        return self.paths.root / component

    def file_bytes(self, component: str, filename: str) -> int:
        """Size of a component's model file and its external data, which may have any name.

        That data may be in folders below. 0 if `filename` is empty, or there is no such folder.
        """
        folder = self.folder(component)
        files = self.files(component) if filename else iter(())
        return sum(size for path, size in files if _may_belong_to(filename, path, folder))

    def files(self, component: str) -> Iterator[tuple[Path, int]]:
        """The regular files in a component's folder and below, each with its size in bytes."""
        return islice(regular_files(self.folder(component)), _MAX_FILES)

    def config(self, component: str) -> dict[str, Any]:
        """The component's config.json, empty where there is none; raises BundleError."""
        path = self.folder(component) / "config.json"
        return read_object(path) if os.path.lexists(path) else {}

    @cached_property
    def vocab_size(self) -> Any:
        """How many tokens the text encoder has embeddings for, as its config says; else None."""
        return self.config("text_encoder").get("vocab_size")

    @cached_property
    def unet(self) -> UnetConfig:
        """The UNet's config."""
        try:
            return UnetConfig.from_config(self.config("unet"))
        except ArgumentError as error:
            raise BundleError(f"{self.paths.unet / 'config.json'}: {error}") from error

    @cached_property
    def vae(self) -> VaeConfig:
        """The VAE's config; raises BundleError if its halves have different scaling factors."""
        halves = {name: self.config(name) for name in ("vae_decoder", "vae_encoder")}
        scaling_factor = self.settings.scaling_factor
        if scaling_factor is None:
            scaling_factor = self._scaling_factor(halves)
        name = "vae_decoder" if halves["vae_decoder"] else "vae_encoder"
        return self._vae_config(name, halves[name], scaling_factor)

    def _scaling_factor(self, halves: Mapping[str, Mapping[str, Any]]) -> float | None:
        """What the configs say, None if nothing: one that is silent follows the other."""
        found = {
            name: self._vae_config(name, config).scaling_factor
            for name, config in halves.items()
            if config.get("scaling_factor") is not None
        }
        if len({round(value, 6) for value in found.values()}) > 1:
            listed = " and ".join(f"{value:g} in {name}" for name, value in found.items())
            raise BundleError(
                f"{self.paths.root}: the scaling_factor of config.json is {listed}: set the right"
                " one as scaling_factor in lcm.toml"
            )
        return next(iter(found.values()), None)

    def _vae_config(
        self, component: str, config: Mapping[str, Any], scaling_factor: float | None = None
    ) -> VaeConfig:
        try:
            return VaeConfig.from_config(config, scaling_factor)
        except ArgumentError as error:
            path = self.folder(component) / "config.json"
            raise BundleError(f"{path}: {error}") from error


class VaeConfig(NamedTuple):
    """Latents have 1/`factor` of the image's sides; the UNet's are the VAE's * `scaling_factor`."""

    factor: int = 8
    scaling_factor: float = _SCALING_FACTOR
    channels: tuple[int, ...] = _VAE_CHANNELS

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], scaling_factor: float | None = None
    ) -> VaeConfig:
        """From an AutoencoderKL's or AutoencoderTiny's config; `scaling_factor` overrides it.

        Some exporters write the spatial factor as the scaling factor: if they are equal, Stable
        Diffusion's 0.18215 is used. Raises ArgumentError.
        """
        listed = _list(config, "block_out_channels") or _list(config, "decoder_block_out_channels")
        channels = tuple(
            whole_number("block_out_channels", count, 1, 2**20) for count in listed or _VAE_CHANNELS
        )
        factor = 2 ** (len(channels) - 1)
        if scaling_factor is None:
            scaling_factor = config.get("scaling_factor")
            if scaling_factor is None:
                scaling_factor = _SCALING_FACTOR
            if scaling_factor == factor and factor > 1:
                scaling_factor = _SCALING_FACTOR
        return cls(factor, real_number("scaling_factor", scaling_factor, 1e-6, 1000), channels)


class UnetConfig(NamedTuple):
    """What sizes and memory depend on; the defaults are Stable Diffusion 1.5's.

    `sample_size` is the side of the latents it was trained for. Self-attention with `heads` heads
    begins at level `attention_level`, where the sides have been halved that many times.
    """

    levels: int = 4
    sample_size: int = 64
    time_cond_proj_dim: int = 256
    attention_level: int = 0
    heads: int = 8

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> UnetConfig:
        """From a UNet2DConditionModel's config; raises ArgumentError."""
        heads = config.get("num_attention_heads") or config.get("attention_head_dim")
        found = {
            "levels": len(_list(config, "block_out_channels")),
            "sample_size": _largest(config.get("sample_size")),
            "time_cond_proj_dim": config.get("time_cond_proj_dim"),
            "attention_level": _first_attention(_list(config, "down_block_types")),
            "heads": _largest(heads),
        }
        known = {key: value for key, value in found.items() if value}
        for key, value in known.items():
            whole_number(key, value, 1, 2**16)
        return cls(**known)


def demo_dir() -> Path:
    """The demo bundle: inside the installed package, or beside it in a source tree."""
    package = Path(__file__).parent
    candidates = (package / "demo", package.parent / "assets" / "demo")
    for folder in candidates:
        if folder.is_dir():
            return folder
    raise BundleError(f"the demo bundle is missing: no folder {candidates[0]}")


def require_model_dir(root: Path) -> None:
    """Raise BundleError where there is no folder; for OWNER/NAME it says how to fetch that."""
    if is_folder(root):
        return
    from lcmcore.hub import how_to_fetch  # only here

    remedy = how_to_fetch(root.as_posix())
    raise BundleError(f"no model directory at {root}" + (f": {remedy}" if remedy else ""))


def bundles_in(folder: Path) -> list[Path]:
    """The folders in a folder that have a UNet, by name; hidden ones are left out.

    Raises ArgumentError if there is none, or one has a name that cannot be printed.
    """
    try:
        found = sorted(each for each in folder.iterdir() if is_folder(each / "unet"))
    except OSError as error:
        raise ArgumentError(f"{folder}: {first_line(error)}") from error
    found = [each for each in found if not each.name.startswith(".")]
    for each in found:
        if not each.name.isprintable():
            raise ArgumentError(f"{folder}: rename {shown(each.name)}, which cannot be printed")
    if not found:
        raise ArgumentError(f"{folder}: no folder in it has a unet")
    return found


def _may_belong_to(filename: str, path: Path, folder: Path) -> bool:
    """Whether a file holds weights of the model file `filename` of the folder, by its name."""
    if path.parent == folder and path.name.startswith(filename):
        return True
    if path.suffix == ".bin":
        graph = path.with_suffix(".xml")  # of OpenVINO
        if is_file(graph):
            return graph == folder / filename
        return _TORCH not in path.name
    is_other_model = path.parent == folder and path.name.startswith("model.")
    return not is_other_model and path.suffix not in _NO_WEIGHTS


def _reject_unknown_keys(prefix: str, table: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for key in table:
        if key not in known:
            raise ArgumentError(f"unknown key {prefix}{key}; known keys are {', '.join(known)}")


def _table(table: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = table.get(key, {})
    if not isinstance(value, dict):
        raise ArgumentError(f"{key} must be a table [{key}], not {shown(value)}")
    return value


def _is_plain(value: Any) -> bool:
    """Whether an option has no parts of its own: a provider's may name libraries to be loaded."""
    items = value if isinstance(value, list) else [value]
    return not any(isinstance(item, (list, dict)) for item in items)


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _list(config: Mapping[str, Any], key: str) -> list[Any]:
    """A list of a config, empty where there is none; raises ArgumentError."""
    value = config.get(key) or []
    if not isinstance(value, list) or len(value) > _MAX_LEVELS:
        raise ArgumentError(f"{key} must be a list of at most {_MAX_LEVELS}, not {shown(value)}")
    return value


def _largest(value: Any) -> Any:
    """The largest of a list, for a UNet's config may have one number or one for each level."""
    numbers = isinstance(value, list) and value and all(type(each) is int for each in value)
    return max(value) if numbers else value


def _first_attention(blocks: list[Any]) -> int | None:
    levels = (
        level for level, name in enumerate(blocks) if isinstance(name, str) and "Attn" in name
    )
    return next(levels, len(blocks)) if blocks else None

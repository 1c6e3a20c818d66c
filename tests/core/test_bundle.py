"""A model directory and its lcm.toml: what is read, and how mistakes are reported."""

import json
import math
import os
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import lcmcore
from lcmcore import ArgumentError, BundleError
from lcmcore.bundle import COMPONENTS, Bundle, ModelPaths, Settings, UnetConfig, VaeConfig
from lcmcore.fake import FakeRuntime
from lcmcore.scheduler import LCMScheduler
from lcmcore.sizes import Sizes


def write(path, content):
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.fixture
def toml(tmp_path):
    return lambda text: Settings.read(write(tmp_path / "lcm.toml", text))


def test_every_key_of_lcm_toml(toml):
    settings = toml(
        """
        runtime = "rknn"
        scaling_factor = 0.5
        size_multiple = 8
        [defaults]
        num_inference_steps = 6
        guidance_scale = 0
        [vae_encoder]
        runtime = "onnx"
        threads = 2
        sha256 = "00"
        build = {target = "rk3588"}
        """
    )
    assert settings.num_inference_steps == 6
    assert settings.guidance_scale == 0
    assert settings.scaling_factor == 0.5
    assert settings.size_multiple == 8
    assert settings.runtime_of("unet") == "rknn"
    assert settings.runtime_of("vae_encoder") == "onnx"
    assert settings.options_of("vae_encoder") == {"threads": 2}
    assert settings.options_of("unet") == {}


def test_an_empty_lcm_toml_changes_nothing(toml):
    assert toml("") == Settings()
    assert toml("\ufeff# written by Notepad") == Settings()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("stepz = 4", "unknown key stepz; known keys are"),
        (
            '[unet]\nproviders = [["CPUExecutionProvider", {plugins = "lib.so"}]]',
            "unet.providers must be a value or a list of values, not [[",
        ),
        ("[unet]\nthreads = {}", "unet.threads must be a value or a list of values, not {}"),
        ("[defaults]\nsteps = 4", "unknown key defaults.steps; known keys are num_inference_steps"),
        ("defaults = 4", "defaults must be a table [defaults], not 4"),
        ("unet = 'rknn'", "unet must be a table [unet], not 'rknn'"),
        ("runtime = 5", "runtime must be a name, not 5"),
        ("[unet]\nruntime = 5", "runtime must be a name, not 5"),
        ("[defaults]\nnum_inference_steps = 0", "num_inference_steps must be from 1"),
        ("[defaults]\nnum_inference_steps = 4.5", "num_inference_steps must be a whole number"),
        ("[defaults]\nguidance_scale = nan", "guidance_scale"),
        ("[defaults]\nguidance_scale = 'high'", "guidance_scale must be a number"),
        ("scaling_factor = 0", "scaling_factor must be from 1e-06"),
        ("size_multiple = -8", "size_multiple"),
        ("runtime = ", "not valid TOML"),
        (b"\xff", "cannot be read"),
        ("a = " + "[" * 100_000, "not valid TOML"),
        ("a = 1" + "0" * 5000, "not valid TOML"),
    ],
)
def test_mistakes_in_lcm_toml(text, words, toml, tmp_path):
    with pytest.raises(BundleError, match=re.escape(words)) as caught:
        toml(text)
    assert str(caught.value).startswith(str(tmp_path / "lcm.toml"))


def test_an_option_that_no_runtime_knows(configs, fake):
    write(configs / "lcm.toml", "[unet]\nthredas = 2")
    with pytest.raises(ArgumentError, match=r"unknown key unet\.thredas; known keys are .*threads"):
        fake(configs)


def test_a_config_is_called_by_its_own_name(configs, tmp_path):
    """In errors of its file, where lcm.toml was named before."""
    other = write(tmp_path / "other.toml", "[unet]\nthredas = 2")
    with pytest.raises(ArgumentError) as caught:
        lcmcore.load(configs, runtime=FakeRuntime(), config=other)
    assert str(caught.value).startswith(f"{other}: unknown key unet.thredas; known keys are")
    write(other, "stepz = 4")
    with pytest.raises(BundleError) as invalid:
        lcmcore.load(configs, runtime=FakeRuntime(), config=other)
    assert str(invalid.value).startswith(f"{other}: unknown key stepz")


def test_config_replaces_lcm_toml(configs, tmp_path):
    write(configs / "lcm.toml", "broken")
    other = write(tmp_path / "other.toml", "runtime = 'mine'")
    assert Bundle.open(configs, config=other).settings.runtime == "mine"
    with pytest.raises(BundleError, match=r"no such file: .*nowhere\.toml"):
        Bundle.open(configs, config=tmp_path / "nowhere.toml")


@pytest.mark.parametrize("name", ["nowhere", "file", "a\0b", "n" * 5000])
def test_no_model_directory(name, tmp_path):
    write(tmp_path / "file", "")
    with pytest.raises(BundleError, match="no model directory at"):
        Bundle.open(tmp_path / name)


def test_a_folder_of_something_else(tmp_path):
    with pytest.raises(lcmcore.LcmError) as caught:
        lcmcore.load(tmp_path)
    assert str(tmp_path / "text_encoder") in str(caught.value)
    assert f"is {tmp_path} a model directory?" in str(caught.value)


def test_a_missing_scheduler_is_named(configs, fake):
    path = configs / "scheduler" / "scheduler_config.json"
    path.unlink()
    with pytest.raises(BundleError, match=f"no such file: {re.escape(str(path))}"):
        fake(configs)


def test_a_missing_tokenizer_is_named_and_can_be_given(configs):
    lent = (configs / "tokenizer").rename(configs.parent / "lent")
    with pytest.raises(BundleError, match=r"no tokenizer at .*configs/tokenizer.*--tokenizer DIR"):
        _ = Bundle.open(configs).tokenizer
    assert Bundle.open(configs, tokenizer=lent).tokenizer("a").shape == (1, 77)


def test_configs_of_the_networks_may_be_missing(configs, fake):
    for component in COMPONENTS:
        (configs / component / "config.json").unlink()
    pipe = fake(configs)
    assert pipe.bundle.vae == VaeConfig()
    assert pipe.bundle.vae.scaling_factor == 0.18215
    assert pipe("a", height=64, width=64, seed=1).images[0].size == (64, 64)


@pytest.mark.parametrize(
    ("config", "settings", "scale"),
    [
        ({}, None, 0.18215),
        ({"scaling_factor": 0.13025}, None, 0.13025),
        ({"scaling_factor": 8}, None, 0.18215),  # an exporter's mistake: the spatial factor
        ({"scaling_factor": 0.13025}, 0.5, 0.5),
        ({}, 8, 8),  # said by a person
        ({"scaling_factor": 1.0, "decoder_block_out_channels": [64] * 4}, None, 1.0),  # TAESD
    ],
)
def test_scaling_factor(config, settings, scale):
    vae = VaeConfig.from_config(config, settings)
    assert vae.factor == 8
    assert vae.scaling_factor == scale


DEEP = json.loads("[" * 700 + "]" * 700)


@pytest.mark.parametrize(
    ("component", "config", "words"),
    [
        ("vae_decoder", {"block_out_channels": 4}, "block_out_channels must be a list"),
        ("vae_decoder", {"block_out_channels": [1] * 99}, "a list of at most 8"),
        ("vae_decoder", {"block_out_channels": ["many"]}, "block_out_channels"),
        ("vae_decoder", {"scaling_factor": "big"}, "scaling_factor must be a number"),
        ("unet", {"block_out_channels": 4}, "block_out_channels must be a list"),
        ("unet", {"sample_size": "big"}, "sample_size must be a whole number"),
        ("unet", {"sample_size": -64}, "sample_size"),
        ("unet", {"sample_size": [64, "x"]}, "sample_size"),
        ("unet", {"time_cond_proj_dim": 0.5}, "time_cond_proj_dim"),
        ("unet", {"time_cond_proj_dim": 2**16 + 1}, "time_cond_proj_dim must be from 1 to 65536"),
        ("unet", {"sample_size": math.nan}, "sample_size must be a whole number, not nan"),
        ("unet", {"sample_size": 10**400}, "sample_size must be from 1 to 65536, not a huge"),
        ("unet", {"attention_head_dim": math.inf}, "heads must be a whole number, not inf"),
        ("unet", {"down_block_types": {}}, None),
        ("unet", {"down_block_types": [None, ["Attn"], 5, DEEP]}, None),
        ("unet", {"down_block_types": "CrossAttnDownBlock2D"}, "down_block_types must be a list"),
        ("unet", {"block_out_channels": DEEP}, None),
        ("unet", {"block_out_channels": {"a": DEEP}}, "block_out_channels must be a list"),
        ("vae_decoder", {"scaling_factor": 0}, "scaling_factor must be from 1e-06 to 1000, not 0"),
        ("vae_decoder", {"scaling_factor": math.nan}, "scaling_factor must be from 1e-06 to 1000"),
        ("vae_decoder", {"scaling_factor": -math.inf}, "scaling_factor must be from"),
        ("vae_decoder", {"scaling_factor": 10**400}, "scaling_factor must be from"),
        ("vae_decoder", {"scaling_factor": True}, "scaling_factor must be a number, not True"),
        ("vae_decoder", {"scaling_factor": DEEP}, "scaling_factor must be a number"),
        ("vae_decoder", {"block_out_channels": [2**20 + 1]}, "block_out_channels must be from 1"),
        ("vae_decoder", {"block_out_channels": [DEEP]}, "block_out_channels must be a whole"),
    ],
)
def test_mistakes_in_a_networks_config(component, config, words, configs, fake):
    path = write(configs / component / "config.json", json.dumps(config))
    if words is None:  # what does not matter
        assert fake(configs)("a", width=64, height=64).images
        return
    with pytest.raises(BundleError, match=re.escape(words)) as caught:
        fake(configs)("a")
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("content", ["", "{", "[]", b"\xff", '"text"', "NaN"])
def test_configs_that_are_no_json_object(content, configs, fake):
    path = write(configs / "unet" / "config.json", content)
    with pytest.raises(BundleError, match=re.escape(str(path))):
        fake(configs)("a")


numbers = st.integers() | st.floats() | st.sampled_from([0, 1, 4, 8, 64, -1, 0.5, 1e300, 10**400])
values = st.recursive(
    st.none() | st.booleans() | numbers | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


def some_of(*keys):
    return st.fixed_dictionaries({}, optional=dict.fromkeys(keys, values))


@pytest.mark.slow
@given(
    some_of("block_out_channels", "decoder_block_out_channels", "scaling_factor"),
    some_of(
        "block_out_channels",
        "sample_size",
        "time_cond_proj_dim",
        "down_block_types",
        "attention_head_dim",
        "num_attention_heads",
    ),
)
def test_any_network_config_gives_sizes_or_an_error(vae, unet):
    try:
        sizes = Sizes.of_model(UnetConfig.from_config(unet), VaeConfig.from_config(vae), None)
        width, height = sizes.choose(None, None, (640, 480))
    except ArgumentError:
        return
    assert width > 0
    assert height > 0


@given(
    some_of(
        "_class_name", "num_train_timesteps", "beta_start", "beta_schedule", "trained_betas",
        "prediction_type", "clip_sample", "clip_sample_range", "timestep_scaling",
        "original_inference_steps", "rescale_betas_zero_snr",
    )
)  # fmt: skip
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # betas of 0 or 1 divide by zero
def test_any_scheduler_config_gives_a_scheduler_or_an_error(config):
    try:
        scheduler = LCMScheduler.from_config(config)
    except BundleError:
        return
    assert len(scheduler.alphas_cumprod) == scheduler.num_train_timesteps


@given(some_of("runtime", "defaults", "scaling_factor", "size_multiple", *COMPONENTS, "other"))
def test_any_table_gives_settings_or_an_error(table):
    try:
        settings = Settings._from_table(table)  # what TOML can say is a subset of what it gets here
    except ArgumentError:
        return
    for component in COMPONENTS:
        assert isinstance(settings.runtime_of(component), str)
        assert isinstance(settings.options_of(component), dict)


@given(st.text())
def test_any_text_is_toml_or_an_error(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("toml") / "lcm.toml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        Settings.read(path)
    except BundleError as error:
        assert str(error).startswith(str(path))


def test_the_fake_needs_no_network_files(configs):
    with lcmcore.load(str(configs), runtime=FakeRuntime()) as pipe:
        assert pipe("a", seed=1).images[0].size == (256, 256)


@pytest.fixture
def sized(tmp_path):
    """A UNet's folder with files of these sizes; the size that the core takes them for."""

    def weigh(filename, **sizes):
        folder = tmp_path / "unet"
        for name, size in sizes.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(bytes(size))
        return Bundle.open(tmp_path).file_bytes("unet", filename)

    return weigh


FILES = {
    "model.onnx": 1,
    "model.onnx_data": 2,
    "weights-0001": 4,
    "unet.bin": 8,
    "data/Conv_1": 16,
    "data/deeper/model.weights": 32,  # of any name: no other runtime looks there
}
NO_WEIGHTS = {
    "config.json": 2**20,
    "model.rknn": 2**20,
    "model.safetensors": 2**20,
    "diffusion_pytorch_model.bin": 2**20,
    "pytorch_model-00001-of-00002.bin": 2**20,
    "data/more.json": 2**20,
    "data/pytorch_model.bin": 2**20,
    "data/model.safetensors": 2**20,
    "model.xml": 2**20,
    "model.bin": 2**20,  # of model.xml
}


def test_the_size_of_a_model_includes_external_data(sized):
    assert sized("model.onnx", **FILES, **NO_WEIGHTS) == 63


def test_the_weights_of_an_openvino_model(sized):
    files = {"model.xml": 1, "model.bin": 2, "model.onnx": 2**20, "model.onnx_data": 2**20}
    assert sized("model.xml", **files, **{"other.xml": 4, "other.bin": 2**20}) == 3
    assert sized("other.xml", **{"other.bin": 8}) == 12


def test_a_bin_file_without_an_openvino_model(sized):
    assert sized("model.onnx", **{"model.onnx": 1, "weights.bin": 2}) == 3


def test_the_size_of_no_model(sized, tmp_path):
    assert sized("", **FILES) == 0
    assert Bundle.open(tmp_path).file_bytes("vae_encoder", "model.onnx") == 0


def test_links_are_followed_once_and_only_regular_files_count(sized, tmp_path):
    outside = tmp_path / "blobs"
    outside.mkdir()
    write(outside / "weights", bytes(8))
    folder = tmp_path / "unet"
    assert sized("model.onnx", **{"model.onnx": 1}) == 1
    (folder / "linked").symlink_to(outside / "weights")  # as in Hugging Face's cache
    assert sized("model.onnx") == 9
    (folder / "below").symlink_to(outside)
    assert sized("model.onnx") == 17
    (outside / "loop").symlink_to(folder)
    (folder / "loop").symlink_to(folder)
    (folder / "dangling").symlink_to(folder / "nowhere")
    (folder / "zeros").symlink_to("/dev/zero")
    os.mkfifo(folder / "pipe")
    assert sized("model.onnx") == 17


def test_a_folder_of_too_many_files_is_not_counted_to_its_end(sized, tmp_path, monkeypatch):
    monkeypatch.setattr("lcmcore.bundle._MAX_FILES", 3)
    assert sized("model.onnx", **{"model.onnx": 1, "a": 1, "b": 1, "c": 1, "d": 1}) == 3


@pytest.mark.parametrize("name", ["lcm.toml", "unet/config.json"])
def test_a_link_to_nothing_is_not_taken_for_a_missing_file(name, configs, fake):
    path = configs / name
    path.unlink(missing_ok=True)
    path.symlink_to(configs / "blobs" / "missing")
    with pytest.raises(BundleError, match=f"^no such file: {re.escape(str(path))}"):
        fake(configs)("a")


@pytest.mark.parametrize(
    ("decoder", "encoder", "used"),
    [
        (0.18215, 0.18215, 0.18215),
        (0.13025, 0.13025, 0.13025),
        (8, 0.18215, 0.18215),  # some exporters write the spatial factor
        (0.18215, 8, 0.18215),
        (8, 8, 0.18215),
        (None, None, 0.18215),
        (0.13025, None, 0.13025),  # a half that says nothing follows the other
        (None, 0.13025, 0.13025),
        (0.18215, float(np.float32(0.18215)), 0.18215),
    ],
)
def test_one_scaling_factor_for_both_halves_of_the_vae(tmp_path, decoder, encoder, used):
    bundle = Bundle.open(scaled(tmp_path, decoder, encoder))
    assert bundle.vae.scaling_factor == pytest.approx(used, rel=1e-6)
    assert bundle.vae.factor == 8


@pytest.mark.parametrize(
    ("decoder", "encoder", "words"),
    [
        (0.18215, 0.13025, "0.18215 in vae_decoder and 0.13025 in vae_encoder"),
        (8, 0.13025, "0.18215 in vae_decoder and 0.13025 in vae_encoder"),
        (1.0, 0.18215, "1 in vae_decoder and 0.18215 in vae_encoder"),
        (4, 8, "4 in vae_decoder and 0.18215 in vae_encoder"),
        (0.18215, 0.18216, "0.18215 in vae_decoder and 0.18216 in vae_encoder"),
    ],
)
def test_different_scaling_factors_are_settled_by_lcm_toml(tmp_path, decoder, encoder, words):
    """Else one half of the VAE works on latents that the other has not made."""
    root = scaled(tmp_path, decoder, encoder)
    with pytest.raises(BundleError) as error:
        _ = Bundle.open(root).vae
    assert str(error.value) == (
        f"{root}: the scaling_factor of config.json is {words}: set the right one as"
        " scaling_factor in lcm.toml"
    )
    (root / "lcm.toml").write_text("scaling_factor = 0.5")
    assert Bundle.open(root).vae.scaling_factor == 0.5


@pytest.mark.parametrize("half", ["vae_decoder", "vae_encoder"])
def test_an_absurd_scaling_factor_is_named_with_its_file(tmp_path, half):
    root = scaled(tmp_path, 0.18215, 0.18215)
    (root / half / "config.json").write_text('{"scaling_factor": -1}')
    with pytest.raises(BundleError) as error:
        _ = Bundle.open(root).vae
    assert str(error.value).startswith(f"{root / half / 'config.json'}: scaling_factor must be")


def test_an_encoder_alone_has_the_vaes_config(tmp_path):
    (tmp_path / "vae_encoder").mkdir()
    config = '{"block_out_channels": [1, 2], "scaling_factor": 0.25}'
    (tmp_path / "vae_encoder" / "config.json").write_text(config)
    assert Bundle.open(tmp_path).vae == VaeConfig(2, 0.25, (1, 2))


def scaled(root, decoder, encoder):
    """A bundle whose VAE has these scaling factors in its configs."""
    for half, factor in (("vae_decoder", decoder), ("vae_encoder", encoder)):
        (root / half).mkdir()
        config = {"block_out_channels": [1, 2, 3, 4]}
        config |= {} if factor is None else {"scaling_factor": factor}
        (root / half / "config.json").write_text(json.dumps(config))
    return root


def test_the_largest_numbers_of_lcm_toml(tmp_path):
    for key, largest in (("num_inference_steps", 1_000_000), ("guidance_scale", 1000)):
        path = write(tmp_path / "lcm.toml", f"[defaults]\n{key} = {largest}".encode())
        assert getattr(Settings.read(path), key) == largest
        path.write_text(f"[defaults]\n{key} = {largest + 1}")
        with pytest.raises(BundleError, match=f"{key} must be from .* to {largest}, not"):
            Settings.read(path)


def test_the_paths_in_a_model_directory():
    paths = ModelPaths("model")
    names = {name: getattr(paths, name).as_posix() for name in COMPONENTS}
    assert names == {name: f"model/{name}" for name in COMPONENTS}
    assert paths.scheduler_config.as_posix() == "model/scheduler/scheduler_config.json"
    assert paths.tokenizer.as_posix() == "model/tokenizer"
    assert paths.settings.as_posix() == "model/lcm.toml"


def test_what_an_empty_vae_config_stands_for():
    """Stable Diffusion 1.5's vae/config.json."""
    assert VaeConfig.from_config({}) == (8, 0.18215, (128, 256, 512, 512))


def test_an_empty_unet_config_is_that_of_stable_diffusion():
    assert UnetConfig.from_config({}) == (4, 64, 256, 0, 8)


def test_a_guidance_scale_below_0_is_refused(tmp_path):
    path = write(tmp_path / "lcm.toml", "[defaults]\nguidance_scale = 0")
    assert Settings.read(path).guidance_scale == 0
    path.write_text("[defaults]\nguidance_scale = -0.5")
    with pytest.raises(BundleError, match=r"guidance_scale must be from 0 to 1000, not -0\.5"):
        Settings.read(path)

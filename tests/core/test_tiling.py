"""Tiles: where they lie, how they are blended, and that a VAE of one size serves larger ones."""

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

import lcmcore
from lcmcore import NetworkError
from lcmcore.fake import FakeRuntime
from lcmcore.runtime import TensorSpec
from lcmcore.tiling import Grid, blend_weights, place_tiles, tile_size


@pytest.mark.parametrize(
    ("whole", "tile", "overlap", "starts"),
    [
        (64, 32, 16, [0, 16, 32]),
        (64, 32, 8, [0, 16, 32]),  # two would not overlap
        (48, 32, 8, [0, 16]),
        (64, 27, 8, [0, 18, 37]),  # three strips of 512x216 make 512x512
        (64, 64, 16, [0]),
        (33, 32, 16, [0, 1]),
        (6, 2, 16, [0, 1, 2, 3, 4]),  # no more than half a tile
        (3, 1, 16, [0, 1, 2]),
    ],
)
def test_places(whole, tile, overlap, starts):
    assert place_tiles(whole, tile, overlap) == starts


SIDES = st.integers(1, 80).flatmap(lambda tile: st.tuples(st.integers(tile, 300), st.just(tile)))


@given(SIDES, st.integers(0, 40))
def test_tiles_reach_both_borders_and_overlap_enough_and_evenly(sides, overlap):
    whole, tile = sides
    starts = place_tiles(whole, tile, overlap)
    assert (starts[0], starts[-1]) == (0, whole - tile)
    steps = np.diff(starts)
    if len(steps):
        assert steps.max() - steps.min() <= 1
        assert steps.min() > 0 and tile - steps.max() >= min(overlap, tile // 2)
    if len(starts) > 2:  # fewer would overlap less
        assert (whole - tile) / (len(starts) - 2) > tile - min(overlap, tile // 2)


@given(SIDES, st.integers(1, 8))
def test_the_weights_of_a_place_add_up_to_one(sides, scale):
    whole, tile = sides
    starts = place_tiles(whole, tile)
    total = np.zeros(whole * scale)
    for start, weights in zip(starts, blend_weights(starts, tile, whole, scale), strict=True):
        assert weights.min() > 0
        total[start * scale :][: tile * scale] += weights
    np.testing.assert_allclose(total, 1, rtol=1e-6)


def test_weights_fall_linearly_where_two_tiles_overlap():
    first, second = blend_weights([0, 4], 6, 10)
    np.testing.assert_allclose(first, [1, 1, 1, 1, 0.75, 0.25])
    np.testing.assert_allclose(second, [0.25, 0.75, 1, 1, 1, 1])


@pytest.mark.parametrize(
    ("shapes", "taken", "size"),
    [
        ([(1, 4, 32, 27)], 1, (32, 27)),
        ([(1, 3, 256, 216)], 8, (32, 27)),
        ([(1, 4, 32, 27), (1,), (1, 77, 16)], 1, (32, 27)),
        ([(1, 4, None, 27)], 1, None),
        ([(1, 3, 256, 210)], 8, None),
        ([(1, 77)], 1, None),
        ([(1, 4, 32, 27), (1, 4, 32, 27)], 1, None),
    ],
)
def test_what_can_be_a_tile(shapes, taken, size):
    specs = [TensorSpec(str(index), shape, "float32") for index, shape in enumerate(shapes)]
    output = [TensorSpec("out", (1, 3, None, None), "float32")]
    assert tile_size(specs, output, Grid(taken, 1)) == size
    assert tile_size(specs, [TensorSpec("out", (None, None), "float32")], Grid(taken, 1)) is None


class Compiled(FakeRuntime):
    """A FakeRuntime whose VAE is compiled for one size, and which knows that it is opened."""

    def __init__(self, size, **functions):
        super().__init__(size=size, batch=1, **functions)
        self.opened, self.closed = [], []

    def open(self, component, folder, options):
        network = super().open(component, folder, options)
        self.opened.append((component, dict(options)))
        network.close = lambda: self.closed.append(component)
        return network


def load(configs, vae, **options):
    choice = {"default": FakeRuntime(), "vae_encoder": vae, "vae_decoder": vae}
    return lcmcore.load(configs, runtime=choice, **options)


@pytest.fixture
def noise():
    return np.random.default_rng(0).standard_normal((2, 4, 12, 17)).astype(np.float32)


def test_what_is_computed_pixel_by_pixel_is_the_same_by_tiles(configs, noise):
    with load(configs, FakeRuntime()) as whole, load(configs, Compiled((64, 40))) as tiled:
        images = whole.decode(noise)
        np.testing.assert_allclose(tiled.decode(noise), images, atol=1e-6)
        sample = np.moveaxis(images, 3, 1)
        moments = [p.networks.run("vae_encoder", sample=sample) for p in (whole, tiled)]
        np.testing.assert_allclose(moments[1], moments[0], atol=1e-5)


def test_every_tile_has_the_compiled_size_and_is_cut_in_its_place(configs):
    seen = []

    def decoder(latent_sample):
        seen.append(latent_sample.copy())
        return latent_sample[:, :3].repeat(8, axis=2).repeat(8, axis=3)

    latents = np.arange(4 * 8 * 10, dtype=np.float32).reshape(1, 4, 8, 10)
    with load(configs, Compiled((64, 64), vae_decoder=decoder)) as pipe:
        pipe.networks.run("vae_decoder", latent_sample=latents)
    np.testing.assert_array_equal(np.concatenate(seen[:2]), [latents[0, :, :, :8],
                                                             latents[0, :, :, 2:]])  # fmt: skip
    assert len(seen) == 2


def test_one_tile_is_the_network_itself(configs, noise):
    """Where the whole image has the compiled size, the bytes are those of the network alone."""
    with load(configs, Compiled((136, 96))) as pipe:
        got = pipe.networks.run("vae_decoder", latent_sample=noise)
    expected = noise[:, :3].repeat(8, axis=2).repeat(8, axis=3)
    np.testing.assert_array_equal(got, expected)


def test_the_same_bytes_each_time(configs, noise):
    (configs / "lcm.toml").write_text("[vae_decoder]\ninstances = 3\n")
    with load(configs, Compiled((64, 40))) as pipe:
        first, *others = [pipe.decode(noise).tobytes() for _ in range(5)]
    assert all(other == first for other in others)


def test_sizes_below_the_tiles_are_refused_with_both(configs):
    message = r"^vae_decoder: input latent_sample \[1, 4, 5, 7\] .*: expected .*\[1, 4, 5, 8\]"
    with (
        load(configs, Compiled((64, 40))) as pipe,
        pytest.raises(NetworkError, match=message),
    ):
        pipe.decode(np.zeros((1, 4, 5, 7), np.float32))


def test_a_tile_of_another_size_than_expected_is_reported(configs, noise):
    vae = Compiled((64, 40), vae_decoder=lambda latent_sample: np.zeros((1, 3, 40, 63)))
    for spec in (vae._specs["vae_decoder"],):
        free = TensorSpec("sample", (1, 3, None, None), "float32")
        vae._specs["vae_decoder"] = (spec[0], free)
    message = (
        r"^vae_decoder: returned sample \[1, 3, 40, 63\] float32 for a tile: expected sample"
        r" \[\?, \?, 40, 64\] float32$"
    )
    with load(configs, vae) as pipe, pytest.raises(NetworkError, match=message):
        pipe.decode(noise)


def test_the_text_encoder_and_the_unet_are_not_cut(configs):
    with (
        lcmcore.load(configs, runtime=FakeRuntime(size=(64, 40))) as pipe,
        pytest.raises(NetworkError, match="unet: input sample"),
    ):
        pipe.networks.run(
            "unet",
            sample=np.zeros((1, 4, 8, 10), np.float32),
            timestep=np.array([1]),
            encoder_hidden_states=np.zeros((1, 77, 16), np.float32),
            timestep_cond=np.zeros((1, 32), np.float32),
        )


def fixed(root, width, height):
    """The demo bundle, its VAE exported for one size."""
    shutil.copytree(lcmcore.demo_dir(), root)
    for component, factor in (("vae_encoder", 1), ("vae_decoder", 8)):
        path = root / component / "model.onnx"
        model = onnx.load(path)
        dims = model.graph.input[0].type.tensor_type.shape.dim
        for dim, value in ((0, 1), (2, height // factor), (3, width // factor)):
            dims[dim].dim_value = value
        onnx.save(model, path)
    return root


def psnr(one, other):
    return float(10 * np.log10(1 / np.mean((one - other) ** 2)))


def _steps(images, axis, borders):
    """The mean difference of neighbours across these borders."""
    differences = np.abs(np.diff(images, axis=axis))
    return differences.take(np.array(borders) - 1, axis=axis).mean()


@pytest.fixture(scope="module")
def tiled(tmp_path_factory):
    """The demo model with a VAE of 256x256."""
    root = fixed(tmp_path_factory.mktemp("tiled") / "bundle", 256, 256)
    with lcmcore.load(root, runtime="onnx", threads=2) as pipe:
        yield pipe


ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("name", "decoder", "round_trip"),
    [
        ("docs/pictures/scribble.png", 49, 47.5),
        pytest.param("tests/goldens/data/demo/snow.png", 45, 43, marks=pytest.mark.slow),
        pytest.param("tests/goldens/data/demo/desert.png", 46, 43, marks=pytest.mark.slow),
    ],
)
def test_a_vae_of_256_makes_512x384_as_the_whole_does(name, decoder, round_trip, demo, tiled):
    """A seam would be a larger step than the whole has, where a tile ends."""
    latents = [pipe.encode_image(ROOT / name, (512, 384)) for pipe in (demo, tiled)]
    whole = demo.decode(latents[0])
    decoded, encoded_too = (tiled.decode(each) for each in latents)
    assert decoded.shape == (1, 384, 512, 3)
    print(f"decoder {psnr(decoded, whole):.1f} dB, both {psnr(encoded_too, whole):.1f} dB")
    assert psnr(decoded, whole) > decoder
    assert psnr(encoded_too, whole) > round_trip
    for axis, borders in ((1, [128, 256]), (2, [128, 256, 384])):
        assert _steps(encoded_too, axis, borders) < 1.05 * _steps(whole, axis, borders)

"""Tiles: where they lie, how they are blended, and that a VAE of one size serves larger ones."""

import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import lcmcore
from lcmcore import ArgumentError, NetworkError
from lcmcore.fake import FakeRuntime
from lcmcore.runtime import TensorSpec
from lcmcore.tiling import Grid, blend_weights, place_tiles, smallest_tile, tile_size
from tests.fixed_size import fix_size


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


@given(SIDES, st.integers(0, 40))
def test_the_smallest_tile_makes_as_many_tiles(sides, overlap):
    whole, tile = sides
    count, smallest = len(place_tiles(whole, tile, overlap)), smallest_tile(whole, tile, overlap)
    assert smallest <= tile
    assert len(place_tiles(whole, smallest, overlap)) == count
    if smallest < tile and smallest // 2 > overlap:  # else it is half a tile that they overlap by
        assert len(place_tiles(whole, smallest - 1, overlap)) > count


@pytest.mark.parametrize(
    ("whole", "tile", "smallest"), [(256, 64, 58), (64, 64, 64), (40, 64, 40), (72, 64, 40)]
)
def test_smallest_tiles(whole, tile, smallest):
    assert smallest_tile(whole, tile, 8) == smallest


@given(SIDES, st.integers(1, 8))
def test_the_weights_of_a_place_add_up_to_one(sides, scale):
    whole, tile = sides
    starts = place_tiles(whole, tile, 8)
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
    grid = Grid(taken, 1, 8)
    assert tile_size(specs, output, grid) == size
    assert tile_size(specs, [TensorSpec("out", (None, None), "float32")], grid) is None


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


@pytest.mark.parametrize("size", [(40, 56), (24, 40), (104, 32)])
def test_what_is_smaller_than_a_tile_is_padded_by_its_edge_and_cropped(configs, size):
    """Here each pixel becomes the mean of its row, so that what is padded counts."""
    width, height = size
    seen = []

    def decoder(latent_sample):
        seen.append(latent_sample.copy())
        return latent_sample[:, :3].repeat(8, axis=2).repeat(8, axis=3)

    latents = np.random.default_rng(0).standard_normal((1, 4, height // 8, width // 8), np.float32)
    with load(configs, Compiled((64, 40), vae_decoder=decoder)) as pipe:
        decoded = pipe.networks.run("vae_decoder", latent_sample=latents)
    expected = latents[:, :3].repeat(8, axis=2).repeat(8, axis=3)
    np.testing.assert_allclose(decoded, expected, atol=1e-6)
    assert {part.shape for part in seen} == {(1, 4, 5, 8)}
    rows, columns = min(5, height // 8), min(8, width // 8)
    first = latents[:, :, :rows, :columns]
    np.testing.assert_array_equal(seen[0][:, :, :rows, :columns], first)
    np.testing.assert_array_equal(seen[0][:, :, rows:, :columns],
                                  first[:, :, -1:].repeat(5 - rows, 2))  # fmt: skip
    np.testing.assert_array_equal(seen[0][:, :, :rows, columns:],
                                  first[:, :, :, -1:].repeat(8 - columns, 3))  # fmt: skip


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


UNET_INPUTS = {
    "timestep": np.array([1]),
    "encoder_hidden_states": np.zeros((1, 77, 16), np.float32),
    "timestep_cond": np.zeros((1, 32), np.float32),
}


def test_the_unets_outputs_are_averaged_by_the_weights_of_its_tiles(configs):
    """Tiles of 32 latents, which overlap by 16, of a canvas of 48: each returns its number."""
    counter = iter(range(1, 3))

    def unet(sample, **_):
        return np.full_like(sample, next(counter))

    runtime = FakeRuntime(size=(256, 256), unet=unet)
    with lcmcore.load(configs, runtime=runtime) as pipe:
        sample = np.zeros((1, 4, 32, 48), np.float32)
        output = pipe.networks.run("unet", sample=sample, **UNET_INPUTS)
    assert output.shape == (1, 4, 32, 48)
    np.testing.assert_allclose(output[0, 0, 5, :16], 1)
    np.testing.assert_allclose(output[0, 0, 5, 16:32], 1 + (np.arange(16) + 0.5) / 16)
    np.testing.assert_allclose(output[0, 0, 5, 32:], 2)


def test_tiles_of_the_unet_overlap_by_16_latents_and_those_of_the_vae_by_8(configs):
    """Along 52 latents two tiles of 32 overlap by 12."""
    runtime = FakeRuntime(size=(256, 256))
    runs = dict.fromkeys(("unet", "vae_decoder"), 0)

    def counted(component, function, **inputs):
        runs[component] += 1
        return function(**inputs)

    for component in runs:
        function = runtime._functions[component]
        runtime._functions[component] = partial(counted, component, function)
    with lcmcore.load(configs, runtime=runtime) as pipe:
        pipe("a lake", num_inference_steps=1, width=8 * 52)
    assert runs == {"unet": 3, "vae_decoder": 2}


@pytest.mark.parametrize("guidance_scale", [1.0, 4.0])
@pytest.mark.parametrize("options", [{}, {"latent_sampling": "sample"}, {"strength": 1.0}])
def test_a_call_by_tiles_is_the_call_of_the_whole(configs, guidance_scale, options):
    """Networks that work pixel by pixel show it: one noise, and one draw, for the whole canvas."""

    def unet(sample, timestep, encoder_hidden_states):
        return 0.1 * sample + encoder_hidden_states.mean(axis=(1, 2))[:, None, None, None]

    def encoder(sample):
        latents = FakeRuntime()._functions["vae_encoder"](sample)
        latents[:, 4:] = -2
        return latents

    image = np.random.default_rng(0).uniform(0, 1, (144, 200, 3))
    results = []
    for size in (None, (256, 256), (64, 40), (128, 256)):
        runtime = FakeRuntime(
            unet=unet, vae_encoder=encoder, size=size, batch=size and 1, guidance=False
        )
        with lcmcore.load(configs, runtime=runtime) as pipe:
            results.append(
                pipe(
                    ["a lake", "a house"],
                    image,
                    seed=3,
                    width=192,
                    height=128,
                    guidance_scale=guidance_scale,
                    **options,
                )
            )
    for result in results[1:]:
        np.testing.assert_allclose(result.latents, results[0].latents, atol=1e-4)


def test_a_compiled_unet_makes_sizes_of_whole_latents(configs):
    with lcmcore.load(configs, runtime=FakeRuntime(size=(64, 64))) as pipe:
        assert pipe("a lake", seed=1).images[0].size == (64, 64)
        assert pipe("a lake", seed=1, width=136).images[0].size == (136, 64)
        assert pipe("a lake", seed=1, width=40, height=72).images[0].size == (40, 72)
        with pytest.raises(ArgumentError, match=r"^size 60x64: .* must be multiples of 8 .*64x64"):
            pipe("a lake", width=60)


class Counting(FakeRuntime):
    """Free in size, and which knows the sizes of what its networks were given."""

    def __init__(self, **options):
        super().__init__(**options)
        self.seen = {}
        for component, function in self._functions.items():
            self._functions[component] = partial(self._count, component, function)

    def _count(self, component, function, **inputs):
        image = next((each for each in inputs.values() if each.ndim == 4), None)
        self.seen.setdefault(component, set()).add(None if image is None else image.shape[2:])
        return function(**inputs)


PROMPT = "a lake"


@pytest.fixture
def init():
    return np.random.default_rng(0).uniform(0, 1, (256, 384, 3))


@pytest.mark.parametrize("text", ["", "tile = 192\n"])
def test_networks_that_are_free_in_size_work_by_the_tiles_asked_for(configs, init, text):
    """The UNet's are of that size; the VAE's as small as the same number of them allows."""
    runtime = Counting()
    (configs / "lcm.toml").write_text(text)
    size = {"width": 384, "height": 256}
    with lcmcore.load(configs, runtime=runtime, tile=None if text else 192) as pipe:
        result = pipe(PROMPT, init, seed=1, **size)
        assert result.tile == 192
        small = pipe(PROMPT, init, seed=1, width=128, height=64)
        assert small.tile is None
    assert runtime.seen["unet"] == {(24, 24), (8, 16)}
    assert runtime.seen["vae_encoder"] == {(8 * 20, 8 * 22), (64, 128)}
    assert runtime.seen["vae_decoder"] == {(20, 22), (8, 16)}
    with lcmcore.load(configs, runtime=FakeRuntime(), config=whole(configs)) as pipe:
        np.testing.assert_allclose(
            pipe(PROMPT, init, seed=1, **size).latents, result.latents, atol=1e-5
        )


def whole(configs):
    """An empty lcm.toml."""
    path = configs / "whole.toml"
    path.write_text("")
    return path


@pytest.mark.parametrize(
    ("tile", "message"),
    [
        (0, "tile must be from 1 to 65536, not 0"),
        ("512", "tile must be a whole number"),
        (100, "tile must be a multiple of 8 for this model, not 100"),
    ],
)
def test_tiles_that_cannot_be(configs, tile, message):
    with (
        pytest.raises(ArgumentError, match=message),
        lcmcore.load(configs, runtime=FakeRuntime(), tile=tile) as pipe,
    ):
        pipe(PROMPT, width=1024, height=1024)


@pytest.fixture
def free(monkeypatch):
    """How much memory is free: enough for tiles of 256 pixels, not for 1024x768 as a whole."""
    memory = [2**27]
    monkeypatch.setattr("lcmcore.sizes.available_bytes", lambda: memory[0])
    return memory


LARGE = {"width": 1024, "height": 1024}


def test_memory_auto_takes_tiles_where_the_whole_does_not_fit(configs, free):
    """Of the size that the model was trained for; once chosen, they are kept."""
    runtime = Counting()
    with lcmcore.load(configs, runtime=runtime) as pipe:
        first = pipe(PROMPT, seed=1, **LARGE)
        assert first.tile == 256
        assert runtime.seen["unet"] == {(32, 32)}
        assert runtime.seen["vae_decoder"] == {(32, 32)}
        free[0] = 2**40
        assert pipe(PROMPT, seed=1, **LARGE).images[0].tobytes() == first.images[0].tobytes()
        assert pipe(PROMPT, seed=1, width=256, height=256).tile is None
        assert pipe(PROMPT, seed=1, width=1024, height=960).tile is None
        assert (120, 128) in runtime.seen["unet"]


@pytest.mark.parametrize("text", ['memory = "low"\n', ""])
def test_other_memory_modes_refuse_what_does_not_fit_and_name_tiles(configs, free, text):
    (configs / "lcm.toml").write_text(text)
    memory = "auto" if text else "high"
    message = (
        r"^size 1024x1024 needs .* a smaller size or tiles \(--tile 256, in Python tile=256\)$"
    )
    with (
        lcmcore.load(configs, runtime=FakeRuntime(), memory=memory) as pipe,
        pytest.raises(ArgumentError, match=message),
    ):
        pipe(PROMPT, **LARGE)
    with lcmcore.load(configs, runtime=FakeRuntime(), memory=memory, tile=256) as pipe:
        assert pipe(PROMPT, **LARGE).tile == 256


def test_tiles_of_so_many_images_may_not_fit_either(configs, free):
    message = r"^6 times 1024x1024 needs more than 0\.1 GiB .* a smaller size or fewer images$"
    with (
        lcmcore.load(configs, runtime=FakeRuntime()) as pipe,
        pytest.raises(ArgumentError, match=message),
    ):
        pipe([PROMPT] * 6, **LARGE)


@pytest.mark.parametrize(("compiled", "tile"), [(True, None), (False, 256)])
def test_of_a_compiled_unet_only_a_decoder_that_is_free_needs_tiles(configs, free, compiled, tile):
    unet = FakeRuntime(size=(512, 512))
    vae = unet if compiled else FakeRuntime()
    with lcmcore.load(configs, runtime={"default": unet, "vae_decoder": vae}) as pipe:
        assert pipe(PROMPT, seed=1, width=2048, height=1024).tile == tile


def psnr(one, other):
    return float(10 * np.log10(1 / np.mean((one - other) ** 2)))


def _steps(images, axis, borders):
    """The mean difference of neighbours across these borders."""
    differences = np.abs(np.diff(images, axis=axis))
    return differences.take(np.array(borders) - 1, axis=axis).mean()


@pytest.fixture(scope="module")
def tiled(tmp_path_factory):
    """The demo model with networks of 256x256."""
    folder = tmp_path_factory.mktemp("tiled")
    root = fix_size(lcmcore.demo_dir(), folder / "bundle", (256, 256))
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


SCENES = 20  # of 100: a mean of 44.9 dB, a median of 45.5, 26.5 at worst
DRAW = f"""
import sys, numpy, painter, scene
numpy.save(sys.argv[1], [painter.render(scene.sample(seed)) for seed in range({SCENES})])
"""


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Scenes of the demo model's recipe on a canvas of 768x768, each from a place of its own.

    So nothing in them keeps to the borders of tiles, as the blocks of enlarged pixel art would,
    and trees, lines and hatching have the size that the VAE has learned.
    """
    folder = tmp_path_factory.mktemp("scenes")
    recipe = shutil.copytree(ROOT / "assets" / "recipe", folder / "recipe")
    canvas = (recipe / "canvas.py").read_text()
    assert "\nSIZE = 256\n" in canvas
    (recipe / "canvas.py").write_text(canvas.replace("\nSIZE = 256\n", "\nSIZE = 768\n"))
    drawn = folder / "drawn.npy"
    subprocess.run([sys.executable, "-c", DRAW, drawn], cwd=recipe, check=True)
    places = np.random.default_rng(0).integers(0, (768 - 384 + 1, 768 - 512 + 1), (SCENES, 2))
    return [
        image[top : top + 384, left : left + 512]
        for image, (top, left) in zip(np.load(drawn), places, strict=True)
    ]


@pytest.fixture(scope="module")
def round_trips(scenes, demo, tiled):
    """These scenes through the VAE: as a whole, and by tiles."""
    return [
        np.concatenate([pipe.decode(pipe.encode_image(scene, (512, 384))) for scene in scenes])
        for pipe in (demo, tiled)
    ]


def step_ratio(images, axis, borders):
    """The mean step across these borders, of that across the four places on either side."""
    beside = [border + offset for border in borders for offset in range(-4, 5) if offset]
    return float(_steps(images, axis, borders) / _steps(images, axis, beside))


@pytest.mark.slow
@pytest.mark.host  # where the recipe is
def test_scenes_by_tiles_are_close_to_the_whole(round_trips):
    found = [psnr(*pair) for pair in zip(*round_trips, strict=True)]
    print(f"mean {np.mean(found):.1f} dB, lowest {min(found):.1f} dB")
    assert np.mean(found) > 44.5
    assert min(found) > 36


@pytest.mark.slow
@pytest.mark.host  # where the recipe is
@pytest.mark.parametrize(
    ("axis", "ends", "middles"),
    [
        pytest.param(1, [128, 256], [192], id="rows"),
        pytest.param(2, [128, 256, 384], [192, 320], id="columns"),
    ],
)
def test_scenes_by_tiles_have_no_seam(round_trips, axis, ends, middles):
    """Where a tile ends, or in the middle of an overlap, where one would cut without blending.

    The whole has no tiles: its ratio says whether the scenes themselves step there.
    """
    whole, tiled = (step_ratio(images, axis, ends) for images in round_trips)
    amid = [step_ratio(images, axis, middles) for images in round_trips]
    print(f"whole {whole:.3f}, by tiles {tiled:.3f}; middles {amid[0]:.3f}, {amid[1]:.3f}")
    assert whole == pytest.approx(1, abs=0.06)
    assert tiled < 1.1
    assert amid[1] < 1.1 * amid[0]

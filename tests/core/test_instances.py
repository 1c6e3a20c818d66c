"""Instances: opened each on its part of the machine, run side by side, named, all closed."""

import re
import threading

import numpy as np
import pytest

import lcmcore
from lcmcore import ArgumentError, BundleError, NetworkError
from lcmcore.fake import FakeRuntime

LATENTS = np.random.default_rng(0).standard_normal((1, 4, 24, 8)).astype(np.float32)


class Cores(FakeRuntime):
    """Three cores, and networks of 64x64 that belong to one of them."""

    options = frozenset({"core", "speed"})

    def __init__(self, decode=None, refuse=None, **options):
        super().__init__(**{"size": (64, 64), **options})
        self.decode, self.refuse = decode, refuse
        self.opened, self.closed, self.trimmed = [], [], []
        self.fail_to_close = None

    def worker_options(self, index, count):
        return {"core": index % 3}

    def open(self, component, folder, options):
        network = super().open(component, folder, options)
        core = options.get("core")
        if component == "vae_decoder":
            if core == self.refuse is not None:
                raise NetworkError(component, "no room")
            self.opened.append(dict(options))
            network.close = lambda: self.close(core)
            network.trim = lambda: self.trimmed.append(core)
            if self.decode is not None:
                run = network.run
                network.run = lambda inputs: self.decode(core, run(inputs))
        return network

    def close(self, core):
        self.closed.append(core)
        if core == self.fail_to_close is not None:
            raise RuntimeError("stuck")


@pytest.fixture
def settings(configs):
    def write(text="[vae_decoder]\ninstances = 3\n"):
        (configs / "lcm.toml").write_text(text)
        return configs

    return write


def test_each_instance_gets_its_part_and_all_are_closed(settings):
    runtime = Cores()
    with lcmcore.load(settings(), runtime=runtime) as pipe:
        pipe.decode(LATENTS)
        assert runtime.opened == [{"core": 0}, {"core": 1}, {"core": 2}]
        pipe.decode(LATENTS)
        assert len(runtime.opened) == 3
        pipe.networks.run("vae_encoder", sample=np.zeros((1, 3, 64, 64), np.float32))
        assert sorted(runtime.trimmed) == [0, 1, 2]
        assert runtime.closed == []
    assert sorted(runtime.closed) == [0, 1, 2]


def test_they_run_side_by_side(settings):
    """A tile is done when three are at work, which is so only if they are at once."""
    barrier = threading.Barrier(3, timeout=20)
    cores = []

    def decode(core, outputs):
        barrier.wait()
        cores.append(core)
        return outputs

    with lcmcore.load(settings(), runtime=Cores(decode)) as pipe:
        pipe.decode(np.zeros((1, 4, 16, 8), np.float32))  # three tiles
    assert sorted(cores) == [0, 1, 2]


def test_threads_share_the_instances_and_none_runs_twice_at_a_time(settings):
    busy, faults = set(), []

    def decode(core, outputs):
        faults.extend({core} & busy)
        busy.add(core)
        threading.Event().wait(0.001)
        busy.remove(core)
        return outputs

    with lcmcore.load(settings(), runtime=Cores(decode)) as pipe:
        expected, images = pipe.decode(LATENTS), []
        threads = [
            threading.Thread(target=lambda: images.append(pipe.decode(LATENTS))) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert faults == []
    assert len(images) == 4
    for image in images:
        np.testing.assert_array_equal(image, expected)


@pytest.mark.parametrize("refused", [0, 1, 2])
def test_an_instance_that_does_not_open_is_named_and_the_others_are_closed(settings, refused):
    runtime = Cores(refuse=refused)
    message = f"vae_decoder: instance {refused + 1} of 3 (core {refused}): no room"
    with lcmcore.load(settings(), runtime=runtime) as pipe:
        with pytest.raises(NetworkError, match=f"^{re.escape(message)}$") as caught:
            pipe.decode(LATENTS)
        assert caught.value.component == "vae_decoder"
        assert runtime.closed[::-1] == list(range(refused))
        runtime.refuse = None
        assert np.isfinite(pipe.decode(LATENTS)).all()


def fail(core, outputs):
    raise RuntimeError("hung")


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (fail, "runtime 'fake' failed: hung"),
        (lambda core, outputs: {"sample": outputs["sample"] * np.float32("nan")}, "holds NaN"),
        (lambda core, outputs: {}, "returned no output sample"),
    ],
)
def test_an_instance_that_fails_is_named_and_the_next_call_works(settings, fault, message):
    broken = {1}

    def decode(core, outputs):
        return fault(core, outputs) if core in broken else outputs

    runtime = Cores(decode)
    with lcmcore.load(settings(), runtime=runtime) as pipe:
        with pytest.raises(
            NetworkError, match=rf"^vae_decoder: instance 2 of 3 \(core 1\): .*{message}"
        ):
            pipe.decode(LATENTS)
        broken.clear()
        assert np.isfinite(pipe.decode(LATENTS)).all()
    assert sorted(runtime.closed) == [0, 1, 2]


def test_after_a_failure_no_tile_is_begun(settings):
    begun = []

    def decode(core, outputs):
        begun.append(core)
        raise RuntimeError("hung")

    with (
        lcmcore.load(settings(), runtime=Cores(decode)) as pipe,
        pytest.raises(NetworkError, match="hung"),
    ):
        pipe.decode(np.zeros((1, 4, 200, 8), np.float32))  # 49 tiles
    assert len(begun) < 20


@pytest.mark.parametrize("stuck", [0, 1, 2])
def test_all_are_closed_even_if_one_does_not_close(settings, stuck):
    runtime = Cores()
    pipe = lcmcore.load(settings(), runtime=runtime)
    pipe.decode(LATENTS)
    runtime.fail_to_close = stuck
    message = f"vae_decoder: instance {stuck + 1} of 3 (core {stuck}): runtime 'fake' failed: stuck"
    with pytest.raises(NetworkError, match=f"^{re.escape(message)}$"):
        pipe.close()
    assert sorted(runtime.closed) == [0, 1, 2]


def test_one_instance_has_no_name(settings):
    with (
        lcmcore.load(settings(""), runtime=Cores(fail)) as pipe,
        pytest.raises(NetworkError, match=r"^vae_decoder: runtime 'fake' failed: hung$"),
    ):
        pipe.decode(LATENTS)


def test_a_network_of_free_size_is_opened_once(settings):
    runtime = Cores(size=None)
    with lcmcore.load(settings(), runtime=runtime) as pipe:
        pipe.decode(LATENTS)
    assert len(runtime.opened) == 1


def test_a_worker_of_a_pool_opens_one_on_its_own_part(settings):
    runtime = Cores()
    with lcmcore.load(settings(), runtime=runtime, core=2) as pipe:
        pipe.decode(LATENTS)
    assert runtime.opened == [{"core": 2}]


def test_options_of_lcm_toml_go_for_every_instance(settings):
    runtime = Cores()
    text = '[vae_decoder]\ninstances = 2\ncore = "any"\nspeed = 3\n'
    with lcmcore.load(settings(text), runtime=runtime) as pipe:
        pipe.decode(LATENTS)
    assert runtime.opened == [{"core": "any", "speed": 3}] * 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[vae_decoder]\ninstances = 0\n", "vae_decoder.instances must be from 1 to 16, not 0"),
        ("[vae_decoder]\ninstances = 17\n", "vae_decoder.instances must be from 1 to 16"),
        ('[vae_encoder]\ninstances = "3"\n', "vae_encoder.instances must be a whole number"),
        (
            "[text_encoder]\ninstances = 2\n",
            "text_encoder.instances: only unet, vae_encoder, vae_decoder have tiles",
        ),
    ],
)
def test_numbers_of_instances_that_cannot_be(settings, text, message):
    with pytest.raises(BundleError, match=re.escape(message)):
        lcmcore.load(settings(text), runtime=Cores())


def test_memory_is_counted_for_each_instance(settings, monkeypatch):
    """Three instances of one network may be what does not fit."""
    root = settings()
    runtime = Cores()
    runtime.filename = "model.fake"
    for component in ("text_encoder", "unet", "vae_encoder", "vae_decoder"):
        (root / component / "model.fake").write_bytes(bytes(100))
    for free, memory in ((1200, "high"), (1199, "low")):  # twice three and three times 100
        monkeypatch.setattr("lcmcore.networks.available_bytes", lambda free=free: free)
        with lcmcore.load(root, runtime=runtime) as pipe:
            assert pipe.networks.memory == memory


def test_a_key_that_no_runtime_knows_is_refused_with_those_that_there_are(settings):
    with pytest.raises(ArgumentError, match="known keys are runtime, instances, sha256, build"):
        lcmcore.load(settings("[vae_decoder]\nworkers = 3\n"), runtime=Cores())

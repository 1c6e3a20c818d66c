"""Which networks are open when: all, with the next ones read ahead, or one at a time."""

import threading
import time

import numpy as np
import pytest

import lcmcore
from lcmcore import ArgumentError, BundleError, Cancelled, NetworkError
from lcmcore import networks as networks_module
from lcmcore.bundle import COMPONENTS
from lcmcore.fake import FakeRuntime, _embed
from lcmcore.residency import KeepLoaded
from lcmcore.runtime import TensorSpec

PROMPT = "a snowy lake at night"
LONG = 60  # seconds; nothing here takes so long unless it hangs


class Watched(FakeRuntime):
    """Notes what is opened, by which thread, and what is open."""

    def __init__(self, before=None, **functions):
        super().__init__(**functions)
        self.before = before or {}  # component -> called before it is opened
        self.opened, self.threads, self.closed = [], [], []
        self.now, self.most = set(), 0

    def open(self, component, folder, options):
        self.before.get(component, lambda: None)()
        network = super().open(component, folder, options)
        self.opened.append(component)
        self.threads.append(threading.current_thread())
        self.now.add(component)
        self.most = max(self.most, len(self.now))
        network.close = lambda: (self.now.discard(component), self.closed.append(component))
        return network


class Declaring(Watched):
    """Returns inputs without opening the network, as the RKNN runtime does from its files."""

    def inputs(self, component, folder, options):
        return FakeRuntime().open(component, folder, options).inputs


@pytest.fixture(autouse=True)
def no_thread_is_left():
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


@pytest.fixture
def cores(monkeypatch):
    def have(count):
        monkeypatch.setattr("lcmcore.residency.usable_cores", lambda: [*range(count)])

    have(2)
    return have


def load(runtime, memory):
    return lcmcore.load(lcmcore.demo_dir(), runtime=runtime, memory=memory)


def refuse(component):
    def fail():
        raise NetworkError(component, "cannot be opened")

    return fail


# memory="low": one network is open at a time.


@pytest.mark.parametrize(
    ("runtime", "first"),
    [
        (Watched, ["unet", "text_encoder", "vae_encoder", "unet", "vae_decoder"]),
        (Declaring, ["text_encoder", "vae_encoder", "unet", "vae_decoder"]),
    ],
)
def test_low_opens_each_when_it_runs(runtime, first, photo):
    runtime = runtime()
    with load(runtime, "low") as pipe:
        pipe(PROMPT, photo, seed=1)
        assert (runtime.opened, runtime.most, runtime.now) == (first, 1, set())
        runtime.opened.clear()
        pipe(PROMPT, photo, seed=2)  # what the encoders returned is kept
        assert runtime.opened == ["unet", "vae_decoder"]
        runtime.opened.clear()
        pipe("a hill", photo, strength=0)
        assert runtime.opened == ["text_encoder", "vae_decoder"]


def test_low_generates_the_same_images(photo):
    images = []
    for memory in ("low", "high"):
        options = {"runtime": "onnx", "threads": 1, "memory": memory}
        with lcmcore.load("tests/tiny/lcm", **options) as pipe:
            images += pipe([PROMPT, "a hill"], photo, seed=7, output_type="np").images.tolist()
    assert images[:2] == images[2:]


def test_low_leaves_nothing_open_after_a_failure(photo):
    def unet(**_):
        raise ZeroDivisionError

    runtime = Watched(unet=unet)
    with load(runtime, "low") as pipe:
        with pytest.raises(NetworkError, match="unet: the fake function failed"):
            pipe(PROMPT, photo)
        assert not runtime.now
        with pytest.raises(ArgumentError):
            pipe(PROMPT, photo, width=7)
        assert not runtime.now


def test_low_allows_a_callback_to_decode(photo):
    """And to cancel; the UNet is closed for the decoder, and opened again."""
    runtime, previews = Watched(), []

    def callback(pipe, step, timestep, arrays):
        previews.append(pipe.decode(arrays["denoised"]))
        return step < 1

    with load(runtime, "low") as pipe, pytest.raises(Cancelled):
        pipe(PROMPT, photo, callback_on_step_end=callback)
    assert [preview.shape for preview in previews] == [(1, 64, 96, 3)] * 2
    assert runtime.most == 1
    assert not runtime.now


def test_low_is_one_at_a_time_for_threads_too(photo):
    runtime = Watched()
    with load(runtime, "low") as pipe:
        expected = [pipe(PROMPT, photo, seed=seed).latents for seed in range(4)]
        got = [None] * 4

        def work(seed):
            got[seed] = pipe(PROMPT, photo, seed=seed).latents

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    np.testing.assert_array_equal(got, expected)
    assert runtime.most == 1


def test_low_reports_a_broken_network_when_it_is_opened(photo):
    runtime = Watched(before={"vae_decoder": refuse("vae_decoder")})
    with load(runtime, "low") as pipe:
        with pytest.raises(NetworkError, match=r"^vae_decoder: cannot be opened$"):
            pipe(PROMPT, photo)
        assert not runtime.now


def test_low_closes_what_was_asked_for_its_inputs_too():
    runtime = Watched()
    pipe = load(runtime, "low")
    assert pipe.guidance_width == 32
    assert runtime.now == {"unet"}
    pipe.close()
    assert not runtime.now
    with pytest.raises(NetworkError, match="unet: the pipeline is closed"):
        pipe.networks.run("unet")


# memory="high": networks stay open.


def test_high_opens_each_once(photo):
    runtime = Watched()
    with load(runtime, "high") as pipe:
        for seed in range(3):
            pipe(f"{PROMPT} {seed}", photo, seed=seed)
        assert runtime.now == set(COMPONENTS)
    assert sorted(runtime.opened) == sorted(runtime.closed) == sorted(COMPONENTS)


def test_high_opens_the_next_networks_while_one_runs(cores, photo):
    opened = {component: threading.Event() for component in COMPONENTS}

    def text_encoder(input_ids):
        assert opened["vae_decoder"].wait(LONG)
        return _embed(input_ids)

    class Signalling(Watched):
        def open(self, component, folder, options):
            network = super().open(component, folder, options)
            opened[component].set()
            return network

    runtime = Signalling(text_encoder=text_encoder)
    with load(runtime, "high") as pipe:
        pipe(PROMPT, photo)
    threads = dict(zip(runtime.opened, runtime.threads, strict=True))
    assert threads["vae_decoder"] is not threading.current_thread()


def test_high_opens_the_others_while_the_unet_is_asked_for_its_defaults(cores, configs, photo):
    (configs / "lcm.toml").unlink()
    opened = {component: threading.Event() for component in COMPONENTS}

    class Signalling(Watched):
        def open(self, component, folder, options):
            if component == "unet":
                assert opened["text_encoder"].wait(LONG)
            opened[component].set()
            return super().open(component, folder, options)

    with lcmcore.load(configs, runtime=Signalling(), memory="high") as pipe:
        result = pipe(PROMPT)
    assert result.settings["guidance_scale"] == 8.5
    assert not opened["vae_encoder"].is_set()


def test_high_opens_only_what_the_call_needs(cores, photo):
    runtime = Watched()
    with load(runtime, "high") as pipe:
        pipe(PROMPT, output_type="latent")
    assert sorted(runtime.opened) == ["text_encoder", "unet"]


def test_high_on_a_single_core_opens_all_before_the_first_runs(cores, photo):
    cores(1)
    runtime = Watched(
        text_encoder=lambda **_: pytest.fail("a network is broken"),
        before={"vae_decoder": refuse("vae_decoder")},
    )
    with load(runtime, "high") as pipe, pytest.raises(NetworkError, match=r"^vae_decoder: cannot"):
        pipe(PROMPT, photo)
    assert set(runtime.threads) == {threading.current_thread()}


def test_a_network_that_cannot_be_opened_is_reported_before_it_runs(cores, photo):
    """In the caller's thread; a later call opens it again."""

    def text_encoder(input_ids):
        while runtime.before and not pipe.networks._residency._failed:
            time.sleep(0.001)
        return _embed(input_ids)

    def unet(sample, **_):
        assert not runtime.before, "the decoder is broken"
        return sample

    runtime = Watched(
        text_encoder=text_encoder, unet=unet, before={"vae_decoder": refuse("vae_decoder")}
    )
    with load(runtime, "high") as pipe:
        with pytest.raises(NetworkError, match=r"^vae_decoder: cannot be opened$"):
            pipe(PROMPT, photo)
        runtime.before.clear()
        assert pipe(PROMPT, photo).images


def test_what_a_second_call_needs_is_opened_ahead_too(cores):
    """The thread that opens for the first call, at a slow network, goes on with the second's."""
    go_on, done, opened = threading.Event(), threading.Event(), []

    def open_network(component):
        assert component != "unet" or go_on.wait(LONG)
        opened.append((component, threading.current_thread()))
        if component == "vae_decoder":
            done.set()
        return FakeRuntime().open(component, None, {})

    networks = KeepLoaded(open_network)
    networks.prefetch(["unet"])
    networks.prefetch(["unet", "vae_decoder"])
    go_on.set()
    assert done.wait(LONG)
    networks.close()
    assert [component for component, _ in opened] == ["unet", "vae_decoder"]
    assert threading.current_thread() not in {thread for _, thread in opened}


@pytest.fixture
def threads(cores, monkeypatch):
    """The threads that residency starts."""
    started = []

    class Noted(threading.Thread):
        def start(self):
            started.append(self)
            super().start()

    monkeypatch.setattr("lcmcore.residency.threading.Thread", Noted)
    return started


def test_a_thread_is_started_only_where_it_has_something_to_open(threads):
    def open_network(component):
        return FakeRuntime().open(component, None, {})

    networks = KeepLoaded(open_network)
    networks.prefetch([])
    assert not threads
    with networks.use("unet"):
        networks.prefetch(["unet"])
        assert not threads
    networks.prefetch(["unet", "vae_decoder"])
    threads[0].join()
    networks.prefetch(["unet", "vae_decoder"])
    assert len(threads) == 1
    networks.prefetch(["vae_encoder"])  # another, for the first has ended
    assert len(threads) == 2
    networks.close()
    networks.prefetch(["text_encoder"])
    assert len(threads) == 2


def test_one_thread_opens_for_all(threads):
    """Nor is a network noted twice."""
    go_on, opened = threading.Event(), []

    def open_network(component):
        assert go_on.wait(LONG)
        opened.append(component)
        return FakeRuntime().open(component, None, {})

    networks = KeepLoaded(open_network)
    networks.prefetch(["unet", "vae_decoder"])
    networks.prefetch(["vae_decoder", "vae_encoder"])
    networks.prefetch(["vae_encoder"])
    go_on.set()
    threads[0].join()
    networks.close()
    assert len(threads) == 1
    assert opened == ["unet", "vae_decoder", "vae_encoder"]


def test_what_a_closed_pipeline_had_noted_is_not_opened(threads):
    begun, go_on, opened = threading.Event(), threading.Event(), []

    def open_network(component):
        begun.set()
        assert go_on.wait(LONG)
        opened.append(component)
        return FakeRuntime().open(component, None, {})

    networks = KeepLoaded(open_network)
    networks.prefetch(["unet", "vae_decoder"])
    assert begun.wait(LONG)
    closing = threading.Timer(0, networks.close)
    closing.start()
    while not networks._closed:
        time.sleep(0.001)
    go_on.set()
    closing.join()
    assert opened == ["unet"]
    assert not networks._networks


def test_a_broken_network_fails_only_calls_that_need_it(cores, photo):
    runtime = Watched(before={"vae_encoder": refuse("vae_encoder")})
    with load(runtime, "high") as pipe:
        with pytest.raises(NetworkError, match=r"^vae_encoder: cannot be opened$"):
            pipe(PROMPT, photo)
        assert pipe(PROMPT).images


@pytest.mark.parametrize("memory", ["low", "high"])
def test_a_missing_encoder_is_reported_before_any_network_runs(memory, configs, photo):
    for component in COMPONENTS:
        (configs / component / "model.watched").touch()
    (configs / "vae_encoder" / "model.watched").unlink()
    runtime = Watched(text_encoder=lambda **_: pytest.fail("there is no encoder"))
    runtime.filename = "model.watched"
    with (
        lcmcore.load(configs, runtime=runtime, memory=memory) as pipe,
        pytest.raises(NetworkError, match=r"^vae_encoder: no model\.watched in .* only text-to-im"),
    ):
        pipe(PROMPT, photo)


def test_closing_while_a_network_is_opened(cores, photo):
    """close() waits for the network, closes it too and opens no other; the running call fails."""
    begun, go_on = threading.Event(), threading.Event()

    def slow():
        begun.set()
        assert go_on.wait(LONG)

    runtime = Watched(before={"vae_encoder": slow})
    pipe = load(runtime, "high")

    def text_encoder(input_ids):
        assert begun.wait(LONG)
        closing.start()
        while not pipe.networks._residency._closed:
            time.sleep(0.001)
        go_on.set()
        closing.join()
        return _embed(input_ids)

    runtime._functions["text_encoder"] = text_encoder
    closing = threading.Thread(target=pipe.close)
    with pytest.raises(NetworkError, match=r"^[a-z_]+: the pipeline is closed$"):
        pipe(PROMPT, photo)
    assert "vae_encoder" in runtime.closed
    assert not runtime.now


def test_a_callback_may_close(cores, photo):
    runtime = Watched()
    with (
        load(runtime, "high") as pipe,
        pytest.raises(NetworkError, match="unet: the pipeline is closed"),
    ):
        pipe(PROMPT, photo, callback_on_step_end=lambda pipe, *_: pipe.close())
    assert not runtime.now


def test_use_waits_for_the_thread_that_opens_the_network(cores):
    begun, opened = threading.Event(), []

    def open_network(component):
        begun.set()
        threading.Event().wait(0.05)
        opened.append(component)
        return FakeRuntime().open(component, None, {})

    networks = KeepLoaded(open_network)
    networks.prefetch(["unet"])
    assert begun.wait(LONG)
    with networks.use("unet") as network:
        assert network.inputs[1] == TensorSpec("timestep", (1,), "int64")
    networks.close()
    assert opened == ["unet"]


# memory="auto": which of the two.


@pytest.fixture
def chosen(monkeypatch):
    """What `memory` says of a model when so much is free."""

    def choose(model, free, **options):
        monkeypatch.setattr(networks_module, "available_bytes", lambda: free)
        with lcmcore.load(model, **options) as pipe:
            return pipe.networks.memory

    return choose


def test_auto_is_high_if_twice_the_files_are_free(chosen, model):
    onnx = sum(path.stat().st_size for path in model.glob("*/model.onnx"))
    assert chosen(model, 2 * onnx) == "high"
    assert chosen(model, 2 * onnx - 1) == "low"
    assert chosen(model, None) == "high"


@pytest.mark.parametrize("name", ["model.onnx_data", "weights.pb", "onnx__MatMul_1"])
def test_external_data_counts(name, chosen, model):
    (model / "unet" / name).touch()
    with (model / "unet" / name).open("wb") as file:
        file.truncate(2**30)
    assert chosen(model, 2**31) == "low"
    assert chosen(model, 2**32) == "high"


@pytest.mark.parametrize("name", ["model.rknn", "model.safetensors", "pytorch_model.bin"])
def test_files_of_other_runtimes_do_not_count(name, chosen, model):
    (model / "unet" / name).unlink(missing_ok=True)
    with (model / "unet" / name).open("wb") as file:
        file.truncate(2**33)
    assert chosen(model, 2**31, runtime="onnx") == "high"


def test_the_argument_overrides_lcm_toml_which_overrides_auto(chosen, model):
    (model / "lcm.toml").write_text('memory = "low"')
    assert chosen(model, None) == "low"
    assert chosen(model, 0, memory="high") == "high"


def test_invalid_memory_modes(model):
    with pytest.raises(ArgumentError, match="memory must be 'auto' or 'low' or 'high', not 'some'"):
        lcmcore.load(model, memory="some")
    (model / "lcm.toml").write_text("memory = 4")
    with pytest.raises(BundleError, match=r"lcm\.toml: memory must be 'auto' or 'low' or 'high'"):
        lcmcore.load(model)


def test_an_open_network_is_trimmed_when_the_next_one_runs(cores):
    trimmed = []

    class Trimmed(FakeRuntime):
        def open(self, component, folder, options):
            network = super().open(component, folder, options)
            network.trim = lambda: trimmed.append(component)
            return network

    with load(Trimmed(), "high") as pipe:
        pipe(PROMPT, seed=1, num_inference_steps=4)
        first = ["unet", "text_encoder", "unet"]  # the UNet was asked for its inputs before
        assert trimmed == first
        pipe(PROMPT, seed=2, num_inference_steps=4)  # its embedding is kept
    assert trimmed == [*first, "vae_decoder", "unet"]

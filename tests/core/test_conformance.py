"""The checks that a runtime's author runs: kept by the runtimes here, broken one at a time."""

import threading

import numpy as np
import pytest

from lcmcore import NetworkError
from lcmcore.conformance import breaches
from lcmcore.fake import FakeRuntime
from lcmcore.runtime import TensorSpec
from runtimes.onnx import OnnxRuntime
from tests.parity.bundles import TINY

MODEL = TINY / "lcm"


def halve(sample, timestep, encoder_hidden_states, timestep_cond):
    return sample / 2 + encoder_hidden_states.mean() + timestep / 1000 + timestep_cond.mean()


def test_onnx_runtime_keeps_the_contract():
    assert list(breaches(OnnxRuntime(), MODEL, options={"threads": 2})) == []


def test_the_fake_keeps_the_contract(configs):
    assert list(breaches(FakeRuntime(), configs, ("text_encoder", "vae_encoder"))) == []


@pytest.mark.parametrize("fixed", [{}, {"size": (64, 32)}, {"size": (64, 64), "batch": 1}])
def test_free_and_fixed_sizes(fixed, configs):
    runtime = FakeRuntime(unet=lambda sample, **_: sample / 2, **fixed)
    assert list(breaches(runtime, configs, ("unet", "vae_decoder"))) == []


class Broken(OnnxRuntime):
    """ONNX Runtime's, with one fault: a function of the network, its inputs and `run`."""

    def __init__(self, fault):
        self.fault = fault

    def open(self, component, folder, options):
        network = super().open(component, folder, options)
        run = network.run
        network.run = lambda inputs: self.fault(network, inputs, run)
        return network


def overwrites(network, inputs, run):
    results = run(inputs)
    kept = network.__dict__.setdefault("kept", results)
    for name, array in results.items():
        kept[name][...] = array
    return kept


def changes_inputs(network, inputs, run):
    results = run(inputs)
    inputs["latent_sample"][...] = 0
    return results


def returns_half(network, inputs, run):
    return {name: array.astype(np.float16) for name, array in run(inputs).items()}


def returns_nan(network, inputs, run):
    return {name: array * np.nan for name, array in run(inputs).items()}


def forgets_an_output(network, inputs, run):
    return {}


def ignores_inputs(network, inputs, run):
    return run({name: np.zeros_like(array) for name, array in inputs.items()})


def is_never_twice_the_same(network, inputs, run):
    count = network.__dict__["count"] = network.__dict__.get("count", 0) + 1
    return {name: array * count for name, array in run(inputs).items()}


def draws_one_item_for_all(network, inputs, run):
    results = run(inputs)
    return {name: np.repeat(array[:1], len(array), axis=0) for name, array in results.items()}


def fails_in_its_own_way(network, inputs, run):
    raise OSError("the device is gone")


@pytest.mark.host  # the checks are the same on every processor; emulated, networks take long
@pytest.mark.parametrize(
    ("fault", "line"),
    [
        (overwrites, "the next run overwrote the arrays that run returned"),
        (changes_inputs, "run changed its inputs"),
        (returns_half, "float16: expected sample [?, 3, ?, ?] float32"),
        (returns_nan, "output sample holds NaN or infinity"),
        (forgets_an_output, "returned no output sample"),
        (ignores_inputs, "other inputs give the same outputs"),
        (is_never_twice_the_same, "the same inputs give other outputs"),
        (draws_one_item_for_all, "a batch of two gives other outputs than its items"),
        (fails_in_its_own_way, "raised OSError: the device is gone"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_fault_is_found(fault, line):
    found = list(breaches(Broken(fault), MODEL, ("vae_decoder",)))
    assert any(each.startswith("vae_decoder: ") and line in each for each in found), found


class SharesItsScratch(OnnxRuntime):
    """Runs of two threads meet in one array, as those of one request of OpenVINO would.

    Both write before one of them reads, and both read before one writes again.
    """

    def open(self, component, folder, options):
        network = super().open(component, folder, options)
        run, scratch, meeting = network.run, {}, threading.Barrier(2, timeout=60)

        def shared(inputs):
            scratch.update({name: array.copy() for name, array in inputs.items()})
            if threading.current_thread() is threading.main_thread():
                return run(dict(scratch))
            meeting.wait()
            found = dict(scratch)
            meeting.wait()
            return run(found)

        network.run = shared
        return network


@pytest.mark.host  # the checks are the same on every processor; emulated, networks take long
def test_runs_of_two_threads_are_compared():
    found = list(breaches(SharesItsScratch(), MODEL, ("vae_decoder",)))
    assert found == ["vae_decoder: runs of two threads at once give other outputs"]


@pytest.mark.host  # the checks are the same on every processor; emulated, networks take long
def test_inputs_that_are_said_are_those_of_the_network():
    class Ahead(OnnxRuntime):
        def inputs(self, component, folder, options):
            return [TensorSpec("latent_sample", (1, 4, None, None), "float32")]

    assert list(breaches(Ahead(), MODEL, ("vae_decoder",))) == [
        "vae_decoder: inputs has latent_sample [1, 4, ?, ?] float32,"
        " not latent_sample [?, 4, ?, ?] float32"
    ]


class Sized(FakeRuntime):
    """With the option `size`; `turned` says what becomes of it, and `factor` of the outputs."""

    options = frozenset({"size"})
    factor = 1.0

    def turned(self, width, height):
        return width, height

    def open(self, component, folder, options):
        if "size" not in options:
            return super().open(component, folder, options)
        size = self.turned(*map(int, options["size"].split("x")))
        fixed = FakeRuntime(unet=lambda sample, **_: half(sample) * self.factor, size=size)
        return fixed.open(component, folder, {})


def half(sample, **_):
    return sample / 2


def of_size(runtime, configs):
    return list(breaches(runtime, configs, ("unet", "vae_decoder")))


def test_the_hint_of_a_size(configs):
    class Turned(Sized):
        def turned(self, width, height):
            return height, width

    class Ignoring(Sized):
        def turned(self, width, height):
            return None

    class Halved(Sized):
        factor = 0.5

    assert of_size(Sized(unet=half), configs) == []
    assert of_size(Ignoring(unet=half), configs) == []
    assert of_size(Turned(unet=half), configs) == [
        "unet: opened with size 128x64 it takes sample [?, 4, 16, 8] float32",
        "vae_decoder: opened with size 128x64 it takes latent_sample [?, 4, 16, 8] float32",
    ]
    assert of_size(Halved(unet=half), configs) == [
        "unet: opened with size 128x64 it gives other outputs"
    ]


def test_what_is_wrong_outside_the_networks():
    class Runtime(OnnxRuntime):
        def worker_options(self, index, count):
            return {"cores": 1}

        def diagnose(self, root):
            yield "fatal", "no device", ""

    found = list(breaches(Runtime(), MODEL, ()))
    assert found == [
        "runtime: worker_options has cores, not in its options",
        "runtime: diagnose has ('fatal', 'no device', ''): not (level, finding, remedy)",
    ]


def test_files_that_open_in_no_way_of_the_library():
    class Careless(OnnxRuntime):
        def open(self, component, folder, options):
            path = folder / self.filename
            if path.read_bytes().startswith(b"lcmcore.conformance"):
                raise RuntimeError("first line\nsecond line")
            return super().open(component, folder, options)

    found = list(breaches(Careless(), MODEL, ("text_encoder",)))
    assert len(found) == 2
    assert "text_encoder: no file: raised FileNotFoundError" in found[0]
    assert "text_encoder: a broken file: raised RuntimeError: first line" in found[1]


def test_messages_of_several_lines():
    class Wordy(OnnxRuntime):
        def open(self, component, folder, options):
            if not (folder / "config.json").exists():
                raise NetworkError(component, "cannot open\nbecause")
            return super().open(component, folder, options)

    found = list(breaches(Wordy(), MODEL, ("text_encoder",)))
    assert [line.split(": ")[1] for line in found] == ["no file", "a broken file"]
    assert all("the message has several lines: NetworkError: " in line for line in found)


def test_what_is_no_runtime():
    assert list(breaches(object(), MODEL)) == ["runtime: does not follow lcmcore.runtime.Runtime"]

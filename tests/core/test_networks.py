"""Inputs and outputs of networks are checked; errors name the network and the tensor."""

import json
import pickle
import re
from types import SimpleNamespace

import numpy as np
import pytest

import lcmcore
from lcmcore import ArgumentError, NetworkError, RuntimeUnavailableError
from lcmcore.errors import LcmError
from lcmcore.fake import FakeNetwork, FakeRuntime
from lcmcore.runtime import Network, TensorSpec, check_inputs, check_outputs, check_specs

SPECS = [TensorSpec("sample", (1, 4, None, 8), "float16"), TensorSpec("timestep", (1,), "int64")]
GOOD = {"sample": np.zeros((1, 4, 3, 8), np.float32), "timestep": np.array([999])}


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"sample": np.full((1, 4, 1, 8), -65504, np.float32)},  # float16's largest
        {"sample": np.zeros((1, 4, 0, 8), np.float32)},  # ONNX Runtime says what it thinks of it
        {"sample": np.zeros((1, 4, 3, 8), np.int64)},  # integers are cast
        {"timestep": np.array([True])},
    ],
)
def test_inputs_that_fit(change):
    check_inputs("unet", SPECS, {**GOOD, **change})


def test_one_number_that_is_not_finite_is_found():
    for index in range(3):
        sample = GOOD["sample"].copy()
        sample.ravel()[[0, 50, -1][index]] = np.nan
        with pytest.raises(NetworkError, match="input sample holds NaN or infinity"):
            check_inputs("unet", SPECS, {**GOOD, "sample": sample})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"timestep": None}, "unet: input timestep is missing; expected sample, timestep"),
        (
            {"timestep": np.array([999.0])},
            "unet: input timestep [1] float64 does not fit: expected timestep [1] int64",
        ),
        (
            {"timestep": np.array(["a"])},
            "unet: input timestep [1] str32 does not fit: expected timestep [1] int64",
        ),
        (
            {"noise": np.zeros(1)},
            "unet: input noise is unexpected; expected sample, timestep",
        ),
        (
            {"sample": np.zeros((2, 4, 3, 8), np.float32)},
            "unet: input sample [2, 4, 3, 8] float32 does not fit:"
            " expected sample [1, 4, ?, 8] float16",
        ),
        (
            {"sample": np.zeros((4, 3, 8), np.float32)},
            "unet: input sample [4, 3, 8] float32 does not fit:"
            " expected sample [1, 4, ?, 8] float16",
        ),
        (
            {"timestep": np.array([0.5])},
            "unet: input timestep [1] float64 does not fit: expected timestep [1] int64",
        ),
        (
            {"sample": np.zeros((1, 4, 3, 8), np.complex64)},
            "unet: input sample [1, 4, 3, 8] complex64 does not fit:"
            " expected sample [1, 4, ?, 8] float16",
        ),
        (
            {"sample": np.full((1, 4, 3, 8), np.nan, np.float32)},
            "unet: input sample holds NaN or infinity",
        ),
        (
            {"sample": np.full((1, 4, 3, 8), -np.inf, np.float32)},
            "unet: input sample holds NaN or infinity",
        ),
        (
            {"sample": np.full((1, 4, 3, 8), -65505, np.float32)},
            "unet: input sample holds a number too large for float16",
        ),
    ],
)
def test_inputs_that_do_not_fit(change, message):
    inputs = {name: array for name, array in {**GOOD, **change}.items() if array is not None}
    with pytest.raises(NetworkError) as caught:
        check_inputs("unet", SPECS, inputs)
    assert str(caught.value) == message
    assert caught.value.component == "unet"


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (None, "unet: returned no output sample"),
        ([[1.0]], "unet: returned no output sample"),
        (np.zeros((1, 4, 8), np.float32), "returned sample [1, 4, 8] float32: expected"),
        (np.zeros((1, 4, 3, 8)), "returned sample [1, 4, 3, 8] float64: expected sample"),
        (np.full((1, 4, 3, 8), np.nan, np.float32), "unet: output sample holds NaN or infinity"),
        (np.full((1, 4, 3, 8), np.inf, np.float32), "in half precision: an overflow"),
    ],
)
def test_outputs_that_are_wrong(array, message):
    with pytest.raises(NetworkError, match=re.escape(message)):
        check_outputs("unet", SPECS[:1], {} if array is None else {"sample": array})


@pytest.mark.parametrize("outputs", [None, [np.zeros(1)], "sample"])
def test_outputs_that_are_no_dictionary(outputs):
    with pytest.raises(NetworkError, match=f"returned {type(outputs).__name__}: expected a dict"):
        check_outputs("unet", SPECS[:1], outputs)


SPEC = TensorSpec("sample", (1, None), "float32")


@pytest.mark.parametrize(
    "spec",
    [
        SPEC,
        SPEC._replace(shape=()),
        SPEC._replace(shape=[1, 2**20 - 1]),
        SPEC._replace(dtype="bool"),
        SPEC._replace(dtype="float16"),
    ],
)
def test_inputs_and_outputs_that_files_declare(spec):
    check_specs("unet", [SPEC, spec])
    check_specs("unet", (spec,))


@pytest.mark.parametrize(
    "spec",
    [
        None,
        ("sample", (1,), "float32"),
        SPEC._replace(name=5),
        SPEC._replace(shape=4),
        SPEC._replace(shape=(0,)),
        SPEC._replace(shape=(-1,)),
        SPEC._replace(shape=(2**20,)),
        SPEC._replace(shape=(1.0,)),
        SPEC._replace(shape=(True,)),
        SPEC._replace(shape=("batch",)),
        SPEC._replace(dtype="str"),
        SPEC._replace(dtype="complex64"),
        SPEC._replace(dtype=None),
        SPEC._replace(dtype=["float32"]),
    ],
)
def test_inputs_and_outputs_that_cannot_be(spec):
    with pytest.raises(NetworkError, match=r"^unet: declares an invalid input or output: "):
        check_specs("unet", [SPEC, spec])


@pytest.mark.parametrize("specs", [None, 5, {SPEC}, iter([SPEC])])
def test_inputs_and_outputs_that_are_no_list(specs):
    with pytest.raises(NetworkError, match=r"^unet: declares no list of inputs or outputs: "):
        check_specs("unet", specs)


COLOUR = np.zeros((1, 3, 64, 64), np.float32)


@pytest.mark.parametrize(
    ("functions", "message"),
    [
        (
            {"text_encoder": lambda input_ids: np.zeros((1, 76, 16))},
            "text_encoder: returned last_hidden_state [1, 76, 16] float32: expected",
        ),
        (
            {"unet": lambda sample, **_: sample[:, :, :4]},
            "unet: returned out_sample [1, 4, 4, 8] float32: expected out_sample [1, 4, 8, 8]",
        ),
        (
            {"unet": lambda sample, **_: np.full_like(sample, np.nan)},
            "unet: output out_sample holds NaN",
        ),
        ({"unet": lambda sample, **_: "hello"}, "unet: the fake function failed: could not"),
        ({"unet": lambda sample, **_: 1 / 0}, "unet: the fake function failed: division by zero"),
        (
            {"vae_encoder": lambda sample: np.zeros((1, 8, 1, 1))},
            "vae_encoder: returned latent_parameters [1, 8, 1, 1] float32:"
            " expected latent_parameters [1, ?, 8, 8] float32",
        ),
        (
            {"vae_decoder": lambda latent_sample: COLOUR[:, :, ::2]},
            "vae_decoder: returned sample [1, 3, 32, 64] float32: expected sample [1, 3, 64, 64]",
        ),
    ],
)
def test_networks_that_return_wrong_outputs(functions, message, fake, photo):
    with pytest.raises(NetworkError, match=re.escape(message)):
        fake(**functions)("a", photo, width=64, height=64)


class Misfit(FakeRuntime):
    """A FakeRuntime whose networks are another's, as when folders were swapped."""

    def __init__(self, **mistaken):
        super().__init__()
        self.mistaken = mistaken

    def open(self, component, folder, options):
        return super().open(self.mistaken.get(component, component), folder, options)


@pytest.mark.parametrize(
    ("component", "other", "takes"),
    [
        ("text_encoder", "unet", "sample [?, 4, ?, ?] float32, timestep [1] int64"),
        ("unet", "text_encoder", "input_ids [?, 77] int64"),
        ("unet", "vae_encoder", "sample [?, 3, ?, ?] float32"),
        ("vae_encoder", "vae_decoder", "latent_sample [?, 4, ?, ?] float32"),
        ("vae_decoder", "vae_encoder", "sample [?, 3, ?, ?] float32"),
    ],
)
def test_swapped_networks(component, other, takes, photo):
    runtime = Misfit(**{component: other})
    with (
        lcmcore.load(lcmcore.demo_dir(), runtime=runtime) as pipe,
        pytest.raises(NetworkError) as caught,
    ):
        pipe("a", photo)
    message = str(caught.value)
    assert message.startswith(f"{component}: the file holds another network: it takes {takes}")


class Declared(FakeRuntime):
    """A FakeRuntime whose networks declare other inputs, by component, or say so beforehand."""

    def __init__(self, ahead=False, **declared):
        super().__init__()
        self.ahead, self.declared, self.closed = ahead, declared, []

    def open(self, component, folder, options):
        network = super().open(component, folder, options)
        network.inputs = self.declared.get(component, network.inputs)
        network.close = lambda: self.closed.append(component)
        return network

    def inputs(self, component, folder, options):
        if self.ahead:
            return self.open(component, folder, options).inputs
        return None


def specs(**shapes):
    return [TensorSpec(name, shape, "float32") for name, shape in shapes.items()]


GUIDED = {
    "sample": (None, 4, None, None),
    "timestep": (1,),
    "encoder_hidden_states": (None, 77, 16),
    "timestep_cond": (None, 32),
}


@pytest.mark.parametrize("ahead", [False, True], ids=["opened", "by its file"])
@pytest.mark.parametrize(
    ("component", "declared"),
    [
        ("unet", specs(**{**GUIDED, "sample": ()})),
        ("unet", specs(**{**GUIDED, "sample": (1, 4, 8)})),
        ("unet", specs(**{**GUIDED, "sample": (1, 4, 8, 8, 1)})),
        ("unet", specs(**{**GUIDED, "sample": (1, 9, 8, 8)})),  # an inpainting UNet
        ("unet", specs(**{**GUIDED, "timestep": ()})),
        ("unet", specs(**{**GUIDED, "encoder_hidden_states": (1, 16)})),
        ("unet", specs(**{**GUIDED, "timestep_cond": ()})),
        ("unet", specs(**{**GUIDED, "timestep_cond": (1, 2, 16)})),
        ("unet", specs(**GUIDED, class_labels=(1,))),
        ("unet", specs(sample=(1, 4, 8, 8), timestep=(1,))),
        ("text_encoder", specs(input_ids=(77,))),
        ("text_encoder", specs(input_ids=(1, 77), attention_mask=(1, 77))),
        ("vae_encoder", specs(sample=(1, 3, 8))),
        ("vae_encoder", specs(sample=(1, 3))),
        ("vae_decoder", specs(latent_sample=())),
    ],
)
def test_networks_of_another_form(component, declared, ahead, photo):
    if ahead and component != "unet":
        return  # the others are not asked
    runtime = Declared(ahead, **{component: declared})
    listed = ", ".join(map(str, declared))
    message = f"{component}: the file holds another network: it takes {listed}"
    with (
        lcmcore.load(lcmcore.demo_dir(), runtime=runtime, memory="low") as pipe,
        pytest.raises(NetworkError, match=f"^{re.escape(message)}$"),
    ):
        pipe("a", photo)
    assert component in runtime.closed or ahead


def test_the_order_of_a_unets_inputs_is_free(photo):
    runtime = Declared(unet=specs(**dict(reversed(GUIDED.items()))))
    with lcmcore.load(lcmcore.demo_dir(), runtime=runtime) as pipe:
        assert pipe("a", photo).images


@pytest.mark.parametrize("declared", [None, [None], [SPEC._replace(shape=(2**62,))]])
@pytest.mark.parametrize("kind", ["inputs", "outputs"])
def test_declarations_that_cannot_be(kind, declared, photo):
    class Wrong(FakeRuntime):
        def open(self, component, folder, options):
            network = super().open(component, folder, options)
            if component == "vae_decoder":
                setattr(network, kind, declared)
            return network

    with (
        lcmcore.load(lcmcore.demo_dir(), runtime=Wrong()) as pipe,
        pytest.raises(NetworkError, match=r"^vae_decoder: declares "),
    ):
        pipe("a", photo)


@pytest.mark.parametrize("width", [1, 2, 3])
def test_a_timestep_cond_too_narrow_for_an_embedding(width, configs):
    message = f"^unet: timestep_cond has width {width}: expected 4 or more$"
    runtime = Declared(unet=specs(**{**GUIDED, "timestep_cond": (1, width)}))
    with (
        lcmcore.load(configs, runtime=runtime) as pipe,
        pytest.raises(NetworkError, match=message),
    ):
        pipe("a")
    path = configs / "unet" / "config.json"  # where the file leaves the width free
    path.write_text(json.dumps({**json.loads(path.read_text()), "time_cond_proj_dim": width}))
    runtime = Declared(unet=specs(**{**GUIDED, "timestep_cond": (1, None)}))
    with (
        lcmcore.load(configs, runtime=runtime) as pipe,
        pytest.raises(NetworkError, match=message),
    ):
        pipe("a")


def test_the_narrowest_timestep_cond(configs):
    runtime = Declared(unet=specs(**{**GUIDED, "timestep_cond": (1, 4)}))
    with lcmcore.load(configs, runtime=runtime) as pipe:
        assert pipe("a", width=64, height=64).images


class Bare(FakeRuntime):
    """Networks without any input."""

    def open(self, component, folder, options):
        return FakeNetwork(component, len, [], TensorSpec("out", (1,), "float32"))


def test_a_network_that_follows_no_contract(photo):
    class Untrimmed(FakeRuntime):
        def open(self, component, folder, options):
            network = super().open(component, folder, options)
            return SimpleNamespace(
                inputs=network.inputs, outputs=network.outputs, run=network.run, close=network.close
            )

    with lcmcore.load(lcmcore.demo_dir(), runtime=Untrimmed()) as pipe:
        message = r"runtime 'fake' returned no subclass of lcmcore\.runtime\.Network"
        with pytest.raises(NetworkError, match=message):
            pipe("a lake")


def test_a_network_without_inputs():
    with (
        lcmcore.load(lcmcore.demo_dir(), runtime=Bare()) as pipe,
        pytest.raises(NetworkError, match="the file holds a network without inputs"),
    ):
        pipe("a")


def only(outputs):
    (output,) = outputs.values()
    return output


@pytest.mark.parametrize(
    ("component", "name"),
    [
        ("text_encoder", "last_hidden_state"),
        ("unet", "out_sample"),
        ("vae_encoder", "latent_parameters"),
        ("vae_decoder", "sample"),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_the_output_is_chosen_by_its_name(component, name, first, photo):
    """Exporters add others: pooler_output, hidden states, a sample beside the moments."""

    class Several(FakeRuntime):
        def open(self, opened, folder, options):
            network = super().open(opened, folder, options)
            if opened == component:
                usual = network.outputs[0].name
                run = network.run
                network.run = lambda inputs: {
                    "other": np.ones(1, np.float32), usual: only(run(inputs))
                }  # fmt: skip
                network.outputs = [*network.outputs]
                network.outputs.insert(not first, TensorSpec("other", (1,), "float32"))
            return network

    expected = lcmcore.load(lcmcore.demo_dir(), runtime=FakeRuntime())("a", photo, seed=1)
    with lcmcore.load(lcmcore.demo_dir(), runtime=Several()) as pipe:
        got = pipe("a", photo, seed=1)
        assert pipe.networks._residency._networks[component].outputs[0].name in ("other", name)
    np.testing.assert_array_equal(got.images[0], expected.images[0])


def test_an_output_of_an_unusual_name_is_the_first(photo):
    """Older exporters say latent_sample, and 363."""

    class Renamed(FakeRuntime):
        def open(self, component, folder, options):
            network = super().open(component, folder, options)
            run, usual = network.run, network.outputs[0]
            network.outputs = [usual._replace(name="363"), TensorSpec("364", (1,), "float32")]
            network.run = lambda inputs: {
                "363": only(run(inputs)), "364": np.ones(1, np.float32)
            }  # fmt: skip
            return network

    with lcmcore.load(lcmcore.demo_dir(), runtime=Renamed()) as pipe:
        assert pipe("a", photo).images


def test_all_outputs_are_checked(photo):
    class Several(FakeRuntime):
        def open(self, component, folder, options):
            network = super().open(component, folder, options)
            network.outputs.append(TensorSpec("other", (1,), "float32"))
            return network

    with (
        lcmcore.load(lcmcore.demo_dir(), runtime=Several()) as pipe,
        pytest.raises(NetworkError, match="returned no output other"),
    ):
        pipe("a", photo)


# Errors of a third party's code.


class Foreign(Network):
    """A network whose members fail where `fails` says so."""

    def __init__(self, network, fails):
        self.network, self.fails = network, fails
        self.inputs, self.outputs = network.inputs, network.outputs

    def fail(self, member):
        if member in self.fails:
            raise self.fails[member]

    def run(self, inputs):
        self.fail("run")
        return self.network.run(inputs)

    def trim(self):
        self.fail("trim")

    def close(self):
        self.fail("close")


class ForeignRuntime(FakeRuntime):
    """Of one network or more; `fails` has what is raised, by member, in one component."""

    name = "theirs"

    def __init__(self, component="unet", **fails):
        super().__init__()
        self.component, self.fails, self.closed = component, fails, []

    def open(self, component, folder, options):
        network = super().open(component, folder, options)
        if component != self.component:
            network.close = lambda: self.closed.append(component)
            return network
        if "open" in self.fails:
            raise self.fails["open"]
        return Foreign(network, self.fails)

    def inputs(self, component, folder, options):
        if "inputs" in self.fails:
            raise self.fails["inputs"]

    def release_memory(self):
        if "release_memory" in self.fails:
            raise self.fails["release_memory"]


@pytest.mark.parametrize("member", ["open", "run", "trim", "close", "inputs"])
@pytest.mark.parametrize("memory", ["low", "high"])
def test_a_third_partys_error_names_runtime_and_component(member, memory, photo):
    if (member, memory) == ("trim", "low"):
        return  # where it is closed instead
    cause = KeyError("first\nsecond") if member == "run" else OSError(5, "gone")
    words = "'first\\nsecond'" if member == "run" else "gone"
    pipe = lcmcore.load(
        lcmcore.demo_dir(), runtime=ForeignRuntime(**{member: cause}), memory=memory
    )
    with pytest.raises(NetworkError) as caught:
        pipe("a", photo)
        pipe.close()
    assert str(caught.value) == f"unet: runtime 'theirs' failed: {words}"
    assert caught.value.component == "unet"
    assert caught.value.__cause__ is cause


def test_release_memory_names_the_runtime(photo):
    pipe = lcmcore.load(lcmcore.demo_dir(), runtime=ForeignRuntime(release_memory=ValueError("x")))
    with pytest.raises(RuntimeUnavailableError, match=r"^runtime 'theirs' failed: x$"):
        pipe("a", photo)


@pytest.mark.parametrize("error", [MemoryError(), KeyboardInterrupt(), SystemExit(3)])
@pytest.mark.parametrize("member", ["open", "run"])
def test_what_is_not_the_runtimes_fault_passes(member, error, photo):
    with lcmcore.load(
        lcmcore.demo_dir(), runtime=ForeignRuntime(**{member: error}), memory="low"
    ) as pipe:
        with pytest.raises(type(error)) as caught:
            pipe("a", photo)
        assert caught.value is error


def test_their_own_lcm_errors_pass(photo):
    error = ArgumentError("speed must be a number")
    with lcmcore.load(lcmcore.demo_dir(), runtime=ForeignRuntime(open=error)) as pipe:
        with pytest.raises(ArgumentError) as caught:
            pipe("a", photo)
        assert caught.value is error


def test_a_network_that_cannot_be_closed_keeps_no_other_open(photo):
    runtime = ForeignRuntime("text_encoder", close=ValueError("x"))
    pipe = lcmcore.load(lcmcore.demo_dir(), runtime=runtime, memory="high")
    pipe("a", photo)
    with pytest.raises(NetworkError, match=r"^text_encoder: runtime 'theirs' failed: x$"):
        pipe.close()
    assert sorted(runtime.closed) == ["unet", "vae_decoder", "vae_encoder"]


def test_a_refused_network_that_cannot_be_closed_either(photo):
    """What is wrong with it is said."""

    class Refused(ForeignRuntime):
        def open(self, component, folder, options):
            network = super().open(component, folder, options)
            if component == "unet":
                network.inputs = []
            return network

    with (
        lcmcore.load(lcmcore.demo_dir(), runtime=Refused(close=ValueError("x"))) as pipe,
        pytest.raises(NetworkError, match="unet: the file holds a network without inputs"),
    ):
        pipe("a", photo)


def test_networks_compiled_for_one_item_are_called_for_each(fake):
    seen = []

    def unet(sample, timestep, **_):
        seen.append((len(sample), timestep.tolist()))
        return sample * np.float32(0.5)

    arguments = {"prompt": ["a", "b", "c"], "seed": 1, "num_inference_steps": 2}
    together = fake(unet=lambda sample, **_: sample * np.float32(0.5))(**arguments)
    alone = fake(unet=unet, batch=1)(**arguments)
    assert seen == [(1, [999])] * 3 + [(1, [499])] * 3
    np.testing.assert_array_equal(alone.latents, together.latents)


def test_the_seconds_of_opening_and_running(photo, monkeypatch):
    """By a clock that only the runtime moves, and that has run before."""
    clock = [1000.0]
    monkeypatch.setattr("lcmcore.networks.time", SimpleNamespace(perf_counter=lambda: clock[0]))

    class Slow(FakeRuntime):
        def open(self, component, folder, options):
            clock[0] += {"unet": 4}.get(component, 1)
            network = super().open(component, folder, options)
            run = network.run

            def slow(inputs):
                clock[0] += 16
                return run(inputs)

            network.run = slow
            return network

    with lcmcore.load(lcmcore.demo_dir(), runtime=Slow(), memory="low") as pipe:
        assert set(pipe.networks.opening.values()) == {0.0}
        pipe("a", photo, num_inference_steps=4, strength=0.5)
        opening = {"text_encoder": 1, "unet": 8, "vae_encoder": 1, "vae_decoder": 1}  # asked first
        assert pipe.networks.opening == opening
        running = {"text_encoder": 16, "unet": 32, "vae_encoder": 16, "vae_decoder": 16}
        assert pipe.networks.running == running


def test_errors_cross_process_boundaries():
    error = pickle.loads(pickle.dumps(NetworkError("unet", "is gone")))
    assert str(error) == "unet: is gone"
    assert error.component == "unet"
    assert isinstance(error, LcmError)

"""Runtimes are found by entry point, and chosen for each component."""

import re
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import pytest

import lcmcore
from lcmcore import ArgumentError, NetworkError, RuntimeUnavailableError
from lcmcore.bundle import COMPONENTS, Bundle
from lcmcore.cli.info import describe
from lcmcore.fake import FakeRuntime
from lcmcore.runtime import (
    Network,
    Runtime,
    breach_of_contract,
    describe_file,
    find_runtime,
    installed_runtimes,
    require_file,
    worker_options,
)
from lcmcore.runtime_choice import choose_runtime
from runtimes.onnx import OnnxRuntime


@pytest.fixture
def third_party(tmp_path, monkeypatch):
    """Install a package that registers a runtime, as pip would: a module and a dist-info."""

    def install(name, source):
        folder = tmp_path / f"site-{name}"
        metadata = folder / f"lcm_{name}-1.0.dist-info"
        metadata.mkdir(parents=True)
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: lcm-{name}\nVersion: 1\n")
        (metadata / "entry_points.txt").write_text(
            f"[lcmcore.runtimes]\n{name} = lcm_{name}:Ours\n"
        )
        (folder / f"lcm_{name}.py").write_text(textwrap.dedent(source))
        monkeypatch.delitem(sys.modules, f"lcm_{name}", raising=False)  # an earlier test's
        monkeypatch.syspath_prepend(folder)

    return install


HOST = """
    from lcmcore.fake import FakeRuntime

    class Ours(FakeRuntime):
        name = "host"
        filename = "model.host"
        priority = 50
        options = frozenset({"speed"})
        opened = []

        def open(self, component, folder, options):
            self.opened.append((component, options))
            return super().open(component, folder, options)
"""


INCOMPLETE = """
    from lcmcore.runtime import Runtime

    class Ours(Runtime):
        name, filename = "bad", "model.bad"

        def available(self):
            return None

        def open(self, component, folder, options):
            raise NotImplementedError
"""


def test_a_third_partys_runtime_is_found_and_used(third_party, configs):
    third_party("host", HOST)
    for component in COMPONENTS:
        (configs / component / "model.host").touch()
    with lcmcore.load(configs, runtime="host", speed=3) as pipe:
        assert pipe("a lake", seed=1).images[0].size == (256, 256)
        opened = pipe.networks.runtimes["unet"].opened
    assert sorted(opened) == [
        (component, {"speed": 3}) for component in ("text_encoder", "unet", "vae_decoder")
    ]


def test_auto_prefers_priority_and_falls_back_per_component(third_party, model):
    third_party("host", HOST)
    for component in ("unet", "vae_decoder"):
        (model / component / "model.host").touch()
    with lcmcore.load(model) as pipe:
        chosen = {component: pipe.networks.runtimes[component].name for component in COMPONENTS}
    assert chosen == {
        "text_encoder": "onnx",
        "unet": "host",
        "vae_encoder": "onnx",
        "vae_decoder": "host",
    }


@pytest.mark.parametrize("names", [("host", "best"), ("best", "host")])
def test_auto_takes_the_highest_priority_in_any_order(names, third_party, model):
    sources = {"host": HOST, "best": HOST.replace("50", "90").replace('"host"', '"best"')}
    for name in names:
        third_party(name, sources[name])
    (model / "unet" / "model.host").touch()
    with lcmcore.load(model) as pipe:
        assert pipe.networks.runtimes["unet"].name == "best"


def test_auto_leaves_out_unavailable_runtimes(third_party, model):
    third_party("host", f"{HOST}\n        def available(self): return 'no such chip'")
    (model / "unet" / "model.host").touch()
    with lcmcore.load(model) as pipe:
        assert pipe.networks.runtimes["unet"].name == "onnx"
    (model / "unet" / "model.onnx").unlink()
    with pytest.raises(NetworkError, match=r"^unet: runtime 'host' cannot be used here: no such"):
        lcmcore.load(model)
    with pytest.raises(RuntimeUnavailableError, match="'host' cannot be used here: no such chip"):
        lcmcore.load(model, runtime="host")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("import nowhere", "does not import: No module named 'nowhere'"),
        ("Ours = print('hello')", "does not import: 'NoneType' object is not callable"),
        ("class Ours: name = 'bad'", "does not follow lcmcore.runtime.Runtime"),
        ("def Ours(): raise RuntimeError", "does not import: RuntimeError"),
        (INCOMPLETE, "lacks priority, options of lcmcore.runtime.Runtime"),
    ],
)
def test_a_broken_runtime_is_reported_and_others_work(source, words, third_party):
    third_party("bad", source)
    assert "bad" in installed_runtimes()
    with pytest.raises(RuntimeUnavailableError, match=f"runtime 'bad' {re.escape(words)}"):
        find_runtime("bad")
    lcmcore.load(lcmcore.demo_dir()).close()
    assert any("model.onnx" in line for line in describe(lcmcore.demo_dir()))


class Ours(FakeRuntime):
    """A runtime, to break."""


@pytest.mark.parametrize(
    ("member", "value", "words"),
    [
        ("name", 5, "has a member name that is not text"),
        ("filename", None, "has a member filename that is not text"),
        ("priority", "high", "has a member priority that is not a number"),
        ("options", ["speed"], "has a member options that is not a frozenset of names"),
        ("options", frozenset({5}), "has a member options that is not a frozenset of names"),
        ("options", property(lambda _: 1 / 0), "failed: division by zero"),
        ("available", property(lambda _: 1 / 0), "failed: division by zero"),
        ("priority", 0.5, None),
        ("options", {"speed"}, None),
    ],
)
def test_members_of_a_wrong_type(member, value, words, monkeypatch):
    monkeypatch.setattr(Ours, member, value)
    reason = breach_of_contract(Ours())
    assert reason == words or (member == "available" and sys.version_info >= (3, 12))
    if words and member != "available":
        with pytest.raises(ArgumentError, match=f"^runtime .*Ours.* {re.escape(words)}$"):
            lcmcore.load(lcmcore.demo_dir(), runtime=Ours())


@pytest.mark.parametrize("source", ["1 / 0", "raise MemoryError"])
def test_describing_a_file_names_the_runtime(source, third_party, configs):
    """`lcm info` goes on with the other networks."""
    body = f"\n        def describe(self, path):\n            yield 'first'\n            {source}"
    third_party("host", HOST + body)
    for component in COMPONENTS:
        (configs / component / "model.host").touch()
    if source == "raise MemoryError":
        with pytest.raises(MemoryError):
            list(describe(configs))
        return
    lines = [line.strip() for line in describe(configs)]
    assert lines.count("first") == len(COMPONENTS)
    for component in COMPONENTS:
        assert f"{component}: runtime 'host' failed: division by zero" in lines


def test_options_of_workers(third_party):
    """Of the runtimes that work here; one that fails does not stop a pool."""
    third_party(
        "host", f"{HOST}\n        def worker_options(self, i, n): return {{'speed': (i, n)}}"
    )
    bad = HOST.replace('"host"', '"bad"')
    third_party("bad", f"{bad}\n        def worker_options(self, i, n): return 1 / 0")
    off = HOST.replace('"host"', '"off"')
    third_party("off", f"{off}\n        def available(self): return 'no chip'\n"
                "        def worker_options(self, i, n): return {'off': 1}")  # fmt: skip
    options = worker_options(1, 4)
    assert options["speed"] == (1, 4)
    assert "threads" in options
    assert "off" not in options


def test_a_broken_runtime_does_not_hide_a_missing_file(third_party, tmp_path):
    third_party("bad", "import nowhere")
    with pytest.raises(NetworkError, match=r"no model\.onnx.* in .*\?; runtime 'bad'"):
        lcmcore.load(tmp_path)


def test_a_runtime_whose_check_fails(third_party, model):
    third_party("host", f"{HOST}\n        def available(self): raise OSError('no driver')")
    (model / "unet" / "model.host").touch()
    with lcmcore.load(model) as pipe:
        assert pipe.networks.runtimes["unet"].name == "onnx"
    with pytest.raises(RuntimeUnavailableError, match="no driver"):
        lcmcore.load(model, runtime="host")


def test_the_file_of_a_runtime(tmp_path):
    (tmp_path / "model.host").touch()
    assert require_file("unet", tmp_path, "model.host") == tmp_path / "model.host"
    with pytest.raises(NetworkError, match=f"^unet: no other in {re.escape(str(tmp_path))}$"):
        require_file("unet", tmp_path, "other")


def test_unknown_runtime():
    with pytest.raises(RuntimeUnavailableError, match=r"unknown runtime 'tpu': .* auto, onnx"):
        lcmcore.load(lcmcore.demo_dir(), runtime="tpu")


@pytest.mark.parametrize(
    ("runtime", "words"),
    [
        (5, "runtime must be a name or a Runtime, not 5"),
        (None, "not None"),
        ({"unet": 5}, "not 5"),
        ({"vae": "onnx"}, "runtime for 'vae': components are text_encoder, unet"),
    ],
)
def test_invalid_runtimes(runtime, words):
    with pytest.raises(ArgumentError, match=re.escape(words)):
        lcmcore.load(lcmcore.demo_dir(), runtime=runtime)


def test_an_incomplete_runtime_is_refused_as_an_object_too(third_party):
    third_party("bad", INCOMPLETE)
    from lcm_bad import Ours

    with pytest.raises(
        ArgumentError, match=r"lacks priority, options of lcmcore\.runtime\.Runtime"
    ):
        lcmcore.load(lcmcore.demo_dir(), runtime=Ours())


def test_unknown_option():
    with pytest.raises(ArgumentError, match=r"unknown option 'cores'; runtimes know .*threads"):
        lcmcore.load(lcmcore.demo_dir(), cores=3)


def test_a_choice_for_each_component():
    fake = FakeRuntime()
    with lcmcore.load(lcmcore.demo_dir(), runtime={"default": fake, "vae_encoder": "onnx"}) as pipe:
        chosen = pipe.networks.runtimes
    assert isinstance(chosen.pop("vae_encoder"), OnnxRuntime)
    assert set(chosen.values()) == {fake}


def test_lcm_toml_chooses_unless_the_caller_does(model):
    (model / "lcm.toml").write_text("runtime = 'nothing'\n[unet]\nruntime = 'onnx'")
    with pytest.raises(RuntimeUnavailableError, match="'nothing'"):
        lcmcore.load(model)
    with lcmcore.load(model, runtime=FakeRuntime()) as pipe:
        assert {runtime.name for runtime in pipe.networks.runtimes.values()} == {"fake"}
    rest = {name: "onnx" for name in COMPONENTS if name != "unet"}
    with lcmcore.load(model, runtime=rest) as pipe:
        assert pipe.networks.runtimes["unet"].name == "onnx"


def test_importing_lcmcore_loads_no_runtime_and_no_command():
    """Beside what numpy and Pillow load themselves."""
    code = """
        import sys
        import numpy, PIL.Image, PIL.ImageOps
        before = set(sys.modules)
        import lcmcore
        loaded = {name.split(".")[0] for name in set(sys.modules) - before}
        heavy = {"onnxruntime", "runtimes", "rknnlite", "argparse", "logging.config", "asyncio"}
        assert not loaded & heavy, loaded & heavy
        assert "importlib.metadata" not in set(sys.modules) - before
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)


def test_a_file_is_checked_only_where_that_is_asked_for(tmp_path):
    class Ours(FakeRuntime):
        def describe(self, path):
            yield f"about {path.name}"

        def check(self, path):
            yield f"{path.name} is whole"

    path = tmp_path / "unet" / "model.host"
    assert list(describe_file(Ours(), path)) == ["about model.host"]
    assert list(describe_file(Ours(), path, check=True)) == [
        "about model.host",
        "model.host is whole",
    ]


@pytest.mark.parametrize(
    ("kind", "names"),
    [(Runtime, ("available", "open")), (Network, ("run", "close"))],
)
def test_what_has_no_default_must_be_there(kind, names):
    for name in names:
        body = {other: lambda self: None for other in names if other != name}
        with pytest.raises(TypeError, match=name):
            type("Partial", (kind,), body)()


def test_an_unknown_key_of_a_component(model):
    (model / "lcm.toml").write_text("[unet]\nspeed = 3")
    with pytest.raises(ArgumentError, match=r"lcm\.toml: unknown key unet\.speed; known keys are"):
        lcmcore.load(model)


class OfTwoFormats(OnnxRuntime):
    """Opens its own format, where that is there, and is used on request alone."""

    name = "two"
    priority = -1

    def model_file(self, folder):
        own = folder / "own.xml"
        return own if own.exists() else folder / self.filename


def test_a_runtime_of_two_formats(model):
    bundle = Bundle.open(model)
    entries = {"two": SimpleNamespace(load=lambda: OfTwoFormats)}
    assert choose_runtime(bundle, "unet", "two", entries).name == "two"
    (model / "unet" / "model.onnx").rename(model / "unet" / "own.xml")
    assert choose_runtime(bundle, "unet", "two", entries).name == "two"
    with pytest.raises(NetworkError, match=r"no .* in .*unet; --runtime two opens own\.xml"):
        choose_runtime(bundle, "unet", "auto", entries)
    (model / "unet" / "own.xml").unlink()
    with pytest.raises(NetworkError, match=r"no model\.onnx in "):
        choose_runtime(bundle, "unet", "two", entries)

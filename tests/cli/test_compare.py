"""`lcm bench --compare`: what is measured, what is the fastest, and what --write changes."""

import shutil

import numpy as np
import pytest

import lcmcore
from lcmcore.cli import compare
from lcmcore.cli.main import main
from lcmcore.runtime import find_runtime
from runtimes.onnx import OnnxRuntime
from tests.parity.bundles import assemble


class Clock:
    """In the place of `time` where runs are measured: it goes on as the networks here say."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        return self.now


CLOCK = Clock()


class Rounded(OnnxRuntime):
    """ONNX Runtime's networks, slow in one precision, and rounded in another."""

    name = "rounded"
    priority = -1
    options = frozenset({"precision"})

    def variants(self):
        yield {"precision": "float32"}
        yield {"precision": "bfloat16"}

    def open(self, component, folder, options):
        network = super().open(component, folder, {})
        run = network.run

        def rounded(inputs):
            outputs = run(inputs)
            if options.get("precision", "float32") == "float32":
                CLOCK.now += 0.2
                return outputs
            CLOCK.now += 0.01
            return {k: np.round(v * 8) / 8 for k, v in outputs.items()}

        network.run = rounded
        return network


class Slow(OnnxRuntime):
    """ONNX Runtime, of a time that is no chance."""

    def open(self, component, folder, options):
        network = super().open(component, folder, options)
        run = network.run

        def slow(inputs):
            CLOCK.now += 0.05
            return run(inputs)

        network.run = slow
        return network


@pytest.fixture(autouse=True)
def runtimes(monkeypatch):
    """These two alone are installed, as far as the comparison is concerned, and take that long."""
    monkeypatch.setattr("lcmcore.networks.time", CLOCK)
    monkeypatch.setattr(compare, "importable_runtimes", lambda: iter([Rounded(), Slow()]))


@pytest.fixture
def bundle(tmp_path):
    return assemble("lcm", tmp_path / "bundle")


def lcm(bundle, *words):
    return main(["bench", "--compare", f"--model={bundle}", "--rounds=1", "--size=64x64", *words])


def test_each_network_in_each_way(bundle, capsys):
    assert lcm(bundle) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split() for line in lines if line.startswith(lcmcore.bundle.COMPONENTS)]
    found = {(row[0], *row[1:-4]): (float(row[-4]), row[-1]) for row in rows}
    assert len(found) == 12
    for component in ("text_encoder", "unet", "vae_encoder", "vae_decoder"):
        assert found[component, "onnx"][1] == "equal"
        assert found[component, "rounded", "precision=float32"][0] == 0.2
        assert found[component, "onnx"][0] == 0.05
        assert float(found[component, "rounded", "precision=bfloat16"][1]) < 60
    assert not (bundle / "lcm.toml").exists()


def test_psnr_is_that_of_the_definition():
    """10 log10(range^2 / mean square error), by hand: a range of 4, an error of .5 in one of 4."""
    expected = np.array([0, 4, 1, 2], np.float32)
    found = np.array([0, 4, 1, 2.5], np.float32)
    assert compare._psnr(expected, found) == pytest.approx(10 * np.log10(16 / (0.25 / 4)))
    assert compare._psnr(expected, expected) == np.inf


@pytest.mark.parametrize(
    ("psnr", "runtime", "precision"), [("0", "rounded", "bfloat16"), ("200", "onnx", None)]
)
def test_the_fastest_that_is_close_enough_is_written(psnr, runtime, precision, bundle, capsys):
    text = (
        '# mine\nruntime = "auto"  # all\n\n[unet] # slow\nprecision = "int8"\nthreads = 1\n# end'
    )
    (bundle / "lcm.toml").write_text(text)
    monkey = 'precision = "int8"\n'
    assert lcm(bundle, f"--psnr={psnr}", "--write") == 0
    settings = lcmcore.bundle.Settings.read(bundle / "lcm.toml")
    for component in lcmcore.bundle.COMPONENTS:
        assert settings.runtime_of(component) == runtime
        assert settings.options_of(component).get("precision") == precision
    assert settings.options_of("unet")["threads"] == 1
    after = (bundle / "lcm.toml").read_text()
    assert all(line in after for line in text.replace(monkey, "").splitlines())


def test_a_file_that_cannot_be_changed_stays(bundle, capsys):
    text = "unet = {threads = 1}\n"
    (bundle / "lcm.toml").write_text(text)
    assert lcm(bundle, "--write") == 1
    assert "lcm.toml: cannot be changed: set " in capsys.readouterr().err
    assert (bundle / "lcm.toml").read_text() == text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["bench", "--write"], "--write writes what --compare found: add --compare"),
        (["bench", "--compare", "--write"], "--write changes lcm.toml: name a model with --model"),
        (["bench", "--compare", "--psnr=-1"], "psnr must be from 0"),
    ],
)
def test_wrong_use(words, message, capsys, monkeypatch):
    monkeypatch.delenv("LCM_MODEL", raising=False)
    assert main(words) == 1
    assert message in capsys.readouterr().err


def test_a_candidate_that_fails_is_named_and_left_out(bundle, capsys, monkeypatch):
    class Failing(OnnxRuntime):
        name = "failing"
        priority = -1

        def open(self, component, folder, options):
            raise OSError("no device")

    monkeypatch.setattr(compare, "importable_runtimes", lambda: iter([Failing(), Slow()]))
    assert lcm(bundle) == 0
    out = capsys.readouterr().out
    assert "unet: runtime 'failing' failed: no device" in out
    assert "fastest within 40 dB: unet on onnx" in out


def test_a_model_that_no_automatic_runtime_opens(bundle, capsys, monkeypatch):
    """The runtime that must be asked for is held against itself in float32."""
    monkeypatch.setattr(compare, "importable_runtimes", lambda: iter([Rounded()]))
    assert lcm(bundle) == 0
    out = capsys.readouterr().out
    (exact,) = (row for row in out.splitlines() if row.startswith("unet ") and "float32" in row)
    (rounded,) = (row for row in out.splitlines() if row.startswith("unet ") and "bfloat16" in row)
    assert exact.split()[-1] == "equal"
    assert float(rounded.split()[-1]) < 60


def test_a_network_without_a_runtime(bundle, capsys, monkeypatch):
    shutil.rmtree(bundle / "unet")
    assert lcm(bundle) == 1
    assert "unet: no runtime that works here opens a file of" in capsys.readouterr().err


def test_simulators_are_not_measured():
    assert list(find_runtime("rknn-sim").variants()) == []

"""`lcm doctor`, and what `lcm info` says of checksums, on a host that is no board."""

import shutil

import pytest

from lcmcore import demo_dir
from lcmcore.cli.main import main
from lcmcore.util.files import sha256


@pytest.fixture
def bundle(tmp_path):
    return shutil.copytree(demo_dir(), tmp_path / "bundle")


def test_the_demo_model_has_no_errors(capsys):
    assert main(["doctor"]) == 0
    reported = capsys.readouterr().out
    assert "unet would run on onnx" in reported
    assert "not a Rockchip board" in reported
    assert "error" not in reported


def test_rknn_networks_are_no_error_on_a_host(bundle, capsys):
    """Only what the compiled files are is looked at elsewhere (tests/rknn/test_diagnosis.py)."""
    (bundle / "unet" / "model.onnx").rename(bundle / "unet" / "model.other")
    main(["doctor", "--model", str(bundle)])
    assert "warning  unet: no model.onnx" in capsys.readouterr().out


def test_a_missing_network_is_an_error(bundle, capsys):
    shutil.rmtree(bundle / "unet")
    assert main(["doctor", "--model", str(bundle)]) == 1
    reported = capsys.readouterr()
    assert "error    unet: no model.onnx" in reported.out
    assert reported.err == "lcm: error: 1 error found (see above)\n"


def test_a_missing_encoder_is_a_warning(bundle, capsys):
    shutil.rmtree(bundle / "vae_encoder")
    assert main(["doctor", "--model", str(bundle)]) == 0
    assert "warning  vae_encoder: no model.onnx" in capsys.readouterr().out


def test_info_compares_the_checksum(bundle, capsys):
    right = sha256(bundle / "unet" / "model.onnx")
    (bundle / "lcm.toml").write_text(f'[unet]\nsha256 = "{right}"\n[vae_decoder]\nsha256 = "00"\n')
    assert main(["info", str(bundle)]) == 0
    reported = capsys.readouterr().out
    assert reported.count("checksum of model.onnx matches") == 1
    assert "CHECKSUM MISMATCH: no file here has the SHA-256 of lcm.toml, 00" in reported

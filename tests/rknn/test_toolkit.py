"""However the converter's process ends, an exception gives the reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from lcmcore.errors import NetworkError
from runtimes.rknn import toolkit
from runtimes.rknn.toolkit import Toolkit


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolkit, "_CHILD", "tests.rknn.fake_child")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("crash", r"crashed during build \(SIGSEGV\); its log says: E build: something is odd$"),
        ("killed", r"crashed during build \(SIGKILL, probably the OOM killer\)"),
        ("quits", "exited during build with status 3"),
        (
            "refuses",
            "refused to build: load_onnx returned -1; its log says: E build: something is odd$",
        ),
        ("raises", "failed to build: ValueError: no such operator$"),
    ],
)
def test_failures(fake: None, name: str, message: str) -> None:
    with Toolkit("unet") as converter, pytest.raises(NetworkError, match=rf"^unet: .*{message}"):
        converter.build(Path(name), {}, "rk3588")


def test_process_and_files_are_gone_after_close(fake: None) -> None:
    converter = Toolkit("unet")
    converter.build(Path("good"), {}, "rk3588")
    folder = Path(converter._folder.name)
    assert folder.is_dir()
    converter.close()
    converter.close()
    assert converter._process.returncode == 0
    assert not folder.exists()
    with pytest.raises(NetworkError, match="closed"):
        converter.export(Path("out"))

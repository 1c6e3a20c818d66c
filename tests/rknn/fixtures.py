"""Small .rknn files of the true converter, for tests on hosts that have none.

`python -m tests.rknn.fixtures` in the converter's environment makes them again from tests/tiny/lcm
at 48x32 for rk3588. Of the body only the beginning is kept, which is all that a reader looks at;
the rest is zeros, for no test here runs the compiled program.
"""

from __future__ import annotations

import gzip
import tempfile
from argparse import Namespace
from pathlib import Path

SIZE = "48x32"
TINY = Path(__file__).parents[1] / "tiny" / "lcm"
DATA = Path(__file__).parent / "data"
COMPONENTS = ("text_encoder", "unet", "vae_encoder", "vae_decoder")

_BODY = 64
_KEPT = 1 << 14


def read(component: str) -> bytes:
    """A component's .rknn file."""
    return gzip.decompress((DATA / f"{component}.rknn.gz").read_bytes())


def write_bundle(root: Path) -> None:
    """Write the .rknn files where a bundle has them."""
    for component in COMPONENTS:
        (root / component).mkdir(parents=True, exist_ok=True)
        (root / component / "model.rknn").write_bytes(read(component))


def without_program(data: bytes) -> bytes:
    """A .rknn file with zeros for all of the body but its beginning."""
    end = _BODY + int.from_bytes(data[16:24], "little")
    kept = min(_BODY + _KEPT, end)
    return data[:kept] + bytes(end - kept) + data[end:]


def make() -> None:
    """Build the files with rknn-toolkit2."""
    from runtimes.rknn import build

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "bundle"
        build.run(
            Namespace(
                onnx_dir=TINY, out=out, platform="rk3588", size=SIZE, components=None, quantize=None
            )
        )
        for component in COMPONENTS:
            data = without_program((out / component / "model.rknn").read_bytes())
            packed = gzip.compress(data, mtime=0)
            (DATA / f"{component}.rknn.gz").write_bytes(packed)


if __name__ == "__main__":
    make()

"""What is killed, and what must be found afterwards."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from tests.jobs.images import make_photos
from tests.kill.victims import PART_BYTES, PARTS, TOKENIZER

ROOT = Path(__file__).parents[2]
TINY = ROOT / "tests" / "tiny" / "lcm"
LCM = str(Path(sys.executable).with_name("lcm"))
QUICK = ("--model", str(TINY), "--size", "64x64", "--steps", "2", "--seed", "3", "--threads", "1")
PHOTOS = 6

Command = tuple[str, ...]


class Scenario(NamedTuple):
    """`commands` are started together and one of them is killed, by a way of `ways`.

    "group": with all processes that it started, as when the power fails; "process": it alone;
    "child": one of its children. `half` lists files that are neither whole nor absent, `left` what
    should not be there once `again` has run.
    """

    prepare: Callable[[Path], None]
    commands: Callable[[Path], list[Command]]
    again: Callable[[Path], Command]
    half: Callable[[Path], list[str]]
    left: Callable[[Path], list[str]]
    ways: tuple[str, ...]
    waits_for_ready: bool  # of the first command; else it is killed at any time after its start
    seconds: float  # from then on, at most; 0: as long as it takes
    share: int  # of the kills, in percent


def names(folder: Path, *known: str) -> list[str]:
    """What else is in a folder, or is missing."""
    found = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    wrong = [f"{folder.name}/{name} is left" for name in sorted(found - set(known))]
    return wrong + [f"{folder.name}/{name} is missing" for name in sorted(set(known) - found)]


def broken_images(folder: Path) -> list[str]:
    """The PNG files that cannot be decoded, or whose record is not complete."""
    wrong = []
    for path in sorted(folder.glob("*.png")):
        try:
            with Image.open(path) as image:
                image.load()
                if "prompt" not in image.info:
                    wrong.append(f"{path.name}: no record")
        except Exception as error:
            wrong.append(f"{path.name}: {error}")
    return wrong


def victim(name: str, root: Path, number: int, *words: str) -> Command:
    return (sys.executable, "-m", "tests.kill.victims", name, str(root), str(number), *words)


def _make_out(root: Path) -> None:
    (root / "out").mkdir()


def _make_photos(root: Path) -> None:
    make_photos(root / "photos", PHOTOS)


def _img2img(root: Path) -> Command:
    photo = str(ROOT / "docs" / "pictures" / "scribble.png")
    return (LCM, "img2img", photo, "a lake", "-o", str(root / "out" / "image.png"), *QUICK)


def _batch(root: Path) -> Command:
    folders = (str(root / "photos"), "a lake", "-o", str(root / "out"))
    return (LCM, "batch", *folders, "--workers", "2", *QUICK)


def _half_stages(root: Path) -> list[str]:
    """model.onnx moves last: where it is, all of its build is there."""
    folder = root / "out" / "bundle"
    parts = [folder / "unet" / name for name in PARTS]
    groups = [parts] if parts[-1].exists() else []
    if (folder / "tokenizer").exists():
        groups.append([folder / "tokenizer" / name for name in TOKENIZER])
    wrong = []
    for group in groups:
        found = [path.read_bytes() if path.exists() else b"" for path in group]
        if len(set(found)) != 1 or len(found[0]) != PART_BYTES:
            wrong.append(f"{group[0].parent.name}: {[data[:8] for data in found]}")
    settings = folder / "lcm.toml"
    if settings.exists() and not settings.read_text().endswith("\n"):
        wrong.append("lcm.toml")
    return wrong


def _left_stages(root: Path) -> list[str]:
    folder = root / "out" / "bundle"
    return (
        names(folder, "unet", "tokenizer", "lcm.toml")
        + names(folder / "unet", *PARTS)
        + names(folder / "tokenizer", *TOKENIZER)
    )


def _copy_network(root: Path) -> None:
    shutil.copytree(TINY / "vae_decoder", root / "vae_decoder")
    _make_out(root)


def _half_entries(root: Path) -> list[str]:
    """The results of both processes, and of the next, are the same."""
    sums = {path.read_text() for path in (root / "out").glob("*.sum")}
    return [f"results {sorted(sums)}"] if len(sums) > 1 else []


def _left_entries(root: Path) -> list[str]:
    folder = root / "cache" / "onnx"
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    entries = [path for path in found if path.is_dir()]
    wrong = [path.name for path in found if path.suffix not in {"", ".lock", ".stamp"}]
    if len(entries) != 1:
        wrong.append(f"{len(entries)} folders in the cache: {[path.name for path in entries]}")
    wrong += [
        f"{entry.name} is no entry"
        for entry in entries
        if not {"model.onnx", "entry.json"} <= {path.name for path in entry.iterdir()}
    ]
    if not (root / "out" / "3.sum").exists():
        wrong.append("no result")
    return wrong


SCENARIOS = {
    "write": Scenario(
        _make_out,
        lambda root: [victim("write", root, 0)],
        lambda root: victim("write", root, 0, "--once"),
        lambda root: broken_images(root / "out"),
        lambda root: names(root / "out", "image.png"),
        ("group",), True, 0.5, 20,
    ),
    "img2img": Scenario(
        _make_out,
        lambda root: [_img2img(root)],
        _img2img,
        lambda root: broken_images(root / "out"),
        lambda root: names(root / "out", "image.png"),
        ("group",), False, 0, 12,
    ),
    "batch": Scenario(
        _make_photos,
        lambda root: [_batch(root)],
        _batch,
        lambda root: broken_images(root / "out"),
        lambda root: names(root / "out", *[f"photo{n:02}.png" for n in range(PHOTOS)]),
        ("process", "child", "group"), False, 0, 34,
    ),
    "cache": Scenario(
        _copy_network,
        lambda root: [victim("cache", root, 1), victim("cache", root, 2)],
        lambda root: victim("cache", root, 3),
        _half_entries,
        _left_entries,
        ("group",), True, 0.5, 20,
    ),
    "stage": Scenario(
        _make_out,
        lambda root: [victim("stage", root, 0)],
        lambda root: victim("stage", root, 0, "--once"),
        _half_stages,
        _left_stages,
        ("group",), True, 0.3, 14,
    ),
}  # fmt: skip


def environment(root: Path) -> dict[str, str]:
    """Of the processes: everything that they might leave lies below `root`."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("LCM_")}
    return {
        **kept, "LCM_CACHE": str(root / "cache"), "TMPDIR": str(root / "tmp"),
        "HOME": str(root / "home"), "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1",
    }  # fmt: skip

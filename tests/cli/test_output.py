"""`-o`: what lcmcore did not write is never overwritten, the init image least of all."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lcmcore.cli.main import main
from lcmcore.png import encode_png, is_ours, read_record
from tests.parity.bundles import TINY

SMALL = ["--size=64x64", "--steps=1", "--seed=7", "--threads=1", "-q"]
OURS = encode_png(Image.new("RGB", (8, 8)), {"Software": "lcmcore 0.1.0", "prompt": "a lake"})
ANOTHER = "already exists and was not written by lcmcore: choose another name, or move it away"
INIT = "is the init image, which would be lost: choose another name"


@pytest.fixture(autouse=True)
def at_home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LCM_MODEL", str(TINY / "lcm"))


def snapshot():
    """Everything in the folder: links by their target, files by their content."""
    return {
        path: path.readlink() if path.is_symlink() else path.is_file() and path.read_bytes()
        for path in Path().rglob("*")
    }


@pytest.fixture
def refused(capfd, monkeypatch):
    """Run a command that must fail with those words before any work, and change nothing."""

    def run(words, *arguments):
        with monkeypatch.context() as patch:
            patch.setattr("lcmcore.cli.generate.open_pipeline", lambda args: pytest.fail("work"))
            patch.setattr("lcmcore.jobs.job.read_image", lambda path: pytest.fail("work"))
            before = snapshot()
            assert main([str(each) for each in arguments]) == 1
            assert capfd.readouterr() == ("", f"lcm: error: {words}\n")
            assert snapshot() == before

    return run


def link(path, target):
    Path(path).symlink_to(target)
    return path


def hard_link(path, target):
    Path(path).hardlink_to(target)
    return path


NAMES = {
    "itself": lambda: "photo.png",
    "a dot": lambda: "./photo.png",
    "a longer path": lambda: f"../{Path.cwd().name}/photo.png",
    "absolute": lambda: Path.cwd() / "photo.png",
    "a link": lambda: link("link.png", "photo.png"),
    "a link to a link": lambda: link("second.png", link("link.png", "photo.png")),
    "a linked folder": lambda: Path(link("here", ".")) / "photo.png",
    "a hard link": lambda: hard_link("hard.png", "photo.png"),
}


@pytest.mark.parametrize("ours", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_the_init_image_is_not_overwritten(name, ours, photo_file, refused):
    """Not even where lcmcore made it."""
    if ours:
        photo_file.write_bytes(OURS)
    output = NAMES[name]()
    refused(f"{Path(output)} {INIT}", "img2img", "photo.png", "a lake", "-o", output, *SMALL)


def test_the_mask_is_not_overwritten(photo_file, refused):
    Path("mask.png").write_bytes(OURS)
    words = "mask.png is the mask, which would be lost: choose another name"
    refused(words, "img2img", "photo.png", "a", "--mask=mask.png", "-o", "mask.png", *SMALL)


def test_the_init_image_by_another_name_of_its_own(photo_file, refused):
    link("link.png", "photo.png")
    refused(f"photo.png {INIT}", "img2img", "link.png", "a lake", "-o", "photo.png", *SMALL)


def test_the_init_image_from_stdin(photo_file, refused, monkeypatch):
    """/dev/stdin is the file that the shell opened."""
    with photo_file.open("rb") as file:
        link("stdin", f"/proc/self/fd/{file.fileno()}")
        refused(f"photo.png {INIT}", "img2img", "stdin", "a lake", "-o", "photo.png", *SMALL)


def write_photo(path):
    Image.new("RGB", (8, 8), "red").save(path, "PNG")


FILES = {
    "another PNG": write_photo,
    "a JPEG": lambda path: Image.new("RGB", (8, 8)).save(path, "JPEG"),
    "text": lambda path: path.write_text("Dear diary,"),
    "empty": lambda path: path.touch(),
    "a FIFO": os.mkfifo,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a loop": lambda path: path.symlink_to("out.png"),
    "a link to another PNG": lambda path: (
        write_photo(path.with_name("other")),
        path.symlink_to("other"),
    ),
    "a hard link to another PNG": lambda path: (
        write_photo(path.with_name("other")),
        path.hardlink_to("other"),
    ),
}


@pytest.mark.parametrize("kind", FILES)
def test_what_lcmcore_did_not_write_is_not_overwritten(kind, photo_file, refused):
    FILES[kind](Path("out.png"))
    refused(f"out.png {ANOTHER}", "txt2img", "a lake", "-o", "out.png", *SMALL)
    refused(f"out.png {ANOTHER}", "img2img", photo_file, "a lake", "-o", "out.png", *SMALL)


def test_a_link_to_nothing_makes_no_file(refused):
    link("out.png", "nothing.png")
    words = (
        f"out.png is a link to {Path.cwd() / 'nothing.png'}, where nothing is: remove it, or choose"
        " another name"
    )
    refused(words, "txt2img", "a lake", "-o", "out.png", *SMALL)


def test_a_link_into_a_folder_that_is_not_there(refused):
    link("out.png", "folder/nothing.png")
    words = (
        f"out.png is a link to {Path.cwd() / 'folder/nothing.png'}, where nothing is: remove it, or"
        " choose another name"
    )
    refused(words, "txt2img", "a lake", "-o", "out.png", *SMALL)


def test_a_link_to_a_folder(refused):
    Path("folder").mkdir()
    link("out.png", "folder")
    words = f"{Path.cwd() / 'folder'} is a folder: give the name of a file"
    refused(words, "txt2img", "a lake", "-o", "out.png", *SMALL)


def assert_replaced(path):
    assert read_record(path)["seed"] == "7"
    with Image.open(path) as image:
        assert np.asarray(image).shape == (64, 64, 3)


def test_an_image_of_ours_is_replaced():
    Path("out.png").write_bytes(OURS)
    assert main(["txt2img", "a lake", "-o", "out.png", *SMALL]) == 0
    assert_replaced(Path("out.png"))
    assert [*Path().iterdir()] == [Path("out.png")]


def test_also_one_that_was_cut_off():
    Path("out.png").write_bytes(OURS[:-30])
    assert main(["txt2img", "a lake", "-o", "out.png", *SMALL]) == 0
    assert_replaced(Path("out.png"))


def test_through_a_link_the_image_of_ours_is_replaced_in_its_own_folder():
    Path("folder").mkdir()
    Path("folder/real").write_bytes(OURS)
    link("out.png", link("link", "folder/real"))
    before = Path("folder/real").stat().st_ino
    assert main(["txt2img", "a lake", "-o", "out.png", *SMALL]) == 0
    assert Path("out.png").readlink() == Path("link")
    assert Path("link").readlink() == Path("folder/real")
    assert_replaced(Path("folder/real"))
    assert Path("folder/real").stat().st_ino != before  # renamed to it when it was whole
    assert sorted(Path().rglob("*")) == [
        Path(p) for p in ("folder", "folder/real", "link", "out.png")
    ]


def test_a_hard_link_keeps_the_old_image():
    Path("other").write_bytes(OURS)
    hard_link("out.png", "other")
    assert main(["txt2img", "a lake", "-o", "out.png", *SMALL]) == 0
    assert_replaced(Path("out.png"))
    assert Path("other").read_bytes() == OURS


@pytest.mark.parametrize("init", [False, True])
def test_it_is_looked_at_again_when_the_image_is_done(init, photo_file, capfd, monkeypatch):
    """Meanwhile another program wrote to that name, or linked it to the init image."""

    def encode(image, record):
        if init:
            link("out.png", "photo.png")
        else:
            write_photo("out.png")
        return encode_png(image, record)

    before = photo_file.read_bytes()
    monkeypatch.setattr("lcmcore.cli.output.encode_png", encode)
    assert main(["img2img", "photo.png", "a lake", "-o", "out.png", *SMALL]) == 1
    assert capfd.readouterr().err == f"lcm: error: out.png {INIT if init else ANOTHER}\n"
    assert not is_ours(Path("out.png"))
    assert photo_file.read_bytes() == before


def test_a_copy_of_the_init_image_is_another_file(photo_file):
    """What counts is the file, not its content; this one is ours."""
    photo_file.write_bytes(OURS)
    shutil.copy("photo.png", "out.png")
    assert main(["img2img", "photo.png", "a lake", "-o", "out.png", *SMALL]) == 0
    assert_replaced(Path("out.png"))
    assert photo_file.read_bytes() == OURS

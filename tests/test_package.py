"""What the installed package's metadata says to pip and to a package index."""

import re
from importlib.metadata import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from runtimes.rknn.toolkit import PACKAGE

ROOT = Path(__file__).parents[1]
DESCRIPTION = metadata("lcmcore").get_payload() or metadata("lcmcore")["Description"]
LINK = re.compile(r"""(?:\]\(|src=["']|href=["']|^\[[^\]]+\]:\s*)([^)"'\s]+)""", re.M)
IMAGE = re.compile(r"""(?:!\[[^\]]*\]\(|src=["'])([^)"'\s]+)""")


def is_absolute(link):
    return link.startswith(("https://", "#"))


@pytest.mark.parametrize(
    "text", ["![a](b.png)", "[a](b)", "[![a](https://c)](b)", "<img src='b'>", "[a]\n\n[a]: b"]
)
def test_relative_links_are_found(text):
    assert not all(map(is_absolute, LINK.findall(text)))


def test_description_stands_alone():
    """An index shows the README without the files beside it."""
    links = LINK.findall(DESCRIPTION)
    assert len(links) > 10
    assert [*filter(is_absolute, links)] == links


def test_images_are_linked_as_files():
    images = IMAGE.findall(DESCRIPTION)
    assert images
    assert not [image for image in images if "/blob/" in image]


@pytest.mark.parametrize(
    ("machine", "version", "installs"),
    [("aarch64", "3.12", True), ("aarch64", "3.13", False), ("x86_64", "3.12", False)],
)
def test_rockchips_package_is_asked_for_where_there_is_one(machine, version, installs):
    requirements = map(Requirement, metadata("lcmcore").get_all("Requires-Dist"))
    (toolkit,) = [each for each in requirements if each.name == "rknn-toolkit-lite2"]
    here = {"platform_machine": machine, "python_version": version, "extra": "rknn"}
    assert toolkit.marker.evaluate(here) is installs


def test_the_converter_is_pinned_in_one_place():
    """rknn-toolkit2 is not among its own needs' pins, for pip would install torch with it."""
    requirements = map(Requirement, metadata("lcmcore").get_all("Requires-Dist"))
    extra = {"extra": "rknn-build"}
    pins = {
        each.name: str(each.specifier)
        for each in requirements
        if each.marker and each.marker.evaluate(extra) and not each.marker.evaluate({"extra": ""})
    }
    assert pins["onnx"] == "==1.18.0"  # 1.19 breaks rknn-toolkit2 2.5.0
    assert "rknn-toolkit2" not in pins
    assert re.fullmatch(r"rknn-toolkit2==\d+\.\d+\.\d+", PACKAGE)
    others = [ROOT / "Makefile", *(ROOT / "tests").rglob("*.txt"), ROOT / ".ci" / "run"]
    assert [path for path in others if PACKAGE in path.read_text()] == []


def test_no_python_is_too_new():
    assert metadata("lcmcore")["Requires-Python"] == ">=3.10"

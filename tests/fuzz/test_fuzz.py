"""The suite finds what is planted, and nothing in lcmcore; `make fuzz` runs longer."""

import random
import re

import pytest

from tests.fuzz import regressions, seeds
from tests.fuzz.items import Link, read, write
from tests.fuzz.mutate import mutate, png_chunks
from tests.fuzz.planted import FAULTS
from tests.fuzz.run import lines, replay, run_target, signature
from tests.fuzz.targets import TARGETS

# Starts many processes, whose memory and time are measured: an emulator has its own.
pytestmark = pytest.mark.host


@pytest.mark.slow
def test_every_planted_fault_is_found_and_kept(tmp_path):
    outcome = run_target("planted", tmp_path, count=0, max_seconds=2, patience=15)
    assert outcome.items == len(FAULTS)
    found = {}
    for reason, folder in outcome.failures:
        found[read(folder)["order"].decode()] = reason
        assert folder.with_suffix(".txt").read_text() == reason
    wanted = {name for name, reason in FAULTS.items() if reason}
    assert set(found) == wanted, found
    for name, reason in found.items():
        assert re.search(FAULTS[name], reason), (name, reason)
    folders = {read(folder)["order"].decode(): folder for _, folder in outcome.failures}
    assert replay("planted", folders["raises"]).startswith("KeyError: 'x'")
    assert "ended with -6" in replay("planted", folders["crashes"])
    write({"order": b"fine"}, tmp_path / "fine")
    assert replay("planted", tmp_path / "fine") is None


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_nothing_is_found(target, tmp_path):
    """The seeds, what failed once, and a few new items."""
    outcome = run_target(target, tmp_path / "kept", count=20, generated=20)
    fixed = len(TARGETS[target].seeds()) if target != "cache-entry" else 1
    assert outcome.items >= fixed + len(regressions.of(target)) + 20
    for _, folder in outcome.failures:  # tmp_path is kept where a test fails
        assert folder.is_dir()
    assert not outcome.failures, "\n".join(lines([outcome]))


def test_a_number_brings_the_same_item_again():
    items = [mutate(seeds.jobs(), random.Random(n)) for n in range(100)]
    assert items == [mutate(seeds.jobs(), random.Random(n)) for n in range(100)]
    assert sum(item == seeds.jobs()[0] for item in items) < 10
    assert len({str(sorted(item.items())) for item in items}) > 80


def test_links_are_put_in_only_where_they_are_wanted():
    def links(wanted):
        items = [mutate(seeds.bundles(), random.Random(n), wanted) for n in range(300)]
        return sum(isinstance(each, Link) for item in items for each in item.values())

    assert links(True) > 0
    assert links(False) == 0


def test_structured_formats_stay_whole_more_often_than_not():
    """Else nothing behind the first check of a length or a checksum would be reached."""

    def whole(content):
        try:
            chunks = list(png_chunks(content))
        except ValueError:
            return False
        return content.startswith(b"\x89PNG") and chunks[-1:] == [(b"IEND", b"")]

    pngs = seeds.records()[:3]  # the others are JPEGs and WebPs
    items = [mutate(pngs, random.Random(n), False) for n in range(200)]
    images = [content for item in items for content in item.values()]
    assert sum(map(whole, images)) > 80
    items = [mutate(seeds.rknn_files(), random.Random(n), False) for n in range(100)]
    files = [content for item in items for content in item.values()]

    def fits(data):
        start = 64 + int.from_bytes(data[16:24], "little")
        return start + 8 + int.from_bytes(data[start : start + 8], "little") == len(data)

    assert sum(map(fits, files)) > 40


def test_an_item_is_written_and_read_again(tmp_path):
    item = {"a/b": b"\0\xff", "c": Link("/nowhere"), "d": b""}
    write({"old": b"x"}, tmp_path / "item")
    write(item, tmp_path / "item")
    assert read(tmp_path / "item") == item


def test_failures_are_told_apart_by_where_they_come_from():
    """Numbers and names in a message do not make another failure of it."""
    first = 'ValueError: 7\n  File "/x/lcmcore/a.py", line 3, in f\n    x\n'
    assert signature(first) == signature(first.replace("7", "8"))
    assert signature(first) != signature(first.replace("in f", "in g"))
    assert signature(first) != signature(first.replace("Value", "Type"))
